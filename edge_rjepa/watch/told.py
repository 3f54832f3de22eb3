"""What was told: which alarms still hold, and when each ends.

For every alarm it is remembered what its directions looked like before it and with it. A look that
is clearly nearer to the former says that the alarm has ended there: the new thing has left, or the
removed one is back. A look that is near to neither says nothing: somebody stands in front of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

MOST_ALARMS = 32  # remembered: the oldest that has ended is forgotten first
MOST_DIRECTIONS = 48  # of an alarm, its most surprising ones
ENDED_LOOKS = 3  # in a row that must be as before,
ENDED_SHARE = 0.5  # in this share of the directions of the thing itself
NEARER = 0.5  # times as far from the one as from the other
FOLLOW_RATE = 0.05  # of what an alarm looks like: the light changes slowly
USUAL_AFTER = 3  # times that the same was told at the same place: then it is usual

WHAT = ("new", "removed")

Distance = Callable[[np.ndarray], np.ndarray]  # errors (..., n_z) -> nats (...)


class Ended(NamedTuple):
    """An alarm that has ended."""

    number: int
    after_s: float  # since it was told
    usual: bool  # told so often that it is usual from now on


class Told:
    """The last MOST_ALARMS alarms of a place, each at MOST_DIRECTIONS directions of n_z numbers."""

    def __init__(self, n_z: int) -> None:
        alarms, each = (MOST_ALARMS,), (MOST_ALARMS, MOST_DIRECTIONS)
        self._number = np.zeros(alarms, np.int64)  # 0 for none
        self._what = np.zeros(alarms, np.int8)  # index into WHAT
        self._holds = np.zeros(alarms, bool)  # it has not ended
        self._times = np.zeros(alarms, np.int64)  # that the same was told here
        self._since_s = np.zeros(alarms)
        self._direction = np.full(each, -1, np.int32)
        self._before = np.zeros((*each, n_z), np.float32)
        self._with = np.zeros((*each, n_z), np.float32)
        self._itself = np.zeros(each, bool)  # of the thing, not of what lies around it
        self._as_before = np.zeros(each, np.int16)  # looks in a row

    @property
    def holding(self) -> list[int]:
        """Numbers of the alarms that have not ended, oldest first."""
        return sorted(self._number[self._holds].tolist())

    def begin(
        self,
        number: int,
        what: str,
        directions: np.ndarray,
        before: np.ndarray,
        with_it: np.ndarray,
        t_s: float,
    ) -> Ended | None:
        """Remember an alarm; one before it may be forgotten, and what it told of is then usual.

        Returns that one if it held: nobody will see its end.

        directions: (K,) of the thing itself, most surprising first. before, with_it: (K, n_z)
        embeddings there.
        """
        oldest = int(np.lexsort([self._number, self._holds])[0])
        pushed_out = None
        if self._holds[oldest]:
            after_s = t_s - float(self._since_s[oldest])
            pushed_out = Ended(int(self._number[oldest]), after_s, True)
        count = min(len(directions), MOST_DIRECTIONS)
        self._number[oldest], self._what[oldest] = number, WHAT.index(what)
        self._holds[oldest], self._times[oldest], self._since_s[oldest] = True, 1, t_s
        self._direction[oldest], self._as_before[oldest], self._itself[oldest] = -1, 0, False
        self._itself[oldest, :count] = True
        self._direction[oldest, :count] = directions[:count]
        self._before[oldest, :count] = before[:count]
        self._with[oldest, :count] = with_it[:count]
        return pushed_out

    def add(self, number: int, direction: int, before: np.ndarray, with_it: np.ndarray) -> None:
        """Remember what else is unlike before because of an alarm, as far as there is room."""
        (found,) = np.nonzero(self._number == number)
        if len(found) and direction not in self._direction[found[0]]:
            (free,) = np.nonzero(self._direction[found[0]] < 0)
            if len(free):
                at = found[0], free[0]
                self._direction[at], self._before[at], self._with[at] = direction, before, with_it

    def look(
        self, directions: np.ndarray, z: np.ndarray, distance: Distance, t_s: float
    ) -> list[Ended]:
        """The alarms that end with looks z (K, n_z) at directions (K,)."""
        ended = []
        for alarm in np.flatnonzero(self._holds).tolist():
            own, looks = _pairs(self._direction[alarm], directions)
            if not len(own):
                continue
            from_before = distance(z[looks] - self._before[alarm, own])
            from_with = distance(z[looks] - self._with[alarm, own])
            as_before = from_before < NEARER * from_with
            self._as_before[alarm, own] = np.where(as_before, self._as_before[alarm, own] + 1, 0)
            same = own[from_with < NEARER * from_before]
            seen = z[looks[from_with < NEARER * from_before]]
            self._with[alarm, same] += FOLLOW_RATE * (seen - self._with[alarm, same])
            as_before = self._as_before[alarm, self._itself[alarm]] >= ENDED_LOOKS
            if as_before.mean() >= ENDED_SHARE:
                ended.append(self._end(alarm, distance, t_s))
        return ended

    def opposite(self, what: str, directions: np.ndarray) -> int | None:
        """The alarm that the opposite of `what` at directions (K,) puts an end to."""
        for alarm in np.flatnonzero(self._holds & (self._what != WHAT.index(what))):
            itself = self._direction[alarm, self._itself[alarm]]
            if np.isin(itself, directions).mean() >= ENDED_SHARE:
                return int(self._number[alarm])
        return None

    def end(self, number: int, distance: Distance, t_s: float) -> Ended:
        """End an alarm that holds."""
        return self._end(int(np.flatnonzero(self._number == number)[0]), distance, t_s)

    def is_usual(self, number: int) -> bool:
        """Whether what this alarm told of is usual by now."""
        return bool(((self._number == number) & (self._times >= USUAL_AFTER)).any())

    def looks_of(self, number: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Directions (K,) of an alarm and what they looked like with it (K, n_z); None: forgotten.

        From now on the alarm holds no more: it is usual.
        """
        (found,) = np.nonzero((self._number == number) & (number > 0))
        if not len(found):
            return None
        alarm = found[0]
        self._holds[alarm], self._times[alarm] = False, USUAL_AFTER
        known = self._direction[alarm] >= 0
        return self._direction[alarm, known], self._with[alarm, known].astype(np.float64)

    def _end(self, alarm: int, distance: Distance, t_s: float) -> Ended:
        self._holds[alarm] = False
        self._times[alarm] = 1 + max(
            (self._times[other] for other in self._likes(alarm, distance)), default=0
        )
        usual = bool(self._times[alarm] >= USUAL_AFTER)
        return Ended(int(self._number[alarm]), t_s - float(self._since_s[alarm]), usual)

    def _likes(self, alarm: int, distance: Distance) -> list[int]:
        """Alarms that ended and looked like this one, at the same directions."""
        likes = []
        for other in np.flatnonzero((self._number > 0) & ~self._holds):
            theirs, own = _pairs(self._direction[other], self._direction[alarm])
            itself = self._itself[alarm, own]
            theirs, own = theirs[itself], own[itself]
            if other == alarm or len(own) < ENDED_SHARE * self._itself[alarm].sum():
                continue
            between = distance(self._with[other, theirs] - self._with[alarm, own]).sum()
            change = distance(self._before[alarm, own] - self._with[alarm, own]).sum()
            if between < NEARER * change:
                likes.append(int(other))
        return likes

    def kept(self, now_s: float) -> dict[str, np.ndarray]:
        """All of it, as `restore` takes it; times become ages."""
        (used,) = np.nonzero(self._number)
        return {
            "number": self._number[used],
            "what": self._what[used],
            "holds": self._holds[used],
            "times": self._times[used],
            "age_s": now_s - self._since_s[used],
            "direction": self._direction[used],
            "itself": self._itself[used],
            "before": self._before[used],
            "with": self._with[used],
        }

    def restore(self, kept: dict[str, np.ndarray], now_s: float) -> None:
        """Know what `kept` was made of, on another clock."""
        used = np.arange(len(kept["number"]))
        self._number[used], self._what[used] = kept["number"], kept["what"]
        self._holds[used], self._times[used] = kept["holds"], kept["times"]
        self._since_s[used] = now_s - kept["age_s"]
        self._direction[used], self._itself[used] = kept["direction"], kept["itself"]
        self._before[used], self._with[used] = kept["before"], kept["with"]


def _pairs(directions: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the same direction stands in both; each stands there once, but for -1."""
    _, first, second = np.intersect1d(directions, others, return_indices=True)
    return first, second
