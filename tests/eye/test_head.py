"""The simulated head: where it is at any moment, and that it resumes bit for bit."""

import json

import numpy as np
import pytest

from edge_rjepa.eye.head import SimulatedHead, wandered

LIMITS = (-0.5, 0.6), (-0.2, 0.3)


def head_at(t_s, speed_rad_per_s=2.0):
    head = SimulatedHead(LIMITS, speed_rad_per_s)
    head.advance(t_s)
    return head


def test_it_rests_in_the_middle_until_told():
    head = head_at(5.0)
    assert head.at(0.0) == head.at(5.0) == (0.0, 0.0, False)
    assert head.drain_events() == []


def test_it_rests_at_the_nearest_limit_where_the_middle_is_out_of_reach():
    assert SimulatedHead(((0.2, 0.4), (-0.3, -0.1))).at(0.0) == (0.2, -0.1, False)


@pytest.mark.parametrize(
    ("told", "commanded"),
    [((0.1, -0.1), (0.1, -0.1)), ((9.0, -9.0), (0.6, -0.2)), ((-0.7, 0.1), (-0.5, 0.1))],
)
def test_it_says_what_it_was_really_told_and_gets_there(told, commanded):
    head = head_at(1.0)
    assert head.move(*told) == commanded
    assert head.at(3.0) == (*commanded, False)


def test_it_turns_at_its_speed_each_axis_by_itself():
    head = head_at(1.0)
    head.move(0.4, -0.1)
    assert head.at(1.0) == (0.0, 0.0, False)  # what was taken when it was told shows no movement
    assert head.at(1.025) == pytest.approx((0.05, -0.05, True))
    assert head.at(1.1) == pytest.approx((0.2, -0.1, True))
    assert head.at(1.199).moving
    assert head.at(1.2001) == (0.4, -0.1, False)


def test_it_never_turns_faster_than_its_speed_nor_leaves_the_limits():
    rng = np.random.default_rng(0)
    head, before, t_s = SimulatedHead(LIMITS, 2.0), np.zeros(2), 0.0
    for _ in range(2000):
        step_s = rng.uniform(0.0, 0.05)
        t_s += step_s
        head.advance(t_s)
        here = np.array(head.at(t_s)[:2])
        assert (np.abs(here - before) <= 2.0 * step_s + 1e-12).all()
        assert (here >= np.array(LIMITS)[:, 0]).all() and (here <= np.array(LIMITS)[:, 1]).all()
        if rng.random() < 0.2:
            head.move(*rng.uniform(-1.0, 1.0, 2))
        before = here


def test_a_new_goal_under_way_is_taken_from_where_it_is():
    head = head_at(1.0)
    head.move(0.4, 0.0)
    head.advance(1.1)
    head.move(-0.4, 0.0)
    assert head.at(1.1).pan_rad == pytest.approx(0.2)
    assert head.at(1.2).pan_rad == pytest.approx(0.0)
    assert head.at(1.401) == (-0.4, 0.0, False)


def test_it_remembers_where_it_was():
    """Frames are older than the moves told since."""
    head = head_at(1.0)
    head.move(0.4, 0.0)
    then = [head.at(t_s) for t_s in (1.05, 1.15, 1.5)]
    for t_s in (2.0, 2.3):
        head.advance(t_s)
        head.move(-t_s / 10.0, 0.1)
    assert [head.at(t_s) for t_s in (1.05, 1.15, 1.5)] == then


def test_being_told_where_it_is_moves_nothing():
    head = head_at(1.0)
    head.move(0.0, 0.0)
    assert not head.at(1.1).moving


def test_resumes_bit_for_bit_from_json():
    head = head_at(1.0)
    head.move(0.31, 0.1)
    head.advance(1.07)
    head.move(-0.3, -0.1)
    resumed = SimulatedHead(LIMITS, 2.0)
    resumed.restore(json.loads(json.dumps(head.state())))
    for t_s in np.linspace(0.9, 1.6, 30):
        assert resumed.at(t_s) == head.at(t_s)
    for one in (head, resumed):
        one.advance(1.2)
        one.move(0.2, 0.2)
    assert resumed.at(1.25) == head.at(1.25)


def test_memory_is_fixed():
    head = SimulatedHead(LIMITS)
    for i in range(1000):
        head.advance(float(i))
        head.move(0.1 * (i % 3), 0.0)
    assert len(json.dumps(head.state())) < 2000
    assert head.at(999.5) == (0.0, 0.0, False)


def test_wandering_is_small_random_and_within_the_limits():
    rng, head, heads = np.random.default_rng(1), (0.0, 0.0), []
    for _ in range(4000):
        head = wandered(rng, head, LIMITS)
        heads.append(head)
    low, high = np.transpose(LIMITS)
    assert (heads >= low).all() and (heads <= high).all()
    steps = np.diff(heads, axis=0)
    assert np.degrees(steps.std(axis=0)) == pytest.approx([2.5, 2.5], rel=0.15)
    # Thrown back from the limits, not stuck to them.
    assert np.mean(np.isclose(heads, low) | np.isclose(heads, high)) < 0.01
    assert (np.histogram(np.transpose(heads)[0], 4, LIMITS[0])[0] > 400).all()
