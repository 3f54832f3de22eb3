"""Predictive information: the objective and its formulas.

    I = 1/2 logdet(S_z + eps 1) - 1/2 logdet(S_e + eps 1)        [nats]

is what the past tells about the next embedding through a channel with noise eps. Within a block mu
and P stand still, and the loss of one fixation is

    l = 1/2 e' P_e e - 1/2 (z - mu)' P_z (z - mu),      P = (S + eps 1)^-1.

See docs/theory.md for why its descent is the ascent of I, and why I keeps z from collapsing.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.linalg import cho_solve, solve_triangular

# P follows the statistics once they have moved by this share: to factor and invert them every time
# would be more work than all the rest, and they hardly change from block to block. With a share of
# 0.025 nothing better is learned (docs/learning.md).
RENEW_AFTER = 0.1


def surprise(e, factor) -> np.ndarray:
    """1/2 e' P e of errors e (N, n_z), (N,) float64 nats; factor: as in `precision`."""
    root, e = np.asarray(factor, np.float64), np.asarray(e, np.float64)
    whitened = solve_triangular(root, e.T, lower=True, check_finite=False)
    return 0.5 * np.square(whitened).sum(axis=0)


def precision(factor) -> np.ndarray:
    """P (n, n) float64; factor: lower Cholesky of P^-1, what is above its diagonal is not read."""
    root = np.asarray(factor, np.float64)
    return cho_solve((root, True), np.eye(len(root)), check_finite=False)


def blend_rate(K: int, fixations: int, time_constant: float) -> float:
    """The share of K new fixations in the statistics: at first as in a plain average."""
    return max(1.0 - math.exp(-K / time_constant), K / (fixations + K))


def half_logdet(factor) -> float:
    """1/2 logdet of what has this Cholesky factor."""
    return float(np.log(factor.diagonal(), dtype=np.float64).sum())


def information(z, z_hat, noise_floor: float) -> float:
    """Predictive information, in nats, of embeddings z and their predictions (N, n_z)."""
    z = np.asarray(z, np.float64)
    e = z - z_hat
    S_z = np.cov(z, rowvar=False, bias=True).reshape(z.shape[1], z.shape[1])
    return information_of(S_z, e.T @ e / len(e), noise_floor)


def information_of(S_z, S_e, noise_floor: float) -> float:
    """Predictive information, in nats, of covariances of embedding and error (n_z, n_z)."""
    noise = noise_floor * np.eye(len(S_z))
    return 0.5 * float(np.linalg.slogdet(S_z + noise)[1] - np.linalg.slogdet(S_e + noise)[1])


def effective_rank(S) -> float:
    """exp of the entropy of the spectrum of a covariance (Roy & Vetterli, 2007): 1 .. n."""
    spectrum = np.clip(np.linalg.eigvalsh(np.asarray(S, np.float64)), 0.0, None)
    total = spectrum.sum()
    if not total > 0.0:
        return 1.0
    share = spectrum[spectrum > 0.0] / total
    return float(np.exp(-(share * np.log(share)).sum()))
