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
    ("W", "W_x", "W_z", "G_b", "V_1", "V_2", "V_3", "E", "E_row")
    + ("x", "hidden", "u", "c", "gain", "p1", "p2", "d_hidden", "d_c", "d_gain", "d_p")
)


class Adam(NamedTuple):
    """Adam's numbers for one step, in the dtype of the weights; it keeps no first moment."""

    rate: np.floating
    blend: np.floating  # 1 - beta2
    correction: np.floating  # 1 / (1 - beta2^t)
    epsilon: np.floating


class Descent(NamedTuple):
    """The weights, and what goes with each."""

    weights: Weights
    gradient: Weights  # summed over the blocks since the last step
    m2: Weights  # Adam's second moment: running means of squared gradients
    adam: Adam
    adam_encoder: Adam  # for the encoder's matrices
    takes_step: bool  # with the gradients of this block and those before; they are zero then


@dataclass(frozen=True)
class Workspace(Activations):
    """Everything a block of K fixations needs."""

    surprise: Annotated[Array, "K"]  # 1/2 e' P_e e
    d_p: Annotated[Array, "K n_p+1"]
    d_q: Annotated[Array, "K n_p"]
    d_c: Annotated[Array, "K n_c"]
    d_gain: Annotated[Array, "K n_g+1"]
    d_hidden: Annotated[Array, "K+1 n_e+1"]
    scratch_hidden: Annotated[Array, "K+1 n_e"]
    scratch_gain: Annotated[Array, "K n_g"]
    scratch_p: Annotated[Array, "K n_p"]
    beta: Annotated[Array, "K G n_h"]
    gamma: Annotated[Array, "K m G n_h"]
    r: Annotated[Array, "m n_h"]  # credit of the states
    T: Annotated[Array, "m m n_h"]  # products of J
    E_row: Annotated[Array, "m n_u"]
    reads: np.ndarray  # int64, the states that the predictor reads


def shapes(
    group: type, config: RJepaConfig, cell: Cell, K: int | None = None
) -> dict[str, network.Shape]:
    """Name -> shape, as the arrays lie here, of blocks of K fixations (else max_block)."""
    sizes = network.sizes(config, cell)
    found = network.shapes(group, sizes if K is None else sizes._replace(K=K))
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
    return Workspace(**arrays, reads=np.array(cell.reads))


def _zeros(group: type, config: RJepaConfig, cell: Cell) -> dict[str, np.ndarray]:
    of_group = shapes(group, config, cell).items()
    return {name: zeros(shape, config.dtype) for name, shape in of_group}


def rows(workspace: Workspace, config: RJepaConfig, cell: Cell, K: int) -> Workspace:
    """Views of the first K fixations of a workspace."""
    of_block = shapes(Workspace, config, cell, K)
    views = {name: getattr(workspace, name)[: shape[0]] for name, shape in of_block.items()}
    return dataclasses.replace(workspace, **views)


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
