.PHONY: check format lint types test test-slow test-peers

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

test-peers:
	python -m pytest -m peers tests/peers
