# Everything runs in .venv, which the targets make and fill themselves: only Python and make are
# needed. PYTHON=... chooses the interpreter that .venv is made with.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
FASHION := /usr/share/datasets/fashion-mnist

# Tests run side by side, and the demo's matrices are small: threads would only get in the way.
export OPENBLAS_NUM_THREADS ?= 1
export OMP_NUM_THREADS ?= 1

.PHONY: help demo examples test test-peers bench lint site site-test site-serve clean

help:
	@echo "make demo        train two networks on real data, save and load them"
	@echo "make examples    reproduce known results, and write docs/examples.md"
	@echo "make test        run the tests"
	@echo "make test-peers  run those that compare with PyTorch, JAX and other libraries"
	@echo "make bench       measure layers and networks beside other libraries; LAYER=linear QUICK=1 a part"
	@echo "make lint        check format, rules and types"
	@echo "make site        build the documentation into site/; it needs Node.js"
	@echo "make site-test   test the built site in Chromium"
	@echo "make site-serve  serve it on this machine"
	@echo "make clean       remove what these targets made"

demo: .venv/.plain
	$(BIN)/python -m lamina demo

examples: .venv/.examples $(FASHION)
	$(BIN)/python examples

test: .venv/.test
	$(BIN)/python -m pytest -q -n auto

test-peers: .venv/.peers
	$(BIN)/python -m pytest -q -n auto -m peers

bench: .venv/.peers $(if $(LAYER)$(QUICK),,$(FASHION))
	$(BIN)/python -m benchmarks $(if $(LAYER),--layer $(LAYER)) $(if $(QUICK),--quick)

lint: .venv/.lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

site: .venv/.docs docs/node_modules
	rm -rf site build/doctrees
	$(BIN)/sphinx-build -q -W --keep-going -j auto -b html -d build/doctrees docs site
	$(BIN)/sphinx-build -q -W --keep-going -b doctest -d build/doctrees docs build/doctest

site-test: .venv/.docs docs/node_modules
	@test -x /usr/bin/chromium || (apt-get update -qq && apt-get install -qq --no-install-recommends chromium)
	$(BIN)/python -m pytest -c docs/tests/pytest.ini -n auto docs/tests

site-serve:
	@$(PYTHON) docs/tests/serve.py

clean:
	rm -rf .venv build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis docs/node_modules

.venv/.plain: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Lamina needs Python 3.11 or newer; choose one: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(PIP) install --editable .
	@touch $@

# Each of these adds the dependencies of one extra.
.venv/.test .venv/.lint: .venv/.%: .venv/.plain
	$(PIP) install --editable '.[$*]'
	@touch $@

.venv/.docs: .venv/.plain
	$(PIP) install --editable '.[docs]'
	@touch $@

$(FASHION):
	apt-get update -qq && apt-get install -qq --no-install-recommends dataset-fashion-mnist

docs/node_modules: docs/package-lock.json
	@command -v npm > /dev/null || { echo "the site needs Node.js: install node and npm"; exit 1; }
	npm ci --prefix docs --silent --no-audit --no-fund
	@touch $@

.venv/.peers: .venv/.test
	$(PIP) install --editable '.[test,peers,plot,mnist1d]'
	@touch $@

.venv/.examples: .venv/.plain
	$(PIP) install --editable '.[plot,mnist1d]'
	@touch $@
