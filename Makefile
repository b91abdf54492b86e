.PHONY: check format lint types test test-slow test-peers test-ray bench mutants

check: format lint types test

format:
	ruff format --check .

lint:
	ruff check .

types:
	mypy

test:
	python -m pytest -n 2 --dist worksteal

test-slow:
	python -m pytest -m slow

mutants:
	python -m benchmarks.mutation

test-peers:
	python -m pytest -m peers tests/peers

test-ray:
	python -m pytest -m ray tests/cli

bench:
	python -m pytest benchmarks/test_hot_pieces.py --benchmark-enable --benchmark-only \
	  --benchmark-storage=reports/speed/hot-pieces --benchmark-compare $(BENCH)
