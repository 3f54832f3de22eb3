"""The examples run as their first lines say, and say what can be believed."""

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pytest

from edge_rjepa import RJepa, RJepaConfig
from edge_rjepa.encoder import parity
from edge_rjepa.encoder.export import export
from edge_rjepa.encoder.frozen import FrozenEncoder
from edge_rjepa.eye.config import GazeConfig
from edge_rjepa.eye.retina import Retina
from edge_rjepa.optics.camera import Pinhole

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A small encoder that has seen nothing: its retina tells it enough."""
    path = tmp_path_factory.mktemp("examples") / "encoder.onnx"
    learner = RJepa(RJepaConfig(n_embedding=64, n_hidden=32, n_predictor=32), seed=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parity, "PARITY_STEPS", 16)
        export(learner, Retina(), path, gaze=GazeConfig())
    return path


def output_of(example, encoder):
    command = [sys.executable, str(EXAMPLES / example), str(encoder)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, cwd=encoder.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.long
def test_things_are_told_from_few_examples(encoder):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install .[examples]")
    output = output_of("few_examples.py", encoder)
    assert "14 things, 280 views to tell; chance 0.07" in output
    shares = table_of(output)
    assert shares["description"][0] > 0.6 and shares["description"][2] > 0.85
    assert (shares["description"] > shares["pixels"] + 0.2).all()


@pytest.mark.slow
def test_places_are_found_again(encoder):
    output = output_of("find_place.py", encoder)
    assert "70 known views of 14 places, 140 views to find each time" in output
    shares = table_of(output)
    assert (shares["description"] > 0.8).all()
    assert shares["description"][3] > shares["pixels"][3] + 0.15


@pytest.mark.slow
@pytest.mark.parametrize("example", ["find_place.py", "few_examples.py"])
@pytest.mark.parametrize(("named", "says"), [([], "usage: "), (["none.onnx"], "cannot read none")])
def test_without_an_encoder_they_say_so_in_a_line(
    example, named, says, monkeypatch, tmp_path, capfd
):
    """In this process, which has loaded already what takes an example seconds."""
    if example == "few_examples.py":
        pytest.importorskip("sklearn", reason="pip install .[examples]")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(EXAMPLES)  # as Python does for a file that it runs
    monkeypatch.setattr(sys, "argv", [example, *named])
    try:
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(EXAMPLES / example), run_name="__main__")
    finally:
        sys.modules.pop("simulated", None)
    line = ended.value.code  # text: Python prints it on standard error, and ends with 1
    assert line.startswith(says) and "\n" not in line
    assert capfd.readouterr() == ("", "")


def table_of(output):
    """The shares in a row, by its name."""
    rows = [re.split(r"  +", line.strip()) for line in output.splitlines()[2:]]
    shares = {name: np.array(numbers, float) for name, *numbers in rows}
    assert all(((0 <= row) & (row <= 1)).all() for row in shares.values())
    return shares


# ------------------------------------------------------------------------------------------------
# C++


def headers() -> Path | None:
    """The folder of onnxruntime's C++ headers, where the environment or the system has them."""
    named = os.environ.get("ONNXRUNTIME_INCLUDE")
    folders = [Path(named)] if named else []
    for root in (Path("/usr/include"), Path("/usr/local/include")):
        folders += [root, root / "onnxruntime", root / "onnxruntime" / "core" / "session"]
    return next((f for f in folders if (f / "onnxruntime_cxx_api.h").is_file()), None)


@pytest.fixture(scope="module")
def embed(tmp_path_factory):
    """The compiled example; it runs with the library in the wheel of onnxruntime."""
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler is installed")
    include = headers()
    if include is None:
        pytest.skip("no onnxruntime_cxx_api.h: set ONNXRUNTIME_INCLUDE to the folder that holds it")
    library = next(Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*"), None)
    if library is None:
        pytest.skip("this wheel of onnxruntime holds no shared library to link with")
    program = tmp_path_factory.mktemp("embed") / "embed"
    # The wheel has the library under its full name only, and that name inside may be the short one.
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (program.parent / name).symlink_to(library)
    done = subprocess.run(
        [
            compiler, "-std=c++17", "-Wall", "-Wextra", str(EXAMPLES / "embed.cpp"),
            "-isystem", str(include), str(program.parent / "libonnxruntime.so"),
            f"-Wl,-rpath,{program.parent}", "-o", str(program),
        ],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
    return program


def run_embed(program, *arguments):
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)


def test_cpp_sees_what_python_sees(embed, encoder, tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (90, 130, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "picture.ppm"), picture)
    done = run_embed(embed, encoder, tmp_path / "picture.ppm")
    assert done.returncode == 0, done.stderr
    numbers = [re.findall(r"-?\d+(?:\.\d+)?", line) for line in done.stdout.splitlines()]
    found = np.array(numbers, float)

    rows, columns = np.divmod(np.arange(16), 4)
    pixels = np.stack([(2 * columns + 1) * 130 // 8, (2 * rows + 1) * 90 // 8], axis=1)
    np.testing.assert_array_equal(found[:, :2], pixels)
    camera = Pinhole(130, 90, 2 * np.arctan(65 / 277))
    gaze_rad = camera.angles_of_pixels(pixels)
    saccades_rad = np.diff(gaze_rad, axis=0, prepend=[[0.0, 0.0]])
    model = FrozenEncoder(encoder)
    seen = model.predict(
        model.retina.windows(picture, pixels), np.hstack([saccades_rad / 0.1, gaze_rad / 0.25])
    )
    np.testing.assert_allclose(found[:, 2], seen.surprise, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found[:, 3:], seen.z[:, :4], rtol=0, atol=2e-5)


def test_cpp_says_what_is_wrong(embed, encoder, tmp_path):
    (tmp_path / "none.ppm").write_bytes(b"P6 9")
    (tmp_path / "short.ppm").write_bytes(b"P6 9 9 255\n12345")
    for arguments, code, says in (
        ([], 2, "usage"),
        ([encoder, tmp_path / "none.ppm"], 1, "is no binary PPM of 8 bits"),
        ([encoder, tmp_path / "short.ppm"], 1, "is cut short"),
        ([tmp_path / "none.ppm", tmp_path / "none.ppm"], 1, "embed: "),
    ):
        done = run_embed(embed, *arguments)
        assert done.returncode == code and says in done.stderr
