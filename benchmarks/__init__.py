"""Programs that measure and check the project, run by hand: ``python -m benchmarks.NAME``."""
