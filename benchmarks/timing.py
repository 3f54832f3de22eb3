"""Times that a busy machine does not turn round: contenders take turns, ratios are of one turn."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

BURST_S = 0.02  # a turn: long beside the clock and one interrupt, short beside another program


class Spread(NamedTuple):
    """Median and quartiles."""

    median: float
    low: float
    high: float


def spread(values: np.ndarray) -> Spread:
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
    return Spread(float(median), float(low), float(high))


class Contender(NamedTuple):
    """What takes a turn: a call, and how many fixations it deals with."""

    call: Callable
    fixations: int = 1


class Turns(NamedTuple):
    """Seconds a fixation in each turn, by name: arrays of one length."""

    seconds: dict[str, np.ndarray]

    def time(self, name: str) -> Spread:
        return spread(self.seconds[name])

    def rate(self, name: str) -> Spread:
        """Fixations a second."""
        return spread(1.0 / self.seconds[name])

    def ratio(self, name: str, to: str) -> Spread:
        """How many times as long as the other it takes, turn by turn."""
        return spread(self.seconds[name] / self.seconds[to])


def take_turns(contenders: dict[str, Contender], seconds: float, at_least: int = 5) -> Turns:
    """Time contenders in turns until the time is up, after so many turns at the least.

    A turn of each is one call that is not timed, which brings its data back into the caches, and
    then as many as fit into BURST_S; what counts is their mean.
    """
    repeats = {name: _repeats(call) for name, (call, _) in contenders.items()}
    turns = {name: [] for name in contenders}
    end = time.perf_counter() + seconds
    taken = 0
    while taken < at_least or time.perf_counter() < end:
        taken += 1
        for name, (call, fixations) in contenders.items():
            call()
            started = time.perf_counter()
            for _ in range(repeats[name]):
                call()
            elapsed = time.perf_counter() - started
            turns[name].append(elapsed / (repeats[name] * fixations))
    return Turns({name: np.array(times) for name, times in turns.items()})


def _repeats(call: Callable) -> int:
    call()  # compiled, and every lazy part in place
    started = time.perf_counter()
    call()
    return max(1, int(BURST_S / (time.perf_counter() - started)))
