"""How far a camera turned: against rendered pictures whose turn is known, and what may go wrong."""

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from benchmarks.simulated_rig import Rig, camera_of, draw_truth
from calibration import rotation
from calibration.errors import CalibrationError
from calibration.rotation import (
    Features,
    features_of,
    measured,
    nudged,
    rotation_between,
    rotation_of_matches,
)

TRUTH = draw_truth(1)
CAMERA = camera_of(TRUTH.lens)
SHAFTS = [(0.0, 0.0), (0.12, 0.05), (0.3, -0.1), (0.05, 0.25)]


def off_rad(matrix, expected) -> float:
    return float(np.linalg.norm(cv2.Rodrigues(matrix.T @ expected)[0]))


def matches(rng, count=200, turn=(0.1, -0.2, 0.05), noise_px=0.3):
    """Pixels of points before and after a turn, and the turn."""
    matrix = Rotation.from_rotvec(turn).as_matrix()
    before = rng.uniform((0, 0), (639, 479), (4 * count, 2))
    after = CAMERA.pixels_of_rays(CAMERA.rays_of_pixels(before) @ matrix)
    inside = ((after > 0) & (after < (639, 479))).all(axis=1)
    before, after = before[inside][:count], after[inside][:count]
    return (*(each + rng.normal(0, noise_px, each.shape) for each in (before, after)), matrix)


@pytest.fixture(scope="module")
def pictures():
    """Corners of rendered pictures, a fifth of which moves by itself."""
    rig = Rig(TRUTH)
    return [features_of(rig.render(np.tile(s, (5, 1)), 37 * k)) for k, s in enumerate(SHAFTS)]


@pytest.mark.slow
@pytest.mark.parametrize(("i", "j"), [(0, 1), (0, 2), (1, 2), (0, 3)])
def test_turns_between_pictures_are_found_to_a_hundredth_of_a_degree(pictures, i, j):
    expected = TRUTH.rotation(SHAFTS[i]).T @ TRUTH.rotation(SHAFTS[j])
    near = expected @ Rotation.from_rotvec([0.03, -0.04, 0.02]).as_matrix()
    found = rotation_between(pictures[i], pictures[j], CAMERA, near, math.radians(6.0))
    assert off_rad(found.matrix, expected) < math.radians(0.02)
    assert found.angle_rad == pytest.approx(off_rad(np.eye(3), expected), abs=math.radians(0.02))


@pytest.mark.slow
def test_a_turn_is_found_without_being_expected(pictures):
    expected = TRUTH.rotation(SHAFTS[0]).T @ TRUTH.rotation(SHAFTS[1])
    found = rotation_between(pictures[0], pictures[1], CAMERA)
    assert off_rad(found.matrix, expected) < math.radians(0.02)


def test_pictures_of_different_places_have_no_turn():
    rig = Rig(replace(TRUTH, moving_share=0.0))  # what moves by itself would be in both
    here, elsewhere = (features_of(rig.render(np.tile((p, 0.1), (5, 1)), 3)) for p in (0.0, 2.5))
    assert rotation_between(here, elsewhere, CAMERA) is None


@pytest.mark.parametrize("grey", [0, 127])
def test_an_empty_picture_has_nothing_to_go_by(pictures, grey):
    nothing = features_of(np.full((480, 640, 3), grey, np.uint8))
    assert len(nothing) == 0
    assert rotation_between(pictures[0], nothing, CAMERA) is None


def test_a_larger_picture_is_made_smaller_and_gives_the_same_places():
    image = Rig(TRUTH).render(np.zeros((5, 2)), 1)
    small, large = features_of(image), features_of(cv2.resize(image, (1920, 1440)))
    apart = np.linalg.norm(((large.pixels + 0.5) / 3 - 0.5)[:, None] - small.pixels, axis=-1)
    assert np.mean(apart.min(axis=1) < 1.0) > 0.7


@pytest.mark.parametrize("image", [np.zeros((4, 4)), np.zeros(9, np.uint8), "a.png"])
def test_what_is_no_picture_is_refused(image):
    with pytest.raises(CalibrationError, match="uint8"):
        features_of(image)


def test_what_moves_by_itself_is_outvoted_even_with_more_corners():
    rng = np.random.default_rng(0)
    before, after, matrix = matches(rng, 120)
    thing = rng.uniform((50, 50), (250, 200), (200, 2))  # busy, but a small part of the picture
    pixels_before = np.concatenate([before, thing])
    pixels_after = np.concatenate([after, thing + (31.0, 12.0)])
    found = rotation_of_matches(pixels_before, pixels_after, CAMERA)
    assert off_rad(found.matrix, matrix) < math.radians(0.03)
    assert found.share == pytest.approx(120 / 320, abs=0.03)


def test_matches_by_chance_are_no_turn():
    rng = np.random.default_rng(1)
    before, after = rng.uniform((0, 0), (639, 479), (2, 300, 2))
    assert rotation_of_matches(before, after, CAMERA) is None
    assert rotation_of_matches(before[:5], after[:5], CAMERA) is None


@pytest.mark.slow
def test_the_covariance_is_how_far_it_scatters():
    rng = np.random.default_rng(2)
    squares = []
    for _ in range(200):
        before, after, matrix = matches(rng, 60)
        found = rotation_of_matches(before, after, CAMERA)
        vector = cv2.Rodrigues(found.matrix.T @ matrix)[0][:, 0]
        squares.append(vector @ np.linalg.solve(found.covariance, vector))
    assert 0.7 * 3 < np.mean(squares) < 1.5 * 3  # chi squared of 3


def test_information_and_gradient_foretell_what_a_nudged_camera_measures():
    before, after, matrix = matches(np.random.default_rng(3), 300, noise_px=0.05)
    nudge = np.array([0.004, 1.5, -1.0, 0.003])
    camera = nudged(CAMERA, nudge)
    wrong = measured(matrix, before, after, camera, 1.0)
    back = -nudge  # what would mend the camera
    step = -np.linalg.solve(
        wrong.information[:3, :3], wrong.gradient[:3] + wrong.information[:3, 3:] @ back
    )
    mended = wrong.matrix @ cv2.Rodrigues(step)[0]
    assert off_rad(wrong.matrix, matrix) > math.radians(0.05)
    assert off_rad(mended, matrix) < 0.1 * off_rad(wrong.matrix, matrix)
    least = -np.linalg.solve(wrong.information, wrong.gradient)
    np.testing.assert_allclose(least[3:], back, rtol=0.25, atol=0.15)


def test_a_nudge_is_what_it_says():
    camera = nudged(CAMERA, (0.01, 2.0, -3.0, 0.02))
    assert camera.focal_px == pytest.approx(1.01 * CAMERA.focal_px)
    assert np.subtract(camera.centre_px, CAMERA.centre_px) == pytest.approx((2.0, -3.0))
    assert camera.distortion[0] - CAMERA.distortion[0] == pytest.approx(0.02)


def test_too_few_corners_are_no_turn():
    few = Features(np.zeros((5, 2)), np.zeros((5, 128), np.float32))
    assert rotation_between(few, few, CAMERA) is None


def test_corners_of_an_older_opencv_lie_where_those_of_a_newer_do(monkeypatch):
    """Before OpenCV 4.8 SIFT knew no precise upscale, and had all corners a quarter pixel off."""
    if rotation._finder()[1]:
        pytest.skip("this OpenCV is an older one")
    rng = np.random.default_rng(3)
    image = cv2.GaussianBlur(rng.integers(0, 256, (240, 320), np.uint8), (0, 0), 2.0)
    image = cv2.normalize(image, None, 0, 255, cv2.NORM_MINMAX)
    newer = features_of(image)
    create = cv2.SIFT.create
    monkeypatch.setattr(rotation, "_finder", lambda: (create(1440), rotation.UPSCALED_PX))
    older = features_of(image)
    nearest = np.linalg.norm(newer.pixels[:, None] - older.pixels[None], axis=-1).argmin(axis=1)
    off = older.pixels[nearest] - newer.pixels
    off = off[np.linalg.norm(off, axis=1) < 0.6]
    assert len(off) > 50 and abs(np.median(off, axis=0)).max() < 0.03
