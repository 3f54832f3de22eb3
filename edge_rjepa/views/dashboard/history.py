"""A run's metrics for the page: as many points as a screen can show, however long the run is."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from edge_rjepa.views import metrics
from edge_rjepa.views.dashboard.live import finite

CURVES = (
    "information", "effective_rank", "embedding_std", "surprise", "fixations_per_s",
    "latency_median_ms",
)  # fmt: skip
POINTS = 600
EVENTS = 50


def history(path: Path, points: int = POINTS) -> dict:
    """The metrics at `path` in at most so many points, as plain JSON values.

    A point is the mean of the lines it stands for, low and high their extremes, so that a spike is
    seen however many hours there are. Empty where there is no file yet.
    """
    try:
        record = metrics.read(path)
    except OSError:
        record = metrics.Record([], [])
    count = len(record.measures)
    points = min(points, count)
    starts = np.arange(points) * count // max(points, 1)
    curves = {
        name: _curve(metrics.column(record.measures, name), starts)
        for name in ("time_unix_s", "fixations", *CURVES)
    }
    events = [[finite(e).get("time_unix_s"), e["event"]] for e in record.events[-EVENTS:]]
    last = finite(record.measures[-1]) if count else None
    return {"curves": curves, "events": events, "last": last}


def _curve(values: np.ndarray, starts: np.ndarray) -> dict[str, list[float | None]]:
    """Mean, low and high of each point; None for a gap."""
    low, mean, high = metrics.reduce(values, starts)
    return {
        name: [value if math.isfinite(value) else None for value in part.tolist()]
        for name, part in (("mean", mean), ("low", low), ("high", high))
    }
