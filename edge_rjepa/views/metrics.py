"""The lines of a run's metrics.jsonl, as the report and the live page draw them."""

from __future__ import annotations

import math
import os
from typing import Any, NamedTuple

import numpy as np

from edge_rjepa.base import journal

MOST = 2**63
LONGEST_EVENT = 1000  # characters


class Record(NamedTuple):
    """The lines of a metrics.jsonl and the older ones beside it, oldest first.

    Of a measure there are numbers, and counts by name such as `skipped`; of an event its text, and
    numbers. What else a line holds is left out: somebody else may have written it.
    """

    measures: list[dict[str, Any]]
    events: list[dict[str, Any]]


def read(path: str | os.PathLike) -> Record:
    """What the metrics.jsonl at `path` says. Raises OSError when it cannot be read."""
    record = Record([], [])
    for line in journal.read(path):
        numbers = {name: value for name, value in line.items() if is_number(value)}
        if isinstance(line.get("event"), str):
            record.events.append(numbers | {"event": line["event"][:LONGEST_EVENT]})
        elif 0 <= numbers.get("fixations", math.nan) <= MOST:
            record.measures.append(numbers | _counts(line))
    return record


def _counts(line: dict[str, Any]) -> dict[str, dict[str, int]]:
    """What the line counts by name."""
    return {
        name: value
        for name, value in line.items()
        if isinstance(value, dict) and all(is_number(count) for count in value.values())
    }


def column(lines: list[dict[str, Any]], key: str) -> np.ndarray:
    """One measure of N lines, (N,) float64, NaN where it is missing: a gap in the curve."""
    values = [line.get(key) for line in lines]
    return np.array([value if is_number(value) else math.nan for value in values], dtype=float)


def reduce(values: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Low, mean and high (M,) of N values in M bins, of which each begins at its start.

    starts: (M,) rising, from 0. What is not finite is left out; a bin with nothing else is NaN.
    """
    if not len(values):
        none = np.empty(0)
        return none, none, none
    finite = np.isfinite(values)
    count = np.add.reduceat(finite.astype(float), starts)
    mean = np.add.reduceat(np.where(finite, values, 0.0), starts) / np.maximum(count, 1.0)
    low = np.minimum.reduceat(np.where(finite, values, np.inf), starts)
    high = np.maximum.reduceat(np.where(finite, values, -np.inf), starts)
    gap = count == 0
    low, mean, high = (np.where(gap, math.nan, each) for each in (low, mean, high))
    return low, mean, high


def is_number(value: Any) -> bool:
    """Whether a value of a line is a number that a float holds: JSON's true and false are none."""
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) <= MOST
    return isinstance(value, float)
