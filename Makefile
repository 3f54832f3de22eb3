# Each target works on a fresh clone with nothing but Python 3.10 or newer: it makes .venv first.
# make PYTHON=/path/to/python chooses the interpreter. DEMO_SECONDS is how long the demo learns.

DEMO_SECONDS ?= 60
BIN := .venv/bin
RUN := runs/demo

.PHONY: demo test lint bench bench-docs bench-learning bench-gaze soak clean

demo: .venv/demo.stamp
	rm -rf $(RUN)
	$(BIN)/edge-rjepa learn --out $(RUN) --seconds $(DEMO_SECONDS)
	$(BIN)/edge-rjepa export $(RUN) -o $(RUN)/encoder.onnx
	@test -f $(RUN)/report.png || { echo "error: no report was drawn"; exit 1; }
	@echo "What it learned: $(CURDIR)/$(RUN)/report.png"

test: .venv/test.stamp
	$(BIN)/python -m pytest

lint: .venv/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: .venv/test.stamp
	$(BIN)/python -m benchmarks.speed
	$(BIN)/python -m benchmarks.memory
	$(BIN)/python -m benchmarks.live

# Tables and picture of docs/performance.md. PyTorch is a peer there, and needed for nothing else.
bench-docs: .venv/test.stamp
	$(BIN)/python -c 'import torch' || $(BIN)/python -m pip install torch==2.13.0
	$(BIN)/python -m benchmarks.speed --docs

bench-learning: .venv/test.stamp
	$(BIN)/python -m benchmarks.learning

bench-gaze: .venv/test.stamp
	$(BIN)/python -m benchmarks.gaze

soak: .venv/test.stamp
	$(BIN)/python -m benchmarks.soak

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

# The stamps say for which setup.py the environment was made.
.venv/demo.stamp: setup.py .ci/environment
	@PYTHON="$(PYTHON)" .ci/environment demo
	@touch $@

.venv/test.stamp: setup.py .ci/environment
	@PYTHON="$(PYTHON)" MLXTEND=1 .ci/environment test
	@touch $@ .venv/demo.stamp
