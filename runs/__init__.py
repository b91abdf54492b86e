"""Experiment files that travel with the package."""
