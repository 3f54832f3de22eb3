"""Products of many vectors at once, for the inner loops of solvers."""

from __future__ import annotations

import numpy as np


def cross(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Cross products (..., 3) float64, as of np.cross, which takes much longer."""
    product = np.empty(np.broadcast_shapes(one.shape, other.shape))
    for k in range(3):
        right, left = (k + 1) % 3, (k + 2) % 3
        product[..., k] = one[..., right] * other[..., left]
        product[..., k] -= one[..., left] * other[..., right]
    return product


def crossed(vectors: np.ndarray) -> np.ndarray:
    """Matrices (..., 3, 3) of vectors (..., 3), with crossed(v) @ w = v x w."""
    matrices = np.zeros((*vectors.shape, 3))
    for k in range(3):
        matrices[..., (k + 2) % 3, (k + 1) % 3] = vectors[..., k]
        matrices[..., (k + 1) % 3, (k + 2) % 3] = -vectors[..., k]
    return matrices
