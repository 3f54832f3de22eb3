"""What a run can reach is compiled, or loaded, before its first frame.

Loading opens files. A run that has lived for days must not end because at that moment the process
has no descriptor left, or the disk is gone.
"""

import os
import signal
import subprocess
import sys
import time

import pytest

from edge_rjepa.eye.config import GazePolicy
from edge_rjepa.run import warm_up as module

pytestmark = pytest.mark.slow

# In a process of its own: in this one, other tests have loaded every kernel already.
PROGRAM = """
import sys, tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from edge_rjepa.base.jit import KernelCache
from edge_rjepa.optics.camera import Pinhole
from edge_rjepa.run.config import RunConfig
from edge_rjepa.run.run import Run
from edge_rjepa.sources import open_source

late = []
load = KernelCache.load_overload

def noted(self, sig, target):
    if run is not None:
        late.append(f"{self._kernel.py_func.__name__} {sig}")
    return load(self, sig, target)

KernelCache.load_overload = noted
run = None
config = RunConfig(held_out_frames=4, metrics_every_frames=10, rollback_every_frames=20)
config = replace(config, gaze=replace(config.gaze, policy=sys.argv[1]))

def go_on(run):
    run.loop.pace.fixations = 1 + run.frames % run.loop.pace.most  # as it does when it falls behind
    return run.frames < 2 * run.loop.pace.most

with open_source("scene:") as source, tempfile.TemporaryDirectory() as folder:
    run = Run.start(Path(folder) / "run", config, source)
    run.learn(go_on, lambda progress: None)
    camera = source.camera
    picture = np.zeros((camera.height_px, camera.width_px, 3), np.uint8)
    eye, learner = run.loop.eye, run.learner
    picture.flags.writeable = False  # as those of recordings
    eye.look(camera, picture, (0.2, 0.1), 3)
    upright = np.zeros((camera.width_px, camera.height_px, 3), np.uint8).transpose(1, 0, 2)
    eye.look(camera, upright, (0.0, 0.0), 3)
    narrow = Pinhole(64, 48, 0.04)  # one cell of the map is in view
    eye.look(narrow, np.zeros((48, 64, 3), np.uint8), (0.0, 0.0), 3)
    eye.gaze.learned(np.zeros(3))
    eye.gaze._wander(camera, (0.0, 0.0), 3)  # as where no cell of the map is in view
    for fixations in range(1, config.network.max_block + 1):
        block = [np.zeros((fixations, n)) for n in (config.network.n_features, 4)]
        learner.learn_block(*block)
        learner.embed(*block)
    run._roll_back("as if")
    run.learn(lambda run: run.frames < 3 * run.loop.pace.most, lambda progress: None)
    run.finish()
print("late:", *late, sep="\\n")
"""


@pytest.mark.parametrize("policy", [policy.value for policy in GazePolicy])
def test_no_kernel_is_loaded_while_a_run_learns(policy):
    command = [sys.executable, "-c", PROGRAM, policy]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("late:\n")[1].strip() == ""


FIRST_START = """
import subprocess, sys

from edge_rjepa import Gaze, Retina
from edge_rjepa.base.jit import KernelCache
from edge_rjepa.eye.eye import Eye
from edge_rjepa.run.warm_up import nothing_compiled, warm_up

class Learner:  # one that has nothing to compile
    def warm_up(self):
        pass

started, compiled = [], []
popen, save = subprocess.Popen, KernelCache.save_overload
subprocess.Popen = lambda *args, **kw: started.append(1) or popen(*args, **kw)
KernelCache.save_overload = lambda self, *args: compiled.append(1) or save(self, *args)
print(nothing_compiled())
warm_up(Learner(), Eye(Gaze(), Retina()))
print(nothing_compiled())
warm_up(Learner(), Eye(Gaze(), Retina()))
print(len(started), len(compiled))
"""


@pytest.mark.skipif(os.cpu_count() == 1, reason="two processes would take turns")
def test_at_a_first_start_another_process_compiles_for_the_eye(tmp_path):
    """All of it: this process then loads what that one left, and no third is started."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    said = subprocess.check_output(
        [sys.executable, "-c", FIRST_START], env=environment, text=True, timeout=300
    )
    assert said.split() == ["True", "False", "1", "0"]


def test_a_first_start_says_that_it_compiles_and_ends_when_told(tmp_path):
    command = [sys.executable, "-m", "edge_rjepa", "learn", "--source", "scene:", "--out"]
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "kernels")}
    with subprocess.Popen(
        [*command, str(tmp_path / "run")], env=environment, stderr=subprocess.PIPE, text=True
    ) as learning:
        try:
            said = [learning.stderr.readline() for _ in range(2)]
            learning.send_signal(signal.SIGINT)
            rest = learning.communicate(timeout=60)[1]
        finally:
            learning.kill()
    assert said[1].startswith("compiling for this machine"), said
    assert learning.returncode == 130 and "Traceback" not in rest, rest


class Parts:
    """A learner or an eye."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error, self.warm = error, False

    def warm_up(self) -> None:
        if self.error:
            raise self.error
        self.warm = True


@pytest.fixture
def nothing_compiled(monkeypatch):
    """As on a new machine of two cores."""
    monkeypatch.setattr(module, "compiles_anew", lambda kernel: True)
    monkeypatch.setattr(module.os, "cpu_count", lambda: 2)


FOR_EVER = "import time; time.sleep(600)"


@pytest.mark.parametrize(
    ("executable", "program"),
    [("/no/such/python", ""), (sys.executable, "1 / 0"), (sys.executable, FOR_EVER)],
    ids=["cannot be started", "fails", "hangs"],
)
@pytest.mark.usefixtures("nothing_compiled")
def test_what_goes_wrong_in_the_other_process_is_no_matter(monkeypatch, executable, program):
    monkeypatch.setattr(module.sys, "executable", executable)
    monkeypatch.setattr(module, "COMPILE_EYE", program)
    monkeypatch.setattr(module, "PATIENCE_S", 0.5)
    learner, eye = Parts(), Parts()
    module.warm_up(learner, eye)
    assert learner.warm and eye.warm


@pytest.mark.usefixtures("nothing_compiled")
def test_the_other_process_ends_where_the_learner_fails(monkeypatch):
    """As it does by Ctrl-C, or where a GPU is away."""
    monkeypatch.setattr(module, "COMPILE_EYE", FOR_EVER)
    started, popen = [], subprocess.Popen
    monkeypatch.setattr(
        module.subprocess,
        "Popen",
        lambda *args, **kw: started.append(popen(*args, **kw)) or started[-1],
    )
    began, eye = time.monotonic(), Parts()
    with pytest.raises(KeyboardInterrupt):
        module.warm_up(Parts(KeyboardInterrupt()), eye)
    assert started[0].returncode is not None and not eye.warm
    assert time.monotonic() - began < 60.0
