"""RFP is the exact gradient: against the complex step, however a stream is cut, and not by luck."""

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


@pytest.mark.slow
@every_cell
def test_gradients_are_exact(cell):
    rows = check.check_gradients([cell])
    assert len(rows) == 2 * 2 * 8
    assert len({row[:4] for row in rows}) == len(rows)
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

    def update(self, ws, descent):
        ws.J[:] = 0
        super().update(ws, descent)


class CutAtTheBorder(Stream):
    """Truncated to the block: no trace comes in."""

    def update(self, ws, descent):
        for trace in self.traces:
            trace[:] = 0
        super().update(ws, descent)


class NoFirstDelta(Stream):
    """The block's first error does not reach the state that it was predicted from."""

    def update(self, ws, descent):
        ws.delta[0] = 0
        super().update(ws, descent)


@pytest.mark.slow
@every_cell
@pytest.mark.parametrize("stream", [NoTransport, CutAtTheBorder, NoFirstDelta])
def test_negative_controls_miss(cell, stream):
    def learner(config):
        return RJepa(config, engine=CpuEngine([stream(config, find(cell))]))

    rows = check.check_gradients([cell], ["float64"], memory_inputs=["embedding"], learner=learner)
    assert len(rows) == 8
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
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-11), ("float32", 1e-4)])
def test_forward_pass_and_losses_are_the_reference_s(cell, memory_input, dtype, tolerance):
    rng = np.random.default_rng(1)
    weights = check._weights(rng, cell, memory_input)
    blocks = check._stream(rng, check.CUTS[3])
    config = RJepaConfig(**check.NETWORK, cell=cell, memory_input=memory_input, dtype=dtype)
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
def test_how_the_stream_is_cut_does_not_matter(cell, memory_input):
    rng = np.random.default_rng(2)
    weights = check._weights(rng, cell, memory_input)
    features, efference = rng.normal(size=(64, 6)), rng.normal(size=(64, 2))
    config = RJepaConfig(**check.NETWORK, cell=cell, memory_input=memory_input, dtype="float64")
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
            scale = np.abs(array).max()
            np.testing.assert_allclose(other[name], array, rtol=0, atol=1e-12 * scale)


# ------------------------------------------------------------------------------------------------
# The check itself


def test_what_cannot_be_checked_is_refused():
    with pytest.raises(ConfigError, match="dense recurrent matrix"):
        check.check_gradients(["dense"])
    with pytest.raises(ConfigError, match="dtype = 'float16'"):
        check.check_gradients(["leaky"], dtypes=["float16"])


@pytest.mark.slow
def test_progress_is_told():
    told = []
    check.check_gradients(["leaky"], dtypes=["float64"], progress=lambda *now: told.append(now))
    assert told == [(0, 2, "leaky, embedding"), (1, 2, "leaky, features"), (2, 2, "done")]


def rows_with(errors, dtype="float64", tolerance=1e-10):
    return [
        check.Row("gated", "embedding", dtype, name, error, tolerance, error <= tolerance)
        for name, error in zip(WEIGHTS, errors, strict=True)
    ]


def test_table_marks_the_largest_error():
    text = check.table(rows_with([1e-16, 3e-15] + [1e-15] * 6))
    title, header, line, verdict = text.split("\n")
    assert title.startswith("float64") and header.split()[3:] == list(WEIGHTS)
    assert line.split() == ["gated", "embedding", "1.0e-16", "3.0e-15*"] + ["1.0e-15"] * 6
    assert verdict == "largest 3.0e-15 (gated, embedding, W_z): all 8 arrays within 1e-10"


@pytest.mark.parametrize(("miss", "shown"), [(1e-3, "1.0e-03!"), (float("nan"), "nan!")])
def test_table_marks_what_misses(miss, shown):
    text = check.table(rows_with([1e-16] * 7 + [miss]) + rows_with([1e-7] * 8, "float32", 1e-4))
    float64, float32 = text.split("\n\n")
    assert float64.count("!") == 1 and shown in float64
    assert "(gated, embedding, V_3): 1 of 8 arrays miss 1e-10" in float64
    assert "!" not in float32 and "all 8 arrays within 1e-04" in float32
