"""The arrays of the GPU: those of kernels/arrays.py with a leading axis for the stream.

Each group is one stretch of memory, `flat`, in which the arrays lie one after another, every one
(streams, ...) in C order. The sizes are as in kernels/arrays.py; M is max_block.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from edge_rjepa.learner.cells import Cell
from edge_rjepa.learner.config import RJepaConfig
from edge_rjepa.learner.kernels.arrays import weight_shapes
from edge_rjepa.learner.kernels.cuda.tiles import Tiles, count

Allocate = Callable[[tuple[int, ...], np.dtype], Any]  # zeros of a shape and dtype

# What the host tells the kernels of a block, a number each, ahead of features and efference copies.
ADAM, ADAM_ENCODER = 0, 5  # five numbers each, as in kernels/arrays.py
MODE = 10  # STEP, GATHER, STEP_GATHERED
LAST = 11  # row of x, z and y that holds the fixation before the block
RATE, KEEP, WEIGHT, MEAN_WEIGHT = 12, 13, 14, 15  # of the statistics: r, 1 - r, r / K, r r
RENEW = 16  # 1 where the statistics are to be factored after the block
NUMBERS = 17

ALIGNED = 64  # numbers


class Weights(NamedTuple):
    """One number for every learned weight; a matrix has one row an output."""

    flat: Any  # all of them, as the kernels that go over several matrices see them
    W: Any  # (B, G n_h, n_u)
    W_z: Any  # (B, n_z, f+1)
    lam: Any  # (B, L, n_h)
    G_a: Any  # (B, n_g, A+1)
    G_b: Any  # (B, n_p, n_g+1)
    V_1: Any  # (B, n_p, n_c)
    V_2: Any  # (B, n_p, n_p+1)
    V_3: Any  # (B, n_z, n_p+1)


class Traces(NamedTuple):
    """Sensitivities of the carried state to the weights that made it."""

    E: Any  # (B, m, G n_h, n_u)
    e_lam: Any  # (B, L, m, n_h)


class Workspace(NamedTuple):
    """Everything a block needs. Rows 1..K of x, z, y, d_z are the block's, row 0 the one before."""

    flat: Any
    x: Any  # (B, M+1, f+1)         features, 1
    a: Any  # (B, M, A+1)           efference copy, 1
    z: Any  # (B, M+1, n_z)
    u: Any  # (B, M, n_u)
    s: Any  # (B, M, G, n_h)
    y: Any  # (B, M+1, m, n_h)
    J: Any  # (B, M, m, m, n_h)
    B: Any  # (B, M, m, G, n_h)
    D: Any  # (B, M, m, L, n_h)
    c: Any  # (B, M, n_c)
    gain: Any  # (B, M, n_g+1)
    g: Any  # (B, M, n_p)
    q: Any  # (B, M, n_p)
    p1: Any  # (B, M, n_p+1)
    p2: Any  # (B, M, n_p+1)
    zhat: Any  # (B, M, n_z)
    e: Any  # (B, M, n_z)
    centred: Any  # (B, M, n_z)
    d_zhat: Any  # (B, M, n_z)
    d_z: Any  # (B, M+1, n_z)       dl/dz, then dl/d(W_z [x; 1])
    d_2: Any  # (B, M, n_p)         dl/d(V_2 p1)
    d_1: Any  # (B, M, n_p)         dl/d(V_1 c)
    d_g: Any  # (B, M, n_p)         dl/d(G_b gain)
    d_gain: Any  # (B, M, n_g)      dl/d(G_a a)
    delta: Any  # (B, M, m, n_h)
    beta: Any  # (B, M, G n_h)
    gamma: Any  # (B, M, m, G n_h)
    alpha: Any  # (B, m, n_h)
    T: Any  # (B, m, m, n_h)
    numbers: Any  # (B, NUMBERS)


class Statistics(NamedTuple):
    """Of the embedding, index 0, and of its prediction's error, index 1."""

    mu: Any  # (B, n_z)
    S: Any  # (B, 2, n_z, n_z)
    factor: Any  # (B, 2, n_z, n_z)   lower Cholesky factor of S + eps 1 as last renewed
    P: Any  # (B, 2, n_z, n_z)        its inverse
    report: Any  # (B, 2 M + 2) float64: surprise and share of z in the loss of each fixation, a
    #              pair each; before them 1/2 logdet of S_z + eps 1 and of S_e + eps 1


def weights(config: RJepaConfig, cell: Cell, streams: int, allocate: Allocate) -> Weights:
    shapes = {
        name: (shape[0] * shape[1], shape[2]) if name == "W" else shape
        for name, shape in weight_shapes(config, cell).items()
    }
    return Weights(*_laid_out(shapes, streams, np.dtype(config.dtype), allocate))


def traces(config: RJepaConfig, cell: Cell, streams: int, allocate: Allocate) -> Traces:
    G, n_h, n_u = weight_shapes(config, cell)["W"]
    m, L = cell.n_state, cell.n_parameters
    dtype = np.dtype(config.dtype)
    return Traces(
        allocate((streams, m, G * n_h, n_u), dtype), allocate((streams, L, m, n_h), dtype)
    )


def workspace(config: RJepaConfig, cell: Cell, streams: int, allocate: Allocate) -> Workspace:
    """Room for blocks of up to max_block fixations, all zero: `constant_ones` go in once."""
    n_z, n_h, n_p, n_g = (
        config.n_embedding, config.n_hidden, config.n_predictor, config.n_gain,
    )  # fmt: skip
    f, A, M = config.n_features, config.n_efference, config.max_block
    m, G, L = cell.n_state, cell.n_drives, cell.n_parameters
    n_u, n_c = config.n_memory_input + 1, len(cell.reads) * n_h + n_z + A + 1
    shapes = {
        "x": (M + 1, f + 1), "a": (M, A + 1), "z": (M + 1, n_z), "u": (M, n_u),
        "s": (M, G, n_h), "y": (M + 1, m, n_h), "J": (M, m, m, n_h), "B": (M, m, G, n_h),
        "D": (M, m, L, n_h), "c": (M, n_c), "gain": (M, n_g + 1), "g": (M, n_p), "q": (M, n_p),
        "p1": (M, n_p + 1), "p2": (M, n_p + 1), "zhat": (M, n_z), "e": (M, n_z),
        "centred": (M, n_z), "d_zhat": (M, n_z), "d_z": (M + 1, n_z), "d_2": (M, n_p),
        "d_1": (M, n_p), "d_g": (M, n_p), "d_gain": (M, n_g), "delta": (M, m, n_h),
        "beta": (M, G * n_h), "gamma": (M, m, G * n_h), "alpha": (m, n_h), "T": (m, m, n_h),
        "numbers": (NUMBERS,),
    }  # fmt: skip
    return Workspace(*_laid_out(shapes, streams, np.dtype(config.dtype), allocate))


def constant_ones(ws: Workspace) -> dict[str, np.ndarray]:
    """What the arrays that end with a constant 1 hold at the start; row 0 of x: no fixation."""
    start = {}
    for name in ("x", "a", "u", "c", "gain", "p1", "p2"):
        array = getattr(ws, name)
        start[name] = np.zeros(array.shape, array.dtype)
        start[name][:, int(name == "x") :, -1] = 1
    return start


def statistics(config: RJepaConfig, streams: int, allocate: Allocate) -> Statistics:
    n, dtype = config.n_embedding, np.dtype(config.dtype)
    square = (streams, 2, n, n)
    return Statistics(
        allocate((streams, n), dtype),
        *(allocate(square, dtype) for _ in range(3)),
        allocate((streams, 2 + 2 * config.max_block), np.dtype(np.float64)),
    )


def descent_table(p: Weights, ws: Workspace, tiles: Tiles) -> np.ndarray:
    """What `descend` must know of each matrix without a past, a row of int64 each.

    First block, rows, columns, where it starts in Weights.flat; where d_out starts in
    Workspace.flat, and its rows a stream; the same of x; rows of a block beyond K; which of Adam's
    numbers. A last row ends the first column.
    """
    rows = []
    first_block = 0
    for name, d_name, x_name in MATRICES:
        matrix, d, x = getattr(p, name), getattr(ws, d_name), getattr(ws, x_name)
        _, n_rows, n_columns = matrix.shape
        encoder = name == "W_z"
        rows.append(
            (
                first_block, n_rows, n_columns, _start(p, name),
                _start(ws, d_name), d.shape[1], _start(ws, x_name), x.shape[1],
                int(encoder), ADAM_ENCODER if encoder else ADAM,
            )
        )  # fmt: skip
        first_block += count(n_rows, tiles.update_rows) * count(n_columns, tiles.update_columns)
    rows.append((first_block,) + (0,) * 9)
    return np.array(rows, np.int64)


# name of the matrix, of the gradient of what it makes, and of what it reads
MATRICES = (
    ("V_1", "d_1", "c"), ("V_2", "d_2", "p1"), ("V_3", "d_zhat", "p2"),
    ("W_z", "d_z", "x"), ("G_b", "d_g", "gain"), ("G_a", "d_gain", "a"),
)  # fmt: skip


def _laid_out(shapes, streams, dtype, allocate):
    """The stretch of memory, and the array of each shape in it."""
    sizes = [streams * math.prod(shape) for shape in shapes.values()]
    flat = allocate((sum(_padded(size) for size in sizes),), dtype)
    arrays, at = [flat], 0
    for size, shape in zip(sizes, shapes.values(), strict=True):
        arrays.append(flat[at : at + size].reshape(streams, *shape))
        at += _padded(size)
    return arrays


def _start(group: Weights | Workspace, name: str) -> int:
    """Where in the group's memory an array starts."""
    before = group[1 : group._fields.index(name)]
    return sum(_padded(array.size) for array in before)


def _padded(size: int) -> int:
    """Every array starts at a whole number of memory transactions."""
    return count(size, ALIGNED) * ALIGNED
