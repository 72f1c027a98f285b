# Everything a developer runs. Each target does its own set-up on a bare machine with Python 3.11, git and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ARGS ?=
MINUTES ?= 10
JOBS ?= 3

.PHONY: run test lint bench torture bare format clean

run: $(READY)
	TGDAV_HOME="$${TGDAV_HOME:-$(CURDIR)/run}" $(BIN)/tgdav serve $(ARGS)

test: $(READY) .venv/.system
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal --max-worker-restart 0 -m "not torture" --durations=30 tests

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tools.structure

bench: $(READY) .venv/.system
	$(BIN)/python -m benchmarks

torture: $(READY) .venv/.system
	TGDAV_TORTURE_MINUTES=$(MINUTES) $(BIN)/python -m pytest -m torture --timeout 0 -s tests

bare:
	deploy/try-on-bare-debian

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/python -m tools.wrap $(shell git ls-files '*.md')

$(READY): pyproject.toml deploy/install-system-packages
	deploy/install-system-packages build
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev,fuse]'
	touch $@

.venv/.system: $(READY)
	deploy/install-system-packages test
	touch $@

clean:
	rm -rf $(VENV) run .mypy_cache .ruff_cache .hypothesis
