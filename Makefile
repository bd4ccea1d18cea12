# Everything runs in .venv, which is made once and made again when pyproject.toml or constraints.txt change.
PYTHON ?= python3
PROMPT ?= a red mug
ARGS ?=
BIN := .venv/bin
NBVAL := --nbval --nbval-current-env --nbval-sanitize-with notebooks/nbval_sanitize.cfg --nbval-cell-timeout 300
UNIT := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 tests
export PROMPT
export OMP_WAIT_POLICY ?= passive

# What touches torch, diffusers, transformers, peft, safetensors, numpy, pillow and jaxtyping; a few minutes of one core
CORE := $(addprefix tests/test_,weights.py priors.py refiner.py points.py noise.py schedules.py rules.py critic.py conditions.py \
	mixture.py stage.py pipeline.py scenes.py gaussians.py growth.py nerf.py splat.py mesh.py export.py assets.py text2image.py \
	dream.py)
TOOLS := pytest beartype scikit-image trimesh xatlas

.PHONY: demo test test-oldest test-newest lab check bench notebooks install clean

demo: .venv/.core  ## text to 3D on the bundled prior: make demo PROMPT="a yellow duck"
	$(BIN)/dreamlab dream "$$PROMPT" $(ARGS)

test: install  ## everything CI runs
	$(BIN)/ruff check .
	$(UNIT)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile $(NBVAL) notebooks

check: install  ## lint and the quick tests
	$(BIN)/ruff check .
	$(UNIT) -m "not slow"

test-oldest: .venv-oldest/.done  ## the core of the tests on the lower bounds of pyproject.toml (Python 3.11; gigabytes)
	OMP_NUM_THREADS=1 .venv-oldest/bin/python -m pytest -m "not slow" $(CORE)

test-newest:  ## and on the newest versions that pip finds today
	test -x .venv-newest/bin/python || $(PYTHON) -m venv .venv-newest
	.venv-newest/bin/python -m pip install --upgrade --upgrade-strategy eager -e . $(TOOLS)
	.venv-newest/bin/python -m pip list
	OMP_NUM_THREADS=1 .venv-newest/bin/python -m pytest -m "not slow" $(CORE)

.venv-oldest/.done: pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv --clear .venv-oldest
	.venv-oldest/bin/python -m pip install -c constraints-oldest.txt -e . $(TOOLS)
	touch $@

lab: install  ## open the notebooks
	$(BIN)/jupyter lab notebooks

notebooks: install  ## run every notebook again in place, so that its stored outputs are new
	OMP_NUM_THREADS=2 $(BIN)/jupyter nbconvert --to notebook --execute --inplace --ExecutePreprocessor.record_timing=False notebooks/*.ipynb

bench: install  ## timings and how they grow
	$(BIN)/python -m benchmarks.bench $(ARGS)

install: .venv/.full

.venv/.core: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("dreamlab needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -c constraints.txt torch
	$(BIN)/python -m pip install -c constraints.txt -e .
	touch $@

.venv/.full: .venv/.core
	$(BIN)/python -m pip install -c constraints.txt -e ".[notebooks,dev]"
	touch $@

clean:  ## remove the environment and what runs have made
	rm -rf .venv .venv-oldest .venv-newest runs
