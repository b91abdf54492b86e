"""The search, held to simulated losses of which everything is known."""
