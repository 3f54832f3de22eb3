"""RFP is the exact gradient: against the complex step, however a stream is cut, and not by luck."""

import pickle

import numpy as np
import pytest

from edge_rjepa import RJepa, RJepaConfig
from edge_rjepa.errors import ConfigError
from edge_rjepa.learner import check_gradients as check
from edge_rjepa.learner.cells import CELLS, find
from edge_rjepa.learner.engines.cpu import CpuEngine, Stream
from edge_rjepa.learner.network import WEIGHTS
from edge_rjepa.learner.reference import NaiveModel

every_cell = pytest.mark.parametrize("cell", list(CELLS))
every_input = pytest.mark.parametrize("memory_input", check.MEMORY_INPUTS)
every_encoder = pytest.mark.parametrize("n_encoder_hidden", [0, 8], ids=["shallow", "deep"])
ARRAYS = 8 + 9  # without a hidden layer of the encoder, and with one


def config_of(cell, memory_input, n_encoder_hidden, dtype="float64"):
    return RJepaConfig(
        **check.NETWORK, cell=cell, memory_input=memory_input, n_encoder_hidden=n_encoder_hidden,
        dtype=dtype,
    )  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def reference_once():
    """What the reference finds of a network and its blocks is found once in this module."""
    found, find = {}, NaiveModel.gradients_by_block

    def found_before(model, blocks):
        key = pickle.dumps((vars(model), blocks))
        if key not in found:
            found[key] = find(model, blocks)
        return found[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NaiveModel, "gradients_by_block", found_before)
        yield


@pytest.mark.slow
@every_cell
def test_gradients_are_exact(cell):
    rows = check.check_gradients([cell])
    assert len(rows) == 2 * 2 * ARRAYS
    assert len({row[:5] for row in rows}) == len(rows)
    assert {row.n_encoder_hidden for row in rows if row.parameter == "W_x"} == {8}
    for row in rows:
        assert row.ok and row.error <= {"float64": 1e-10, "float32": 1e-4}[row.dtype], row
        assert row.error > 0.0, "exactly alike to the last bit: not computed independently"


def test_streams_are_what_the_claim_is_about():
    assert [set(sizes) for sizes in check.CUTS[:3]] == [{1}, {7}, {16}]
    assert len(set(check.CUTS[3])) > 5
    for sizes in check.CUTS:
        blocks = check._stream(np.random.default_rng(0), sizes)
        assert sum(len(features) for features, _, _ in blocks) >= 64
        resets = [i for i, (_, _, reset_before) in enumerate(blocks) if reset_before]
        assert len(resets) == 1 and 0 < resets[0] < len(blocks) - 1


# ------------------------------------------------------------------------------------------------
# Negative controls: without its parts, RFP misses, in the arrays that the part is for


class NoTransport(Stream):
    """Traces with J = 0: each remembers its own fixation alone."""

    def assign_credit(self, ws):
        ws.J[:] = 0
        super().assign_credit(ws)


class CutAtTheBorder(Stream):
    """Truncated to the block: no trace comes in."""

    def learn(self, step):
        self._forget_traces()
        return super().learn(step)


class NoFirstDelta(Stream):
    """The block's first error does not reach the state that it was predicted from."""

    def assign_credit(self, ws):
        ws.delta[0] = 0
        super().assign_credit(ws)


class NoShareBeforeTheBlock(Stream):
    """The block's first error does not reach the hidden layer of the fixation before it."""

    def learn(self, step):
        _, hidden, _, _ = self.rows_before()
        hidden[:] = 0
        return super().learn(step)


@pytest.mark.slow
def test_a_hidden_layer_s_share_before_the_block_is_not_small():
    def learner(config):
        return RJepa(config, engine=CpuEngine([NoShareBeforeTheBlock(config, find("leaky"))]))

    rows = check.check_gradients(
        ["leaky"], ["float64"], memory_inputs=["features"], encoders_hidden=[8], learner=learner
    )
    missed = {row.parameter for row in rows if not row.ok}
    assert missed == {"W_x", "W_z"}
    assert all(row.error > 1e-3 for row in rows if row.parameter in missed)


@pytest.mark.slow
@every_cell
@pytest.mark.parametrize("stream", [NoTransport, CutAtTheBorder, NoFirstDelta])
def test_negative_controls_miss(cell, stream):
    def learner(config):
        return RJepa(config, engine=CpuEngine([stream(config, find(cell))]))

    rows = check.check_gradients([cell], ["float64"], memory_inputs=["embedding"], learner=learner)
    assert len(rows) == ARRAYS
    for row in rows:
        if row.parameter in ("W", "lam"):
            assert not row.ok and row.error > 1e-3, row
        else:
            assert row.ok, row


# ------------------------------------------------------------------------------------------------
# The forward pass, and how the stream is cut


@pytest.mark.slow
@every_cell
@every_input
@every_encoder
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-11), ("float32", 1e-4)])
def test_forward_pass_and_losses_are_the_reference_s(
    cell, memory_input, n_encoder_hidden, dtype, tolerance
):
    rng = np.random.default_rng(1)
    config = config_of(cell, memory_input, n_encoder_hidden, dtype)
    weights = check._weights(rng, config)
    blocks = check._stream(rng, check.CUTS[3])
    learner = check._with(weights, RJepa(config))
    reference = NaiveModel(
        weights, cell, memory_input, config.noise_floor, config.statistics_fixations
    )
    close = {"rtol": tolerance, "atol": tolerance}
    for (features, efference, reset_before), true in zip(
        blocks, reference.run(blocks), strict=True
    ):
        if reset_before:
            learner.reset()
        seen = learner.copy().predict(features, efference)
        report = learner.learn_block(features, efference)
        np.testing.assert_allclose(seen.z, true.z, **close)
        np.testing.assert_allclose(seen.z_hat, true.z_hat, **close)
        np.testing.assert_allclose(seen.h, true.h, **close)
        np.testing.assert_allclose(report.surprise, true.surprise, **close)
        np.testing.assert_allclose(report.loss * len(features), true.loss, **close)
        np.testing.assert_allclose(report.information, true.information, **close)


class StillStatistics(Stream):
    """Its objective stands still, so that nothing but RFP can depend on the cuts."""

    def __init__(self, config, cell):
        super().__init__(config, cell)
        self.statistics.mu[:] = 0.1
        self.statistics.S_z[:] = 0.3 * np.eye(5) + 0.1
        self.statistics.S_e[:] = 0.2 * np.eye(5)
        self.statistics.factorise()
        self.statistics.observe = lambda centred, e: None


@every_cell
@every_input
@every_encoder
def test_how_the_stream_is_cut_does_not_matter(cell, memory_input, n_encoder_hidden):
    rng = np.random.default_rng(2)
    config = config_of(cell, memory_input, n_encoder_hidden)
    weights = check._weights(rng, config)
    features, efference = rng.normal(size=(64, 6)), rng.normal(size=(64, 2))
    results = []
    for sizes in ((1,) * 64, (7,) * 9 + (1,), (16,) * 4, (64,), (5, 1, 16, 30, 2, 10)):
        still = StillStatistics(config, find(cell))
        learner = check._with(weights, RJepa(config, engine=CpuEngine([still])))
        losses = []
        for start, K in zip(np.cumsum((0, *sizes)), sizes, strict=False):
            rows = slice(start, start + K)
            losses.append(K * learner.learn_block(features[rows], efference[rows]).loss)
        results.append(
            {
                **learner.gradient_sums(),
                **still.traces._asdict(),
                "loss": sum(losses),
                "state": learner.state,
            }
        )
    first, *others = results
    for other in others:
        for name, array in first.items():
            scale = np.abs(array).max(initial=0.0)
            np.testing.assert_allclose(other[name], array, rtol=0, atol=1e-12 * scale)


# ------------------------------------------------------------------------------------------------
# The check itself


def test_what_cannot_be_checked_is_refused():
    with pytest.raises(ConfigError, match="dense recurrent matrix"):
        check.check_gradients(["dense"])
    with pytest.raises(ConfigError, match="dtype = 'float16'"):
        check.check_gradients(["leaky"], dtypes=["float16"])


def test_progress_is_told(monkeypatch):
    monkeypatch.setattr(check, "_check_network", lambda *what: [])  # other tests do
    told = []
    check.check_gradients(["leaky"], dtypes=["float64"], progress=lambda *now: told.append(now))
    assert told == [
        (0, 4, "leaky, embedding, no hidden"),
        (1, 4, "leaky, embedding, 8 hidden"),
        (2, 4, "leaky, features, no hidden"),
        (3, 4, "leaky, features, 8 hidden"),
        (4, 4, "done"),
    ]


def rows_with(errors, dtype="float64", tolerance=1e-10, hidden=8):
    names = [name for name in WEIGHTS if hidden or name != "W_x"]
    return [
        check.Row("gated", "embedding", hidden, dtype, name, error, tolerance, error <= tolerance)
        for name, error in zip(names, errors, strict=True)
    ]


def test_table_marks_the_largest_error():
    text = check.table(rows_with([1e-16, 3e-15] + [1e-15] * 7) + rows_with([1e-15] * 8, hidden=0))
    title, header, deep, shallow, verdict = text.split("\n")
    assert title.startswith("float64") and header.split()[4:] == list(WEIGHTS)
    network = ["gated", "embedding"]
    assert deep.split() == [*network, "8", "hidden", "1.0e-16", "3.0e-15*"] + ["1.0e-15"] * 7
    assert shallow.split() == [*network, "no", "hidden", "1.0e-15", "-"] + ["1.0e-15"] * 7
    assert verdict == (
        "largest 3.0e-15 (gated, embedding, 8 hidden, W_x): all 17 arrays within 1e-10"
    )
    assert deep.index("1.0e-16") == shallow.index("1.0e-15")


@pytest.mark.parametrize(("miss", "shown"), [(1e-3, "1.0e-03!"), (float("nan"), "nan!")])
def test_table_marks_what_misses(miss, shown):
    text = check.table(rows_with([1e-16] * 8 + [miss]) + rows_with([1e-7] * 9, "float32", 1e-4))
    float64, float32 = text.split("\n\n")
    assert float64.count("!") == 1 and shown in float64
    assert "(gated, embedding, 8 hidden, V_3): 1 of 9 arrays miss 1e-10" in float64
    assert "!" not in float32 and "all 9 arrays within 1e-04" in float32
