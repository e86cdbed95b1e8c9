# One word runs everything: `make demo`, `make test`, `make check`. Nothing outside this folder is changed.
PYTHON ?= python3
MPI    ?= mpich
# PyTorch's kernels are tested too, unless it says `make test TORCH=`.
TORCH  ?= torch
VENV   ?= .venv$(addprefix -,$(notdir $(filter-out python3,$(PYTHON))))$(addprefix -,$(filter-out mpich,$(MPI)))
RUN    := $(VENV)/bin
comma  := ,
# One thread per rank: two ranks on two cores must not fight over them.
export OMP_NUM_THREADS ?= 1
export OPENBLAS_NUM_THREADS ?= 1
# Old pips read the first for build environments, new ones the second.
PIP     = PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt \
          $(RUN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: help demo test test-slow check format screenshots check-gpu train-attack release-attack clean
help:            ## show this list
	@awk -F ':.*## *' '/^[a-z0-9-]+:.*##/ { printf "%-20s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/.demo  ## tune an attack network on real images, end to end (QUICK=1: a smaller one)
	@PATH="$(CURDIR)/$(RUN):$$PATH" $(RUN)/jigsaw demo $(if $(QUICK),--quick)

test: check      ## every test that takes seconds
	$(RUN)/python -m pytest -m "not slow and not gpu" --ignore tests/mpi_tests --numprocesses auto --maxprocesses 4 --dist loadfile
	$(RUN)/python -m pytest -m "not slow and not gpu" tests/mpi_tests

test-slow: $(VENV)/.test  ## the tests that take minutes
	$(RUN)/python -m pytest -m "slow and not gpu" --timeout 1800

check: $(VENV)/.test  ## format, lint, types, import walls, documents
	$(RUN)/ruff format --check .
	$(RUN)/ruff check .
	$(RUN)/mypy
	$(RUN)/lint-imports
	$(RUN)/python -m pytest --quiet -m "not slow" tests/test_docs.py

format: $(VENV)/.test  ## rewrite the sources as `check` wants them
	$(RUN)/ruff format .
	$(RUN)/ruff check --fix .

screenshots: $(VENV)/.test  ## pictures of the dashboards for the documents, after make demo
	$(RUN)/python -m tests.dashboards_tests.screenshots

check-gpu: $(VENV)/.test  ## the tests that need a CUDA device
	$(RUN)/python -m pytest -m gpu

bench-step: $(VENV)/.test  ## measure a training step beside PyTorch (QUICK=1: fewer rounds)
bench-step-gpu: $(VENV)/.test  ## measure it on a CUDA device
bench-storage: $(VENV)/.test  ## measure what storing trials costs beside plain Optuna
bench-dashboards: $(VENV)/.test  ## measure the dashboards on 5,000 trials (QUICK=1: on 1,000)
bench-attack: $(VENV)/.test  ## measure the released attacks beside the baselines (RANKS=2, DATASET=fashion_mnist, QUICK=1: minutes)
bench-attack-speed: $(VENV)/.test  ## measure their speed beside the baselines', on a quiet machine
bench-attack-steps: $(VENV)/.test  ## measure what gradient steps after the network's pass are worth (QUICK=1: a minute)
bench-attack-recipe: $(VENV)/.test  ## measure what changes of the recipe that is trained do: half an hour (QUICK=1: a minute)
bench-nips17: $(VENV)/.test  ## a small study on the images of the NIPS'17 contest (QUICK=1: minutes)
bench-snapshots: $(VENV)/.test  ## measure what snapshots cost a trial (QUICK=1: fewer rounds)
bench-workers: $(VENV)/.test  ## measure trials on ranks, 200 faults, pruning, Slurm (QUICK=1; PARTS=trials, pruning, outages, efficiency, weekend, retired)
bench-%: $(VENV)/.test
	$(if $(RANKS),$(RUN)/mpiexec -n $(RANKS) )$(RUN)/python -m benchmarks.bench_$(subst -,_,$*) $(PARTS)

train-attack: $(VENV)/.test  ## train what bench-attack evaluates: hours (PARTS=release, JOBS=2, DATASET=fashion_mnist, QUICK=1: minutes)
	$(RUN)/python -m benchmarks.train_attack $(PARTS)
release-attack: $(VENV)/.test  ## put the chosen trained networks, or NETWORK=weighed-1, and what was measured of them, into models/released
	$(RUN)/python -m benchmarks.release_attack

clean:           ## remove environments, caches and runs
	rm -rf .venv* build dist runs *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { \
	  echo "jigsaw needs Python 3.11 to 3.13, and $(PYTHON) is $$($(PYTHON) -V 2>&1): make PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' || { \
	  echo "$(PYTHON) cannot make virtual environments: apt-get install python3-venv" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.demo: $(VENV)/.python setup.cfg constraints.txt
	@echo "setting up $(VENV) (about a minute, once)"
	$(PIP) -e '.[$(MPI)]'
	@touch $@

$(VENV)/.test: $(VENV)/.demo
	$(PIP) -e '.[$(MPI),test$(if $(TORCH),$(comma)$(TORCH))]'
	@touch $@
