# `make run` and `make test` set up everything they need in .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test lint slow gallery clean setup
.DELETE_ON_ERROR:

run: setup
	$(BIN)/lntrain

test: lint
	$(BIN)/pytest -m "not slow" -q -n auto

slow: setup
	$(BIN)/pytest -m slow -q -n auto

gallery: setup
	$(BIN)/lntrain-gallery $(if $(SEED),--seed $(SEED))

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

setup: .venv/ready

.venv/ready: setup.cfg pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
