"""Camera, gaze, serial line, firmware, servos, camera: the shipping code at each step of the loop.

The camera is a simulated one that the pulses on the emulated chip's pins turn.
"""

import json
import math
import subprocess
import sys
import time
from collections import deque

import numpy as np
import pytest

from edge_rjepa.eye.config import HeadConfig
from edge_rjepa.learner.config import RJepaConfig
from edge_rjepa.run.config import RunConfig
from edge_rjepa.run.run import Run
from edge_rjepa.sources import open_source, reach_rad
from firmware_bridge import open_head
from firmware_bridge.aim import PULSES
from firmware_bridge.track import Pose
from tests.firmware_bridge import emulated

pytestmark = pytest.mark.chip

emulated.require()

TICK_RAD = 0.5 / PULSES.per_rad  # half a microsecond
NETWORK = RJepaConfig(n_embedding=16, n_hidden=24, n_predictor=24, n_gain=8)
PAN_RAD, TILT_RAD = reach_rad("scene:")
CONFIG = RunConfig(
    network=NETWORK,
    metrics_every_frames=30,
    head=HeadConfig(pan_limit_rad=PAN_RAD, tilt_limit_rad=TILT_RAD),
)
PATIENCE_S = 300.0


class Servos:
    """Two servos on the pins of the emulated board: they point where their pulses tell."""

    def __init__(self, board):
        self._board = board
        self._angles_rad = 0.0, 0.0  # servos without torque stay as they are
        self.truth = deque(maxlen=20_000)  # (t_s, angles) whenever a picture was taken

    def at(self, t_s):
        pulses_us = self._board.measured()
        if pulses_us:
            self._angles_rad = tuple(map(PULSES.angle_rad, pulses_us))
        self.truth.append((t_s, self._angles_rad))
        return Pose(*self._angles_rad, moving=False)


class Watch:
    """A recorder that notes where the learner thought it looked from."""

    folder = None

    def __init__(self):
        self.believed = []  # (t_s, angles) of the frames used

    def add(self, frame, gaze_rad, fixations):
        self.believed.append((frame.t_capture_s, frame.head_rad))

    def close(self, digest=None):
        pass


@pytest.fixture
def world(tmp_path):
    """A board, the head it drives, the servos it turns, and a run that learns from there."""
    with emulated.Board() as board:
        servos, watch = Servos(board), Watch()
        with (
            open_head(f"serial:{board.path}") as head,
            open_source("scene:", seed=1, mount=servos) as source,
        ):
            goals = noted_moves(head)
            head.home()
            run = Run.start(tmp_path / "run", CONFIG, source, head=head, recorder=watch)
            yield run, board, servos, watch, goals


def noted_moves(head):
    """Every pair of angles that the head says it was commanded to from now on."""
    goals, move = [], head.move

    def noting(*angles_rad):
        goals.append(move(*angles_rad))
        return goals[-1]

    head.move = noting
    return goals


def learn(run, enough):
    """Until there is enough of it; the events on the way."""
    events, measures = [], []
    end_s = time.monotonic() + PATIENCE_S
    run.learn(lambda run: time.monotonic() < end_s and not enough(), measures.append, events.append)
    assert enough(), f"not within {PATIENCE_S} s: {events}"
    return events, measures


def distance_rad(a, b):
    return math.dist(a, b)


def test_gaze_turns_the_camera_and_the_learner_knows_where_it_looks_from(world):
    run, _, servos, watch, goals = world
    _, measures = learn(run, lambda: len(goals) >= 12 and run.learner.fixations >= 4000)

    # Where it thought it looked from is where the pulses on the pins had turned the camera.
    truth = dict(servos.truth)
    errors_rad = [distance_rad(truth[t_s], head) for t_s, head in watch.believed]
    assert max(errors_rad) < 2 * TICK_RAD

    # What gaze commanded was reached, and pictures from there were learned from.
    poses = {head for _, head in watch.believed}
    reached = [
        goal for goal in goals[:-1] if min(distance_rad(goal, at) for at in poses) < TICK_RAD
    ]
    assert len(reached) >= 0.9 * len(goals[:-1])
    assert np.ptp([pan_rad for pan_rad, _ in poses]) > math.radians(5.0)
    assert run.loop.skipped["head moving"] > 0

    # And learning went on.
    assert run.learner.fixations >= 4000
    assert measures[-1].health.information > measures[0].health.information + 0.05


def test_learning_goes_on_when_the_head_is_unplugged(world):
    run, board, servos, watch, goals = world
    learn(run, lambda: len(goals) >= 2)
    board.unplug()
    frames = run.frames
    events, _ = learn(run, lambda: run.frames >= frames + 60)
    assert any("lost" in event for event in events)

    # It believes what is true: that the board, which kept its power, has gone home.
    t_s, believed = watch.believed[-1]
    assert distance_rad(dict(servos.truth)[t_s], believed) < TICK_RAD
    assert distance_rad(believed, (0.0, 0.0)) < TICK_RAD

    board.replug()
    told = len(goals)
    events, _ = learn(run, lambda: len(goals) >= told + 2 and board.measured() != (1500.0, 1500.0))
    assert any("found again" in event for event in events)


def test_from_the_command_line(typed, tmp_path):
    command = [sys.executable, "-m", "edge_rjepa", "learn", "--seconds", "6", "--out"]
    with emulated.Board(boot_s=0.5) as board:
        at = f"serial:{board.path}"
        learned = subprocess.run(
            [*command, str(tmp_path / "run"), "--head", at],
            capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        assert learned.returncode == 0, learned.stderr
        assert f"at {board.path}" in learned.stderr
        widths = {(axis, width_us) for _, axis, width_us in board.history}
        assert len(widths) > 20  # it was turned ..
        farthest_us = max(abs(width_us - 1500.0) for _, width_us in widths)
        assert farthest_us <= PAN_RAD * PULSES.per_rad + 0.5  # .. and not beyond the scene's end
        board.wait_for(lambda: board.measured() == (1500.0, 1500.0))  # left alone, it goes home

        refused = typed(tmp_path, "learn", "--source", ".", "--head", at)
        assert refused.returncode == 1 and len(refused.stderr.strip().splitlines()) <= 2
        status = json.loads(typed(tmp_path, "head", "status", "--head", at, "--json").stdout)
        assert status["connected"] and status["limits_deg"][0] == pytest.approx([-45.0, 45.0])
    gone = typed(tmp_path, "learn", "--head", at, "--out", "none")
    assert gone.returncode == 1 and "Traceback" not in gone.stderr and at[7:] in gone.stderr
    assert not (tmp_path / "none").exists()
