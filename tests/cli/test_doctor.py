"""The doctor: what it finds here, and on machines that lack this and that."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import threading
from types import SimpleNamespace

import numba.cuda
import pytest

from benchmarks.faulty_camera import FaultyCamera
from calibration import io
from edge_rjepa import doctor
from edge_rjepa.base import jit
from edge_rjepa.doctor import FAIL, OK, WARN, Finding, run_check, table
from edge_rjepa.sources import devices
from tests.calibrations import camera_record

LISTING = """\
ioctl: VIDIOC_ENUM_FMT
\tType: Video Capture

\t[0]: 'MJPG' (Motion-JPEG, compressed)
\t\tSize: Discrete 640x480
\t\t\tInterval: Discrete 0.033s (30.000 fps)
\t\t\tInterval: Discrete 0.067s (15.000 fps)
\t\tSize: Discrete 1280x720
\t\t\tInterval: Discrete 0.033s (30.000 fps)
\t[1]: 'YUYV' (YUYV 4:2:2)
\t\tSize: Discrete 1280x720
\t\t\tInterval: Discrete 0.100s (10.000 fps)
\t\t\tInterval: Discrete 0.133s (7.500 fps)
"""


def levels(findings):
    return [finding.level for finding in findings]


def test_every_topic_is_examined_here_and_every_problem_has_a_cure():
    findings = doctor.examine()
    topics = {finding.topic for finding in findings}
    assert {"machine", "python", "packages", "opencv", "blas", "cuda", "kernels", "disk"} <= topics
    assert "calibration" not in topics
    for finding in findings:
        assert finding.level in (OK, WARN, FAIL)
        assert finding.cure or finding.level == OK
        assert "cannot be run_check" not in finding.what
        assert "\n" not in finding.what + finding.cure
    assert json.loads(json.dumps([f._asdict() for f in findings]))[0]["topic"] == "machine"
    assert all(finding.what in table(findings) for finding in findings)


def test_a_table_has_a_line_a_finding_and_one_for_the_cure():
    lines = table(
        [Finding("disk", OK, "room"), Finding("camera", FAIL, "none", "plug one in " * 20)]
    ).splitlines()
    assert lines[0] == "disk    ok    room" and lines[1] == "camera  FAIL  none"
    assert lines[2].strip().startswith("-> plug one in") and len(lines) > 3
    assert all(len(line) <= 100 for line in lines)


def test_whatever_a_check_raises_is_a_finding():
    def broken():
        yield Finding("x", OK, "so far so good")
        raise RuntimeError("two\nlines")

    first, second = run_check("x", broken)
    assert first.level == OK
    assert second.level == FAIL and "RuntimeError: two lines" in second.what and second.cure


def test_a_check_that_hangs_does_not_hang_the_doctor():
    release = threading.Event()
    (finding,) = run_check("camera", lambda: release.wait(60.0), limit_s=0.05)
    assert finding.level == FAIL and "no answer within 0.05 s" in finding.what
    release.set()


# --- calibrations --------------------------------------------------------------------------------


@pytest.fixture
def calibration(tmp_path, monkeypatch):
    """A file with a camera called "Webcam", of 640 x 480, and the one device plugged in here."""
    webcam = devices.Device(0, "Webcam", "usb1", 0, frozenset())
    monkeypatch.setattr(devices, "devices", lambda root=devices.ROOT: [webcam])
    monkeypatch.setattr(doctor, "size_of", lambda path: (640, 480))
    io.save(tmp_path / "c.json", camera_record())
    return tmp_path / "c.json"


def found_in(path):
    findings = run_check("calibration", lambda: doctor.calibrations(path))
    return levels(findings), " ".join(finding.what for finding in findings)


def test_a_calibration_of_what_is_plugged_in_is_fine(calibration):
    assert found_in(calibration)[0] == [OK, OK]  # the camera, and no head: the usual is assumed


def test_another_device_resolution_or_a_year_are_warned_of(calibration, monkeypatch):
    monkeypatch.setattr(doctor, "size_of", lambda path: (1280, 720))
    level, words = found_in(calibration)
    assert level == [OK, WARN, OK] and "1280 x 720" in words
    io.save(calibration, camera_record(device="Other", made="2020-01-01T00:00:00+00:00"))
    level, words = found_in(calibration)
    assert level == [OK, WARN, WARN, OK] and "not plugged in here" in words and "days old" in words


def test_a_damaged_calibration_is_a_failure(calibration):
    calibration.write_text("{")
    findings = [f for f in doctor.examine(calibration) if f.topic == "calibration"]
    assert levels(findings) == [FAIL]


# --- cameras -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_camera_is_looked_at(monkeypatch):
    monkeypatch.setattr(doctor, "LOOK_S", 0.5)
    with FaultyCamera(size=(160, 120), frames_per_s=20.0) as camera:
        finding = doctor.try_camera(camera.url, "it")
        assert finding.level == OK and finding.what.startswith("it: 160x120, ")
        assert 0.0 < float(finding.what.split()[2]) < 24.0  # a busy machine reads fewer
        camera.fault("die")
        finding = doctor.try_camera(camera.url, "it")
        assert finding.level == FAIL and "cannot be opened" in finding.what
        assert "does not answer" in finding.cure


def test_all_devices_are_listed_and_the_first_of_a_camera_is_looked_at(monkeypatch):
    found = [
        devices.Device(0, "Webcam", "usb1", 0, frozenset()),
        devices.Device(1, "Webcam", "usb1", 1, frozenset()),
    ]
    monkeypatch.setattr(devices, "devices", lambda: found)
    monkeypatch.setattr(doctor, "try_camera", lambda path, where: Finding("camera", OK, where))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    first, second, tool = doctor.cameras()
    assert (
        first.what == "/dev/video0 (Webcam)" and "another device of the same camera" in second.what
    )
    assert tool.level == WARN and "v4l-utils" in tool.cure

    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(
        subprocess, "run", lambda *_, **__: SimpleNamespace(stdout=LISTING, stderr="")
    )
    _, listed, _ = doctor.cameras()
    assert listed.what == (
        "/dev/video0 (Webcam): MJPG 640x480 at 30, 1280x720 at 30; YUYV 1280x720 at 10"
    )


def test_formats_of_a_camera_that_takes_any_size():
    listing = """
        [0]: 'YU12' (Planar YUV 4:2:0)
                Size: Stepwise 32x32 - 2592x1944 with step 2/2
        [1]: 'MJPG' (Motion-JPEG, compressed)
                Size: Continuous 16x16 - 1920x1080
                        Interval: Stepwise 0.033s - 1.000s with step 0.001s (1.000-30.000 fps)
    """
    assert doctor.formats_in(listing) == [
        "YU12 32x32 to 2592x1944",
        "MJPG 16x16 to 1920x1080 at 30",
    ]


def test_formats_of_a_listing_without_any():
    assert doctor.formats_in("Cannot open device /dev/video0, exiting.") == []


# --- the rest ------------------------------------------------------------------------------------


def test_serial_ports_tell_who_may_not_use_them(monkeypatch, tmp_path):
    port = tmp_path / "ttyACM0"
    port.touch()
    from serial.tools import list_ports

    ports = [SimpleNamespace(device=str(port), description="Arduino Nano")]
    monkeypatch.setattr(list_ports, "comports", lambda: ports)
    (finding,) = doctor.serial_ports()
    assert finding.level == OK and "Arduino Nano" in finding.what
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    (finding,) = doctor.serial_ports()
    assert finding.level == FAIL
    assert finding.cure.startswith(f"sudo usermod -aG {port.group()} $USER")
    monkeypatch.setattr(list_ports, "comports", list)
    assert levels(doctor.serial_ports()) == [OK]


def test_an_opencv_that_does_not_load_is_a_finding(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)  # importing it raises ImportError
    (finding,) = doctor.opencv()
    assert finding.level == FAIL and "pip install opencv-python" in finding.cure


def cannot_open(library):
    return ImportError(f"{library}: cannot open shared object file: No such file or directory")


OF_NUMPY_1 = ImportError("numpy.core.multiarray failed to import")


@pytest.mark.parametrize(
    ("error", "numpy", "what", "cure"),
    [
        (OF_NUMPY_1, "2.4.6", "built for NumPy 1, and NumPy 2.4.6 is", "pip install 'numpy<2'"),
        (OF_NUMPY_1, "1.21.5", "does not load: numpy.core", "install it again"),
        (cannot_open("libGL.so.1"), "2.4.6", "libGL.so.1", "apt-get install libgl1"),
        (cannot_open("libgthread-2.0.so.0"), "1.26.4", "libgthread", "holds libgthread-2.0.so.0"),
        (ImportError("undefined symbol: x"), "2.4.6", "undefined symbol", "install it again"),
    ],
)
def test_why_opencv_does_not_load_is_told_with_its_cure(monkeypatch, error, numpy, what, cure):
    monkeypatch.setattr(sys, "version_info", (3, 11))
    found_what, found_cure = doctor.opencv_trouble(error, numpy)
    assert what in found_what and cure in found_cure
    monkeypatch.setattr(sys, "version_info", (3, 13))  # which has no wheel of NumPy 1
    assert "numpy<2" not in doctor.opencv_trouble(error, numpy)[1]


def test_an_opencv_for_numpy_1_beside_numpy_2_is_no_missing_package(tmp_path):
    """As Debian 12's is found by the recipe without numpy<2: one finding, and nothing on stderr."""
    (tmp_path / "cv2.py").write_text(
        "import sys\n"
        "sys.stderr.write('A module that was compiled using NumPy 1.x cannot be run in NumPy 2')\n"
        "raise ImportError('numpy.core.multiarray failed to import')\n"
    )
    program = (
        "import json; from edge_rjepa import doctor; "
        "print(json.dumps([list(f) for f in [*doctor.packages(), *doctor.opencv()]]))"
    )
    path = os.pathsep.join([str(tmp_path), os.getcwd()])
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    found = json.loads(done.stdout)
    assert "A module" not in done.stderr
    assert not any("opencv-python" in cure for _, _, _, cure in found if "numpy" not in cure)
    assert [level for topic, level, *_ in found if topic == "opencv"] == [FAIL]


@pytest.mark.parametrize(
    ("version", "lacks"),
    [
        ("4.5.4", "no charuco"),
        ("4.6.0", "no charuco"),
        ("4.7.0-dev", "late; its dnn"),
        ("4.8.1", ""),
        ("5.0.0", ""),
    ],
)
def test_what_an_older_opencv_lacks_is_told(version, lacks):
    found = list(doctor.older_opencv(version))
    assert levels(found) == [WARN] * bool(lacks)
    assert all(lacks in finding.what for finding in found)


def test_two_opencv_wheels_are_a_finding(monkeypatch):
    monkeypatch.setattr(doctor, "version_of", lambda name: "5.0")
    assert any(finding.cure.startswith("pip uninstall") for finding in doctor.opencv())


def test_a_missing_package_is_a_finding(monkeypatch):
    monkeypatch.setattr(
        importlib.metadata, "requires", lambda name: ["numpy>=1", "nonesuch>=2", "tomli; x<1"]
    )
    *_, missing = doctor.packages()
    assert missing.level == FAIL and missing.cure == "pip install nonesuch"


def test_a_gpu_is_named_and_one_that_cannot_be_reached_is_a_finding(monkeypatch):
    device = SimpleNamespace(name=b"Orin", compute_capability=(8, 7))
    monkeypatch.setattr(numba.cuda, "is_available", lambda: True)
    monkeypatch.setattr(numba.cuda, "get_current_device", lambda: device)
    (finding,) = doctor.cuda()
    assert finding.level == OK and finding.what == "Orin, compute capability (8, 7)"

    monkeypatch.setattr(numba.cuda, "is_available", lambda: False)
    monkeypatch.setattr(doctor.Path, "exists", lambda path: True)  # the driver's file
    for installed, told in (None, "cuda-bindings<13"), ("0.20", "python -m numba -s"):
        monkeypatch.setattr(doctor, "version_of", lambda name, installed=installed: installed)
        (finding,) = doctor.cuda()
        assert finding.level == WARN and told in finding.cure
    monkeypatch.setattr(doctor.Path, "exists", lambda path: False)
    assert levels(doctor.cuda()) == [OK]


def test_kernels_that_cannot_be_kept_are_a_finding(monkeypatch, tmp_path):
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setattr(jit.KernelCache, "cache_path", str(file / "no_folder_fits_here"))
    (finding,) = doctor.kernel_cache()
    assert finding.level == WARN and "is not used" in finding.what
    monkeypatch.setattr(jit, "jit", lambda function: SimpleNamespace(_cache=None))
    (finding,) = doctor.kernel_cache()
    assert finding.level == WARN and "NUMBA_CACHE_DIR" in finding.cure


def test_a_full_disk_is_a_finding(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=10**8))
    (finding,) = doctor.disk()
    assert finding.level == WARN and "0.1 GiB free" in finding.what
