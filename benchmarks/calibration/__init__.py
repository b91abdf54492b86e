"""Do the intervals hold the truth as often as they say? Simulations in which the truth is known.

``python -m benchmarks.calibration`` runs them at length and writes `reports/calibration/README.md`.
"""
