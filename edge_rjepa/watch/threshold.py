"""The tail of the scores: how often a score is passed with nothing new, by block maxima."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable

import numpy as np
from scipy.special import stdtr, stdtrit

BLOCK_S = 2.0
MAX_BLOCKS = 2000  # remembered, about an hour
MIN_BLOCKS = 8  # before there is a threshold
MIN_PER_HOUR = 1e-3
MIN_STD = 0.1  # of the blocks' maxima


class Tail:
    """The distribution of the highest score in each block of BLOCK_S seconds with nothing new.

    A score is an average of minima over many looks, so the blocks' maxima are about normal. The
    next one then follows Student's t, which allows for how few blocks there were.
    """

    def __init__(self, maxima: Iterable[float] = ()) -> None:
        self.maxima: deque[float] = deque(maxima, maxlen=MAX_BLOCKS)  # of the blocks, oldest first
        self.blocks = len(self.maxima)  # how many there ever were
        self._block, self._highest = -math.inf, -math.inf
        self._mean, self._std, self._dof = math.nan, math.nan, 1
        self._fit()

    def add(self, score: float, t_s: float) -> None:
        """Take in the highest score of a frame in which nothing is new."""
        block = t_s // BLOCK_S
        if block != self._block:
            if math.isfinite(self._highest):
                self.maxima.append(self._highest)
                self.blocks += 1
                self._fit()
            self._block, self._highest = block, -math.inf
        self._highest = max(self._highest, score)

    @property
    def hours(self) -> float:
        """How much of the stream the distribution is fitted to."""
        return len(self.maxima) * BLOCK_S / 3600.0

    def per_hour(self, score: float) -> float:
        """In how many blocks an hour a score is passed with nothing new; NaN if not known.

        MIN_PER_HOUR at least: minutes or hours say nothing of what comes once a month.
        """
        t = (score - self._mean) / self._std
        return max(3600.0 / BLOCK_S * float(stdtr(self._dof, -t)), MIN_PER_HOUR)

    def threshold(self, per_hour: float) -> float:
        """The score that is passed so many times an hour; infinite if not known."""
        if math.isnan(self._mean):
            return math.inf
        share = min(per_hour * BLOCK_S / 3600.0, 0.5)
        return self._mean - self._std * float(stdtrit(self._dof, share))

    def _fit(self) -> None:
        count = len(self.maxima)
        if count >= MIN_BLOCKS:
            maxima = np.array(self.maxima)
            self._mean, self._dof = float(maxima.mean()), count - 1
            std = float(maxima.std(ddof=1)) * math.sqrt(1.0 + 1.0 / count)
            self._std = max(std, MIN_STD)
