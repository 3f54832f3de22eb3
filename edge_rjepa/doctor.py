"""Examines this machine: what the learner can use, what is wrong, and how to solve it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import io
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from edge_rjepa.errors import SourceError

OK, WARN, FAIL = "ok", "warn", "fail"
CHECK_S = 30.0  # for one check: a driver that hangs must not hang the doctor
LOOK_S = 2.0  # at a camera, to see how many pictures it gives
LITTLE_BYTES = 2**30
TEGRA = Path("/etc/nv_tegra_release")  # on a Jetson
OPENCV_WHEELS = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)
KEEP_OPENCV = "CONTRIBUTING.md, 'Keep the OpenCV you have'"
TESTED_OPENCV = (4, 8)  # from here on the whole of it; see `older_opencv`
NO_NUMPY_1 = (3, 13)  # the Python from which on NumPy 1 has no wheel


class Finding(NamedTuple):
    """One thing that was looked at; `_asdict()` of it is plain JSON."""

    topic: str
    level: str  # OK, WARN: something will not work or be slow, FAIL: nothing will
    what: str
    cure: str = ""  # what to do about it


def examine(calibration: Path | None = None) -> list[Finding]:
    """Make all checks: never raises, and takes no longer than their time limits.

    calibration: a file of `edge-rjepa calibrate` that is to be used here.
    """
    checks = dict(CHECKS)
    if calibration is not None:
        checks["calibration"] = lambda: calibrations(calibration)
    return [finding for topic, check in checks.items() for finding in run_check(topic, check)]


def run_check(
    topic: str, check: Callable[[], Iterable[Finding]], limit_s: float = CHECK_S
) -> list[Finding]:
    """What one check finds; that it failed or took too long is a finding, too."""
    findings: list[Finding] = []

    def run() -> None:
        try:
            findings.extend(check())
        except Exception as error:  # whatever is broken here is what the doctor is asked about
            what = f"the check failed: {type(error).__name__}: {' '.join(str(error).split())}"
            findings.append(Finding(topic, FAIL, what, "check how this was installed"))

    thread = threading.Thread(target=run, name=f"doctor: {topic}", daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        cure = "end other programs, or allow more processes (ulimit -u)"
        return [Finding(topic, FAIL, f"the check cannot be made: {error}", cure)]
    thread.join(limit_s)
    if thread.is_alive():
        cure = "unplug what hangs and plug it in again, or restart this machine"
        return [*findings, Finding(topic, FAIL, f"no answer within {limit_s:g} s", cure)]
    return findings


def table(findings: list[Finding]) -> str:
    """The findings for people to read, a line each, and another for what to do."""
    wide = max(len(finding.topic) for finding in findings)
    lines = []
    for topic, level, what, cure in findings:
        lines.append(f"{topic:{wide}}  {level.upper() if level == FAIL else level:4}  {what}")
        if cure:
            indent = " " * (wide + 8)
            lines += textwrap.wrap(
                f"-> {cure}", 100, initial_indent=indent, subsequent_indent=indent + "   ",
                break_long_words=False, break_on_hyphens=False,
            )  # fmt: skip
    return "\n".join(lines)


def machine() -> Iterator[Finding]:
    """The computer and Python."""
    model = Path("/proc/device-tree/model")  # what a board says it is
    name = model.read_text().rstrip("\0") if model.exists() else platform.machine()
    yield Finding(
        "machine", OK, f"{name}, {os.cpu_count()} cores, {platform.system()} {platform.release()}"
    )
    yield Finding("python", OK, f"{platform.python_version()}, {sys.executable}")


def packages() -> Iterator[Finding]:
    """The packages this one needs, as far as pip knows them."""
    try:
        requirements = importlib.metadata.requires("edge-rjepa") or []
    except importlib.metadata.PackageNotFoundError:
        yield Finding("packages", WARN, "edge-rjepa is not installed", "pip install -e .")
        return
    names = [re.split(r"[^\w.-]", line)[0] for line in requirements if ";" not in line]
    versions = {name: version_of(name) for name in names}
    if importlib.util.find_spec("cv2"):  # pip does not know every OpenCV; `opencv` looks at it
        versions.pop("opencv-python", None)
    there = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    yield Finding("packages", OK, there)
    missing = " ".join(name for name, version in versions.items() if not version)
    if missing:
        yield Finding("packages", FAIL, f"missing: {missing}", f"pip install {missing}")


def opencv() -> Iterator[Finding]:
    """What OpenCV was built with."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # NumPy prints pages about NumPy 1
            import cv2
    except ImportError as error:
        yield Finding("opencv", FAIL, *opencv_trouble(error, version_of("numpy") or ""))
        return
    yield from older_opencv(cv2.__version__)
    build = cv2.getBuildInformation()
    there = {
        name: re.search(rf"{name}:\s+YES", build) is not None
        for name in ("FFMPEG", "GStreamer", "v4l/v4l2")
    }
    parts = ", ".join(f"{name} {'yes' if is_there else 'no'}" for name, is_there in there.items())
    yield Finding("opencv", OK, f"{cv2.__version__}: {parts}")
    other = f"install another OpenCV: {KEEP_OPENCV}"
    if not there["FFMPEG"]:
        yield Finding("opencv", WARN, "no FFMPEG: neither videos nor network streams", other)
    if not there["v4l/v4l2"]:
        yield Finding("opencv", WARN, "no V4L2: no cameras of this machine", other)
    if not there["GStreamer"] and TEGRA.exists():
        yield Finding("opencv", WARN, "no GStreamer: no CSI camera of a Jetson", "docs/jetson.md")
    wheels = [name for name in OPENCV_WHEELS if version_of(name)]
    if len(wheels) > 1:
        cure = f"pip uninstall {' '.join(wheels)}, then install one again"
        yield Finding("opencv", WARN, f"{len(wheels)} wheels in one environment", cure)
    if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        yield Finding("display", OK, "none: nothing here needs one, and no window can be opened")


def opencv_trouble(error: ImportError, numpy_version: str) -> tuple[str, str]:
    """Why OpenCV does not load, and the cure, by what importing it raised."""
    said = " ".join(str(error).split())
    what = f"does not load: {said}"
    library = re.search(r"(lib[\w.+-]+): cannot open shared object", said)
    if isinstance(error, ModuleNotFoundError) and error.name == "cv2":
        return "not installed", f"pip install opencv-python; or the system's: {KEEP_OPENCV}"
    if "numpy" in said and numpy_version.split(".")[0] not in ("", "0", "1"):
        what = f"it was built for NumPy 1, and NumPy {numpy_version} is installed beside it"
        if sys.version_info < NO_NUMPY_1:
            return what, "pip install 'numpy<2'"
        return what, "pip install opencv-python-headless in an environment of its own"
    if library and library[1].startswith("libGL"):
        return (
            what,
            "sudo apt-get install libgl1; or pip uninstall opencv-python, pip install "
            "opencv-python-headless",
        )
    if library:
        return what, f"install the package that holds {library[1]}: apt-file search {library[1]}"
    return what, f"install it again, or another one: {KEEP_OPENCV}"


def older_opencv(version: str) -> Iterator[Finding]:
    """What an OpenCV older than TESTED_OPENCV cannot do here."""
    number = tuple(map(int, re.findall(r"\d+", version)[:2]))
    if number < TESTED_OPENCV:
        lacks = ["network cameras may be some pictures late", "its dnn reads no exported encoder"]
        if number < (4, 7):
            lacks.insert(0, "no charuco boards: calibrate with a chessboard")
        what = f"{version} is older than {'.'.join(map(str, TESTED_OPENCV))}: {'; '.join(lacks)}"
        yield Finding("opencv", WARN, what, f"use it so, or a newer one: {KEEP_OPENCV}")


def cameras() -> Iterator[Finding]:
    """Every camera of this machine: whether it gives pictures, and which it could give."""
    from edge_rjepa.sources.devices import devices

    found = devices()
    if not found:
        cure = "plug one in; a network camera (rtsp://.., http://..) is not listed here"
        yield Finding("camera", WARN, "no video device", cure)
    for device in found:
        where = f"{device.path} ({device.name})"
        if device.part:
            yield Finding("camera", OK, f"{where}: another device of the same camera, not tried")
            continue
        yield try_camera(device.path, where)
        if shutil.which("v4l2-ctl"):
            yield Finding("camera", OK, f"{where}: {'; '.join(formats(device.path))}")
    if found and not shutil.which("v4l2-ctl"):
        cure = "sudo apt-get install v4l-utils"
        yield Finding("camera", WARN, "the formats cannot be listed without v4l2-ctl", cure)


def try_camera(spec: str, where: str) -> Finding:
    """Whether the camera gives pictures, of what size and how many a second."""
    from edge_rjepa.sources import open_source

    try:
        with open_source(spec) as camera:
            first = camera.read_next(1e3 * LOOK_S)
            end_s = time.monotonic() + LOOK_S
            last = first
            while time.monotonic() < end_s:
                last = camera.read_next(1e3 * LOOK_S) or last
    except SourceError as error:
        what, _, cure = str(error).partition("; ")
        return Finding("camera", FAIL, f"{where}: {what}", cure)
    if first is None or last is None or last.sequence == first.sequence:
        cure = "unplug it and plug it in again"
        return Finding("camera", FAIL, f"{where}: gives one picture at most", cure)
    rate = (last.sequence - first.sequence) / (last.t_capture_s - first.t_capture_s)
    height, width = last.image.shape[:2]
    return Finding("camera", OK, f"{where}: {width}x{height}, {rate:.1f} pictures a second")


def calibrations(path: Path) -> Iterator[Finding]:
    """Whether a calibration fits what is plugged in here and its resolution, and is not too old."""
    from calibration.errors import CalibrationError
    from calibration.io import load, warnings
    from edge_rjepa.sources.devices import devices, name_of

    try:
        found = load(path)
    except CalibrationError as error:
        yield Finding("calibration", FAIL, str(error), "edge-rjepa calibrate camera")
        return
    for what, record in (("camera", found.camera), ("head", found.head)):
        if record is None:
            cure = f"edge-rjepa calibrate {what} -o {path}"
            yield Finding("calibration", OK, f"no {what} in {path}: the defaults are used", cure)
            continue
        yield Finding("calibration", OK, f"{what}: {record.device}, {record.made}")
        problems = warnings(record)
        if what == "camera" and devices():
            here = {name_of(device.path): device.path for device in devices()}
            if record.device in here:
                problems += warnings(record, record.device, size_of(here[record.device]))
            else:
                problems.append(f"it is of {record.device}, which is not plugged in here")
        for problem in dict.fromkeys(problems):
            yield Finding("calibration", WARN, problem, f"edge-rjepa calibrate {what}")


def size_of(path: str) -> tuple[int, int] | None:
    """Width and height of the pictures that `learn` gets of this camera; None if it gives none."""
    from edge_rjepa.sources import open_source

    try:
        with open_source(path) as source:
            return source.camera.width_px, source.camera.height_px
    except SourceError:
        return None


def formats(path: str) -> list[str]:
    """Formats of the video device, one line each, as v4l2-ctl lists them."""
    command = ["v4l2-ctl", "--device", path, "--list-formats-ext"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=5.0)
    return formats_in(done.stdout) or [f"v4l2-ctl lists no format ({done.stderr.strip()})"]


def formats_in(listing: str) -> list[str]:
    """`MJPG 640x480 at 30, 1280x720 at 30`: a line a format, each size with its highest rate.

    Of a camera that takes any size, as one of a Raspberry Pi: `YU12 32x32 to 2592x1944`.
    """
    rates: dict[str, dict[str, float]] = {}
    for line in listing.splitlines():
        if found := re.search(r"\]: '(\w+)\s*'", line):
            sizes = rates.setdefault(found[1], {})
        elif found := re.search(r"Size: \w+ (\d+x\d+)(?: - (\d+x\d+))?", line):
            size = f"{found[1]} to {found[2]}" if found[2] else found[1]
            sizes[size] = 0.0
        elif found := re.search(r"[(-]([\d.]+) fps\)", line):
            sizes[size] = max(sizes[size], float(found[1]))
    return [
        f"{name} "
        + ", ".join(f"{size} at {rate:g}" if rate else size for size, rate in sizes.items())
        for name, sizes in rates.items()
    ]


def serial_ports() -> Iterator[Finding]:
    """The serial ports, of which one may lead to a pan-tilt head."""
    from serial.tools.list_ports import comports

    from firmware_bridge.device_files import group_of

    ports = list(comports())
    if not ports:
        yield Finding("serial", OK, "no port: only a pan-tilt head would need one")
    for port in ports:
        what = f"{port.device} ({port.description})"
        if os.access(port.device, os.R_OK | os.W_OK):
            yield Finding("serial", OK, what)
        else:
            cure = f"sudo usermod -aG {group_of(port.device)} $USER, then log in again"
            yield Finding("serial", FAIL, f"{what}: permission denied", cure)


def blas() -> Iterator[Finding]:
    """The libraries that multiply matrices, and how many threads each would use."""
    import scipy.linalg  # noqa: F401 - loads its own
    from threadpoolctl import threadpool_info

    for library in threadpool_info():
        name = f"{library['internal_api']} {library['version'] or ''}".strip()
        threads = library["num_threads"]
        yield Finding("blas", OK, f"{name}: up to {threads} threads; learning uses one")


def cuda() -> Iterator[Finding]:
    """Whether kernels could run on a GPU."""
    from numba import cuda as numba_cuda

    installed = version_of("numba-cuda")
    gpu = [Path("/proc/driver/nvidia/version"), TEGRA]
    if numba_cuda.is_available():
        device = numba_cuda.get_current_device()
        name = device.name.decode() if isinstance(device.name, bytes) else device.name
        yield Finding("cuda", OK, f"{name}, compute capability {device.compute_capability}")
    elif not any(path.exists() for path in gpu):
        yield Finding("cuda", OK, "no NVIDIA driver: the learner runs on the CPU")
    elif not installed:
        cure = "pip install 'numba-cuda[cu12]'"
        if TEGRA.exists():  # JetPack brings CUDA 12; the newest bindings are for 13
            cure = "pip install numba-cuda 'cuda-bindings<13', then docs/jetson.md, 'The GPU'"
        yield Finding("cuda", WARN, "there is a driver, but no numba-cuda", cure)
    else:
        cure = "compare its CUDA version with the driver's: python -m numba -s"
        yield Finding("cuda", WARN, f"numba-cuda {installed} does not reach the driver", cure)


def kernel_cache() -> Iterator[Finding]:
    """Whether compiled kernels are stored: if not, every start compiles for a minute."""
    from edge_rjepa.base.jit import KernelCache, check_own_folder, jit

    cure = "set NUMBA_CACHE_DIR to a folder that you, and nobody else, can write"
    cache = getattr(jit(version_of), "_cache", None)  # any function of this package will do
    if not isinstance(cache, KernelCache):
        yield Finding("kernels", WARN, "compiled code is not stored", cure)
        return
    folder = Path(cache.cache_path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        check_own_folder(folder)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        yield Finding("kernels", WARN, f"{folder} is not used: {error.strerror}", cure)
    else:
        yield Finding("kernels", OK, f"compiled code is stored in {folder}")


def disk() -> Iterator[Finding]:
    """Space for runs, which are written to the current folder by default."""
    folder = Path.cwd()
    free_bytes = shutil.disk_usage(folder).free
    what = f"{free_bytes / 2**30:.1f} GiB free in {folder}"
    if not os.access(folder, os.W_OK):
        yield Finding("disk", WARN, f"{folder} cannot be written", "name a folder: --out DIR")
    elif free_bytes < LITTLE_BYTES:
        cure = "free some space: a run takes some 50 MB, a recording gigabytes an hour"
        yield Finding("disk", WARN, what, cure)
    else:
        yield Finding("disk", OK, what)


def version_of(name: str) -> str | None:
    """The version of an installed package."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


CHECKS = {
    "machine": machine,
    "packages": packages,
    "opencv": opencv,
    "camera": cameras,
    "serial": serial_ports,
    "blas": blas,
    "cuda": cuda,
    "kernels": kernel_cache,
    "disk": disk,
}
