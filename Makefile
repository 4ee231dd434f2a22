# Everything runs from .venv in this checkout; each target does its own set-up and can be called again.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test lint docs fuzz presets bench

setup: .venv/.ready

.venv/.ready: pyproject.toml constraints.txt
	@echo "Making .venv and installing biflow into it (a few minutes the first time)."
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

demo: setup
	$(BIN)/biflow demo --out out

# A process for each core, of one thread: the tensors of tests are tiny, and threads get in each other's way.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# The documentation as a site, in site/. A warning is an error.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "site/index.html"

# Damaged files for every reader, for 10 minutes. What was not refused in a sentence lies in fuzz-findings/.
fuzz: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[fuzz]"
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz.run

# Render the dataset and train the preset, on whatever device there is; resumes what was interrupted.
presets: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[maze]"
	$(BIN)/python datasets/maze.py datasets/maze-frames
	test -e datasets/maze/index.json || $(BIN)/biflow prepare datasets/maze-frames datasets/maze --size 64
	$(BIN)/biflow train --preset maze --data datasets/maze --out runs/maze
	$(BIN)/biflow train --preset maze --data datasets/maze --out runs/maze_fast --method flowmap --from runs/maze --lr 1e-3 --steps 30000
	$(BIN)/biflow export runs/maze_fast src/biflow/models/maze --license mit

# The benchmarks in short form against the committed results; benchmarks/README.md has the long ones.
bench: setup
	$(BIN)/python -m benchmarks.check
