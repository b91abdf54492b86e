"""What a search for strengths costs beside a grid of given ones, on simulated losses.

``python -m benchmarks.search`` runs it and writes `reports/search`.
"""
