"""How learning goes and what to do next, in one plain sentence, from what a run measures.

It rests on a running estimate over what is learned from: the information, what the past tells about
the next look. Descriptions get better as it rises, and both rise by about the same step each time
that the fixations double (docs/learning.md): so what the last doubling brought says what the next
will bring. The information on held-out views would not do. After long looking at a dozen
photographs it falls, while descriptions get better.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from edge_rjepa.run.monitor import NOTABLE_NATS
from edge_rjepa.views.metrics import column

FEWEST_FIXATIONS = 20_000  # before them the estimates are those of the first weights
PAYS = 0.10  # of the information: more than this by twice the fixations is worth waiting for
LATEST = 0.2  # share of the fixations that the newest measures are a mean over

BEGUN, NOTHING, LEARNING, LEARNED = "begun", "nothing", "learning", "learned"  # stages


class Verdict(NamedTuple):
    """How learning goes: the stage for programs, the sentence for people."""

    stage: str  # BEGUN, NOTHING (to be learned), LEARNING or LEARNED (what there is to learn)
    sentence: str


def verdict(measures: list[dict[str, Any]]) -> Verdict:
    """The verdict on a run with these lines of measures, oldest first: there may be none.

    measures: as `metrics.read` gives them.
    """
    fixations = column(measures, "fixations")
    if not len(fixations) or not fixations[-1] >= FEWEST_FIXATIONS:
        return Verdict(BEGUN, "It has only begun to look: let it look for a minute at least.")
    now, before = (_information(measures, part * fixations[-1]) for part in (1.0, 0.5))
    if not now >= NOTABLE_NATS:
        return Verdict(
            NOTHING,
            "It has learned nothing yet, for one look tells nothing about the next: show it "
            "something that stays for some seconds, and differs from place to place.",
        )
    if now >= (1.0 + PAYS) * before:
        again = _duration(column(measures, "seconds")[-1])
        return Verdict(LEARNING, f"It learns, and goes on learning: {again} more pay.")
    return Verdict(
        LEARNED, "It has learned most of what there is to learn here: show it other things."
    )


def _information(measures: list[dict[str, Any]], fixations: float) -> float:
    """Mean nats of the measures just before so many fixations; NaN where there are none."""
    at, nats = column(measures, "fixations"), column(measures, "information")
    near = (at <= fixations) & (at > (1.0 - LATEST) * fixations) & np.isfinite(nats)
    return float(nats[near].mean()) if near.any() else math.nan


def _duration(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "as many fixations"
    if seconds < 90.0:
        return "one minute"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400.0 else f"{seconds / 3600:.0f} hours"
