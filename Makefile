# Everything runs in .venv, which the targets make and fill themselves: only Python and make are
# needed. PYTHON=... chooses the interpreter that .venv is made with.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

# Tests run side by side, and the demo's matrices are small: threads would only get in the way.
export OPENBLAS_NUM_THREADS ?= 1
export OMP_NUM_THREADS ?= 1

.PHONY: help demo test test-peers bench lint clean

help:
	@echo "make demo        train two networks on real data, save and load them"
	@echo "make test        run the tests"
	@echo "make test-peers  run them beside PyTorch, JAX and the other optional packages"
	@echo "make bench       measure all layers beside other libraries; LAYER=linear QUICK=1 a part"
	@echo "make lint        check format, rules and types"
	@echo "make clean       remove what these targets made"

demo: .venv/.plain
	$(BIN)/python -m lamina demo

test: .venv/.test
	$(BIN)/python -m pytest -q -n auto

test-peers: .venv/.peers
	$(BIN)/python -m pytest -q -n auto

bench: .venv/.bench
	$(BIN)/python -m benchmarks $(if $(LAYER),--layer $(LAYER)) $(if $(QUICK),--quick)

lint: .venv/.lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

.venv/.plain: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Lamina needs Python 3.11 or newer; choose one: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(PIP) install --editable .
	@touch $@

# Each of these adds the dependencies of one extra.
.venv/.test .venv/.lint: .venv/.%: .venv/.plain
	$(PIP) install --editable '.[$*]'
	@touch $@

.venv/.peers: .venv/.test
	$(PIP) install --editable '.[test,peers,plot,mnist1d]'
	@touch $@

.venv/.bench: .venv/.plain
	$(PIP) install --editable '.[peers,bench]'
	@touch $@
