"""Pinhole geometry: round trips, conventions, and the homography against rays."""

import math

import numpy as np
import pytest

from calibration.angles import angles_of_rays, head_rotation, rays_of_angles
from edge_rjepa.errors import ConfigError
from edge_rjepa.optics.camera import Pinhole
from tests.optics.homography import homography

CAMERAS = [
    Pinhole(320, 240, math.radians(60.0)),
    Pinhole(641, 333, math.radians(100.0)),
    Pinhole(1, 1, math.radians(10.0)),
]


def random_heads(rng, count):
    return rng.uniform((-math.pi, -1.2), (math.pi, 1.2), (count, 2))


def random_pixels(rng, camera, shape):
    return rng.uniform(-0.5, 0.5, (*shape, 2)) + rng.uniform(0, 1, (*shape, 2)) * [
        camera.width_px - 1,
        camera.height_px - 1,
    ]


@pytest.mark.parametrize("camera", CAMERAS)
def test_pixels_survive_the_way_to_rays_and_back(camera):
    pixels = random_pixels(np.random.default_rng(0), camera, (5, 200))
    rays = camera.rays_of_pixels(pixels)
    assert rays.shape == (5, 200, 3)
    np.testing.assert_allclose(np.linalg.norm(rays, axis=-1), 1.0, atol=1e-14)
    np.testing.assert_allclose(camera.pixels_of_rays(rays), pixels, rtol=0, atol=1e-9)


@pytest.mark.parametrize("camera", CAMERAS)
def test_pixels_survive_the_way_to_angles_and_back_at_any_head(camera):
    rng = np.random.default_rng(1)
    for head in random_heads(rng, 50):
        pixels = random_pixels(rng, camera, (40,))
        angles = camera.angles_of_pixels(pixels, head)
        back = camera.pixels_of_angles(angles, head)
        np.testing.assert_allclose(back, pixels, rtol=0, atol=1e-9)


def test_angles_survive_the_way_to_rays_and_back():
    angles = np.random.default_rng(2).uniform((-3.1, -1.5), (3.1, 1.5), (1000, 2))
    np.testing.assert_allclose(angles_of_rays(rays_of_angles(angles)), angles, rtol=0, atol=1e-9)


def test_head_points_the_optical_axis_at_its_angles():
    camera = CAMERAS[0]
    for head in random_heads(np.random.default_rng(3), 50):
        np.testing.assert_allclose(
            camera.angles_of_pixels(camera.centre_px, head), head, rtol=0, atol=1e-12
        )


def test_head_rotation_is_a_rotation():
    for head in random_heads(np.random.default_rng(4), 50):
        rotation = head_rotation(head)
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-14)
        assert np.linalg.det(rotation) == pytest.approx(1.0)


def test_right_and_up_are_positive():
    camera = CAMERAS[0]
    x, y = camera.centre_px
    azimuth_rad, elevation_rad = camera.angles_of_pixels((x + 10.0, y - 5.0))
    assert azimuth_rad > 0 and elevation_rad > 0
    # A head that turns right and up moves what it sees to the left and down.
    moved_x, moved_y = camera.pixels_of_angles((0.0, 0.0), (0.1, 0.05))
    assert moved_x < x and moved_y > y


def test_field_of_view_reaches_from_edge_to_edge():
    camera = CAMERAS[0]
    y = camera.centre_px[1]
    left, right = camera.angles_of_pixels([(-0.5, y), (camera.width_px - 0.5, y)])[:, 0]
    assert right - left == pytest.approx(camera.field_of_view_rad, abs=1e-12)


def test_tilt_follows_pan_about_the_panned_axis():
    # With the head panned by 90 degrees the base's z axis lies to the camera's left, on the axis it
    # tilts about, so tilting moves nothing there.
    for tilt_rad in (-0.5, 0.0, 0.7):
        z_in_camera = head_rotation((math.pi / 2, tilt_rad)).T @ [0.0, 0.0, 1.0]
        np.testing.assert_allclose(z_in_camera, [-1.0, 0.0, 0.0], atol=1e-15)


def test_homography_agrees_with_rays():
    camera, rng = CAMERAS[0], np.random.default_rng(5)
    for head_from, head_to in rng.uniform(-0.3, 0.3, (50, 2, 2)):
        pixels = random_pixels(rng, camera, (30,))
        x, y, w = homography(camera, head_from, head_to) @ np.column_stack([pixels, np.ones(30)]).T
        by_rays = camera.pixels_of_angles(camera.angles_of_pixels(pixels, head_from), head_to)
        np.testing.assert_allclose(np.column_stack([x / w, y / w]), by_rays, rtol=0, atol=1e-9)


def test_what_is_not_ahead_has_no_pixel():
    camera = CAMERAS[0]
    pixels = camera.pixels_of_angles([(math.pi, 0.0), (0.0, 0.0)])
    assert np.isnan(pixels[0]).all() and np.isfinite(pixels[1]).all()


@pytest.mark.parametrize(
    ("width", "height", "view"),
    [(0, 10, 1.0), (10, 0, 1.0), (10, 10, 0.0), (10, 10, math.pi), (10, 10, math.nan)],
)
def test_impossible_cameras_are_refused(width, height, view):
    with pytest.raises(ConfigError):
        Pinhole(width, height, view)
