# Everything a checkout can do. Needs make and Python 3.11 or newer; the rest goes into .venv, once.
#
#   make demo      six clones on this machine, found by mDNS, paired by code: edits, a conflict, a reunion
#   make test      the tests
#   make check     the linter, then the tests: run it before you hand in a change
#   make bench     the measurements (docs/benchmarks.md)
#   make histories 1,000 generated histories of six clones on a bad network
#   make fuzz      SECONDS=10 (or more) of made-up bytes for everything that reads foreign ones
#   make lan       six hosts on a network of namespaces: cuts, bad cables, moves (Linux, root; else it says why not)
#   make test-sinks  the sinks against the vendors' own clients and engines, each in an environment of its own
#   make simulate  the whole stack under faults: SEEDS=2000 runs so many, SEED=17 that one, with all that happens
#   make crash     1,000 processes killed at what they do to the disk, restarted and checked (docs/reliability.md)
#   make install   only set up .venv; the command is then .venv/bin/replica
#   make clean     remove .venv and what the tools leave behind
#
# ARGS="..." goes to the program: make demo ARGS=--keep, make test ARGS="-k bridge", make bench ARGS=idle

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WORKERS ?= auto
SECONDS ?= 10

# Demo, tests and benches stay on this machine, discovery included.
export REPLICA_INTERFACES := 127.0.0.1
# Compiled modules are kept: commands start three times as fast with them.
unexport PYTHONDONTWRITEBYTECODE
unexport REPLICA_DIR
unexport PYTHONPATH

.PHONY: help demo test check bench histories simulate crash fuzz lan test-sinks install clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^#   //p' Makefile

demo: $(STAMP)
	@$(BIN)/python examples/demo.py $(ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

bench: $(STAMP)
	@$(BIN)/python -m bench $(ARGS)

histories: $(STAMP)
	REPLICA_HISTORIES=1000 $(BIN)/python -m pytest -n $(WORKERS) tests/test_histories.py $(ARGS)

SEEDS ?= 2000
simulate: $(STAMP)
	$(BIN)/python -m tests.simulation $(if $(SEED),--seed $(SEED),--seeds $(SEEDS)) $(ARGS)

# Guided by coverage where atheris can be had; where not, the program says so, and mutates without.
fuzz: $(STAMP)
	@$(BIN)/python -c 'import atheris' 2>/dev/null || \
	    $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PLAIN) --editable '.[fuzz]' || true
	@$(BIN)/python -m tests.fuzz --seconds $(SECONDS) $(ARGS)

lan: $(STAMP)
	REPLICA_LAN=1 $(BIN)/python -m pytest -rs tests/lan $(ARGS)

crash: $(STAMP)
	@$(BIN)/python -m tests.crash --kills 1000 $(ARGS)

# In environments of their own, for the vendors' packages do not agree with each other: tests/cloud/requirements. One that
# cannot be installed here is said and left out. graphiti needs Python 3.12 or newer, and minutes to compile.
SINKS ?= light mem0 supermemory-v3 graphiti
KILLS ?= 50
ITEMS ?= 5000
test-sinks: $(STAMP)
	@failed=; for sink in $(SINKS); do \
	    place=.venv-sinks/$$sink; wanted=tests/cloud/requirements/$$sink.txt; \
	    if [ ! $$place/.installed -nt $$wanted ]; then \
	        echo "Setting up $$place, once."; python=$(BIN)/python; \
	        if [ $$sink = graphiti ]; then for newer in python3.13 python3.12; do \
	            $$newer -c pass 2>/dev/null && python=$$newer && break; done; fi; \
	        { $$python -m venv --clear $$place && $$place/bin/python -m pip install --quiet \
	            --disable-pip-version-check $(PLAIN) --editable '.[dev]' --requirement $$wanted && \
	            touch $$place/.installed; } || { echo "test-sinks: $$sink cannot be installed here; left out"; continue; }; \
	    fi; \
	    echo "$$sink:"; \
	    $$place/bin/python -m pytest -n $(WORKERS) tests/cloud/oracle $(ARGS) || failed="$$failed $$sink"; \
	done; \
	if [ $(KILLS) -gt 0 ]; then \
	    echo "an export of $(ITEMS) items that is killed $(KILLS) times:"; \
	    REPLICA_EXPORT_ITEMS=$(ITEMS) REPLICA_EXPORT_KILLS=$(KILLS) $(BIN)/python -m pytest \
	        tests/cloud/test_cli_cloud.py -k killed_anywhere || failed="$$failed kills"; \
	fi; \
	[ -z "$$failed" ] || { echo "test-sinks: failed:$$failed" >&2; exit 1; }

install: $(STAMP)

# The checkout goes on the path by a plain line in a .pth file. The finder that setuptools writes otherwise is imported at
# every start of Python, for a third of the time that `replica --help` may take.
PLAIN := --config-settings editable_mode=compat

# PYTHON=/path/to/python chooses one. A name that answers may still be too old, or a launcher without anything behind it:
# so each candidate is asked.
$(STAMP): pyproject.toml
	@set -e; python=; \
	for candidate in $(if $(PYTHON),"$(PYTHON)",python3.13 python3.12 python3.11 python3 python); do \
	    if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	        python=$$candidate; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	    echo "make: no Python 3.11 or newer found$(if $(PYTHON), at $(PYTHON)). Install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3" >&2; exit 1; fi; \
	if ! "$$python" -c 'import venv, ensurepip' >/dev/null 2>&1; then \
	    echo "make: $$python comes without venv or pip. On Debian and Ubuntu: apt install python3-venv (or python3.x-venv for its version), then make $(MAKECMDGOALS) again" >&2; exit 1; fi; \
	echo "Setting up $(VENV) with $$("$$python" --version), once; this takes a minute."; \
	"$$python" -m venv --clear $(VENV); \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PLAIN) --editable '.[dev]'; \
	touch $@

clean:
	rm -rf $(VENV) .venv-sinks build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
