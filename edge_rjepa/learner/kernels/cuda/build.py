"""Kernels are written once, for every dtype, cell and tile size: plain functions with constants.

A module of this folder marks its functions `@kernel` or `@device` and reads what differs from build
to build (the names in capitals, `tanh`, `step` ..) as globals. `build` copies all marked functions
into one new namespace that has the constants of that build, and hands the copies to Numba.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable

import numba
from numba import cuda

_KERNELS: set[Callable] = set()
_DEVICE_FUNCTIONS: set[Callable] = set()

# Of arrays, in hot loops: a signed index may count from the end, in Numba too, and asks each time.
index = numba.uint64


def kernel(function: Callable) -> Callable:
    """Mark a function that is launched over a grid."""
    _KERNELS.add(function)
    return function


def device(function: Callable) -> Callable:
    """Mark a function that kernels call."""
    _DEVICE_FUNCTIONS.add(function)
    return function


def build(
    modules: Iterable[types.ModuleType], constants: dict[str, object]
) -> types.SimpleNamespace:
    """All kernels of the modules, with these constants; each is compiled when first launched.

    The copies share one namespace: Numba's simulator swaps `cuda` in the globals of the kernel that
    runs, and the functions which that calls must see the swap.
    """
    space: dict[str, object] = {}
    for module in modules:
        space |= vars(module)
    functions = {n: value for n, value in space.items() if isinstance(value, types.FunctionType)}
    marked = {n: f for n, f in functions.items() if f in _KERNELS | _DEVICE_FUNCTIONS}
    space |= constants
    for name, function in marked.items():
        copy = types.FunctionType(function.__code__, space, name)
        space[name] = cuda.jit(device=function in _DEVICE_FUNCTIONS)(copy)
    return types.SimpleNamespace(
        **{name: space[name] for name, function in marked.items() if function in _KERNELS}
    )
