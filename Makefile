# Sets everything up from nothing but python3 (3.11 or newer) and the package index.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DATA ?= digits
# Further arguments of the tests, such as -k name.
PYTEST ?=
# Of the slow tests only every N-th file from the K-th on: PART=K/N.
PART ?=

.PHONY: help demo docs readme-assets test test-all test-slow native-sanitized conformance bench lint dist setup clean
help:
	@echo "make demo   train a network without and with a spatial transformer; runs/demo/report.html"
	@echo "make test   run the quick tests, within minutes"
	@echo "make test-all   run the thorough tests as well, as the gate does, within half an hour"
	@echo "make test-slow   run those that test-all leaves out, which takes hours; PART=0/7 runs a seventh of their files"
	@echo "make conformance   tables of members × laws: transforms and the sampler beside oracles, and all"
	@echo "                   members, kernels, paddings, options and modules under what JAX does to functions"
	@echo "make bench  every benchmark in its small form, for errors rather than for times"
	@echo "make lint   ruff and mypy"
	@echo "make docs   the documentation, every page executed; build/docs/index.html"
	@echo "make readme-assets   the README's tables and pictures, where they are stale"
	@echo "make dist   wheel and source distribution, in dist"
	@echo "make clean  remove the environment, caches and runs"

setup: $(VENV)/.installed $(VENV)/.native

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "stn_jax needs Python 3.11 or newer; $(PYTHON) is " + sys.version.split()[0] + ". Name another: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

# The compiled CPU engine, where a C++ compiler is. All else works without it.
CXX_FOUND := $(shell command -v $${CXX:-c++} || command -v g++ || command -v clang++)
NATIVE_SOURCES := $(wildcard native/*.txt native/*.toml native/src/* native/src/*/* native/stn_jax_native/*)
WITHOUT_NATIVE := warps on a CPU take 2 to 10 times as long without it; all else works
$(VENV)/.native: $(VENV)/.installed $(NATIVE_SOURCES)
ifeq ($(CXX_FOUND),)
	@echo "The native engine was not built, since there is no C++ compiler: $(WITHOUT_NATIVE)."
else
	@$(BIN)/python -m pip install --quiet ./native > $(VENV)/native.log 2>&1 \
	    || echo "The native engine was not built, see $(VENV)/native.log: $(WITHOUT_NATIVE)."
endif
	@touch $@

demo: setup
	$(BIN)/python -m experiments.distorted_mnist --model fcn st-fcn --distortion RTS --data $(DATA) \
	    --steps 3000 --batch-size 64 --validation 0 --test-copies 8 --out runs/demo --overwrite

docs: setup
	$(BIN)/python -m docs.build

readme-assets: setup
	$(BIN)/python -m docs.readme

dist: setup
	$(BIN)/python -m build

test: setup
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal --quiet -m "not slow and not thorough" $(PYTEST)

test-all: setup
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal --quiet --durations 10 -m "not slow" $(PYTEST)

test-slow: setup
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal --quiet --durations 10 -m slow \
	    $(if $(PART),--part $(PART)) $(PYTEST)

# The native engine built with the address and undefined-behaviour sanitizers, and one in thirteen of its tests: that
# number divides no count of alternatives, so each is met.
SANITIZED := $(abspath $(VENV))/sanitized
RUNTIMES = $$(for name in asan ubsan; do $${CXX:-c++} -print-file-name=lib$$name.so; done | tr '\n' ':')
native-sanitized: setup
ifeq ($(CXX_FOUND),)
	@echo "There is no C++ compiler: the native engine cannot be built."
else
	@$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(SANITIZED) \
	    --config-settings cmake.define.STN_JAX_SANITIZE=ON ./native
	cd native/tests && LD_PRELOAD="$(RUNTIMES)" ASAN_OPTIONS=detect_leaks=0 PYTHONPATH=$(SANITIZED) \
	    $(abspath $(BIN))/python -m pytest --quiet --every 13 test_taps.py test_errors.py test_sample.py test_affine.py test_paths.py test_boxes.py
endif

conformance: setup
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal --quiet --conformance \
	    tests/transforms/test_transforms.py tests/transforms/test_composition.py \
	    tests/transforms/test_mesh.py tests/sampling/test_sampling.py \
	    tests/sampling/test_sampler_composition.py tests/nn/test_module_composition.py

BENCHMARKS := sampler transforms train_step seeds cost compile scaling pipeline registration augmentation
bench: setup
	for name in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$name --small || exit; done

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) .cache .mypy_cache .pytest_cache .ruff_cache build dist runs
