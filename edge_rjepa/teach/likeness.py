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


def likeness(asked: np.ndarray, windows: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """The likeness (M,) of a picture to each name.

    asked: (K, n_z) windows of the picture. windows: (L, n_z) of all looks, name by name. starts:
    (M,) the first window of each name. All windows are of length 1.
    """
    return np.maximum.reduceat(windows @ asked.T, starts, axis=0).mean(axis=1)
