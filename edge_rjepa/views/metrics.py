"""The lines of a run's metrics.jsonl, as the report and the live page draw them."""

from __future__ import annotations

import math
import os
from typing import Any, NamedTuple

import numpy as np

from edge_rjepa.base import journal


class Record(NamedTuple):
    """The lines of a metrics.jsonl and the older ones beside it, oldest first."""

    measures: list[dict[str, Any]]
    events: list[dict[str, Any]]


def read(path: str | os.PathLike) -> Record:
    """What the metrics.jsonl at `path` says. Raises OSError when it cannot be read."""
    record = Record([], [])
    for line in journal.read(path):
        if "event" in line:
            record.events.append(line)
        elif is_number(line.get("fixations")):
            record.measures.append(line)
    return record


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
    """Whether a value of a line is a number: JSON's true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)
