"""The exported encoder does what the learner does, in every form and cell, or is not written."""

import json
import re
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.testing import assert_allclose

from edge_rjepa import RJepa, RJepaConfig, __version__
from edge_rjepa.encoder import export, onnx_graph, parity
from edge_rjepa.encoder.frozen import FrozenEncoder
from edge_rjepa.encoder.names import FORMS, OUTPUTS, PATCHES, SEQUENCE, STEP
from edge_rjepa.errors import ExportError
from edge_rjepa.eye.config import GazeConfig, RetinaConfig
from edge_rjepa.eye.retina import Retina
from edge_rjepa.learner import cells
from edge_rjepa.learner.cells import Cell, cos, like, one_minus, sigmoid, sin
from edge_rjepa.run.patches import Patches

BUILT_IN = ("gated", "leaky", "lstm", "rgc", "rtu")
SMALL_RETINA = RetinaConfig(
    window_px=24, fovea_px=6, surround_cells=8, colour_cells=4,
    fovea_degree=3, surround_degree=4, colour_degree=2,
)  # fmt: skip
A, N_Z, N_H, T = 4, 5, 7, 3
OF_WINDOWS = STEP, SEQUENCE, PATCHES  # the descriptor's own tests are in test_describe.py
every_encoder = pytest.mark.parametrize("n_e", [0, 9], ids=["shallow", "deep"])

# Of the operators that TensorRT's parser and OpenVINO's frontend name in their documentation
# (docs/encoder.md has the pages), those without a restriction that our graphs could run into.
TENSORRT = set(
    "Abs Add AveragePool Cast Clip Concat Conv Cos DequantizeLinear Div Exp Flatten Floor "
    "Gather Gemm Identity Log MatMul Max Mean Min Mul Neg Pow QuantizeLinear ReduceMean "
    "Relu Reshape Shape Sigmoid Sin Slice Split Sqrt Squeeze Sub Sum Tanh Transpose "
    "Unsqueeze Where".split()
)
OPENVINO = TENSORRT | {"Einsum", "Mod", "Reciprocal", "Sign"}


@pytest.fixture
def few_steps(monkeypatch):
    """For tests of what else an export does."""
    monkeypatch.setattr(parity, "PARITY_STEPS", 60)


def trained(cell="gated", n_features=6, seed=0, **config):
    """A small learner that has seen something, in the middle of a sequence."""
    sizes = {"n_efference": A, "n_encoder_hidden": 9, "n_embedding": N_Z, "n_hidden": N_H}
    config = {**sizes, "learning_rate": 1e-3, "update_every": 1, **config}
    config = RJepaConfig(n_features, cell=cell, n_predictor=8, n_gain=3, max_block=16, **config)
    learner = RJepa(config, seed)
    rng = np.random.default_rng(seed)
    for _ in range(30):
        features = rng.normal(size=(16, n_features)) + rng.normal(size=n_features)
        learner.learn_block(features, rng.normal(size=(16, config.n_efference)))
    return learner


def session_of(path):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def outputs_of(session, inputs):
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


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


def streams_of(learner, retina, n, steps):
    """What n streams see: the name of the input, its values (steps, n, ..), features, efference."""
    rng = np.random.default_rng(7)
    efference = rng.normal(size=(steps, n, learner.config.n_efference)).astype(np.float32)
    if retina is None:
        features = rng.normal(size=(steps, n, learner.config.n_features)).astype(np.float32)
        return "features", features, features, efference
    seen = [windows_of(rng, retina.config.window_px, steps) for _ in range(n)]
    features = np.stack([retina.features_of_windows(windows) for windows in seen], axis=1)
    return "window", np.stack(seen, axis=1), features, efference


def run_through(path, learner, view, seen, efference):
    """The outputs (steps, n, ..) of a step or sequence file that is handed its own past."""
    session, past = session_of(path), no_past(learner, seen.shape[1])
    sequence = len(session.get_inputs()[1].shape) == 3
    found = []
    for start in range(0, len(seen), T if sequence else 1):
        now = slice(start, start + T) if sequence else start
        inputs = {view: seen[now], "efference": efference[now]}
        if sequence:
            inputs = {k: np.ascontiguousarray(v.swapaxes(0, 1)) for k, v in inputs.items()}
        outputs = outputs_of(session, inputs | past)
        past = {"state": outputs.pop("next_state")}
        rows = (
            [{k: v[:, t] for k, v in outputs.items()} for t in range(T)] if sequence else [outputs]
        )
        past["embedding_before"] = rows[-1]["embedding"]
        found.extend(rows)
    return {name: np.stack([row[name] for row in found]) for name in found[0]}, past["state"]


def assert_follows(path, learner, retina, n, steps=12):
    """n streams through one session against n copies of the learner, each on its own."""
    view, seen, features, efference = streams_of(learner, retina, n, steps)
    found, state = run_through(path, learner, view, seen, efference)
    reads = state[:, list(learner.cell.reads)]
    np.testing.assert_array_equal(reads.reshape(n, -1), found["memory"][-1])
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
        assert_allclose(found["surprise"][:, i], surprise, rtol=1e-5, atol=1e-6)
        assert_allclose(state[i], twin.state, rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------------------------------------
# It is the learner


@pytest.mark.slow
@pytest.mark.parametrize("form", ["step", "sequence"])
@pytest.mark.parametrize("memory_input", ["embedding", "features"])
@pytest.mark.parametrize("cell", BUILT_IN)
@every_encoder
def test_file_follows_the_learner(tmp_path, few_steps, n_e, cell, memory_input, form):
    retina = Retina(SMALL_RETINA)
    learner = trained(cell, retina.n_features, memory_input=memory_input, n_encoder_hidden=n_e)
    export.export(learner, retina, tmp_path / "encoder.onnx", form=form, fixations=T)
    assert_follows(tmp_path / "encoder.onnx", learner, retina, n=3)


@pytest.mark.slow
@pytest.mark.parametrize("blocks", range(150, 154))
def test_surprise_is_measured_as_the_learner_measures_it_now(tmp_path, few_steps, blocks):
    """Learning factors its statistics every so many blocks only."""
    learner, rng = trained("gated"), np.random.default_rng(9)
    for _ in range(blocks):
        features = 2.0 * rng.normal(size=(16, 6)) + rng.normal(size=6)
        learner.learn_block(features, rng.normal(size=(16, A)))
    export.export(learner, None, tmp_path / "encoder.onnx")
    assert_follows(tmp_path / "encoder.onnx", learner, None, n=1)


@pytest.mark.parametrize("form", ["step", "sequence"])
def test_features_can_be_taken_instead_of_windows(tmp_path, few_steps, form):
    learner = trained("rgc")
    export.export(learner, None, tmp_path / "encoder.onnx", form=form, fixations=T)
    assert_follows(tmp_path / "encoder.onnx", learner, None, n=2)


@pytest.mark.slow
@pytest.mark.parametrize("cell", BUILT_IN)
def test_a_float64_learner_exports(tmp_path, few_steps, cell):
    learner = trained(cell, dtype="float64")
    export.export(learner, None, tmp_path / "encoder.onnx")
    assert_follows(tmp_path / "encoder.onnx", learner, None, n=1)


@pytest.mark.slow
def test_default_network_with_the_default_retina(tmp_path):
    retina = Retina()
    learner = trained(n_features=retina.n_features, n_embedding=128, n_hidden=256)
    rng = np.random.default_rng(1)
    efference = rng.normal(size=(70, A)).astype(np.float32)
    real = Patches(windows_of(rng, 64, 70), efference, np.zeros(70, int))
    report = export.export(learner, retina, tmp_path / "encoder.onnx", patches=real)
    told = {(check.reader, check.patches): check for check in report.checks}
    assert told.keys() == {(r, p) for r in ("onnxruntime", "cv2.dnn") for p in ("random", "real")}
    for check in report.checks:
        if check.reader == "onnxruntime" or not check.not_checked:
            assert check.steps == 1000
            assert all(0 < error <= 1e-5 for error in check.differences.values())
    assert_follows(tmp_path / "encoder.onnx", learner, retina, n=2, steps=6)


@pytest.mark.slow
@every_encoder
def test_a_patch_is_seen_alike_in_every_form(tmp_path, few_steps, n_e):
    retina = Retina(SMALL_RETINA)
    learner = trained("rtu", retina.n_features, n_encoder_hidden=n_e)
    for form in OF_WINDOWS:
        export.export(learner, retina, tmp_path / form, form=form, fixations=T)
    view, seen, _, efference = streams_of(learner, retina, 2, 2 * T)
    step, _ = run_through(tmp_path / "step", learner, view, seen, efference)
    sequence, _ = run_through(tmp_path / "sequence", learner, view, seen, efference)
    for name, values in step.items():
        assert_allclose(sequence[name], values, rtol=1e-5, atol=1e-6)
    alone = outputs_of(session_of(tmp_path / "patches"), {view: seen[:, 0]})
    encoded = learner.patch_encoder()(retina.features_of_windows(seen[:, 0]))
    assert_allclose(alone["embedding"], encoded, rtol=0, atol=1e-5)
    assert alone.keys() == {"embedding", "whitened"}
    for name, values in alone.items():
        assert_allclose(values, step[name][:, 0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("form", ["step", "sequence"])
def test_streams_do_not_touch_each_other(tmp_path, few_steps, form):
    learner = trained("gated")
    export.export(learner, None, tmp_path / "encoder.onnx", form=form, fixations=T)
    view, seen, _, efference = streams_of(learner, None, 4, T)
    order = [2, 0, 3, 1]
    straight, _ = run_through(tmp_path / "encoder.onnx", learner, view, seen, efference)
    mixed, _ = run_through(
        tmp_path / "encoder.onnx", learner, view, seen[:, order], efference[:, order]
    )
    for name, values in straight.items():
        assert_allclose(mixed[name], values[:, order], rtol=1e-6, atol=1e-6)


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


@pytest.mark.slow
@pytest.mark.parametrize("form", ["step", "sequence"])
def test_a_new_cell_exports_as_it_is(tmp_path, monkeypatch, few_steps, form):
    monkeypatch.setattr(cells, "CELLS", dict(cells.CELLS))
    cells.register(made_up("swing", swing, n_state=2))
    learner = trained("swing")
    export.export(learner, None, tmp_path / "encoder.onnx", form=form, fixations=T)
    assert_follows(tmp_path / "encoder.onnx", learner, None, n=3)


def test_cells_and_graphs_speak_the_same_vocabulary():
    assert set(onnx_graph.VOCABULARY) == set(cells.VOCABULARY)


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


# ------------------------------------------------------------------------------------------------
# What is written


def graph_of(path):
    return onnx.load(path).graph


@every_encoder
def test_only_what_an_output_needs_is_written(tmp_path, few_steps, n_e):
    """No derivative of the cell, and nothing of its constants' arithmetic."""
    hidden_layers = int(n_e > 0)
    export.export(trained("gated", n_encoder_hidden=n_e), None, tmp_path / "gated.onnx")
    operators = Counter(node.op_type for node in graph_of(tmp_path / "gated.onnx").node)
    # Gemm: encoder 1 or 2, whitened, two drives of 2 parts, V_1 of 3, V_2, V_3, gain 2, surprise 2.
    # Mul: l0 y, l1 y, k (c - y); q g; the square of the surprise.
    # Sub: c - y; the error; the mean from the embedding.
    assert (operators["Gemm"], operators["Mul"], operators["Sub"]) == (15 + hidden_layers, 5, 3)
    assert (operators["Tanh"], operators["Sigmoid"]) == (5 + hidden_layers, 2)

    export.export(trained("rtu"), None, tmp_path / "rtu.onnx")
    graph = graph_of(tmp_path / "rtu.onnx")
    operators = Counter(node.op_type for node in graph.node)
    assert not operators.keys() & {"Sin", "Cos", "Neg"}
    assert operators["Sigmoid"] == 1  # of the gain; the recurrent layer's decay is a constant
    used = {name for node in graph.node for name in node.input}
    made = {name for node in graph.node for name in node.output}
    assert made - used == {output.name for output in graph.output}
    assert {initializer.name for initializer in graph.initializer} <= used


def test_a_sequence_repeats_nothing_but_the_recurrent_layer(tmp_path, few_steps):
    retina = Retina(SMALL_RETINA)
    learner = trained("gated", retina.n_features)
    counts = {}
    for fixations in (4, 8):
        path = tmp_path / f"{fixations}.onnx"
        export.export(learner, retina, path, form="sequence", fixations=fixations)
        counts[fixations] = Counter(node.op_type for node in graph_of(path).node)
    more = counts[8] - counts[4]
    # c, k and y' of a fixation, and the pieces that its two drives and its embedding are cut into.
    assert more == {
        k: 4 * n for k, n in dict(Clip=1, Tanh=1, Sigmoid=1, Mul=3, Add=3, Sub=1, Slice=3).items()
    }


def operators_in_the_docs():
    text = (Path(__file__).parents[2] / "docs" / "encoder.md").read_text()
    return set(re.findall(r"^\| `([A-Z]\w+)` \|", text, re.MULTILINE))


@pytest.mark.slow
def test_deployers_support_every_operator_of_every_graph(tmp_path, few_steps):
    retina = Retina(SMALL_RETINA)
    used = set()
    for cell in BUILT_IN:
        learner = trained(cell, retina.n_features)
        for form in FORMS:
            export.export(learner, retina, tmp_path / "encoder.onnx", form=form, fixations=T)
            graph = graph_of(tmp_path / "encoder.onnx")
            used |= {node.op_type for node in graph.node}
            # TensorRT takes uint8 as an input, and nowhere after its cast.
            view = "picture" if form == "descriptor" else "window"
            readers = [node.op_type for node in graph.node if view in node.input]
            assert readers == ["Cast"]
    told = operators_in_the_docs()
    assert used <= told <= TENSORRT & OPENVINO
    # What a cell of somebody's own may bring along, and INT8 (tests/encoder/test_int8.py).
    assert told - used == {"Sin", "Cos", "Neg", "QuantizeLinear", "DequantizeLinear"}


def shapes_of(values):
    return {
        v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values
    }


@pytest.mark.parametrize("form", OF_WINDOWS)
def test_graph_is_what_deployers_are_told(tmp_path, few_steps, form):
    learner = trained("rtu", Retina().n_features)
    export.export(learner, Retina(), tmp_path / "encoder.onnx", form=form)
    model = onnx.load(tmp_path / "encoder.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version == 8
    assert [(each.domain, each.version) for each in model.opset_import] == [("", 17)]
    batch = ["N", 16] if form == "sequence" else ["N"]
    inputs = {"window": [*batch, 64, 64, 3]}
    outputs = {"embedding": [*batch, N_Z], "whitened": [*batch, N_Z]}
    if form != "patches":
        inputs |= {
            "efference": [*batch, A], "state": ["N", 2, N_H], "embedding_before": ["N", N_Z],
        }  # fmt: skip
        outputs |= {
            "memory": [*batch, 2 * N_H], "next_state": ["N", 2, N_H],
            "prediction": [*batch, N_Z], "surprise": batch,
        }  # fmt: skip
    assert shapes_of(model.graph.input) == inputs
    assert shapes_of(model.graph.output) == outputs
    types = {v.name: v.type.tensor_type.elem_type for v in model.graph.input}
    assert types.pop("window") == onnx.TensorProto.UINT8
    assert set(types.values()) <= {onnx.TensorProto.FLOAT}
    found = {each.key: each.value for each in model.metadata_props}
    told = {name: each["shape"] for name, each in json.loads(found["inputs"]).items()}
    assert (told, found["form"]) == (inputs, form)
    assert {n: e["shape"] for n, e in json.loads(found["outputs"]).items()} == outputs
    assert json.loads(found["inputs"])["window"]["dtype"] == "uint8"


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_pixels_can_come_as_floats(tmp_path, few_steps, form):
    learner, retina = trained("gated", Retina().n_features), Retina()
    files = tmp_path / "bytes.onnx", tmp_path / "floats.onnx"
    for path, float_input in zip(files, (False, True), strict=True):
        report = export.export(
            learner, retina, path, form=form, fixations=T, float_input=float_input
        )
        assert report.checks[0].differences
    model = onnx.load(files[1])
    assert {v.type.tensor_type.elem_type for v in model.graph.input} == {onnx.TensorProto.FLOAT}
    assert "Cast" not in {node.op_type for node in model.graph.node}
    of_bytes, of_floats = map(FrozenEncoder, files)
    assert of_floats.metadata["inputs"][model.graph.input[0].name]["dtype"] == "float32"
    rng = np.random.default_rng(1)
    picture = rng.integers(0, 256, (240, 320, 3), np.uint8)
    np.testing.assert_array_equal(of_floats.describe(picture), of_bytes.describe(picture))
    if form in OF_WINDOWS:
        seen = windows_of(rng, 64, 2 * T), rng.normal(size=(2 * T, A)).astype(np.float32)
        for found, expected in zip(of_floats.embed(*seen), of_bytes.embed(*seen), strict=True):
            np.testing.assert_array_equal(found, expected)
        found = of_floats.embed_patches(seen[0])
        np.testing.assert_array_equal(found, of_bytes.embed_patches(seen[0]))


def test_metadata_says_what_the_file_is(tmp_path, few_steps):
    learner, retina = trained(n_features=Retina(SMALL_RETINA).n_features), Retina(SMALL_RETINA)
    gaze = GazeConfig(saccade_scale_rad=0.125)
    rng = np.random.default_rng(0)
    a = np.float32([[-2, 0, 0, 1], [0, 0, 3, 0]])
    real = Patches(rng.integers(0, 256, (2, 24, 24, 3), dtype=np.uint8), a, np.zeros(2, int))
    more = {"run": {"seed": 3}, "format": "another"}
    path = tmp_path / "encoder.onnx"
    report = export.export(
        learner, retina, path, gaze=gaze, metadata=more, licence="CC0", patches=real
    )
    model = onnx.load(path)
    found = {each.key: each.value for each in model.metadata_props}
    assert (model.producer_name, model.producer_version) == ("edge_rjepa", __version__)
    assert (found["format"], found["version"]) == ("edge_rjepa", "3")
    assert found["package_version"] == __version__
    assert RJepaConfig(**json.loads(found["config"])) == learner.config
    assert RetinaConfig(**json.loads(found["retina"])) == SMALL_RETINA
    assert int(found["training_fixations"]) == learner.fixations == 480
    assert json.loads(found["parity"]) == json.loads(json.dumps(report.as_json()))
    assert "0.125 rad of the saccade" in found["efference"]
    assert "0.25 rad of gaze" in found["efference"]
    assert json.loads(found["efference_scales_rad"]) == [0.125, 0.25]
    ranges = json.loads(found["ranges"])
    assert (ranges["window"], ranges["efference"]) == ([0, 255], [-2, 3])
    assert (found["licence"], json.loads(found["run"])) == ("CC0", {"seed": 3})


def test_metadata_without_retina_and_gaze(tmp_path, few_steps):
    export.export(trained(), None, tmp_path / "encoder.onnx")
    model = onnx.load(tmp_path / "encoder.onnx")
    found = {each.key: each.value for each in model.metadata_props}
    assert json.loads(found["retina"]) is None
    assert found["efference"] == "as in learning"
    assert found["licence"] == "not stated"


def test_exporting_leaves_the_learner_as_it_is(tmp_path, few_steps):
    learner = trained()
    twin = learner.copy()
    export.export(learner, None, tmp_path / "encoder.onnx")
    rng = np.random.default_rng(5)
    block = rng.normal(size=(9, 6)), rng.normal(size=(9, A))
    ours, theirs = learner.learn_block(*block), twin.learn_block(*block)
    assert ours.loss == theirs.loss
    np.testing.assert_array_equal(ours.surprise, theirs.surprise)


# ------------------------------------------------------------------------------------------------
# Or it is not written


@pytest.mark.parametrize("form", ["step", "sequence"])
@pytest.mark.parametrize("output", OUTPUTS)
def test_a_file_that_disagrees_is_not_written(tmp_path, monkeypatch, few_steps, output, form):
    honest = onnx_graph.Graph.output

    def tampered(self, name, value, *rest):
        honest(self, name, value * 1.001 + 1e-3 if name == output else value, *rest)

    path = tmp_path / "encoder.onnx"
    path.write_bytes(b"the file before")
    monkeypatch.setattr(onnx_graph.Graph, "output", tampered)
    with pytest.raises(ExportError, match=r"not written: under onnxruntime its \w+ is off by"):
        export.export(trained(), None, path, form=form, fixations=T)
    assert [each.name for each in tmp_path.iterdir()] == ["encoder.onnx"]
    assert path.read_bytes() == b"the file before"


@pytest.mark.parametrize("wrong", [1e-3, np.nan])
def test_every_reader_must_agree(tmp_path, monkeypatch, few_steps, wrong):
    def astray(model):
        read = parity.onnxruntime_reader(model)
        return lambda inputs: {name: values + wrong for name, values in read(inputs).items()}

    monkeypatch.setattr(parity, "opencv_reader", astray)
    with pytest.raises(ExportError, match="not written: under cv2.dnn its"):
        export.export(trained(), None, tmp_path / "encoder.onnx")
    assert not list(tmp_path.iterdir())


def test_a_reader_that_cannot_read_is_reported_and_never_counted(tmp_path, monkeypatch, few_steps):
    def refuse(content):
        error = cv2.error("no such layer")
        error.err = "no such layer\nin this version"  # else that of the last error that was real
        raise error

    monkeypatch.setattr(cv2.dnn, "readNetFromONNX", refuse)
    report = export.export(trained(), None, tmp_path / "encoder.onnx")
    opencv = next(check for check in report.checks if check.reader == "cv2.dnn")
    assert (opencv.differences, opencv.steps) == (None, 0)
    assert "no such layer" in opencv.not_checked and "\n" not in opencv.not_checked
    assert "cv2.dnn on random patches: not checked: OpenCV" in report.in_words()
    assert "real patches: not checked: none were given" in report.in_words()
    found = onnx.load(tmp_path / "encoder.onnx").metadata_props
    assert "no such layer" in next(each.value for each in found if each.key == "parity")


@pytest.mark.slow
def test_what_differs_more_than_allowed_is_no_exception(tmp_path):
    """Weights that magnify the rounding of pixels, as no learning makes them."""
    learner = trained("gated", Retina().n_features, n_embedding=64, n_encoder_hidden=0)
    learner.set_parameters({"W_z": 1000 * learner.parameters()["W_z"]})
    with pytest.raises(ExportError, match="its embedding is off by up to"):
        export.export(learner, Retina(), tmp_path / "encoder.onnx", form="patches")
    assert not list(tmp_path.iterdir())


@every_encoder
def test_full_saturation_is_finite_for_every_reader(tmp_path, few_steps, n_e):
    """OpenCV 5.0 has NaN for tanh(45), which a long life of learning comes to."""
    learner = trained("gated", n_embedding=64, n_hidden=32, n_encoder_hidden=n_e)
    weights = learner.parameters()
    learner.set_parameters({name: 1000 * weights[name] for name in ("W_x", "W_z", "W", "V_1")})
    model = export._model(learner, None, "step", 1)
    first = learner.parameters()["W_x" if n_e else "W_z"]
    features = np.full((1, 6), 5.0, np.float32) * np.sign(first[0, :6])
    efference = np.full((1, A), 9.0, np.float32)
    inputs = {"features": features, "efference": efference} | no_past(learner, 1)
    for open_reader in (parity.onnxruntime_reader, parity.opencv_reader):
        try:
            outputs = open_reader(model)(inputs)
        except parity.UnreadableError:
            continue
        assert all(np.isfinite(values).all() for values in outputs.values())
        assert outputs["embedding"].max() == 1.0


def test_an_unsound_graph_is_refused(tmp_path, monkeypatch, few_steps):
    monkeypatch.setattr(onnx_graph, "OPSET", 5)  # before Reshape took its shape as an input
    with pytest.raises(ExportError, match="the graph is not sound") as caught:
        export.export(trained(), None, tmp_path / "encoder.onnx", form="sequence")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_cannot_be_written(tmp_path, few_steps):
    for path in (tmp_path / "missing" / "encoder.onnx", tmp_path):
        with pytest.raises(ExportError, match=f"^cannot write {path}: [^\n]+$"):
            export.export(trained(), None, path)


def test_what_does_not_fit_is_refused(tmp_path):
    path, rng = tmp_path / "encoder.onnx", np.random.default_rng(0)
    with pytest.raises(ExportError, match="the retina gives 316 features, the learner takes 6"):
        export.export(trained(), Retina(), path)
    with pytest.raises(ExportError, match="efference copies of 4 values, the learner takes 2"):
        export.export(trained(n_efference=2), None, path, gaze=GazeConfig())
    with pytest.raises(ExportError, match="form 'steps' is unknown: choose one of step, sequence"):
        export.export(trained(), None, path, form="steps")
    for fixations in (0, 1, 100_000):
        with pytest.raises(ExportError, match=f"a sequence of {fixations} fixations: give 2 to"):
            export.export(trained(), None, path, form="sequence", fixations=fixations)
    real = Patches(rng.normal(size=(9, 5)).astype("f4"), np.zeros((9, A), "f4"), np.zeros(9))
    with pytest.raises(ExportError, match=r"patches are float32 \(9, 5\): give float32 \(N, 6\)"):
        export.export(trained(), None, path, patches=real)
    real = Patches(np.zeros((9, 6), "f4"), np.zeros((8, A), "f4"), np.zeros(9))
    with pytest.raises(ExportError, match=r"efference copies .* \(8, 4\): give \(9, 4\)"):
        export.export(trained(), None, path, patches=real)
    assert not path.exists()


def test_a_licence_that_is_no_text_is_refused(tmp_path, few_steps):
    path = tmp_path / "encoder.onnx"
    with pytest.raises(ExportError, match="'MIT.*' is no text"):
        export.export(trained(), None, path, licence="MIT\udcff")  # a byte that is no UTF-8
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
