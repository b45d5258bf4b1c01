# The everyday commands; each sets up what it needs. `make` alone lists them.
PYTHON ?= python3
BIN := .venv/bin
# One more than there are processors, as tests of servers often wait.
WORKERS = $(shell expr $$(nproc) + 1)
# What is about the proxy: its parts, its HTTP, and in COMPILED_PROOFS what takes longer.
COMPILED_TESTS := $(addprefix tests/unit/test_,$(addsuffix .py,compiled recorder spool)) \
	$(addprefix tests/service/test_,$(addsuffix .py,backend compiled conformance proxy raw_answers raw_requests routes))
COMPILED_PROOFS := tests/e2e/test_serve.py $(addprefix tests/service/test_,$(addsuffix .py,faults labels_intake \
	mutations proxy_bounds shadow_log tls tls_front))

.DEFAULT_GOAL := help
.PHONY: help setup dev demo check static test test-compiled test-all wheel bench screenshots format lock clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.setup ## a virtual environment in .venv with Mooring and what it needs

dev: .venv/.dev ## the same, and what the tests need

demo: .venv/.setup ## see it work: train, serve, log, drift; everything stops at the end
	$(BIN)/mooring demo

check: static ## lint, types, import directions, unit tests and the examples in docstrings: run it as you work
	$(BIN)/pytest -n logical -m unit tests/unit src

test: static ## the same, and the tests of real servers: what CI runs
	$(BIN)/pytest -n $(WORKERS) -m "not proof"

test-compiled: .venv/.compiled ## the proxy's tests with the proxy compiled
	MOORING_COMPILE=1 .venv/compiled/bin/python -m pytest -n logical -m "not proof" $(COMPILED_TESTS)

test-all: static ## everything: statistics, kills at every step, bulk, random searches
	sh scripts/system-packages nginx:nginx-light haproxy:haproxy slowhttptest:slowhttptest
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -e '.[spark]' atheris
	$(BIN)/pytest -n logical
	$(MAKE) test-compiled COMPILED_TESTS="$(COMPILED_TESTS) $(COMPILED_PROOFS)"

static: .venv/.dev
	@$(BIN)/python -m compileall -q src tests/support
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

wheel: .venv/.uv ## a compiled wheel for this Python in dist/; MOORING_COMPILE=0 for one without compiled code
	MOORING_COMPILE=$${MOORING_COMPILE:-1} $(BIN)/uv build --quiet --out-dir dist

bench: .venv/.dev .venv/.compiled .venv/.peers .venv/.mlflow ## measure, beside others, and write docs/benchmarks.md; takes about six hours
	sh scripts/system-packages nginx:nginx-light haproxy:haproxy wrk:wrk h2load:nghttp2-client
	test -x .venv/mitmproxy/bin/mitmdump || ($(BIN)/uv venv --quiet .venv/mitmproxy \
		&& $(BIN)/uv pip install --quiet --python .venv/mitmproxy/bin/python mitmproxy)
	$(BIN)/python bench/proxy.py --mitmdump .venv/mitmproxy/bin/mitmdump
	$(BIN)/python bench/end_to_end.py
	$(BIN)/python bench/serve.py --plain .venv/peers-mlflow-plain/bin/python --fast .venv/peers-mlflow-fast/bin/python
	$(BIN)/python bench/drain.py --big 10000000
	$(BIN)/python bench/drift.py
	$(BIN)/python bench/alarms.py
	$(BIN)/python bench/power.py
	$(BIN)/python bench/gate.py
	$(BIN)/python bench/guards.py
	$(BIN)/python bench/tls.py --save
	$(BIN)/python bench/ui.py

screenshots: .venv/.dev ## make the README's pictures of the dashboard anew; takes three minutes
	PYTHONPATH=tests/support $(BIN)/python scripts/screenshots.py

format: .venv/.dev ## put the code into shape
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

lock: .venv/.uv ## renew the tested set of versions from pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate --upgrade \
		pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate --extra dev \
		-c requirements.lock pyproject.toml -o requirements-dev.lock

clean: ## remove what these commands made
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis mooring-demo

.venv/.uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Mooring needs Python 3.11 or newer; say which with: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv .venv \
		|| { echo "On Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@touch $@

# Beside the editable install, which stays interpreted. The tests there find Mooring in site-packages, not in src.
.venv/.compiled: .venv/.dev setup.py $(shell find src -name '*.py')
	$(BIN)/uv venv --quiet --allow-existing --python $(BIN)/python .venv/compiled
	$(BIN)/uv pip install --quiet --compile-bytecode --python .venv/compiled/bin/python -r requirements-dev.lock
	MOORING_COMPILE=1 $(BIN)/uv pip install --quiet --compile-bytecode --no-deps --reinstall-package mooring \
		--python .venv/compiled/bin/python .
	@touch $@

# The drift tools that ours is measured beside, each with the versions of others that it still works with.
.venv/.peers: .venv/.uv
	for peer in "evidently evidently==0.7.23 pandas<3 nltk" \
		"nannyml nannyml statsmodels pandas<3 pyarrow" \
		"whylogs whylogs==1.6.4 pandas<2.3 pyarrow numpy<2.3 ipython scikit-learn pybars3" \
		"alibi alibi-detect==0.13.0 pandas<3 numpy<2 pyarrow<26"; do \
		set -f; set -- $$peer; name=$$1; shift; \
		$(BIN)/uv venv --quiet --allow-existing .venv/peers-$$name \
			&& $(BIN)/uv pip install --quiet --python .venv/peers-$$name/bin/python "$$@" || exit 1; \
	done
	@touch $@

# MLflow as its own install gives it, and with what Mooring's servers have beside, in the versions that are ours.
.venv/.mlflow: .venv/.uv requirements.lock
	for peer in "plain" "fast uvloop httptools"; do \
		set -- $$peer; name=$$1; shift; \
		$(BIN)/uv venv --quiet --clear .venv/peers-mlflow-$$name \
			&& $(BIN)/uv pip install --quiet --compile-bytecode --python .venv/peers-mlflow-$$name/bin/python \
				-c requirements.lock mlflow scikit-learn pandas "$$@" || exit 1; \
	done
	@touch $@

.venv/.setup: .venv/.uv requirements.lock pyproject.toml
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -r requirements.lock -e .
	@touch $@

.venv/.dev: .venv/.setup requirements-dev.lock scripts/system-packages scripts/axe
	sh scripts/system-packages
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -r requirements-dev.lock
	sh scripts/axe
	@touch $@
