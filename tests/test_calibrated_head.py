"""A head is calibrated through the shipping firmware, and then looks where it is told to.

All of it is real but for the servos and the camera, which are worked out from the pulses on the
emulated chip's pins: curved, askew, with backlash, behind a lens with distortion, and late. In real
time, so more than a minute.
"""

import math
import threading
import time
from collections import deque
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.simulated_rig import View, camera_of, draw_truth
from calibration.aim import CalibratedAim
from calibration.plan import calibrate_head
from firmware_bridge import LinkError, open_head
from tests import emulated

emulated.require()

FRAMES_A_SECOND = 30.0
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


class Shot:
    """A picture that is rendered when somebody looks at it."""

    def __init__(self, rig, t_s, shafts, number):
        self.t_s, self._rig, self._shafts, self._number = t_s, rig, shafts, number

    @property
    def image(self):
        return self._rig.view.render(self._rig.truth, np.tile(self._shafts, (5, 1)), self._number)


class RigOnBoard:
    """Servos on the pins of the emulated board, and a camera that they turn."""

    def __init__(self, board, truth):
        self.board, self.truth = board, truth
        self.view = View(truth, np.random.default_rng(truth.seed))
        self._shafts = np.zeros(2)
        self._past = deque(maxlen=2000)  # (t_s, shafts)
        self._number = 0
        self._start_s = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._turn)
        self._thread.start()

    def close(self):
        self._ended.set()
        self._thread.join()

    def _turn(self):
        """The shafts follow the pulses, the backlash left to itself."""
        while not self._ended.wait(0.005):
            pulses = self.board.measured()
            if pulses:
                for k, servo in enumerate(self.truth.servos):
                    motor, half = servo.angle(pulses[k]), 0.5 * servo.backlash_rad
                    self._shafts[k] = min(max(self._shafts[k], motor - half), motor + half)
            self._past.append((time.monotonic(), self._shafts.copy()))

    @property
    def shafts(self):
        return self._past[-1][1]

    def next_frame(self):
        """The picture taken last, DELAY_S after it was: stamped when it arrives."""
        due_s = self._start_s + (self._number + 1) / FRAMES_A_SECOND
        behind = time.monotonic() - due_s
        if behind > 0.0:
            self._number += math.ceil(behind * FRAMES_A_SECOND)
            due_s = self._start_s + (self._number + 1) / FRAMES_A_SECOND
        time.sleep(max(0.0, due_s - time.monotonic()))
        self._number += 1
        shafts = next(
            (s for t_s, s in reversed(list(self._past)) if t_s <= due_s - DELAY_S), self.shafts
        )
        return Shot(self, due_s, shafts, self._number)


@pytest.fixture(scope="module")
def rig():
    with emulated.Board() as board:
        rig = RigOnBoard(board, truth_of(3))
        yield rig
        rig.close()


@pytest.fixture(scope="module")
def calibration(rig):
    with open_head(f"serial:{rig.board.path}") as head:
        head.home()
        head.wait()
        found = calibrate_head(head, rig.next_frame, camera_of(rig.truth.lens), views=28)
        head.wait()  # it was sent home
        assert rig.board.measured() == (1500.0, 1500.0)
    return found


def test_what_is_found_is_so(rig, calibration):
    truth = rig.truth
    for servo, true in zip(calibration.model.servos, truth.servos, strict=True):
        assert servo.backlash_rad == pytest.approx(true.backlash_rad, abs=math.radians(0.2))
        pulses = np.linspace(1100.0, 1900.0, 9)
        off_rad = servo.angle(pulses) - [true.angle(pulse) for pulse in pulses]
        assert np.abs(off_rad).max() < math.radians(0.3)
    assert calibration.timing.delay_s == pytest.approx(DELAY_S, abs=0.5 / FRAMES_A_SECOND)


def test_a_commanded_gaze_puts_the_target_in_the_middle_of_the_picture(rig, calibration):
    truth, rng = rig.truth, np.random.default_rng(0)
    middle = 0.5 * (np.array([truth.lens.width_px, truth.lens.height_px]) - 1.0)
    aim, off_px = CalibratedAim(calibration.model), []
    with open_head(f"serial:{rig.board.path}", aim) as head:
        reach_rad = 0.8 * np.array(head.limits_rad)
        head.move_and_wait(0.2, 0.1)  # it knows where its shafts stand once they have turned
        while len(off_px) < 12:
            head.move_and_wait(*rng.uniform(*reach_rad.T))
            pose = head.at(time.monotonic())
            # Something anywhere in the picture is given the angles that the calibration says ..
            pixel = rng.uniform(0.1, 0.9, 2) * 2.0 * middle
            thing = truth.rotation(rig.shafts) @ truth.lens.rays_of_pixels(pixel)
            angles = calibration.view.angles_of_pixels(pixel, pose[:2])
            if not ((angles > reach_rad[:, 0]) & (angles < reach_rad[:, 1])).all():
                continue
            # .. and the head is told to look there.
            head.move_and_wait(*angles)
            time.sleep(0.05)
            seen = truth.lens.pixels_of_rays(truth.rotation(rig.shafts).T @ thing)
            off_px.append(float(np.linalg.norm(seen - middle)))
    assert max(off_px) < WITHIN_PX, off_px


def test_a_head_that_is_unplugged_ends_the_calibration_in_one_line(rig):
    frames = 0

    def next_frame():
        nonlocal frames
        frames += 1
        if frames == 120:
            rig.board.unplug()
        return rig.next_frame()

    with open_head(f"serial:{rig.board.path}") as head:
        try:
            with pytest.raises(LinkError, match="line to the head is lost"):
                calibrate_head(head, next_frame, camera_of(rig.truth.lens), views=16)
        finally:
            rig.board.replug()
        rig.board.wait_for(lambda: rig.board.measured() == (1500.0, 1500.0))
