"""How like a picture is to what was taught: each of its windows finds the one most like it.

A look is K whitened embeddings, the windows of a picture's scan. The likeness of a picture to a
name is

    1/K sum_k max_j  u_k . v_j

over the windows k of the picture and all windows j of the name's looks, u and v of length 1: the
naive Bayes nearest neighbour of Boiman, Shechtman & Irani (CVPR 2008), with a cosine in place of a
distance. Nothing is fitted. So a name can be added or taken away without a trace, and one look is
enough to begin with. A part of a place that was never seen changes one window, not the picture.
"""

from __future__ import annotations

import numpy as np


def directions(white: np.ndarray) -> np.ndarray:
    """Whitened embeddings (.., n_z), each scaled to length 1, float32; zeros stay zeros."""
    length = np.linalg.norm(white, axis=-1, keepdims=True)
    return (white / np.maximum(length, 1e-12)).astype(np.float32)


def best_windows(asked: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The likeness of each window asked (K, n_z) to the most alike of each look: (K, N).

    known: (N, J, n_z), J windows of N looks. All are of length 1.
    """
    looks, windows, n_z = known.shape
    products = asked @ known.reshape(looks * windows, n_z).T
    return products.reshape(len(asked), looks, windows).max(axis=2)


def of_names(best: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """The likeness (M,) to each name, from best_windows (K, N) of looks that lie name by name.

    starts: (M,) the first look of each name.
    """
    return np.maximum.reduceat(best, starts, axis=1).mean(axis=0)
