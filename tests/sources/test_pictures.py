"""Folders of pictures, small ones written here."""

import json
from collections import Counter

import cv2
import numpy as np
import pytest

from edge_rjepa.errors import SourceError
from edge_rjepa.sources import open_source, pictures
from edge_rjepa.sources.config import CameraConfig
from edge_rjepa.sources.images import as_bgr, crop_resize
from edge_rjepa.sources.pictures import FRAMES_A_PICTURE


@pytest.fixture
def folder(tmp_path):
    """Ten pictures with a grey level each, which tells their number."""
    for i in range(10):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.full((60, 80, 3), 20 * i, np.uint8))
    return tmp_path


def numbers(frames):
    return [round(float(frame.image.mean()) / 20) for frame in frames]


def read(source, count):
    return [source.read_next(0) for _ in range(count)]


def test_every_picture_comes_once_a_round_for_a_few_frames(folder):
    with open_source(str(folder)) as source:
        shown = numbers(read(source, 3 * 8 * FRAMES_A_PICTURE))
    held = set(range(10)) - set(shown)
    assert len(held) == 2
    rounds = np.array(shown).reshape(3, 8, FRAMES_A_PICTURE)
    assert (rounds == rounds[:, :, :1]).all()
    for one in rounds:
        assert Counter(one[:, 0].tolist()) == Counter(set(range(10)) - held)
    assert len({tuple(one[:, 0]) for one in rounds}) > 1


def test_order_and_what_is_held_out_are_the_seeds(folder):
    orders = [tuple(numbers(read(open_source(str(folder), seed), 64))) for seed in (0, 0, 1, 2)]
    assert orders[0] == orders[1] and len(set(orders)) == 3


def test_what_is_held_out_is_never_shown(folder):
    source = open_source(str(folder), 3)
    first = source.held_out(20)
    kept = set(numbers(first))
    assert len(kept) == 2 and not kept & set(numbers(read(source, 64)))
    assert [frame.sequence for frame in first] == list(range(20))
    for one, other in zip(source.held_out(20), first, strict=True):
        np.testing.assert_array_equal(one.image, other.image)
    assert source.held_out(0) == []


def test_it_has_a_clock_and_no_head(folder):
    source = open_source(str(folder))
    frames = read(source, 31)
    assert [frame.sequence for frame in frames] == list(range(31))
    assert frames[30].t_capture_s == pytest.approx(1.0)
    assert frames[0].head_rad == (0.0, 0.0) and source.head is None and not source.live
    assert source.drain_events() == []


@pytest.mark.parametrize("steps", [0, 1, 7, 33, 70])
def test_it_resumes_bit_for_bit(folder, steps):
    source = open_source(str(folder), 5)
    read(source, steps)
    state = json.loads(json.dumps(source.state()))
    wanted = read(source, 40)
    resumed = open_source(str(folder), 5)
    resumed.restore(state)
    for one, other in zip(read(resumed, 40), wanted, strict=True):
        assert one[1:] == other[1:]
        np.testing.assert_array_equal(one.image, other.image)


def test_a_state_of_other_pictures_or_seed_is_refused(folder):
    state = open_source(str(folder)).state()
    with pytest.raises(SourceError, match="same pictures"):
        open_source(str(folder), 1).restore(state)
    (folder / "3.png").unlink()
    with pytest.raises(SourceError, match="same pictures"):
        open_source(str(folder)).restore(state)


def test_the_first_picture_decides_the_size_and_the_others_are_fitted(tmp_path):
    for i, (width, height) in enumerate([(1280, 720), (4000, 3000), (100, 400), (20, 10)]):
        cv2.imwrite(str(tmp_path / f"{i}.jpg"), np.full((height, width, 3), 60 * i, np.uint8))
    with open_source(str(tmp_path), camera=CameraConfig(field_of_view_rad=1.2)) as source:
        frames = read(source, 12) + source.held_out(4)
        camera = source.camera
    assert {frame.image.shape for frame in frames} == {(360, 640, 3)}
    assert (camera.width_px, camera.height_px, camera.field_of_view_rad) == (640, 360, 1.2)


def test_large_pictures_are_read_reduced_but_never_below_what_is_needed(tmp_path):
    ramp = np.tile(np.linspace(0, 255, 3200).astype(np.uint8), (2400, 1))
    path = tmp_path / "large.jpg"
    cv2.imwrite(str(path), ramp)
    for enough in ((640, 480), (390, 290), (1000, 100), (3200, 2400), (5000, 4000)):
        image = pictures._read(path, enough)
        assert image.shape[1] >= min(enough[0], 3200) and image.shape[0] >= min(enough[1], 2400)
        np.testing.assert_allclose(image[:, -1].mean(), 255, atol=3)
    assert pictures._read(path, (390, 290)).shape == (300, 400, 3)


def test_a_picture_that_vanishes_is_named(folder):
    source = open_source(str(folder))
    pictures._fitting.cache_clear()
    for path in folder.iterdir():
        path.unlink()
    with pytest.raises(SourceError, match=r"\d\.png"):
        source.read_next(0)


def test_folders_without_enough_pictures_are_refused(tmp_path):
    with pytest.raises(SourceError, match="holds no picture"):
        open_source(str(tmp_path))
    cv2.imwrite(str(tmp_path / "only.png"), np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(SourceError, match="at least two"):
        open_source(str(tmp_path))


# --- making pictures fit -------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(320, 240), (100, 240), (640, 480), (7, 500), (333, 1)])
def test_fitting_cuts_the_middle_and_keeps_pixels_square(size):
    # A circle in the middle stays one, in the middle.
    image = cv2.circle(np.zeros((480, 640, 3), np.uint8), (320, 240), 100, (255, 255, 255), -1)
    made = crop_resize(image, size)
    assert made.shape == (size[1], size[0], 3)
    if min(size) < 100:
        return
    rows, columns = np.nonzero(made[..., 0] > 127)
    scale = max(size[0] / 640, size[1] / 480)
    assert rows.mean() == pytest.approx((size[1] - 1) / 2, abs=1.0)
    assert columns.mean() == pytest.approx((size[0] - 1) / 2, abs=1.0)
    assert np.ptp(rows) == pytest.approx(min(200 * scale, size[1] - 1), abs=2.0)
    assert np.ptp(columns) == pytest.approx(min(200 * scale, size[0] - 1), abs=2.0)


def test_even_a_pixel_can_be_fitted():
    assert crop_resize(np.full((1, 1, 3), 7, np.uint8), (1000, 1)).shape == (1, 1000, 3)


def test_whatever_a_driver_gives_becomes_bgr_or_nothing():
    bgr = np.random.default_rng(0).integers(0, 255, (6, 8, 3), np.uint8)
    assert as_bgr(bgr) is bgr
    grey = bgr[..., 0]
    for image in (grey, grey[..., None], grey.astype(np.uint16) << 8):
        np.testing.assert_array_equal(as_bgr(image), np.repeat(grey[..., None], 3, axis=2))
    np.testing.assert_array_equal(as_bgr(np.dstack([bgr, grey])), bgr)
    for nothing in (None, np.empty((0, 8, 3), np.uint8), bgr.astype(np.float32), bgr[..., :2], b""):
        assert as_bgr(nothing) is None
