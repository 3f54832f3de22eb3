"""The exported files under readers that this package does not need: `make readers` installs them.

OpenVINO runs the INT8 file, ncnn and TFLite the float one after their own converters took it.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edge_rjepa import RJepa, RJepaConfig
from edge_rjepa.encoder import parity
from edge_rjepa.encoder.export import export
from edge_rjepa.encoder.frozen import FrozenEncoder
from edge_rjepa.encoder.int8 import quantise
from edge_rjepa.encoder.names import DESCRIPTOR, PATCHES, STEP
from edge_rjepa.encoder.opener import OpenedEncoder
from edge_rjepa.eye.retina import Retina
from edge_rjepa.run.config import RunConfig
from edge_rjepa.run.patches import recorded_patches
from edge_rjepa.teach.recogniser import Recogniser

pytestmark = pytest.mark.slow
RETINA = Retina()
NEAR = 1e-5  # as parity.TOLERANCE


@pytest.fixture(scope="module")
def seen():
    """Real windows, 64 of each of 16 views of photographs."""
    return recorded_patches(RunConfig(source="scene:"))


@pytest.fixture(scope="module")
def learner(seen):
    learner = RJepa(RJepaConfig(RETINA.n_features, update_every=1, learning_rate=1e-3), seed=0)
    features = RETINA.features_of_windows(seen.windows)
    for start in range(0, len(features), 16):
        learner.learn_block(features[start : start + 16], seen.efference[start : start + 16])
    return learner


@pytest.fixture
def float_file(learner, tmp_path, monkeypatch):
    """Makes the file of a form, its windows as float32."""
    monkeypatch.setattr(parity, "PARITY_STEPS", 32)

    def made(form):
        path = tmp_path / f"{form}.onnx"
        export(learner, RETINA, path, form=form, float_input=True)
        return path

    return made


def run_python(program, *arguments, **environment):
    """A program of a few lines in a process of its own, as a reader's settings are read once."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=os.environ | environment
    )
    assert done.returncode == 0, done.stderr[-3000:]


def worst(one, other):
    """Mean cosine of the worst 1 % of the rows."""
    cosines = (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    return np.sort(cosines)[: max(1, len(cosines) // 100)].mean()


def needs(*modules):
    lacking = [name for name in modules if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(
        bool(lacking), reason=f"no {' and no '.join(lacking)}: make readers installs them"
    )


# -- OpenVINO --------------------------------------------------------------------------------------

OPENVINO = """
import sys
import numpy as np
import openvino
path, windows, found = sys.argv[1:]
core = openvino.Core()
model = core.compile_model(core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
np.save(found, model({"window": np.load(windows)})[model.output("embedding")])
"""


@needs("openvino")
@pytest.mark.parametrize("instructions", ["DEFAULT", "AVX2"])
def test_openvino_reads_int8_as_onnxruntime_does(
    learner, seen, tmp_path, monkeypatch, instructions
):
    """With AVX2 alone two products are added in 16 bits, which larger weights would overflow."""
    monkeypatch.setattr(parity, "PARITY_STEPS", 32)
    exact, coarse = tmp_path / "p.onnx", tmp_path / "p.int8.onnx"
    export(learner, RETINA, exact, form=PATCHES)
    quantise(exact, coarse, seen)
    windows = seen.windows[len(seen.windows) // 2 :]
    np.save(tmp_path / "windows.npy", windows)
    run_python(
        OPENVINO,
        coarse,
        tmp_path / "windows.npy",
        tmp_path / "found.npy",
        ONEDNN_MAX_CPU_ISA=instructions,
    )
    found = np.load(tmp_path / "found.npy")
    assert worst(found, FrozenEncoder(coarse).embed(windows)[0]) > 0.9999
    assert worst(found, FrozenEncoder(exact).embed(windows)[0]) > 0.999


OPENVINO_NAMES = """
import sys
import numpy as np
import openvino
path, pictures, found = sys.argv[1:]
core = openvino.Core()
model = core.compile_model(core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
np.save(found, [model({"picture": p[None]})[model.output("scores")][0] for p in np.load(pictures)])
"""


@needs("openvino")
def test_openvino_answers_with_the_names_that_were_taught(learner, tmp_path):
    recogniser = Recogniser(OpenedEncoder(tmp_path, learner, RETINA, learner.config, None))
    pictures = parity.random_pictures(np.random.default_rng(1), 12, (144, 192))
    for name, looks in (("a", pictures[:3]), ("b", pictures[3:6]), ("again a", pictures[:3])):
        recogniser.teach(name, list(looks))
    path, taught = tmp_path / "rooms.onnx", recogniser.for_export()
    export(learner, RETINA, path, form=DESCRIPTOR, taught=taught, picture_px=(192, 144))
    np.save(tmp_path / "pictures.npy", pictures)
    run_python(OPENVINO_NAMES, path, tmp_path / "pictures.npy", tmp_path / "found.npy")
    encoder = FrozenEncoder(path)
    wanted = [encoder.taught.odds.scores(encoder.likeness(picture)) for picture in pictures]
    np.testing.assert_allclose(np.load(tmp_path / "found.npy"), wanted, rtol=0, atol=1e-3)


# -- ncnn ------------------------------------------------------------------------------------------

NCNN = """
import sys
import ncnn
import numpy as np
param, binary, given, found = sys.argv[1:]
net = ncnn.Net()
net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
net.load_param(param), net.load_model(binary)
inputs, rows = np.load(given), []
for row in range(len(inputs["in0"])):
    extractor = net.create_extractor()
    arrays = [np.ascontiguousarray(inputs[name][row]) for name in inputs]  # a Mat does not copy
    mats = [ncnn.Mat(array) for array in arrays]
    for name, mat in zip(inputs, mats):
        extractor.input(name, mat)
    rows.append([np.array(extractor.extract(f"out{k}")[1]).ravel() for k in (0, 1)])
np.save(found, np.array(rows))
"""
SHAPES = {
    PATCHES: "[1,64,64,3]",
    STEP: "[1,64,64,3],[1,4],[1,1,256],[1,256]",
}


@needs("ncnn", "pnnx")
@pytest.mark.parametrize("form", SHAPES)
def test_ncnn_takes_the_float_form(float_file, seen, tmp_path, form):
    path, windows = float_file(form), seen.windows[::40]
    converter = Path(importlib.util.find_spec("pnnx").origin).parent / "pnnx"
    command = [converter, path, f"inputshape={SHAPES[form]}", "fp16=0"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:]
    given = {"in0": windows.astype(np.float32)}
    if form == STEP:
        state, before = np.zeros((2, len(windows), 1, 256), np.float32)
        given |= {"in1": seen.efference[::40], "in2": state, "in3": before[:, 0]}
    np.savez(tmp_path / "given.npz", **given)
    files = [path.with_suffix(f".ncnn.{kind}") for kind in ("param", "bin")]
    run_python(NCNN, *files, tmp_path / "given.npz", tmp_path / "found.npy")
    embedding, _ = np.load(tmp_path / "found.npy").swapaxes(0, 1)
    np.testing.assert_allclose(embedding, FrozenEncoder(path).embed_patches(windows), atol=NEAR)


# -- TFLite ----------------------------------------------------------------------------------------

TFLITE = """
import sys
import numpy as np
from ai_edge_litert.interpreter import Interpreter
path, windows, found = sys.argv[1:]
interpreter = Interpreter(path)
interpreter.allocate_tensors()
rows = []
for window in np.load(windows).astype(np.float32):
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], window[None])
    interpreter.invoke()
    outputs = interpreter.get_output_details()
    rows.append([interpreter.get_tensor(output["index"])[0] for output in outputs])
np.save(found, np.array(rows).swapaxes(0, 1))
"""


@needs("onnx2tf", "ai_edge_litert")
def test_tflite_takes_the_float_form(float_file, seen, tmp_path):
    path, windows = float_file(PATCHES), seen.windows[::40]
    np.save(tmp_path / "windows.npy", windows)
    converter = shutil.which("onnx2tf", path=Path(sys.executable).parent)
    command = [converter, "-i", path, "-o", tmp_path / "tf", "-kat", "window", "-n"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (converted,) = (tmp_path / "tf").glob("*_float32.tflite")
    run_python(TFLITE, converted, tmp_path / "windows.npy", tmp_path / "found.npy")
    expected = FrozenEncoder(path).embed_patches(windows)
    off = [abs(found - expected).max() for found in np.load(tmp_path / "found.npy")]
    assert min(off) < NEAR  # one of the outputs is the embedding
