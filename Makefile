# Everything installs into .venv, once; the stamps say what is done.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ENVIRONMENT ?= local
DATA_VERSION ?= v1

.PHONY: help setup setup-dev run test unit lint types bench doctor e2e clean
help: ## this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

$(VENV)/.evctl: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.evctl
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

setup: $(VENV)/.evctl ## install evctl into .venv (once)

setup-dev: $(VENV)/.dev ## and what tests and lint need

run: setup ## set everything up, then run the pipeline here
	$(BIN)/evctl run --env $(ENVIRONMENT) --data-version $(DATA_VERSION)

test: setup-dev ## set everything up, then all tests this machine can run
	$(BIN)/python -m pytest -n auto --dist loadgroup

lint: setup-dev ## style and import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/lint-imports --no-cache

types: setup-dev ## mypy, strict
	$(BIN)/mypy

doctor: setup ## what a run needs of this machine
	$(BIN)/evctl doctor

bench: setup-dev ## the figures
	@for each in benchmarks/*.py; do case $$each in */naive*) ;; *) $(BIN)/python $$each || exit 1;; esac; done

PROFILE ?= local
e2e: setup ## the whole life through evctl, on whatever PROFILE names (make e2e PROFILE=dev)
	$(BIN)/python tests/e2e/life.py --env $(PROFILE)

clean: ## remove what was built, the environment included
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache dist
