"""Products of matrices with the few rows of a block, in tiles of registers (microkernels.py).

    forward_product     out <- x w'
    backward_product    out <- d w
    add_product         out <- out + a' b

All matrices are of one dtype and in C order.
"""

from __future__ import annotations

from collections.abc import Callable

from numba.core import config

from edge_rjepa.base.jit import jit, specialise
from edge_rjepa.learner.kernels.microkernels import (
    SHORT,
    TALL,
    VECTOR_BYTES,
    WIDE,
    dot_tile,
    sum_tile,
)

DEEP = 64  # rows of `b` that stay in a core's cache while all tiles meet them
# A product's loops over tiles stand in one function: what it called would be compiled twice.
HEIGHTS = (("tall", TALL), ("short", SHORT), ("single", 1))  # of tiles, in rows


def dots_template(x, w, out):
    """out (K, n) <- x w' for x (K, m), w (n, m): tiles of WIDE columns, then of one."""
    K, n = out.shape
    of_tall, of_short, of_wide = K - K % TALL, K - K % SHORT, n - n % WIDE
    for j in range(0, of_wide, WIDE):
        for k in range(0, of_tall, TALL):
            tall_wide(x, w, out, k, j)  # noqa: F821
        for k in range(of_tall, of_short, SHORT):
            short_wide(x, w, out, k, j)  # noqa: F821
        for k in range(of_short, K):
            single_wide(x, w, out, k, j)  # noqa: F821
    for j in range(of_wide, n):
        for k in range(0, of_tall, TALL):
            tall_narrow(x, w, out, k, j)  # noqa: F821
        for k in range(of_tall, of_short, SHORT):
            short_narrow(x, w, out, k, j)  # noqa: F821
        for k in range(of_short, K):
            single_narrow(x, w, out, k, j)  # noqa: F821


def sums_template(a, b, out, across):
    """out (n, m) += a' b for b (K, m): tiles of WIDE vectors, then of one.

    a is (K, n), or its transpose where K goes across. Then `b` is the large matrix: all rows of
    `out`, which are few, meet a piece of it while that is in the cache. Else `out` is the large
    one, and each stretch of its rows is read and written from left to right, once for DEEP rows.
    """
    lanes = VECTOR_BYTES // out.itemsize
    n, m = out.shape
    of_wide = m - m % (WIDE * lanes)
    strip = max(n, 1) if across else TALL
    for first in range(0, len(b), DEEP):
        end = min(first + DEEP, len(b))
        for top in range(0, n, strip):
            bottom = min(top + strip, n)
            of_tall, of_short = bottom - (bottom - top) % TALL, bottom - (bottom - top) % SHORT
            for j in range(0, of_wide, WIDE * lanes):
                for i in range(top, of_tall, TALL):
                    tall_wide(a, b, out, across, first, end, i, j, lanes)  # noqa: F821
                for i in range(of_tall, of_short, SHORT):
                    short_wide(a, b, out, across, first, end, i, j, lanes)  # noqa: F821
                for i in range(of_short, bottom):
                    single_wide(a, b, out, across, first, end, i, j, lanes)  # noqa: F821
            for j in range(of_wide, m, lanes):
                columns = min(lanes, m - j)
                for i in range(top, of_tall, TALL):
                    tall_narrow(a, b, out, across, first, end, i, j, columns)  # noqa: F821
                for i in range(of_tall, of_short, SHORT):
                    short_narrow(a, b, out, across, first, end, i, j, columns)  # noqa: F821
                for i in range(of_short, bottom):
                    single_narrow(a, b, out, across, first, end, i, j, columns)  # noqa: F821


def _tiled(template: Callable, wide: Callable, narrow: Callable) -> Callable:
    """The compiled template with tiles of all heights: wide(rows) and narrow(rows)."""
    tiles = {f"{name}_wide": wide(rows) for name, rows in HEIGHTS}
    tiles |= {f"{name}_narrow": narrow(rows) for name, rows in HEIGHTS}
    return jit(specialise(template, "tiled", **tiles))


DOTS = _tiled(dots_template, lambda rows: dot_tile(rows, WIDE), lambda rows: dot_tile(rows, 1))
SUMS = _tiled(
    sums_template,
    lambda rows: sum_tile(rows, WIDE),
    lambda rows: sum_tile(rows, 1),
)


def forward_product(x, w, out):
    """out (K, n) <- x w' for x (K, m), w (n, m)."""
    DOTS(x, w, out)


def backward_product(d, w, out):
    """out (K, m) <- d w for d (K, n), w (n, m)."""
    out[:] = 0
    SUMS(d, w, out, True)


def add_product(a, b, out):
    """out (n, m) <- out + a' b for a (K, n), b (K, m)."""
    SUMS(a, b, out, False)


if config.DISABLE_JIT:  # to look into the kernels: the tiles exist in compiled code only

    def forward_product(x, w, out):
        out[:] = x @ w.T

    def backward_product(d, w, out):
        out[:] = d @ w

    def add_product(a, b, out):
        out += a.T @ b
