"""The CPU engine's running statistics of the objective; objective.py has the formulas."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy.linalg import get_blas_funcs, get_lapack_funcs

from edge_rjepa.learner.kernels import products
from edge_rjepa.learner.kernels import statistics as kernels
from edge_rjepa.learner.kernels.arrays import Kept, zeros
from edge_rjepa.learner.objective import RENEW_AFTER, blend_rate, half_logdet


class Changes(NamedTuple):
    """What several blocks change of a covariance, block after block: see kernels.observe."""

    rows: np.ndarray  # (rows, n_z)
    scaled: np.ndarray  # (rows, n_z)


class PredictiveInformation:
    """Running mean and covariances of embedding and prediction error, and what follows from them.

    n_embedding: n_z. noise_floor: eps. statistics_fixations: time constant of the running
    estimates in fixations; until that many were seen they are plain averages. room: the most that
    is kept until the covariances take it in. They take in several blocks at once, when that is
    asked for or there is no room for more. How many makes no difference, to the bit.
    """

    def __init__(
        self,
        n_embedding: int,
        noise_floor: float,
        statistics_fixations: float,
        room: Kept,
        dtype: str,
    ):
        self.noise_floor = noise_floor
        self.statistics_fixations = statistics_fixations
        self.fixations = np.zeros(1, np.int64)
        self.mu = np.zeros(n_embedding, dtype)
        self._S_z, self._S_e = (zeros((n_embedding, n_embedding), dtype) for _ in range(2))
        # What is kept: of each block one row more, for the shift of the mean.
        rows = room.fixations + room.blocks, n_embedding
        self._of_z, self._of_e = (Changes(zeros(rows, dtype), zeros(rows, dtype)) for _ in range(2))
        self._columns = zeros(rows[::-1], dtype)
        self._keeps = zeros((room.blocks, 1), dtype)  # 1 - rate, of each block
        self._ends = np.zeros((room.blocks, 1), np.int64)  # its rows and those before it
        self._kept = 0, 0  # rows, blocks
        self._one_sided = False  # S_z and S_e: what is left of their diagonals is older
        # Cholesky factors of S + eps 1 and its inverses, in Fortran order: LAPACK works in place.
        self._factor_z, self._factor_e, self._P_z, self._P_e = (
            zeros((n_embedding, n_embedding), dtype).T for _ in range(4)
        )
        self._potrf, self._lauum = get_lapack_funcs(("potrf", "lauum"), dtype=np.dtype(dtype))
        (self._trsm,) = get_blas_funcs(("trsm",), dtype=np.dtype(dtype))
        self._information = 0.0
        self._moved = np.ones(1)  # of the statistics since they were factored, as a share
        self.factorise()

    def arrays(self) -> dict[str, np.ndarray]:
        """What must be kept to go on as if nothing had happened (views, not copies).

        S_z and S_e are of all that was seen once `settle` was called. Whoever writes into the
        factors calls `follow_factors`.
        """
        return {
            "fixations": self.fixations, "mu": self.mu, "S_z": self._S_z, "S_e": self._S_e,
            "factor_z": self._factor_z, "factor_e": self._factor_e, "moved": self._moved,
        }  # fmt: skip

    def buffers(self) -> list[np.ndarray]:
        """Every array held."""
        held = *vars(self).values(), *self._of_z, *self._of_e
        arrays = {id(array): array for array in held if isinstance(array, np.ndarray)}
        return list(arrays.values())

    def settle(self) -> None:
        """S_z and S_e take in what was kept, on both sides of their diagonals."""
        self._blend()
        if self._one_sided:
            kernels.mirror(self._S_z)
            kernels.mirror(self._S_e)
            self._one_sided = False

    def _blend(self) -> None:
        """S_z and S_e take in what was kept, on and right of their diagonals."""
        end, blocks = self._kept
        if blocks:
            keeps, ends, columns = self._keeps[:blocks], self._ends[:blocks], self._columns
            for S, changes in ((self._S_z, self._of_z), (self._S_e, self._of_e)):
                products.turn(changes.scaled[:end], columns)
                products.blend(keeps, columns, changes.rows[:end], ends, S)
            self._kept, self._one_sided = (0, 0), True

    @property
    def S_z(self) -> np.ndarray:  # noqa: N802, a symbol of docs/theory.md
        """Covariance of the embedding, (n_z, n_z)."""
        self.settle()
        return self._S_z

    @property
    def S_e(self) -> np.ndarray:  # noqa: N802
        """Second moment of the error, (n_z, n_z)."""
        self.settle()
        return self._S_e

    def loss(self, z, e, centred, d_z, d_zhat, surprise) -> float:
        """The block's loss in nats and its gradients, statistics as they stand.

        z, e (K, n_z) in; centred (K, n_z) = z - mu, d_z = dl/dz, d_zhat = dl/dzhat (K, n_z) and
        surprise (K,) = 1/2 e' P_e e out.
        """
        return kernels.measure(
            z, e, self.mu, self._P_z.T, self._P_e.T, centred, d_z, d_zhat, surprise
        )

    def observe(self, centred, e) -> None:
        """Move the statistics by a block: centred = z - mu and e, both (K, n_z)."""
        K = len(e)
        rate = blend_rate(K, int(self.fixations[0]), self.statistics_fixations)
        self.fixations[0] += K
        first, block = self._kept
        if block == len(self._ends) or first + 1 + K > len(self._of_z.rows):
            self._blend()
            first, block = self._kept
        self._keeps[block, 0], self._ends[block, 0] = 1.0 - rate, first + 1 + K
        self._kept = first + 1 + K, block + 1
        kernels.observe(centred, e, rate, self.mu, first, *self._of_z, *self._of_e)
        self._moved[0] += rate
        if self._moved[0] >= RENEW_AFTER:
            self.factorise()

    def factorise(self) -> None:
        """Factor S + eps 1 anew."""
        self._blend()
        self._factor(self._factor_z, self._S_z)
        self._factor(self._factor_e, self._S_e)
        self._moved[0] = 0.0
        self.follow_factors()

    def follow_factors(self) -> None:
        """P = (S + eps 1)^-1 and the information anew: with R = L^-1 of a factor L, P = R' R.

        LAPACK's potri does the same, and takes twice as long: it inverts L row by row.
        """
        for P, factor in ((self._P_z, self._factor_z), (self._P_e, self._factor_e)):
            P[:] = 0
            np.fill_diagonal(P, 1)
            self._trsm(1.0, factor, P, side=1, lower=True, overwrite_b=True)
            self._lauum(P, lower=True, overwrite_c=True)
            kernels.mirror(P.T)
        self._information = half_logdet(self._factor_z) - half_logdet(self._factor_e)

    @property
    def information(self) -> float:
        """I in nats as it was when the statistics were last factored; NaN if that failed."""
        return self._information

    def _factor(self, factor, S) -> None:
        np.copyto(factor, S.T)  # below the diagonal what S has above it
        factor.ravel(order="K")[:: len(S) + 1] += self.noise_floor
        _, failed = self._potrf(factor, lower=True, overwrite_a=True)
        if failed:  # only S that is not finite is not positive definite: the learner diverged
            factor.ravel(order="K")[:: len(S) + 1] = math.nan
