# Two commands do everything: `make train` and `make test`. Both set up .venv first.
PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help train compare test test-all test-clients test-lowest test-docs attack gpu check docs bench format clean

help:  ## list the commands
	@grep -E '^[a-z.-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/'

.venv: .venv/installed  ## create the virtual environment and install everything, exactly as locked

.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python >= 3.11 is needed, this is " + sys.version.split()[0] + ": make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

train: .venv  ## the main job: Munchausen DQN with TLM on the 4-dimensional hypergrid of side 20
	$(BIN)/python agents/run.py --agent mdqn --backward tlm --trajectories 112000 --seed 3 --out runs/main --overwrite

compare: .venv  ## agents, Stable-Baselines3, random and MCMC on the same hypergrid: runs/compare/report/report.html
	$(BIN)/python agents/sweep.py compare
	$(BIN)/python agents/compare.py runs/compare --out runs/compare/report

test: check  ## style, types and the quick tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

test-all: .venv  ## the slow tests besides
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not attack"

attack: .venv  ## kills, full disks, broken files, hostile input, leaks; ATTACK_SHARE=0.1 does a tenth of them
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m attack tests/attack

gpu: .venv  ## on a CUDA device: the tests that need one, then the speed of each environment at three batch sizes
	$(BIN)/python -m pytest -m gpu tests/gpu
	for graphs in --no-cuda-graphs --cuda-graphs; do \
		echo "training with $$graphs"; \
		$(BIN)/python -m agents.runs.bench --device cuda --env all --batch-size 16 256 4096 --pairs db-tlm --parts training \
			--seconds 1 --rounds 1 --warm-up 5 $$graphs || exit 1; \
	done

PURELIB = python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'

# An environment beside .venv sees what .venv has, torch above all. What it has itself comes first: pins may collide.
define environment
$(BIN)/python -m venv $(@D)
printf '%s\n' "$(CURDIR)" "$$($(BIN)/$(PURELIB))" > "$$($(@D)/bin/$(PURELIB))/project.pth"
$(@D)/bin/python -m pip install --quiet --no-deps --requirement $<
touch $@
endef

CLIENTS := torchrl rllib tianshou minari

test-clients: .venv $(CLIENTS:%=.clients/%/installed)  ## the examples of docs/clients, each library in its own environment
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "slow or not slow" tests/clients
	for client in $(CLIENTS); do \
		OMP_NUM_THREADS=1 .clients/$$client/bin/python -m pytest -m "slow or not slow" -k $$client tests/clients || exit 1; \
	done

.clients/%/installed: tests/clients/%.txt .venv/installed
	$(environment)

docs: .docs/installed  ## the documentation as a website, which needs no network: site/index.html
	NO_MKDOCS_2_WARNING=1 .docs/bin/python -m mkdocs build --strict

test-docs: .docs/installed  ## the website: strictly built, links, notebooks
	OMP_NUM_THREADS=1 .docs/bin/python -m pytest -m "slow or not slow" tests/docs/test_site.py

.docs/installed: docs/site/requirements.txt .venv/installed
	$(environment)

# PyTorch is the locked one: wheels of its earlier releases bring gigabytes of CUDA. LOWEST_TORCH=torch==2.6.0 takes them.
LOWEST_TORCH := $(shell grep '^torch==' requirements.lock)

test-lowest: .lowest/installed  ## the quick tests with the lowest versions that pyproject.toml allows
	OMP_NUM_THREADS=1 .lowest/bin/python -m pytest -n 2 --dist worksteal

.lowest/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv --clear .lowest
	.lowest/bin/python -m pip install --quiet uv
	echo torch > .lowest/excludes.txt
	.lowest/bin/uv pip compile --quiet --resolution lowest-direct --extra all --extra dev \
		--excludes .lowest/excludes.txt --output-file .lowest/requirements.txt pyproject.toml
	.lowest/bin/python -m pip install --quiet --requirement .lowest/requirements.txt $(LOWEST_TORCH)
	.lowest/bin/python -m pip install --quiet --no-deps --editable .
	touch $@

check: .venv  ## style and types, without the tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright

bench: .venv  ## speed of rollouts, training and the vector environment
	$(BIN)/python -m agents.runs.bench

format: .venv  ## put the code into the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove the virtual environment and caches; runs stay
	rm -rf .venv .clients .lowest .docs site build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
