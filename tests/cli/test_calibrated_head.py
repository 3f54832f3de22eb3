"""A head is calibrated through the shipping firmware, and then looks where it is told to.

All of it is real but for the servos and the camera, which are worked out from the pulses on the
emulated chip's pins: curved, askew, with backlash, behind a lens with distortion, and late. In real
time, so more than a minute.
"""

import math
import subprocess
import sys
import threading
import time
from collections import deque
from dataclasses import replace
from typing import NamedTuple

import cv2
import numpy as np
import pytest

from benchmarks.faulty_camera import FaultyCamera
from benchmarks.simulated_rig import Truth, View, camera_of, draw_truth
from calibration import io
from calibration.aim import CalibratedAim
from calibration.io import HeadRecord
from edge_rjepa.run.config import RunConfig
from edge_rjepa.run.run import load_run
from firmware_bridge import open_head
from tests.calibrations import camera_record
from tests.firmware_bridge import emulated

pytestmark = [pytest.mark.chip, pytest.mark.long]

emulated.require()

FRAMES_A_SECOND = 25.0
DELAY_S = 0.1
WITHIN_PX = 2.0


def truth_of(seed: int):
    """A rig as drawn, whose servos stop at the same place each time, and which is sent home."""
    truth = draw_truth(seed)
    pan, tilt = (
        replace(servo, low_us=1000.0, high_us=2000.0, jitter_rad=0.0)
        for servo in (truth.pan, truth.tilt)
    )
    return replace(truth, pan=pan, tilt=tilt, noise=3.0, moving_share=0.1)


class Servos:
    """Servos on the pins of the emulated board; they follow its pulses, with their backlash."""

    def __init__(self, board, truth):
        self._board, self._truth = board, truth
        self._shafts = np.zeros(2)
        self._past = deque([(time.monotonic(), np.zeros(2))], maxlen=2000)  # (t_s, shafts)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._turn)
        self._thread.start()

    def close(self):
        self._ended.set()
        self._thread.join()

    def _turn(self):
        while not self._ended.wait(0.005):
            pulses = self._board.measured()
            if pulses:
                for k, servo in enumerate(self._truth.servos):
                    motor, half = servo.angle(pulses[k]), 0.5 * servo.backlash_rad
                    self._shafts[k] = min(max(self._shafts[k], motor - half), motor + half)
            self._past.append((time.monotonic(), self._shafts.copy()))

    @property
    def shafts(self):
        return self._past[-1][1]

    def shafts_at(self, t_s):
        return next((s for at_s, s in reversed(list(self._past)) if at_s <= t_s), self._past[0][1])


class Camera(FaultyCamera):
    """A network camera on the servos: what it sends was taken DELAY_S before."""

    def __init__(self, servos, truth):
        self._servos, self._truth = servos, truth
        self._view = View(truth, np.random.default_rng(truth.seed))
        super().__init__(frames_per_s=FRAMES_A_SECOND)

    def _encoded(self, number):
        shafts = np.tile(self._servos.shafts_at(time.monotonic() - DELAY_S), (5, 1))
        return cv2.imencode(".jpg", self._view.render(self._truth, shafts, number))[1].tobytes()


class Rig(NamedTuple):
    board: emulated.Board
    truth: Truth
    servos: Servos
    url: str


@pytest.fixture(scope="module")
def rig():
    truth = truth_of(3)
    with emulated.Board() as board:
        servos = Servos(board, truth)
        try:
            with Camera(servos, truth) as camera:
                yield Rig(board, truth, servos, camera.url)
        finally:
            servos.close()


def calibrate(rig, *arguments):
    command = ["calibrate", "head", f"--head=serial:{rig.board.path}", f"--source={rig.url}"]
    return [sys.executable, "-m", "edge_rjepa", *command, *map(str, arguments)]


@pytest.fixture(scope="module")
def calibration(rig, tmp_path_factory):
    """What `edge-rjepa calibrate head` finds, of a camera that was calibrated before."""
    path = tmp_path_factory.mktemp("calibrated") / "calibration.json"
    io.save(path, camera_record(camera_of(rig.truth.lens)))
    done = subprocess.run(
        calibrate(rig, "-o", path, "--views", 28), capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    assert rig.board.measured() in (None, (1500.0, 1500.0))  # it was sent home
    assert "backlash" in done.stderr and "<svg" in path.with_suffix(".html").read_text()
    found = io.load(path)
    assert found.camera is not None  # kept beside the head
    return found.head.result


def test_what_is_found_is_so(rig, calibration):
    truth = rig.truth
    for servo, true in zip(calibration.model.servos, truth.servos, strict=True):
        assert servo.backlash_rad == pytest.approx(true.backlash_rad, abs=math.radians(0.2))
        pulses = np.linspace(1100.0, 1900.0, 9)
        off_rad = servo.angle(pulses) - [true.angle(pulse) for pulse in pulses]
        assert np.abs(off_rad).max() < math.radians(0.3)
    # Pictures come late on a busy machine; benchmarks.calibration has a clock of its own.
    assert DELAY_S - 0.02 < calibration.timing.delay_s < DELAY_S + 0.1


def test_a_commanded_gaze_puts_the_target_in_the_middle_of_the_picture(rig, calibration):
    truth, rng = rig.truth, np.random.default_rng(0)
    middle = 0.5 * (np.array([truth.lens.width_px, truth.lens.height_px]) - 1.0)
    aim, off_px = CalibratedAim(calibration.model), []
    with open_head(f"serial:{rig.board.path}", aim) as head:
        reach_rad = 0.8 * np.array(head.limits_rad)
        head.move_and_wait(0.2, 0.1)  # it knows where its shafts stand once they have turned
        while len(off_px) < 8:
            head.move_and_wait(*rng.uniform(*reach_rad.T))
            pose = head.at(time.monotonic())
            # Something anywhere in the picture is given the angles that the calibration says ..
            pixel = rng.uniform(0.1, 0.9, 2) * 2.0 * middle
            thing = truth.rotation(rig.servos.shafts) @ truth.lens.rays_of_pixels(pixel)
            angles = calibration.view.angles_of_pixels(pixel, pose[:2])
            if not ((angles > reach_rad[:, 0]) & (angles < reach_rad[:, 1])).all():
                continue
            # .. and the head is told to look there.
            head.move_and_wait(*angles)
            time.sleep(0.05)
            seen = truth.lens.pixels_of_rays(truth.rotation(rig.servos.shafts).T @ thing)
            off_px.append(float(np.linalg.norm(seen - middle)))
    assert max(off_px) < WITHIN_PX, off_px


def test_a_head_that_is_unplugged_ends_the_calibration_in_one_line(rig, tmp_path):
    calibration = tmp_path / "calibration.json"
    started = subprocess.Popen(calibrate(rig, "-o", calibration), stderr=subprocess.PIPE, text=True)
    try:
        assert any("timing the pan servo" in line for line in started.stderr)
        rig.board.unplug()
        said = started.communicate(timeout=300)[1].strip().splitlines()
    finally:
        started.kill()
        rig.board.replug()
    assert started.returncode == 1 and not calibration.exists()
    assert said[-1].startswith("edge-rjepa: the line to the head is lost")
    rig.board.wait_for(lambda: rig.board.measured() == (1500.0, 1500.0))  # by itself


def test_learning_takes_the_calibration(rig, calibration, tmp_path):
    path = tmp_path / "calibration.json"
    io.save(path, HeadRecord("another head", io.now(), "0", calibration))
    learn = ["learn", "--seconds", "4", "--out", tmp_path / "run", "--calibration", path]
    done = subprocess.run(
        [sys.executable, "-m", "edge_rjepa", *map(str, learn), "--source", rig.url]
        + [f"--head=serial:{rig.board.path}"],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert "another head: run calibrate head" in done.stderr  # it is told that it is not this one
    config = RunConfig.from_toml(tmp_path / "run" / "config.toml")
    delay_s = calibration.timing.delay_s + calibration.timing.lag_s
    assert config.head.image_delay_s == pytest.approx(delay_s)
    camera = load_run(tmp_path / "run").notes["loop"]["gaze"]["planned"]["camera"]
    assert camera["kind"] == "calibrated, on a head"
    assert camera["model"]["pan"]["backlash_rad"] == calibration.model.pan.backlash_rad
