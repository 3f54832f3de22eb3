"""A run's metrics for the page: as many points as a screen can show, however long the run is."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from edge_rjepa.base import journal

CURVES = (
    "information", "effective_rank", "embedding_std", "surprise", "fixations_per_s",
    "latency_median_ms",
)  # fmt: skip
POINTS = 600
EVENTS = 50


def history(path: Path, points: int = POINTS) -> dict:
    """The journal at `path` in at most so many points.

    A point is the mean of the lines it stands for, low and high their extremes, so that a spike is
    seen however many hours there are. Empty where there is no journal yet.
    """
    lines, events = [], []
    try:
        for line in journal.read(path):
            if "event" in line:
                events.append([line.get("time_unix_s"), str(line["event"])])
            elif "fixations" in line:
                lines.append(line)
    except OSError:
        pass
    parts = np.array_split(np.arange(len(lines)), min(points, len(lines)) or 1)
    curves = {
        name: _reduced([line.get(name) for line in lines], parts)
        for name in ("time_unix_s", "fixations", *CURVES)
    }
    return {"curves": curves, "events": events[-EVENTS:], "last": lines[-1] if lines else None}


def _reduced(values: list, parts: list[np.ndarray]) -> dict[str, list]:
    numbers = np.array([math.nan if v is None else v for v in values], dtype=np.float64)
    found: dict[str, list] = {"mean": [], "low": [], "high": []}
    for part in parts:
        some = numbers[part]
        some = some[np.isfinite(some)]
        for name, of in (("mean", np.mean), ("low", np.min), ("high", np.max)):
            found[name].append(float(of(some)) if len(some) else None)
    return found
