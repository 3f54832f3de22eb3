"""What benchmarks/fleet.py runs, and in which order; how noise is added; its table."""

import argparse
from functools import partial

import numpy as np
import pytest

from benchmarks import fleet
from benchmarks.places import Places
from edge_rjepa import RJepa, RJepaConfig
from edge_rjepa.learner.merge import lesson_of
from tests.benchmarks.test_places import coloured

SMALL = RJepaConfig(n_embedding=8, n_hidden=8, n_predictor=8, n_gain=4, max_block=16)
PLAN = fleet.Plan("a fleet", 2, 128, "bounded", 0.0, 0.0, 3, 320)


@pytest.fixture
def protocol(monkeypatch):
    """Of a few small pictures, and learners of a small network."""
    monkeypatch.setattr(fleet, "NETWORK", SMALL)
    return Places(pictures=coloured, few_labels=(), poolings=("z",))


def options(**changes):
    """As the command line gives them."""
    usual = {
        "robots": [2, 4], "every": (128,), "fixations": 320, "merge": ["bounded"], "noise": [0.0],
        "clip": 10.0, "seeds": 1, "fleets_only": False,
    }  # fmt: skip
    return argparse.Namespace(**{**usual, **changes})


def test_the_bounds_come_with_the_fleets_seed_by_seed():
    found = [(plan.seed, plan.who, plan.robots) for plan in fleet.plans(options(seeds=2))]
    first = [
        ("untrained", 1), ("one that sees all", 1), ("each alone", 2), ("a fleet", 2),
        ("each alone", 4), ("a fleet", 4),
    ]  # fmt: skip
    assert found == [(seed, *who) for seed in (0, 1) for who in first]
    assert {plan.who for plan in fleet.plans(options(fleets_only=True))} == {"a fleet"}


def test_a_row_is_of_its_plan_alone(protocol):
    plans = [PLAN._replace(seed=seed, noise=noise) for seed in (3, 4) for noise in (0.0, 0.1)]
    row = dict(PLAN._asdict(), z=1.0)
    assert [fleet.is_of(row, plan) for plan in plans] == [True, False, False, False]


def test_noise_has_a_table_of_its_own_with_the_same_fleet_without_it():
    plans = [
        PLAN, PLAN._replace(seed=4), PLAN._replace(noise=0.1, clip=1.0), PLAN._replace(every=64),
        PLAN._replace(who="each alone", every=0, merge=""),
    ]  # fmt: skip
    scores = dict.fromkeys(fleet.SCORES, 0.5)
    rows = [{**plan._asdict(), **scores, "rounds": 3, "megabytes": 1.0} for plan in plans]
    found = fleet.tables(rows)
    assert [len(found[name].splitlines()) - 2 for name in ("fleet", "noise")] == [3, 2]
    assert "0.500 (0.500 .. 0.500)" in found["fleet"]  # of two seeds
    assert "(" not in found["noise"]  # of the seed that there is noise for
    assert "| 0.1 " in found["noise"].splitlines()[3]


def test_robots_of_a_fleet_have_seen_as_much_as_those_alone(protocol):
    """And end with what none of them has alone."""
    assert PLAN.ends_of_rounds == [128, 256, 320]
    (together,) = fleet.fleet(protocol, PLAN)
    alone = fleet.alone(protocol, PLAN)
    assert [learner.fixations for learner in alone] == [320, 320]
    weights = [lesson_of(learner).weights for learner in (together, *alone)]
    apart = [np.linalg.norm(weights[0] - own) for own in weights[1:]]
    begun = np.linalg.norm(weights[0] - lesson_of(RJepa(SMALL, PLAN.seed)).weights)
    assert 0.0 < max(apart) < np.linalg.norm(weights[1] - weights[2])
    assert begun > 0.0


def test_each_robot_sees_its_own_places(protocol):
    shown = [fleet.before(protocol, PLAN.sight_of(number)) for number in (0, 1)]
    again = fleet.before(protocol, PLAN.sight_of(0))
    assert all(len(blocks) == 320 // 16 for blocks in shown)
    assert all(np.array_equal(a.features, b.features) for a, b in zip(shown[0], again, strict=True))
    assert not np.array_equal(shown[0][0].features, shown[1][0].features)


def test_noise_is_of_the_size_that_was_asked_for():
    begun = lesson_of(RJepa(SMALL, 0))
    moved = begun._replace(weights=begun.weights + np.float32(0.1))
    hand_out = partial(fleet.noisy, moved, begun)
    assert hand_out(PLAN, 0) is moved
    clipped = hand_out(PLAN._replace(noise=1e-9, clip=0.5), 0).weights - begun.weights
    assert np.linalg.norm(clipped) == pytest.approx(0.5, rel=1e-3)
    noise = hand_out(PLAN._replace(noise=2.0, clip=0.5), 0).weights - begun.weights
    assert noise.std() == pytest.approx(1.0, rel=0.1)
    other = hand_out(PLAN._replace(noise=2.0, clip=0.5), 1).weights - begun.weights
    assert abs(np.corrcoef(noise, other)[0, 1]) < 0.1  # robots draw their own
