"""Descriptions: the same from learner, run and every form of file, and refused where they must be.

The expected ones are made here from light evened pixel by pixel, windows cut by hand, NumPy's
Cholesky and the learner's embedding of one fixation after another.
"""

import json
from dataclasses import asdict

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from edge_rjepa import RJepa, RJepaConfig
from edge_rjepa.cli import main
from edge_rjepa.encoder import describe as describing
from edge_rjepa.encoder import export as exporting
from edge_rjepa.encoder import parity
from edge_rjepa.encoder.describe import DESCRIBED_FIXATIONS, DESCRIBED_PX, learner_describer
from edge_rjepa.encoder.export import export
from edge_rjepa.encoder.frozen import EncoderError, EncoderPast, FrozenEncoder
from edge_rjepa.encoder.int8 import quantise
from edge_rjepa.encoder.opener import open_encoder
from edge_rjepa.errors import ConfigError, ExportError, InputError
from edge_rjepa.eye.config import GazeConfig, RetinaConfig
from edge_rjepa.eye.retina import Retina
from edge_rjepa.eye.scan import scan
from edge_rjepa.run.config import RunConfig
from edge_rjepa.run.patches import Patches

SMALL = RetinaConfig(
    window_px=24, fovea_px=6, surround_cells=8, colour_cells=4,
    fovea_degree=3, surround_degree=4, colour_degree=2,
)  # fmt: skip
RETINA = Retina(SMALL)
A, N_Z, T = 4, 12, 6  # 16 fixations are no multiple of T
FORMS = ("step", "sequence", "patches", "descriptor")
SHAPE = (DESCRIBED_PX * 3 // 4, DESCRIBED_PX)  # as a usual camera's picture is scanned


def picture_of(shape, seed=0):
    """A picture of several grains, of other colours and contrast than that of another seed."""
    rng, (height, width) = np.random.default_rng(seed), shape
    picture = np.full((height, width, 3), rng.uniform(20, 150, 3))
    for grain_px, contrast in zip((1, 6, 40), rng.uniform(0, 35, (3, 3)), strict=True):
        coarse = rng.uniform(0, contrast, (-(-height // grain_px), -(-width // grain_px), 3))
        picture += coarse.repeat(grain_px, 0).repeat(grain_px, 1)[:height, :width]
    return picture.astype(np.uint8)


@pytest.fixture(scope="module")
def learner():
    """A small learner in the middle of a sequence; its embeddings vary and have a mean."""
    config = RJepaConfig(
        RETINA.n_features, A, n_encoder_hidden=9, n_embedding=N_Z, n_hidden=7, n_predictor=8,
        n_gain=3, max_block=32, learning_rate=1e-3, update_every=1,
    )  # fmt: skip
    learner, rng = RJepa(config, seed=0), np.random.default_rng(0)
    for i in range(60):
        picture = picture_of(SHAPE, seed=1000 + i)
        pixels = rng.uniform((0, 0), SHAPE[::-1], (16, 2))
        learner.learn_block(RETINA(picture, pixels), rng.normal(size=(16, A)))
    return learner


@pytest.fixture(scope="module")
def files(learner, tmp_path_factory):
    """A file of each form, one that takes features, and a run folder."""
    folder = tmp_path_factory.mktemp("describe")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parity, "PARITY_STEPS", 36)
        for form in FORMS:
            export(learner, RETINA, folder / form, form=form, fixations=T, gaze=GazeConfig())
        export(learner, None, folder / "features")
    (folder / "run").mkdir()
    config = asdict(RunConfig(network=learner.config, retina=SMALL))
    learner.save(folder / "run" / "checkpoint.safetensors", {"config": config})
    return folder


def even(image):
    """Every channel's pixels times whole 64ths that bring the mean to 110 or a little less."""
    evened = np.empty_like(image)
    for i in range(3):
        channel = [int(value) for value in image[..., i].ravel()]
        level = max(sum(channel) / len(channel), 4.0)
        gain = int(64 * 110 / level + 1 / 1024)  # in 64ths
        rounded = [min((2 * value * gain + 64) // 128, 255) for value in channel]
        evened[..., i] = np.reshape(rounded, image.shape[:2])
    return evened


def expected(learner, picture):
    """By hand: embeddings from single fixations after a reset each, whitened by solving."""
    seen = scan(picture, DESCRIBED_FIXATIONS, longer_px=DESCRIBED_PX)
    side, half = SMALL.window_px, SMALL.window_px // 2
    framed = np.pad(even(seen.image), ((side, side), (side, side), (0, 0)), "edge")
    rows = []
    for x, y in np.floor(seen.pixels + 0.5).astype(int) + side - half:
        twin = learner.copy()
        twin.reset()
        features = RETINA.features_of_windows(framed[None, y : y + side, x : x + side])
        rows.append(twin.embed(features, np.zeros((1, A), np.float32))[0][0])
    centred = np.float64(rows) - learner._array("statistics.mu")
    covariance = learner.embedding_covariance + learner.config.noise_floor * np.eye(N_Z)
    mean = np.linalg.solve(np.linalg.cholesky(covariance), centred.T).mean(axis=1)
    return mean / np.linalg.norm(mean)


# ------------------------------------------------------------------------------------------------
# One description


@pytest.fixture(scope="module")
def others(learner):
    """Descriptions of four more pictures."""
    return np.array([expected(learner, picture_of((480, 640), seed)) for seed in range(10, 14)])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_learner_run_and_every_form_describe_alike(learner, files, others, seed):
    picture = picture_of((480, 640), seed)
    wanted = expected(learner, picture)
    assert np.abs(others - wanted).max(axis=1).min() > 3e-3  # others are told from it
    describers = {"learner": learner_describer(learner, RETINA)}
    for name in (*FORMS, "run"):
        opened = open_encoder(files / name)
        describers |= {
            f"opened {name}": opened.describe,
            f"describer of {name}": opened.describer(),
        }
        if name != "run":
            describers[name] = FrozenEncoder(files / name).describe
    describers["by name"] = open_encoder(str(files / "run")).describe
    for name, describe in describers.items():
        found = describe(picture)
        assert found.shape == (N_Z,) and found.dtype == np.float32, name
        assert_allclose(found, wanted, rtol=0, atol=1e-5, err_msg=name)
        assert np.linalg.norm(found.astype(float)) == pytest.approx(1.0, abs=1e-6), name


@pytest.mark.slow
def test_a_descriptor_takes_many_pictures_at_once(learner, files):
    session = onnxruntime.InferenceSession(files / "descriptor")
    pictures = np.stack([picture_of(SHAPE, seed) for seed in range(3)])
    (found,) = session.run(["description"], {"picture": pictures})
    wanted = [expected(learner, picture) for picture in pictures]
    assert_allclose(found, wanted, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_the_whitened_embedding_is_what_the_file_says(learner, files):
    windows = RETINA.windows(picture_of(SHAPE), np.random.default_rng(0).uniform(0, 200, (T, 2)))
    matrix, mean = learner.whitening()
    z = learner.patch_encoder()(RETINA.features_of_windows(windows))
    for form in ("step", "sequence", "patches"):
        session = onnxruntime.InferenceSession(files / form)
        inputs = {}
        for each in session.get_inputs():
            rows = [
                1 if form == "sequence" else T if size == "N" else size for size in each.shape[:1]
            ]
            inputs[each.name] = np.zeros([*rows, *each.shape[1:]], np.float32)
        view = session.get_inputs()[0].name
        inputs[view] = windows[None] if form == "sequence" else windows
        (white,) = session.run(["whitened"], inputs)
        assert_allclose(white.reshape(T, N_Z), (z - mean) @ matrix.T, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["run", "step", "sequence", "patches", "descriptor"])
def test_it_depends_on_no_past_and_leaves_it(files, name):
    encoder, fresh = open_encoder(files / name), open_encoder(files / name)
    rng, picture = np.random.default_rng(3), picture_of(SHAPE)
    wanted = fresh.describe(picture)
    streamed = name in ("run", "step", "sequence")
    looks = [(rng.uniform((0, 0), SHAPE[::-1], (T, 2)), rng.normal(size=(T, A))) for _ in range(2)]
    if streamed:
        fresh.model.reset()  # a learner comes with the past of its checkpoint
        encoder.model.reset()
        for pixels, efference in looks:
            undisturbed = fresh.embed(picture, pixels, efference)
        before = encoder.embed(picture, *looks[0])
        encoder.describe(picture_of((50, 70), 9))
    assert_array_equal(encoder.describe(picture), wanted)
    if streamed:
        for one, other in zip(encoder.embed(picture, *looks[1]), undisturbed, strict=True):
            assert_array_equal(one, other)
        assert np.abs(before[1] - undisturbed[1]).max() > 0  # there was a past to disturb
    assert_array_equal(encoder.describe(picture), wanted)


# ------------------------------------------------------------------------------------------------
# Pictures


SHAPES = [(1, 1), (2, 3), (9, 9), (5, 400), (400, 5), (1, 640), (720, 1280), (480, 640), SHAPE]


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape[::-1])))
def test_a_picture_may_have_any_size(learner, files, shape):
    picture = picture_of(shape, 5)
    wanted = expected(learner, picture)
    for describe in (
        learner_describer(learner, RETINA), *(FrozenEncoder(files / f).describe for f in FORMS[:3])
    ):  # fmt: skip
        assert_allclose(describe(picture), wanted, rtol=0, atol=1e-5)
    found = FrozenEncoder(files / "descriptor").describe(picture)
    enlarge = shape[0] * shape[1] <= SHAPE[0] * SHAPE[1]
    how = cv2.INTER_LINEAR if enlarge else cv2.INTER_AREA
    squeezed = cv2.resize(picture, SHAPE[::-1], interpolation=how)
    assert_allclose(found, expected(learner, squeezed), rtol=0, atol=1e-5)


def test_a_picture_of_the_scanned_size_is_described_as_it_is(learner, files):
    picture, large = picture_of(SHAPE, 6), picture_of((480, 640), 6)
    reduced = cv2.resize(large, SHAPE[::-1], interpolation=cv2.INTER_AREA)
    for name in ("run", *FORMS):
        describe = open_encoder(files / name).describe
        assert_array_equal(describe(large), describe(reduced))
        assert np.abs(describe(picture) - describe(reduced)).max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(("width_px", "height_px"), [(640, 360), (100, 300), (1, 1), (3, 16384)])
def test_a_descriptor_is_made_for_a_camera(learner, tmp_path, monkeypatch, width_px, height_px):
    monkeypatch.setattr(parity, "DESCRIBED_PICTURES", 6)
    export(
        learner, RETINA, tmp_path / "d.onnx", form="descriptor", picture_px=(width_px, height_px)
    )
    encoder = FrozenEncoder(tmp_path / "d.onnx")
    longer = max(encoder._inputs["picture"].shape[1:3])
    assert longer == DESCRIBED_PX
    picture = picture_of((height_px, width_px), 7)
    assert_allclose(encoder.describe(picture), expected(learner, picture), rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("light", [(0.4, 0.5, 0.6), (0.3, 0.8, 1.0), (1.0, 1.0, 0.5)])
def test_light_makes_little_difference(learner, files, light):
    """The same picture in light of any strength and colour is nearer than any other picture."""
    for name in ("run", *FORMS):
        describe = open_encoder(files / name).describe
        pictures = [picture_of(SHAPE, seed) for seed in range(6)]
        rows = np.array([describe(picture) for picture in pictures])
        lit = np.array([describe((picture * light).astype(np.uint8)) for picture in pictures])
        likeness = lit @ rows.T
        assert (likeness.argmax(axis=1) == np.arange(6)).all(), name
        assert np.diag(likeness).min() > 0.99, name


@pytest.mark.parametrize("level", [0, 1, 3, 4, 110, 254, 255])
def test_pictures_of_one_level_are_described(learner, files, level):
    """Black is no reason to divide by 0, and white is not cut off."""
    picture = np.full((*SHAPE, 3), level, np.uint8)
    wanted = expected(learner, picture)
    assert np.isfinite(wanted).all()
    for name in ("run", *FORMS):
        assert_allclose(open_encoder(files / name).describe(picture), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("picture", "says"),
    [
        (np.zeros((40, 60), np.uint8), r"picture is uint8 \(40, 60\): must be uint8 \(H, W, 3\)"),
        (np.zeros((40, 60, 3), np.float32), r"picture is float32 \(40, 60, 3\): must be uint8"),
        (np.zeros((40, 60, 4), np.uint8), r"picture is uint8 \(40, 60, 4\)"),
        (np.zeros((1, 40, 60, 3), np.uint8), r"picture is uint8 \(1, 40, 60, 3\)"),
        (np.zeros((0, 60, 3), np.uint8), r"picture is uint8 \(0, 60, 3\)"),
        (None, "picture is"),
    ],
)
@pytest.mark.parametrize("name", ["run", *FORMS])
def test_what_is_no_picture_is_refused(files, name, picture, says):
    with pytest.raises(InputError, match=says) as caught:
        open_encoder(files / name).describe(picture)
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------------
# What a form cannot do


def test_a_file_of_features_describes_nothing(files):
    with pytest.raises(InputError, match="takes features: export it with its retina to describe"):
        FrozenEncoder(files / "features").describe(picture_of(SHAPE))
    with pytest.raises(ConfigError, match="takes features, not pictures"):
        open_encoder(files / "features")


def test_a_descriptor_only_describes(files):
    encoder = FrozenEncoder(files / "descriptor")
    windows, efference = np.zeros((T, 24, 24, 3), np.uint8), np.zeros((T, A), np.float32)
    for ask in (encoder.embed, encoder.embed_patches):
        with pytest.raises(InputError, match="a descriptor takes whole pictures: describe them"):
            ask(windows)
    with pytest.raises(InputError, match="the form descriptor predicts nothing: export step"):
        encoder.predict(windows, efference)
    assert encoder.past is None
    with pytest.raises(InputError, match="the form descriptor has no past: export step"):
        encoder.past = EncoderPast(np.zeros((1, 7), np.float32), np.zeros(N_Z, np.float32))
    encoder.reset()
    with pytest.raises(InputError, match="a descriptor takes whole pictures"):
        open_encoder(files / "descriptor").patch_embedder()(windows)


def test_a_descriptor_stays_in_float(files, tmp_path):
    some = Patches(np.zeros((400, 24, 24, 3), np.uint8), np.zeros((400, A), "f4"), np.zeros(400))
    with pytest.raises(ExportError, match="is a descriptor, which stays in float: quantise anoth"):
        quantise(files / "descriptor", tmp_path / "int8.onnx", some)
    assert not list(tmp_path.iterdir())


def test_a_descriptor_needs_a_retina_and_a_picture(learner, tmp_path):
    with pytest.raises(ExportError, match="looks at pictures: export it with its retina"):
        export(learner, None, tmp_path / "d.onnx", form="descriptor")
    for size in ((0, 240), (-3, 240), (320, 16385), (320.5, 240), (320,)):
        with pytest.raises(ExportError, match="give width and height, whole numbers") as caught:
            export(learner, RETINA, tmp_path / "d.onnx", form="descriptor", picture_px=size)
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_files_of_the_format_before_are_refused(files, tmp_path):
    model = onnx.load(files / "step")
    found = {each.key: each.value for each in model.metadata_props}
    assert found["version"] == "3"
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, found | {"version": "2"})
    onnx.save(model, tmp_path / "old.onnx")
    says = "old.onnx is of version 2 of the format, this package reads 3: export it again$"
    for opening in (FrozenEncoder, open_encoder):
        with pytest.raises(EncoderError, match=says):
            opening(tmp_path / "old.onnx")


# ------------------------------------------------------------------------------------------------
# The command


@pytest.mark.slow
def test_the_command_writes_a_descriptor(learner, files, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(parity, "DESCRIBED_PICTURES", 6)
    path = tmp_path / "d.onnx"
    command = ["export", str(files / "run"), "-o", str(path), "--form", "descriptor"]
    assert main([*command, "--picture", "640X360", "--json"]) == 0
    said = capsys.readouterr()
    assert "onnxruntime on random pictures: within" in said.err
    report = json.loads(said.out)["parity"]
    assert (report["form"], report["checks"][0]["steps"]) == ("descriptor", 6)
    picture = picture_of((360, 640), 8)
    found = FrozenEncoder(path).describe(picture)
    assert_allclose(found, expected(learner, picture), rtol=0, atol=1e-5)
    assert main([*command, "--int8"]) == 1
    assert "a descriptor stays in float: export another form for --int8" in capsys.readouterr().err


@pytest.mark.parametrize("size", ["nonsense", "640", "640x", "x480", "640x480x3", "0x480", "-1x9"])
def test_a_size_that_is_none_is_refused(files, tmp_path, capsys, size):
    command = ["export", str(files / "run"), "-o", str(tmp_path / "d.onnx"), "--form", "descriptor"]
    with pytest.raises(SystemExit, match="2"):
        main([*command, f"--picture={size}"])
    said = capsys.readouterr().err
    assert f"argument --picture: '{size}'" in said and "Traceback" not in said
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------------
# Whitening


def test_whitening_makes_all_directions_alike(learner):
    matrix, mean = learner.whitening()
    covariance = learner.embedding_covariance.astype(float) + learner.config.noise_floor * np.eye(
        N_Z
    )
    assert_allclose(matrix @ covariance @ matrix.T, np.eye(N_Z), rtol=0, atol=1e-6)
    assert_allclose(matrix, np.linalg.inv(np.linalg.cholesky(covariance)), rtol=1e-9, atol=1e-12)
    assert_array_equal(mean, learner._array("statistics.mu"))
    assert np.abs(mean).max() > 0.01
    assert matrix.dtype == mean.dtype == np.float64
    off_diagonal = covariance - np.diag(np.diag(covariance))
    assert np.abs(off_diagonal).max() > 0.01  # else a diagonal would do


@pytest.mark.parametrize("array", ["S_z", "mu"])
def test_a_diverged_learner_is_not_described_with(learner, tmp_path, array):
    broken = learner.copy()
    broken._array(f"statistics.{array}").flat[0] = np.nan
    assert np.isnan(np.concatenate([part.ravel() for part in broken.whitening()])).any()
    with pytest.raises(InputError, match="the learner holds NaN or infinity: describe with an ear"):
        learner_describer(broken, RETINA)
    for form in FORMS:
        with pytest.raises(ExportError, match="the learner holds NaN or infinity"):
            export(broken, RETINA, tmp_path / "d.onnx", form=form)
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------------
# The parity check


@pytest.fixture
def few_pictures(monkeypatch):
    monkeypatch.setattr(parity, "DESCRIBED_PICTURES", 6)


def plant_another_pool(monkeypatch):
    """Pools by the largest, not by the mean."""

    def largest(whitened):
        row = whitened.max(axis=0)
        return (row / np.linalg.norm(row)).astype(np.float32)

    monkeypatch.setattr(describing, "pool", largest)


def plant_another_order(monkeypatch):
    """Reads columns as rows and rows as columns: places of the transposed picture."""
    corners = Retina.corners
    monkeypatch.setattr(
        Retina, "corners", lambda self, image, pixels: corners(self, image, pixels)[:, ::-1]
    )
    monkeypatch.setattr(  # the learner's retina itself stays right
        Retina, "__call__", lambda self, image, pixels: honest(self, image, pixels, corners)
    )


def honest(retina, image, pixels, corners):
    side = retina.config.window_px
    framed = np.pad(image, ((side, side), (side, side), (0, 0)), "edge")
    cut = [framed[y : y + side, x : x + side] for x, y in corners(retina, image, pixels) + side]
    return retina.features_of_windows(np.array(cut))


def plant_no_mean(monkeypatch):
    """Whitens without centring."""
    monkeypatch.setattr(
        exporting, "_whitened", lambda learner, z: exporting.linear(z, learner.whitening()[0])
    )


def plant_another_light(monkeypatch):
    """Brings the mean of channels to another level."""
    monkeypatch.setattr(exporting, "EVEN_LEVEL", 113.0)


PLANTS = [plant_another_pool, plant_another_order, plant_no_mean, plant_another_light]


@pytest.mark.parametrize("plant", PLANTS)
def test_a_descriptor_that_disagrees_is_not_written(
    learner, tmp_path, monkeypatch, few_pictures, plant
):
    path = tmp_path / "d.onnx"
    export(learner, RETINA, path, form="descriptor")
    before = path.read_bytes()
    plant(monkeypatch)
    says = "not written: under onnxruntime its description is off by up to .* over 6 pictures"
    with pytest.raises(ExportError, match=says) as caught:
        export(learner, RETINA, path, form="descriptor")
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before and [each.name for each in tmp_path.iterdir()] == ["d.onnx"]


def test_both_readers_are_asked(learner, tmp_path, monkeypatch, few_pictures):
    report = export(learner, RETINA, tmp_path / "d.onnx", form="descriptor")
    told = {check.reader: check for check in report.checks}
    assert told.keys() == {"onnxruntime", "cv2.dnn"}
    for check in told.values():
        assert check.not_checked or (
            check.steps == 6 and 0 < check.differences["description"] < 1e-5
        )
    assert "random pictures: within" in report.in_words() and "patches" not in report.in_words()

    def refuse(content):
        raise cv2.error("no such layer")

    monkeypatch.setattr(cv2.dnn, "readNetFromONNX", refuse)
    report = export(learner, RETINA, tmp_path / "d.onnx", form="descriptor")
    assert "cv2.dnn on random pictures: not checked: OpenCV" in report.in_words()

    monkeypatch.setattr(
        parity,
        "opencv_reader",
        lambda model: lambda inputs: {"description": np.full((1, N_Z), 1.0)},
    )
    with pytest.raises(ExportError, match="under cv2.dnn its description is off"):
        export(learner, RETINA, tmp_path / "e.onnx", form="descriptor")


def test_the_graph_is_what_deployers_are_told(files):
    model = onnx.load(files / "descriptor")
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version == 8
    (given,), (made,) = model.graph.input, model.graph.output
    shape = [d.dim_param or d.dim_value for d in given.type.tensor_type.shape.dim]
    assert (given.name, shape) == ("picture", ["N", *SHAPE, 3])
    assert given.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    readers = [node.op_type for node in model.graph.node if "picture" in node.input]
    assert readers == ["Cast"]  # TensorRT takes uint8 as an input, and nowhere after its cast
    shape = [d.dim_param or d.dim_value for d in made.type.tensor_type.shape.dim]
    assert (made.name, shape) == ("description", ["N", N_Z])
    label = FrozenEncoder(files / "descriptor").metadata
    assert (label["form"], label["version"]) == ("descriptor", 3)
    assert label["inputs"]["picture"]["dtype"] == "uint8"
    assert label["outputs"].keys() == {"description"}
