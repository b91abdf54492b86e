"""Judges, reward models and reward functions that misbehave, through the program.

``python -m benchmarks.rewards`` writes ``reports/rewards``.
"""
