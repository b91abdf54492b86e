"""What a policy is worth: samples, rewards, win rate, KL to the reference, and how sure that is."""
