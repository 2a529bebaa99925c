# proxymode: every task a developer types. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTEST_ARGS ?=
# A test file's tests share what they set up. Files go in the order given, so that no long one is left for the end.
PARALLEL := -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
PROOF_ARGS ?=
BUILD ?= docker build
REGISTRY ?=
VERSION ?= $(shell sed -n 's/^version = "\(.*\)"$$/\1/p' pyproject.toml)
GUEST := $(BIN)/python -m proxymode_testbeds.vm run --
# They count lost connections, unload ip_vs, or measure the memory of the whole guest: nothing beside them.
ALONE := $(wildcard tests/vm/test_switch_*.py tests/vm/test_takeover_*.py) \
  tests/vm/test_daemonset_rights.py tests/vm/test_ipvs_unloaded.py tests/vm/test_nftables_memory.py
LONGEST := tests/vm/test_ipvs_dataplane.py
PIP_COMPILE := $(BIN)/pip-compile --quiet --no-header --strip-extras --allow-unsafe --generate-hashes \
  --no-emit-index-url --no-emit-find-links --no-emit-trusted-host

.PHONY: help
help: ## list the tasks
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: install
install: $(STAMP) ## system packages, then everything Python into .venv from the lock
$(STAMP): pyproject.toml requirements/dev.lock tools/system-packages.txt
	@tools/install-system-packages
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.11 …" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing Python packages into $(VENV)"
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

.PHONY: beds
beds: install ## download and build the test beds into the cache (kernel, API server, newest nft, Prometheus)
	@$(BIN)/python -m proxymode_testbeds.apiserver build
	@$(BIN)/python -m proxymode_testbeds.vm build
	@$(BIN)/python -m proxymode_testbeds.nft
	@$(BIN)/python -m proxymode_testbeds.prometheus

.PHONY: demo
demo: install ## the main job: a staged rollout on real kernels with traffic flowing, and the way back
	@$(BIN)/python -m proxymode_demo

.PHONY: pictures
pictures: install ## the terminal pictures of README and docs, of a rollout with simulated agents; half a minute
	@$(BIN)/python -m proxymode_pictures

.PHONY: test
test: install lint test-unit beds test-host test-vm test-vm-packets test-e2e ## everything: lint, units, API surface, host kernel, VM, end to end

.PHONY: lint
lint: install ## ruff, mypy, layer contracts, generated files up to date
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy
	@for folder in $(filter-out tests/__pycache__/,$(wildcard tests/*/)); do MYPYPATH=$$folder $(BIN)/mypy $$folder; done  # each test bed has a conftest.py of its own
	@$(BIN)/lint-imports --no-logo --no-cache
	@$(BIN)/lint-imports --no-logo --no-cache --config tools/layers.toml
	@$(BIN)/python -m proxymode_api.crdgen --check
	@$(BIN)/python -m proxymode_docs --check
	@$(BIN)/sphinx-build -q -W --keep-going -b dirhtml docs build/docs

.PHONY: docs
docs: install ## the documentation as web pages, in build/docs; what leads nowhere is an error
	@$(BIN)/sphinx-build -q -W --keep-going -b dirhtml docs build/docs
	@echo "build/docs/index.html"

.PHONY: test-unit
test-unit: install ## pure functions; a minute or two, no root
	@$(BIN)/pytest $(PARALLEL) tests/unit $(PYTEST_ARGS)

.PHONY: test-host
test-host: install ## API surface and this host's kernel (root)
	@$(BIN)/pytest $(PARALLEL) tests/packets tests/api tests/kernel $(PYTEST_ARGS)

.PHONY: test-vm
test-vm: install ## ipvs and the switch on Debian's 6.1 kernel, inside the VM
	@$(GUEST) $(CURDIR)/$(BIN)/pytest -p no:cacheprovider $(PARALLEL) $(LONGEST) $(filter-out $(ALONE) $(LONGEST),$(wildcard tests/vm/test_*.py)) $(PYTEST_ARGS)
	@$(GUEST) $(CURDIR)/$(BIN)/pytest -p no:cacheprovider $(ALONE) $(PYTEST_ARGS)

.PHONY: test-vm-nftables
test-vm-nftables: install ## the host kernel's tests once more on 6.1, inside the VM; slow, not part of `make test`
	@$(GUEST) $(CURDIR)/$(BIN)/pytest -p no:cacheprovider tests/kernel tests/packets $(PYTEST_ARGS)

.PHONY: test-vm-packets
test-vm-packets: install ## where packets go in ipvs mode: every line of docs/behaviour.md, on 6.1, inside the VM; a minute and a half
	@$(GUEST) $(CURDIR)/$(BIN)/pytest -p no:cacheprovider -n 2 tests/packets/test_packets.py --dataplane ipvs $(PYTEST_ARGS)

.PHONY: proof-updates
proof-updates: install ## a million first packets under each kind of nftables update, on this host; slow
	@$(BIN)/python tests/kernel/proof_updates.py $(PROOF_ARGS)

.PHONY: proof-updates-vm
proof-updates-vm: install ## the same on 6.1, inside the VM; an hour, or with PROOF_ARGS="1000000 'ip6 sticky'" less
	@$(GUEST) $(CURDIR)/$(BIN)/python tests/kernel/proof_updates.py $(PROOF_ARGS)

.PHONY: proof-switches
proof-switches: install ## twenty switches under load, and one killed after each step and left half-done for ten seconds; inside the VM, slow
	@$(GUEST) $(CURDIR)/$(BIN)/pytest -p no:cacheprovider tests/vm/test_switch_under_load.py --round-trips 10 --half-done 10 $(PROOF_ARGS)

.PHONY: proof-takeover
proof-takeover: install ## from kube-proxy in each of its modes to each of ours and back, under load, inside the VM; minutes
	@$(GUEST) $(CURDIR)/$(BIN)/pytest -p no:cacheprovider tests/vm/proof_takeover.py $(PROOF_ARGS)

.PHONY: sim
sim: install ## a fleet of NODES=5000 simulated agents, the real operator and API server: progress, then a line of JSON
	@$(BIN)/python -m proxymode_sim --nodes $(or $(NODES),5000) $(SIM_ARGS)

.PHONY: proof-rollout
proof-rollout: install ## the rollout planner in every state of a small fleet, two faults or commands deep; an hour
	@cd tests/unit && $(CURDIR)/$(BIN)/python proof_rollout.py $(PROOF_ARGS)

.PHONY: test-e2e
test-e2e: install ## all parts together, as the demo puts them together
	@$(BIN)/pytest tests/e2e $(PYTEST_ARGS)

.PHONY: bench-sync
bench-sync: install ## Services into the kernel, beside kube-proxy's ruleset: a table, then a line of JSON; CASES=1000x2 for one case
	@$(BIN)/python -m proxymode_benchmarks.sync $(CASES)

.PHONY: bench-sync-vm
bench-sync-vm: install ## the same on 6.1, everything in the emulated VM, API server included: 1000x2 and 5000x2, a quarter of an hour
	@$(BIN)/python -m proxymode_benchmarks.sync.installed
	@$(GUEST) env KUBEBUILDER_ASSETS=$(KUBEBUILDER_ASSETS) $(CURDIR)/$(BIN)/python -m proxymode_benchmarks.sync $(or $(CASES),1000x2 5000x2)

.PHONY: bench-switch
bench-switch: install ## a node's change of mode under load inside the VM, kube-proxy's way and ours, and what a hand-over costs here: tables, then a line of JSON
	@$(BIN)/python -m proxymode_benchmarks.switch

.PHONY: bench-ipvs
bench-ipvs: install ## Services into IPVS on 6.1, inside the VM, beside ipvsadm -R and ip -batch, and natively but for IPVS: a table, then a line of JSON; CASES=1000x10 for one case
	@$(BIN)/python -m proxymode_benchmarks.ipvs $(CASES)

.PHONY: generate
generate: install ## CRDs, policies, docs/reference, docs/metrics.md and dashboard from the code, docs/behaviour.md from the packet tables, formatted code
	@$(BIN)/python -m proxymode_api.crdgen
	@$(BIN)/python -m proxymode_docs
	@$(BIN)/python tests/packets/packet_behaviour.py
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

.PHONY: lock
lock: ## requirements/*.lock, with hashes, from pyproject.toml
	@$(PIP_COMPILE) --extra operator --extra agent --extra cli --extra dev --output-file requirements/dev.lock pyproject.toml
	@$(PIP_COMPILE) --extra operator --output-file requirements/operator.lock pyproject.toml
	@$(PIP_COMPILE) --extra agent --output-file requirements/agent.lock pyproject.toml
	@$(PIP_COMPILE) --all-build-deps --only-build-deps --output-file requirements/build.lock pyproject.toml

.PHONY: dist
dist: install ## wheel and sdist, in dist/
	@$(BIN)/hatchling build

.PHONY: images
images: ## the two images: REGISTRY=registry.example.org/ VERSION=0.1.0 BUILD="docker buildx build --platform linux/amd64,linux/arm64 --push"
	@for image in agent operator; do $(BUILD) --file images/$$image/Dockerfile --tag $(REGISTRY)proxymode-$$image:$(VERSION) .; done

.PHONY: sbom
sbom: install ## what the images are made of, from their locks, as CycloneDX: build/sbom
	@mkdir -p build/sbom
	@for image in agent operator; do $(BIN)/cyclonedx-py requirements --pyproject pyproject.toml --mc-type application \
	  --output-reproducible --output-file build/sbom/$$image.cdx.json requirements/$$image.lock; done

.PHONY: clean
clean: ## what `make` made in the checkout; the cache outside it stays
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis dist build
