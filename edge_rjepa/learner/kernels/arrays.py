"""The arrays that the kernels work on, allocated once and handed over as named tuples of views.

Sizes: K fixations in the block, n_z embedding, n_h hidden units, m state values, G drives, L local
parameters, n_r = len(reads) n_h, n_p predictor, n_g gain, f features, A efference values,
n_u = (n_z or f) + A + 1, n_c = n_r + n_z + A + 1.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from edge_rjepa.learner.cells import Cell
from edge_rjepa.learner.config import RJepaConfig

PAGE, CACHE_LINE = 4096, 64  # bytes


class Weights(NamedTuple):
    """One number for every learned weight: the weights themselves, gradients, Adam's moments.

    `flat` holds them all, W first and W_z second; the others are views into it.
    """

    flat: np.ndarray
    W: np.ndarray  # (G, n_h, n_u)            drives of the recurrent circuits
    W_z: np.ndarray  # (n_z, f+1)             encoder
    lam: np.ndarray  # (L, n_h)               local parameters of the cell
    G_a: np.ndarray  # (n_g, A+1)             gain field, first layer
    G_b: np.ndarray  # (n_p, n_g+1)           gain field, second layer
    V_1: np.ndarray  # (n_p, n_c)             predictor
    V_2: np.ndarray  # (n_p, n_p+1)
    V_3: np.ndarray  # (n_z, n_p+1)


# What is done with a block's gradient: a step is taken; it is added to those of the blocks before;
# or that, and then a step with their sum.
STEP, GATHER, STEP_GATHERED = 0, 1, 2


class Adam(NamedTuple):
    """Adam's numbers for one step, in the dtype of the weights."""

    rate: np.floating  # learning rate / (1 - beta1^t)
    blend1: np.floating  # 1 - beta1
    blend2: np.floating  # 1 - beta2
    correction2: np.floating  # 1 / (1 - beta2^t)
    epsilon: np.floating


class Descent(NamedTuple):
    """How weights take a block's gradient."""

    gradient: Weights  # of one matrix after the other: they share the memory
    weights: Weights
    total: Weights  # gradients of the blocks since the last step
    m1: Weights  # Adam's moments
    m2: Weights
    adam: Adam
    adam_encoder: Adam  # for W_z
    mode: int


class Traces(NamedTuple):
    """Sensitivities of the carried state to the weights that made it."""

    E: np.ndarray  # (m, G, n_h, n_u)         dy/dW
    e_lam: np.ndarray  # (L, m, n_h)          dy/dlambda


class Workspace(NamedTuple):
    """Everything a block of K fixations needs; row 0 of x, z, y is the fixation before it."""

    x: np.ndarray  # (K+1, f+1)               features, 1
    a: np.ndarray  # (K, A+1)                 efference copy, 1
    z: np.ndarray  # (K+1, n_z)               embedding
    u: np.ndarray  # (K, n_u)                 input of the circuits
    s: np.ndarray  # (K, G, n_h)              drives
    y: np.ndarray  # (K+1, m, n_h)            states
    J: np.ndarray  # (K, m, m, n_h)           dy/d(old y)
    B: np.ndarray  # (K, m, G, n_h)           dy/ds
    D: np.ndarray  # (K, m, L, n_h)           dy/dlambda
    c: np.ndarray  # (K, n_c)                 context of the prediction
    gain: np.ndarray  # (K, n_g+1)            gain field's hidden layer, 1
    g: np.ndarray  # (K, n_p)                 gain field
    q: np.ndarray  # (K, n_p)                 tanh(V_1 c)
    p1: np.ndarray  # (K, n_p+1)              q g, 1
    p2: np.ndarray  # (K, n_p+1)              tanh(V_2 p1), 1
    zhat: np.ndarray  # (K, n_z)              prediction
    e: np.ndarray  # (K, n_z)                 z - zhat
    centred: np.ndarray  # (K, n_z)           z - mu
    surprise: np.ndarray  # (K,)              1/2 e' P_e e
    d_zhat: np.ndarray  # (K, n_z)            dl/dzhat
    d_z: np.ndarray  # (K+1, n_z)             dl/dz, then dl/d(W_z [x; 1])
    d_p: np.ndarray  # (K, n_p+1)
    d_q: np.ndarray  # (K, n_p)
    d_g: np.ndarray  # (K, n_p)
    d_c: np.ndarray  # (K, n_c)
    d_gain: np.ndarray  # (K, n_g+1)
    scratch_gain: np.ndarray  # (K, n_g)
    scratch_p: np.ndarray  # (K, n_p)
    delta: np.ndarray  # (K, m, n_h)          dl_{k+1}/dy_k
    beta: np.ndarray  # (K, G, n_h)
    gamma: np.ndarray  # (K, m, G, n_h)
    # of no length K
    r: np.ndarray  # (m, n_h)                 credit of the states
    r_next: np.ndarray  # (m, n_h)
    T: np.ndarray  # (m, m, n_h)              products of J
    T_next: np.ndarray  # (m, m, n_h)
    E_new: np.ndarray  # (m, G, n_h, n_u)
    e_lam_new: np.ndarray  # (L, m, n_h)
    reads: np.ndarray  # (len(reads),) int64


_WHOLE = {"r", "r_next", "T", "T_next", "E_new", "e_lam_new", "reads"}
_ONE_ROW_MORE = {"x", "z", "y", "d_z"}


def weight_shapes(config: RJepaConfig, cell: Cell) -> dict[str, tuple[int, ...]]:
    """Shape of every learned array, in the order in which `Weights.flat` holds them."""
    n_z, n_h, n_p, A = (
        config.n_embedding, config.n_hidden, config.n_predictor, config.n_efference,
    )  # fmt: skip
    n_context = len(cell.reads) * n_h + n_z + A + 1
    return {
        "W": (cell.n_drives, n_h, config.n_memory_input + 1),
        "W_z": (n_z, config.n_features + 1),
        "lam": (cell.n_parameters, n_h),
        "G_a": (config.n_gain, A + 1),
        "G_b": (n_p, config.n_gain + 1),
        "V_1": (n_p, n_context),
        "V_2": (n_p, n_p + 1),
        "V_3": (n_z, n_p + 1),
    }


def zero_weights(config: RJepaConfig, cell: Cell, which: int) -> Weights:
    """A `Weights` of zeros, the which-th of those that are worked on together.

    Each starts at another place of a memory page. Where all start at the same, a store to one
    holds up the loads of the others, and Adam takes two to three times as long.
    """
    size = sum(int(np.prod(shape)) for shape in weight_shapes(config, cell).values())
    flat = _zeros_in_page(size, config.dtype, which * 11 * CACHE_LINE)
    return weights_in(flat, config, cell)


def weights_in(flat: np.ndarray, config: RJepaConfig, cell: Cell) -> Weights:
    """The `Weights` that lie one after the other in `flat`: views."""
    shapes = weight_shapes(config, cell)
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes.values()])
    parts = np.split(flat, ends[:-1])
    return Weights(
        flat,
        **{name: part.reshape(shapes[name]) for name, part in zip(shapes, parts, strict=True)},
    )


def shared_weights(config: RJepaConfig, cell: Cell, which: int) -> Weights:
    """A `Weights` whose matrices lie on top of each other: for one at a time."""
    shapes = weight_shapes(config, cell)
    sizes = {name: int(np.prod(shape)) for name, shape in shapes.items()}
    flat = _zeros_in_page(max(sizes.values()), config.dtype, which * 11 * CACHE_LINE)
    return Weights(
        flat, **{name: flat[: sizes[name]].reshape(shape) for name, shape in shapes.items()}
    )


def _zeros_in_page(size: int, dtype: str, offset: int) -> np.ndarray:
    """Zeros whose address is `offset` bytes after the start of a memory page."""
    n_bytes = size * np.dtype(dtype).itemsize
    raw = np.zeros(n_bytes + PAGE, np.uint8)
    start = (offset - raw.ctypes.data) % PAGE
    return raw[start : start + n_bytes].view(dtype)


def zero_traces(config: RJepaConfig, cell: Cell) -> Traces:
    """A `Traces` of zeros: no past."""
    shape = weight_shapes(config, cell)
    return Traces(
        np.zeros((cell.n_state, *shape["W"]), config.dtype),
        np.zeros((cell.n_parameters, cell.n_state, config.n_hidden), config.dtype),
    )


def zero_workspace(config: RJepaConfig, cell: Cell) -> Workspace:
    """A workspace for blocks of up to `config.max_block` fixations, its constant 1s in place."""
    n_z, n_h, n_p = config.n_embedding, config.n_hidden, config.n_predictor
    A1, n_u = config.n_efference + 1, config.n_memory_input + 1
    m, G, L = cell.n_state, cell.n_drives, cell.n_parameters
    n_context = len(cell.reads) * n_h + n_z + A1
    row = {
        "x": (config.n_features + 1,), "a": (A1,), "z": (n_z,), "u": (n_u,),
        "s": (G, n_h), "y": (m, n_h), "J": (m, m, n_h), "B": (m, G, n_h), "D": (m, L, n_h),
        "c": (n_context,), "gain": (config.n_gain + 1,), "g": (n_p,), "q": (n_p,),
        "p1": (n_p + 1,), "p2": (n_p + 1,), "zhat": (n_z,), "e": (n_z,), "centred": (n_z,),
        "surprise": (), "d_zhat": (n_z,), "d_z": (n_z,), "d_p": (n_p + 1,), "d_q": (n_p,),
        "d_g": (n_p,), "d_c": (n_context,), "d_gain": (config.n_gain + 1,),
        "scratch_gain": (config.n_gain,), "scratch_p": (n_p,),
        "delta": (m, n_h), "beta": (G, n_h), "gamma": (m, G, n_h),
    }  # fmt: skip
    whole = {
        "r": (m, n_h), "r_next": (m, n_h), "T": (m, m, n_h), "T_next": (m, m, n_h),
        "E_new": (m, G, n_h, n_u), "e_lam_new": (L, m, n_h),
    }  # fmt: skip
    arrays = {
        name: np.zeros((config.max_block + (name in _ONE_ROW_MORE), *shape), config.dtype)
        for name, shape in row.items()
    }
    arrays |= {name: np.zeros(shape, config.dtype) for name, shape in whole.items()}
    for name in ("a", "gain", "p1", "p2"):
        arrays[name][:, -1] = 1
    arrays["x"][1:, -1] = 1  # row 0 is all zero after a reset: no fixation, no gradient
    return Workspace(**arrays, reads=np.array(cell.reads))


def rows(workspace: Workspace, K: int) -> Workspace:
    """Views of the first K fixations of a workspace."""
    return Workspace(
        **{
            name: array if name in _WHOLE else array[: K + (name in _ONE_ROW_MORE)]
            for name, array in workspace._asdict().items()
        }
    )


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
