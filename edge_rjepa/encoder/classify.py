"""Plain classifiers for rows of features: what a probe asks them with."""

from __future__ import annotations

import numpy as np

PENALTIES = 10.0 ** np.arange(-2, 6)
NEIGHBOURS = 5


def ridge(rows: np.ndarray, labels: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Labels (M,) of the rows asked (M, d), by ridge regression on the classes of rows (N, d).

    Rows are standardised. The penalty is the one with the least squared error where each row is
    left out in turn, which for ridge regression needs no refitting: residual / (1 - leverage).
    """
    rows, asked = _standardise(rows, asked)
    classes, index = np.unique(labels, return_inverse=True)
    targets = np.eye(len(classes))[index]
    centre = targets.mean(axis=0)
    u, s, vt = np.linalg.svd(rows, full_matrices=False)
    along = u.T @ (targets - centre)

    def left_out(penalty: float) -> float:
        shrunk = s**2 / (s**2 + penalty)
        residual = targets - centre - u @ (shrunk[:, None] * along)
        leverage = (u**2) @ shrunk + 1 / len(rows)  # of the rows, and of the mean
        rest = np.maximum(1.0 - leverage, 1e-12)[:, None]
        return float(np.square(residual / rest).sum())

    best = min(PENALTIES * len(rows) / 100, key=left_out)
    weights = vt.T @ ((s / (s**2 + best))[:, None] * along)
    return classes[(asked @ weights + centre).argmax(axis=1)]


def nearest(rows: np.ndarray, labels: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Labels (M,) of the rows asked (M, d): the commonest among the NEIGHBOURS nearest rows (N, d).

    Rows are standardised, distances Euclidean; of equally common ones the nearest decides.
    """
    rows, asked = _standardise(rows, asked)
    classes, index = np.unique(labels, return_inverse=True)
    k = min(NEIGHBOURS, len(rows))
    squared = (rows**2).sum(axis=1) - 2.0 * asked @ rows.T
    near = np.argsort(squared, axis=1, kind="stable")[:, :k]
    return classes[commonest(index[near], len(classes))]


def commonest(near: np.ndarray, classes: int) -> np.ndarray:
    """The commonest class (M,) in each row of near (M, k), numbers of classes, the nearest first.

    Of equally common ones the nearest decides.
    """
    # A vote counts a little more than all that are further away can, and less than two.
    votes = np.zeros((len(near), classes))
    for place in range(near.shape[1]):
        votes[np.arange(len(near)), near[:, place]] += 1.0 + 0.5 ** (place + 1)
    return votes.argmax(axis=1)


def nearest_by_cosine(rows: np.ndarray, labels: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Labels (M,) of the rows asked (M, d): that of the row (N, d) with the largest product.

    All rows are of length 1, as descriptions are.
    """
    return np.asarray(labels)[(np.asarray(asked) @ np.asarray(rows).T).argmax(axis=1)]


def _standardise(rows: np.ndarray, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both by mean and standard deviation of the rows; what never varies counts nothing."""
    rows, asked = np.asarray(rows, np.float64), np.asarray(asked, np.float64)
    centre, spread = rows.mean(axis=0), rows.std(axis=0)
    scale = np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 1e-9)
    return (rows - centre) * scale, (asked - centre) * scale
