"""What one of four robots can do to the others in a round: little, whatever it sends."""

import numpy as np
import pytest

from edge_rjepa.fleet.bounded import merge_bounded
from edge_rjepa.learner.merge import Lesson, merged

WEIGHTS, UNITS, SAMPLE = 1000, 4, 2500.0
BASE = np.random.default_rng(0).normal(size=WEIGHTS).astype(np.float32)


def lesson(update, **changes):
    """A lesson that moved the weights by this."""
    made = Lesson(
        (BASE + update).astype(np.float32),
        np.zeros(UNITS, np.float32),
        0.25 * np.eye(UNITS, dtype=np.float32),
        0.5 * np.eye(UNITS, dtype=np.float32),
        SAMPLE,
        10_000,
    )
    return made._replace(**changes)


def honest(count, seed=1):
    """Updates of about length 1 that agree in part: robots in different places."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=WEIGHTS) / WEIGHTS**0.5
    return [common + 0.5 * rng.normal(size=WEIGHTS) / WEIGHTS**0.5 for _ in range(count)]


def moved(updates, since=None):
    """What the fleet's weights moved by."""
    lessons = [lesson(update) for update in updates]
    result = merge_bounded(lessons, BASE, since or [1000] * len(lessons), SAMPLE)
    return result.lesson.weights - BASE


def close_to_the_others(update, others):
    """Within what the others say or less, weight by weight, but for rounding."""
    low, high = np.min(others, axis=0, initial=0.0), np.max(others, axis=0, initial=0.0)
    return (update > low - 1e-5).all() and (update < high + 1e-5).all()


@pytest.mark.parametrize("scale", [-1e30, -10.0, -1.0, 0.0, 1.0, 1e6])
def test_one_of_four_stays_within_what_the_others_say(scale):
    others = honest(3)
    hostile = scale * np.mean(others, axis=0)
    assert close_to_the_others(moved([*others, hostile]), others)
    assert close_to_the_others(moved([hostile, *others]), others)


def test_two_of_seven_stay_within_what_the_others_say():
    others = honest(5)
    assert close_to_the_others(moved([*others, 50 * others[0], -9 * others[1]]), others)


def test_one_of_three_moves_no_further_than_the_usual():
    others = honest(2)
    update = moved([*others, np.full(WEIGHTS, 1e12)])
    longest = max(np.linalg.norm(other) for other in others)
    assert np.linalg.norm(update - np.sum(others, axis=0) / 3) <= longest / 3 + 1e-5


def test_whoever_says_it_learned_more_than_all_counts_as_the_usual():
    one, other = honest(2)
    assert np.allclose(moved([one, other], since=[1000, 2**50]), moved([one, other]), atol=1e-6)


def test_a_lie_about_the_sample_counts_as_a_full_one():
    liar = lesson(honest(1)[0], mean=np.ones(UNITS, np.float32), sample=2.0**50)
    lessons = [lesson(update) for update in honest(3)]
    result = merge_bounded([*lessons, liar], BASE, [1000] * 4, SAMPLE).lesson
    assert np.allclose(result.mean, 0.25)


def test_among_few_that_agree_it_is_the_mean():
    one, _ = honest(2)
    lessons = [lesson(one), lesson(-one)]  # of one length: none is shortened
    result = merge_bounded(lessons, BASE, [1000, 1000], SAMPLE)
    assert result.shortened == pytest.approx([1.0, 1.0])
    assert np.allclose(result.lesson.weights, merged(lessons).weights, atol=1e-6)
    assert result.fixations == 2000


def test_who_moved_far_is_named():
    one, other, third = honest(3)
    shares = merge_bounded(
        [lesson(one), lesson(other), lesson(10 * third)], BASE, [1000] * 3, SAMPLE
    ).shortened
    assert shares[2] < 0.2 and min(shares[:2]) > 0.7
