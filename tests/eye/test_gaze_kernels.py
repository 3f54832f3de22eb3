"""The inner loops of gaze beside their plain forms in NumPy."""

import math

import numpy as np
import pytest

from edge_rjepa.eye import gaze_kernels as kernels
from edge_rjepa.eye.gaze import _shrink
from edge_rjepa.eye.gaze_kernels import FAST, KNOWN, PICTURE, SEEN, SLOW, TRACE, USUAL
from edge_rjepa.eye.image import as_rows

CELLS, ALL_CELLS = 40, 100
INHIBITION = 5, 0.9, 0.8, 30.0


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def layers(rng):
    layers = rng.random((kernels.N_LAYERS, ALL_CELLS)).astype(np.float32)
    layers[:4] *= 255.0
    layers[SEEN] = rng.random(ALL_CELLS) < 0.7
    return layers


@pytest.fixture
def cells(rng):
    return np.sort(rng.permutation(ALL_CELLS)[:CELLS])


def assert_near(got, expected):
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("shrink", [1, 2, 8, 32])
def test_shrunk_is_the_mean_of_squares(rng, shrink):
    image = rng.integers(0, 256, (35, 42, 3), np.uint8)
    height, width = 35 // shrink, 42 // shrink
    whole = image[: height * shrink, : width * shrink]
    expected = whole.reshape(height, shrink, width, shrink, 3).mean(axis=(1, 3))
    assert_near(kernels.shrunk(as_rows(image), shrink), expected)


@pytest.mark.parametrize("cell_px", [1.0, 100.0, 1e6])
def test_white_does_not_overflow(cell_px):
    """Not even where a lens is so long that a cell fills the picture many times."""
    image = np.full((600, 700, 3), 255, np.uint8)
    small = kernels.shrunk(as_rows(image), _shrink(image, cell_px))
    assert small.size and (small == 255.0).all()


def test_rows_are_the_picture_and_leave_it_writeable(rng):
    image = rng.integers(0, 256, (6, 5, 3), np.uint8)
    upright = image.transpose(1, 0, 2)
    for each in (image, upright):
        assert np.array_equal(as_rows(each).reshape(each.shape), each)
        assert each.flags.writeable and not as_rows(each).flags.writeable


def test_changes(rng, layers, cells):
    seen = 255.0 * rng.random((4, CELLS))
    difference = seen - layers[:4, cells]
    difference -= np.median(difference, axis=1, keepdims=True)
    amount = np.linalg.norm(difference, axis=0) * (layers[SEEN, cells] > 0.0)
    assert_near(kernels.changes(layers, cells, seen), amount / (amount + 4.0 * amount.mean() + 4.0))


def test_remembered_terms(rng, layers, cells):
    surprise, weights = np.array([9.0, 0.4, 0.25]), np.array([0.5, 0.7, 1.1])
    before = rng.random(CELLS)
    priority = before.copy()
    kernels.add_remembered(layers, cells, surprise, weights, priority)
    fast, slow, known = layers[[FAST, SLOW, KNOWN]][:, cells]
    expected = (
        0.5 * np.tanh(known / 0.5 * (fast - 0.4))
        + 0.7 * np.tanh(known / 0.5 * (slow - fast))
        + 1.1 * (1.0 - layers[TRACE, cells])
    )
    assert_near(priority - before, expected)


def test_remember(rng, layers, cells):
    seen = 255.0 * rng.random((4, CELLS))
    changed, picture, attended = rng.random((3, CELLS))
    expected = layers.astype(np.float64)
    expected[TRACE] *= 0.9
    expected[[KNOWN, PICTURE]] *= 0.8
    expected[TRACE, cells] = np.maximum(expected[TRACE, cells], attended)
    expected[PICTURE, cells] = picture
    expected[USUAL, cells] += 0.4 * (changed - expected[USUAL, cells])
    follow = np.where(expected[SEEN, cells] == 0.0, 1.0, np.maximum(attended, 0.3))
    expected[:4, cells] += follow * (seen - expected[:4, cells])
    expected[SEEN, cells] = 1.0
    kernels.remember(layers, cells, seen, changed, picture, attended, (0.1, 0.2, 0.3, 0.4))
    np.testing.assert_allclose(layers, expected, rtol=1e-5, atol=1e-4)


def test_surprise_is_noted_about_where_it_was(rng, layers, cells):
    middles, pixels = 200.0 * rng.random((2, CELLS)), 200.0 * rng.random((3, 2))
    surprise = rng.random(3)
    expected = layers.astype(np.float64)
    squared = sum(np.subtract.outer(middles[i], pixels[:, i]) ** 2 for i in (0, 1))
    near = np.maximum(1.0 - squared / 60.0**2, 0.0)
    hit = near.sum(axis=1) > 0.0
    at, total = cells[hit], near[hit].sum(axis=1)
    value, weight = near[hit] @ surprise / total, np.minimum(total, 1.0)
    fast, slow, known = expected[[FAST, SLOW, KNOWN]][:, at]
    fast = 0.4 + known * (fast - 0.4)
    fast += weight * np.maximum(0.3, 1.0 - known) * (value - fast)
    slow = fast + known * (slow - fast)
    slow += weight * 0.03 * (value - slow)
    expected[FAST, at], expected[SLOW, at] = fast, slow
    expected[KNOWN, at] += weight * (1.0 - known)
    assert 0 < hit.sum() < CELLS
    kernels.note_surprise(layers, cells, middles, pixels, surprise, 0.4, 60.0)
    assert_near(layers, expected)


def test_places_are_refused_alike_one_by_one_and_all_at_once(rng):
    middles, recent = 100.0 * rng.random((2, CELLS)), 100.0 * rng.random((9, 2))
    recent[7] = math.nan  # behind the camera
    refused = np.empty(CELLS)
    kernels._refusals(middles, recent, INHIBITION, refused)
    expected = [kernels.refusal(x, y, recent, INHIBITION) for x, y in middles.T]
    assert 0 < np.count_nonzero(refused) < CELLS
    np.testing.assert_allclose(refused, expected, rtol=1e-12, atol=1e-15)


def test_a_place_is_drawn_as_often_as_the_law_says(rng):
    """The share of each cell as the first of two saccades, beside the formula of gaze.py."""
    middles = np.array([[20.0, 60.0, 100.0], [30.0, 30.0, 30.0]])
    sides = np.array([20.0, 20.0, 10.0])
    boxes = np.concatenate([middles - sides / 2, middles + sides / 2])
    priority, recent = np.array([0.0, 0.5, 1.0]), np.array([[62.0, 30.0]])
    start, law = np.array([40.0, 30.0]), ((math.log(25.0), 0.7), INHIBITION)
    counts = np.zeros(3)
    for _ in range(4000):
        places, left = np.vstack([recent, np.empty((2, 2))]), priority.copy()
        room, attended = np.empty((3, 3)), np.zeros(3)
        kernels.search(
            start, middles, boxes, left, rng.random((2, 4)), 0.0, law, room, attended, places
        )
        counts[int(places[1, 0] // 40.0)] += 1
        near = [1.0 - np.square(middles.T - each).sum(axis=1) / 30.0**2 for each in places[1:]]
        np.testing.assert_allclose(attended, np.maximum(0.0, np.max(near, axis=0)), atol=1e-12)
        kept = np.prod([1.0 - np.maximum(0.0, each) for each in near], axis=0)
        np.testing.assert_allclose(left, priority * kept, atol=1e-12)
    length = np.abs(middles[0] - start[0])
    z = (np.log(length) - math.log(25.0)) / 0.7
    refused = 0.9 * np.maximum(0.0, 1.0 - ((middles[0] - 62.0) / 30.0) ** 2)
    share = np.exp(priority - 0.5 * z**2) / length**2 * (1.0 - refused) * sides**2
    np.testing.assert_allclose(counts / 4000, share / share.sum(), atol=0.03)
