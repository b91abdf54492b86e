"""Models: where they come from, their per-token log-probs, their samples."""
