"""How learning goes and what to do next, in one plain sentence, from what a run measures.

How good it is: the share of views that are known again, on views that it never learned from
(HeldOut.known_again). Whether to go on: the information on what it learns from grows with what
descriptions are worth, by about the same step each time that the fixations double: so what the last
doubling brought says what the next will bring. After MUCH fixations it goes on growing, and
descriptions hardly get better (docs/learning.md).

The information on held-out views is not asked. It falls, and may be below 0 all the time, while
descriptions get better.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from edge_rjepa.run.monitor import NOTABLE_NATS, Health, Monitor
from edge_rjepa.views.metrics import column

FEWEST_FIXATIONS = 30_000  # with less, descriptions may be worse than those of first weights
MUCH = 400_000  # fixations, beyond which descriptions hardly get better
PAYS = 0.10  # of the information: more than this by twice the fixations is worth waiting for
LATEST = 0.2  # share of the fixations that the newest measures are a mean over
NOTABLE_SHARE = 0.05  # of views known again: less can be chance ..
FEWER_MISSED, LEAST_SHARE = 0.8, 0.02  # .. or so few of those missed before, and so many more known
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

    measures: as `metrics.read` gives them. summary: what `Run.finish` measured, if it has.
    """
    after = _judged(summary, "after")
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
    told = _told(measures, summary)
    if grows and fixations[-1] < MUCH:
        again = _duration(column(measures, "seconds")[-1])
        return Verdict(LEARNING, f"{told}It still learns: {again} more pay.")
    return Verdict(LEARNED, f"{told}It learns little more here: show it other things, or use it.")


def _judged(summary: dict[str, Any] | None, when: str) -> dict[str, float]:
    """What was measured on held-out views, before or after; null in JSON is no number."""
    found = ((summary or {}).get(when) or {}).items()
    return {name: math.nan if value is None else value for name, value in found}


def _told(measures: list[dict[str, Any]], summary: dict[str, Any] | None) -> str:
    """What it can do by now; nothing where that was not measured."""
    before = _judged(summary, "before").get("known_again", math.nan)
    after = _known_again(measures, summary)
    if not math.isfinite(after):
        return ""
    known = f"It knows {after:.0%} of views again that it never learned from"
    if math.isfinite(before) and not _notable(before, after):
        return f"{known}, no more than before it learned ({before:.0%}). "
    untrained = f" ({before:.0%} before it learned)" if math.isfinite(before) else ""
    enough = ", enough to tell a few rooms apart" if after >= ENOUGH_SHARE else ""
    return f"{known}{untrained}{enough}. "


def _known_again(measures: list[dict[str, Any]], summary: dict[str, Any] | None) -> float:
    """The newest share of held-out views known again; NaN if it never was measured."""
    after = _judged(summary, "after")
    if after:
        return after.get("known_again", math.nan)
    found = column(measures, "held_out_known_again")
    found = found[np.isfinite(found)]
    return float(found[-1]) if len(found) else math.nan


def _notable(before: float, after: float) -> bool:
    """Whether more views are known again than chance says; there may have been few to win."""
    fewer_missed = (1.0 - after) <= FEWER_MISSED * (1.0 - before)
    return after - before >= (LEAST_SHARE if fewer_missed else NOTABLE_SHARE)


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
