# `make train PROMPT="a red mushroom"` and `make test` set everything up on first use.

PYTHON ?= python3
VENV ?= .venv
PROMPT ?= a red mushroom
# More options for `sjc-fast train`, e.g. ARGS="--steps 200 --seed 1"; and for pip, e.g. PIP_ARGS="--index-url ...".
ARGS ?=
PIP_ARGS ?=

BIN := $(VENV)/bin
export PROMPT

.PHONY: help setup train test test-fast test-gpu-code test-triton test-fakecuda lint format sanitize benchmark wheel clean

help:
	@echo 'make train PROMPT="a red mushroom"   make a 3D object'
	@echo 'make test                            linter and types, then every test'
	@echo 'make test-fast                       some tests of every room, in under two minutes'
	@echo 'make test-gpu-code                    the kernels as compiled for a GPU, executed without one'
	@echo 'make test-triton                      the kernels as the oldest Triton that is allowed compiles them'
	@echo 'make test-fakecuda                   PyTorch on a CUDA runtime without a device: captures, launches, memory'
	@echo 'make sanitize                        the tests of the C++ code, with sanitizers'
	@echo 'make benchmark                       pytest-benchmark timings'
	@echo 'make wheel                           build dist/*.whl'

setup: $(VENV)/.ready

$(VENV)/.ready: setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "SJC-Fast needs Python 3.10 or later: make PYTHON=python3.11"; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' || { echo "this Python lacks venv: install it (Debian: apt install python3-venv)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt torch==2.13.0 -e ".[dev]"
	$(BIN)/python -m sjc_fast.kernels.native
	@touch $@

train: setup
	@$(BIN)/sjc-fast train --prompt "$$PROMPT" $(ARGS)

CPP := kernels/csrc/* tests/fakecuda/*.cpp

# The link shows sjc_fast.kernels, which lies in kernels/, to tools that only read.
lint: setup
	@ln -sfn ../kernels sjc_fast/kernels
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(CPP)
	$(BIN)/pyright --pythonpath $(BIN)/python

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal

test: lint
	$(PYTEST)

test-fast: setup
	$(PYTEST) -m "not slow and not browser"

# The tests of the kernels and of the step on what Triton compiles for a GPU, its PTX executed by tests/ptx.
# Some of them: SELECT='-m "not slow"'.
SELECT ?=
EMULATE = $(PYTEST) --emulate tests/kernels tests/training/test_steps.py tests/training/test_trainer.py -k "not cpu and not native and not noise" $(SELECT)
test-gpu-code: setup
	$(EMULATE)

# Compiled for every architecture, by another Triton than the one in use; needs no GPU.
TRITON ?= 3.6.0
test-triton: setup
	[ -e $(VENV)/triton-$(TRITON) ] || $(PYTHON) -m venv $(VENV)/triton-$(TRITON)
	$(VENV)/triton-$(TRITON)/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt torch==2.13.0 triton==$(TRITON) numpy
	SJC_BINARIES_PYTHON=$(VENV)/triton-$(TRITON)/bin/python SJC_BINARIES_ARCHS="75 80 86 89 90 100 120" \
	$(BIN)/python -m pytest tests/benchmarks/test_binaries.py

# PyTorch's CUDA code on a CUDA runtime without a device. FAKE_VENV names a virtual environment with torch 2.11 for CUDA 13
# and the project's other requirements; without it one is made, of about 5 GB. ARGS: --only SCENARIOS, --save.
FAKE_VENV ?=
test-fakecuda: $(if $(FAKE_VENV),,.fakecuda/.ready)
	$(or $(FAKE_VENV),.fakecuda/venv)/bin/python -m tests.fakecuda $(ARGS)

.fakecuda/.ready: setup.py constraints.txt
	$(PYTHON) -m venv .fakecuda/venv
	grep -v '^torch==' constraints.txt > .fakecuda/constraints.txt
	.fakecuda/venv/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c .fakecuda/constraints.txt torch==2.11.0 -e .
	@touch $@

# The C++ code built with address and undefined-behavior sanitizers, through all the tests that run it.
sanitize: setup
	SJC_FAST_CXXFLAGS="-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all" \
	LD_PRELOAD="$$($${CXX:-c++} -print-file-name=libasan.so) $$($${CXX:-c++} -print-file-name=libstdc++.so)" \
	ASAN_OPTIONS=detect_leaks=0:protect_shadow_gap=0 OMP_WAIT_POLICY=passive \
	$(BIN)/python -m pytest tests/kernels -k "(cpu or native) and not build and not portable and not compile and not opcheck"

benchmark: setup
	$(BIN)/python -m pytest benchmarks --benchmark-only --benchmark-json=benchmarks/results/pytest.json

wheel: setup
	rm -rf build dist
	$(BIN)/python -m build --wheel --outdir dist .

clean:
	rm -rf $(VENV) .fakecuda build dist *.egg-info .pytest_cache .ruff_cache
