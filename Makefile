# Each target works on a fresh clone with nothing but Python 3.10 or newer: it makes .venv first.
# make PYTHON=/path/to/python chooses the interpreter. DEMO_SECONDS is how long the demo learns, JOBS how
# many tests run at once (many only wait, for a head that turns, say, so one more than two cores),
# FUZZ_SECONDS how long the firmware is fuzzed by `make fuzz`.

DEMO_SECONDS ?= 60
JOBS ?= 3
FUZZ_SECONDS ?= 3600
BIN := .venv/bin
RUN := runs/demo
SUITE = $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

.PHONY: demo quick test long attack readers robots lerobot foxglove fleet debian arm64 lint firmware fuzz bench bench-docs bench-gpu bench-learning bench-gaze bench-teach bench-robots bench-watch pictures soak lock clean

demo: .venv/demo.stamp
	rm -rf $(RUN)
	$(BIN)/edge-rjepa learn --out $(RUN) --seconds $(DEMO_SECONDS)
	$(BIN)/edge-rjepa export $(RUN) -o $(RUN)/encoder.onnx
	@test -f $(RUN)/report.png || { echo "error: no report was drawn: try a larger DEMO_SECONDS"; exit 1; }
	@echo "What it learned: $(CURDIR)/$(RUN)/report.png"

# Tests start hundreds of processes: each would compile all sources anew where Python may keep nothing.
quick test long attack: export PYTHONDONTWRITEBYTECODE :=

# The fast tests of every room: what to run while you work.
quick: .venv/test.stamp
	$(SUITE) -m "not (attack or browser or chip or cuda or fuzz or long or slow)"

test: .venv/test.stamp
	$(SUITE) -m "not (attack or long)"

# What takes a core half a minute or more and seldom changes; continuous integration runs it after the others.
long: .venv/test.stamp
	$(SUITE) -m "long and not attack"

# What others broke such programs with, kind by kind, as a table; and a thousand damaged files of each kind.
attack: .venv/test.stamp
	$(BIN)/python -m tests.attacks.faults $(JOBS)

# The exported files under OpenVINO, ncnn and TFLite, in an environment beside the tests' own.
readers: .venv/readers.stamp
	.venv/readers/bin/python -m pytest -rs tests/encoder/test_readers.py

# Datasets that LeRobot's own code writes, loads and trains on, in an environment beside the tests' own: some
# gigabytes. make lerobot LEROBOT_PYTHON=/path/to/python takes one that has it.
lerobot: .venv/test.stamp $(if $(LEROBOT_PYTHON),,.venv/lerobot.stamp)
	$(BIN)/python -m pytest -rs tests/encoder/test_lerobot_peer.py

# The live view for Foxglove with Foxglove's own client for JavaScript, which npm installs beside .venv.
foxglove: .venv/test.stamp
	npm install --silent --prefix .venv/foxglove @foxglove/ws-protocol@0.8.0 ws@8
	$(BIN)/python -m pytest -rs tests/views/test_foxglove.py

# Each implementation of ROS 2 with each, in an environment beside the tests' own that has rclpy and Fast DDS.
robots: .venv/robots.stamp
	.venv/robots/bin/python -m pytest -rs tests/ros2_link tests/sources/test_ros2.py tests/views/test_ros2.py \
		tests/firmware_bridge/test_ros_joints.py tests/cli/test_ros2_cli.py

# Robots that learn together on Flower, in an environment beside the tests' own.
fleet: .venv/fleet.stamp
	.venv/fleet/bin/python -m pytest -rs tests/fleet

# Sources with the system's own OpenCV, GStreamer and RTSP servers that restart.
debian:
	.ci/debian

# The core of the suite on an emulated 64-bit Arm processor; .ci/arm64 says what it does.
arm64:
	.ci/arm64

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
	$(BIN)/python -m benchmarks.instructions --cache
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

bench-teach: .venv/test.stamp
	$(BIN)/python -m benchmarks.teach --docs

bench-robots: .venv/robots.stamp
	.venv/robots/bin/python -m benchmarks.robots

bench-watch: .venv/test.stamp
	$(BIN)/python -m benchmarks.watch --docs --efficientnet .venv/efficientnet

# The pictures of README and docs, by the commands they show.
pictures: .venv/test.stamp
	$(BIN)/python -m benchmarks.pictures

soak: .venv/test.stamp
	$(BIN)/python -m benchmarks.soak

# The versions and hashes that continuous integration installs. Renew them after a change of setup.py
# or requirements/, and now and then.
LOCK := .venv/uv/bin/uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --upgrade --no-header --no-annotate
lock: .venv/test.stamp
	test -x .venv/uv/bin/uv || { $(BIN)/python -m venv .venv/uv && .venv/uv/bin/pip install --quiet uv; }
	$(LOCK) --extra test setup.py -o requirements/locked/test.txt
	$(LOCK) --no-deps requirements/locked/alone.in -o requirements/locked/alone.txt

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

# The stamps say for which requirements the environment was made.
.venv/demo.stamp: setup.py $(wildcard requirements/*.txt) .ci/environment
	@PYTHON="$(PYTHON)" .ci/environment demo
	@touch $@

.venv/test.stamp: setup.py $(wildcard requirements/*.txt requirements/locked/*.txt) .ci/environment .ci/packages
	@.ci/packages
	@PYTHON="$(PYTHON)" MLXTEND=1 PTXAS=1 STS=1 .ci/environment test
	@touch $@ .venv/demo.stamp

# What only a deployer needs, with the versions of NumPy and ONNX that it wants, before all of .venv. Of
# pnnx its program alone is used.
.venv/readers.stamp: .venv/test.stamp
	$(BIN)/python -m venv .venv/readers
	.venv/readers/bin/python -m pip install openvino ncnn ai-edge-litert onnx2tf
	.venv/readers/bin/python -m pip install --no-deps pnnx
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
		> "$$(.venv/readers/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/parent.pth"
	@touch $@

.venv/lerobot.stamp: .venv/test.stamp
	$(BIN)/python -m venv .venv/lerobot
	.venv/lerobot/bin/python -m pip install 'lerobot[dataset,training]'
	@touch $@

# What a robot runs: rclpy of ROS 2 Kilted on Fast DDS, from wheels that somebody other than ROS's makers
# builds, before all of .venv.
.venv/robots.stamp: .venv/test.stamp
	$(BIN)/python -m venv .venv/robots
	.venv/robots/bin/python -m pip install ros-rclpy ros-kilted-rmw-fastrtps-cpp ros-kilted-diagnostic-msgs \
		ros-geometry-msgs ros-kilted-sensor-msgs ros-kilted-std-msgs ros-kilted-trajectory-msgs
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
		> "$$(.venv/robots/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/parent.pth"
	@touch $@

# Flower wants other versions of libraries that .venv has, too.
.venv/fleet.stamp: .venv/test.stamp
	$(BIN)/python -m venv .venv/fleet
	.venv/fleet/bin/python -m pip install 'flwr>=1.42,<1.43'
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
		> "$$(.venv/fleet/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/parent.pth"
	@touch $@
