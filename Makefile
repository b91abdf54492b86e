.PHONY: check format lint types test test-slow test-peers test-ray bench mutants locks audit

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

# The versions that the tests pass with (after they have), and the lowest that are allowed.
locks:
	pip list --format freeze --exclude-editable --exclude pip --exclude setuptools \
	  > requirements/tested.txt
	uv pip compile pyproject.toml --extra dev --extra ray --python-version 3.11 \
	  --resolution lowest-direct --no-header --no-annotate --quiet \
	  --output-file requirements/lowest.txt

audit:
	pip-audit --requirement requirements/tested.txt --no-deps --disable-pip

mutants:
	python -m benchmarks.mutation

test-peers:
	python -m pytest -m peers tests/peers

test-ray:
	python -m pytest -m ray tests/cli

bench:
	python -m pytest benchmarks/test_hot_pieces.py --benchmark-enable --benchmark-only \
	  --benchmark-storage=reports/speed/hot-pieces --benchmark-compare $(BENCH)
