"""The calibration file: what is saved comes back, what is damaged is refused, nothing is lost."""

import json
import os
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import numpy as np
import pytest

from calibration import io
from calibration.board import Board
from calibration.camera import CameraCalibration, ViewReport
from calibration.errors import CalibrationError
from calibration.head import NAMES
from calibration.io import CameraRecord
from calibration.model import CameraModel
from calibration.report import page
from calibration.timing import HeadTiming
from safe_files.plain import plain
from tests.calibrations import head_record


def calibration(focal_px=533.7):
    rng = np.random.default_rng(0)
    lens = CameraModel("pinhole", 640, 480, focal_px, 534.0, 342.0, 238.6, (-0.3, 0.1, 0, 0, 0))
    return CameraCalibration(
        model=lens,
        std=rng.random(9),
        intervals=rng.random((9, 2)),
        covariance=rng.random((9, 9)),
        rms_px=0.093,
        held_out_px={"pinhole k1": 0.11, "fisheye k1": 1.0 / 3.0},
        chosen="pinhole k1",
        coverage=0.8,
        views=(
            ViewReport("a.png", 54, 52, 0.1, 0.3, 0.5, "2 of its 54 corners dropped"),
            ViewReport("b.png", 54, 54, 0.09, 0.2, 0.4, ""),
        ),
        board=Board("charuco", 9, 6, 0.025),
        bent_m=rng.normal(0.0, 1e-4, (54, 3)),
        pixels=rng.random((106, 2)),
        residuals_px=rng.normal(0.0, 0.1, (106, 2)),
    )


def record(**changes):
    return CameraRecord("usb-cam-1", "2026-01-02T03:04:05+00:00", "0.1.0", calibration(**changes))


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "calibration.json"
    io.save(path, record())
    return path


def test_what_is_saved_comes_back_to_the_last_bit(saved):
    back, was = io.load(saved).camera, record()
    assert (back.device, back.made, back.software) == (was.device, was.made, was.software)
    for name, value in vars(was.result).items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(getattr(back.result, name), value)
        else:
            assert getattr(back.result, name) == value, name
    np.testing.assert_array_equal(
        back.result.angle_std_rad([(3.0, 4.0)]), was.result.angle_std_rad([(3.0, 4.0)])
    )
    assert io.load(saved).head is None


def test_the_file_says_what_it_is(saved):
    values = json.loads(saved.read_text())
    assert values["format"] == io.FORMAT and values["version"] == io.VERSION
    assert "radians" in values["units"]
    assert values["camera"]["result"]["model"]["focal_x_px"] == 533.7


def test_saving_one_section_keeps_the_other(saved):
    values = json.loads(saved.read_text())
    io.save(saved, record(focal_px=600.0))
    again = json.loads(saved.read_text())
    assert again["camera"]["result"]["model"]["focal_x_px"] == 600.0
    assert {name: again[name] for name in again if name != "camera"} == {
        name: values[name] for name in values if name != "camera"
    }
    io.save(saved)
    assert json.loads(saved.read_text()) == again


def damaged_texts():
    values = json.loads(io._text(_values()))
    whole = json.dumps(values)

    def with_change(change):
        copy = json.loads(whole)
        change(copy)
        return json.dumps(copy)

    def put(value, *place):
        def change(copy):
            for name in place[:-1]:
                copy = copy[name]
            copy[place[-1]] = value

        return with_change(change)

    result = "camera", "result"
    return {
        "empty": ("", "damaged"),
        "cut short": (whole[: len(whole) // 2], "damaged"),
        "a byte off": (whole.replace(":", "\x00", 1), "damaged"),
        "NaN": (whole.replace("0.093", "NaN"), "damaged"),
        "Infinity": (whole.replace("0.093", "-Infinity"), "damaged"),
        "too large": (whole.replace("0.093", "1e999"), "rms_px is not a number"),
        "deep": ("[" * 100_000, "damaged"),
        "a list": ("[1, 2]", "no calibration"),
        "another format": (put("x", "format"), "no calibration"),
        "another version": (put(99, "version"), "version 99"),
        "a text for a number": (put("0.1", *result, "rms_px"), "rms_px is not a number"),
        "a truth for a number": (put(True, *result, "rms_px"), "rms_px is not a number"),
        "a field missing": (with_change(lambda v: v["camera"]["result"].pop("std")), "std"),
        "a field too many": (put(1, *result, "more"), "more"),
        "a hole in an array": (put([[1, 2], [3]], *result, "pixels"), "pixels is not"),
        "another shape": (put([[1.0, 2.0]], *result, "covariance"), "covariance"),
        "a null": (put(None, *result, "bent_m"), "bent_m is not"),
        "a lens unknown": (put("mirror", *result, "model", "lens"), "mirror"),
        "a focal length below 0": (put(-5.0, *result, "model", "focal_x_px"), "above 0"),
        "no date": (put("soon", "camera", "made"), "no date"),
        "a date beyond the calendar": (
            put("0001-01-01T00:00:00+23:59", "camera", "made"),
            "no date",
        ),
        "a name twice": (whole.replace('"camera"', '"version": 1, "camera"'), "damaged"),
        "a lens beyond all lenses": (put(1e300, *result, "model", "focal_x_px"), "at most"),
        "a picture beyond all cameras": (put(10**9, *result, "model", "width_px"), "at most"),
        "a number beyond a float": (put(10**400, *result, "rms_px"), "rms_px is not a number"),
        "no section": (put(7, "camera"), "camera is not an object"),
    }


def _values():
    values = plain(record())
    return {"format": io.FORMAT, "version": io.VERSION, "units": io.UNITS, "camera": values}


@pytest.mark.parametrize("kind", damaged_texts())
def test_a_damaged_file_is_refused_in_one_line_and_left_as_it_is(kind, tmp_path):
    text, why = damaged_texts()[kind]
    path = tmp_path / "calibration.json"
    path.write_text(text)
    for attempt in (lambda: io.load(path), lambda: io.save(path, record())):
        with pytest.raises(CalibrationError, match=why) as error:
            attempt()
        assert "\n" not in str(error.value) and str(path) in str(error.value)
    assert path.read_text() == text


def test_bytes_drawn_at_random_never_do_more_than_raise(saved, tmp_path):
    data, rng = saved.read_bytes(), np.random.default_rng(0)
    path = tmp_path / "spoiled.json"
    for _ in range(100):
        spoiled = bytearray(data)
        for at in rng.integers(0, len(data), 3):
            spoiled[at] = rng.integers(0, 256)
        path.write_bytes(spoiled)
        try:
            io.load(path)
        except CalibrationError as error:
            assert "\n" not in str(error)


def test_what_is_not_finite_is_not_saved(saved):
    before = saved.read_bytes()
    spoiled = record()
    spoiled = replace(spoiled, result=replace(spoiled.result, rms_px=float("nan")))
    with pytest.raises(CalibrationError, match="not finite"):
        io.save(saved, spoiled)
    assert saved.read_bytes() == before and os.listdir(saved.parent) == [saved.name]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(saved, monkeypatch):
    before = saved.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CalibrationError, match="No space left"):
        io.save(saved, record(focal_px=600.0))
    assert saved.read_bytes() == before and os.listdir(saved.parent) == [saved.name]


def test_a_missing_file_or_folder_is_told(tmp_path):
    with pytest.raises(CalibrationError, match="cannot read"):
        io.load(tmp_path / "none.json")
    with pytest.raises(CalibrationError, match="cannot write"):
        io.save(tmp_path / "none" / "calibration.json", record())


@pytest.mark.parametrize(
    "changes",
    [
        {"delay_s": -3.0},
        {"delay_s": 1e6},
        {"lag_s": -0.5},
        {"settling_s": 1e9},  # as if the head never came to rest: no picture would be used
        {"still_after_s": 60.0},
        {"speed_rad_s": [5.0, 0.0]},
    ],
)
def test_a_timing_of_no_head_is_refused(changes, tmp_path):
    timing = HeadTiming(0.05, (0.04, 0.06), 0.02, (5.0, 6.0), 0.2, 0.17, 0.1, 0.001)
    record = head_record()
    path = tmp_path / "calibration.json"
    io.save(path, replace(record, result=replace(record.result, timing=timing)))
    assert io.load(path).head.result.timing == timing
    values = json.loads(path.read_text())
    values["head"]["result"]["timing"].update(changes)
    path.write_text(json.dumps(values))
    with pytest.raises(CalibrationError, match="a head (whose delay|that never moves).*again"):
        io.load(path)


def test_a_head_of_odd_views_has_a_page_or_is_refused(tmp_path):
    """Axes of its charts could have no length, and no end."""
    path = tmp_path / "calibration.json"
    io.save(path, head_record())  # all views of one pulse
    assert page(io.load(path)).count("<svg") == 4
    values = json.loads(path.read_text())
    values["head"]["result"]["covariance"] = (-np.eye(len(NAMES))).tolist()
    path.write_text(json.dumps(values))
    assert page(io.load(path)).count("<svg") == 4
    for field in ("pulses", "off_rad"):
        odd = json.loads(json.dumps(values))
        odd["head"]["result"][field] = [[1e308, 0.0], [0.0, 0.0], [-1e308, 0.0]]
        path.write_text(json.dumps(odd))
        with pytest.raises(CalibrationError, match="no head does: calibrate again"):
            io.load(path)


def test_warnings_of_another_device_resolution_or_age():
    made = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
    soon, late = made + timedelta(days=300), made + timedelta(days=366)
    assert io.warnings(record(), "usb-cam-1", (640, 480), soon) == []
    assert io.warnings(record(), at=soon) == []
    (device,) = io.warnings(record(), "usb-cam-2", (640, 480), soon)
    assert "usb-cam-2" in device and "usb-cam-1" in device
    (size,) = io.warnings(record(), "usb-cam-1", (1280, 720), soon)
    assert "1280 x 720" in size
    (age,) = io.warnings(record(), "usb-cam-1", (640, 480), late)
    assert "366 days" in age
    assert datetime.fromisoformat(io.now()).tzinfo is not None
