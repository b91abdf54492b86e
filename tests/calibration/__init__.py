"""Do the intervals hold the truth as often as they say? Simulations in which the truth is known.

``python -m tests.calibration`` runs them at length and writes `reports/calibration/README.md`.
"""
