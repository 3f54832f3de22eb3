"""The unit-local recurrent cells: the class for which Recurrent-Forward Propagation is exact.

A cell moves each unit j by itself,

    y_t,j = F(y_{t-1,j}; s^1_t,j .. s^G_t,j; lambda_j),        s^i_t = W^i u_t,

with m state values, G input projections and L local parameters a unit. A cell is one function of
three tuples (state, projections, parameters) that returns F and its local derivatives, also as
tuples:

    y   (m,)        the new state
    J   (m, m)      dy/d(old state)
    B   (m, G)      dy/d(projections)
    D   (m, L)      dy/d(parameters)

and a registration (`register`). The same function is compiled for the CPU, traced into ONNX and
checked against a complex-step derivative, so it is written in a small vocabulary: + - * and the
functions `tanh`, `sigmoid`, `sin`, `cos`, `one_minus`, `like`. Each backend puts its own in their
place. Number literals would turn float32 into float64: write `one_minus(x)` and `like(x, 0.0)`.

See docs/cells.md for how to add one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy import cos, sin, tanh

from edge_rjepa.errors import ConfigError


def sigmoid(x):
    """1 / (1 + exp(-x)); any float or complex dtype."""
    return 1.0 / (1.0 + np.exp(-x))


def one_minus(x):
    """1 - x in the dtype of x."""
    return 1.0 - x


def like(x, value):
    """The number `value` in the dtype of x."""
    return x * 0.0 + value


VOCABULARY = ("tanh", "sigmoid", "sin", "cos", "one_minus", "like")


MAX_SIZE = 4  # of m, G and L: the kernels read that many values a unit into registers


@dataclass(frozen=True)
class Cell:
    """A registered cell.

    step: the function described at the top of this module.
    n_state, n_projections, n_parameters: m, G and L.
    reads: the state components the predictor sees; h has `len(reads) * n_hidden` values.
    initial_parameters: rng, n_hidden -> lambda (L, n_hidden), the local parameters at the start.
    initial_projection_bias: rng, n_hidden -> (G, n_hidden), the projections' biases at the start.
    initial_place_std: (G,) std of the projections' first weights on the efference copy. A gate
        wants it wide: each unit then writes at some places and not at others, from the start, and
        the memory of one place survives looking at another (docs/learning.md has the difference it
        makes).
    """

    name: str
    step: Callable
    n_state: int
    n_projections: int
    n_parameters: int
    reads: tuple[int, ...]
    initial_parameters: Callable
    initial_projection_bias: Callable
    initial_place_std: tuple[float, ...]


CELLS: dict[str, Cell] = {}


def register(cell: Cell) -> Cell:
    """Make a cell available to `RJepaConfig(cell=name)`.

    Raises ConfigError where its derivatives do not have the shapes that it states, or do not
    agree with a complex-step derivative of its own update.
    """
    _check(cell)
    CELLS[cell.name] = cell
    return cell


def find(name: str) -> Cell:
    """The registered cell of that name.

    Raises ConfigError for an unknown name, and says why a dense recurrent matrix is refused.
    """
    if isinstance(name, str) and name in CELLS:
        return CELLS[name]
    known = ", ".join(sorted(CELLS))
    if name in ("dense", "rnn", "elman", "gru", "vanilla"):
        raise ConfigError(
            f"cell '{name}' mixes units through a dense recurrent matrix: its exact forward "
            "gradient needs one trace for every (unit, weight) pair, which RFP does not keep and "
            f"will not approximate; choose a unit-local cell: {known}"
        )
    raise ConfigError(
        f"cell '{str(name)[:80]}' is unknown; choose one of {known}, or register your own"
    )


def _check(cell: Cell, step_size: float = 1e-30, tolerance: float = 1e-12) -> None:
    """Compare the local derivatives of a cell with complex-step ones at a few random points."""
    m, G, L = cell.n_state, cell.n_projections, cell.n_parameters
    if not all(1 <= count <= MAX_SIZE for count in (m, G, L)):
        raise ConfigError(f"cell '{cell.name}': m, G, L = {m}, {G}, {L} must be 1 to {MAX_SIZE}")
    if len(cell.initial_place_std) != G:
        raise ConfigError(f"cell '{cell.name}': initial_place_std must name {G} projections")
    if not cell.reads or not all(0 <= c < m for c in cell.reads):
        raise ConfigError(f"cell '{cell.name}': reads {cell.reads} must name state values < {m}")
    rng = np.random.default_rng(0)
    for what, rows, made in (
        ("initial_parameters", L, cell.initial_parameters(rng, 3)),
        ("initial_projection_bias", G, cell.initial_projection_bias(rng, 3)),
    ):
        if np.shape(made) != (rows, 3):
            raise ConfigError(
                f"cell '{cell.name}': {what} gives shape {np.shape(made)} for 3 units, "
                f"expected ({rows}, 3)"
            )
    for point in rng.normal(size=(5, m + G + L)):
        _, *stated = cell.step(*_split(point, m, G))
        try:
            stated = np.hstack([np.array(d, dtype=float).reshape(m, -1) for d in stated])
        except ValueError as error:
            raise ConfigError(f"cell '{cell.name}': derivatives are ragged ({error})") from None
        if stated.shape != (m, m + G + L):
            raise ConfigError(
                f"cell '{cell.name}': derivatives have {stated.shape[1]} columns in all, "
                f"state + projections + parameters say {m + G + L}"
            )
        for column in range(m + G + L):
            shifted = point.astype(complex)
            shifted[column] += 1j * step_size
            true = np.array(cell.step(*_split(shifted, m, G))[0]).imag / step_size
            if not np.allclose(stated[:, column], true, rtol=tolerance, atol=tolerance):
                raise ConfigError(
                    f"cell '{cell.name}': derivative column {column} of (J, B, D) is "
                    f"{stated[:, column]}, a complex-step derivative of its update says {true}"
                )


def _split(point, m, G):
    return tuple(point[:m]), tuple(point[m : m + G]), tuple(point[m + G :])


# ------------------------------------------------------------------------------------------------
# The cells. y, s, l: state, input projections, local parameters.


def gated(y, s, l):  # noqa: E741
    c = tanh(s[0] + l[0] * y[0])
    k = sigmoid(s[1] + l[1] * y[0])
    dc = one_minus(c * c) * k
    dk = k * one_minus(k) * (c - y[0])
    return (
        (y[0] + k * (c - y[0]),),
        ((one_minus(k) + dc * l[0] + dk * l[1],),),
        ((dc, dk),),
        ((dc * y[0], dk * y[0]),),
    )


def leaky(y, s, l):  # noqa: E741
    a = sigmoid(l[0])
    c = tanh(s[0])
    return (
        (c + a * (y[0] - c),),
        ((a,),),
        ((one_minus(a) * one_minus(c * c),),),
        ((a * one_minus(a) * (y[0] - c),),),
    )


def lstm(y, s, l):  # noqa: E741
    f = sigmoid(s[0] + l[0] * y[0])
    c = tanh(s[1] + l[1] * y[0])
    df = f * one_minus(f) * (y[0] - c)
    dc = one_minus(f) * one_minus(c * c)
    return (
        (c + f * (y[0] - c),),
        ((f + df * l[0] + dc * l[1],),),
        ((df, dc),),
        ((df * y[0], dc * y[0]),),
    )


def rgc(y, s, l):  # noqa: E741
    """Reciprocal gated circuit, after Nayebi et al. (2018): h and c gate each other."""
    h, c = y
    keep_hs, keep_hh = one_minus(sigmoid(l[0] * c)), one_minus(sigmoid(l[1] * h))
    keep_cs, keep_cc = one_minus(sigmoid(l[2] * h)), one_minus(sigmoid(l[3] * c))
    h_new = tanh(keep_hs * s[0] + keep_hh * h)
    c_new = tanh(keep_cs * s[0] + keep_cc * c)
    dh, dc = one_minus(h_new * h_new), one_minus(c_new * c_new)
    # d keep(l v)/d(l v) = -keep (1 - keep)
    slope_hs = -(keep_hs * one_minus(keep_hs)) * s[0] * dh
    slope_hh = -(keep_hh * one_minus(keep_hh)) * h * dh
    slope_cs = -(keep_cs * one_minus(keep_cs)) * s[0] * dc
    slope_cc = -(keep_cc * one_minus(keep_cc)) * c * dc
    zero = like(h, 0.0)
    return (
        (h_new, c_new),
        (
            (dh * keep_hh + slope_hh * l[1], slope_hs * l[0]),
            (slope_cs * l[2], dc * keep_cc + slope_cc * l[3]),
        ),
        ((dh * keep_hs,), (dc * keep_cs,)),
        (
            (slope_hs * c, slope_hh * h, zero, zero),
            (zero, zero, slope_cs * h, slope_cc * c),
        ),
    )


def rtu(y, s, l):  # noqa: E741
    """Recurrent trace unit: a damped rotation of the plane, as in complex diagonal networks."""
    r = sigmoid(l[0])
    a, b = r * cos(l[1]), r * sin(l[1])
    u, v = a * y[0] - b * y[1], b * y[0] + a * y[1]
    one, zero = like(a, 1.0), like(a, 0.0)
    return (
        (u + s[0], v + s[1]),
        ((a, -b), (b, a)),
        ((one, zero), (zero, one)),
        ((one_minus(r) * u, -v), (one_minus(r) * v, u)),
    )


def _spread_keep(rng, n_hidden):
    """Logits of keep rates whose time constants are log-uniform between 1 and 100 fixations."""
    time_constant = 100.0 ** rng.random(n_hidden)
    return np.log(time_constant)


def _zeros(count):
    return lambda rng, n_hidden: np.zeros((count, n_hidden))


register(
    Cell(
        "gated", gated, 1, 2, 2, (0,),
        initial_parameters=_zeros(2),
        initial_projection_bias=lambda rng, n: np.stack([np.zeros(n), np.full(n, -2.0)]),
        initial_place_std=(0.1, 1.0),
    )
)  # fmt: skip
register(
    Cell(
        "leaky", leaky, 1, 1, 1, (0,),
        initial_parameters=lambda rng, n: _spread_keep(rng, n)[None],
        initial_projection_bias=_zeros(1),
        initial_place_std=(0.1,),
    )
)  # fmt: skip
register(
    Cell(
        "lstm", lstm, 1, 2, 2, (0,),
        initial_parameters=_zeros(2),
        initial_projection_bias=lambda rng, n: np.stack([np.full(n, 2.0), np.zeros(n)]),
        initial_place_std=(1.0, 0.1),
    )
)  # fmt: skip
register(
    Cell(
        "rgc", rgc, 2, 1, 4, (0,),
        initial_parameters=lambda rng, n: rng.normal(size=(4, n)),
        initial_projection_bias=_zeros(1),
        initial_place_std=(0.1,),
    )
)  # fmt: skip
register(
    Cell(
        "rtu", rtu, 2, 2, 2, (0, 1),
        initial_parameters=lambda rng, n: np.stack(
            [_spread_keep(rng, n), rng.uniform(0.0, 0.5 * np.pi, n)]
        ),
        initial_projection_bias=_zeros(2),
        initial_place_std=(0.1, 0.1),
    )
)  # fmt: skip
