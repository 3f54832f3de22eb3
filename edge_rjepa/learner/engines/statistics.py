"""The CPU engine's running statistics of the objective; objective.py has the formulas."""

from __future__ import annotations

import math

import numpy as np
from scipy.linalg import get_blas_funcs, get_lapack_funcs

from edge_rjepa.learner.kernels import products
from edge_rjepa.learner.objective import RENEW_AFTER, blend_rate, half_logdet


class PredictiveInformation:
    """Running mean and covariances of embedding and prediction error, and what follows from them.

    n_embedding: n_z. noise_floor: eps. statistics_fixations: time constant of the running
    estimates in fixations; until that many were seen they are plain averages.
    """

    def __init__(
        self, n_embedding: int, noise_floor: float, statistics_fixations: float, dtype: str
    ):
        self.noise_floor = noise_floor
        self.statistics_fixations = statistics_fixations
        self.fixations = np.zeros(1, np.int64)
        self.mu = np.zeros(n_embedding, dtype)
        self.S_z = np.zeros((n_embedding, n_embedding), dtype)
        self.S_e = np.zeros((n_embedding, n_embedding), dtype)
        self._shift = np.zeros(n_embedding, dtype)
        # Cholesky factors in Fortran order, so that LAPACK works in place.
        self._factor_z = np.zeros((n_embedding, n_embedding), dtype, order="F")
        self._factor_e = np.zeros((n_embedding, n_embedding), dtype, order="F")
        (self._ger,) = get_blas_funcs(("ger",), dtype=np.dtype(dtype))
        self._potrf, self._potrs = get_lapack_funcs(("potrf", "potrs"), dtype=np.dtype(dtype))
        self._moved = np.ones(1)  # of the statistics since they were factored, as a share
        self.factorise()

    def arrays(self) -> dict[str, np.ndarray]:
        """What must be kept to go on as if nothing had happened (views, not copies)."""
        return {
            "fixations": self.fixations, "mu": self.mu, "S_z": self.S_z, "S_e": self.S_e,
            "factor_z": self._factor_z, "factor_e": self._factor_e, "moved": self._moved,
        }  # fmt: skip

    def buffers(self) -> list[np.ndarray]:
        """Every array held."""
        return [array for array in vars(self).values() if isinstance(array, np.ndarray)]

    def loss(self, z, e, centred, d_z, d_zhat, surprise) -> float:
        """The block's loss in nats and its gradients, statistics as they stand.

        z, e (K, n_z) in; centred (K, n_z) = z - mu, d_z = dl/dz, d_zhat = dl/dzhat (K, n_z) and
        surprise (K,) = 1/2 e' P_e e out.
        """
        np.subtract(z, self.mu, out=centred)
        np.copyto(d_z, centred)
        np.negative(e, out=d_zhat)
        self._potrs(self._factor_z, d_z.T, lower=True, overwrite_b=True)
        self._potrs(self._factor_e, d_zhat.T, lower=True, overwrite_b=True)
        np.einsum("ki,ki->k", e, d_zhat, out=surprise)
        surprise *= -0.5
        loss = float(surprise.sum()) - 0.5 * float(np.vdot(centred, d_z))
        np.add(d_z, d_zhat, out=d_z)
        np.negative(d_z, out=d_z)
        return loss

    def observe(self, centred, e) -> None:
        """Move the statistics by a block: centred = z - mu and e, both (K, n_z)."""
        K = len(e)
        rate = blend_rate(K, int(self.fixations[0]), self.statistics_fixations)
        self.fixations += K
        for S, rows in ((self.S_z, centred), (self.S_e, e)):
            products.add_product(rows, rows, S, rate / K, 1.0 - rate)
        shift = self._shift  # of mu
        np.mean(centred, axis=0, out=shift)
        shift *= rate
        self._ger(-1.0, shift, shift, a=self.S_z.T, overwrite_a=True)  # S_z -= shift shift'
        self.mu += shift
        self._moved += rate
        if self._moved[0] >= RENEW_AFTER:
            self.factorise()

    def factorise(self) -> None:
        """Factor S + eps 1 anew."""
        self._factor(self._factor_z, self.S_z)
        self._factor(self._factor_e, self.S_e)
        self._moved[0] = 0.0

    @property
    def information(self) -> float:
        """I in nats as it was when the statistics were last factored; NaN if that failed."""
        return half_logdet(self._factor_z) - half_logdet(self._factor_e)

    def _factor(self, factor, S) -> None:
        np.copyto(factor, S)
        factor.ravel(order="K")[:: len(S) + 1] += self.noise_floor
        _, failed = self._potrf(factor, lower=True, clean=False, overwrite_a=True)
        if failed:  # only S that is not finite is not positive definite: the learner diverged
            factor.ravel(order="K")[:: len(S) + 1] = math.nan
