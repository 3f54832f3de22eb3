"""The background: what each direction usually looks like, and how surprising it usually is.

For every direction the usual embeddings are kept: running averages, one for each of up to MODES
modes (a door open, a door closed). A look with embedding z has the

    surprise = 1/2 e' S^-1 e nats,    e = z - the nearest mode

with S the covariance of e over all directions: the surprise of a Gaussian around what was there
before. Leaves move, walls do not, so a direction's score is how far the logarithm of its surprise
lies above its own median there, in standard deviations.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from edge_rjepa.sources import Frame

MODES = 4  # of a direction
MIN_VISITS = 8  # of a direction before it is judged
LEARNING_RATE = 0.02  # of averages, once there were 1 / LEARNING_RATE visits
ACTIVE_RATE = 0.1  # of the learning rate, where a direction is active
MOTION_FACTOR = 2.0  # a look must be this many times as surprising as it is unlike the look before
LEVELS_FROM, COVARIANCE_UNTIL = 0.2, 0.5  # of the warm-up: levels are learned from, S until then
COVARIANCE_FLOOR = 0.05  # of the mean variance of z, added to S
INVERT_EVERY = 50  # updates of S
INITIAL_LOG_VARIANCE = 0.5  # of a direction's log surprise, before it is measured
LOG_VARIANCE_RATE, MAX_SQUARED_DEVIATION = 0.03, 9.0  # the latter: what one look adds at most


class Match(NamedTuple):
    """How K looks match the background."""

    mode: np.ndarray  # (K,) the nearest,
    visits: np.ndarray  # (K,) and how many it was learned from
    error: np.ndarray  # (K, n_z) z - the mode
    surprise: np.ndarray  # (K,) nats
    score: np.ndarray  # (K,) standard deviations above the usual level, -inf where that is unknown


class BackgroundModel:
    """The usual embeddings of n_directions, n_z wide, and their usual surprise.

    All that is kept is there from the start. visit_s: looks from one place within it count as one
    visit, since they say the same again. log_surprise: (n,) the usual level of each direction.
    """

    def __init__(self, n_directions: int, n_z: int, visit_s: float) -> None:
        self._visit_s = visit_s
        self._modes = np.zeros((n_directions, MODES, n_z))
        self._visits = np.zeros((n_directions, MODES), np.int64)
        self._used_s = np.full((n_directions, MODES), -np.inf)  # when each mode was seen last
        self._place = np.full((n_directions, 2), np.nan)  # of the head at the last visit,
        self._time_s = np.full(n_directions, -np.inf)  # and when that was
        self._before = np.full((n_directions, n_z), np.nan)  # embedding of the look before
        self._levels = np.zeros(n_directions, np.int64)  # visits whose surprise was learned from
        self.log_surprise = np.zeros(n_directions)  # median
        self._log_variance = np.full(n_directions, INITIAL_LOG_VARIANCE)
        self._updates = 0  # of S
        self._covariance = 0.05 * np.eye(n_z)  # S
        self._precision = np.linalg.inv(self._covariance)
        self._variance = np.ones(n_z)  # of z

    def match(self, directions: np.ndarray, z: np.ndarray) -> Match:
        """How surprising the embeddings z (K, n_z) of looks at directions (K,) are."""
        errors = z[:, None] - self._modes[directions]
        surprises = self._surprise(errors)
        visits = self._visits[directions]
        surprises[(visits == 0) & (np.arange(MODES) > 0)] = np.inf  # the first may be empty, too
        rows, mode = np.arange(len(directions)), surprises.argmin(axis=1)
        surprise = surprises[rows, mode]
        change = self._surprise(np.nan_to_num(z - self._before[directions]))
        self._before[directions] = z
        level = np.maximum(self.log_surprise[directions], _log(MOTION_FACTOR * change))
        score = (_log(surprise) - level) / np.sqrt(self._log_variance[directions])
        known = (visits.max(axis=1) >= MIN_VISITS) & (self._levels[directions] >= MIN_VISITS)
        return Match(
            mode, visits[rows, mode], errors[rows, mode], surprise, np.where(known, score, -np.inf)
        )

    def learn(
        self,
        directions: np.ndarray,
        z: np.ndarray,
        match: Match,
        frame: Frame,
        age: float,
        active: np.ndarray,
    ) -> None:
        """Learn from looks that are visits; hardly, where they are `active` (K,).

        age: of the watch, in parts of the warm-up.
        """
        t_s = frame.t_capture_s
        fresh = (self._place[directions] != frame.head_rad).any(axis=1)
        fresh |= t_s - self._time_s[directions] > self._visit_s
        directions, z, active = directions[fresh], z[fresh], active[fresh]
        mode, error, surprise = match.mode[fresh], match.error[fresh], match.surprise[fresh]
        self._place[directions], self._time_s[directions] = frame.head_rad, t_s
        trust = np.where(active, ACTIVE_RATE, 1.0)
        visits = self._visits[directions, mode]
        known = visits >= MIN_VISITS
        # What passes is not usual: it weighs less, the more surprising it is (an M-estimate).
        weight = np.minimum(1.0, z.shape[1] / np.maximum(surprise, 1e-9))
        if age < COVARIANCE_UNTIL and known.any():
            self._learn_covariance(error[known], z[known], weight[known])
        if age > LEVELS_FROM:
            self._learn_levels(directions[known], _log(surprise[known]), trust[known])
        rate = trust * np.maximum(1.0 / (visits + 1.0), LEARNING_RATE)
        rate *= np.where(known, weight, 1.0)
        self._modes[directions, mode] += rate[:, None] * error
        self._visits[directions, mode] += ~active
        self._used_s[directions, mode] = t_s

    def adopt(self, direction: int, z: np.ndarray, t_s: float) -> None:
        """Take z (n_z,) as a mode, in place of the one that was seen longest ago."""
        mode = int(self._used_s[direction].argmin())
        self._modes[direction, mode] = z
        self._visits[direction, mode] = MIN_VISITS
        self._used_s[direction, mode] = t_s

    def _learn_covariance(self, error: np.ndarray, z: np.ndarray, weight: np.ndarray) -> None:
        self._updates += 1
        rate = max(1.0 / (self._updates + 1.0), 0.1 * LEARNING_RATE)
        found = (weight[:, None] * error).T @ error / len(error)
        self._covariance += rate * (found - self._covariance)
        self._variance += rate * (z.var(axis=0) - self._variance)
        if self._updates % INVERT_EVERY == 1:
            floor = COVARIANCE_FLOOR * max(float(self._variance.mean()), 1e-6)
            self._precision = np.linalg.inv(self._covariance + floor * np.eye(z.shape[1]))

    def _learn_levels(
        self, directions: np.ndarray, log_surprise: np.ndarray, trust: np.ndarray
    ) -> None:
        """The running median of the logarithm, and its variance without the outliers."""
        off = log_surprise - self.log_surprise[directions]
        std = np.sqrt(self._log_variance[directions])
        levels = self._levels[directions]
        rate = trust * np.maximum(1.0 / (levels + 1.0), LEARNING_RATE)
        step = np.where(levels == 0, off, 2.0 * rate * std * np.sign(off))
        self.log_surprise[directions] += step
        settled = levels >= MIN_VISITS // 2  # before it, the median is still far off
        rate = LOG_VARIANCE_RATE * trust * settled
        squared = np.minimum(off**2, MAX_SQUARED_DEVIATION)
        self._log_variance[directions] += rate * (squared - self._log_variance[directions])
        self._levels[directions] += 1

    def _surprise(self, error: np.ndarray) -> np.ndarray:
        """1/2 e' S^-1 e (...) nats of e (..., n_z)."""
        return 0.5 * ((error @ self._precision) * error).sum(axis=-1)


def _log(surprise: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(surprise, 1e-9))
