"""How learning goes and what to do next, in one plain sentence, from what a run measures.

How good it is: the share of views that are known again, on views that it never learned from
(HeldOut.known_again). Whether to go on: the information on what it learns from. It grows with
what descriptions are worth, and by about the same step each time that the fixations double
(docs/learning.md): so what the last doubling brought says what the next will bring.

The information on held-out views would not do. It says whether the next look is foreseen; after
long looking at a dozen photographs it falls, while descriptions get better.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from edge_rjepa.run.monitor import NOTABLE_NATS, Health, Monitor
from edge_rjepa.views.metrics import column

FEWEST_FIXATIONS = 30_000  # with less, descriptions may be worse than those of first weights
PAYS = 0.10  # of the information: more than this by twice the fixations is worth waiting for
LATEST = 0.2  # share of the fixations that the newest measures are a mean over
NOTABLE_SHARE = 0.05  # of views known again: less can be chance
ENOUGH_SHARE = 0.7  # .. are enough for a few rooms

STAGES = BEGUN, COLLAPSED, NOTHING, LEARNING, LEARNED = (
    "begun", "collapsed", "nothing", "learning", "learned",
)  # fmt: skip


class Verdict(NamedTuple):
    """How learning goes: the stage for programs, the sentence for people."""

    stage: str  # one of STAGES; NOTHING to be learned, LEARNED what there is to learn
    sentence: str


def verdict(measures: list[dict[str, Any]], summary: dict[str, Any] | None = None) -> Verdict:
    """The verdict on a run with these lines of measures, oldest first: there may be none.

    measures: as `metrics.read` gives them. summary: what `Run.finish` measured, if it has; else it
    is not said how many views are known again.
    """
    after = (summary or {}).get("after")
    broken = after and Monitor().broken(Health(*(after[key] for key in Health._fields)))
    if broken:
        return Verdict(
            COLLAPSED, f"It has collapsed, for {broken}: go on from an older checkpoint, or begin "
            "anew with a lower network.learning_rate.",
        )  # fmt: skip
    fixations = column(measures, "fixations")
    if not len(fixations) or not fixations[-1] >= FEWEST_FIXATIONS:
        return Verdict(
            BEGUN, "It has only begun to look: let it look for some minutes before you use it.",
        )  # fmt: skip
    now, before = (_information(measures, part * fixations[-1]) for part in (1.0, 0.5))
    grows = now >= (1.0 + PAYS) * max(before, 0.0)
    if not now >= NOTABLE_NATS:
        return Verdict(
            NOTHING, "It has learned nothing yet, since one look tells nothing about the next: "
            "show it something that stays for some seconds and is not the same everywhere.",
        )  # fmt: skip
    told = _told(summary)
    if grows:
        again = _duration(column(measures, "seconds")[-1])
        return Verdict(LEARNING, f"{told}It still learns: {again} more pay.")
    return Verdict(LEARNED, f"{told}It learns little more here: show it other things, or use it.")


def _told(summary: dict[str, Any] | None) -> str:
    """What it can do by now; nothing where that was not measured."""
    if not (summary and summary.get("after")):
        return ""
    before, after = (summary[when].get("known_again", math.nan) for when in ("before", "after"))
    if not (math.isfinite(before) and math.isfinite(after)):
        return ""
    if after < before + NOTABLE_SHARE:
        return (
            f"It knows {after:.0%} of views again that it never learned from, no more than before "
            f"it learned ({before:.0%}). "
        )
    enough = ", enough to tell a few rooms apart" if after >= ENOUGH_SHARE else ""
    return (
        f"It knows {after:.0%} of views again that it never learned from ({before:.0%} before it "
        f"learned){enough}. "
    )


def _information(measures: list[dict[str, Any]], fixations: float) -> float:
    """Mean nats of the measures just before so many fixations; NaN where there are none."""
    at, nats = column(measures, "fixations"), column(measures, "information")
    near = (at <= fixations) & (at > (1.0 - LATEST) * fixations) & np.isfinite(nats)
    return float(nats[near].mean()) if near.any() else math.nan


def _duration(seconds: float) -> str:
    """As long again, in round words."""
    if not math.isfinite(seconds):
        return "as many fixations"
    if seconds < 90.0:
        return "a minute or two"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400.0 else f"{seconds / 3600:.0f} hours"
