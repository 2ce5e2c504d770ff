# Everything a newcomer needs; `make` alone prints it. All tools are fetched into the checkout.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= python3
UV_VERSION := 0.13.8
UV := .tools/bin/uv
BIN := .venv/bin
DISTS := $(sort $(wildcard libs/*/pyproject.toml services/*/pyproject.toml))
# Arguments for pytest, for example PYTEST_ARGS="services/oltp -x".
PYTEST_ARGS ?=
# For two cores: the third has the whole stack's tests, and mostly waits.
TEST_PROCESSES ?= 3
export UV_NO_PROGRESS := 1
# The checkout's own environment, whatever the caller has activated; and what is compiled is kept, tests too: each of their
# processes would compile all of them anew.
unexport VIRTUAL_ENV PYTHONPATH PYTHONHOME PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo drill test simulate chaos bench bench-admission bench-import bench-queue bench-queue-stress bench-reconcile generate verify lint types imports contracts drift snapshots manifests lock format clean distclean

help: ## what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: .venv/.installed ## fetch tools and dependencies into the checkout

.tools/bin/uv-$(UV_VERSION):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=…")'
	$(PYTHON) -m venv .tools
	.tools/bin/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	touch $@

.venv/.installed: .tools/bin/uv-$(UV_VERSION) requirements.lock $(DISTS)
	@[ -x $(BIN)/python ] || $(UV) venv --quiet --python $(PYTHON) .venv
	$(UV) pip sync --quiet --compile-bytecode --python $(BIN)/python --require-hashes requirements.lock
	$(UV) pip install --quiet --python $(BIN)/python --no-deps $(foreach d,$(DISTS),-e $(dir $(d)))
	$(BIN)/python -m compileall -q $(wildcard libs/*/src services/*/src)
	@touch $@

demo: setup ## the main job end to end on a real local stack
	$(BIN)/penguin demo

drill: setup ## break part after part of a local stack, and check the outage contract; ROWS=redis,killed-oltp SECONDS=5
	$(BIN)/penguin drill $(if $(ROWS),--rows $(ROWS)) $(if $(SECONDS),--seconds $(SECONDS))

test: setup ## every test, on real PostgreSQL and Valkey
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadgroup $(PYTEST_ARGS)

simulate: setup ## the whole platform in seeded histories; HISTORIES=10000 SEED=0 PROCESSES=2, or TEETH=1
	$(BIN)/python -m tests.simulation HISTORIES=$(or $(HISTORIES),1000) SEED=$(or $(SEED),0) PROCESSES=$(or $(PROCESSES),2) $(if $(TEETH),TEETH=1)

chaos: setup ## load on the real stack while its parts are killed and frozen; SECONDS=600 SEED=0
	$(BIN)/python -m tests.chaos SECONDS=$(or $(SECONDS),600) SEED=$(or $(SEED),0) $(if $(RATE),RATE=$(RATE))

bench: setup ## measure: ratios side by side in one run
	$(BIN)/python -m tests.bench

bench-admission: setup ## what quiet tenants feel of a noisy one; TURNS=9 CALLS=160
	$(if $(TURNS),TURNS=$(TURNS)) $(if $(CALLS),CALLS=$(CALLS)) $(BIN)/python -m tests.bench.admission

bench-import: setup ## import 100,000 leads, killed twice mid-way; ROWS=100000
	$(BIN)/python -m tests.bench.imports $(if $(ROWS),ROWS=$(ROWS))

bench-queue: setup ## measure our queue beside its peers, in turns; ROUNDS=3
	$(BIN)/python -m tests.bench.queue

bench-queue-stress: setup ## measure our queue under what weighs on it; SECONDS=180 STRESS="backlog JOBS=1000000"
	$(BIN)/python -m tests.bench.queue.stress $(if $(SECONDS),SECONDS=$(SECONDS)) $(STRESS)

bench-reconcile: setup ## reconcile a million keys with a hundred faults; KEYS=1000000
	$(if $(KEYS),KEYS=$(KEYS)) $(BIN)/python -m tests.bench.reconcile

generate: setup ## stubs from proto/, schema snapshots from migrations
	$(BIN)/python tools/generate_stubs.py
	$(BIN)/python tools/snapshot_schemas.py

verify: lint types imports contracts drift snapshots manifests ## everything that must hold before a change lands

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/python tools/check_types.py

imports: setup
	$(BIN)/lint-imports

contracts: setup
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code proto
	$(BIN)/python tools/generate_stubs.py --breaking

drift: setup
	$(BIN)/python tools/generate_stubs.py --check

snapshots: setup
	$(BIN)/python tools/snapshot_schemas.py --check

manifests: setup
	$(BIN)/python tools/check_manifests.py

format: setup ## rewrite sources to the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/buf format -w proto

lock: .tools/bin/uv-$(UV_VERSION) ## resolve dependencies anew into requirements.lock
	$(UV) lock
	$(UV) export --quiet --all-packages --all-groups --no-emit-workspace --no-header --no-annotate --format requirements.txt --output-file requirements.lock

clean: ## stop the local stack and remove what it left
	@[ ! -x $(BIN)/penguin ] || $(BIN)/penguin down
	rm -rf .local .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

distclean: clean ## remove the tools and the environment too
	rm -rf .venv .tools
