"""What one robot can do to the others in a round, bounded.

A robot's update is what its weights moved by since the fleet's lesson. Nobody can tell a hostile
one from the direction in which it points, since robots in different places learn different things.
So none may be far longer than usual, and none counts far more than usual: then one robot of n moves
the mean by about 1/n of a usual update, whatever it sends. See docs/fleet.md for what was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from edge_rjepa.learner.merge import Lesson, merged


class Bounded(NamedTuple):
    """The lesson of several robots."""

    lesson: Lesson
    shortened: list[float]  # for each robot: how much of its update was taken, 0 .. 1
    fixations: int  # that the robots have learned from since, as far as they were believed


def merge_bounded(
    lessons: Sequence[Lesson], base: np.ndarray, since: Sequence[float], most_sample: float
) -> Bounded:
    """Merge lessons that began with the weights `base` (n,).

    since: fixations that each has learned from since then, as it says. most_sample: fixations that
    statistics are of at most. No update is longer than the usual one, and none counts more than
    the usual one: the lower median of those who have learned anything.
    """
    updates = [lesson.weights.astype(np.float64) - base for lesson in lessons]
    lengths = [float(np.linalg.norm(update)) for update in updates]
    busy = [i for i, fixations in enumerate(since) if fixations > 0]
    most_length = _usual([lengths[i] for i in busy])
    most_since = _usual([since[i] for i in busy])
    shortened = [1.0 if length <= most_length else most_length / length for length in lengths]
    bounded = [
        lesson._replace(weights=base + share * update, sample=min(lesson.sample, most_sample))
        for lesson, share, update in zip(lessons, shortened, updates, strict=True)
    ]
    counts = [min(fixations, most_since) for fixations in since]
    lesson = merged(bounded, counts)
    return Bounded(
        lesson._replace(weights=lesson.weights.astype(base.dtype)), shortened, int(sum(counts))
    )


def _usual(values: Sequence[float]) -> float:
    """The lower median: of an even number of values the smaller of the two in the middle."""
    return sorted(values)[(len(values) - 1) // 2] if values else 0.0
