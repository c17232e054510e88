# `make train` and `make test` need nothing but Python 3.11 or newer; everything is installed into .venv.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check

# Set, it makes DeepSpeed compile an extension on machines without a GPU; no compiler should be needed.
unexport LOCAL_SIZE

.DEFAULT_GOAL := help
.PHONY: help train test test-long verify lint format clean

help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

train: .venv/installed ## Train a small model on this machine: eight ranks, dp=2 tp=2 pp=2, no GPU needed
	@$(BIN)/foretrain prepare --stdlib --out data/stdlib --reuse
	@$(BIN)/foretrain launch configs/runs/dry_run.yaml

# In the order of tests/conftest.py, which begins with those that wait: xdist would begin with the longest lists.
PYTEST := $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations 25

test: lint ## Check style and types, then run the tests (minutes)
	@$(PYTEST) -m "not long"

test-long: .venv/installed-dev ## Run the long tests: life-times of clusters, all layouts, planted bugs, fuzzing
	@$(PYTEST) -m long

verify: .venv/installed ## Check that every layout up to 4 processes has one curve (tens of minutes), and record it
	@$(BIN)/foretrain verify runs/dry_run --precision both --out benchmarks/results/verify_dry_run.jsonl
	@$(BIN)/foretrain verify runs/gpt2_124m_a100 --precision both --out benchmarks/results/verify_gpt2.jsonl

lint: .venv/installed-dev ## Check style, words, imports between rooms, and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/python -m tests.lint.words
	@report=$$($(BIN)/lint-imports --no-logo) || { echo "$$report" >&2; exit 1; }
	@$(BIN)/mypy

format: .venv/installed-dev ## Format the code and mend what ruff can mend
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean: ## Delete the environment, builds and caches; data/ and runs/ stay
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "foretrain needs Python 3.11 or newer, and '$(PYTHON)' is not: try 'make PYTHON=python3.11'" >&2; exit 1; }
	@$(PYTHON) -m venv .venv

# Stamps: pip runs again only when the dependencies change, or when there is a new top-level package (an editable install
# lists them). They are touched last, so a failed install is tried again.
INSTALL_INPUTS := pyproject.toml $(wildcard */__init__.py)

.venv/installed: $(INSTALL_INPUTS) | .venv/bin/python
	@echo "Installing foretrain into .venv (minutes the first time) ..."
	@$(PIP) --editable .
	@touch $@

.venv/installed-dev: $(INSTALL_INPUTS) | .venv/bin/python
	@echo "Installing foretrain and its development tools into .venv (minutes the first time) ..."
	@$(PIP) --editable '.[dev]'
	@$(PIP) --no-deps 'mup>=1,<2'  # a judge of ours; of its dependencies the tests need none, and torchvision would have to fit torch
	@touch $@
