# All targets need only Python 3.11 or newer; everything is installed into .venv.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check

# If LOCAL_SIZE is set, DeepSpeed compiles an extension on machines without a GPU, which needs a compiler.
unexport LOCAL_SIZE

.DEFAULT_GOAL := help
.PHONY: help setup train test test-long verify gpu lint format clean

help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/installed-dev ## Install foretrain, its development tools and the git hooks
	@! git rev-parse --git-dir >/dev/null 2>&1 || $(BIN)/pre-commit install

train: .venv/installed ## Train a small model on this machine: eight ranks, dp=2 tp=2 pp=2, no GPU needed
	@$(BIN)/foretrain prepare --stdlib --out data/stdlib --reuse
	@$(BIN)/foretrain launch configs/runs/dry_run.yaml

# The order is that of tests/conftest.py, in which the tests that wait for a cluster are first.
PYTEST := $(BIN)/python -m pytest --dist loadfile --no-loadscope-reorder

test: lint ## Run the checks of `make lint`, then the quick tests (minutes)
	@$(PYTEST) --numprocesses 2 --durations 25 -m "not long"

test-long: .venv/installed-dev ## Run the long tests: lifetimes of clusters, all layouts, planted bugs, fuzzing
	@# Three for two cores: many of them wait, for a cluster or until a hang is certain.
	@$(PYTEST) --numprocesses 3 --durations 60 -m long

verify: .venv/installed ## Check that all layouts up to 4 processes have one curve, and record it (tens of minutes)
	@$(BIN)/foretrain verify runs/dry_run --precision both --out benchmarks/results/verify_dry_run.jsonl
	@$(BIN)/foretrain verify runs/gpt2_124m_a100 --precision both --out benchmarks/results/verify_gpt2.jsonl

gpu: .venv/installed ## Check and measure foretrain on the GPUs of this machine, 1 to 8 of them (ten minutes)
	@$(BIN)/python -m benchmarks.gpu

lint: .venv/installed-dev ## Check style, words, imports between rooms, and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/python -m tests.lint.words
	@report=$$($(BIN)/lint-imports --no-logo) || { echo "$$report" >&2; exit 1; }
	@# Its workers give up if they do not start within 3 seconds, as on a busy machine.
	@$(BIN)/mypy --num-workers 2 >/dev/null 2>&1 || $(BIN)/mypy

format: .venv/installed-dev ## Format the code, and fix what ruff can fix
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean: ## Delete the environment, builds and caches; data/ and runs/ stay
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "foretrain needs Python 3.11 or newer, and '$(PYTHON)' is not: try 'make PYTHON=python3.11'" >&2; exit 1; }
	@$(PYTHON) -m venv .venv

# Stamp files: pip runs again only if pyproject.toml has changed. They are touched last, so a failed install is repeated.
.venv/installed: pyproject.toml | .venv/bin/python
	@echo "Installing foretrain into .venv (minutes the first time) ..."
	@$(PIP) --editable .
	@touch $@

.venv/installed-dev: pyproject.toml | .venv/bin/python
	@echo "Installing foretrain and its development tools into .venv (minutes the first time) ..."
	@$(PIP) --editable '.[dev]'
	@$(PIP) --no-deps 'mup>=1,<2'  # tests compare with it; its dependencies, such as torchvision, are not needed
	@touch $@
