# `make demo` and `make test` each set up .venv by themselves on a machine with Python 3.11+, pip and make.
PYTHON ?= python3
BIN := .venv/bin
# Tests are compile-bound: one worker a core, and neighbors, which share compiled functions, on the same one.
WORKERS ?= auto

.PHONY: demo experiments test test-all coverage lint format types docs clean

# A venv that an interrupted run left half made has no stamp, and is completed by the next.
.venv/.demo: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[experiments]'
	@touch $@

.venv/.dev: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ .venv/.demo

demo: .venv/.demo
	$(BIN)/python -m experiments.em_vs_gradient

experiments: .venv/.demo
	$(BIN)/python -m experiments all

test: .venv/.dev
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m 'not slow'

# As users run it: compiled with all optimizations, where the quick suite does without.
test-all: .venv/.dev
	XLA_FLAGS=--xla_backend_optimization_level=3 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

coverage: .venv/.dev
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m 'not slow' --cov=jaxmix --cov-branch \
		--cov-report=term-missing

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: .venv/.dev
	$(BIN)/pyright

docs: .venv/.dev
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html

clean:
	rm -rf .venv docs/_build .pytest_cache .ruff_cache .hypothesis
