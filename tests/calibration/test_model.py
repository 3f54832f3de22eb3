"""The camera model: there and back, derivatives, OpenCV and Pinhole as peers, other sizes."""

import dataclasses
import math

import cv2
import numpy as np
import pytest

from calibration import angles
from calibration.errors import CalibrationError
from calibration.model import CameraModel, parameter_names, project
from edge_rjepa.optics import camera as optics

PLAIN = CameraModel("pinhole", 640, 480, 500.0, 500.0, 319.5, 239.5, (0.0,) * 5)
WEBCAM = CameraModel(
    "pinhole", 640, 480, 533.0, 536.0, 342.0, 235.0, (-0.28, 0.09, 0.001, -0.002, 0.01)
)
TURNING = CameraModel("pinhole", 640, 480, 534.0, 534.0, 342.0, 239.0, (-0.31, 0.19, 0, 0, -0.14))
FISHEYE = CameraModel("fisheye", 1280, 720, 420.0, 421.0, 650.0, 350.0, (0.05, -0.01, 0.002, 0.0))
CAMERAS = {"plain": PLAIN, "webcam": WEBCAM, "fisheye": FISHEYE}
HEADS = [(0.0, 0.0), (0.7, -0.4), (-1.1, 0.5)]

cameras = pytest.mark.parametrize("camera", CAMERAS.values(), ids=CAMERAS)
heads = pytest.mark.parametrize("head", HEADS)


def pixels_in(camera, count=300, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(-0.5, np.array([camera.width_px, camera.height_px]) - 0.5, (count, 2))


def by_differences(function, at, step):
    """Derivative (..., out, in) of a function (..., in) -> (..., out)."""
    columns = []
    for axis in range(at.shape[-1]):
        shift = np.zeros(at.shape[-1])
        shift[axis] = step
        columns.append((function(at + shift) - function(at - shift)) / (2.0 * step))
    return np.stack(columns, axis=-1)


@cameras
def test_pixels_survive_the_way_to_rays_and_back(camera):
    pixels = pixels_in(camera).reshape(3, 100, 2)
    rays = camera.rays_of_pixels(pixels)
    np.testing.assert_allclose(np.linalg.norm(rays, axis=-1), 1.0, atol=1e-13)
    np.testing.assert_allclose(camera.pixels_of_rays(rays), pixels, rtol=0, atol=1e-9)
    np.testing.assert_allclose(camera.pixels_of_rays(7.0 * rays), pixels, rtol=0, atol=1e-9)


@cameras
@heads
def test_pixels_survive_the_way_to_angles_and_back(camera, head):
    pixels = pixels_in(camera)
    back = camera.pixels_of_angles(camera.angles_of_pixels(pixels, head), head)
    np.testing.assert_allclose(back, pixels, rtol=0, atol=1e-8)


@heads
def test_without_distortion_it_is_the_pinhole_of_the_package(head):
    other = optics.Pinhole(640, 480, PLAIN.field_of_view_rad)
    assert other.focal_px == pytest.approx(PLAIN.focal_px, abs=1e-9)
    assert other.centre_px == PLAIN.centre_px
    np.testing.assert_allclose(other.intrinsics, PLAIN.intrinsics, atol=1e-9)
    pixels = pixels_in(PLAIN)
    gaze_rad = other.angles_of_pixels(pixels, head)
    np.testing.assert_allclose(PLAIN.angles_of_pixels(pixels, head), gaze_rad, atol=1e-12)
    there = PLAIN.pixels_of_angles(gaze_rad, head)
    np.testing.assert_allclose(there, other.pixels_of_angles(gaze_rad, head), atol=1e-8)


def test_it_has_all_that_the_pinhole_of_the_package_has():
    public = {name for name in dir(optics.Pinhole(8, 8, 1.0)) if not name.startswith("_")}
    assert public <= set(dir(PLAIN))
    assert (
        hash(WEBCAM) == hash(dataclasses.replace(WEBCAM)) and dataclasses.replace(WEBCAM) == WEBCAM
    )


def test_opencv_projects_to_the_same_pixels():
    rng = np.random.default_rng(1)
    points = np.column_stack([rng.uniform(-0.5, 0.5, (200, 2)), rng.uniform(1.0, 2.0, 200)])
    zero = np.zeros(3)
    k = np.array(WEBCAM.distortion)
    theirs = cv2.projectPoints(points, zero, zero, WEBCAM.intrinsics, k)[0][:, 0]
    np.testing.assert_allclose(WEBCAM.pixels_of_rays(points), theirs, rtol=0, atol=1e-9)
    k = np.array(FISHEYE.distortion)
    theirs = cv2.fisheye.projectPoints(points[:, None], zero, zero, FISHEYE.intrinsics, k)[0][:, 0]
    np.testing.assert_allclose(FISHEYE.pixels_of_rays(points), theirs, rtol=0, atol=1e-9)


@cameras
def test_derivatives_of_projection(camera):
    points = 3.0 * camera.rays_of_pixels(pixels_in(camera))
    parameters = np.array(camera.parameters)
    assert len(parameter_names(camera.lens)) == len(parameters)
    pixels, by_point, by_parameter = project(camera.lens, parameters, points)
    np.testing.assert_allclose(pixels, camera.pixels_of_rays(points), atol=1e-9)
    numeric = by_differences(lambda p: project(camera.lens, parameters, p)[0], points, 1e-5)
    np.testing.assert_allclose(by_point, numeric, rtol=1e-6, atol=1e-5)
    for index in range(len(parameters)):
        step = np.zeros(len(parameters))
        step[index] = 1e-6
        high, low = (project(camera.lens, parameters + s, points)[0] for s in (step, -step))
        numeric = (high - low) / 2e-6
        np.testing.assert_allclose(by_parameter[..., index], numeric, rtol=1e-5, atol=1e-4)


@cameras
@heads
def test_derivatives_of_angles_and_rays(camera, head):
    pixels = pixels_in(camera, 50)
    numeric = by_differences(lambda p: camera.angles_of_pixels(p, head), pixels, 1e-3)
    np.testing.assert_allclose(camera.angles_by_pixels(pixels, head), numeric, rtol=1e-4, atol=1e-8)
    numeric = by_differences(camera.rays_of_pixels, pixels, 1e-3)
    np.testing.assert_allclose(camera.rays_by_pixels(pixels), numeric, rtol=1e-4, atol=1e-8)
    gaze_rad = camera.angles_of_pixels(pixels, head)
    numeric = by_differences(lambda a: camera.pixels_of_angles(a, head), gaze_rad, 1e-6)
    np.testing.assert_allclose(
        camera.pixels_by_angles(gaze_rad, head), numeric, rtol=1e-4, atol=1e-2
    )


@cameras
def test_derivative_of_rays_by_parameters(camera):
    pixels, parameters = pixels_in(camera, 50), np.array(camera.parameters)
    by_parameter = camera.rays_by_parameters(pixels)
    for index in range(len(parameters)):
        step = np.zeros(len(parameters))
        step[index] = 1e-7
        high, low = (
            CameraModel.of_parameters(camera.lens, (camera.width_px, camera.height_px), p)
            for p in (parameters + step, parameters - step)
        )
        numeric = (high.rays_of_pixels(pixels) - low.rays_of_pixels(pixels)) / 2e-7
        np.testing.assert_allclose(by_parameter[..., index], numeric, rtol=1e-4, atol=1e-7)


def test_angles_and_rays_have_the_derivatives_they_say():
    rng = np.random.default_rng(2)
    gaze_rad = rng.uniform((-3.1, -1.5), (3.1, 1.5), (500, 2))
    rays = angles.rays_of_angles(gaze_rad)
    numeric = by_differences(angles.rays_of_angles, gaze_rad, 1e-6)
    np.testing.assert_allclose(angles.rays_by_angles(gaze_rad), numeric, atol=1e-8)
    gentle = rays[abs(gaze_rad[:, 1]) < 1.3]
    numeric = by_differences(angles.angles_of_rays, gentle, 1e-6)
    near = (abs(np.abs(angles.angles_of_rays(gentle)[:, 0]) - math.pi)) > 0.01
    np.testing.assert_allclose(angles.angles_by_rays(gentle)[near], numeric[near], atol=1e-6)


def test_where_a_lens_turns_back_it_is_blind():
    assert WEBCAM.covers_picture and FISHEYE.covers_picture and not TURNING.covers_picture
    beyond = math.tan(TURNING.reach_rad) * 1.05
    pixels = TURNING.pixels_of_rays([(beyond, 0.0, 1.0), (0.0, 0.0, 1.0), (0.1, 0.0, -1.0)])
    assert np.isnan(pixels[[0, 2]]).all() and np.isfinite(pixels[1]).all()
    rays = TURNING.rays_of_pixels([(0.0, 479.0), (-1e5, 240.0), (1e7, -1e7)])
    assert np.isfinite(rays).all()
    off_axis_rad = np.arccos(rays[:, 2])
    assert (off_axis_rad <= TURNING.reach_rad + 0.01).all()


def test_a_fisheye_sees_beside_and_behind_itself():
    wide = CameraModel("fisheye", 1000, 1000, 250.0, 250.0, 499.5, 499.5, (0.0,) * 4)
    behind = np.array([math.sin(1.9), 0.0, math.cos(1.9)])
    np.testing.assert_allclose(wide.pixels_of_rays(behind), [499.5 + 250.0 * 1.9, 499.5])
    np.testing.assert_allclose(wide.rays_of_pixels(wide.pixels_of_rays(behind)), behind, atol=1e-12)
    assert math.degrees(wide.field_of_view_rad) == pytest.approx(math.degrees(4.0) - 0.0, abs=1e-6)


@cameras
def test_the_same_place_of_a_scaled_or_cropped_picture_is_the_same_direction(camera):
    pixels = pixels_in(camera)
    half = camera.resized(camera.width_px // 2, camera.height_px // 2)
    seen = half.rays_of_pixels((pixels + 0.5) / 2.0 - 0.5)
    np.testing.assert_allclose(seen, camera.rays_of_pixels(pixels), atol=1e-9)
    part = camera.cropped(100, 50, 300, 200)
    inside = pixels_in(part)
    seen = part.rays_of_pixels(inside)
    np.testing.assert_allclose(seen, camera.rays_of_pixels(inside + [100, 50]), atol=1e-9)


@pytest.mark.parametrize(
    "make",
    [
        lambda: WEBCAM.resized(640, 360),
        lambda: WEBCAM.cropped(600, 0, 100, 100),
        lambda: dataclasses.replace(WEBCAM, lens="mirror"),
        lambda: dataclasses.replace(WEBCAM, width_px=0),
        lambda: dataclasses.replace(WEBCAM, height_px=480.5),
        lambda: dataclasses.replace(WEBCAM, focal_x_px=-1.0),
        lambda: dataclasses.replace(WEBCAM, centre_y_px=math.nan),
        lambda: dataclasses.replace(WEBCAM, distortion=(0.0,) * 4),
    ],
)
def test_impossible_cameras_are_refused_in_one_line(make):
    with pytest.raises(CalibrationError) as error:
        make()
    assert "\n" not in str(error.value) and ":" in str(error.value)


def test_lenses_drawn_at_random_always_have_a_way_back():
    rng = np.random.default_rng(3)
    for _ in range(200):
        k = rng.normal(0.0, [0.25, 0.15, 0.003, 0.003, 0.1])
        camera = CameraModel.of_parameters("pinhole", (640, 480), [500, 500, 320, 240, *k])
        pixels = pixels_in(camera, 200)
        rays = camera.rays_of_pixels(pixels)
        assert np.isfinite(rays).all()
        # Exact wherever the lens is not about to turn back.
        slopes = rays[:, :2] / rays[:, 2:]
        gain = np.linalg.det(
            camera.pixels_by_rays(np.column_stack([slopes, np.ones(200)]))[..., :2]
        )
        inside = np.hypot(*slopes.T) < 0.8 * math.tan(camera.reach_rad)
        steady = inside & (gain > 0.3 * 500.0**2)
        assert steady.sum() > 50
        back = camera.pixels_of_rays(rays[steady])
        np.testing.assert_allclose(back, pixels[steady], rtol=0, atol=1e-4)
