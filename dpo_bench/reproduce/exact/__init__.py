"""Experiments that need no model: bandits and closed forms, seconds on a CPU."""
