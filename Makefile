# make demo: installs, draws a data set, trains on it.   make test: installs, runs the tests.   make test-long: those that take minutes each.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PROCESSES ?= 2
INSTALLED := $(VENV)/.installed

.PHONY: demo test test-long parity storm lint clean

demo: $(INSTALLED)
	$(BIN)/distgan prepare shapes --out data/shapes
	$(BIN)/accelerate launch --config_file launch/cpu.yaml --num_processes $(PROCESSES) \
		distgan/train.py --config configs/quickstart.yaml
	@echo
	@echo "Look at:"
	@echo "  runs/quickstart/reals.png               what it was shown"
	@echo "  runs/quickstart/samples/                what it makes, from the first step to the last"
	@echo "  runs/quickstart/samples/evolution.gif   the same, moving"
	@echo "  runs/quickstart/curves.png              the losses"

test: $(INSTALLED)
	$(BIN)/python -m pytest --numprocesses 2

test-long: $(INSTALLED)
	$(BIN)/python -m pytest --numprocesses 2 -m long

parity: $(INSTALLED)
	$(BIN)/python tests/parity/matrix.py

storm: $(INSTALLED)
	$(BIN)/python tests/storm/storm.py --seed 1 --faults 50

lint: $(INSTALLED)
	$(BIN)/python -m pip install --quiet ruff
	$(BIN)/ruff check distgan tests benchmarks
	$(BIN)/ruff format --check distgan tests benchmarks

clean:
	rm -rf $(VENV) build *.egg-info

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV) || { echo "needs Python 3.10 or newer with venv (Debian: apt-get install python3-venv)"; exit 1; }
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	touch $@
