"""Products of matrices with the few rows of a block, each by whatever is fastest for it.

    forward_product     out <- x w'           a loop
    backward_product    out <- d w            NumPy's BLAS
    add_product         out <- out + d' x     SciPy's BLAS, since NumPy gives no access to sums

BLAS copies a matrix that it reads across its rows before it multiplies. For the 16 rows of a block
that takes as long as the product.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import blas

from edge_rjepa.base.jit import jit

GEMM = {"f": blas.sgemm, "d": blas.dgemm}


@jit(fastmath={"reassoc", "contract", "nsz"})  # a sum in any order can be vectorised
def forward_product(x, w, out):
    """out (K, n) <- x w' for x (K, m), w (n, m).

    Four rows of x meet three of w at a time: as many sums as registers hold, for seven reads.
    """
    K, n = out.shape
    of_fours, of_threes = K - K % 4, n - n % 3
    zero = w.dtype.type(0)
    for j in range(0, of_threes, 3):
        w0, w1, w2 = w[j], w[j + 1], w[j + 2]
        for k in range(0, of_fours, 4):
            x0, x1, x2, x3 = x[k], x[k + 1], x[k + 2], x[k + 3]
            s00 = s01 = s02 = s10 = s11 = s12 = s20 = s21 = s22 = s30 = s31 = s32 = zero
            for i in range(w0.size):
                s00 += x0[i] * w0[i]
                s01 += x0[i] * w1[i]
                s02 += x0[i] * w2[i]
                s10 += x1[i] * w0[i]
                s11 += x1[i] * w1[i]
                s12 += x1[i] * w2[i]
                s20 += x2[i] * w0[i]
                s21 += x2[i] * w1[i]
                s22 += x2[i] * w2[i]
                s30 += x3[i] * w0[i]
                s31 += x3[i] * w1[i]
                s32 += x3[i] * w2[i]
            out[k, j], out[k, j + 1], out[k, j + 2] = s00, s01, s02
            out[k + 1, j], out[k + 1, j + 1], out[k + 1, j + 2] = s10, s11, s12
            out[k + 2, j], out[k + 2, j + 1], out[k + 2, j + 2] = s20, s21, s22
            out[k + 3, j], out[k + 3, j + 1], out[k + 3, j + 2] = s30, s31, s32
        for k in range(of_fours, K):
            x0 = x[k]
            s0 = s1 = s2 = zero
            for i in range(w0.size):
                s0 += x0[i] * w0[i]
                s1 += x0[i] * w1[i]
                s2 += x0[i] * w2[i]
            out[k, j], out[k, j + 1], out[k, j + 2] = s0, s1, s2
    for j in range(of_threes, n):
        w0 = w[j]
        for k in range(K):
            x0, s0 = x[k], zero
            for i in range(w0.size):
                s0 += x0[i] * w0[i]
            out[k, j] = s0


def backward_product(d, w, out):
    """out (K, m) <- d w for d (K, n), w (n, m)."""
    np.dot(d, w, out)


def add_product(a, b, out, scale=1.0, keep=1.0):
    """out (n, m) <- keep out + scale a' b for a (K, n), b (K, m): BLAS adds where the result lies.

    All in C order, which BLAS reads as their transposes.
    """
    GEMM[out.dtype.char](scale, b.T, a.T, keep, out.T, False, True, True)
