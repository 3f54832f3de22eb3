"""One suite that every cell's learner must pass, and what learning itself must do."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from safetensors.numpy import save_file

from edge_rjepa import RJepa, RJepaConfig
from edge_rjepa.base import checkpoint
from edge_rjepa.errors import CheckpointError, ConfigError, InputError
from edge_rjepa.learner.cells import CELLS, find
from edge_rjepa.learner.engines.cpu import CpuEngine, Stream
from edge_rjepa.learner.kernels import products
from edge_rjepa.learner.rjepa import NETWORK_VERSION

SMALL = RJepaConfig(
    n_features=5,
    n_efference=2,
    n_embedding=6,
    n_hidden=7,
    n_predictor=8,
    n_gain=3,
    max_block=16,
    n_encoder_hidden=4,
    learning_rate=1e-2,
    update_every=3,
)
SIZES = (16, 1, 7, 3, 16, 2, 9, 1)  # of blocks: the steps of Adam fall on the third and the sixth

every_cell = pytest.mark.parametrize("cell", list(CELLS))
every_method = pytest.mark.parametrize("method", ["learn_block", "embed", "predict", "gradients"])


def small(cell="gated", seed=0, **changes) -> RJepa:
    return RJepa(replace(SMALL, cell=cell, **changes), seed)


def stream(seed=0, sizes=SIZES):
    """Blocks (features, efference), float32."""
    rng = np.random.default_rng(seed)
    return [
        (rng.normal(size=(K, 5)).astype(np.float32), rng.normal(size=(K, 2)).astype(np.float32))
        for K in sizes
    ]


def learn(learner, blocks):
    return [learner.learn_block(*block) for block in blocks]


def taught(cell="gated", **changes) -> RJepa:
    """Weights that moved, non-zero traces, and a gradient that waits for its step."""
    learner = small(cell, **changes)
    learn(learner, stream())
    return learner


def everything(learner) -> dict[str, bytes]:
    """Every bit that decides what the learner does next."""
    arrays = {name: array.tobytes() for name, array in learner.tensors().items()}
    return {**arrays, "learning_rate": learner.learning_rate, "information": learner.information}


def assert_same_reports(first, second):
    for one, other in zip(first, second, strict=True):
        assert (one.loss, one.information) == (other.loss, other.information)
        assert one.surprise.tobytes() == other.surprise.tobytes()


# ------------------------------------------------------------------------------------------------
# Every cell


@every_cell
def test_same_seed_and_stream_are_bit_identical(cell):
    first, second, other = small(cell), small(cell), small(cell, seed=1)
    assert everything(first) == everything(second)
    assert_same_reports(learn(first, stream()), learn(second, stream()))
    assert everything(first) == everything(second)
    learn(other, stream())
    assert everything(first) != everything(other)


@every_cell
@pytest.mark.parametrize("n_encoder_hidden", [0, 4])
@pytest.mark.parametrize("blocks_before", [2, 3], ids=["between steps", "after a step"])
def test_resumes_bit_for_bit(cell, n_encoder_hidden, blocks_before, tmp_path):
    learner, blocks = small(cell, n_encoder_hidden=n_encoder_hidden), stream()
    learn(learner, blocks[:blocks_before])
    learner.learning_rate = 2e-2
    learner.save(tmp_path / "learner", notes={"frame": 7})
    resumed, notes, problems = RJepa.load_newest(tmp_path / "learner")
    assert (notes, problems) == ({"frame": 7}, [])
    assert (resumed.config, resumed.learning_rate) == (learner.config, 2e-2)
    rest = blocks[blocks_before:]
    assert_same_reports(learn(resumed, rest), learn(learner, rest))
    assert everything(resumed) == everything(learner)


@every_cell
def test_copy_is_independent_and_goes_on_alike(cell):
    learner, more = taught(cell), stream(1)
    before = everything(learner)
    twin = learner.copy()
    assert everything(twin) == before
    twin.learning_rate = 0.5
    reports = learn(twin, more)
    assert everything(learner) == before
    learner.learning_rate = 0.5
    assert_same_reports(learn(learner, more), reports)
    assert everything(learner) == everything(twin)


@every_cell
def test_learn_one_is_a_block_of_one(cell):
    first, second = taught(cell), taught(cell)
    for features, efference in stream(1, sizes=(1,) * 4):
        one = first.learn_one(features[0], efference[0])
        assert one.surprise.shape == (1,)
        assert_same_reports([one], [second.learn_block(features, efference)])
    assert everything(first) == everything(second)


@every_cell
def test_seeing_moves_the_past_and_nothing_that_is_learned(cell):
    learner, twin, (block, *_) = taught(cell), taught(cell), stream(1)
    before = everything(learner)
    z, h = learner.embed(*block)
    seen = twin.predict(*block)
    assert z.tobytes() == seen.z.tobytes() and h.tobytes() == seen.h.tobytes()
    assert z.shape == seen.z_hat.shape == (16, 6)
    assert h.shape == (16, 7 * len(CELLS[cell].reads))
    assert everything(learner) == everything(twin)
    changed = {name for name, value in everything(learner).items() if value != before[name]}
    past = {"past.x", "past.hidden", "past.z", "past.y"}
    assert changed == past | {"traces.E", "traces.e_lam"}
    again = learner.predict(*block)
    assert again.z.tobytes() == z.tobytes()
    assert not np.allclose(again.h, h) and not np.allclose(again.z_hat, seen.z_hat)


@every_cell
def test_seeing_is_the_forward_pass_of_learning(cell):
    learner, blocks = taught(cell), stream(1)
    learner.learning_rate = 0.0
    for block in blocks:
        twin = learner.copy()
        report, seen = learner.learn_block(*block), twin.predict(*block)
        P_e = twin.error_precision  # as before the block: the twin only saw
        e = (seen.z - seen.z_hat).astype(np.float64)
        np.testing.assert_allclose(report.surprise, 0.5 * np.sum(e @ P_e * e, axis=1), rtol=1e-4)
        for past in ("past.x", "past.hidden", "past.z", "past.y"):
            assert everything(learner)[past] == everything(twin)[past]


@pytest.mark.parametrize("n_encoder_hidden", [0, 4])
def test_a_patch_encoder_embeds_as_the_learner_did_when_it_was_made(n_encoder_hidden):
    learner, blocks = taught("gated", n_encoder_hidden=n_encoder_hidden), stream(2)
    encode, features = learner.patch_encoder(), blocks[0][0]
    z, _ = learner.copy().embed(*blocks[0])
    learner.learn_block(*blocks[1])
    np.testing.assert_allclose(encode(features), z, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(encode(features[3]), z[3], rtol=1e-5, atol=1e-6)
    assert np.abs(learner.patch_encoder()(features) - z).max() > 1e-4


@every_cell
def test_how_seeing_is_cut_does_not_matter(cell):
    whole, pieces, (block, *_) = taught(cell), taught(cell), stream(1)
    seen = whole.predict(*block)
    parts = [pieces.predict(*(rows[i : i + 4] for rows in block)) for i in range(0, 16, 4)]
    for name, array in seen._asdict().items():
        joined = np.concatenate([getattr(part, name) for part in parts])
        np.testing.assert_allclose(joined, array, rtol=1e-5, atol=1e-6)


@every_cell
def test_reset_forgets_the_past_alone(cell):
    first, second, blocks = taught(cell), taught(cell), stream(2)
    before = everything(first)
    first.embed(*blocks[0])
    second.embed(*blocks[4])
    assert everything(first) != everything(second)
    for learner in (first, second):
        learner.reset()
    assert everything(first) == everything(second)
    kept = {name for name, value in everything(first).items() if value == before[name]}
    assert kept >= {"weights", "adam.m2", "gradient", "counts", "statistics.mu"}
    z, h = first.embed(*blocks[1])
    fresh = small(cell)
    fresh.set_parameters(first.parameters())
    z_fresh, h_fresh = fresh.embed(*blocks[1])
    assert (z.tobytes(), h.tobytes()) == (z_fresh.tobytes(), h_fresh.tobytes())


@every_cell
def test_gradients_change_nothing(cell):
    learner, twin, (block, *_) = taught(cell), taught(cell), stream(1)
    before = everything(learner)
    gradients = learner.gradients(*block)
    shapes = {name: array.shape for name, array in learner.parameters().items()}
    assert {name: array.shape for name, array in gradients.items()} == shapes
    assert all(array.any() for array in gradients.values())
    assert everything(learner) == before
    assert_same_reports([learner.learn_block(*block)], [twin.learn_block(*block)])
    assert everything(learner) == everything(twin)


@pytest.mark.slow
@every_cell
@pytest.mark.parametrize("n_encoder_hidden", [0, 16])
def test_information_of_a_ring_is_learned(cell, n_encoder_hidden):
    before, after, _ = on_a_ring(small_for_a_ring(cell, n_encoder_hidden=n_encoder_hidden))
    assert after > before + 1.0 and after > 1.0


# ------------------------------------------------------------------------------------------------
# Steps


def test_steps_are_those_of_adam_on_the_summed_gradient():
    config = replace(
        SMALL, dtype="float64", encoder_rate=0.25, anneal_fixations=30.0, anneal_floor=0.5
    )
    learner = RJepa(config)
    weights = learner.parameters()
    total, v = ({k: np.zeros_like(w) for k, w in weights.items()} for _ in range(2))
    steps = 0
    for i, block in enumerate(stream(sizes=(16, 1, 7) * 3 + (2,))):
        for name, gradient in learner.gradients(*block).items():
            total[name] += gradient
        rate = config.learning_rate * max(0.5, (1.0 + learner.fixations / 30.0) ** -0.5)
        learner.learn_block(*block)
        if i % 3 == 2:
            steps += 1
            for name, g in total.items():
                v[name] = 0.999 * v[name] + 0.001 * g**2
                step = g / (np.sqrt(v[name] / (1 - 0.999**steps)) + 1e-8)
                share = 0.25 if name in ("W_x", "W_z") else 1.0
                weights[name] = weights[name] - rate * share * step
                total[name] = np.zeros_like(g)
        for name, array in learner.parameters().items():
            np.testing.assert_allclose(array, weights[name], rtol=1e-9, atol=1e-12, err_msg=name)
    assert steps == 3


@every_cell
def test_a_hidden_layer_learns_through_its_past(cell):
    """Each of the encoder's matrices moves; what the hidden layer made of the last fixation is
    kept with it, and the gradient of the next block needs it."""
    learner, twin, (block, *_) = taught(cell), taught(cell), stream(1)
    before = small(cell).parameters()
    for name in ("W_x", "W_z"):
        moved = np.abs(learner.parameters()[name] - before[name])
        assert moved.shape == {"W_x": (4, 6), "W_z": (6, 5)}[name]
        assert (moved > 0).all(), name
    last = np.tanh(learner.parameters()["W_x"] @ learner.tensors()["past.x"])
    np.testing.assert_allclose(learner.tensors()["past.hidden"][:-1], last, atol=0.1)
    assert learner.tensors()["past.hidden"][-1] == 1
    twin.engine.set({"past.hidden": np.zeros(5, np.float32)})
    mine, other = learner.gradients(*block), twin.gradients(*block)
    changed = {name for name in mine if mine[name].tobytes() != other[name].tobytes()}
    assert changed == {"W_x", "W_z"}
    learner.reset()
    assert not learner.tensors()["past.hidden"].any()


def test_without_a_hidden_layer_there_is_nothing_of_it():
    learner = taught("gated", n_encoder_hidden=0)
    assert learner.parameters()["W_x"].shape == (0, 6)
    assert learner.parameters()["W_z"].shape == (6, 6)
    assert learner.tensors()["past.hidden"].tolist() == [1.0]
    assert learner.gradients(*stream(1)[0])["W_x"].shape == (0, 6)


def test_a_rate_of_zero_learns_nothing():
    learner = small()
    before = learner.parameters()
    learner.learning_rate = 0
    learn(learner, stream())
    assert learner.fixations == sum(SIZES)
    for name, array in learner.parameters().items():
        assert array.tobytes() == before[name].tobytes()


def test_what_is_handed_out_is_a_copy():
    learner, (block, *_) = taught(), stream(1)
    before = everything(learner)
    for array in (*learner.parameters().values(), learner.embedding_covariance):
        array[:] = np.nan
    assert everything(learner) == before
    report = learner.learn_block(*block)
    seen = learner.predict(*block)
    kept = [array.copy() for array in (report.surprise, *seen)]
    learn(learner, stream(2))
    for array, copy in zip((report.surprise, *seen), kept, strict=True):
        assert array.tobytes() == copy.tobytes()


def test_parameters_are_replaced_by_name_and_the_others_stay():
    learner = taught()
    before = everything(learner)
    wanted = learner.parameters()
    wanted["V_2"] = np.asfortranarray(wanted["V_2"] + 1.0, np.float64)
    learner.set_parameters({"V_2": wanted["V_2"]})
    for name, array in learner.parameters().items():
        assert array.tobytes() == wanted[name].astype(np.float32).tobytes(), name
    assert {k for k, v in everything(learner).items() if v != before[k]} == {"weights"}


@pytest.mark.parametrize("name", ["flat", "w", "V_2"])
def test_parameters_that_do_not_fit_are_refused(name):
    learner = taught()
    before = everything(learner)
    with pytest.raises(InputError, match=rf"parameter {name} \(3,\) does not fit: there are W \("):
        learner.set_parameters({"V_1": learner.parameters()["V_1"] + 1.0, name: np.zeros(3)})
    assert everything(learner) == before


def test_gradients_are_gathered_until_they_are_used():
    learner, (*blocks, last) = small(), stream(sizes=(4, 7, 2))
    assert not any(array.any() for array in learner.gradient_sums().values())
    total = {name: np.zeros_like(array) for name, array in learner.parameters().items()}
    for block in blocks:
        for name, gradient in learner.gradients(*block).items():
            total[name] += gradient
        learner.learn_block(*block)
    for name, array in learner.gradient_sums().items():
        np.testing.assert_allclose(array, total[name], rtol=1e-5, atol=1e-6, err_msg=name)
    learner.learn_block(*last)
    assert not any(array.any() for array in learner.gradient_sums().values())


@every_cell
@pytest.mark.parametrize("update_every", [1, 8, 17])
@pytest.mark.parametrize("max_block", [16, 64])
def test_when_blocks_are_taken_in_makes_no_difference(cell, update_every, max_block):
    """Whoever reads gradients, the past or covariances has what is kept taken in at once."""
    sizes = {"update_every": update_every, "max_block": max_block, "statistics_fixations": 1e4}
    undisturbed, read, seldom = (small(cell, **sizes) for _ in range(3))
    for i, block in enumerate(stream(sizes=SIZES * 4)):
        for learner in (undisturbed, read, seldom):
            if i == 9:
                learner.reset()
            if i == 14:
                learner.embed(*block)
            learner.learn_block(*block)
        read.gradient_sums()
        read.set_past(read.past())
        if i % 5 == 0:
            assert seldom.embedding_covariance.any()
    assert undisturbed.digest == read.digest == seldom.digest


def test_covariances_are_read_back_as_they_were_set():
    """Also where they are not symmetric to the bit, as of a GPU, and with blocks that wait."""
    learner, other = taught(), taught()
    learn(other, stream(1))
    tensors = {name: array.copy() for name, array in other.tensors().items()}
    tensors["statistics.S_z"][0, 1] *= 1 + 2e-7
    learner.set_learned({name: tensors[name] for name in ("statistics.S_z", "statistics.S_e")})
    for name in ("statistics.S_z", "statistics.S_e"):
        np.testing.assert_array_equal(learner.tensors()[name], tensors[name])
    learner.learn_block(*stream(2, sizes=(3,))[0])
    covariance = learner.embedding_covariance
    np.testing.assert_array_equal(covariance, covariance.T)


def test_warm_up_changes_nothing():
    learner = taught()
    before = everything(learner)
    learner.warm_up()
    assert everything(learner) == before


def test_warm_up_runs_what_an_old_learner_does_once_in_many_blocks(monkeypatch):
    """Its statistics hardly move: in a few blocks they are not renewed, and take nothing in."""
    learner, recurrence, ran = taught(update_every=16), products.recurrence, set()
    learner.set_learned({"statistics.fixations": np.array([10**6])})
    monkeypatch.setattr(products, "recurrence", lambda *kind: ran.add(kind) or recurrence(*kind))
    learner.warm_up()
    assert ran == {(0, True), (learner.cell.n_state, True), (1, False)}


def test_learning_after_seeing_takes_the_state_as_given():
    """The state came without traces: no gradient reaches what drove it."""
    learner, blocks = taught(), stream(1, sizes=(5, 1))
    learner.reset()
    learner.embed(*blocks[0])
    gradients = learner.gradients(*blocks[1])
    assert not gradients["W"].any() and not gradients["lam"].any()
    assert gradients["V_1"].any()


# ------------------------------------------------------------------------------------------------
# Refusals


def with_entry(array, value):
    array = array.copy()
    array[1, 1] = value
    return array


BAD_ARRAYS = {
    "narrow": lambda x: x[:, :1],
    "wide": lambda x: np.hstack([x, x]),
    "one fixation": lambda x: x[0],
    "three axes": lambda x: x[None],
    "number": lambda x: 1.0,
    "integers": lambda x: x.astype(int),
    "bytes": lambda x: x.astype(np.uint8),
    "truth": lambda x: x > 0,
    "complex": lambda x: x + 0j,
    "objects": lambda x: x.astype(object),
    "text": lambda x: x.astype(str),
    "nothing": lambda x: None,
    "ragged": lambda x: [[1.0], [1.0, 2.0]],
    "NaN": lambda x: with_entry(x, np.nan),
    "infinity": lambda x: with_entry(x, np.inf),
    "minus infinity": lambda x: with_entry(x, -np.inf),
    "infinite as float32": lambda x: with_entry(x.astype(np.float64), 1e300),
    "empty": lambda x: x[:0],
    "too long": lambda x: np.tile(x, (6, 1)),
    "other length": lambda x: x[:2],
}


@pytest.mark.slow
@every_method
@pytest.mark.parametrize("which", [0, 1], ids=["features", "efference"])
@pytest.mark.parametrize("spoil", BAD_ARRAYS.values(), ids=BAD_ARRAYS)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_bad_input_is_refused_and_changes_nothing(method, which, spoil):
    learner, twin = taught(), taught()
    block = list(stream(3, sizes=(3,))[0])
    block[which] = spoil(block[which])
    before = everything(learner)
    with pytest.raises(InputError) as caught:
        getattr(learner, method)(*block)
    assert "\n" not in str(caught.value)
    assert ("features", "efference")[which] in str(caught.value)
    assert everything(learner) == before
    good = stream(3, sizes=(4,))[0]
    assert_same_reports([learner.learn_block(*good)], [twin.learn_block(*good)])


def test_learn_one_refuses_a_block():
    learner, (block, *_) = taught(), stream(1)
    before = everything(learner)
    with pytest.raises(InputError, match="features has shape"):
        learner.learn_one(*block)
    assert everything(learner) == before


def test_any_float_and_any_layout_is_good_input():
    (features, efference), *_ = stream(1)
    features, efference = (np.round(array * 8) / 8 for array in (features, efference))
    expected = taught().learn_block(features, efference)
    for dtype in (np.float16, np.float64, np.longdouble, ">f4"):
        report = taught().learn_block(features.astype(dtype), efference.astype(dtype))
        assert_same_reports([report], [expected])
    for form in (np.asfortranarray, np.ndarray.tolist, lambda a: np.repeat(a, 2, axis=0)[::2]):
        assert_same_reports([taught().learn_block(form(features), form(efference))], [expected])


@pytest.mark.parametrize("rate", [-1e-3, np.nan, np.inf, "fast", None])
def test_bad_learning_rates(rate):
    learner = taught()
    with pytest.raises(ConfigError, match="learning_rate = .*must be a finite number"):
        learner.learning_rate = rate
    assert learner.learning_rate == SMALL.learning_rate
    with pytest.raises(ConfigError, match="learning_rate = .*must be a finite number"):
        small(learning_rate=rate)


def saved(path, tensors=None, **metadata):
    """A whole checkpoint of a learner but for the given changes."""
    taught().save(path)
    kept, known = checkpoint.load(path)
    metadata = {k: v for k, v in {**known, **metadata}.items() if v is not Ellipsis}
    checkpoint.save(path, {**kept, **(tensors or {})}, metadata)


def without(path, name):
    taught().save(path)
    kept, metadata = checkpoint.load(path)
    checkpoint.save(path, {k: v for k, v in kept.items() if k != name}, metadata)


def flipped(path):
    taught().save(path)
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


def of_newer_version(path, monkeypatch):
    monkeypatch.setattr(checkpoint, "VERSION", checkpoint.VERSION + 1)
    taught().save(path)
    monkeypatch.undo()


def of_another_network(path, version):
    """As a version of edge_rjepa with another network wrote it; ...: one that did not number it."""
    moments = {"adam.m1": np.zeros(3, np.float32)} if version is ... else {}
    saved(path, moments, network=version)


BAD_FILES = {
    "missing": lambda path, monkeypatch: None,
    "folder": lambda path, monkeypatch: path.mkdir(),
    "empty": lambda path, monkeypatch: path.write_bytes(b""),
    "text": lambda path, monkeypatch: path.write_text("learner\n" * 100),
    "flipped bit": lambda path, monkeypatch: flipped(path),
    "foreign": lambda path, monkeypatch: save_file({"weights": np.zeros(3)}, path),
    "newer": of_newer_version,
    "of another kind": lambda path, monkeypatch: saved(path, kind="encoder"),
    "of no kind": lambda path, monkeypatch: saved(path, kind=...),
    "no config": lambda path, monkeypatch: saved(path, config=...),
    "no rate": lambda path, monkeypatch: saved(path, learning_rate=...),
    "no notes": lambda path, monkeypatch: saved(path, notes=...),
    "bad rate": lambda path, monkeypatch: saved(path, learning_rate="fast"),
    "config is a list": lambda path, monkeypatch: saved(path, config=[1]),
    "unknown key": lambda path, monkeypatch: saved(path, config={**asdict(SMALL), "n_new": 1}),
    "unknown cell": lambda path, monkeypatch: saved(path, config={**asdict(SMALL), "cell": "x"}),
    "other sizes": lambda path, monkeypatch: saved(path, config={**asdict(SMALL), "n_hidden": 9}),
    "tensor missing": lambda path, monkeypatch: without(path, "traces.E"),
    "of an earlier network": lambda path, monkeypatch: of_another_network(path, ...),
    "of a later network": lambda path, monkeypatch: of_another_network(path, 99),
    "of a network without number": lambda path, monkeypatch: of_another_network(path, "two"),
    "other shape": lambda path, monkeypatch: saved(path, {"adam.m2": np.zeros(3, np.float32)}),
}


@pytest.mark.parametrize("spoil", BAD_FILES.values(), ids=BAD_FILES)
def test_bad_checkpoints_are_refused(spoil, tmp_path, monkeypatch):
    path = tmp_path / "learner.safetensors"
    spoil(path, monkeypatch)
    with pytest.raises(CheckpointError) as caught:
        RJepa.load(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("version", "says"),
    [
        (..., "earlier version of edge_rjepa, whose network had another optimiser and retina: "
         "learn anew, or keep that version"),
        (1, "earlier version of edge_rjepa"),
        (NETWORK_VERSION + 1, "later version of edge_rjepa: upgrade it"),
    ],
)  # fmt: skip
def test_a_checkpoint_of_another_network_says_what_to_do(tmp_path, version, says):
    """Before what the file has another number of tensors or other words for."""
    path = tmp_path / "learner.safetensors"
    of_another_network(path, version)
    tensors, metadata = checkpoint.load(path)
    metadata["config"]["a word of then"] = 1
    del tensors["past.hidden"]
    checkpoint.save(path, tensors, metadata)
    for load in (RJepa.load, RJepa.load_newest):
        with pytest.raises(CheckpointError) as caught:
            load(path)
        assert str(caught.value).startswith(f"{path} was learned by a")
        assert says in str(caught.value) and "\n" not in str(caught.value)


def test_what_cannot_be_saved_leaves_the_older_file(tmp_path):
    path, learner = tmp_path / "learner", taught()
    learner.save(path)
    with pytest.raises(CheckpointError, match="No such file or directory"):
        learner.save(tmp_path / "missing" / "learner")
    assert everything(RJepa.load(path)) == everything(learner)


def test_a_checkpoint_says_what_made_it(tmp_path):
    taught("rtu").save(tmp_path / "learner")
    _, metadata = checkpoint.load(tmp_path / "learner")
    assert json.loads(json.dumps(metadata))["config"] == asdict(replace(SMALL, cell="rtu"))
    assert metadata["network"] == NETWORK_VERSION


# ------------------------------------------------------------------------------------------------
# What is learned


class MeanSquaredError(Stream):
    """The same network, to lessen 1/2 e'e alone: nothing keeps its embedding up."""

    def objective(self, ws):
        super().objective(ws)
        ws.d_z[1:] = ws.e
        ws.d_zhat[:] = -ws.e
        return 0.5 * float(np.vdot(ws.e, ws.e))


def small_for_a_ring(cell="gated", seed=0, stream=Stream, n_encoder_hidden=0) -> RJepa:
    config = RJepaConfig(
        n_features=8,
        n_efference=2,
        n_embedding=12,
        n_hidden=12,
        n_predictor=24,
        n_gain=8,
        n_encoder_hidden=n_encoder_hidden,
        cell=cell,
        learning_rate=1e-2,
        anneal_fixations=1e9,
        update_every=1,
        noise_floor=1.0,
        statistics_fixations=500.0,
    )
    return RJepa(config, seed, engine=CpuEngine([stream(config, find(cell))]))


def on_a_ring(learner, predictable=True, fixations=12_000):
    """Two angles that turn as the efference copy says, among as much noise.

    Returns information (nats) of an early and of the last block, and the last std of z.
    """
    rng = np.random.default_rng(learner.tensors()["weights"][:1].view(np.uint32))
    turns = rng.normal(scale=0.8, size=(fixations, 2))
    angles = np.cumsum(turns, axis=0)
    signal = 1.4 * np.hstack([np.cos(angles), np.sin(angles)])
    if not predictable:
        rng.shuffle(signal)
    mixing = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    features = np.hstack([signal, rng.normal(size=(fixations, 4))]) @ mixing
    reports = [
        learner.learn_block(features[i : i + 12], turns[i : i + 12])
        for i in range(0, fixations, 12)
    ]
    std = np.sqrt(np.trace(learner.embedding_covariance) / 12)
    return reports[10].information, reports[-1].information, std


@pytest.mark.parametrize("seed", [0, 1])
def test_what_cannot_be_predicted_is_not_learned(seed):
    """The same features out of order. Each error is measured before the weights learn from it.

    Only information is bounded: where nothing can be predicted nothing keeps z from shrinking.
    """
    _, after, _ = on_a_ring(small_for_a_ring(seed=seed), predictable=False)
    assert -0.1 < after < 0.1  # of some 2 nats where they can be predicted


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_mean_squared_error_alone_collapses(seed):
    _, information, std = on_a_ring(small_for_a_ring(seed=seed))
    _, information_of_error, std_of_error = on_a_ring(
        small_for_a_ring(seed=seed, stream=MeanSquaredError)
    )
    assert information > 1.5 and std > 0.6
    assert information_of_error < 0.2 and std_of_error < std / 3
