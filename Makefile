# Everything CI runs, by hand. Tools come from VENV; `make setup` makes it.
VENV ?= .venv
BIN := $(VENV)/bin
UV ?= uv

.PHONY: help setup check format types imports security test extras cov docs lock clean

help:  ## This list
	@sed -n 's/^\([a-z]*\):.*## /  make \1	/p' $(MAKEFILE_LIST)

setup:  ## A virtual environment with all that development needs
	python3 -m venv $(VENV)
	$(BIN)/pip install -r requirements/dev.lock
	$(BIN)/pip install --no-deps --no-build-isolation -e .

check: lint types imports docs-current security  ## What CI checks beside the tests

.PHONY: lint docs-current
lint:
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types:  ## Strict types
	$(BIN)/basedpyright --pythonpath $(BIN)/python

imports:  ## Order of packages, see .importlinter
	$(BIN)/lint-imports

docs-current:
	$(BIN)/python scripts/configuration.py --check

security:  ## Our code by bandit; known weaknesses of what we depend on by pip-audit, where its database can be reached
	$(BIN)/bandit --quiet --recursive --configfile pyproject.toml src
	$(BIN)/python scripts/audit_dependencies.py

format:  ## Format, and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test:  ## All tests
	$(BIN)/pytest

extras:  ## Install the built wheel with each extra, without the lock file, and start it (a minute)
	$(BIN)/python scripts/check_extras.py

cov:  ## All tests, with branch coverage
	$(BIN)/pytest --cov --cov-report=term

docs:  ## Pages that are generated from the code
	$(BIN)/python scripts/configuration.py

lock:  ## Newest versions that fit pyproject.toml (needs uv)
	$(UV) pip compile pyproject.toml --universal --python-version 3.11 --upgrade --generate-hashes --no-header --quiet -o requirements/base.lock
	$(UV) pip compile pyproject.toml --group dev --all-extras --universal --python-version 3.11 --upgrade --generate-hashes --no-header --quiet -o requirements/dev.lock
	$(UV) pip compile --group audit --universal --python-version 3.11 --upgrade --generate-hashes --no-header --quiet -o requirements/audit.lock

clean:  ## What tools leave behind
	rm -rf .pytest_cache .ruff_cache .hypothesis .import_linter_cache .coverage .coverage.* htmlcov dist
