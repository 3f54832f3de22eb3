"""What pip installs: the wheel alone, away from the sources; and what the learner needs."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
PACKAGES = ("edge_rjepa", "firmware_bridge", "calibration", "ros2_link", "safe_files")
DATA = {
    "edge_rjepa/py.typed",
    "edge_rjepa/views/dashboard/page.html",
    "firmware_bridge/py.typed",
    "firmware_bridge/PROTOCOL.md",
    "firmware_bridge/vectors.json",
    "firmware_bridge/firmware/edge_head.hex",
    "calibration/py.typed",
    "ros2_link/py.typed",
    "safe_files/py.typed",
}
SMALL = """
[network]
n_embedding = 16
n_hidden = 24
n_predictor = 16
"""

BUILD = """
import os, shutil, sys
from setuptools import build_meta

folder = sys.argv[1]
archive = build_meta.build_sdist(folder)
shutil.unpack_archive(os.path.join(folder, archive), folder)
os.chdir(os.path.join(folder, archive.removesuffix(".tar.gz")))
print(build_meta.build_wheel(folder))
"""

LEARN_WITHOUT = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[1:]:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())
import numpy as np
from edge_rjepa import RJepa, RJepaConfig

learner = RJepa(RJepaConfig(n_embedding=16, n_hidden=24, n_predictor=16), seed=0)
features = np.random.default_rng(0).standard_normal((8, 316), np.float32)
report = learner.learn_block(features, np.zeros((8, 4), np.float32))
learner.save("eye.safetensors")
again = RJepa.load("eye.safetensors")
assert np.isfinite(report.loss) and again.fixations == 8, (report, again.fixations)
"""


def run(command, folder, **environment):
    """What a command prints that sees nothing of the sources; it must succeed."""
    environment = {**os.environ, **environment}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [str(each) for each in command], cwd=folder, env=environment,
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from the source distribution as pip would."""
    folder = tmp_path_factory.mktemp("wheel")
    sources = folder / "checkout"
    sources.mkdir()
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    for name in (*PACKAGES, "requirements", "tests", "benchmarks"):
        shutil.copytree(ROOT / name, sources / name, ignore=shutil.ignore_patterns("__pycache__"))
    built = run([sys.executable, "-c", BUILD, folder], sources)
    return folder / built.splitlines()[-1]


@pytest.fixture(scope="module")
def python(wheel):
    """The interpreter of an environment with this wheel and the packages that the tests have."""
    environment = wheel.parent / "environment"
    run([sys.executable, "-m", "venv", "--without-pip", environment], wheel.parent)
    interpreter = environment / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", interpreter]
    run([*pip, "install", "--no-index", "--no-deps", wheel], wheel.parent)
    # Last, so that pip does not see the editable installation. Its .pth file has no effect there.
    packages = run([interpreter, "-c", "import site; print(site.getsitepackages()[0])"], "/")
    Path(packages.strip(), "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    # What is compiled here is not compiled there again, as long as the sources are the same.
    for kernel in (ROOT / "edge_rjepa").rglob("*.nbc"):
        copy = Path(packages.strip(), kernel.relative_to(ROOT))
        copy.parent.mkdir(exist_ok=True)
        shutil.copy(kernel, copy)
    return interpreter


def test_the_wheel_holds_the_packages_and_their_data(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {
        str(path.relative_to(ROOT))
        for name in PACKAGES
        for path in (ROOT / name).rglob("*.py")
        if (path.parent / "__init__.py").is_file()  # not firmware/fuzz, which no wheel needs
    }
    assert modules | DATA <= names
    assert {name.split("/")[0] for name in names} - set(PACKAGES) == {
        wheel.name.removesuffix("-py3-none-any.whl") + ".dist-info"
    }


def test_the_wheel_asks_for_all_requirements(wheel):
    name = wheel.name.removesuffix("-py3-none-any.whl") + ".dist-info/METADATA"
    metadata = zipfile.ZipFile(wheel).read(name).decode()
    always = [
        line.removeprefix("Requires-Dist: ").split(">=")[0]
        for line in metadata.splitlines()
        if line.startswith("Requires-Dist: ") and "extra ==" not in line
    ]
    assert always == [
        "numpy", "numba", "scipy", "safetensors", "threadpoolctl", "opencv-python",
        "onnx", "onnxruntime", "pyserial", "tomli", "tomli-w", "tqdm",
    ]  # fmt: skip


@pytest.mark.parametrize("package", PACKAGES)
def test_installed_packages_are_those_of_the_wheel(python, tmp_path, package):
    where = run([python, "-c", f"import {package}; print({package}.__file__)"], tmp_path)
    assert Path(where.strip()).is_relative_to(python.parent.parent)


def test_the_installed_commands_say_their_version(python, tmp_path):
    script = python.parent / "edge-rjepa"
    version = run([script, "--version"], tmp_path)
    assert run([python, "-m", "edge_rjepa", "--version"], tmp_path) == version


def test_an_installed_package_learns(python, tmp_path):
    (tmp_path / "pictures").mkdir()
    rng = np.random.default_rng(0)
    for i in range(2):
        picture = rng.integers(0, 256, (120, 180, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / "pictures" / f"{i}.png"), picture)
    (tmp_path / "small.toml").write_text(SMALL)
    script = python.parent / "edge-rjepa"
    learn = ("learn", "--source", "scene:pictures", "--config", "small.toml", "--seconds", "2")
    summary = json.loads(run([script, *learn, "--out", "run", "--json"], tmp_path))
    assert summary["fixations"] > 0
    assert (tmp_path / "run" / "checkpoint.safetensors").is_file()


def test_the_learner_runs_on_its_own_requirements(python, tmp_path):
    """`requirements/learner.txt` is enough for RJepa: no camera, ONNX, serial line or progress."""
    missing = ["cv2", "onnx", "onnxruntime", "serial", "tqdm", "tomli", "tomli_w", "aiohttp"]
    run([python, "-c", LEARN_WITHOUT, *missing], tmp_path)
