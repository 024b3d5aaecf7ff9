# Sets everything up from nothing but python3 (3.11 or newer) and the package index.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DATA ?= digits

.PHONY: help demo test lint setup clean
help:
	@echo "make demo   train a CNN and an ST-CNN on rotated digits; runs/demo/report.html"
	@echo "make test   run the tests"
	@echo "make lint   ruff and mypy"
	@echo "make clean  remove the environment, caches and runs"

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "stn_jax needs Python 3.11 or newer; $(PYTHON) is " + sys.version.split()[0] + ". Name another: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

demo: setup
	$(BIN)/python -m experiments.distorted_mnist --model cnn st-cnn --data $(DATA) \
	    --steps 1500 --batch-size 64 --learning-rate 3e-3 --validation 0 --out runs/demo --overwrite

test: setup
	$(BIN)/python -m pytest --numprocesses auto --quiet

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) .cache .mypy_cache .pytest_cache .ruff_cache build dist runs
