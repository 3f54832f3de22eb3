"""The table of the network's arrays: every name, every shape, and which matrix reads what.

A class declares a group of arrays. Beside each stands its shape in the symbols of docs/theory.md:
`"K+1 f+1"` is (K + 1, f + 1), and `"K"` alone is (K,). All else follows from here: weights,
workspaces and steps on both devices, counts of bytes and of operations, what check-gradients goes
through. The workspaces add what only their device needs (kernels/arrays.py, kernels/cuda/arrays.py)
in the same notation. A GPU's arrays have one more axis ahead, for the stream.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple, get_type_hints

import numpy as np

from edge_rjepa.learner.cells import Cell
from edge_rjepa.learner.config import RJepaConfig

Array = Any  # of NumPy, or of CUDA
Shape = tuple[int, ...]
ENCODER_GAIN = 0.3


class Sizes(NamedTuple):
    """The symbols in which shapes are declared."""

    K: int  # fixations of a block
    f: int  # features
    A: int  # values of an efference copy
    n_e: int  # encoder's hidden layer, 0 for none
    n_x: int  # what the embedding is made of: n_e, or f
    n_z: int  # embedding
    n_h: int  # hidden units
    n_p: int  # predictor
    n_g: int  # gain field
    m: int  # state values of a unit
    G: int  # input projections of a unit
    L: int  # local parameters of a unit
    n_r: int  # state values that the predictor reads
    n_u: int  # input of the recurrent layer, 1
    n_c: int  # context of the prediction, 1


def sizes(config: RJepaConfig, cell: Cell) -> Sizes:
    """Those of a network, K = max_block."""
    n_r = len(cell.reads) * config.n_hidden
    return Sizes(
        K=config.max_block,
        f=config.n_features,
        A=config.n_efference,
        n_e=config.n_encoder_hidden,
        n_x=config.n_encoder_hidden or config.n_features,
        n_z=config.n_embedding,
        n_h=config.n_hidden,
        n_p=config.n_predictor,
        n_g=config.n_gain,
        m=cell.n_state,
        G=cell.n_projections,
        L=cell.n_parameters,
        n_r=n_r,
        n_u=config.n_memory_input + 1,
        n_c=n_r + config.n_embedding + config.n_efference + 1,
    )


# ------------------------------------------------------------------------------------------------
# The table


class Weights(NamedTuple):
    """One number for every learned weight: the weights themselves, gradients, Adam's m2.

    `flat` holds them all in this order; the others are views into it. Every matrix has one row an
    output, and its bias in the last column. On a device there may be zeros in between.
    """

    flat: Array
    W: Annotated[Array, "G n_h n_u"]  # input projections of the recurrent layer
    W_x: Annotated[Array, "n_e f+1"]  # encoder's hidden layer; empty where there is none
    W_z: Annotated[Array, "n_z n_x+1"]  # encoder
    lam: Annotated[Array, "L n_h"]  # local parameters of the cell
    G_a: Annotated[Array, "n_g A+1"]  # gain field, first layer
    G_b: Annotated[Array, "n_p n_g+1"]  # gain field, second layer
    V_1: Annotated[Array, "n_p n_c"]  # predictor
    V_2: Annotated[Array, "n_p n_p+1"]
    V_3: Annotated[Array, "n_z n_p+1"]


class Traces(NamedTuple):
    """Sensitivities of the carried state to the weights that made it."""

    E: Annotated[Array, "m G n_h n_u"]  # dy/dW
    e_lam: Annotated[Array, "L m n_h"]  # dy/dlambda


@dataclass(frozen=True)
class Activations:
    """What a block of K fixations makes on its way forward and back, on every device.

    Where an array has K + 1 rows, row 0 is of the fixation before the block.
    """

    x: Annotated[Array, "K+1 f+1"]  # features, 1
    hidden: Annotated[Array, "K+1 n_e+1"]  # encoder's hidden layer, 1
    a: Annotated[Array, "K A+1"]  # efference copy, 1
    z: Annotated[Array, "K+1 n_z"]  # embedding
    u: Annotated[Array, "K n_u"]  # input of the recurrent layer, 1
    s: Annotated[Array, "K G n_h"]  # its projections, W u
    y: Annotated[Array, "K+1 m n_h"]  # states
    J: Annotated[Array, "K m m n_h"]  # dy/d(old y)
    B: Annotated[Array, "K m G n_h"]  # dy/ds
    D: Annotated[Array, "K m L n_h"]  # dy/dlambda
    c: Annotated[Array, "K n_c"]  # context of the prediction, 1
    gain: Annotated[Array, "K n_g+1"]  # gain field's hidden layer, 1
    g: Annotated[Array, "K n_p"]  # gain field
    q: Annotated[Array, "K n_p"]  # tanh(V_1 c)
    p1: Annotated[Array, "K n_p+1"]  # q g, 1
    p2: Annotated[Array, "K n_p+1"]  # tanh(V_2 p1), 1
    zhat: Annotated[Array, "K n_z"]  # prediction
    e: Annotated[Array, "K n_z"]  # z - zhat
    centred: Annotated[Array, "K n_z"]  # z - mu
    d_zhat: Annotated[Array, "K n_z"]  # dl/dzhat
    d_z: Annotated[Array, "K+1 n_z"]  # dl/dz, then dl/d(W_z [x; 1])
    d_g: Annotated[Array, "K n_p"]  # dl/d(G_b gain)
    delta: Annotated[Array, "K m n_h"]  # dl_{k+1}/dy_k


END_WITH_1 = ("x", "hidden", "a", "u", "c", "gain", "p1", "p2")  # see first_row_with_1


class Layer(NamedTuple):
    """An affine map of K fixations, out = matrix [in; 1]."""

    matrix: str  # its name in Weights
    part: str  # of the forward pass
    reads: str  # its input, in Activations
    d_out: str  # the gradient of its output, in a workspace
    passes_back: bool  # whether anything further back needs the gradient of its input
    encoder: bool  # its own learning rate; the fixation before the block has a share, too


RECURRENT = Layer("W", "forward", "u", "", False, False)  # learns by RFP, from all of the past
PREDICTOR = (  # in the order of the forward pass
    Layer("G_a", "predict", "a", "d_gain", False, False),
    Layer("G_b", "predict", "gain", "d_g", True, False),
    Layer("V_1", "predict", "c", "d_1", True, False),
    Layer("V_2", "predict", "p1", "d_2", True, False),
    Layer("V_3", "predict", "p2", "d_zhat", True, False),
)
SHALLOW_ENCODER = (Layer("W_z", "forward", "x", "d_z", False, True),)
DEEP_ENCODER = (
    Layer("W_x", "forward", "x", "d_hidden", False, True),
    Layer("W_z", "forward", "hidden", "d_z", True, True),
)
ENCODER = frozenset(layer.matrix for layer in DEEP_ENCODER)


def layers(config: RJepaConfig) -> tuple[Layer, ...]:
    """All of a network, in the order of the forward pass."""
    encoder = DEEP_ENCODER if config.n_encoder_hidden else SHALLOW_ENCODER
    return (*encoder, RECURRENT, *PREDICTOR)


def layers_without_past(config: RJepaConfig) -> tuple[Layer, ...]:
    """All but the recurrent one."""
    return tuple(layer for layer in layers(config) if layer is not RECURRENT)


# ------------------------------------------------------------------------------------------------
# What follows from it


@functools.cache
def declarations(group: type) -> dict[str, str]:
    """Name -> shape, as declared, of each of the group's arrays that has one, in their order."""
    hints = get_type_hints(group, include_extras=True).items()
    return {name: hint.__metadata__[0] for name, hint in hints if hasattr(hint, "__metadata__")}


WEIGHTS = tuple(declarations(Weights))


def first_row_with_1(name: str) -> int:
    """Of an array of END_WITH_1: not row 0 of those that have the fixation before the block.

    Where there was no such fixation it must get no gradient, not even for a bias.
    """
    return int(declarations(Activations)[name].startswith("K+1"))


def shapes(group: type, n: Sizes) -> dict[str, Shape]:
    """Name -> shape, in numbers."""
    return dict(_named_shapes(group, n))


@functools.cache  # a copy of a learner asks some thirty times
def _named_shapes(group: type, n: Sizes) -> tuple[tuple[str, Shape], ...]:
    symbols = n._asdict()

    def value(word: str) -> int:
        return symbols[word] if word in symbols else int(word)

    def length(axis: str) -> int:
        return sum(math.prod(map(value, term.split("*"))) for term in axis.split("+"))

    declared = declarations(group).items()
    return tuple((name, tuple(map(length, axes.split()))) for name, axes in declared)


def weight_shapes(config: RJepaConfig, cell: Cell) -> dict[str, Shape]:
    """Shape of every learned array, in the order in which `Weights.flat` holds them."""
    return shapes(Weights, sizes(config, cell))


def count_weights(config: RJepaConfig, cell: Cell) -> int:
    """How many numbers are learned."""
    return sum(math.prod(shape) for shape in weight_shapes(config, cell).values())


def weights_in(flat: np.ndarray, config: RJepaConfig, cell: Cell) -> dict[str, np.ndarray]:
    """The learned arrays that lie one after the other in `flat`, by name: views."""
    parts, at = {}, 0
    for name, shape in weight_shapes(config, cell).items():
        size = math.prod(shape)
        parts[name] = flat[at : at + size].reshape(shape)
        at += size
    return parts


def initial_weights(config: RJepaConfig, cell: Cell, rng: np.random.Generator) -> np.ndarray:
    """The weights before the first fixation, (n,) in the order of `Weights`.

    Unit-variance pre-activations, less in the encoder, a wide gain field, and V_3 = 0. With
    V_3 = 0 the first predictor is about the mean, never worse: information starts near 0. An
    encoder that starts small grows along what can be predicted; one that starts at unit variance is
    half full of what can not (docs/learning.md).
    """
    flat = np.zeros(count_weights(config, cell), config.dtype)
    p = Weights(flat, **weights_in(flat, config, cell))
    for matrix in (p.W_x, p.W, p.W_z, p.V_1, p.V_2):
        fan_in = matrix.shape[-1] - 1
        matrix[..., :-1] = rng.normal(size=(*matrix.shape[:-1], fan_in)) / math.sqrt(fan_in)
    place = slice(-1 - config.n_efference, -1)
    p.W[..., place] = rng.normal(size=p.W[..., place].shape)
    p.W[..., place] *= np.reshape(cell.initial_place_std, (-1, 1, 1))
    p.W_z[:] *= ENCODER_GAIN
    p.W[..., -1] = cell.initial_projection_bias(rng, config.n_hidden)
    p.lam[:] = cell.initial_parameters(rng, config.n_hidden)
    p.G_a[:] = rng.normal(size=p.G_a.shape)
    p.G_b[:] = 2.0 * rng.normal(size=p.G_b.shape) / math.sqrt(p.G_b.shape[1])
    return flat
