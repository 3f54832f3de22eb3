"""Products of matrices with the few rows of a block, in tiles of registers (microkernels.py).

    forward_product     out <- x w'
    backward_product    out <- d w
    gather              gradient <- gradient + columns rows
    recur               the same of a layer with a past, and E <- T E + gamma u, block after block
    blend               S <- keeps S + columns rows, block after block, where S is symmetric
    turn                out <- x'

All matrices are of one dtype and in C order.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from numba.core import config

from edge_rjepa.base.jit import jit, specialise
from edge_rjepa.learner.kernels.arrays import Blocks
from edge_rjepa.learner.kernels.microkernels import (
    SHORT,
    TALL,
    VECTOR_BYTES,
    WIDE,
    dot_tile,
    recur_tile,
    sum_tile,
    turn_tile,
)

DEEP = 64  # rows of a large matrix that stay in a core's cache while all tiles meet them
PANEL_BYTES = 24 * 1024  # of the rows of a block that stay in the nearest cache
# A product's loops over tiles stand in one function: what it called would be compiled twice.
HEIGHTS = (("tall", TALL), ("short", SHORT), ("single", 1))  # of tiles, in rows


def forward_template(x, w, out):
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


def backward_template(d, w, out):
    """out (K, m) <- d w for d (K, n), w (n, m): tiles of WIDE vectors, then of one.

    All rows of `out`, which are few, meet a piece of `w` while that is in the cache.
    """
    out[:] = 0
    lanes = VECTOR_BYTES // out.itemsize
    K, m = out.shape
    of_tall, of_short, of_wide = K - K % TALL, K - K % SHORT, m - m % (WIDE * lanes)
    for first in range(0, len(w), DEEP):
        end = min(first + DEEP, len(w))
        for j in range(0, of_wide, WIDE * lanes):
            for i in range(0, of_tall, TALL):
                tall_wide(d, w, out, first, end, i, j, lanes)  # noqa: F821
            for i in range(of_tall, of_short, SHORT):
                short_wide(d, w, out, first, end, i, j, lanes)  # noqa: F821
            for i in range(of_short, K):
                single_wide(d, w, out, first, end, i, j, lanes)  # noqa: F821
        for j in range(of_wide, m, lanes):
            columns = min(lanes, m - j)
            for i in range(0, of_tall, TALL):
                tall_narrow(d, w, out, first, end, i, j, columns)  # noqa: F821
            for i in range(of_tall, of_short, SHORT):
                short_narrow(d, w, out, first, end, i, j, columns)  # noqa: F821
            for i in range(of_short, K):
                single_narrow(d, w, out, first, end, i, j, columns)  # noqa: F821


def recur_template(blocks, E, gradient):
    """E (m n, n_u) and gradient (n, n_u) go through all blocks: see `recur_tile`.

    A panel of columns comes first, so that what `u` has of it stays in the nearest cache. UPPER
    leaves out what is left of the diagonal, but for tiles that this crosses.
    """
    lanes = VECTOR_BYTES // gradient.itemsize
    wide = WIDE * lanes
    given = (
        blocks.alpha, blocks.T, blocks.beta, blocks.gamma, blocks.ends, blocks.u,
        E, gradient, blocks.units,
    )  # fmt: skip
    n, n_u = gradient.shape
    of_wide = n_u - n_u % wide
    panel = wide * max(1, PANEL_BYTES // (gradient.itemsize * wide * max(1, len(blocks.u))))
    of_tall, of_high = n - n % TALL_ROWS, n - n % HIGH_ROWS  # noqa: F821
    for left in range(0, of_wide, panel):
        right = min(left + panel, of_wide)
        for i in range(0, of_tall, TALL_ROWS):  # noqa: F821
            for j in range(max(left, i - i % wide) if UPPER else left, right, wide):  # noqa: F821
                tall_wide(*given, i, j, lanes)  # noqa: F821
        for i in range(of_tall, n):
            for j in range(left, right, wide):
                single_wide(*given, i, j, lanes)  # noqa: F821
    for j in range(of_wide, n_u, lanes):
        columns = min(lanes, n_u - j)
        for i in range(0, of_high, HIGH_ROWS):  # noqa: F821
            high_narrow(*given, i, j, columns)  # noqa: F821
        for i in range(of_high, n):
            single_narrow(*given, i, j, columns)  # noqa: F821


def _tiled(template: Callable, wide: Callable, narrow: Callable) -> Callable:
    """The compiled template with tiles of all heights: wide(rows) and narrow(rows)."""
    tiles = {f"{name}_wide": wide(rows) for name, rows in HEIGHTS}
    tiles |= {f"{name}_narrow": narrow(rows) for name, rows in HEIGHTS}
    return jit(specialise(template, "tiled", **tiles))


forward_product = _tiled(
    forward_template, lambda rows: dot_tile(rows, WIDE), lambda rows: dot_tile(rows, 1)
)
backward_product = _tiled(
    backward_template, lambda rows: sum_tile(rows, WIDE), lambda rows: sum_tile(rows, 1)
)


@functools.cache
def recurrence(m: int, credit: bool) -> Callable:
    """The compiled `recur_template` for m values a unit, with a gradient, or for a symmetric E."""
    tall = max(1, TALL // (m + credit))
    high = tall * WIDE
    return jit(
        specialise(
            recur_template,
            f"{m}_{'credit' if credit else 'alone'}",
            UPPER=not credit,
            TALL_ROWS=tall,
            HIGH_ROWS=high,
            tall_wide=recur_tile(tall, WIDE, m, credit),
            single_wide=recur_tile(1, WIDE, m, credit),
            high_narrow=recur_tile(high, 1, m, credit),
            single_narrow=recur_tile(1, 1, m, credit),
        )
    )


@jit
def turn(rows, out):
    """out (n, K or more) <- rows' for rows (K, n): fixations become columns."""
    K, n = rows.shape
    lanes = VECTOR_BYTES // rows.itemsize
    of_tiles, whole = n - n % lanes, K - K % lanes
    for j in range(0, of_tiles, lanes):
        for k in range(0, whole, lanes):
            turn_tile(rows, out, k, j)
    for j in range(n):
        for k in range(whole if j < of_tiles else 0, K):
            out[j, k] = rows[k, j]


if config.DISABLE_JIT:  # to look into the kernels: the tiles exist in compiled code only

    def forward_product(x, w, out):
        out[:] = x @ w.T

    def backward_product(d, w, out):
        out[:] = d @ w

    def turn(rows, out):
        out[:, : len(rows)] = rows.T

    @functools.cache
    def recurrence(m, credit):
        def run(blocks, E, gradient):
            n, n_u = gradient.shape
            E, first = E.reshape(m, n, n_u) if m else E, 0
            repeat = n // blocks.units
            for b, end in enumerate(blocks.ends[:, 0]):
                block = slice(first, end)
                if credit:
                    for a in range(m):
                        alpha = blocks.alpha[b].reshape(m, blocks.units)[a]
                        gradient += np.tile(alpha, repeat)[:, None] * E[a]
                    gradient += blocks.beta[:, block] @ blocks.u[block]
                if m:
                    factors = np.tile(blocks.T[b].reshape(m, m, blocks.units), repeat)
                    E[...] = np.einsum("abn,bnu->anu", factors, E)
                    E += blocks.gamma[:, block].reshape(m, n, -1) @ blocks.u[block]
                first = end

        return run


def gather(columns, rows, gradient):
    """gradient (n, m) <- gradient + columns rows, for columns (n, K or more) and rows (K, m)."""
    ends = np.array([[len(rows)]])
    blocks = Blocks(columns, columns, columns, columns, ends, rows, 1)  # only beta is looked at
    recurrence(0, True)(blocks, gradient, gradient)


def recur(m, blocks, E, gradient):
    """E (m n, n_u) and gradient (n, n_u) go through all blocks: see `recur_tile`."""
    recurrence(m, True)(blocks, E, gradient)


def blend(keeps, columns, rows, ends, S):
    """S's diagonal and what is right of it, block after block: S (n, n) <- keeps S + columns rows.

    keeps, ends (blocks, 1), columns (n, K or more), rows (K, n); each block's product is symmetric.
    """
    blocks = Blocks(keeps, keeps, columns, columns, ends, rows, 1)  # alpha, beta are not looked at
    recurrence(1, False)(blocks, S, S)
