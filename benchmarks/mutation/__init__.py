"""Do the tests notice when the code changes? A sample of small changes, each against the tests.

``python -m benchmarks.mutation`` runs it and writes `reports/mutation/`. The changes are those of
cosmic-ray (the extra `mutation`).
"""
