# Everything runs in .venv, which is made from nothing but python3 >= 3.11. A stamp file in .venv says what is installed
# there, so that only the first call of a target installs.
#
#   make demo     twenty CsV3Sb5 candidates, relaxed, in a gallery that opens in a browser
#   make test     the default suite: no GPU, no network, no pw.x
#   make lint     ruff and mypy
#   make docs     the documentation, warnings are errors          make docs-serve   the same, live
#   make bench    every benchmark of benchmarks/, one JSON each
#   make train    continue the runs of configs/queue.txt, the first that is not complete first, for MINUTES=60
#
# TORCH names the one heavy package: set TORCH="torch==2.13.0 --index-url ..." for a CUDA or a CPU-only build.

PYTHON ?= python3
TORCH ?= torch==2.13.0
CONFIG ?= $(shell sed 's/ *#.*//' configs/queue.txt)
MINUTES ?= 60
DEMO ?= demo
WORKERS ?= 2
PYTEST_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
SOURCES := src tests examples benchmarks docs

.PHONY: help demo test lint format docs docs-serve bench train install clean
help:
	@sed -n 's/^#   //p' Makefile

$(VENV)/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "dao-ase needs Python 3.11 or later, this is " + sys.version)'
	$(PYTHON) -m venv $(VENV)

# torch comes first and alone: a range such as torch>=2.6 may otherwise fetch gigabytes of CUDA libraries.
$(VENV)/.torch: $(VENV)/pyvenv.cfg
	$(PIP_INSTALL) $(TORCH)
	@touch $@

$(VENV)/.package: pyproject.toml $(VENV)/.torch
	$(PIP_INSTALL) --editable .
	@touch $@

$(VENV)/.test $(VENV)/.lint $(VENV)/.docs: $(VENV)/.%: $(VENV)/.package
	$(PIP_INSTALL) --editable '.[$*]'
	@touch $@

install: $(VENV)/.package

demo: $(VENV)/.package
	$(BIN)/dao-ase generate CsV3Sb5 -n 20 --seed 0 --relax -o $(DEMO)
	$(BIN)/dao-ase gallery $(DEMO) --reference examples/data/CsV3Sb5.cif -o $(DEMO)/gallery.html

# One torch thread for each worker: two workers with two threads each would only wait for each other.
test: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) $(PYTEST_ARGS)

lint: $(VENV)/.lint
	$(BIN)/ruff check --no-cache $(SOURCES)
	$(BIN)/ruff format --check --no-cache $(SOURCES)
	$(BIN)/mypy

format: $(VENV)/.lint
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

# The variable silences an announcement of another program.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

docs-serve: $(VENV)/.docs
	$(BIN)/mkdocs serve

bench: $(VENV)/.test
	@set -e; for script in benchmarks/bench_*.py; do echo "== $$script"; $(BIN)/python "$$script"; done

train: $(VENV)/.package
	nice -n 10 $(BIN)/dao-ase train $(CONFIG) --minutes $(MINUTES)

clean:
	rm -rf build dist site .pytest_cache .mypy_cache .ruff_cache
