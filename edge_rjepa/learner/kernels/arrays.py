"""What the CPU's kernels work on, allocated once: the table of network.py, and scratch.

The arrays' shapes are declared as there. A kernel is handed views of the few that it needs.

Matrices, and what is multiplied with them, have longer rows here: after the constant 1 come zeros,
until a row fills whole cache lines. Then each row starts at one, and their products have no rest
of a row. What is zero stays so while all is finite: it is multiplied by zero, its gradient is zero,
and Adam leaves it. `packed` and `unpack` are the way to the table's shapes and back.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import numpy as np

from edge_rjepa.learner import network
from edge_rjepa.learner.cells import Cell
from edge_rjepa.learner.config import RJepaConfig
from edge_rjepa.learner.network import Activations, Array, Traces, Weights

PAGE, CACHE_LINE = 4096, 64  # bytes
# A matrix and what it reads, or both not: products rely on rows of one length. G_a and `a`, a few
# numbers a row, would become several times as long.
WHOLE_LINES = frozenset(
    ("W", "W_x", "W_z", "G_b", "V_1", "V_2", "V_3", "E")
    + ("x", "hidden", "u", "c", "gain", "p1", "p2", "back_hidden", "back_c", "back_gain", "back_p")
)
# What gradients and traces are made of is kept of several blocks: rows, or one thing a block.
KEPT = frozenset(
    [layer.reads for layer in (*network.PREDICTOR, *network.DEEP_ENCODER)]
    + [layer.d_out for layer in (*network.PREDICTOR, *network.DEEP_ENCODER)]
    + ["u", "beta", "gamma"]
)
KEPT_BLOCKWISE = frozenset(("alpha", "T"))
MOST_FIXATIONS, MOST_BLOCKS = 128, 16  # a product with 256 rows is no faster


class Adam(NamedTuple):
    """Adam's numbers for one step, in the dtype of the weights; it keeps no first moment."""

    rate: np.floating
    blend: np.floating  # 1 - beta2
    correction: np.floating  # 1 / (1 - beta2^t)
    epsilon: np.floating


class Descent(NamedTuple):
    """What takes a step, and how; gradients are zero after it."""

    weights: Weights
    m2: Weights  # Adam's second moment: running means of squared gradients
    adam: Adam
    adam_encoder: Adam  # for the encoder's matrices


class Blocks(NamedTuple):
    """What blocks make of a gradient (n, n_u), of traces E (m n, n_u), or of both.

    A covariance is such an E. docs/theory.md, "Several blocks at once"; `microkernels.recur_tile`
    has the recurrence.
    """

    alpha: np.ndarray  # (blocks, m units)
    T: np.ndarray  # (blocks, m m units)
    beta: np.ndarray  # (n, fixations or more)
    gamma: np.ndarray  # (m n, fixations or more)
    ends: np.ndarray  # (blocks, 1) int64: the fixations of a block and those before it
    u: np.ndarray  # (fixations, n_u)
    units: int  # rows so far apart share alpha and T


class Kept(NamedTuple):
    """How much of a workspace holds blocks that gradients and traces have not taken in yet."""

    fixations: int
    blocks: int


def room(config: RJepaConfig) -> Kept:
    """The most that is kept: the blocks of a step, as far as that is of use."""
    blocks = min(config.update_every, MOST_BLOCKS)
    most = max(config.max_block, MOST_FIXATIONS)
    return Kept(min(blocks * config.max_block, most), blocks)


@dataclass(frozen=True)
class Workspace(Activations):
    """Everything a block of K fixations needs."""

    surprise: Annotated[Array, "K"]  # 1/2 e' P_e e
    d_1: Annotated[Array, "K n_p"]  # dl/d(V_1 c)
    d_2: Annotated[Array, "K n_p"]  # dl/d(V_2 p1)
    d_gain: Annotated[Array, "K n_g"]  # dl/d(G_a a)
    d_hidden: Annotated[Array, "K+1 n_e"]  # dl/d(W_x x)
    back_p: Annotated[Array, "K n_p+1"]  # dl/d(a layer's whole input)
    back_c: Annotated[Array, "K n_c"]
    back_gain: Annotated[Array, "K n_g+1"]
    back_hidden: Annotated[Array, "K+1 n_e+1"]
    scratch_hidden: Annotated[Array, "K+1 n_e"]
    scratch_gain: Annotated[Array, "K n_g"]
    scratch_p: Annotated[Array, "K n_p"]
    beta: Annotated[Array, "K G n_h"]  # docs/theory.md, section 6
    gamma: Annotated[Array, "K m G n_h"]
    alpha: Annotated[Array, "m n_h"]
    T: Annotated[Array, "m m n_h"]
    columns: np.ndarray  # rows that are kept, turned: of one layer, or of beta and gamma
    ends: np.ndarray  # (blocks, 1) int64: the fixations of a kept block and those before it
    reads: np.ndarray  # int64, the states that the predictor reads


# A block's row 0 is of the fixation before it.
HAVE_ROW_BEFORE = frozenset(
    name for name, axes in network.declarations(Workspace).items() if axes.startswith("K+1")
)


def shapes(group: type, config: RJepaConfig, cell: Cell) -> dict[str, network.Shape]:
    """Name -> shape, as the arrays lie here, with room for what is kept."""
    sizes, most = network.sizes(config, cell), room(config)
    found = network.shapes(group, sizes)
    of_kept = network.shapes(group, sizes._replace(K=most.fixations))
    for name in KEPT & found.keys():
        more = most.blocks if name in HAVE_ROW_BEFORE else 0
        found[name] = (of_kept[name][0] + more, *found[name][1:])
    for name in KEPT_BLOCKWISE & found.keys():
        found[name] = (most.blocks, *found[name])
    return {
        name: (*shape[:-1], whole_lines(shape[-1], config)) if name in WHOLE_LINES else shape
        for name, shape in found.items()
    }


def zero_weights(config: RJepaConfig, cell: Cell, which: int) -> Weights:
    """A `Weights` of zeros, the which-th of those that are worked on together.

    Each starts at another place of a memory page. Where all start at the same, a store to one
    holds up the loads of the others, and Adam takes two to three times as long.
    """
    of_part = shapes(Weights, config, cell)
    places = {name: whole_lines(math.prod(shape), config) for name, shape in of_part.items()}
    flat = zeros((sum(places.values()),), config.dtype, PAGE, which * 11 * CACHE_LINE)
    parts, at = {}, 0
    for name, shape in of_part.items():
        parts[name] = flat[at : at + math.prod(shape)].reshape(shape)
        at += places[name]
    return Weights(flat, **parts)


def packed(weights: Weights, config: RJepaConfig, cell: Cell) -> np.ndarray:
    """Its numbers, (n,) one after the other as in the table: a copy."""
    flat = np.empty(network.count_weights(config, cell), config.dtype)
    for name, part in network.weights_in(flat, config, cell).items():
        part[...] = getattr(weights, name)[..., : part.shape[-1]]
    return flat


def unpack(flat: np.ndarray, weights: Weights, config: RJepaConfig, cell: Cell) -> None:
    """The reverse of `packed`, of one number for all, too. Raises ValueError for another length."""
    flat = np.broadcast_to(flat, network.count_weights(config, cell))
    for name, part in network.weights_in(flat, config, cell).items():
        whole, length = getattr(weights, name), part.shape[-1]
        whole[..., :length] = part
        whole[..., length:] = 0  # NaN, if learning diverged: 0 times infinity


def zeros(shape: network.Shape, dtype: str, of: int = CACHE_LINE, offset: int = 0) -> np.ndarray:
    """Zeros in C order that start `offset` bytes after the start of a cache line, or page: `of`."""
    n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.zeros(n_bytes + of, np.uint8)
    start = (offset - raw.ctypes.data) % of
    return raw[start : start + n_bytes].view(dtype).reshape(shape)


def whole_lines(count: int, config: RJepaConfig) -> int:
    """So many numbers, and as many more as fill a cache line."""
    of_line = CACHE_LINE // np.dtype(config.dtype).itemsize
    return -(-count // of_line) * of_line


def zero_traces(config: RJepaConfig, cell: Cell) -> Traces:
    """A `Traces` of zeros: no past."""
    return Traces(**_zeros(Traces, config, cell))


def zero_workspace(config: RJepaConfig, cell: Cell) -> Workspace:
    """A workspace for blocks of up to `config.max_block` fixations, its constant 1s in place."""
    arrays = _zeros(Workspace, config, cell)
    in_table = network.shapes(Workspace, network.sizes(config, cell))
    for name in network.END_WITH_1:
        arrays[name][network.first_row_with_1(name) :, in_table[name][-1] - 1] = 1
    sizes, most = network.sizes(config, cell), room(config)
    of_recurrent = (1 + sizes.m) * sizes.G * sizes.n_h
    highest = max(of_recurrent, sizes.n_p, sizes.n_z, sizes.n_e, sizes.n_g)
    columns = highest, whole_lines(most.fixations + most.blocks, config)
    return Workspace(
        **arrays,
        columns=zeros(columns, config.dtype),
        ends=np.zeros((most.blocks, 1), np.int64),
        reads=np.array(cell.reads),
    )


def _zeros(group: type, config: RJepaConfig, cell: Cell) -> dict[str, np.ndarray]:
    of_group = shapes(group, config, cell).items()
    return {name: zeros(shape, config.dtype) for name, shape in of_group}


def rows(workspace: Workspace, K: int, kept: Kept) -> Workspace:
    """Views of a workspace for a block of K fixations, after the blocks that are kept."""
    views = {}
    for name in network.declarations(Workspace):
        array, first = getattr(workspace, name), _rows_kept(name, kept) if name in KEPT else 0
        in_blocks, end = name in KEPT_BLOCKWISE, first + K + (name in HAVE_ROW_BEFORE)
        views[name] = array[kept.blocks] if in_blocks else array[first:end]
    return dataclasses.replace(workspace, **views)


def kept_rows(workspace: Workspace, kept: Kept) -> Workspace:
    """Views of the blocks that are kept; what no gradient is made of stays whole."""
    views = {name: getattr(workspace, name)[: _rows_kept(name, kept)] for name in KEPT}
    in_blocks = (*KEPT_BLOCKWISE, "ends")
    views |= {name: getattr(workspace, name)[: kept.blocks] for name in in_blocks}
    return dataclasses.replace(workspace, **views)


def _rows_kept(name: str, kept: Kept) -> int:
    """How many rows of that array the blocks take that are kept."""
    return kept.fixations + (kept.blocks if name in HAVE_ROW_BEFORE else 0)


# Column j of an array (n, n_h) as a tuple, by n: for compiled code its length is a type.


def _column1(a, j):
    return (a[0, j],)


def _column2(a, j):
    return (a[0, j], a[1, j])


def _column3(a, j):
    return (a[0, j], a[1, j], a[2, j])


def _column4(a, j):
    return (a[0, j], a[1, j], a[2, j], a[3, j])


COLUMN = {1: _column1, 2: _column2, 3: _column3, 4: _column4}
