"""Several learners of one network made into one: what a fleet does between rounds.

    w      = sum_i c_i w_i                                   weights, c_i = n_i / sum_j n_j
    mu     = sum_i m_i mu_i                                  m_i: share of learner i's sample
    S_z    = sum_i m_i [S_z,i + (mu_i - mu)(mu_i - mu)']
    S_e    = sum_i m_i S_e,i                                 about zero: errors have no mean

Weights are averaged as McMahan et al. (2017) do: it works for learners that started from the same
weights, of which units have not been permuted. The moments are those of one sample of all that was
seen, exactly (Chan, Golub & LeVeque, 1983), as far as each learner's are of one sample: its last
`statistics_fixations` fixations, or all while they are fewer.

Optimiser and past are not merged: each learner keeps its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from edge_rjepa.errors import InputError
from edge_rjepa.learner import cells, network
from edge_rjepa.learner.config import RJepaConfig
from edge_rjepa.learner.rjepa import RJepa

MOST_FIXATIONS = 2**53
ROUNDING = 1e-3  # of a covariance in float32


class Lesson(NamedTuple):
    """What one learner has learned, as it leaves a robot: nothing of any picture."""

    weights: np.ndarray  # (n,) in the order of `network.Weights`
    mean: np.ndarray  # (n_z,) of the embedding
    covariance: np.ndarray  # (n_z, n_z) of the embedding
    error_covariance: np.ndarray  # (n_z, n_z) E[e e'] of the prediction
    sample: float  # fixations that these three are of
    fixations: int  # seen in all

    def arrays(self) -> list[np.ndarray]:
        """As arrays, in this order, to be sent."""
        return [np.asarray(value) for value in self]


def lesson_of(learner: RJepa) -> Lesson:
    """What a learner has learned until now: copies."""
    held = learner.tensors()
    seen = int(held["statistics.fixations"][0])
    return Lesson(
        held["weights"].copy(),
        held["statistics.mu"].copy(),
        held["statistics.S_z"].copy(),
        held["statistics.S_e"].copy(),
        float(min(seen, learner.config.statistics_fixations)),
        learner.fixations,
    )


def checked(arrays: Sequence[np.ndarray], config: RJepaConfig) -> Lesson:
    """The lesson that somebody sent, of a network of this configuration.

    Raises InputError, in words, for what is none: other shapes or kinds of number, NaN, infinity,
    numbers that would be infinite as the network's, moments that no embedding has, counts beyond
    all use.
    """
    n_z = config.n_embedding
    shapes = {
        "weights": (network.count_weights(config, cells.find(config.cell)),),
        "mean": (n_z,),
        "covariance": (n_z, n_z),
        "error_covariance": (n_z, n_z),
        "sample": (),
        "fixations": (),
    }
    if len(arrays) != len(shapes):
        raise InputError(f"{len(arrays)} arrays, not {len(shapes)}: of another version")
    for (name, shape), array in zip(shapes.items(), arrays, strict=True):
        if not isinstance(array, np.ndarray) or array.shape != shape:
            raise InputError(f"{name} is {np.shape(array)}, not {shape}: of another network")
        if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
            raise InputError(f"{name} is not all finite numbers: the learner diverged")
        # Of the least integer there is no absolute value, so that it would pass for small.
        if shape and (array.dtype.kind != "f" or np.abs(array).max() > np.finfo(config.dtype).max):
            raise InputError(f"its numbers are {array.dtype}, and some are none of {config.dtype}")
    weights, mean, covariance, error_covariance, sample, fixations = arrays
    if not (0 <= sample <= MOST_FIXATIONS and 0 <= fixations <= MOST_FIXATIONS):
        raise InputError(f"{sample} and {fixations} fixations cannot be")
    # An embedding's values lie within -1 and 1, so its moments do; and an error's within -2 and 2.
    if np.abs(mean).max() > 1.0 or np.abs(covariance).max() > 1.0:
        raise InputError("the embedding's moments are beyond those of values within -1 and 1")
    if np.abs(error_covariance).max() > 4.0:
        raise InputError("the error's moments are beyond those of values within -2 and 2")
    for matrix in (covariance, error_covariance):
        if not np.allclose(matrix, matrix.T, atol=ROUNDING):
            raise InputError("a covariance is not symmetric")
        if np.linalg.eigvalsh(np.asarray(matrix, np.float64)).min() < -ROUNDING:
            raise InputError("a variance is negative")
    if (np.square(mean) + covariance.diagonal()).max() > 1.0 + ROUNDING:  # the means of squares
        raise InputError("the embedding's moments are beyond those of values within -1 and 1")
    dtype = config.dtype
    return Lesson(
        weights.astype(dtype),
        mean.astype(dtype),
        covariance.astype(dtype),
        error_covariance.astype(dtype),
        float(sample),
        int(fixations),
    )


def merged(lessons: Sequence[Lesson], counts: Sequence[float] | None = None) -> Lesson:
    """One lesson of several.

    counts: what each weighs in the average of weights, such as the fixations since they last were
    the same; those seen in all if None. Raises InputError where there is nothing to merge.
    """
    if not lessons or len({lesson.weights.shape for lesson in lessons}) > 1:
        raise InputError("lessons of one and the same network are merged, one at least")
    shares = _shares([lesson.fixations for lesson in lessons] if counts is None else counts)
    parts = _shares([lesson.sample for lesson in lessons])
    mean = _mean(parts, [lesson.mean for lesson in lessons])
    apart = [lesson.mean - mean for lesson in lessons]
    covariances = [
        lesson.covariance + np.outer(shift, shift)
        for lesson, shift in zip(lessons, apart, strict=True)
    ]
    dtype = lessons[0].weights.dtype
    return Lesson(
        _mean(shares, [lesson.weights for lesson in lessons]).astype(dtype),
        mean.astype(dtype),
        _mean(parts, covariances).astype(dtype),
        _mean(parts, [lesson.error_covariance for lesson in lessons]).astype(dtype),
        sum(lesson.sample for lesson in lessons),
        sum(lesson.fixations for lesson in lessons),
    )


def adopt(learner: RJepa, lesson: Lesson) -> None:
    """Go on from this lesson; optimiser, past and the count of fixations stay the learner's own."""
    factors = {
        f"statistics.factor_{which}": _factor(covariance, learner.config.noise_floor)
        for which, covariance in (("z", lesson.covariance), ("e", lesson.error_covariance))
    }
    learner.set_learned(
        {
            "weights": lesson.weights,
            "statistics.mu": lesson.mean,
            "statistics.S_z": lesson.covariance,
            "statistics.S_e": lesson.error_covariance,
            "statistics.fixations": np.array([lesson.sample], np.int64),
            "statistics.moved": np.zeros(1),
            **factors,
        }
    )


def _shares(counts: Sequence[float]) -> np.ndarray:
    """Of a whole of 1; equal ones where there is nothing to count."""
    values = np.asarray(counts, np.float64)
    total = values.sum()
    return values / total if total > 0.0 else np.full(len(values), 1.0 / len(values))


def _mean(shares: np.ndarray, arrays: Sequence[np.ndarray]) -> np.ndarray:
    """In float64, array by array: a fleet's lessons need not fit in memory twice."""
    total = np.zeros(arrays[0].shape)
    for share, array in zip(shares, arrays, strict=True):
        total += share * array
    return total


def _factor(covariance: np.ndarray, noise_floor: float) -> np.ndarray:
    """Lower Cholesky factor of S + eps 1."""
    S = np.asarray(covariance, np.float64)
    try:
        return np.linalg.cholesky(0.5 * (S + S.T) + noise_floor * np.eye(len(S)))
    except np.linalg.LinAlgError as error:
        raise InputError("a merged covariance is none: a lesson was damaged") from error
