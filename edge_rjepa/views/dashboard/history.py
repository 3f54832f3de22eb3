"""A run's metrics for the page: as many points as a screen can show, however long the run is."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from edge_rjepa.views import metrics
from edge_rjepa.views.verdict import verdict
from safe_files.plain import finite

CURVES = (
    "information", "effective_rank", "embedding_std", "surprise", "fixations_per_s",
    "latency_median_ms",
)  # fmt: skip
POINTS = 600
EVENTS = 50
PAUSE_S = 30.0  # a run that learns writes a line every 10 s at least
PAUSES = 50


def record_at(path: Path) -> metrics.Record:
    """The metrics at `path`; none where there is no file yet."""
    try:
        return metrics.read(path)
    except OSError:
        return metrics.Record([], [])


def summed_up(
    record: metrics.Record, points: int = POINTS, summary: dict[str, Any] | None = None
) -> dict:
    """A run's metrics in at most so many points, its events and its verdict, as JSON values.

    summary: what it measured at its end, if it has ended.

    A point is the mean of the lines it stands for, low and high their extremes, so that a spike is
    seen however many hours there are. Events and pauses are told by the fixations before them.
    """
    count = len(record.measures)
    points = min(points, count)
    starts = np.arange(points) * count // max(points, 1)
    names = "time_unix_s", "fixations", *CURVES
    columns = {name: metrics.column(record.measures, name) for name in names}
    return {
        "curves": {name: _curve(column, starts) for name, column in columns.items()},
        "events": _events(record, columns["fixations"]),
        "pauses": _pauses(columns["time_unix_s"], columns["fixations"]),
        "last": finite(record.measures[-1]) if count else None,
        "verdict": verdict(record.measures, summary)._asdict(),
    }


def _events(record: metrics.Record, fixations: np.ndarray) -> list[list]:
    """Of each of the last events the time, its text, and how many fixations came before."""
    frames = metrics.column(record.measures, "frames") if record.events else np.empty(0)
    known = np.isfinite(frames)
    found = []
    for event in map(finite, record.events[-EVENTS:]):
        at = event.get("frames")
        before = None
        if at is not None and known.any():
            before = float(np.interp(at, frames[known], fixations[known]))
        found.append([event.get("time_unix_s"), event["event"], before])
    return found


def _pauses(time_s: np.ndarray, fixations: np.ndarray) -> list[list[float]]:
    """Where nothing was learned for PAUSE_S or more: fixations before it, and its seconds."""
    passed_s = np.diff(time_s)
    long = np.flatnonzero(np.isfinite(passed_s) & (passed_s > PAUSE_S))[-PAUSES:]
    return [[float(fixations[i]), float(passed_s[i])] for i in long]


def _curve(values: np.ndarray, starts: np.ndarray) -> dict[str, list[float | None]]:
    """Mean, low and high of each point; None for a gap."""
    low, mean, high = metrics.reduce(values, starts)
    return {
        name: [value if math.isfinite(value) else None for value in part.tolist()]
        for name, part in (("mean", mean), ("low", low), ("high", high))
    }
