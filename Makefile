# Two commands for a newcomer: `make demo` shows the whole path, `make test` proves it.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WORKERS ?= 2 # tests wait for processes most of the time: two at once take half as long, also on two cores

.PHONY: help setup start demo test test-fast test-services soak bench lint lock clean
.DELETE_ON_ERROR:

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

$(STAMP): requirements.lock
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r requirements.lock
	@# Where the package index serves only the CUDA build of torch, its libraries are needed too.
	@$(BIN)/python -c "import torch" 2>/dev/null || $(BIN)/pip install --quiet --disable-pip-version-check "$$(grep '^torch==' requirements.lock)"
	@touch $(STAMP)

setup: $(STAMP) ## make .venv and install the locked dependencies

start: $(STAMP) ## serve the site with web, workers, beat and model serving
	$(BIN)/python manage.py start

demo: $(STAMP) ## the whole path on this machine: data, fine-tune, evaluate, promote, serve, feedback
	$(BIN)/python manage.py demo $(DEMO)

test: $(STAMP) ## everything, on SQLite and on real PostgreSQL and Redis
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(PYTEST)

test-fast: $(STAMP) ## what takes less than five minutes
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "not full" $(PYTEST)

soak: $(STAMP) ## random faults on real PostgreSQL and Redis; SECONDS=1800 SEED=7
	$(BIN)/python -m project.jobs.tests.soak --seconds $(or $(SECONDS),1800) $(if $(SEED),--seed $(SEED))

bench: $(STAMP) ## everything under benchmarks/, one after the other; results in benchmarks/results
	@for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

lint: $(STAMP) ## ruff, mypy, import contracts, migrations
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy project registry training datasets_app abtests
	$(BIN)/lint-imports
	$(BIN)/python manage.py makemigrations --check --dry-run

lock: ## resolve pyproject.toml anew into requirements.lock
	$(PYTHON) -m venv build/lock
	build/lock/bin/pip install --quiet --dry-run --ignore-installed --report build/report.json ".[dev]"
	build/lock/bin/python .ci/lock.py build/report.json > requirements.lock

clean: ## remove the virtual environment and caches (never var/, which holds your data)
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
