"""The background: what each direction usually looks like, and how surprising it usually is.

For every direction the usual embeddings are kept: running averages, one for each of up to MODES
modes (a door open, a door closed). A mode may belong to an alarm: it is what that alarm told of,
and goes with it. A look with embedding z has the

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
NOBODY, OWNER_SAYS_FINE = 0, -1  # in place of an alarm's number, whose mode it is
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
    still: np.ndarray  # (K,) the score if nothing moved


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
        self._alarm = np.full((n_directions, MODES), NOBODY, np.int64)  # whose mode it is
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
        mode, error, surprise = self._nearest(directions, z)
        change = self.surprise(np.nan_to_num(z - self._before[directions]))
        self._before[directions] = z
        usual = self.log_surprise[directions]
        level = np.maximum(usual, _log(MOTION_FACTOR * change))
        score, still = (self._score(directions, surprise, each) for each in (level, usual))
        return Match(mode, self._visits[directions, mode], error, surprise, score, still)

    def score(self, directions: np.ndarray, z: np.ndarray) -> np.ndarray:
        """(K,) as in `match`, of looks by themselves, whatever moves; nothing is remembered."""
        surprise = self._nearest(directions, z)[2]
        return self._score(directions, surprise, self.log_surprise[directions])

    def _nearest(self, directions: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, ...]:
        """The nearest mode (K,), z - the mode (K, n_z), and the surprise (K,)."""
        errors = z[:, None] - self._modes[directions]
        used = self._visits[directions] > 0
        used[:, 0] |= ~used.any(axis=1)
        surprises = np.full(used.shape, np.inf)
        surprises[used] = self.surprise(errors[used])
        rows, mode = np.arange(len(directions)), surprises.argmin(axis=1)
        return mode, errors[rows, mode], surprises[rows, mode]

    def _score(self, directions: np.ndarray, surprise: np.ndarray, level: np.ndarray) -> np.ndarray:
        score = (_log(surprise) - level) / np.sqrt(self._log_variance[directions])
        visits = self._visits[directions].max(axis=1)
        known = (visits >= MIN_VISITS) & (self._levels[directions] >= MIN_VISITS)
        return np.where(known, score, -np.inf)

    def learn(
        self,
        directions: np.ndarray,
        z: np.ndarray,
        match: Match,
        frame: Frame,
        age: float,
        active: np.ndarray,
    ) -> np.ndarray:
        """Learn from looks that are visits; hardly, where they are `active` (K,).

        Returns which are visits (K,).

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
        return fresh

    def adopt(self, direction: int, z: np.ndarray, t_s: float, alarm: int = NOBODY) -> None:
        """Take z (n_z,) as a mode of this alarm, in place of the one that was seen longest ago.

        What the owner said is fine is replaced late; what was seen most often, the place itself,
        never.
        """
        visits = self._visits[direction]
        fine = self._alarm[direction] == OWNER_SAYS_FINE
        most = np.arange(MODES) == visits.argmax()
        mode = int(np.lexsort([self._used_s[direction], fine, most & (visits > 0)])[0])
        self._modes[direction, mode] = z
        self._visits[direction, mode] = MIN_VISITS
        self._used_s[direction, mode] = t_s
        self._alarm[direction, mode] = alarm

    def drop(self, alarm: int) -> None:
        """Forget what this alarm told of: when it comes back it is new."""
        its = self._alarm == alarm
        self._visits[its], self._used_s[its], self._alarm[its] = 0, -np.inf, NOBODY

    def surprise(self, error: np.ndarray) -> np.ndarray:
        """1/2 e' S^-1 e (...) nats of e (..., n_z)."""
        return 0.5 * ((error @ self._precision) * error).sum(axis=-1)

    def kept(self, now_s: float) -> dict[str, np.ndarray]:
        """All that a place needs to be known again: of the directions that were ever seen.

        Times become ages, since a clock does not outlive its process.
        """
        (seen,) = np.nonzero(self._visits.any(axis=1))
        return {
            "direction": seen.astype(np.int32),
            "mode": self._modes[seen].astype(np.float32),
            "visits": self._visits[seen],
            "age_s": now_s - self._used_s[seen],
            "alarm": self._alarm[seen],
            "levels": self._levels[seen],
            "log_surprise": self.log_surprise[seen],
            "log_variance": self._log_variance[seen],
            "covariance": self._covariance,
            "variance": self._variance,
            "updates": np.array(self._updates),
        }

    def restore(self, kept: dict[str, np.ndarray], now_s: float) -> None:
        """Know what `kept` was made of, on another clock."""
        seen = kept["direction"]
        self._modes[seen], self._visits[seen] = kept["mode"], kept["visits"]
        self._used_s[seen], self._alarm[seen] = now_s - kept["age_s"], kept["alarm"]
        self._levels[seen], self.log_surprise[seen] = kept["levels"], kept["log_surprise"]
        self._log_variance[seen] = kept["log_variance"]
        self._covariance, self._variance = kept["covariance"].copy(), kept["variance"].copy()
        self._updates = int(kept["updates"])
        self._invert()

    def _learn_covariance(self, error: np.ndarray, z: np.ndarray, weight: np.ndarray) -> None:
        self._updates += 1
        rate = max(1.0 / (self._updates + 1.0), 0.1 * LEARNING_RATE)
        found = (weight[:, None] * error).T @ error / len(error)
        self._covariance += rate * (found - self._covariance)
        self._variance += rate * (z.var(axis=0) - self._variance)
        if self._updates % INVERT_EVERY == 1:
            self._invert()

    def _invert(self) -> None:
        floor = COVARIANCE_FLOOR * max(float(self._variance.mean()), 1e-6)
        self._precision = np.linalg.inv(self._covariance + floor * np.eye(len(self._variance)))

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


def _log(surprise: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(surprise, 1e-9))
