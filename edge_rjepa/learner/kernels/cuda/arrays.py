"""The arrays of the GPU: the table of network.py with a leading axis for the stream, and scratch.

Each group is one stretch of memory, `flat`, in which the arrays lie one after another, every one
(streams, ...) in C order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import numpy as np

from edge_rjepa.learner import network
from edge_rjepa.learner.cells import Cell
from edge_rjepa.learner.config import RJepaConfig
from edge_rjepa.learner.kernels.cuda.tiles import Tiles, count
from edge_rjepa.learner.network import Activations, Shape, Traces, Weights

Allocate = Callable[[tuple[int, ...], np.dtype], Any]  # zeros of a shape and dtype

# What the host tells the kernels of a block, a number each, ahead of features and efference copies.
ADAM, ADAM_ENCODER = 0, 4  # four numbers each, as in kernels/arrays.py
TAKES_STEP = 8  # 1 where a step is taken with the gradients of this block and those before
LAST = 9  # row of x, hidden, z and y that holds the fixation before the block
RATE, KEEP, WEIGHT, MEAN_WEIGHT = 10, 11, 12, 13  # of the statistics: r, 1 - r, r / K, r r
RENEW = 14  # 1 where the statistics are to be factored after the block
NUMBERS = 15

ALIGNED = 64  # numbers


@dataclass(frozen=True)
class Workspace(Activations):
    """Everything a block needs."""

    flat: Any
    d_2: Annotated[Any, "K n_p"]  # dl/d(V_2 p1)
    d_1: Annotated[Any, "K n_p"]  # dl/d(V_1 c)
    d_gain: Annotated[Any, "K n_g"]  # dl/d(G_a a)
    d_hidden: Annotated[Any, "K+1 n_e"]  # dl/d(W_x x)
    beta: Annotated[Any, "K G*n_h"]
    gamma: Annotated[Any, "K m G*n_h"]
    alpha: Annotated[Any, "m n_h"]
    T: Annotated[Any, "m m n_h"]
    numbers: Any  # (B, NUMBERS)


class Statistics(NamedTuple):
    """Of the embedding, index 0, and of its prediction's error, index 1."""

    mu: Any  # (B, n_z)
    S: Any  # (B, 2, n_z, n_z)
    factor: Any  # (B, 2, n_z, n_z)   lower Cholesky factor of S + eps 1 as last renewed
    P: Any  # (B, 2, n_z, n_z)        its inverse
    report: Any  # (B, 2 + 2 max_block) float64: 1/2 logdet of S_z + eps 1 and of S_e + eps 1,
    #              then of each fixation a pair, its surprise and the share of z in its loss


def weights(config: RJepaConfig, cell: Cell, streams: int, allocate: Allocate) -> Weights:
    """W as a matrix, (B, G n_h, n_u)."""
    shapes = network.weight_shapes(config, cell)
    shapes["W"] = _as_matrix(shapes["W"])
    return Weights(**_lay_out(shapes, streams, np.dtype(config.dtype), allocate))


def traces(config: RJepaConfig, cell: Cell, streams: int, allocate: Allocate) -> Traces:
    """E as m matrices, (B, m, G n_h, n_u)."""
    shapes = network.shapes(Traces, network.sizes(config, cell))
    m, *of_W = shapes["E"]
    shapes["E"] = m, *_as_matrix(of_W)
    dtype = np.dtype(config.dtype)
    return Traces(**{name: allocate((streams, *shape), dtype) for name, shape in shapes.items()})


def _as_matrix(shape: Sequence[int]) -> tuple[int, int]:
    """(G, n_h, n_u) as G n_h rows."""
    G, n_h, n_u = shape
    return G * n_h, n_u


def workspace(config: RJepaConfig, cell: Cell, streams: int, allocate: Allocate) -> Workspace:
    """Room for blocks of up to max_block fixations, all zero: `constant_ones` go in once."""
    shapes = network.shapes(Workspace, network.sizes(config, cell)) | {"numbers": (NUMBERS,)}
    return Workspace(**_lay_out(shapes, streams, np.dtype(config.dtype), allocate))


def constant_ones(ws: Workspace) -> dict[str, np.ndarray]:
    """What the arrays that end with a constant 1 hold at the start."""
    start = {}
    for name in network.END_WITH_1:
        array = getattr(ws, name)
        start[name] = np.zeros(array.shape, array.dtype)
        start[name][:, network.first_row_with_1(name) :, -1] = 1
    return start


def statistics(config: RJepaConfig, streams: int, allocate: Allocate) -> Statistics:
    n, dtype = config.n_embedding, np.dtype(config.dtype)
    square = (streams, 2, n, n)
    return Statistics(
        mu=allocate((streams, n), dtype),
        S=allocate(square, dtype),
        factor=allocate(square, dtype),
        P=allocate(square, dtype),
        report=allocate((streams, 2 + 2 * config.max_block), np.dtype(np.float64)),
    )


def descent_table(config: RJepaConfig, p: Weights, ws: Workspace, tiles: Tiles) -> np.ndarray:
    """What `descend` must know of each matrix without a past, a row of int64 each.

    First block, rows, columns, where it starts in Weights.flat; where d_out starts in
    Workspace.flat, and its rows a stream; the same of x; rows of a block beyond K; which of Adam's
    numbers. A last row ends the first column. The largest matrix is first: its blocks take longest.
    """
    rows = []
    first_block = 0
    for layer in sorted(
        network.layers_without_past(config),
        key=lambda layer: getattr(p, layer.matrix).size,
        reverse=True,
    ):
        matrix, d, x = getattr(p, layer.matrix), getattr(ws, layer.d_out), getattr(ws, layer.reads)
        _, n_rows, n_columns = matrix.shape
        rows.append(
            (
                first_block, n_rows, n_columns, _start(p, layer.matrix),
                _start(ws, layer.d_out), d.shape[1], _start(ws, layer.reads), x.shape[1],
                int(layer.encoder), ADAM_ENCODER if layer.encoder else ADAM,
            )
        )  # fmt: skip
        first_block += count(n_rows, tiles.update_rows) * count(n_columns, tiles.update_columns)
    rows.append((first_block,) + (0,) * 9)
    return np.array(rows, np.int64)


def _lay_out(
    shapes: Mapping[str, Shape], streams: int, dtype: np.dtype, allocate: Allocate
) -> dict[str, Any]:
    """The stretch of memory, `flat`, and the array of each shape in it; None for an empty one."""
    sizes = {name: streams * math.prod(shape) for name, shape in shapes.items()}
    flat = allocate((sum(map(_pad, sizes.values())),), dtype)
    arrays, at = {"flat": flat}, 0
    for name, size in sizes.items():
        arrays[name] = flat[at : at + size].reshape(streams, *shapes[name]) if size else None
        at += _pad(size)
    return arrays


def _start(group: Weights | Workspace, name: str) -> int:
    """Where in the group's memory an array starts."""
    kind: type = type(group)
    names = list(network.declarations(kind))
    before = (getattr(group, each) for each in names[: names.index(name)])
    return sum(_pad(array.size) for array in before if array is not None)


def _pad(size: int) -> int:
    """Every array starts at a whole number of memory transactions."""
    return count(size, ALIGNED) * ALIGNED
