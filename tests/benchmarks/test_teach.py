"""The benchmark of teaching: its pictures, and that its head is the product's."""

import numpy as np
import pytest

from benchmarks import teach
from edge_rjepa.teach.likeness import directions


def test_changes_change_what_they_say():
    rng = np.random.default_rng(0)
    view = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
    assert np.array_equal(teach.changed(view, "plain", rng), view)
    assert abs(teach.changed(view, "half the light", rng) - view / 2).max() <= 0.5
    assert teach.changed(view, "blur", rng).std() < view.std()
    shift = teach.changed(view, "cast", rng) / np.maximum(view, 1)
    assert np.ptp(np.median(shift, axis=(0, 1))) > 0.02
    for change in ("gamma", "noise"):
        assert not np.array_equal(teach.changed(view, change, rng), view)


def test_windows_of_peers_have_a_row_each():
    view = np.random.default_rng(1).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    assert teach.pixel_windows(view).shape == (16, 192)
    assert teach.histogram_windows(view).shape == (16, 192)
    assert teach.histogram_windows(view)[0] @ teach.histogram_windows(view)[0] == pytest.approx(1.0)


def test_places_that_look_alike_in_every_look_are_told_and_strangers_are_not():
    rng = np.random.default_rng(2)
    middles = rng.standard_normal((5, 1, 1, 20))
    taught = directions(middles + 0.3 * rng.standard_normal((5, max(teach.TAUGHT), 4, 20)))
    asked = {
        "same": directions(middles + 0.3 * rng.standard_normal((5, 3, 4, 20))),
        "other": directions(rng.standard_normal((5, 40, 4, 20))),
    }
    shares = teach.shares_right(taught, asked)
    assert shares["same", 10] == 1.0
    assert shares["other", 10] < 0.5


def test_looking_around_sees_only_the_left():
    left = [np.full((300, 400, 3), 200, np.uint8)]
    seen = []

    def see(image, pixels):
        seen.append(image)
        return np.zeros((len(pixels), 3), np.float32)

    stream = teach.blocks(left, 64, see, seed=0)
    made = [next(stream) for _ in range(2 * teach.VISIT_FRAMES)]
    assert [block.reset_before for block in made].count(True) == 2
    assert all((image == 200).all() for image in seen)
