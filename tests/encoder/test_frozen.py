"""The exported encoder in Python is used as the learner is, and refuses what it cannot take."""

import json
import os

import numpy as np
import onnx
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from edge_rjepa import RJepa, RJepaConfig
from edge_rjepa.encoder import parity
from edge_rjepa.encoder.export import export
from edge_rjepa.encoder.frozen import EncoderError, EncoderPast, FrozenEncoder
from edge_rjepa.errors import InputError, RJepaError
from edge_rjepa.eye.config import RetinaConfig
from edge_rjepa.eye.retina import Retina

RETINA = Retina(
    RetinaConfig(
        window_px=24, fovea_px=6, surround_cells=8, colour_cells=4,
        fovea_degree=3, surround_degree=4, colour_degree=2,
    )
)  # fmt: skip
A, N_Z, N_H, T = 4, 5, 7, 4


@pytest.fixture(scope="module")
def learner():
    """Of two state components, one of them hidden from the predictor."""
    config = RJepaConfig(
        RETINA.n_features, A, "rgc",
        n_encoder_hidden=9, n_embedding=N_Z, n_hidden=N_H, n_predictor=8, n_gain=3, max_block=32,
        learning_rate=1e-3, update_every=1,
    )  # fmt: skip
    learner = RJepa(config, seed=0)
    rng = np.random.default_rng(0)
    for _ in range(30):
        learner.learn_block(rng.normal(size=(16, RETINA.n_features)), rng.normal(size=(16, A)))
    learner.reset()
    return learner


@pytest.fixture(scope="module")
def files(learner, tmp_path_factory):
    """An exported file of each form, and one that takes features."""
    folder = tmp_path_factory.mktemp("encoders")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parity, "PARITY_STEPS", 40)
        for form in ("step", "sequence", "patches"):
            export(learner, RETINA, folder / form, form=form, fixations=T)
        export(learner, None, folder / "features")
    return folder


def looks(count, seed=1):
    """An image, the gaze pixels (K, 2) and efference copies (K, A) of as many fixations."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)
    return image, rng.uniform((0, 0), (80, 60), (count, 2)), rng.normal(size=(count, A))


@pytest.mark.parametrize("file", ["step", "sequence", "features"])
def test_programs_swap_it_for_the_learner(files, learner, file):
    """The same calls on both, block by block, with a reset between: nothing else differs."""
    encoder = FrozenEncoder(files / file)
    assert FrozenEncoder(files / file, threads=2).form == encoder.form
    sees = {"learner": RETINA, "encoder": encoder.retina.windows if encoder.retina else RETINA}
    seen = {}
    for name, model in (("learner", learner.copy()), ("encoder", encoder)):
        rows = []
        for count in (T, 2 * T, T):
            image, pixels, efference = looks(count, seed=count)
            rows.append(model.embed(sees[name](image, pixels), efference))
        model.reset()
        rows.append(model.embed(sees[name](image, pixels), efference))
        seen[name] = [np.concatenate(each) for each in zip(*rows, strict=True)]
    for found, expected in zip(seen["encoder"], seen["learner"], strict=True):
        assert found.dtype == np.float32
        assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_predictions_and_surprise_are_the_learners(files, learner):
    image, pixels, efference = looks(12)
    twin, encoder = learner.copy(), FrozenEncoder(files / "step")
    wanted = twin.predict(RETINA(image, pixels), efference)
    found = encoder.predict(encoder.retina.windows(image, pixels), efference)
    for name, values in wanted._asdict().items():
        assert_allclose(getattr(found, name), values, rtol=0, atol=1e-5)
    surprise = twin.surprise(wanted.z, wanted.z_hat)
    assert_allclose(found.surprise, surprise, rtol=1e-5)
    sequence = FrozenEncoder(files / "sequence")
    again = sequence.predict(encoder.retina.windows(image, pixels), efference)
    for one, other in zip(again, found, strict=True):
        assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("file", ["step", "sequence"])
def test_how_fixations_are_blocked_makes_no_difference(files, file):
    image, pixels, efference = looks(4 * T)
    encoder = FrozenEncoder(files / file)
    windows = encoder.retina.windows(image, pixels)
    whole = encoder.embed(windows, efference)
    past = encoder.past
    encoder.reset()
    parts = [encoder.embed(windows[i : i + T], efference[i : i + T]) for i in range(0, 4 * T, T)]
    for i in range(2):
        assert_array_equal(np.concatenate([part[i] for part in parts]), whole[i])
    for one, other in zip(encoder.past, past, strict=True):
        assert_array_equal(one, other)


def test_a_past_can_be_put_back_and_into_another_encoder(files):
    image, pixels, efference = looks(3 * T)
    encoder = FrozenEncoder(files / "step")
    windows = encoder.retina.windows(image, pixels)
    assert all(not array.any() for array in encoder.past)
    encoder.embed(windows[:T], efference[:T])
    past = encoder.past
    wanted = encoder.embed(windows[T:], efference[T:])
    encoder.past = past
    other = FrozenEncoder(files / "sequence")
    other.past = past
    past.state[:] = 7.0  # what was handed in and out are copies
    past.embedding[:] = 7.0
    for model in (encoder, other):
        for one, two in zip(model.embed(windows[T:], efference[T:]), wanted, strict=True):
            assert_allclose(one, two, rtol=0, atol=1e-6)


def test_single_patches_have_no_past(files, learner):
    image, pixels, efference = looks(5)
    encoder = FrozenEncoder(files / "patches")
    windows = encoder.retina.windows(image, pixels)
    z, h = encoder.embed(windows)
    assert h.shape == (5, 0) and encoder.past is None
    assert_allclose(z, learner.copy().embed(RETINA(image, pixels), efference)[0], atol=1e-5)
    encoder.reset()
    assert_allclose(encoder.embed(windows[::-1], efference)[0][::-1], z, rtol=0, atol=1e-6)
    with pytest.raises(InputError, match="predicts nothing: export step"):
        encoder.predict(windows, efference)
    with pytest.raises(InputError, match="no past: export step"):
        encoder.past = EncoderPast(np.zeros((2, N_H), np.float32), np.zeros(N_Z, np.float32))


def test_metadata_is_at_hand(files, learner):
    encoder = FrozenEncoder(files / "sequence")
    assert (encoder.form, encoder.fixations) == ("sequence", T)
    assert encoder.retina.config == RETINA.config
    assert RJepaConfig(**encoder.metadata["config"]) == learner.config
    assert FrozenEncoder(files / "features").retina is None


# ------------------------------------------------------------------------------------------------
# The door


WINDOWS = np.zeros((T, 24, 24, 3), np.uint8)
FLOATS = np.zeros((T, A), np.float32)
NAN = np.where(np.arange(T * A).reshape(T, A) == 5, np.nan, 0.0)


@pytest.mark.parametrize(
    ("seen", "efference", "says"),
    [
        (
            WINDOWS.astype(np.float32),
            FLOATS,
            r"windows are float32 \(4, 24, 24, 3\): must be uint8",
        ),
        (WINDOWS[:, :23], FLOATS, r"windows are uint8 \(4, 23, 24, 3\)"),
        (WINDOWS[0], FLOATS, r"windows are uint8 \(24, 24, 3\)"),
        (WINDOWS[:0], FLOATS[:0], r"windows are uint8 \(0, 24, 24, 3\)"),
        (WINDOWS[..., 0], FLOATS, "windows are"),
        (None, FLOATS, "windows are object"),
        (WINDOWS, FLOATS[:, :3], r"efference has shape \(4, 3\): expected \(4, 4\)"),
        (WINDOWS, FLOATS[:-1], r"efference has shape \(3, 4\): expected \(4, 4\)"),
        (WINDOWS, FLOATS.astype(int), "efference has dtype int64: give floating point"),
        (WINDOWS, None, "efference has dtype object"),
        (WINDOWS, NAN, "efference holds NaN or infinity"),
        (WINDOWS, np.full((T, A), 1e300), "efference holds NaN or infinity"),
        (WINDOWS, [[1.0], [1.0, 2.0]], "efference is ragged"),
    ],
)
@pytest.mark.parametrize("file", ["step", "sequence"])
def test_what_does_not_fit_is_refused_and_changes_nothing(files, file, seen, efference, says):
    encoder = FrozenEncoder(files / file)
    encoder.embed(WINDOWS, FLOATS + 0.5)
    before = encoder.past
    with pytest.raises(InputError, match=says) as caught:
        encoder.embed(seen, efference)
    assert "\n" not in str(caught.value)
    for one, other in zip(encoder.past, before, strict=True):
        assert_array_equal(one, other)


def test_features_that_do_not_fit_are_refused(files):
    encoder, f = FrozenEncoder(files / "features"), RETINA.n_features
    for features, says in (
        (np.zeros((T, f - 1), np.float32), rf"features has shape \(4, {f - 1}\): expected"),
        (np.zeros((T, f), np.uint8), "features has dtype uint8"),
        (np.full((T, f), np.inf, np.float32), "features holds NaN or infinity"),
    ):
        with pytest.raises(InputError, match=says):
            encoder.embed(features, FLOATS)


def test_a_sequence_wants_whole_sequences(files):
    encoder = FrozenEncoder(files / "sequence")
    with pytest.raises(InputError, match="3 fixations: this file takes 4 at a time"):
        encoder.embed(WINDOWS[:3], FLOATS[:3])


@pytest.mark.parametrize(
    ("state", "embedding", "says"),
    [
        (np.zeros((1, N_H)), np.zeros(N_Z), r"state has shape \(1, 7\): expected \(2, 7\)"),
        (np.zeros((2, N_H)), np.zeros(N_Z + 1), r"embedding has shape \(6,\): expected \(5,\)"),
        (np.full((2, N_H), np.nan), np.zeros(N_Z), "state holds NaN or infinity"),
        (np.zeros((2, N_H), int), np.zeros(N_Z), "state has dtype int64"),
    ],
)
def test_a_past_that_does_not_fit_is_refused(files, state, embedding, says):
    encoder = FrozenEncoder(files / "step")
    with pytest.raises(InputError, match=says):
        encoder.past = EncoderPast(state, embedding)
    assert all(not array.any() for array in encoder.past)


def test_files_that_are_no_encoders_are_refused(files, tmp_path):
    with pytest.raises(EncoderError, match=r"cannot read .*nowhere\.onnx: No such file"):
        FrozenEncoder(tmp_path / "nowhere.onnx")
    with pytest.raises(EncoderError, match="cannot read .*: Is a directory"):
        FrozenEncoder(tmp_path)
    content = (files / "step").read_bytes()
    for damaged in (b"", b"not ONNX", content[: len(content) // 2], bytes(1000)):
        (tmp_path / "damaged.onnx").write_bytes(damaged)
        with pytest.raises(
            EncoderError, match="is no ONNX file that onnxruntime can run"
        ) as caught:
            FrozenEncoder(tmp_path / "damaged.onnx")
        assert "\n" not in str(caught.value)
    assert issubclass(EncoderError, RJepaError)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"format": "another"}, "is an ONNX file of another program"),
        ({"format": None}, "is an ONNX file of another program"),
        ({"version": "1"}, "is of version 1 of the format, this package reads 3: export it again"),
        ({"version": "4"}, "is of version 4"),
        ({"form": None}, "lacks what it should say of itself"),
        ({"fixations": "many"}, "lacks what it should say of itself"),
        ({"retina": json.dumps({"window_px": 7})}, "lacks what it should say of itself"),
        ({"retina": json.dumps({"window_px": 1 << 20})}, "window_px = 1048576: must be at most"),
        ({"retina": json.dumps({"window_px": 32})}, "is not the graph that it says it is"),
        ({"retina": "[" * 100_000}, "lacks what it should say of itself"),
        ({"retina": "[1]"}, "retina is not an object"),
        ({"retina": '{"contrast_floor": 1' + "0" * 400 + "}"}, "contrast_floor"),
        ({"retina": "null"}, "is not the graph that it says it is"),
        ({"licence": "a" * 2_000_000}, "says too much of itself"),
        ({"form": "[1]"}, "form is not of type str"),
        ({"form": "patches"}, "is not the graph that it says it is"),
        ({"form": "sequence"}, "is not the graph that it says it is"),
        ({"fixations": "0"}, "form .step. of 0 fixations"),
        ({"fixations": "-1"}, "form .step. of -1 fixations"),
        ({"fixations": "1e400"}, "lacks what it should say of itself"),
        ({"fixations": "[" * 200_000}, "lacks what it should say of itself"),
    ],
)
def test_onnx_files_of_others_are_refused(files, tmp_path, changed, says):
    model = onnx.load(files / "step")
    found = {each.key: each.value for each in model.metadata_props} | changed
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {k: v for k, v in found.items() if v is not None})
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(EncoderError, match=says):
        FrozenEncoder(tmp_path / "other.onnx")


def external(model):
    """A weight that lies in a file of the working directory."""
    tensor = onnx.TensorProto(name="leak", data_type=1, dims=[1], data_location=1)
    tensor.external_data.add(key="location", value="secret.bin")
    return tensor


def external_weight(model):
    model.graph.initializer.append(external(model))


def external_constant(model):
    """The same in an attribute of a node of a graph in a node."""
    constant = onnx.helper.make_node("Constant", [], ["leak"], value=external(model))
    inner = onnx.helper.make_graph([constant], "inner", [], [])
    model.graph.node.append(onnx.helper.make_node("If", ["x"], [], then_branch=inner))


def foreign_graph(model):
    kind = onnx.helper.make_tensor_value_info("embedding", onnx.TensorProto.FLOAT, ["N", 3])
    node = onnx.helper.make_node("Identity", ["window"], ["embedding"])
    view = onnx.helper.make_tensor_value_info("window", onnx.TensorProto.FLOAT, ["N", 3])
    model.graph.CopyFrom(onnx.helper.make_graph([node], "g", [view], [kind]))


def symbolic_state(model):
    (state,) = (each for each in model.graph.input if each.name == "state")
    state.type.tensor_type.shape.dim[1].dim_param = "n"


def another_output(model):
    model.graph.output[0].name = "embeddings"
    model.graph.node.append(onnx.helper.make_node("Identity", ["embedding"], ["embeddings"]))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (external_weight, "wants to read other files"),
        (external_constant, "wants to read other files"),
        (foreign_graph, "is not the graph that it says it is"),
        (symbolic_state, r"state is \['N', 'n', 7\]"),
        (another_output, "its outputs are embeddings"),
    ],
)
def test_graphs_of_others_are_refused(files, tmp_path, change, says):
    model = onnx.load(files / "step")
    change(model)
    (tmp_path / "other.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(EncoderError, match=says) as caught:
        FrozenEncoder(tmp_path / "other.onnx")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "says"), [(3, "fails while it runs"), (1, "gives embedding of shape")]
)
def test_a_graph_that_does_not_do_what_it_declares_is_told(files, tmp_path, rows, says):
    """Its embedding is made of so many rows, whatever comes in."""
    model = onnx.load(files / "patches")
    graph = model.graph
    for node in graph.node:
        node.output[:] = ["hidden" if name == "embedding" else name for name in node.output]
        node.input[:] = ["hidden" if name == "embedding" else name for name in node.input]
    shape = onnx.numpy_helper.from_array(np.array([rows, N_Z * 2 // rows]), "rows")
    graph.initializer.append(shape)
    graph.node.append(onnx.helper.make_node("Reshape", ["hidden", "rows"], ["embedding"]))
    (tmp_path / "other.onnx").write_bytes(model.SerializeToString())
    encoder = FrozenEncoder(tmp_path / "other.onnx")
    with pytest.raises(EncoderError, match=says) as caught:
        encoder.embed_patches(np.zeros((2, 24, 24, 3), np.uint8))
    assert "\n" not in str(caught.value)


def test_pipes_devices_and_huge_files_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with open(tmp_path / "huge", "wb") as file:
        file.truncate(4 << 30)
    for name, says in (("pipe", "pipe or a device"), ("huge", "longer than")):
        with pytest.raises(EncoderError, match=says):
            FrozenEncoder(tmp_path / name)
    with pytest.raises(EncoderError, match="pipe or a device"):
        FrozenEncoder("/dev/zero")


def test_a_file_that_names_no_codes_has_none(files, tmp_path):
    model = onnx.load(files / "step")
    found = {each.key: each.value for each in model.metadata_props}
    retina = json.loads(found["retina"])
    del retina["colour_codes"], retina["orientation_scales"]
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, found | {"retina": json.dumps(retina)})
    onnx.save(model, tmp_path / "older.onnx")
    older = FrozenEncoder(tmp_path / "older.onnx").retina.config
    assert (older.colour_codes, older.orientation_scales) == (0, 0)


def test_threads_are_a_whole_number(files):
    with pytest.raises(InputError, match="0 threads asked for"):
        FrozenEncoder(files / "step", threads=0)
