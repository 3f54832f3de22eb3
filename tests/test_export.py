"""The exported encoder does what the learner does, for any cell, or is not written."""

import json
from collections import Counter

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.testing import assert_allclose

from edge_rjepa import RJepa, RJepaConfig, __version__, cells, export
from edge_rjepa.cells import Cell, cos, like, one_minus, sigmoid, sin
from edge_rjepa.config import GazeConfig, RetinaConfig
from edge_rjepa.errors import ExportError
from edge_rjepa.retina import Retina

BUILT_IN = ("gated", "leaky", "lstm", "rgc", "rtu")
SMALL_RETINA = RetinaConfig(
    window_px=24, fovea_px=6, surround_cells=8, colour_cells=4,
    fovea_degree=3, surround_degree=4, colour_degree=2,
)  # fmt: skip
A, N_Z, N_H = 4, 5, 7

# TensorRT and OpenVINO have all of these, and OpenCV.
COMMON_OPERATORS = set(
    "Add Cast Concat Conv Cos Div Flatten Gemm Identity Log Mul Neg Reshape Sigmoid Sin Slice Sqrt "
    "Sub Tanh Transpose".split()
)


def trained(cell="gated", n_features=6, seed=0, **config):
    """A small learner that has seen something, in the middle of a sequence."""
    config = {"n_efference": A, "n_embedding": N_Z, "n_hidden": N_H, **config}
    config = RJepaConfig(n_features, cell=cell, n_predictor=8, n_gain=3, max_block=16, **config)
    learner = RJepa(config, seed)
    rng = np.random.default_rng(seed)
    for _ in range(30):
        features = rng.normal(size=(16, n_features)) + rng.normal(size=n_features)
        learner.learn_block(features, rng.normal(size=(16, config.n_efference)))
    return learner


def session_of(path):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def no_past(learner, n):
    config = learner.config
    state = np.zeros((n, learner.cell.n_state, config.n_hidden), np.float32)
    return {"state": state, "embedding_before": np.zeros((n, config.n_embedding), np.float32)}


def windows_of(rng, side, count):
    """Noise, and what is hard on a retina: all of one colour, and the sharpest edges."""
    windows = rng.integers(0, 256, size=(count, side, side, 3), dtype=np.uint8)
    windows[0], windows[1], windows[2] = 255, 0, (0, 0, 255)
    windows[3, ::2], windows[3, 1::2] = 0, 255
    windows[4] = 254
    windows[4, side // 2, side // 2] = 255
    return windows


def assert_follows(path, learner, retina, n, steps=12):
    """n streams through one session against n copies of the learner, each on its own."""
    rng = np.random.default_rng(7)
    session = session_of(path)
    efference = rng.normal(size=(steps, n, A)).astype(np.float32)
    if retina:
        view = "window"
        seen = [windows_of(rng, retina.config.window_px, steps) for _ in range(n)]
        features = np.stack([retina.features_of_windows(windows) for windows in seen], axis=1)
        seen = np.stack(seen, axis=1)
    else:
        view = "features"
        seen = features = rng.normal(size=(steps, n, learner.config.n_features)).astype(np.float32)
    past = no_past(learner, n)
    found = []
    for t in range(steps):
        outputs = session.run(None, {view: seen[t], "efference": efference[t], **past})
        found.append(dict(zip([o.name for o in session.get_outputs()], outputs, strict=True)))
        past = {"state": found[-1]["next_state"], "embedding_before": found[-1]["embedding"]}
    found = {name: np.stack([outputs[name] for outputs in found]) for name in found[0]}
    reads = found["next_state"][:, :, list(learner.cell.reads)]
    np.testing.assert_array_equal(reads.reshape(steps, n, -1), found["memory"])
    for i in range(n):
        twin = learner.copy()
        twin.reset()
        stream = features[:, i], efference[:, i]
        # Learning tells the surprise; what it learns comes after.
        surprise = twin.copy().learn_block(*stream).surprise
        z, z_hat, h = twin.predict(*stream)
        assert_allclose(found["embedding"][:, i], z, rtol=0, atol=1e-5)
        assert_allclose(found["prediction"][:, i], z_hat, rtol=1e-5, atol=1e-5)
        assert_allclose(found["memory"][:, i], h, rtol=1e-5, atol=1e-5)
        assert_allclose(found["surprise"][:, i], surprise, rtol=1e-4, atol=1e-6)


def test_weights_that_magnify_the_rounding_of_pixels_do_not_stop_an_export(tmp_path):
    retina = Retina()
    learner = trained("gated", retina.n_features)
    learner._weights.W_z[:] *= 30
    report = export.export(learner, retina, tmp_path / "encoder.onnx")
    assert 1e-5 < report.embedding < 1e-3
    report = export.export(learner, None, tmp_path / "encoder.onnx")
    assert report.embedding < 1e-5


@pytest.mark.parametrize("with_retina", [True, False], ids=["window", "features"])
@pytest.mark.parametrize("memory_input", ["embedding", "features"])
@pytest.mark.parametrize("cell", BUILT_IN)
def test_file_follows_the_learner(tmp_path, cell, memory_input, with_retina):
    retina = Retina(SMALL_RETINA) if with_retina else None
    n_features = retina.n_features if retina else 6
    learner = trained(cell, n_features, memory_input=memory_input)
    path = tmp_path / "encoder.onnx"
    report = export.export(learner, retina, path)
    assert report.steps == 1000
    assert all(0 < getattr(report, name) <= bound for name, bound in export.TOLERANCE.items())
    assert_follows(path, learner, retina, n=3)


def test_default_network_with_the_default_retina(tmp_path):
    retina = Retina()
    learner = trained(n_features=retina.n_features, n_embedding=128, n_hidden=256)
    export.export(learner, retina, tmp_path / "encoder.onnx")
    assert_follows(tmp_path / "encoder.onnx", learner, retina, n=2, steps=6)


def test_a_float64_learner_exports(tmp_path):
    learner = trained("rtu", dtype="float64")
    export.export(learner, None, tmp_path / "encoder.onnx")
    assert_follows(tmp_path / "encoder.onnx", learner, None, n=1)


def swing(y, s, l):  # noqa: E741
    """A cell nobody has heard of; its second component is hidden from the predictor."""
    k, half = sigmoid(l[0]), like(y[0], 0.5)
    wave, slope = sin(s[0] + y[1]), cos(s[0] + y[1])
    dk = k * one_minus(k)
    return (
        (k * y[0] + one_minus(k) * wave, half * cos(y[0]) + -(k * y[1])),
        ((k, one_minus(k) * slope), (-(half * sin(y[0])), -k)),
        ((one_minus(k) * slope,), (like(k, 0.0),)),
        ((dk * (y[0] - wave),), (-(dk * y[1]),)),
    )


def made_up(name, step, n_state=1):
    def zeros(rng, n):
        return np.zeros((1, n))

    return Cell(name, step, n_state, 1, 1, (0,), zeros, zeros, (1.0,))


def test_a_new_cell_exports_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(cells, "CELLS", dict(cells.CELLS))
    cells.register(made_up("swing", swing, n_state=2))
    learner = trained("swing")
    export.export(learner, None, tmp_path / "encoder.onnx")
    assert_follows(tmp_path / "encoder.onnx", learner, None, n=3)


def test_cells_and_export_speak_the_same_vocabulary():
    assert set(export.VOCABULARY) == set(cells.VOCABULARY)
    assert export.ParityReport._fields == ("steps", *export.TOLERANCE)


def divides(y, s, l):  # noqa: E741
    return (y[0] / (s[0] + l[0]) if s[0] else s[0],), None, None, None


def leaves_the_vocabulary(y, s, l):  # noqa: E741
    return (np.exp(-(s[0] + l[0] * y[0])),), None, None, None


@pytest.mark.parametrize("step", [divides, leaves_the_vocabulary])
def test_a_cell_that_cannot_be_written_is_refused(tmp_path, monkeypatch, step):
    monkeypatch.setitem(cells.CELLS, step.__name__, made_up(step.__name__, step))
    learner = RJepa(RJepaConfig(6, cell=step.__name__))
    with pytest.raises(ExportError, match=f"cell '{step.__name__}' cannot be written as ONNX"):
        export.export(learner, None, tmp_path / "encoder.onnx")
    assert list(tmp_path.iterdir()) == []


def test_only_what_an_output_needs_is_written(tmp_path):
    """No derivative of the cell, and nothing of its constants' arithmetic."""
    export.export(trained("gated"), None, tmp_path / "gated.onnx")
    operators = Counter(node.op_type for node in onnx.load(tmp_path / "gated.onnx").graph.node)
    # Gemm: encoder 1, drives 2, predictor 3, gain 2, surprise 2. Mul: l0 y, l1 y, k (c - y);
    # q g; the square of the surprise.
    assert (operators["Gemm"], operators["Mul"], operators["Sub"]) == (10, 5, 2)
    assert (operators["Tanh"], operators["Sigmoid"]) == (5, 2)

    export.export(trained("rtu"), None, tmp_path / "rtu.onnx")
    graph = onnx.load(tmp_path / "rtu.onnx").graph
    operators = Counter(node.op_type for node in graph.node)
    assert not operators.keys() & {"Sin", "Cos", "Neg"}
    assert operators["Sigmoid"] == 1  # of the gain; the circuits' decay is a constant
    used = {name for node in graph.node for name in node.input}
    made = {name for node in graph.node for name in node.output}
    assert made - used == {output.name for output in graph.output}
    assert {initializer.name for initializer in graph.initializer} <= used


def shapes_of(values):
    return {
        v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values
    }


def test_graph_is_what_deployers_are_told(tmp_path):
    learner = trained("rtu", Retina().n_features)
    export.export(learner, Retina(), tmp_path / "encoder.onnx")
    model = onnx.load(tmp_path / "encoder.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version == 8
    assert [(each.domain, each.version) for each in model.opset_import] == [("", 17)]
    assert {node.op_type for node in model.graph.node} <= COMMON_OPERATORS
    assert shapes_of(model.graph.input) == {
        "window": ["N", 64, 64, 3],
        "efference": ["N", A],
        "state": ["N", 2, N_H],
        "embedding_before": ["N", N_Z],
    }
    assert shapes_of(model.graph.output) == {
        "embedding": ["N", N_Z],
        "memory": ["N", 2 * N_H],
        "next_state": ["N", 2, N_H],
        "prediction": ["N", N_Z],
        "surprise": ["N"],
    }
    types = {v.name: v.type.tensor_type.elem_type for v in model.graph.input}
    assert types.pop("window") == onnx.TensorProto.UINT8
    assert set(types.values()) == {onnx.TensorProto.FLOAT}


def test_opencv_reads_the_same_from_the_file(tmp_path):
    retina = Retina()
    learner = trained("rgc", retina.n_features)
    path = tmp_path / "encoder.onnx"
    export.export(learner, retina, path)
    rng = np.random.default_rng(3)
    inputs = {
        "window": windows_of(rng, 64, 5),
        "efference": rng.normal(size=(5, A)).astype(np.float32),
        "state": rng.normal(size=(5, 2, N_H)).astype(np.float32),
        "embedding_before": rng.normal(size=(5, N_Z)).astype(np.float32),
    }
    network = cv2.dnn.readNetFromONNX(str(path))
    for name, value in inputs.items():
        network.setInput(value, name)
    names = list(export.TOLERANCE)
    for read, expected in zip(
        network.forward(names), session_of(path).run(names, inputs), strict=True
    ):
        assert_allclose(read.reshape(expected.shape), expected, rtol=1e-5, atol=1e-5)


def test_metadata_says_what_the_file_is(tmp_path):
    learner, retina = trained(n_features=Retina(SMALL_RETINA).n_features), Retina(SMALL_RETINA)
    gaze = GazeConfig(saccade_scale_rad=0.125)
    more = {"licence": "CC0", "run": {"seed": 3}, "format": "another"}
    path = tmp_path / "encoder.onnx"
    report = export.export(learner, retina, path, gaze=gaze, metadata=more)
    model = onnx.load(path)
    found = {each.key: each.value for each in model.metadata_props}
    assert (model.producer_name, model.producer_version) == ("edge_rjepa", __version__)
    assert (found["format"], found["version"]) == ("edge_rjepa", "1")
    assert RJepaConfig(**json.loads(found["config"])) == learner.config
    assert RetinaConfig(**json.loads(found["retina"])) == SMALL_RETINA
    assert int(found["training_fixations"]) == learner.fixations == 480
    assert json.loads(found["parity"]) == report._asdict()
    assert "0.125 rad of the saccade" in found["efference"]
    assert "0.25 rad of gaze" in found["efference"]
    assert (found["licence"], json.loads(found["run"])) == ("CC0", {"seed": 3})


def test_metadata_without_retina_and_gaze(tmp_path):
    export.export(trained(), None, tmp_path / "encoder.onnx")
    model = onnx.load(tmp_path / "encoder.onnx")
    found = {each.key: each.value for each in model.metadata_props}
    assert json.loads(found["retina"]) is None
    assert found["efference"] == "as in learning"


def test_exporting_leaves_the_learner_as_it_is(tmp_path):
    learner = trained()
    twin = learner.copy()
    export.export(learner, None, tmp_path / "encoder.onnx")
    rng = np.random.default_rng(5)
    block = rng.normal(size=(9, 6)), rng.normal(size=(9, A))
    ours, theirs = learner.learn_block(*block), twin.learn_block(*block)
    assert ours.loss == theirs.loss
    np.testing.assert_array_equal(ours.surprise, theirs.surprise)


@pytest.mark.parametrize("output", export.TOLERANCE)
def test_a_file_that_disagrees_is_not_written(tmp_path, monkeypatch, output):
    honest = export.Graph.output

    def tampered(self, name, value, *rest):
        honest(self, name, value * 1.001 + 1e-3 if name == output else value, *rest)

    path = tmp_path / "encoder.onnx"
    path.write_bytes(b"the file before")
    monkeypatch.setattr(export.Graph, "output", tampered)
    with pytest.raises(ExportError, match=r"not written: its \w+ is off by") as caught:
        export.export(trained(), None, path)
    # What is fed back spoils others, too; the first in the report is named.
    if output not in ("embedding", "next_state"):
        assert f"its {output} is off" in str(caught.value)
    assert [each.name for each in tmp_path.iterdir()] == ["encoder.onnx"]
    assert path.read_bytes() == b"the file before"


def test_an_unsound_graph_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "OPSET", 5)  # before Slice took its bounds as inputs
    with pytest.raises(ExportError, match="the graph is not sound") as caught:
        export.export(trained(), None, tmp_path / "encoder.onnx")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_cannot_be_written(tmp_path):
    for path in (tmp_path / "missing" / "encoder.onnx", tmp_path):
        with pytest.raises(ExportError, match=f"^cannot write {path}: [^\n]+$"):
            export.export(trained(), None, path)


def test_retina_and_gaze_that_do_not_fit(tmp_path):
    path = tmp_path / "encoder.onnx"
    with pytest.raises(ExportError, match="the retina gives 124 features, the learner takes 6"):
        export.export(trained(), Retina(), path)
    with pytest.raises(ExportError, match="efference copies of 4 values, the learner takes 2"):
        export.export(trained(n_efference=2), None, path, gaze=GazeConfig())
    assert not path.exists()


def test_a_diverged_learner_is_refused(tmp_path):
    learner = trained()
    learner.learning_rate = 1e30
    rng = np.random.default_rng(0)
    with np.errstate(all="ignore"):
        for _ in range(20):
            learner.learn_block(rng.normal(size=(16, 6)), rng.normal(size=(16, A)))
    with pytest.raises(ExportError, match="NaN or infinity"):
        export.export(learner, None, tmp_path / "encoder.onnx")
    assert list(tmp_path.iterdir()) == []
