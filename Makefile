# Every target sets up what it needs: Python >= 3.11 and make are enough.
.DEFAULT_GOAL := help
.PHONY: help setup demo test check format docs docs-serve bench faults soak lock new-plugin clean

PY = $$(scripts/env.sh main)/bin/python

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Make .venv with the core, every plugin and the tools
	@scripts/env.sh main

demo: ## Run the demo, examples/catalogue: real PostgreSQL and Valkey, nothing installed on your system
	@$(PY) -m catalogue.demo

test: ## Run the tests on every Python found of 3.11, 3.12, 3.13 (ARGS="-k name" PYTHONS=3.13)
	@scripts/test.sh $(ARGS)

check: ## Lint, format, types, import contract, dependencies, docs (STEPS="lint mypy")
	@scripts/check.sh $(STEPS)

format: ## Format the code and fix what can be fixed safely
	@$(PY) -m ruff format . && $(PY) -m ruff check --fix .

docs: ## Build the documentation into site/
	@$(PY) -m mkdocs build --strict

docs-serve: ## Serve the documentation with live reload
	@$(PY) -m mkdocs serve

bench: ## Compare with the peers, side by side; writes docs/reference/benchmarks*.md (ARGS="--rows data", "--rows scoped")
	@$$(scripts/env.sh bench)/bin/python -m benchmarks $(or $(ARGS),--markdown docs/reference/benchmarks.md --data-markdown docs/reference/benchmarks-data.md)

faults: ## Break every service in every way, on real servers; writes docs/reference/faults.md
	@$(PY) scripts/write_fault_matrix.py $(ARGS)

soak: ## Run the property tests with many more examples (hours; ARGS="-k lifecycle")
	@SVC_HYPOTHESIS_PROFILE=soak PYTHONS="$(or $(PYTHONS),3.13)" scripts/test.sh --timeout 36000 $(ARGS)

lock: ## Refresh constraints.txt from today's packages
	@scripts/lock.sh

new-plugin: ## Start a plugin: make new-plugin NAME=mail
	@test -n "$(NAME)" || { echo "usage: make new-plugin NAME=mail"; exit 2; }
	@$(PY) scripts/new_plugin.py "$(NAME)"

clean: ## Remove environments, caches and built files
	rm -rf .venv .venv-* .cache .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis site dist
