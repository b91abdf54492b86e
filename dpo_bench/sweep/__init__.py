"""Sweeps: what is to be done, who does it, where it is kept."""
