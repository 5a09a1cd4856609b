# The environment, the demo and the checks. `make help` lists the targets.
.DEFAULT_GOAL := help
.PHONY: help demo test test-all test-faults ui clean

VENV := .venv
BIN := $(VENV)/bin
# Two processes at a time, each on a core. One of them has all tests that run a Ray (tests/conftest.py).
TOGETHER := --no-print-directory --jobs 2 lint tests-with-ray tests-of-the-science tests-of-the-pipelines
PYTHON := $(shell command -v python3.11 || command -v python3)

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

# Made anew when what is asked for changes. torch comes first and by its exact version.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: Python 3.11 or newer is needed, $(PYTHON) is older" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' || \
		{ echo "error: $(PYTHON) cannot make virtual environments (Debian: apt install python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[pipelines,dev]'
	@touch $@

demo: $(VENV)/.installed  ## everything once, small, on this machine
	$(BIN)/intermoe demo

test: $(VENV)/.installed  ## format, lint, types, import rules and the quick tests
	$(MAKE) $(TOGETHER) CHOSEN='not slow and not faults'

test-all: $(VENV)/.installed  ## what `test` does, and the slow tests
	$(MAKE) $(TOGETHER) CHOSEN='not faults'

test-faults: $(VENV)/.installed  ## for hours: kills, nodes, outages, damaged files, the demo's quality
	$(BIN)/pytest -m faults

.PHONY: tests-with-ray tests-of-the-science tests-of-the-pipelines
tests-with-ray:
	$(BIN)/pytest -m '$(CHOSEN) and ray'
tests-of-the-science:
	$(BIN)/pytest -m '$(CHOSEN) and not ray' tests/intermoe intermoe
tests-of-the-pipelines:
	$(BIN)/pytest -m '$(CHOSEN) and not ray' --ignore tests/intermoe --ignore intermoe

.PHONY: lint
lint: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

ui: $(VENV)/.installed  ## MLflow's pages, on loopback
	$(BIN)/intermoe ui

clean:  ## remove the environment and what tools have cached, nothing that was computed
	rm -rf $(VENV) build *.egg-info .import_linter_cache .mypy_cache .ruff_cache .pytest_cache
	find intermoe pipelines tests -name __pycache__ -type d -prune -exec rm -rf {} +
