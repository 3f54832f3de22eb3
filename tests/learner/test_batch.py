"""Several learners at once are, to the bit, what each would be alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_rjepa import RJepa, RJepaBatch
from edge_rjepa.errors import ConfigError, InputError
from edge_rjepa.learner.cells import CELLS
from tests.learner.engine_checks import (
    DEVICES,
    assert_same,
    assert_same_report,
    blocks_of,
    everything,
    network,
)

B = 3
FORMS = {
    "every block": {},
    "every third block": {"update_every": 3},
    "float64, features": {"dtype": "float64", "memory_input": "features"},
    "no hidden layer": {"n_encoder_hidden": 0},
}


every_device = pytest.mark.parametrize("device", DEVICES)


# What can happen to a batch: (what, length of the block or which learner, seed of the block).
whose = st.integers(0, B - 1)
happenings = st.lists(
    st.one_of(
        st.tuples(st.just("learn"), st.integers(1, 5), st.integers(0, 99)),
        st.tuples(st.sampled_from(["reset", "slow", "save", "embed", "alone"]), whose, whose),
        st.tuples(st.just("reset all"), whose, whose),
    ),
    max_size=12,
)


@pytest.mark.slow
@every_device
@pytest.mark.parametrize("cell", list(CELLS))
@pytest.mark.parametrize("form", FORMS)
def test_each_is_as_if_alone_whatever_happens(device, cell, form, tmp_path):
    config = network(cell, **FORMS[form])

    @settings(max_examples=15, deadline=None, derandomize=True)
    @given(happenings)
    def holds(happenings):
        batch = RJepaBatch(config, seeds=range(B), device=device)
        alone = [RJepa(config, seed, device) for seed in range(B)]
        for happening in [("learn", 4, 7), *happenings, ("learn", 5, 8)]:
            happens(happening, config, batch, alone, tmp_path / "learner")
        for one, other in zip(batch, alone, strict=True):
            assert one.digest == other.digest and one.fixations == other.fixations > 0
            assert one.information == other.information

    holds()


def happens(happening, config, batch, alone, path):
    """The same to the batch and to learners that are alone."""
    what, number, seed = happening
    if what == "learn":
        blocks = [blocks_of(config, [seed, i], (number,))[0] for i in range(B)]
        reports = batch.learn_blocks(*map(np.stack, zip(*blocks, strict=True)))
        for learner, block, report in zip(alone, blocks, reports, strict=True):
            assert_same_report(report, learner.learn_block(*block))
    elif what == "reset all":
        batch.reset()
        for learner in alone:
            learner.reset()
    else:
        results = [
            one_of(learner, what, config, path) for learner in (batch[number], alone[number])
        ]
        assert results[0] == results[1]


def one_of(learner, what, config, path):
    """Something happens to one learner; bytes of what it gives."""
    block = blocks_of(config, 3, (2,))[0]
    if what == "reset":
        learner.reset()
    elif what == "slow":
        learner.learning_rate = 0.5 * learner.learning_rate
    elif what == "save":
        learner.save(path)
        learner._take_over(RJepa.load(path))
    elif what == "embed":
        return [array.tobytes() for array in learner.embed(*block)]
    elif what == "alone":
        return learner.learn_block(*block).surprise.tobytes()


@every_device
def test_learners_that_were_alone_go_on_together(device):
    """Of different ages and rates, and with gradients that wait; what they were stays as it was."""
    config = network("gated", update_every=3)
    learners = [RJepa(config, seed) for seed in range(B)]
    for i, learner in enumerate(learners):
        learner.learning_rate = 1e-3 * (i + 1)
        for block in blocks_of(config, i, (5,) * (i + 1)):
            learner.learn_block(*block)
    before = [learner.digest for learner in learners]
    batch = RJepaBatch.of(learners, device)
    assert [learner.digest for learner in learners] == before == [each.digest for each in batch]
    alone = [learner.copy().to(device) for learner in learners]
    for _ in range(4):
        happens(("learn", 3, 5), config, batch, alone, None)
    assert [each.digest for each in batch] == [each.digest for each in alone] != before
    assert [learner.digest for learner in learners] == before


@every_device
def test_a_copy_leaves_the_batch(device):
    config = network("rtu")
    batch = RJepaBatch(config, seeds=(0, 1), device=device)
    copy = batch[1].copy()
    before = everything(batch.engine, 1)
    for block in blocks_of(config, 0):
        copy.learn_block(*block)
    assert_same(everything(batch.engine, 1), before)
    assert copy.digest != batch[1].digest
    assert len(batch) == 2 and batch.device == device
    assert batch.nbytes >= 2 * RJepa(config).nbytes


@every_device
def test_seeds_are_of_the_weights(device):
    config = network("gated")
    batch = RJepaBatch(config, seeds=(4, 0, 4), device=device)
    assert batch[0].digest == batch[2].digest == RJepa(config, 4, device).digest
    assert batch[1].digest == RJepa(config, 0, device).digest != batch[0].digest


GOOD = np.zeros((B, 4, 5)), np.zeros((B, 4, 2))
BAD = {
    "one block too few": ((GOOD[0][:2], GOOD[1]), "features of 2 learners, efference of 3"),
    "no block": (([], []), "this batch has 3"),
    "another width": ((np.zeros((B, 4, 6)), GOOD[1]), r"expected \(K, 5\)"),
    "too long": ((np.zeros((B, 9, 5)), np.zeros((B, 9, 2))), "max_block = 5"),
    "NaN in the last": ((np.array([[[0.0]], [[0.0]], [[np.nan]]]) + GOOD[0], GOOD[1]), "NaN"),
    "unequal lengths": (
        tuple([np.zeros((K, width)) for K in (1, 4, 4)] for width in (5, 2)),
        r"blocks of \[1, 4\] fixations",
    ),
}


@every_device
@pytest.mark.parametrize("bad", BAD)
def test_bad_blocks_are_refused_and_nobody_learns(device, bad):
    batch = RJepaBatch(network("leaky"), seeds=range(B), device=device)
    batch.learn_blocks(*GOOD)
    before = [learner.digest for learner in batch]
    (features, efference), reason = BAD[bad]
    with pytest.raises(InputError, match=reason) as caught:
        batch.learn_blocks(features, efference)
    assert "\n" not in str(caught.value)
    assert [learner.digest for learner in batch] == before


def test_a_batch_of_nobody_or_of_different_networks_is_refused():
    with pytest.raises(ConfigError, match="a seed for each"):
        RJepaBatch(network("leaky"), seeds=())
    with pytest.raises(ConfigError, match="a seed for each"):
        RJepaBatch.of([])
    with pytest.raises(ConfigError, match="different configurations"):
        RJepaBatch.of([RJepa(network("leaky")), RJepa(network("gated"))])
