"""What every engine must do, whatever it computes on.

Each of CHECKS takes `make(config, streams) -> Engine` and a configuration, and asserts. `agrees`
compares two engines that round differently. Tiny sizes are enough: `network` has them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edge_rjepa.errors import DeviceError
from edge_rjepa.learner.config import RJepaConfig
from edge_rjepa.learner.engines import Engine, Learned, Step, require_gpu
from edge_rjepa.learner.kernels.arrays import Adam
from edge_rjepa.learner.rjepa import RJepa

Make = Callable[[RJepaConfig, int], Engine]
TINY = 1e-3  # what is smaller than that, say where terms cancel, is compared as if it was not
SIZES = (4, 1, 5, 2)  # of blocks; one of 5 is as long as a block may be


def no_gpu() -> str | None:
    """Why no GPU can be used here, or None."""
    try:
        require_gpu()
    except DeviceError as error:
        return str(error)
    return None


DEVICES = ("cpu",) if no_gpu() else ("cpu", "cuda")


def network(cell: str, **changes) -> RJepaConfig:
    """Sizes that are no multiple of anything; factors that follow every third block or so."""
    sizes = {
        "n_features": 5,
        "n_efference": 2,
        "n_embedding": 6,
        "n_hidden": 7,
        "n_predictor": 9,
        "n_gain": 3,
        "n_encoder_hidden": 4,
        "max_block": 5,
        "learning_rate": 1e-2,
        "update_every": 1,
        "statistics_fixations": 80.0,
        "encoder_rate": 0.5,
    }
    return RJepaConfig(**{**sizes, "cell": cell, **changes})


def blocks_of(config: RJepaConfig, seed: int, sizes=SIZES) -> list[tuple[np.ndarray, np.ndarray]]:
    """Random blocks (features, efference)."""
    rng = np.random.default_rng(seed)
    widths = config.n_features, config.n_efference
    return [
        tuple(rng.normal(size=(K, width)).astype(config.dtype) for width in widths) for K in sizes
    ]


def learner_on(engine: Engine, config: RJepaConfig, seed: int) -> RJepa:
    """A learner on an engine of one stream, all its weights random: V_3 = 0 hides half of it."""
    learner, rng = RJepa(config, engine=engine), np.random.default_rng(seed)
    shapes = {name: array.shape for name, array in learner.parameters().items()}
    learner.set_parameters({name: 0.5 * rng.normal(size=shapes[name]) for name in shapes})
    return learner


def taught(make: Make, config: RJepaConfig, seed: int = 1) -> RJepa:
    """A learner on an engine of its own with a past, and with statistics that have moved since they
    were factored; and with a gradient that waits for its step where `update_every` lets it wait.
    """
    learner = learner_on(make(config, 1), config, seed)
    for block in blocks_of(config, seed):
        learner.learn_block(*block)
    learner.engine.set({"statistics.fixations": np.array([1000])})  # no longer plain averages
    for block in blocks_of(config, seed + 100):
        learner.learn_block(*block)
    assert learner.tensors()["statistics.moved"] > 0
    return learner


def everything(engine: Engine, i: int = 0) -> dict[str, np.ndarray]:
    """Copies of what `arrays` gives, without what is above the factors' diagonals."""
    return {
        name: np.tril(array) if ".factor_" in name else array.copy()
        for name, array in engine.arrays(i).items()
    }


def assert_same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert list(one) == list(other)
    for name in one:
        assert one[name].dtype == other[name].dtype and one[name].shape == other[name].shape, name
        assert one[name].tobytes() == other[name].tobytes(), name


def assert_same_report(one, other) -> None:
    assert (one.loss, one.information) == (other.loss, other.information)
    assert one.surprise.tobytes() == other.surprise.tobytes()


# ------------------------------------------------------------------------------------------------


def streams_are_as_if_alone(make: Make, config: RJepaConfig) -> None:
    """Different weights, rates, steps, resets and looks, one of each stream: to the bit."""
    engine = make(config, 3)
    assert engine.streams == 3
    together = [learner_on(engine.slot(i), config, i) for i in range(3)]
    alone = [learner_on(make(config, 1), config, i) for i in range(3)]
    streams = [blocks_of(config, 10 + i) for i in range(3)]
    for learner in (together[2], alone[2]):  # its steps fall on other blocks
        learner.learning_rate = 3e-3
        learner.learn_block(*streams[0][0])
    for turn, blocks in enumerate(zip(*streams, strict=True)):
        if turn == 1:
            together[1].reset()
            alone[1].reset()
        if turn == 2:
            seen = engine.see([x for x, _ in blocks], [a for _, a in blocks], predict=True)
            for learner, block, one in zip(alone, blocks, seen, strict=True):
                for found, true in zip(one, learner.predict(*block), strict=True):
                    assert found.tobytes() == true.tobytes()
        steps = [
            learner._next_step(*learner._check_block(*block))
            for learner, block in zip(together, blocks, strict=True)
        ]
        for learner, other, block, learned in zip(
            together, alone, blocks, engine.learn(steps), strict=True
        ):
            assert_same_report(learner._report(learned), other.learn_block(*block))
    for i in range(3):
        assert_same(everything(engine, i), everything(alone[i].engine))
        assert_same(everything(engine, i), everything(engine.slot(i)))
        assert engine.information(i) == alone[i].information


def a_run_again_is_the_same(make: Make, config: RJepaConfig) -> None:
    first, second = taught(make, config), taught(make, config)
    assert_same(everything(first.engine), everything(second.engine))
    assert_same(first.gradient_sums(), second.gradient_sums())


def a_new_one_is_empty_and_described(make: Make, config: RJepaConfig) -> None:
    engine = make(config, 2)
    found = engine.arrays(1)
    n_z, n_h, n_u = config.n_embedding, config.n_hidden, config.n_memory_input + 1
    learner = RJepa(config, engine=engine.slot(0))
    n = sum(array.size for array in learner.parameters().values())
    m, G, L = learner.cell.n_state, learner.cell.n_projections, learner.cell.n_parameters
    shapes = {
        "weights": (n,), "adam.m2": (n,), "gradient": (n,),
        "traces.E": (m, G, n_h, n_u), "traces.e_lam": (L, m, n_h),
        "past.x": (config.n_features + 1,), "past.hidden": (config.n_encoder_hidden + 1,),
        "past.z": (n_z,), "past.y": (m, n_h),
        "statistics.fixations": (1,), "statistics.mu": (n_z,),
        "statistics.S_z": (n_z, n_z), "statistics.S_e": (n_z, n_z),
        "statistics.factor_z": (n_z, n_z), "statistics.factor_e": (n_z, n_z),
        "statistics.moved": (1,),
    }  # fmt: skip
    assert {name: array.shape for name, array in found.items()} == shapes
    assert list(found) == list(shapes)
    other = {"statistics.fixations": "int64", "statistics.moved": "float64"}
    for name, array in found.items():
        assert array.dtype == other.get(name, config.dtype), name
        if ".factor_" in name:
            expected = np.sqrt(config.noise_floor) * np.eye(n_z)
            np.testing.assert_allclose(np.tril(array), expected, rtol=1e-6)
        else:
            assert not array.any(), name
    assert engine.information(1) == 0.0
    assert engine.device in ("cpu", "cuda") and engine.description and engine.nbytes > 0


def what_is_set_is_all_that_matters(make: Make, config: RJepaConfig) -> None:
    """An engine with another past that is set to this one's arrays goes on as this one does."""
    learner, other = taught(make, config, seed=1), taught(make, config, seed=2)
    other.learn_block(*blocks_of(config, 4, (1,))[0])
    other._take_over(learner)
    assert_same(everything(other.engine), everything(learner.engine))
    assert other.information == learner.information
    for block in blocks_of(config, 3):
        assert_same_report(other.learn_block(*block), learner.learn_block(*block))
    assert_same(everything(other.engine), everything(learner.engine))


def what_is_not_set_stays(make: Make, config: RJepaConfig) -> None:
    engine = taught(make, config).engine
    before = everything(engine)
    past = np.full_like(before["past.y"], 0.25)
    engine.set({"past.y": past})
    assert_same(everything(engine), {**before, "past.y": past})
    assert_same(engine.arrays(names=("past.y",)), {"past.y": past})
    after = everything(engine)
    for name in ("weights", "adam.m2", "traces.E", "past.x"):
        *others, last = before[name].shape
        try:
            engine.set({name: np.ones((*others, last + 1))})
        except ValueError:
            assert_same(everything(engine), after)
        else:
            raise AssertionError(f"{name} was set from rows that are too long")


def seeing_moves_the_state_alone(make: Make, config: RJepaConfig) -> None:
    learner, other = taught(make, config), taught(make, config)
    before, (block, *_) = everything(learner.engine), blocks_of(config, 4)
    (seen,) = learner.engine.see([block[0]], [block[1]], predict=True)
    (other_seen,) = other.engine.see([block[0]], [block[1]], predict=False)
    assert other_seen.z_hat is None
    assert (seen.z.tobytes(), seen.h.tobytes()) == (
        other_seen.z.tobytes(),
        other_seen.h.tobytes(),
    )
    after = everything(learner.engine)
    assert_same(after, everything(other.engine))
    moved = {name for name in after if after[name].tobytes() != before[name].tobytes()}
    hidden = {"past.hidden"} if config.n_encoder_hidden else set()
    assert moved == {"past.x", "past.z", "past.y", "traces.E", "traces.e_lam"} | hidden
    if hidden:
        W_x, x = learner.parameters()["W_x"], after["past.x"]
        np.testing.assert_allclose(after["past.hidden"][:-1], np.tanh(W_x @ x), atol=1e-5)
    assert after["past.hidden"][-1] == after["past.x"][-1] == 1
    assert not after["traces.E"].any() and not after["traces.e_lam"].any()
    assert after["past.z"].tobytes() == seen.z[-1].tobytes()
    reads = list(learner.cell.reads)
    assert after["past.y"][reads].tobytes() == seen.h[-1].tobytes()


def many_blocks_of_a_length_are_each_new(make: Make, config: RJepaConfig) -> None:
    """Seen and learned, beside a copy that meets its first: what replays must not repeat itself."""
    learner = taught(make, config)
    for block in blocks_of(config, 5, (2,) * 4):
        first = learner.copy()
        assert_same(first.predict(*block)._asdict(), learner.predict(*block)._asdict())
        first = learner.copy()
        assert_same_report(first.learn_block(*block), learner.learn_block(*block))
        assert_same(everything(first.engine), everything(learner.engine))


def a_reset_forgets_the_past_alone(make: Make, config: RJepaConfig) -> None:
    learner = taught(make, config)
    before = everything(learner.engine)
    learner.engine.reset()
    after = everything(learner.engine)
    for name, array in after.items():
        forgotten = name.startswith(("past.", "traces."))
        assert before[name].any() or name == "gradient", name
        if forgotten:
            assert not array.any(), name
        else:
            assert array.tobytes() == before[name].tobytes(), name


def gradients_gather_until_a_step(make: Make, config: RJepaConfig) -> None:
    """Two blocks gathered and a third stepped with, beside an engine that gathers all three."""
    engine, other = (learner_on(make(config, 1), config, 1).engine for _ in range(2))
    number = np.dtype(config.dtype).type
    adam = Adam(*map(number, (1e-2, 1e-3, 1e3, 1e-8)))
    still, (*blocks, last) = everything(engine), blocks_of(config, 5, (4, 1, 5))
    for each in (engine, other):
        for block in blocks:
            each.learn([Step(*block, adam, adam, False)])
    waiting = everything(engine)
    assert waiting["gradient"].any()
    for name in ("weights", "adam.m2"):
        assert waiting[name].tobytes() == still[name].tobytes(), name
    other.learn([Step(*last, adam, adam, False)])
    engine.learn([Step(*last, adam, adam, True)])
    gathered, stepped = everything(other), everything(engine)
    assert not stepped["gradient"].any()
    np.testing.assert_allclose(stepped["adam.m2"], 1e-3 * gathered["gradient"] ** 2, rtol=1e-4)
    assert (stepped["weights"] != still["weights"]).mean() > 0.5
    engine.learn([Step(*last, adam, adam, True)])
    again = everything(engine)
    assert not again["gradient"].any()
    assert (again["weights"] != stepped["weights"]).mean() > 0.5


def what_is_handed_out_is_the_caller_s(make: Make, config: RJepaConfig) -> None:
    learner, (block, another, *_) = taught(make, config), blocks_of(config, 6, (5, 5))
    (learned,) = learner.engine.learn([learner._next_step(*block)])
    (seen,) = learner.engine.see([block[0]], [block[1]], predict=True)
    kept = [learned.surprise.copy(), *(array.copy() for array in seen)]
    learner.engine.learn([learner._next_step(*another)])
    learner.engine.see([another[0]], [another[1]], predict=True)
    for array, copy in zip((learned.surprise, *seen), kept, strict=True):
        assert array.tobytes() == copy.tobytes()


def divergence_is_no_exception(make: Make, config: RJepaConfig) -> None:
    learner = taught(make, config)
    learner.engine.set({"weights": np.full_like(learner.tensors()["weights"], np.inf)})
    with np.errstate(all="ignore"):
        for block in blocks_of(config, 7):
            (learned,) = learner.engine.learn([learner._next_step(*block)])
    assert isinstance(learned, Learned) and np.isnan(learned.information)
    assert np.isnan(learner.engine.information())
    good = taught(make, config)
    learner._take_over(good)
    for block in blocks_of(config, 8):
        for each in (learner, good):
            each.learn_block(*block)
    assert learner.digest == good.digest  # nothing of the divergence is left


def fresh_ones_and_slots(make: Make, config: RJepaConfig) -> None:
    engine = make(config, 2)
    slot, bytes_before = engine.slot(1), engine.nbytes
    for block in blocks_of(config, 8):
        learner_on(slot, config, 1).learn_block(*block)
    assert_same(everything(engine, 1), everything(slot))
    assert not engine.arrays(0)["weights"].any()
    fresh = slot.fresh()
    assert (fresh.streams, fresh.device) == (1, engine.device)
    assert not fresh.arrays()["weights"].any()
    assert engine.nbytes == bytes_before
    fresh.close()
    fresh.close()
    assert engine.arrays(1)["weights"].any()


CHECKS = (
    streams_are_as_if_alone,
    a_run_again_is_the_same,
    a_new_one_is_empty_and_described,
    what_is_set_is_all_that_matters,
    what_is_not_set_stays,
    seeing_moves_the_state_alone,
    many_blocks_of_a_length_are_each_new,
    a_reset_forgets_the_past_alone,
    gradients_gather_until_a_step,
    what_is_handed_out_is_the_caller_s,
    divergence_is_no_exception,
    fresh_ones_and_slots,
)


def agrees(
    make: Make, true_make: Make, config: RJepaConfig, true_config: RJepaConfig, tolerance: float
) -> None:
    """Block by block from the same state, no array is further off than `tolerance` of its norm.

    Steps come from gathered gradients, or Adam would make a whole step of a gradient's last bit.
    """
    learner, true = taught(make, config), taught(true_make, true_config)
    rng = np.random.default_rng(9)
    for block in blocks_of(config, 9):
        true._take_over(learner)
        moments = rng.normal(size=true.tensors()["weights"].size)
        for each in (learner, true):
            each.engine.set({"adam.m2": moments**2})
        pairs = [
            *zip(learner.gradients(*block).items(), true.gradients(*block).items(), strict=True),
            *zip(
                learner.copy().predict(*block)._asdict().items(),
                true.copy().predict(*block)._asdict().items(),
                strict=True,
            ),
        ]
        report, true_report = learner.learn_block(*block), true.learn_block(*block)
        pairs += zip(
            everything(learner.engine).items(), everything(true.engine).items(), strict=True
        )
        pairs.append((("surprise", report.surprise), ("surprise", true_report.surprise)))
        for (name, found), (_, expected) in pairs:
            error = np.linalg.norm(np.subtract(found, expected, dtype=np.float64))
            assert error <= tolerance * max(np.linalg.norm(expected), TINY), (name, error)
        scale = abs(true_report.loss) + float(true_report.surprise.sum())
        assert abs(report.loss - true_report.loss) <= tolerance * scale
        assert abs(report.information - true_report.information) <= tolerance * config.n_embedding
