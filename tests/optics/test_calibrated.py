"""A calibrated camera, on an ideal and on a calibrated head, where a stated one was enough."""

import math

import numpy as np
import pytest

from calibration.head_model import HeadCamera, HeadModel, Mount, Servo
from calibration.model import CameraModel
from edge_rjepa.eye.config import GazeConfig
from edge_rjepa.eye.gaze import Gaze
from edge_rjepa.optics.camera import Pinhole, as_values, camera_of
from edge_rjepa.sources.recording import Recorder, about
from tests.eye.test_gaze import assert_same_plan, picture

BENT = CameraModel("pinhole", 320, 240, 290.0, 288.0, 170.0, 111.0, (-0.25, 0.08, 1e-3, -1e-3, 0.0))
FISHEYE = CameraModel("fisheye", 320, 240, 100.0, 100.0, 158.0, 122.0, (-0.02, 0.003, 0.0, 0.0))
HEAD = HeadModel(
    Servo(1000.0, 2000.0, 1500.0, (0.8, 0.02, 0.01, 0.0, 0.0), 0.02),
    Servo(1200.0, 1800.0, 1500.0, (-0.5, 0.01, 0.0, 0.0, 0.0), 0.01),
    Mount(*np.radians([5.0, -6.0, 4.0, -3.0]).tolist()),
)
ON_HEAD = HeadCamera(BENT, HEAD)
CAMERAS = {
    "pinhole": Pinhole(320, 240, math.radians(60.0)),
    "bent": BENT,
    "fisheye": FISHEYE,
    "on a head": ON_HEAD,
}
POSE = 0.15, -0.1
every_camera = pytest.mark.parametrize("camera", CAMERAS.values(), ids=CAMERAS)
IMAGE = picture()


@every_camera
def test_a_camera_survives_being_written_down(camera):
    assert camera_of(as_values(camera)) == camera


@pytest.mark.parametrize("values", [None, {}, {"kind": "eye"}, {"kind": "pinhole", "width_px": 3}])
def test_what_describes_no_camera_is_refused(values):
    with pytest.raises(ValueError, match="camera"):
        camera_of(values)


@every_camera
def test_magnification_is_that_of_the_pixels_of_rays(camera):
    pixels = np.random.default_rng(0).uniform((40, 40), (280, 200), (50, 2))
    rays = BENT.rays_of_pixels(pixels) if camera is ON_HEAD else camera.rays_of_pixels(pixels)
    right = np.cross(rays, (0.0, 1.0, 0.0))
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    down = np.cross(right, rays)
    step = 1e-4
    by = [
        (camera.pixels_of_rays(rays + step * to) - camera.pixels_of_rays(rays - step * to))
        / (2 * step)
        for to in (right, down)
    ]
    area = np.abs(by[0][:, 0] * by[1][:, 1] - by[0][:, 1] * by[1][:, 0])
    np.testing.assert_allclose(camera.px_per_rad(rays), np.sqrt(area), rtol=1e-5)


@every_camera
def test_gaze_looks_into_the_picture_and_tells_where_that_is(camera):
    gaze = Gaze(GazeConfig(), seed=3)
    for _ in range(5):
        plan = gaze.plan(camera, IMAGE, POSE, 16)
        gaze.learned(np.ones(16))
        assert ((plan.pixels >= 0.0) & (plan.pixels <= (319.0, 239.0))).all()
        there = camera.pixels_of_angles(plan.gaze_rad, POSE)
        np.testing.assert_allclose(there, plan.pixels, atol=1e-6)


@every_camera
def test_gazes_map_lies_where_its_cells_are_seen(camera):
    gaze = Gaze(GazeConfig(), seed=3)
    view = gaze._cells_in_view(camera, POSE)
    middles_rad = gaze._angles_rad[view.cells]
    np.testing.assert_allclose(
        camera.pixels_of_angles(middles_rad, POSE), view.middles.T, atol=1e-6
    )
    # All over the picture, and each box about its cell's share of it.
    low, high = view.boxes[:2].min(axis=1), view.boxes[2:].max(axis=1)
    margin = gaze.config.margin_px
    np.testing.assert_allclose([low, high], [(margin, margin), (319 - margin, 239 - margin)])
    whole = (319 - 2 * margin) * (239 - 2 * margin)
    areas = np.prod(view.boxes[2:] - view.boxes[:2], axis=0)
    assert areas.sum() == pytest.approx(whole, rel=0.06)


@every_camera
def test_gaze_goes_on_bit_for_bit(camera):
    gaze, other = Gaze(GazeConfig(), seed=3), Gaze(GazeConfig(), seed=4)
    gaze.plan(camera, IMAGE, POSE, 16)
    other.restore(gaze.state())
    gaze.learned(np.ones(16))
    other.learned(np.ones(16))
    assert_same_plan(gaze.plan(camera, IMAGE, POSE, 16), other.plan(camera, IMAGE, POSE, 16))


@every_camera
def test_a_recording_keeps_its_camera(camera, tmp_path):
    with Recorder(tmp_path / "walk", camera, {}, None, []) as recorder:
        recorder.close()
    assert about(tmp_path / "walk").camera == camera
