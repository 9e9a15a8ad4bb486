# Needs Python 3.11 or newer and make. Every target sets up .venv by itself, from the lock files.
#   make test ARGS="-k sessions"    passes options to pytest; JOBS=4 sets the number of its processes
#   make test PYTHON=python3.12     chooses the interpreter of .venv

.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?=
ARGS ?=
JOBS ?= 2
bin := .venv/bin

# A command line for a folder below this one.
absolute_bin := $(CURDIR)/$(bin)

.PHONY: help setup demo example test screenshots check bench format lock clean
.PHONY: check-style check-types check-imports check-requirements check-migrations check-docs

help: ## Show this list
	@awk -F ': .*## ' '/^[a-z]+: .*## / { printf "make %-11s %s\n", $$1, $$2 }' Makefile

setup:
	@PYTHON="$(PYTHON)" sh scripts/setup

demo: setup ## Show tenant isolation on a PostgreSQL of its own
	@$(bin)/tenantry demo

example: setup ## Serve examples/support_desk on this machine (ARGS="--port 8001")
	@cd examples/support_desk && $(absolute_bin)/tenantry db migrate && exec $(absolute_bin)/python -m support_desk $(ARGS)

test: setup ## Run the tests, with coverage of at least 90 %
	@sh scripts/pgbouncer >/dev/null
	@sh scripts/chromium >/dev/null
	$(bin)/python -m pytest -n $(JOBS) --dist worksteal --cov --cov-report=term-missing:skip-covered $(ARGS)

screenshots: setup ## Take the documentation's pictures of the example anew
	SCREENSHOTS=1 $(bin)/python -m pytest tests/example/test_screenshots.py

check: check-style check-types check-imports check-requirements check-migrations check-docs ## Run every gate but the tests
	@echo "All gates passed."

check-style: setup
	$(bin)/ruff format --check .
	$(bin)/ruff check .

check-types: setup
	$(bin)/mypy --strict src tests benchmarks examples/support_desk/support_desk

check-imports: setup
	$(bin)/lint-imports --no-logo

check-requirements: setup # pyproject.toml asks for nothing that the lock does not hold
	$(bin)/uv pip check --python $(bin)/python

check-migrations: setup
	sh scripts/lint_migrations $(bin)/squawk

check-docs: setup
	$(bin)/zensical build --clean --strict

bench: setup ## Measure the speed of what products do most
	@$(bin)/python -m benchmarks $(ARGS)

format: setup ## Format the code and fix what can be fixed
	$(bin)/ruff check --fix-only .
	$(bin)/ruff format .

lock: setup ## Renew requirements/ from pyproject.toml (ARGS=--upgrade for the newest)
	sh scripts/lock $(bin)/uv $(ARGS)

clean: ## Remove .venv and everything that was made
	rm -rf .venv .cache site build dist .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name .git -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
