"""The camera solver: real chessboards, simulated cameras with known truth, and what it refuses."""

import math
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.camera_calibration import Noise, draw_board_at, draw_camera, draw_sightings, render
from calibration.board import Board, Sighting
from calibration.bundle import Views, distances, placed, poses_of_plane, refine, start
from calibration.camera import calibrate_camera
from calibration.errors import CalibrationError
from calibration.io import Calibration, CameraRecord
from calibration.pictures import sightings_in
from calibration.report import page

pytestmark = pytest.mark.slow

DATA = Path("/usr/share/doc/opencv-doc/examples/data")
real = pytest.mark.skipif(
    not (DATA / "left01.jpg").exists(), reason="no chessboard pictures: apt-get install opencv-doc"
)
CHESS = Board("chessboard", 9, 6, 0.025)
CHARUCO = Board("charuco", 9, 6, 0.025)
PUBLISHED_PX = 535.92  # focal length of the left set in OpenCV's left_intrinsics.yml
SIZE = 640, 480


def pictures(side):
    return sorted(DATA.glob(f"{side}[01][0-9].jpg"))


@cache
def found(side):
    return sightings_in(pictures(side), CHESS)


@cache
def solved(side):
    seen = found(side)
    return calibrate_camera(CHESS, seen.sightings, seen.size, seen.names)


@cache
def as_opencv_finds_them(side):
    """The usual way: a window of 11 pixels about each corner, however small the squares."""
    sightings = []
    for path in pictures(side):
        grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        corners = cv2.findChessboardCorners(grey, (9, 6), None)[1]
        fine = cv2.cornerSubPix(grey, corners, (11, 11), (-1, -1), (3, 30, 1e-3))
        sightings.append(Sighting(np.arange(54), fine.reshape(-1, 2).astype(np.float64), 2.0))
    return sightings


def by_opencv(sightings):
    """(RMS, focal length, RMS of each view) of plain OpenCV."""
    points = [CHESS.points.astype(np.float32)] * len(sightings)
    corners = [sighting.pixels.astype(np.float32)[:, None] for sighting in sightings]
    result = cv2.calibrateCameraExtended(points, corners, SIZE, None, None)
    return result[0], result[1][0, 0], result[-1].ravel()


# -- real pictures ---------------------------------------------------------------------------------


@real
def test_left_chessboards_are_solved_without_leaving_anything_out():
    calibration = solved("left")
    assert calibration.views_used == 13 and calibration.corners_used == 13 * 54
    assert calibration.rms_px < 0.12 < 0.25
    assert calibration.model.focal_x_px == pytest.approx(PUBLISHED_PX, rel=0.005)
    assert calibration.model.lens == "pinhole" and calibration.model.covers_picture
    assert max(view.rms_px for view in calibration.views) < 0.25


@real
@pytest.mark.parametrize("side", ["left", "right"])
def test_better_than_plain_opencv_on_all_corners(side):
    plain_px, _, _ = by_opencv(as_opencv_finds_them(side))
    calibration = solved(side)
    assert calibration.corners_used == 13 * 54
    assert calibration.rms_px < 0.3 * plain_px
    off_px = np.hypot(*calibration.residuals_px.T)
    assert calibration.rms_px == pytest.approx(np.sqrt((off_px**2).mean()))


@real
def test_mended_corners_are_better_whatever_solves():
    assert by_opencv(as_opencv_finds_them("left"))[2][1] > 1.0  # left02
    rms_px, focal_px, views_px = by_opencv(found("left").sightings)
    assert rms_px < 0.2 and views_px[1] < 0.2
    assert focal_px == pytest.approx(solved("left").model.focal_x_px, rel=0.003)


@real
def test_bad_corners_are_found_dropped_and_told():
    names = [path.name for path in pictures("left")]
    calibration = calibrate_camera(CHESS, as_opencv_finds_them("left"), SIZE, names)
    told = {view.name: view for view in calibration.views if view.reason}
    assert told["left02.jpg"].used < 54 and "dropped" in told["left02.jpg"].reason
    assert 13 * 54 - calibration.corners_used <= 20
    assert calibration.rms_px < 0.15
    assert calibration.model.focal_x_px == pytest.approx(PUBLISHED_PX, rel=0.005)
    assert any(line.startswith("left02.jpg: ") for line in calibration.summary_lines())


@real
def test_two_cameras_measure_the_same_board():
    left, right = solved("left").bent_m, solved("right").bent_m
    for axis in range(3):
        assert np.corrcoef(left[:, axis], right[:, axis])[0, 1] > 0.8
    held_out = solved("left").held_out_px
    flat = min(px for name, px in held_out.items() if "measured" not in name)
    assert held_out[solved("left").chosen] < 0.7 * flat


@real
def test_the_page_shows_every_corner_parameter_and_view():
    result = solved("left")
    record = CameraRecord("<camera>", "2026-01-01T00:00:00+00:00", "0", result)
    shown = page(Calibration(record))
    assert shown.count('class="off"') == result.corners_used
    assert "&lt;camera&gt;" in shown and "<camera>" not in shown
    for view in result.views:
        assert f"<td>{view.name}</td>" in shown
    assert f"{result.rms_px:.3f} px" in shown and "not fitted" in shown


# -- simulated cameras -----------------------------------------------------------------------------


def draw(seed, lens, noise=Noise(), count=14):  # noqa: B008 - a tuple
    rng = np.random.default_rng(seed)
    camera = draw_camera(rng, lens)
    return camera, draw_sightings(rng, camera, CHARUCO, count, noise)


@cache
def usual():
    """The views of a camera, and what is found by them."""
    camera, sightings = draw(5, "pinhole")
    return camera, sightings, calibrate_camera(CHARUCO, sightings, camera.size)


@pytest.mark.parametrize(("seed", "lens"), [(0, "pinhole"), (1, "pinhole"), (2, "fisheye")])
def test_the_truth_is_found(seed, lens):
    camera, sightings = draw(seed, lens)
    calibration = calibrate_camera(CHARUCO, sightings, camera.size)
    model = calibration.model
    assert model.lens == lens
    at = np.array(model.parameters)
    assert abs(at[:2] / camera.focal - 1.0).max() < 0.005
    assert abs(at[2:4] - camera.centre).max() < 0.005 * camera.size[0]
    low, high = calibration.intervals.T
    held = (low <= camera.parameters) & (camera.parameters <= high)
    assert held.sum() >= len(at) - 2
    # Directions are as well known as they are said to be.
    rng = np.random.default_rng(seed)
    pixels = rng.uniform(0.1, 0.9, (200, 2)) * camera.size
    points = model.rays_of_pixels(pixels)
    with np.errstate(all="ignore"):
        off_px = np.hypot(*(camera.see(points) - pixels).T)
    known_px = calibration.angle_std_rad(pixels) * model.focal_px
    assert np.mean(off_px < 5.0 * known_px) > 0.9 and np.median(known_px) < 3.0


def test_outliers_are_dropped_and_good_corners_kept():
    camera, clean = draw(3, "pinhole", Noise(outliers=0.0))
    wrong = [s._replace(pixels=s.pixels.copy()) for s in clean]
    for sighting in wrong[::3]:
        sighting.pixels[[3, 11]] += [4.0, -3.0]
    wrong[1].pixels[:] += np.random.default_rng(0).normal(0.0, 3.0, wrong[1].pixels.shape)
    calibration = calibrate_camera(CHARUCO, wrong, camera.size)
    dropped = [view.seen - view.used for view in calibration.views]
    assert calibration.views[1].used == 0 and calibration.views[1].reason.startswith("dropped")
    assert [dropped[view] for view in range(0, len(wrong), 3)] == [2] * len(wrong[::3])
    assert sum(dropped) == 2 * len(wrong[::3]) + wrong[1].ids.size
    assert abs(calibration.model.focal_x_px / camera.focal[0] - 1.0) < 0.005


def test_a_bent_board_is_measured_and_a_good_one_left_alone():
    camera, sightings = draw(4, "pinhole", Noise(board_share=0.005))
    bent = calibrate_camera(CHARUCO, sightings, camera.size, lens="pinhole")
    assert bent.bent_m.any() and "measured" in bent.chosen
    assert bent.model.focal_x_px == pytest.approx(camera.focal[0], rel=0.005)
    camera, sightings = draw(4, "pinhole")
    flat = calibrate_camera(CHARUCO, sightings, camera.size, lens="pinhole")
    assert not flat.bent_m.any()


def test_the_same_views_give_the_same_camera():
    camera, sightings, one = usual()
    other = calibrate_camera(CHARUCO, sightings, camera.size)
    assert one.model == other.model
    np.testing.assert_array_equal(one.intervals, other.intervals)


def test_rendered_pictures_are_solved():
    rng = np.random.default_rng(6)
    camera = draw_camera(rng, "pinhole")._replace(size=SIZE, centre=np.array([322.0, 236.0]))
    camera = camera._replace(focal=np.array([560.0, 561.0]))
    sightings = []
    while len(sightings) < 12:
        corners = draw_board_at(rng, camera, CHARUCO)
        pixels = camera.see(corners)
        if ((pixels > 0.0) & (pixels < np.array(SIZE) - 1.0)).all(axis=1).mean() < 0.6:
            continue
        sighting = CHARUCO.find(render(rng, camera, CHARUCO, corners))
        if sighting is not None:
            sightings.append(sighting)
    calibration = calibrate_camera(CHARUCO, sightings, SIZE)
    assert abs(np.array(calibration.model.parameters[:2]) / camera.focal - 1.0).max() < 0.005
    assert calibration.rms_px < 0.2


def test_a_view_taken_many_times_counts_once():
    camera, sightings, alone = usual()
    jitter = np.random.default_rng(0).normal(0.0, 0.05, (3, *sightings[0].pixels.shape))
    again = [sightings[0]._replace(pixels=sightings[0].pixels + each) for each in jitter]
    names = [f"{n}.png" for n in range(len(sightings) + 3)]
    calibration = calibrate_camera(CHARUCO, [*sightings, *again], camera.size, names)
    assert calibration.views_used == alone.views_used
    reasons = [view.reason for view in calibration.views[-3:]]
    assert reasons == ["dropped: the same view as 0.png"] * 3
    assert calibration.model == alone.model
    np.testing.assert_array_equal(calibration.std, alone.std)
    with pytest.raises(CalibrationError, match="1 of 8 views differ: at least 6"):
        calibrate_camera(CHARUCO, sightings[:1] * 8, camera.size)


# -- what is refused -------------------------------------------------------------------------------


def held(tilts_rad, places, size=SIZE, focal_px=520.0, noise_px=0.1):
    """Sightings of boards turned by (right, down) and put at (x, y, z) in metres."""
    rng = np.random.default_rng(0)
    points = CHARUCO.points - CHARUCO.points.mean(axis=0)
    for (right, down), place in zip(tilts_rad, places, strict=True):
        turn = cv2.Rodrigues(np.array([down, right, 0.0]))[0]
        x, y, z = (points @ turn.T + place).T
        pixels = np.stack([x / z, y / z], axis=-1) * focal_px + np.array(size) / 2.0
        inside = ((pixels > 1.0) & (pixels < np.array(size) - 2.0)).all(axis=1)
        ids = np.flatnonzero(inside)
        yield Sighting(ids, pixels[ids] + rng.normal(0.0, noise_px, (len(ids), 2)), 2.0)


def all_over(count):
    return np.array(
        [[0.22 * math.cos(n), 0.16 * math.sin(n), 0.5 + 0.02 * n] for n in range(count)]
    )


@pytest.mark.parametrize("noise_px", [0.0, 0.1])
def test_boards_held_all_the_same_way_are_refused(noise_px):
    views = list(held(np.zeros((12, 2)), all_over(12), noise_px=noise_px))
    with pytest.raises(CalibrationError, match="tilted by 20 to 45 degrees"):
        calibrate_camera(CHARUCO, views, SIZE)


def test_a_board_in_one_part_of_the_picture_is_refused():
    tilts = np.random.default_rng(1).uniform(-0.6, 0.6, (12, 2))
    with pytest.raises(CalibrationError, match="corner of the picture"):
        calibrate_camera(CHARUCO, list(held(tilts, [[-0.25, -0.15, 0.9]] * 12)), SIZE)


def test_too_few_views_are_refused():
    camera, sightings = draw(0, "pinhole")
    with pytest.raises(CalibrationError, match="at least 6"):
        calibrate_camera(CHARUCO, sightings[:5], camera.size)


def test_pictures_without_the_board_say_why(tmp_path):
    image = cv2.GaussianBlur(CHARUCO.draw(3000.0), (0, 0), 1.0)
    for name in "ab":
        cv2.imwrite(str(tmp_path / f"{name}.png"), image[:, ::-1])
    with pytest.raises(CalibrationError, match="no charuco .* in 2 pictures: .* mirrored"):
        sightings_in(sorted(tmp_path.iterdir()), CHARUCO)


def test_views_that_no_camera_explains_are_refused():
    camera, sightings = draw(0, "pinhole")
    rng = np.random.default_rng(0)
    wild = [s._replace(pixels=rng.uniform(0, 1, s.pixels.shape) * camera.size) for s in sightings]
    with pytest.raises(CalibrationError, match="no camera explains"):
        calibrate_camera(CHARUCO, wild, camera.size)


def spoiled(change):
    camera, sightings = draw(0, "pinhole")
    return [change(sightings[0], camera), *sightings[1:]], camera.size


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda s, c: s._replace(pixels=s.pixels * np.nan), "no finite number"),
        (lambda s, c: s._replace(pixels=s.pixels + c.size), "outside a picture"),
        (lambda s, c: s._replace(ids=s.ids + 54), "another board"),
        (lambda s, c: s._replace(ids=s.ids * 0), "must be different"),
        (lambda s, c: s._replace(pixels=s.pixels[:-1]), r"must be whole numbers"),
        (lambda s, c: s._replace(ids=s.ids[:5], pixels=s.pixels[:5]), "5 corners"),
    ],
)
def test_sightings_that_cannot_be_are_refused(change, why):
    sightings, size = spoiled(change)
    with pytest.raises(CalibrationError, match=why) as error:
        calibrate_camera(CHARUCO, sightings, size)
    assert "\n" not in str(error.value)


def test_an_unknown_lens_is_refused():
    with pytest.raises(CalibrationError, match="lens 'mirror' is unknown"):
        calibrate_camera(CHARUCO, [], SIZE, lens="mirror")


# -- pictures --------------------------------------------------------------------------------------


def write(path, image):
    assert cv2.imwrite(str(path), image)
    return path


def test_pictures_are_read_and_those_without_a_board_named(tmp_path):
    black = write(tmp_path / "black.png", np.zeros((675, 900), np.uint8))
    board = write(tmp_path / "board.png", cv2.GaussianBlur(CHARUCO.draw(3000.0), (0, 0), 1.0))
    seen = sightings_in([black, board], CHARUCO)
    assert seen.names == ["board.png"] and seen.without == ["black.png"] and seen.size == (900, 675)


def test_pictures_that_will_not_do_are_refused(tmp_path):
    black = write(tmp_path / "black.png", np.zeros((480, 640), np.uint8))
    small = write(tmp_path / "small.png", np.zeros((240, 320), np.uint8))
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").touch()
    for paths, why in [
        ([black], "no charuco"),
        ([], "no charuco"),
        ([black, small], "one resolution"),
        ([tmp_path / "text.png"], "is no picture"),
        ([tmp_path / "empty.png"], "is no picture"),
        ([tmp_path / "missing.png"], "cannot read"),
    ]:
        with pytest.raises(CalibrationError, match=why):
            sightings_in(paths, CHARUCO)


# -- the parts -------------------------------------------------------------------------------------


def test_planes_are_placed_exactly_by_exact_rays():
    views = list(held([(0.3, -0.2), (-0.5, 0.4)], [[0.0, 0.0, 0.6]] * 2, noise_px=0.0))
    rays = np.zeros((2, 54, 3))
    seen = np.zeros((2, 54), bool)
    for view, sighting in enumerate(views):
        slopes = (sighting.pixels - np.array(SIZE) / 2.0) / 520.0
        rays[view, sighting.ids] = np.column_stack([slopes, np.ones(len(slopes))])
        seen[view, sighting.ids] = True
    rays /= np.maximum(np.linalg.norm(rays, axis=-1, keepdims=True), 1e-12)
    rotations, places = poses_of_plane(CHARUCO.points, rays, seen)
    for rotation, (right, down) in zip(rotations, [(0.3, -0.2), (-0.5, 0.4)], strict=True):
        np.testing.assert_allclose(
            rotation, cv2.Rodrigues(np.array([down, right, 0.0]))[0], atol=1e-6
        )
    middles = rotations @ CHARUCO.points.mean(axis=0) + places
    np.testing.assert_allclose(middles, [[0.0, 0.0, 0.6]] * 2, atol=1e-6)


def test_the_fit_is_least_squares():
    """No change of any unknown, the boards' places adjusted, makes the sum of squares less."""
    camera, sightings = draw(7, "pinhole", Noise(outliers=0.0), count=8)
    seen = np.zeros((8, 54), bool)
    pixels = np.zeros((8, 54, 2))
    for view, sighting in enumerate(sightings):
        seen[view, sighting.ids], pixels[view, sighting.ids] = True, sighting.pixels
    views = Views(CHARUCO.points, pixels, seen, camera.size)
    fit = refine(start("pinhole", views), views, seen)

    def cost(parameters):
        fixed = fit._replace(parameters=parameters, free=np.zeros(9, bool))
        return (distances(placed(fixed, views, seen), views)[seen] ** 2).sum()

    least = cost(fit.parameters)
    for index, step in enumerate([0.3, 0.3, 0.3, 0.3, 3e-3, 3e-3, 1e-4, 1e-4, 3e-3]):
        for sign in (-1.0, 1.0):
            moved = fit.parameters.copy()
            moved[index] += sign * step
            assert cost(moved) > least
