# Two commands set everything up by themselves: `make demo` and `make test`.
#   make demo    environment, synthetic corpus, extraction, training, scores
#   make test    environment, then all that CI runs: lint, types, tests
#   make quick   the tests of about a minute: no command line, no other process, no training of more than a moment
#   make slow    the tests that `make test` leaves out: rarer cases, long ones
#   make bench   the benchmarks whose figures docs/log.md quotes
# PYTHON names the interpreter (3.11 or newer); PIP_ARGS goes to pip, for instance an index of CPU-only builds of torch.

VENV ?= .venv
PYTHON ?= python3
PIP_ARGS ?=
BIN := $(VENV)/bin

# What is imported is compiled once and kept, whatever the shell says: each test that starts a process would else compile torch anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup demo test lint types tests quick slow bench clean

setup: $(VENV)/.ready

# Python compiles what is imported when it is imported: compiling all that is installed takes a minute and is hardly used.
$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("tfser needs Python 3.11 or newer: make PYTHON=python3.12 ..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt $(PIP_ARGS) -e '.[dev]'
	@touch $@

demo: setup
	$(BIN)/tfser demo

# Beside each other: the types are checked in one process, which leaves a second core idle. All three run, whichever fails.
test: setup
	@$(MAKE) --no-print-directory --keep-going -j3 lint types tests

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	@mkdir -p build/types && ln -sfn ../.. build/types/tfser
	cd build && MYPYPATH=types ../$(BIN)/mypy --config-file ../pyproject.toml -p tfser.manifests -p tfser.pipeline -p tfser.heads -m tfser.cli

# A process a core, each with one thread: torch's own threads would fight over the cores. Files stay whole, for their fixtures; those
# of the fewest tests come last, so the cores end within seconds of each other.
# Assertions stay as Python has them: rewriting those of all files costs each process twenty seconds where nothing is compiled yet.
# Nor is it kept for each test what is logged: that is a millisecond of each.
# What failed is run once more with both, which says what stood on both sides; that it passes then makes nothing good.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist loadfile --assert=plain -p no:logging
AGAIN := { OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 0 --last-failed --last-failed-no-failures none; exit 1; }

tests: setup
	$(PYTEST) -m "not slow" || $(AGAIN)

slow: setup
	$(PYTEST) -m slow || $(AGAIN)

# What computes and decides, by itself: rules of the house, rows and folds, recipes, losses, metrics, statistics, front-ends.
QUICK := tests/test_layers.py tests/test_the_tests.py \
    $(addprefix tests/manifests/test_,$(addsuffix .py,conditions files folds labels named_protocols protocols)) \
    $(addprefix tests/heads/test_,$(addsuffix .py,augment fit_columns frame_sums identity lineages losses metrics normalise precision recipes \
        segments selections sweep_file tf_transformer)) \
    $(addprefix tests/pipeline/test_,$(addsuffix .py,batches logmel repair upstreams))

quick: setup
	$(PYTEST) -m "not slow" $(QUICK) || $(AGAIN)

# One process after the other: several Ray clusters at once would wait for each other's start.
SCALE := $(addprefix tests/,pipeline/test_ray_cluster.py heads/test_runs_on_ray.py pipeline/test_on_ray.py pipeline/test_remote.py \
    heads/test_shared_runs.py pipeline/test_part.py heads/test_streaming.py heads/test_read_only_cache.py test_full_disk.py)

test-scale: $(VENV)/.scale
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 0 --timeout 3600 $(SCALE)

$(VENV)/.scale: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt $(PIP_ARGS) -e '.[dev,dev-scale]'
	@touch $@

bench: setup
	$(BIN)/python benchmarks/cache_read.py
	$(BIN)/python benchmarks/ssd.py
	$(BIN)/python benchmarks/head_step.py
	$(BIN)/python benchmarks/intervals.py
	$(BIN)/python benchmarks/sweep_speed.py --utterances 30 --threads 1 --rounds 3 --folds 2 --recipe robust --variants "plain,ours"

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
