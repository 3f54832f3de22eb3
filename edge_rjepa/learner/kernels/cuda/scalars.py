"""The cells' vocabulary (edge_rjepa/learner/cells.py) on the GPU: functions of single numbers."""

from __future__ import annotations

import functools
import math

import numba
from numba import cuda

from edge_rjepa.base.jit import specialise
from edge_rjepa.learner.cells import Cell
from edge_rjepa.learner.kernels.arrays import COLUMN
from edge_rjepa.learner.kernels.cpu import P0, P1, P2, P3, P4, Q0, Q1, Q2, Q3, Q4, TANH_LIMIT

NUMBER = numba.float32  # the dtype of all arrays: what a build replaces


def rational_tanh(x):
    """That of the CPU: alike to rounding there and here, no branch, and fewer instructions."""
    if x > TANH_LIMIT:
        x = TANH_LIMIT
    if x < -TANH_LIMIT:
        x = -TANH_LIMIT
    u = x * x
    p = (((P4 * u + P3) * u + P2) * u + P1) * u + P0
    q = (((Q4 * u + Q3) * u + Q2) * u + Q1) * u + Q0
    return x * p / q


def exact_tanh(x):
    return math.tanh(x)


def like(x, value):
    return NUMBER(value)


def one_minus(x):
    return NUMBER(1.0) - x


def sigmoid(x):
    half = NUMBER(0.5)
    return half + half * tanh(half * x)  # noqa: F821


def sin(x):
    return math.sin(x)


def cos(x):
    return math.cos(x)


_on_device = cuda.jit(device=True)


@functools.cache
def vocabulary(dtype: str) -> dict[str, object]:
    """The words of a cell's step for a dtype, and NUMBER."""
    number = numba.float32 if dtype == "float32" else numba.float64
    tanh = _on_device(rational_tanh if dtype == "float32" else exact_tanh)
    words = {"NUMBER": number, "tanh": tanh, "sin": _on_device(sin), "cos": _on_device(cos)}
    for template, replaced in (
        (like, {"NUMBER": number}),
        (one_minus, {"NUMBER": number}),
        (sigmoid, {"NUMBER": number, "tanh": tanh}),
    ):
        words[template.__name__] = _on_device(specialise(template, dtype, **replaced))
    return words


def of_cell(cell: Cell, dtype: str) -> dict[str, object]:
    """The cell's step and the functions that read its tuples."""
    words = vocabulary(dtype)
    used = {name: words[name] for name in words if name in cell.step.__code__.co_names}
    return {
        "step": _on_device(specialise(cell.step, f"{cell.name}_{dtype}", **used)),
        "take_state": _on_device(COLUMN[cell.n_state]),
        "take_projections": _on_device(COLUMN[cell.n_projections]),
        "take_parameters": _on_device(COLUMN[cell.n_parameters]),
    }
