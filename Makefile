.PHONY: check format lint types test test-slow bench

check: format lint types test

format:
	ruff format --check .

lint:
	ruff check .

types:
	mypy

test:
	python -m pytest -n 2

test-slow:
	python -m pytest -m slow

bench:
	python -m pytest tests/benchmarks --benchmark-enable --benchmark-only
