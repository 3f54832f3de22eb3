"""Numba's simulator runs the threads of a block in turns, from one barrier to the next.

As it is, all of them are threads of Python, and with a loop that watches them compete for the
interpreter. Here a kernel with a barrier is a generator that yields at it. In turns the order is
also ours: every other block runs its threads backwards, so that a result which needs more barriers
than there are shows.

What else took most of a check's time is left out: arrays that can be asked for a field of a record,
which none of ours has; a look for `cuda` in all globals at each call of a device function; the
whole stack, with a look at the disk for every file of it, at each shared array.
"""

import ast
import functools
import inspect
import types

import numpy as np
from numba.cuda.simulator import kernel as simulator
from numba.cuda.simulator import kernelapi

Index = functools.cache(simulator.Dim3)
BARRIER = "cuda.syncthreads()"


class Yielding(ast.NodeTransformer):
    """Writes a barrier as a `yield`, and a call of what has one as a `yield from`."""

    def __init__(self, with_barrier):
        self.with_barrier = with_barrier

    def visit_Call(self, node):
        self.generic_visit(node)
        if ast.unparse(node) == BARRIER:
            return ast.copy_location(ast.Yield(), node)
        return ast.copy_location(ast.YieldFrom(node), node) if self.calls_one(node) else node

    def calls_one(self, node):
        return isinstance(node.func, ast.Name) and node.func.id in self.with_barrier


def write_barriers_as_yields(modules):
    """Give the functions of these modules that have a barrier, or call one that has, other code."""
    trees = [(module, ast.parse(inspect.getsource(module))) for module in modules]
    functions = [
        each for _, tree in trees for each in tree.body if isinstance(each, ast.FunctionDef)
    ]
    yielding = Yielding(set())
    while True:
        found = {
            each.name
            for each in functions
            for node in ast.walk(each)
            if isinstance(node, ast.Call)
            and (ast.unparse(node) == BARRIER or yielding.calls_one(node))
        }
        if found == yielding.with_barrier:
            break
        yielding.with_barrier = found
    for module, tree in trees:
        changed = ast.fix_missing_locations(yielding.visit(tree))
        for code in compile(changed, module.__file__, "exec").co_consts:
            if isinstance(code, types.CodeType) and code.co_name in found:
                getattr(module, code.co_name).__code__ = code


def _run_in_turns(manager, block, *arguments):
    """A thread runs to its first barrier, then the next one; then all to their second."""
    seen = simulator._get_kernel_context()  # `cuda` as the threads see it
    seen.blockIdx = Index(*block)
    threads = [Index(*thread) for thread in np.ndindex(*manager._block_dim)]
    if sum(block) % 2:
        threads.reverse()
    waiting = []
    for seen.threadIdx in threads:
        run = manager._f(*arguments)
        if run is not None and next(run, run) is not run:
            waiting.append((seen.threadIdx, run))
    while waiting:
        at_barrier = []
        for seen.threadIdx, run in waiting:
            if next(run, run) is not run:
                at_barrier.append((seen.threadIdx, run))
        waiting = at_barrier


def _caller_of(frame):
    """The last of a stack but one: by its line the simulator knows a shared array."""
    return [(frame.f_back.f_code.co_filename, frame.f_back.f_lineno), None]


_launch = simulator.FakeCUDAKernel.__call__


def _call(kernel, *arguments):
    """A device function has the globals of the kernel that calls it, where `cuda` is swapped."""
    return kernel.fn(*arguments) if kernel._device else _launch(kernel, *arguments)


def install(modules) -> None:
    """modules: all that have kernels with barriers."""
    write_barriers_as_yields(modules)
    simulator.BlockManager.run = _run_in_turns
    simulator.FakeCUDAKernel.__call__ = _call
    simulator.FakeWithinKernelCUDAArray = lambda array: array._ary
    kernelapi.traceback = types.SimpleNamespace(extract_stack=_caller_of)
    del kernelapi.FakeCUDAModule.threadIdx, kernelapi.FakeCUDAModule.blockIdx
