# Two commands on a fresh machine with Python 3.11 or newer: make demo, make test.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --constraint requirements.lock

.PHONY: demo test lint types lock clean

demo: .venv/core
	rm -rf runs/demo
	$(BIN)/semiscope simulate sem-lines --count 24 --seed 2024 --split test --out runs/demo/scenes
	$(BIN)/semiscope inspect runs/demo/scenes/test/images --model sem-lines --out runs/demo
	$(BIN)/semiscope evaluate --model sem-lines --data runs/demo/scenes
	@echo "the report: $(CURDIR)/runs/demo/report.html"

test: .venv/dev lint types
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist worksteal

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/dev
	$(BIN)/mypy

# The exact versions that were tested; no addresses, so that any mirror serves.
lock: .venv/dev
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu$$//' > requirements.lock

.venv/core: pyproject.toml requirements.lock
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer, please"'
	$(PYTHON) -m venv .venv
	$(PIP) --editable .
	touch $@

.venv/dev: .venv/core
	$(PIP) --editable '.[train,dev]'
	touch $@

clean:
	rm -rf .venv runs .pytest_cache .mypy_cache .ruff_cache
