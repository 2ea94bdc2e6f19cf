# make demo   set up, then train, evaluate and draw the synthetic panoptic example
# make test   set up, then lint, type checks and tests
# The set-up goes to .venv and is done once; it is repeated when one of SETUP changes.
# Another interpreter: make PYTHON=python3.11 demo

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SETUP := requirements.txt setup.py tools/install_detectron2.py \
	$(wildcard rpanoptic/installation/*.py rpanoptic/installation/rules/*.py)

CHECK_PYTHON := import sys; v = sys.version_info[:2]; \
	sys.exit(not (3, 10) <= v <= (3, 12) and \
	f"{sys.executable} is Python {v[0]}.{v[1]}; rpanoptic needs 3.10, 3.11 or 3.12. \
	Try: make PYTHON=python3.11 ...")

# Threads that wait by spinning take the cores from whatever else runs on the machine, and from each
# other: with few and busy cores everything then takes several times as long.
export OMP_WAIT_POLICY := PASSIVE

.PHONY: demo test install clean

demo: install
	$(BIN)/python tools/train_net.py --config-file configs/synthetic_panoptic_crbp.yaml

test: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile

install: $(STAMP)

$(STAMP): $(SETUP) | $(BIN)/python
	@$(BIN)/python -c '$(CHECK_PYTHON)'
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps --no-build-isolation -e .
	$(BIN)/python tools/install_detectron2.py
	@touch $@

# A virtual environment that was made only in part would look complete to the next run.
$(BIN)/python:
	@$(PYTHON) -c '$(CHECK_PYTHON)'
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# What the set-up and the tools made; results in output/ and data stay.
clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
