"""Pulses, shafts, rotations and angles: against scipy's rotations, and there and back again."""

import math
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.simulated_rig import draw_truth
from calibration.aim import CalibratedAim
from calibration.angles import head_rotation
from calibration.errors import CalibrationError
from calibration.head_model import HeadCamera, HeadModel, Mount, Servo, chained
from calibration.model import CameraModel
from edge_rjepa.optics.camera import Pinhole

PAN = Servo(1000.0, 2000.0, 1520.0, (-0.8, 0.03, 0.02, -0.01, 0.004), math.radians(1.5))
TILT = Servo(1200.0, 1800.0, 1480.0, (0.5, -0.02, 0.01, 0.0, 0.0), math.radians(0.7))
MOUNT = Mount(*np.radians([7.0, -4.0, 3.0, -9.0]).tolist())
HEAD = HeadModel(PAN, TILT, MOUNT)
CAMERA = CameraModel(
    "pinhole", 640, 480, 560.0, 555.0, 325.0, 236.0, (-0.2, 0.05, 0.001, -0.001, 0.0)
)
VIEW = HeadCamera(CAMERA, HEAD)


def slope_of(function, at, step=1e-6):
    """Central differences, the derivative's axis last."""
    at = np.asarray(at, dtype=np.float64)
    steps = step * np.eye(len(at))
    return np.stack([(function(at + s) - function(at - s)) / (2 * step) for s in steps], axis=-1)


@pytest.mark.parametrize("seed", range(5))
def test_the_chain_is_the_rotation_worked_out_otherwise(seed):
    truth = draw_truth(seed)
    mount = Mount(truth.elevation_rad, truth.roll_rad, truth.lean_rad, truth.yaw_rad)
    shafts = np.random.default_rng(seed).uniform(-1.0, 1.0, (4, 2))
    expected = [truth.rotation(each) for each in shafts]
    np.testing.assert_allclose(chained(shafts, mount)[0], expected, atol=1e-14)


def test_an_ideal_mount_is_an_ideal_head():
    shafts = 0.7, -0.4
    np.testing.assert_allclose(chained(shafts, Mount())[0], head_rotation(shafts), atol=1e-15)


def test_rates_are_the_derivatives_of_the_rotation():
    angles = np.array([0.6, -0.3, *MOUNT])

    def turned(x):
        return chained(angles[:2], MOUNT)[0].T @ chained(x[:2], x[2:])[0]

    spin = slope_of(turned, angles)  # (3, 3, 6), skew
    vectors = np.stack([spin[2, 1], spin[0, 2], spin[1, 0]])
    np.testing.assert_allclose(chained(angles[:2], MOUNT)[1], vectors, atol=1e-9)


@pytest.mark.parametrize("servo", [PAN, TILT])
def test_pulses_survive_the_way_to_angles_and_back(servo):
    pulses = np.linspace(servo.low, servo.high, 50)
    np.testing.assert_allclose(servo.pulse(servo.angle(pulses)), pulses, atol=1e-9)
    assert servo.angle(servo.home) == 0.0
    slope = slope_of(lambda p: servo.angle(p[0]), [pulses[7]], 1e-3)[0]
    assert servo.slope(pulses[7]) == pytest.approx(slope, rel=1e-8)


def test_beyond_the_range_lies_the_limit():
    assert PAN.pulse(9.0) == PAN.low and PAN.pulse(-9.0) == PAN.high  # it is a reversed one


def test_a_shaft_arrives_from_either_side_and_for_moves_smaller_than_the_backlash():
    rng = np.random.default_rng(0)
    shaft = 0.0
    for goal in np.cumsum(rng.normal(0.0, math.radians(1.0), 300)) % 0.6 - 0.3:
        shaft = PAN.stands(PAN.pulse_towards(goal, shaft), shaft)
        assert shaft == pytest.approx(goal, abs=1e-9)


def test_backlash_left_to_itself_trails():
    half = 0.5 * PAN.backlash_rad
    assert PAN.stands(1600.0, 9.0) == pytest.approx(PAN.angle(1600.0) + half)
    assert PAN.stands(1600.0, PAN.angle(1600.0) + 0.1 * half) == PAN.angle(1600.0) + 0.1 * half


@pytest.mark.parametrize("pixel", [(325.0, 236.0), (40.0, 400.0)])
def test_any_pixel_can_be_pointed_at_any_angle(pixel):
    wanted = np.radians(np.random.default_rng(1).uniform((-170, -30), (170, 30), (50, 2)))
    ray = CAMERA.rays_of_pixels(pixel)
    head = replace(HEAD, ahead=tuple(ray.tolist()))
    shafts = head.shafts_of_pointing(wanted)
    reached = np.einsum("nij,j->ni", head.rotation(shafts), ray)
    azimuth, elevation = np.arctan2(reached[:, 0], reached[:, 2]), np.arcsin(-reached[:, 1])
    np.testing.assert_allclose(np.stack([azimuth, elevation], -1), wanted, atol=1e-9)


def test_what_cannot_be_reached_is_not_a_number_or_an_error():
    assert np.isnan(HEAD.shafts_of_pointing((0.0, math.radians(89.9)))).any()
    with pytest.raises(CalibrationError, match="lower elevation"):
        VIEW.angles_of_pixels((1.0, 2.0), (0.0, math.radians(89.9)))


def test_the_base_frame_is_what_it_is_said_to_be():
    assert HEAD.pointing((0.0, 0.0)) == pytest.approx((0.0, MOUNT.elevation_rad))
    before, after = HEAD.pointing([(-0.5, 0.2), (0.4, 0.2)])
    assert after - before == pytest.approx((0.9, 0.0))  # the pan axis is upright


def test_on_an_ideal_head_it_is_a_pinhole():
    camera = CameraModel("pinhole", 640, 480, 550.0, 550.0, 319.5, 239.5, (0.0,) * 5)
    pinhole = Pinhole(640, 480, camera.field_of_view_rad)
    view, head = HeadCamera(camera, HeadModel(PAN, TILT)), (0.3, -0.2)
    pixels = np.random.default_rng(2).uniform(0, 479, (20, 2))
    angles = pinhole.angles_of_pixels(pixels, head)
    np.testing.assert_allclose(view.angles_of_pixels(pixels, head), angles, atol=1e-12)
    np.testing.assert_allclose(view.pixels_of_angles(angles, head), pixels, atol=1e-9)
    assert (view.width_px, view.height_px) == (pinhole.width_px, pinhole.height_px)
    assert view.focal_px == pytest.approx(pinhole.focal_px)
    assert view.centre_px == pinhole.centre_px
    assert view.field_of_view_rad == pytest.approx(pinhole.field_of_view_rad)


def test_the_optical_axis_looks_where_the_head_is_said_to_point():
    head = 0.4, 0.3
    np.testing.assert_allclose(VIEW.angles_of_pixels(VIEW.centre_px, head), head, atol=1e-12)


def test_derivatives():
    pixel, head, angles = (100.0, 420.0), (0.4, 0.2), (0.55, 0.05)
    by_pixel = slope_of(lambda p: VIEW.angles_of_pixels(p, head), pixel, 1e-4)
    np.testing.assert_allclose(VIEW.angles_by_pixels(pixel, head), by_pixel, rtol=1e-6, atol=1e-10)
    by_angle = slope_of(lambda a: VIEW.pixels_of_angles(a, head), angles)
    np.testing.assert_allclose(VIEW.pixels_by_angles(angles, head), by_angle, rtol=1e-6, atol=1e-5)
    by_head = slope_of(lambda h: VIEW.angles_of_pixels(pixel, h), head)
    np.testing.assert_allclose(VIEW.angles_by_head(pixel, head), by_head, atol=1e-8)
    by_shaft = slope_of(HEAD.pointing, head)
    np.testing.assert_allclose(HEAD.pointing_by_shafts(head), by_shaft, atol=1e-9)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"low": math.nan}, "finite"),
        ({"home": 900.0}, "must rise"),
        ({"curve_rad": (0.5,)}, "5 values"),
        ({"backlash_rad": -0.1}, "backlash lies between 0 and"),
        ({"backlash_rad": 1e6}, "backlash lies between 0 and"),
        ({"high": 1e300}, "at most 1e"),
        ({"curve_rad": (-1e300, 0.0, 0.0, 0.0, 0.0)}, "at most 1e"),
        ({"curve_rad": (-1e3, 0.0, 0.0, 0.0, 0.0)}, "no servo does"),
        ({"curve_rad": (0.1, 0.3, 0.0, 0.0, 0.0)}, "turns back"),
    ],
)
def test_nonsense_is_refused(change, words):
    good = {"low": 1000.0, "high": 2000.0, "home": 1500.0, "curve_rad": PAN.curve_rad}
    with pytest.raises(CalibrationError, match=words):
        Servo(**{**good, **change})


# -- aiming ----------------------------------------------------------------------------------------

AIM = CalibratedAim(HEAD)
OF_HEAD = (900.0, 2100.0), (1250.0, 1750.0)


def test_an_aim_reaches_what_it_is_told_from_wherever_it_stands():
    limits_rad = np.array(AIM.limits_rad(OF_HEAD))
    rng = np.random.default_rng(1)
    here_rad = math.nan, math.nan
    stands = HEAD.shafts([1500.0, 1500.0])
    for goal_rad in rng.uniform(*(0.7 * limits_rad).T, (200, 2)).tolist():
        positions = AIM.positions(goal_rad, here_rad)
        stands = HEAD.stands(positions, stands)
        np.testing.assert_allclose(HEAD.pointing(stands), goal_rad, atol=1e-6 + (
            # From nobody knows where, the shaft may stand anywhere within its backlash.
            PAN.backlash_rad if math.isnan(here_rad[0]) else 0.0
        ))  # fmt: skip
        here_rad = AIM.angles_rad(positions, tuple(HEAD.pointing(stands)))
        np.testing.assert_allclose(here_rad, HEAD.pointing(stands), atol=1e-9)


def test_an_aims_limits_are_the_narrower_ones():
    (pan_low, pan_high), (tilt_low, tilt_high) = AIM.limits_rad(OF_HEAD)
    for k, (low_rad, high_rad) in enumerate([(pan_low, pan_high), (tilt_low, tilt_high)]):
        low, high = max(HEAD.servos[k].low, OF_HEAD[k][0]), min(HEAD.servos[k].high, OF_HEAD[k][1])
        pulses = np.array([s.home for s in HEAD.servos])
        ends = []
        for pulses[k] in (low, high):
            ends.append(HEAD.pointing(HEAD.shafts(pulses))[k])
        assert sorted(ends) == pytest.approx([low_rad, high_rad])
    with pytest.raises(CalibrationError, match="calibrate the head again"):
        AIM.limits_rad(((2100.0, 2400.0), (1250.0, 1750.0)))


def test_an_aim_never_sends_what_is_no_pulse():
    """Beyond the limits, straight up, and from a head that does not know where it is."""
    for goal_rad in [(3.0, 0.1), (0.0, 1.5), (0.0, -1.5), (-3.1, 1.57)]:
        for here_rad in [(0.1, 0.1), (math.nan, math.nan)]:
            pan, tilt = AIM.positions(goal_rad, here_rad)
            assert PAN.low <= pan <= PAN.high and TILT.low <= tilt <= TILT.high


@pytest.mark.parametrize(
    "values",
    [
        {"high": 1e300},
        {"high": 1000.5},
        {"low": -1.0},
        {"backlash_rad": 1e6},
        {"curve_rad": (1e6, 0.0, 0.0, 0.0, 0.0)},
        {"curve_rad": (1e-9, 0.0, 0.0, 0.0, 0.0)},
    ],
)
def test_a_servo_that_nobody_built_is_refused(values):
    servo = {"low": 1000.0, "high": 2000.0, "home": 1000.0, "curve_rad": (0.8, 0.0, 0.0, 0.0, 0.0)}
    Servo(**servo)
    with pytest.raises(CalibrationError, match="servo"):
        Servo(**servo | values)


def test_a_mount_that_nobody_built_is_refused():
    for k in range(4):
        mount = [0.0] * 4
        mount[k] = 3.2
        with pytest.raises(CalibrationError, match="no head is built like that"):
            HeadModel(PAN, TILT, Mount(*mount))
    for ahead in (0.0, 0.0, 2.0), (0.0, 0.0, -1.0), (0.0, math.nan, 1.0):
        with pytest.raises(CalibrationError, match="must be a ray"):
            HeadModel(PAN, TILT, MOUNT, ahead)


@pytest.mark.slow
def test_whatever_head_is_accepted_is_never_sent_to_nan():
    rng = np.random.default_rng(5)

    def anywhere(most):
        return float(rng.choice([rng.uniform(-most, most), -most, most, 0.0]))

    def drawn_servo():
        low = rng.uniform(0.0, 2e4)
        high = low + 10.0 ** rng.uniform(0.0, 4.0)
        curve_rad = rng.uniform(-1.0, 1.0, 5) * [3.0, 1.0, 1.0, 0.3, 0.3] * 10 ** rng.uniform(-2, 0)
        backlash_rad = abs(anywhere(math.radians(30.0)))
        return Servo(low, high, rng.choice([low, high]), tuple(curve_rad), backlash_rad)

    def drawn_head():
        ray = rng.uniform(-1.0, 1.0, 3) * [rng.integers(2), rng.integers(2), 0.0] + [0.0, 0.0, 0.3]
        askew_rad = math.radians(60.0)
        angles = map(anywhere, (math.radians(89.0), math.pi, askew_rad, askew_rad))
        ray /= np.linalg.norm(ray)
        return HeadModel(drawn_servo(), drawn_servo(), Mount(*angles), tuple(ray.tolist()))

    accepted = 0
    for _ in range(1000):
        try:
            head = drawn_head()
        except CalibrationError:
            continue
        accepted += 1
        aim, here = CalibratedAim(head), (math.nan, math.nan)
        for wanted in rng.uniform(-2.0, 2.0, (10, 2)):
            positions = aim.positions(wanted, here)
            here = aim.angles_rad(positions, here)
            assert np.isfinite([*positions, *here]).all(), head
            assert head.pan.low <= positions[0] <= head.pan.high
            assert head.tilt.low <= positions[1] <= head.tilt.high
    assert accepted > 100
