# Each target works on a fresh clone with nothing but Python 3.10 or newer: it makes .venv first.
# make PYTHON=/path/to/python chooses the interpreter. DEMO_SECONDS is how long the demo learns, JOBS how
# many tests run at once, FUZZ_SECONDS how long the firmware is fuzzed by `make fuzz`.

DEMO_SECONDS ?= 60
JOBS ?= 2
FUZZ_SECONDS ?= 3600
BIN := .venv/bin
RUN := runs/demo

.PHONY: demo quick test attack lint firmware fuzz bench bench-docs bench-gpu bench-learning bench-gaze bench-watch pictures soak clean

demo: .venv/demo.stamp
	rm -rf $(RUN)
	$(BIN)/edge-rjepa learn --out $(RUN) --seconds $(DEMO_SECONDS)
	$(BIN)/edge-rjepa export $(RUN) -o $(RUN)/encoder.onnx
	@test -f $(RUN)/report.png || { echo "error: no report was drawn"; exit 1; }
	@echo "What it learned: $(CURDIR)/$(RUN)/report.png"

# The fast tests of every room: what to run while you work.
quick: .venv/test.stamp
	$(BIN)/python -m pytest -n $(JOBS) -m "not (attack or browser or chip or cuda or fuzz or slow)"

test: .venv/test.stamp
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -m "not attack"

# What others broke it with, at full length: damaged files, hostile sockets, every fault by its number.
attack: .venv/test.stamp
	$(BIN)/python -m pytest -n $(JOBS) -m attack tests/attacks

lint: .venv/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The firmware of the pan-tilt head: firmware_bridge/firmware/build/atmega328p/edge_head.hex and .elf.
firmware:
	$(MAKE) -C firmware_bridge/firmware avr

fuzz:
	$(MAKE) -C firmware_bridge/firmware fuzz SECONDS=$(FUZZ_SECONDS)

bench: .venv/test.stamp
	$(BIN)/python -m benchmarks.speed
	$(BIN)/python -m benchmarks.memory
	$(BIN)/python -m benchmarks.live
	$(BIN)/python -m benchmarks.head

# Tables and picture of docs/performance.md. PyTorch is a peer there, and needed for nothing else.
bench-docs: .venv/test.stamp
	$(BIN)/python -c 'import torch' || $(BIN)/python -m pip install torch==2.13.0
	$(BIN)/python -m benchmarks.speed --docs

# Checks and times everything on a GPU; says so where there is none.
bench-gpu: .venv/test.stamp
	$(BIN)/python -m benchmarks.gpu --json gpu.json

bench-learning: .venv/test.stamp
	$(BIN)/python -m benchmarks.learning

bench-gaze: .venv/test.stamp
	$(BIN)/python -m benchmarks.gaze

bench-watch: .venv/test.stamp
	$(BIN)/python -m benchmarks.watch --docs

# The pictures of README and docs, by the commands they show.
pictures: .venv/test.stamp
	$(BIN)/python -m benchmarks.pictures

soak: .venv/test.stamp
	$(BIN)/python -m benchmarks.soak

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

# The stamps say for which requirements the environment was made.
.venv/demo.stamp: setup.py $(wildcard requirements/*.txt) .ci/environment
	@PYTHON="$(PYTHON)" .ci/environment demo
	@touch $@

.venv/test.stamp: setup.py $(wildcard requirements/*.txt) .ci/environment .ci/packages
	@.ci/packages
	@PYTHON="$(PYTHON)" MLXTEND=1 STS=1 .ci/environment test
	@touch $@ .venv/demo.stamp
