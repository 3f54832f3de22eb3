"""What one robot can do to the others in a round, bounded.

A robot's update is what its weights moved by since the fleet's lesson. Nobody can tell a hostile
one from the direction in which it points, since robots in different places learn different things.
So an update that is longer than the usual one is shortened to that. From FEWEST_TRIMMED robots on,
the largest and the smallest third of the values of each weight are then left out of the mean
(Yin et al., 2018): so a hostile robot of four stays within what the others say, weight by weight.
Moments are those of one sample, in which no robot's part is larger than a robot's can be.

docs/fleet.md has what was measured of this and of other rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from edge_rjepa.learner.merge import Lesson, merged

FEWEST_TRIMMED = 4


class Bounded(NamedTuple):
    """The lesson of several robots."""

    lesson: Lesson
    shortened: list[float]  # for each robot: how much of its update was taken, 0 .. 1
    fixations: int  # that the robots have learned from since, as far as they were believed


def merge_bounded(
    lessons: Sequence[Lesson], base: np.ndarray, since: Sequence[float], most_sample: float
) -> Bounded:
    """Merge lessons that began with the weights `base` (n,).

    since: fixations, above 0, that each has learned from since then, as it says. most_sample:
    fixations that a robot's statistics are of at most. The usual length and number of fixations are
    the lower medians.
    """
    updates = [lesson.weights.astype(np.float64) - base for lesson in lessons]
    lengths = [float(np.linalg.norm(update)) for update in updates]
    most_length, most_since = _usual(lengths), _usual(since)
    shortened = [1.0 if length <= most_length else most_length / length for length in lengths]
    counts = [min(fixations, most_since) for fixations in since]
    taken = [share * update for share, update in zip(shortened, updates, strict=True)]
    moves = _mean(np.stack(taken), np.array(counts, np.float64))
    parts = [lesson._replace(sample=min(lesson.sample, most_sample)) for lesson in lessons]
    weights = (base + moves).astype(base.dtype)
    lesson = merged(parts, counts)._replace(weights=weights)
    return Bounded(lesson, shortened, int(sum(counts)))


def _usual(values: Sequence[float]) -> float:
    """The lower median: of an even number of values the smaller of the two in the middle."""
    return sorted(values)[(len(values) - 1) // 2]


def _mean(updates: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Of updates (k, n), each counted so often; of many, without the extremes of each weight."""
    if len(updates) < FEWEST_TRIMMED:
        return counts @ updates / counts.sum()
    left_out = (len(updates) - 1) // 3  # at either end
    return np.sort(updates, axis=0)[left_out : len(updates) - left_out].mean(axis=0)
