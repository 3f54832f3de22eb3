"""Frames with the head's angles at capture, and why some cannot be used."""

import numpy as np
import pytest

from edge_rjepa.eye.config import HeadConfig
from edge_rjepa.run.usable_frames import HEAD_MOVING, PlacedFrames, allowed_rad
from edge_rjepa.sources import Frame, SourceEnded
from firmware_bridge.track import Pose

PICTURE = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)


class Film:
    """A source of pictures, one a second; None where none comes in time."""

    head = None

    def __init__(self, *images):
        self.images = iter(enumerate(images))

    def read_next(self, timeout_ms):
        for k, image in self.images:
            return None if image is None else Frame(image, float(k), (0.0, 0.0), k)
        raise SourceEnded

    def drain_events(self):
        return ["camera: back"]


class Turntable:
    """A head that turns for two seconds."""

    limits_rad = ((-1.0, 2.0), (-0.5, 0.3))

    def at(self, t_s):
        return Pose(0.1 * t_s, -0.1, t_s < 2.0)

    def drain_events(self):
        return ["head: found again"]


def read_all(placed):
    found = []
    with pytest.raises(SourceEnded):
        while True:
            found.append(placed.read_next(0.0))
    return found


def test_a_frame_has_the_angles_of_its_capture_less_the_delay():
    config = HeadConfig(while_moving="correct", image_delay_s=0.5)
    found = read_all(PlacedFrames(Film(PICTURE, None, PICTURE), Turntable(), config))
    assert found[1] is None
    assert [each.frame.head_rad for each in (found[0], found[2])] == [
        (pytest.approx(-0.05), -0.1),
        (pytest.approx(0.15), -0.1),
    ]
    assert not any(each.why_unusable for each in (found[0], found[2]))


def test_a_moving_head_comes_before_all_that_is_wrong_with_the_picture():
    black = np.zeros_like(PICTURE)
    placed = PlacedFrames(Film(black, PICTURE, black, PICTURE), Turntable(), HeadConfig())
    why = [each.why_unusable for each in read_all(placed)]
    assert why == [HEAD_MOVING, HEAD_MOVING, "black", None]
    events = placed.drain_events()
    assert "of no use (black)" in events[0] and "again (it was: black)" in events[1]
    assert events[2:] == ["camera: back", "head: found again"]


def test_limits_are_those_that_head_and_configuration_share():
    config = HeadConfig(pan_limit_rad=1.5, tilt_limit_rad=0.4)
    assert allowed_rad(Turntable(), config) == ((-1.0, 1.5), (-0.4, 0.3))
