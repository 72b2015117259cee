# `make demo` and `make test` work on a fresh clone with make and Python 3.11+ (with venv): they create ./.venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH := 2.13.0
PIP := $(BIN)/python -m pip --disable-pip-version-check install -q

.PHONY: help setup demo test check fast test-slow test-vllm test-kernels attacks attacks-user perf clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

setup: $(VENV)/.ready ## ./.venv with everything for demo and tests

$(VENV)/.ready: pyproject.toml
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed; this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) -U pip
	$(BIN)/python -c 'import torch' 2>/dev/null || $(MAKE) --no-print-directory torch
	$(PIP) -e '.[local,data,dev]'
	touch $@

.PHONY: torch
torch: # the CPU build where there is no GPU: the default one carries gigabytes of CUDA
	@if command -v nvidia-smi >/dev/null 2>&1; then $(PIP) torch; else \
	  $(PIP) torch==$(TORCH)+cpu 2>/dev/null \
	  || $(PIP) torch==$(TORCH)+cpu --extra-index-url https://download.pytorch.org/whl/cpu --retries 1 2>/dev/null \
	  || $(PIP) torch==$(TORCH); fi

demo: setup ## the main job on the shipped model and a sample image
	$(BIN)/codevision ask "What is written on the label?" notebooks/label.png -o demo.ipynb --force

test: setup check fast ## lint, types and the fast tests

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fast: setup
	$(BIN)/python -m pytest -q

test-slow: setup ## tests that take minutes
	$(BIN)/python -m pytest -q -m slow

test-vllm: setup ## a real vLLM server on this machine, in its own environment
	PYTHON=$(PYTHON) tests/vllm/make_env.sh
	$(BIN)/python -m pytest -q -m vllm tests/vllm

test-kernels: setup bubblewrap ## isolation, attacks, faults; the demo with and without bubblewrap
	$(BIN)/codevision ask "What is written on the label?" notebooks/label.png -o demo.ipynb --force --isolation strong --namespaces bubblewrap
	$(BIN)/codevision ask "What is written on the label?" notebooks/label.png -o demo.ipynb --force --isolation strong --namespaces own
	$(BIN)/python -m pytest -q -n 2 --dist loadgroup -m 'kernels and not slow' tests
	test "$$(id -u)" != 0 || $(MAKE) --no-print-directory attacks-user PROFILES="--profile strong-fork --profile strong-bubblewrap --profile medium-fork"
	test -x .venv-ipykernel6/bin/python || $(PYTHON) -m venv .venv-ipykernel6
	.venv-ipykernel6/bin/python -m pip --disable-pip-version-check install -q 'ipykernel==6.31.*' pytest pytest-asyncio -e .
	.venv-ipykernel6/bin/python -m pytest -q -m 'kernels or not kernels' tests/session/test_session.py tests/provisioners/test_session_forked.py

.PHONY: bubblewrap
bubblewrap: # the tests try the sandbox that it makes as well
	@command -v bwrap >/dev/null || { test "$$(id -u)" = 0 && apt-get update -qq && apt-get install -y -qq bubblewrap; } \
	  || { echo "bubblewrap is missing: install it (apt install bubblewrap)"; exit 1; }

attacks: setup ## every attack, also the long ones; rewrites the table in docs/isolation.md
	$(BIN)/python -m perf.attacks --json perf-attacks.json --table

USER_PYTHON ?= /usr/bin/python3
USER_VENV := /var/tmp/codevision-user-venv
AS_USER ?= nobody

attacks-user: ## the same as an ordinary user, with an environment that everybody may read; needs root
	test -x $(USER_VENV)/bin/python || $(USER_PYTHON) -m venv $(USER_VENV)
	$(USER_VENV)/bin/python -m pip --disable-pip-version-check install -q .
	chmod -R go+rX $(USER_VENV)
	$(USER_VENV)/bin/python -m perf.attacks --json perf-attacks-user.json --as-user $(AS_USER) --python $(USER_VENV)/bin/python $(PROFILES)

perf: setup ## speed and memory, as ratios measured in one run
	$(BIN)/python -m perf.steps --json perf-steps.json
	$(BIN)/python -m perf.kernels --json perf-kernels.json
	$(BIN)/python -m perf.operations --json perf-operations.json
	$(BIN)/python -m perf.rewards --json perf-rewards.json

clean: ## remove environments and caches
	rm -rf $(VENV) .venv-vllm .venv-ipykernel6 .mypy_cache .ruff_cache .pytest_cache demo.ipynb demo.codevision perf-*.json
