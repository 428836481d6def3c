# Each target makes the environment it needs and reuses it; see docs/development.md.
PYTHON ?= python3
ENGINE ?= vllm
PYTEST_ARGS ?=
REPORT ?= batching
REPORT_ARGS ?=

ENVIRONMENTS := $(PYTHON) scripts/environments.py
BIN := .venv/bin
export PROSERVE_ENGINE_PYTHON ?= $(CURDIR)/.venv-engine/bin/python

.DEFAULT_GOAL := help
.PHONY: help python .venv engine kubernetes demo test test-fast test-engine test-vllm-versions e2e coverage lint format docs lock bench report clean

help:
	@echo "make demo        two engines behind the gateway, fcfs against slide-batching and recoverable-gain (ENGINE=emulated: without vLLM)"
	@echo "make test        all tests, the ones on real vLLM included"
	@echo "make test-fast   unit and conformance tests"
	@echo "make test-engine tests on real vLLM only"
	@echo "make test-vllm-versions   the same on the other supported versions of vLLM"
	@echo "make e2e         the first hour in a real Kubernetes cluster: its own, or that of KUBECONFIG"
	@echo "make coverage    unit and conformance tests with a coverage report"
	@echo "make lint        ruff, mypy, import-linter        make format   apply ruff's fixes"
	@echo "make docs        the generated parts of docs/ and the CustomResourceDefinitions"
	@echo "make bench       benchmarks, each next to its target"
	@echo "make report      simulate all batching policies, docs/results (REPORT=blocks or routing: the others; REPORT_ARGS=\"--only 'h100/*'\")"
	@echo "make engine      only the environment with vLLM   make kubernetes  only the programs of a test cluster"
	@echo "make lock        pin dependencies anew"
	@echo "make clean       remove what these targets made in the clone"

python:
	@$(PYTHON) -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "proserve needs Python 3.11 or newer with venv and pip: make PYTHON=/path/to/python3.11" >&2; exit 1; }

.venv: python
	@$(ENVIRONMENTS) dev

engine: python
	@$(ENVIRONMENTS) engine

kubernetes: python
	@$(PYTHON) scripts/kubernetes_binaries.py

# Status 69: the engine cannot be installed here, the reason is already printed.
demo: .venv
	@engine=$(ENGINE); \
	if [ "$$engine" = vllm ]; then \
	  $(ENVIRONMENTS) engine || { status=$$?; [ $$status = 69 ] || exit $$status; \
	    echo "the demo runs on the emulator instead" >&2; engine=emulated; }; \
	fi; \
	$(BIN)/proserve demo --engine $$engine

# The engine environment has all that the other tests need, so that one run covers everything. Three workers keep two
# cores busy, because tests of a cluster and of an API server mostly wait.
test: .venv
	@python=$(PROSERVE_ENGINE_PYTHON); \
	$(ENVIRONMENTS) engine || { status=$$?; [ $$status = 69 ] && [ -z "$$PROSERVE_REQUIRE_ENGINE" ] || exit $$status; \
	  echo "tests that need the engine will be skipped" >&2; python=$(BIN)/python; }; \
	$(PYTHON) scripts/kubernetes_binaries.py >/dev/null || { status=$$?; \
	  [ $$status = 69 ] && [ -z "$$PROSERVE_REQUIRE_ENGINE" ] || exit $$status; \
	  echo "tests that need Kubernetes will be skipped" >&2; }; \
	$$python -m pytest -n 3 $(PYTEST_ARGS)

test-fast: .venv
	@$(BIN)/python -m pytest -n auto --maxprocesses 8 tests/unit tests/conformance $(PYTEST_ARGS)

test-engine: engine
	@PROSERVE_REQUIRE_ENGINE=1 $(PROSERVE_ENGINE_PYTHON) -m pytest tests/engine $(PYTEST_ARGS)

test-vllm-versions: engine
	@$(PYTHON) scripts/vllm_versions.py $(VLLM)

e2e: .venv kubernetes
	@PROSERVE_REQUIRE_ENGINE=1 $(BIN)/python -m pytest tests/cluster $(PYTEST_ARGS)

coverage: .venv
	@$(BIN)/python -m pytest tests/unit tests/conformance --cov --cov-report=term $(PYTEST_ARGS)

lint: .venv
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: .venv
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: .venv
	@$(BIN)/python scripts/generate_docs.py
	@$(BIN)/python scripts/generate_crds.py

lock: python
	@$(ENVIRONMENTS) lock
	@$(PYTHON) scripts/image_lock.py

bench: .venv engine
	@$(BIN)/proserve bench plan
	@$(BIN)/proserve bench route
	@$(BIN)/proserve bench gateway
	@$(BIN)/proserve bench polling
	@$(BIN)/proserve bench fidelity
	@$(BIN)/proserve bench fidelity --engine vllm
	@$(BIN)/proserve bench headroom
	@$(BIN)/proserve bench overload
	@$(BIN)/proserve bench kv
	@$(BIN)/proserve bench memory --steps 100000

report: .venv
	@$(BIN)/proserve report $(REPORT) $(REPORT_ARGS)

clean:
	rm -rf .venv .venv-engine .venv-gpu .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage .demo dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
