"""Photographs seen from where a real head points, by the clock."""

import json
import time

import cv2
import numpy as np
import pytest

from edge_rjepa.sources import open_source, scene
from edge_rjepa.sources.steered_scene import SteeredScene
from firmware_bridge.track import Pose
from tests.optics.homography import homography


class Mount:
    """Points where it is told, at once."""

    def __init__(self):
        self.angles_rad = 0.0, 0.0
        self.asked_s = []

    def at(self, t_s):
        self.asked_s.append(t_s)
        return Pose(*self.angles_rad, moving=False)


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(4):
        coarse = rng.integers(0, 256, (15, 20, 3), dtype=np.uint8)
        picture = cv2.resize(coarse, (400, 300), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(tmp_path / f"{i}.png"), picture)
    return tmp_path


def opened(folder, mount):
    return open_source(f"scene:{folder}", seed=3, mount=mount)


def test_a_scene_with_a_mount_is_steered_and_live(folder):
    with opened(folder, Mount()) as source:
        assert isinstance(source, SteeredScene)
        assert source.live and source.head is None
    with opened(folder, None) as source:
        assert not source.live and source.head is not None


def test_the_view_is_the_one_from_where_the_mount_points(folder):
    mount = Mount()
    with opened(folder, mount) as source:
        straight = source.read_next(1000.0)
        mount.angles_rad = 0.12, -0.05
        turned = source.read_next(1000.0)
    assert straight.head_rad == (0.0, 0.0) and turned.head_rad == (0.12, -0.05)
    shift = homography(source.camera, (0.0, 0.0), turned.head_rad)
    expected = cv2.warpPerspective(straight.image, shift, (320, 240))
    seen = cv2.warpPerspective(np.full((240, 320), 255, np.uint8), shift, (320, 240)) == 255
    away = np.abs(expected.astype(int) - turned.image).mean(axis=2)[seen]
    assert away.mean() < 2.0  # grey levels; unturned it is many times that
    assert np.abs(straight.image.astype(int) - turned.image).mean() > 10.0


def test_views_come_by_the_clock_and_late_ones_are_left_out(folder):
    mount = Mount()
    with opened(folder, mount) as source:
        frames = [source.read_next(1000.0) for _ in range(4)]
        wait_until = time.monotonic() + 0.2
        while time.monotonic() < wait_until:  # somebody is busy elsewhere
            pass
        frames.append(source.read_next(1000.0))
    start_s = frames[0].t_capture_s
    for frame in frames:  # none before it is due
        due_s = start_s + (frame.sequence - frames[0].sequence) / scene.FRAMES_A_SECOND
        assert frame.t_capture_s >= due_s - 1.0 / scene.FRAMES_A_SECOND
    assert frames[-1].sequence - frames[-2].sequence >= 5
    assert mount.asked_s == [frame.t_capture_s for frame in frames]


def test_nothing_is_handed_out_before_it_is_due(folder):
    with opened(folder, Mount()) as source:
        first = source.read_next(1000.0)
        second = source.read_next(0.0)
        while second is None:
            second = source.read_next(1.0)
    assert second.t_capture_s - first.t_capture_s >= 0.5 / scene.FRAMES_A_SECOND


def test_it_goes_on_with_the_same_scenes(folder):
    with opened(folder, Mount()) as source:
        source.read_next(1000.0)
        state = json.loads(json.dumps(source.state()))
        there = source.read_next(1000.0).image
    with opened(folder, Mount()) as source:
        source.restore(state)
        np.testing.assert_array_equal(source.read_next(1000.0).image, there)


def test_a_limp_head_stays_and_one_that_turns_away_sees_the_edge(folder):
    mount = Mount()
    with opened(folder, mount) as source:
        mount.angles_rad = 0.1, 0.05
        before = source.read_next(1000.0)
        mount.angles_rad = np.nan, np.nan
        lost = source.read_next(1000.0)
        mount.angles_rad = 9.0, -9.0
        away = source.read_next(1000.0)
    np.testing.assert_array_equal(lost.image, before.image)
    assert lost.head_rad == before.head_rad
    assert away.head_rad == (scene.PAN_LIMIT_RAD, -scene.TILT_LIMIT_RAD)
