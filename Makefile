# `make train PROMPT="a red mushroom"` and `make test` set everything up on first use.

PYTHON ?= python3
VENV ?= .venv
PROMPT ?= a red mushroom
# More options for `sjc-fast train`, e.g. ARGS="--steps 200 --seed 1"; and for pip, e.g. PIP_ARGS="--index-url ...".
ARGS ?=
PIP_ARGS ?=

BIN := $(VENV)/bin
export PROMPT

.PHONY: help setup train test lint format benchmark wheel clean

help:
	@echo 'make train PROMPT="a red mushroom"   make a 3D object'
	@echo 'make test                            linter, then every test'
	@echo 'make benchmark                       pytest-benchmark timings'
	@echo 'make wheel                           build dist/*.whl'

setup: $(VENV)/.ready

$(VENV)/.ready: setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "SJC-Fast needs Python 3.10 or later: make PYTHON=python3.11"; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' || { echo "this Python lacks venv: install it (Debian: apt install python3-venv)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt torch==2.13.0 -e ".[dev]"
	@touch $@

train: setup
	@$(BIN)/sjc-fast train --prompt "$$PROMPT" $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: lint
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal

benchmark: setup
	$(BIN)/python -m pytest benchmarks --benchmark-only --benchmark-json=benchmarks/results/pytest.json

wheel: setup
	rm -rf build dist
	$(BIN)/python -m build --wheel --outdir dist .

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache
