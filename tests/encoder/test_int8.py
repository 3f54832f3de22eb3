"""The encoder in 8 bits: close to its twin, in the form TensorRT reads, and honest about it."""

import json

import numpy as np
import onnx
import pytest

from edge_rjepa import RJepa, RJepaConfig
from edge_rjepa.encoder import parity
from edge_rjepa.encoder.export import export
from edge_rjepa.encoder.frozen import EncoderError, FrozenEncoder
from edge_rjepa.encoder.int8 import Int8Report, quantise
from edge_rjepa.encoder.names import PATCHES, SEQUENCE, STEP
from edge_rjepa.errors import ExportError
from edge_rjepa.eye.retina import Retina
from edge_rjepa.run.patches import Patches

OF_WINDOWS = STEP, SEQUENCE, PATCHES  # a descriptor stays in float
RETINA = Retina()
FORMS = STEP, SEQUENCE, PATCHES


def patches(count=400, frames=8, seed=0):
    """Looks at frames that differ in colour and grain."""
    rng = np.random.default_rng(seed)
    frame = np.repeat(np.arange(frames), count // frames)
    windows = np.empty((len(frame), 64, 64, 3), np.uint8)
    for window, i in zip(windows, frame, strict=True):
        grain_px = 2 ** (i % 4)
        noise = rng.integers(0, 120, (64 // grain_px, 64 // grain_px, 3))
        window[:] = noise.repeat(grain_px, 0).repeat(grain_px, 1) + (np.arange(3) == i % 3) * 100
    return Patches(windows, rng.normal(size=(len(frame), 4)).astype(np.float32), frame)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A float and an INT8 file of each form, and the report of the INT8 one, by form."""
    sizes = {"n_encoder_hidden": 40, "n_embedding": 64, "n_hidden": 48, "n_predictor": 64}
    rates = {"learning_rate": 1e-3, "update_every": 1}
    learner = RJepa(RJepaConfig(RETINA.n_features, **sizes, **rates), seed=0)
    rng, seen = np.random.default_rng(0), patches(seed=1)
    features = RETINA.features_of_windows(seen.windows)
    for _ in range(40):
        some = rng.integers(len(features), size=16)
        learner.learn_block(features[some], seen.efference[some])
    folder = tmp_path_factory.mktemp("int8")
    made = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parity, "PARITY_STEPS", 32)
        for form in OF_WINDOWS:
            exact, coarse = folder / f"{form}.onnx", folder / f"{form}.int8.onnx"
            export(learner, RETINA, exact, form=form, fixations=8)
            made[form] = exact, coarse, quantise(exact, coarse, patches())
    return made


@pytest.mark.slow
@pytest.mark.parametrize("form", OF_WINDOWS)
def test_it_is_close_to_the_float_file_and_says_how_close(files, form):
    exact, coarse, report = files[form]
    unseen = patches(seed=2)
    one, other = (FrozenEncoder(path) for path in (exact, coarse))
    (z, h), (z_coarse, h_coarse) = (e.embed(unseen.windows, unseen.efference) for e in (one, other))
    cosines = (z * z_coarse).sum(1) / np.linalg.norm(z, axis=1) / np.linalg.norm(z_coarse, axis=1)
    assert cosines.mean() > 0.995 and not np.array_equal(z, z_coarse)
    assert report.embedding_cosine_mean == pytest.approx(cosines.mean(), abs=3e-3)
    assert report.embedding_cosine_worst <= report.embedding_cosine_mean <= 1.0 + 1e-6
    assert report.patches == 200
    assert report.accuracy_float > 0.6  # four frames, chance is 0.25
    assert abs(report.accuracy_int8 - report.accuracy_float) < 0.1
    if form == "patches":
        assert report.memory_cosine_mean is None and h.size == h_coarse.size == 0
    else:
        assert report.memory_cosine_worst <= report.memory_cosine_mean
        assert report.memory_cosine_mean > 0.99


@pytest.mark.slow
@pytest.mark.parametrize("form", OF_WINDOWS)
def test_its_format_is_what_tensorrt_reads(files, form):
    exact, coarse, report = files[form]
    model = onnx.load(coarse)
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version == 8
    assert [(each.domain, each.version) for each in model.opset_import] == [("", 17)]
    constants = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
    made_by = {output: node for node in model.graph.node for output in node.output}
    points = [n.input[2] for n in model.graph.node if "Linear" in n.op_type]
    assert all(constants[name].dtype == np.int8 and not constants[name].any() for name in points)

    products = [n for n in model.graph.node if n.op_type == "Gemm" and n.input[1] in made_by]
    assert len(products) == report.products == (2 if form == "patches" else 9)
    assert {"W_x", "W_z"} <= {product.name.removesuffix("_quant") for product in products}
    for product in products:
        weights, activation = made_by[product.input[1]], made_by[product.input[0]]
        assert {weights.op_type, activation.op_type} == {"DequantizeLinear"}
        scales = constants[weights.input[1]]
        assert scales.shape == constants[weights.input[0]].shape[:1]  # one a row
        assert abs(constants[weights.input[0]].astype(int)).max() <= 64  # 2 x 64 x 255 < 2**15
        assert all(constants[name].dtype == np.float32 for name in product.input[2:])
    new = {n.op_type for n in model.graph.node} - {n.op_type for n in onnx.load(exact).graph.node}
    assert new == {"QuantizeLinear", "DequantizeLinear"}


@pytest.mark.slow
@pytest.mark.parametrize("form", OF_WINDOWS)
def test_it_is_smaller_and_labelled(files, form):
    exact, coarse, report = files[form]
    assert coarse.stat().st_size < exact.stat().st_size == report.bytes_float
    assert coarse.stat().st_size == pytest.approx(report.bytes, abs=2000)
    label = FrozenEncoder(coarse).metadata
    assert Int8Report(**label.pop("int8")) == report
    assert label == FrozenEncoder(exact).metadata
    assert "cosine" in report.in_words() and json.dumps(report._asdict())


@pytest.mark.slow
def test_the_same_patches_make_the_same_file(files, tmp_path):
    exact, coarse, _ = files["step"]
    before = exact.read_bytes()
    quantise(exact, tmp_path / "again.onnx", patches())
    assert (tmp_path / "again.onnx").read_bytes() == coarse.read_bytes()
    assert exact.read_bytes() == before


@pytest.mark.slow
def test_too_little_to_calibrate_on_is_refused(files, tmp_path):
    exact = files["step"][0]
    with pytest.raises(ExportError, match="80 patches are too few: give 200 or more"):
        quantise(exact, tmp_path / "int8.onnx", patches(80))
    with pytest.raises(EncoderError, match="cannot read"):
        quantise(tmp_path / "missing.onnx", tmp_path / "int8.onnx", patches())
    with pytest.raises(ExportError, match="cannot write"):
        quantise(exact, tmp_path / "no" / "int8.onnx", patches())
    assert list(tmp_path.iterdir()) == []
