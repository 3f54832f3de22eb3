"""What one core of this machine can do at best, and what a learning block asks of it.

Symbols as in docs/theory.md; the `gated` cell with memory_input = "embedding".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from edge_rjepa import RJepaConfig
from edge_rjepa.learner.cells import find
from edge_rjepa.learner.kernels import products as kernels
from edge_rjepa.learner.kernels.arrays import WHOLE_LINES, Blocks, room, whole_lines, zeros
from edge_rjepa.learner.network import (
    count_weights,
    layers,
    layers_without_past,
    weight_shapes,
)
from edge_rjepa.learner.objective import RENEW_AFTER

FORWARD, BACKWARD, GRADIENT = "x W'", "d W", "d x"
RECURRENT, SYMMETRIC = "d x, block after block", "d x, half of it, block after block"
OF_SEVERAL = frozenset((GRADIENT, RECURRENT, SYMMETRIC))  # blocks at once


class Product(NamedTuple):
    """One matrix product of learning: of fixations with a matrix, or for its gradient.

    A RECURRENT one is of a gradient and traces, a SYMMETRIC one of a covariance.
    """

    part: str  # of the learner's work
    matrix: str
    kind: str
    K: int  # fixations; of those OF_SEVERAL blocks in so many
    rows: int  # of the matrix
    columns: int
    blocks: int  # that it is done for at once
    outs: int = 1  # such matrices that come of it

    @property
    def multiply_adds(self) -> int:
        if self.kind == SYMMETRIC:  # the diagonal, and what is right of it
            return self.K * self.rows * (self.rows + 1) // 2
        return self.K * self.rows * self.columns * self.outs

    @property
    def shape(self) -> tuple[int, int, int]:
        """(m, k, n) of a product (m, k) (k, n)."""
        K, rows, columns = self.K, self.rows, self.columns
        return {
            FORWARD: (K, columns, rows),
            BACKWARD: (K, rows, columns),
            GRADIENT: (rows, K, columns),
            RECURRENT: (self.outs * rows, K, columns),
            SYMMETRIC: (rows, K, columns),
        }[self.kind]


def blocks_at_once(config: RJepaConfig, K: int) -> int:
    """Blocks of K fixations that gradients, traces and statistics take in at once."""
    most = room(config)
    return min(most.blocks, max(1, most.fixations // K))


def products(config: RJepaConfig, K: int) -> list[Product]:
    """Every matrix product of `RJepa.learn_block` for K fixations, in its order."""
    cell, blocks = find(config.cell), blocks_at_once(config, K)
    shapes = weight_shapes(config, cell)
    G, n_hidden, n_u = shapes.pop("W")
    shapes |= {"W": (G * n_hidden, n_u), "S": (config.n_embedding,) * 2}

    def product(part: str, name: str, kind: str, rows: int = K, outs: int = 1) -> Product:
        at_once = blocks if kind in OF_SEVERAL else 1
        return Product(part, name, kind, at_once * rows, *shapes[name], at_once, outs)

    listed = [product(layer.part, layer.matrix, FORWARD) for layer in layers(config)]
    listed += [product("objective", "S", BACKWARD)] * 2  # P_z (z - mu) and P_e e
    for layer in reversed(layers_without_past(config)):
        rows = K + layer.encoder
        if layer.passes_back:
            listed.append(product("backward", layer.matrix, BACKWARD, rows))
        listed.append(product("settle", layer.matrix, GRADIENT, rows))
    listed.append(product("settle", "W", RECURRENT, outs=1 + cell.n_state))
    listed += [product("statistics", "S", SYMMETRIC, K + 1)] * 2  # of z, of e
    return listed


def laid_out(product: Product, config: RJepaConfig) -> Product:
    """The product with rows as long as the learner's: some fill whole lines of the cache."""
    if product.matrix not in WHOLE_LINES:
        return product
    return product._replace(columns=whole_lines(product.columns, config))


class Operands:
    """The arrays of the products of some blocks, laid out as the learner's are.

    blocks: how many, as many as gradients take in at once.
    """

    def __init__(self, config: RJepaConfig, K: int):
        self.products, self.blocks = products(config, K), blocks_at_once(config, K)
        m = find(config.cell).n_state
        rng = np.random.default_rng(0)

        def normal(*shape: int) -> np.ndarray:
            array = zeros(shape, config.dtype)
            array[...] = rng.normal(size=shape)
            return array

        done = [laid_out(p, config) for p in self.products]
        matrices = {p.matrix: normal(p.rows, p.columns) for p in done}
        largest = max(matrix.size for matrix in matrices.values())
        gradients, traces = zeros((largest,), config.dtype), zeros((m * largest,), config.dtype)

        def arrays_of(p: Product) -> tuple:
            x = normal(p.K, p.columns)
            if p.kind == FORWARD:
                return x, matrices[p.matrix], normal(p.K, p.rows)
            if p.kind == BACKWARD:
                return normal(p.K, p.rows), matrices[p.matrix], x
            gradient, columns = _matrix(gradients, p.rows, p.columns), normal(m * p.rows, p.K)
            if p.kind == GRADIENT:
                return columns, x, gradient
            ends = np.arange(1, p.blocks + 1)[:, None] * (p.K // p.blocks)
            if p.kind == SYMMETRIC:
                return zeros((p.blocks, 1), config.dtype), columns, x, ends, gradient
            still = zeros((p.blocks, m * m * config.n_hidden), config.dtype)
            blocks = Blocks(still, still, columns, columns, ends, x, config.n_hidden)
            return m, blocks, _matrix(traces, m * p.rows, p.columns), gradient

        self._arrays = [arrays_of(p) for p in done]

    def multiply(self) -> None:
        """All products of the blocks."""
        for i, product in enumerate(self.products):
            self.repeat(i, self.blocks // product.blocks)

    def repeat(self, i: int, times: int) -> None:
        """The i-th product so many times."""
        multiply = MULTIPLY[self.products[i].kind]
        for _ in range(times):
            multiply(*self._arrays[i])


MULTIPLY = {
    FORWARD: kernels.forward_product,
    BACKWARD: kernels.backward_product,
    GRADIENT: kernels.gather,
    RECURRENT: kernels.recur,
    SYMMETRIC: kernels.blend,
}


def _matrix(flat: np.ndarray, rows: int, columns: int) -> np.ndarray:
    return flat[: rows * columns].reshape(rows, columns)


LARGE = 1024
LARGE_OPERATIONS = 2 * LARGE**3


def large_product() -> Callable:
    """A product of two matrices (LARGE, LARGE): what BLAS reaches where nothing holds it up."""
    a, b, out = (np.ones((LARGE, LARGE), np.float32) for _ in range(3))
    return lambda: np.dot(a, b, out)


def copying(n_bytes: int) -> Callable:
    """A copy of so many bytes: twice as many pass through memory."""
    source, target = np.ones(n_bytes // 4, np.float32), np.ones(n_bytes // 4, np.float32)
    return lambda: np.copyto(target, source)


class Core(NamedTuple):
    """What one core of a machine can do at best, by its makers' figures."""

    flops: float  # two NEON units, each a fused product and sum of four numbers a cycle
    bytes_a_s: float  # of all memory


PUBLISHED = {
    "Jetson Orin Nano, Cortex-A78AE, 1.5 GHz": Core(16 * 1.5e9, 68e9),
    "Raspberry Pi 5, Cortex-A76, 2.4 GHz": Core(16 * 2.4e9, 17e9),
}

# ------------------------------------------------------------------------------------------------
# Counts


def renewals_a_block(config: RJepaConfig, K: int) -> float:
    """How often a block factors the statistics anew, in the long run."""
    rate = -np.expm1(-K / config.statistics_fixations)
    return 1.0 / np.ceil(RENEW_AFTER / rate)


def learning_operations(config: RJepaConfig, K: int) -> float:
    """Additions and multiplications a fixation of learning in blocks of K.

    Products, factors and inverses, and what is done once to every weight and trace. Left out: the
    cells and all else that is done once for each unit.
    """
    n_z, n_weights = config.n_embedding, weights(config)
    multiply_adds = sum(p.multiply_adds / p.blocks for p in products(config, K)) / K
    # Of two matrices, each n³ / 6 to factor and n³ / 3 to invert.
    multiply_adds += renewals_a_block(config, K) * 2 * n_z**3 / 2 / K
    recur = 2 * 2 * traces(config) / K
    adam, blend = 9 * n_weights / (K * config.update_every), n_z * (n_z + 1) / K
    return 2 * multiply_adds + recur + adam + blend


def inference_operations(config: RJepaConfig, K: int) -> float:
    """Additions and multiplications a fixation of `predict` in blocks of K: its products."""
    return 2 * sum(p.multiply_adds for p in products(config, K) if p.kind == FORWARD) / K


def learning_bytes(config: RJepaConfig, K: int) -> float:
    """Bytes a fixation that learning in blocks of K must move past the core, at the least.

    Every weight is read forward, those with a way back (V_1, V_2, V_3, G_b, W_z behind a hidden
    layer) once more, P_z and P_e read; weights and Adam's squares are read and written in a step.
    Traces and halves of S_z and S_e are read and written once for all blocks that they take in at
    once, and so is a gradient, unless these are all of a step: then it stays in the cache. What is
    kept of a fixation until then is written and read.
    """
    size, steps = np.dtype(config.dtype).itemsize, 1 / config.update_every
    listed, n_z = products(config, 1), config.n_embedding
    once = 1 / blocks_at_once(config, K)
    back = sum(p.rows * p.columns for p in listed if p.kind == BACKWARD)  # P_z and P_e, too
    sums = once if once > steps else 0
    passes = weights(config) * (1 + 2 * sums + 2 * 2 * steps) + back
    passes += 2 * once * (traces(config) + n_z * (n_z + 1))
    kept = sum(p.rows * p.outs + p.columns for p in listed if p.kind in OF_SEVERAL)
    return size * (passes / K + 2 * kept)


def limit_s(config: RJepaConfig, K: int, core: Core) -> float:
    """The least seconds a fixation: its operations or its bytes, one while the other."""
    operations, moved = learning_operations(config, K), learning_bytes(config, K)
    return max(operations / core.flops, moved / core.bytes_a_s)


def weights(config: RJepaConfig) -> int:
    return count_weights(config, find(config.cell))


def traces(config: RJepaConfig) -> int:
    return int(np.prod(weight_shapes(config, find(config.cell))["W"]))
