"""Stamps of messages on this process's clock."""

from __future__ import annotations

import time

RECENT_S = 1.0  # a stamp further back than this is of another clock, as a simulator's is


def on_our_clock(stamp_s: float | None) -> float:
    """On time.monotonic() what a stamp of the wall clock says of a message that has just come.

    Now, where it is not set (None) or cannot be: it is of another clock.
    """
    now_s = time.monotonic()
    if stamp_s is None:
        return now_s
    age_s = time.time() - stamp_s
    return now_s - age_s if 0.0 <= age_s < RECENT_S else now_s
