"""The streams and the contestants of `benchmarks.watch`."""

import numpy as np
import pytest

from benchmarks import watch
from edge_rjepa.sources import Frame
from edge_rjepa.sources.scene import CAMERA

GREY = np.full((CAMERA.height_px, CAMERA.width_px, 3), 90, np.uint8)


def test_rain_falls_in_showers_and_no_two_pictures_share_a_streak():
    rain = watch.Rain(np.random.default_rng(0))
    wet = [rain.over(GREY, t_s) for t_s in (10.0, 10.1)]
    assert all((each >= GREY).all() and 0.002 < (each > GREY).mean() < 0.2 for each in wet)
    both = (wet[0] > GREY) & (wet[1] > GREY)
    assert both.mean() < 0.2 * (wet[0] > GREY).mean()
    assert (rain.over(GREY, 200.0) == GREY).all()


def test_leaves_sway_over_a_side_of_the_view():
    leaves = watch.Leaves(np.random.default_rng(0))
    pictures = [leaves.over(GREY, t_s).astype(int) for t_s in (23.0, 23.4)]
    covered = (pictures[0] != GREY).any(axis=(0, 2)).mean()
    assert watch.BUSH_SHARE < covered < watch.BUSH_SHARE + 0.15
    moved = np.abs(pictures[0] - pictures[1]).max(axis=-1) > 20
    assert 0.05 < moved.mean() < watch.BUSH_SHARE


def test_padim_tells_where_three_distances_in_a_row_are_high(monkeypatch):
    distances = np.full((60, 80), 5.0)
    monkeypatch.setattr(watch, "Padim", lambda python, size: Distances(distances))
    padim = watch.PadimWatch(CAMERA, None, warm_up_s=1.0)
    found = {}
    for k in range(30):
        if k == 20:
            distances[30, 20] = 50.0  # 80 pixels from the left, 120 from above
        found[k] = padim.look(Frame(GREY, k / 10, (0.0, 0.0), k))
    assert [k for k, each in found.items() if each] == [28]  # asked at 20, 24 and 28
    (only,) = found[28]
    assert only.strength == 50.0
    assert CAMERA.pixels_of_angles(only.angles_rad) == pytest.approx((82.0, 122.0))


class Distances:
    """In place of the process: what it is asked is counted, what it answers is given."""

    def __init__(self, distances):
        self._distances = distances

    def learn(self, image):
        """Nothing is learned."""

    def judge(self, image):
        return self._distances.copy()
