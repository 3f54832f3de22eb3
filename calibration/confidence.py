"""How well a fit is known: a bootstrap over views.

What disturbs a view (blur, light, a board that bends) disturbs all its corners alike, so it is
views that are drawn anew, with random weights (the Bayesian bootstrap of Rubin, 1981), and the fit
follows each draw by the one Gauss-Newton step that the linearised problem needs. Two corrections
make it hold with a dozen views. A view pulls the fit towards itself and so looks better than it is;
left out it would look worse: what it pulls is taken as the mean of both. And intervals are
Student's, with as many degrees of freedom as there are views to spare.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.stats import t as student

from calibration.bundle import Linear

DRAWS = 1000
LEVEL = 0.95


class Confidence(NamedTuple):
    """Of the unknowns of a fit, in their order."""

    covariance: np.ndarray  # (G, G)
    factor: float  # an interval of `LEVEL` reaches so many standard errors to either side


def bootstrap(
    linear: Linear, unknowns: int, noise_px: float, rng: np.random.Generator
) -> Confidence:
    """The covariance of the first `unknowns` unknowns of a fit linearised about its best."""
    views = len(linear.residuals)
    rows = linear.by_unknown.reshape(views, -1, linear.by_unknown.shape[-1])
    squares = np.einsum("vni,vnj->vij", rows, rows)
    pulls = np.einsum("vni,vn->vi", rows, linear.residuals.reshape(views, -1))
    total = squares.sum(0) + np.diag(linear.prior**2)
    pulls = 0.5 * (pulls + _as_left_out(total, squares, pulls))
    steps = np.empty((DRAWS, len(total)))
    for draw in range(DRAWS):
        weights = rng.exponential(size=views)
        weights *= views / weights.sum()
        drawn = np.einsum("v,vij->ij", weights, squares) + np.diag(linear.prior**2)
        pull = (weights - 1.0) @ pulls
        pull += noise_px * linear.prior * rng.standard_normal(len(total))
        steps[draw] = np.linalg.solve(drawn, pull)
    spread = np.atleast_2d(np.cov(steps[:, :unknowns].T)) * (views + 1) / views
    return Confidence(spread, float(student.ppf(0.5 + 0.5 * LEVEL, views - 1)))


def by_noise(linear: Linear, unknowns: int, noise_px: float) -> np.ndarray:
    """The covariance (G, G) if every corner were off by `noise_px` each way, by itself."""
    rows = linear.by_unknown.reshape(-1, linear.by_unknown.shape[-1])
    total = rows.T @ rows + np.diag(linear.prior**2)
    return noise_px**2 * np.linalg.pinv(total, hermitian=True)[:unknowns, :unknowns]


def _as_left_out(total, squares, pulls) -> np.ndarray:
    """What each view would pull (V, G) had the fit been made without it."""
    return np.stack(
        [
            total @ np.linalg.solve(total - square + 1e-9 * np.diag(np.diag(total)), pull)
            for square, pull in zip(squares, pulls, strict=True)
        ]
    )
