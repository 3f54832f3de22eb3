"""Launches that are made again and again, as one: CUDA graphs.

Python takes longer to ask for a launch than a small kernel runs. A graph asks once for all of them.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from typing import Any

from edge_rjepa.learner.kernels.cuda.tiles import NUMBA


class LaunchGraphs:
    """What was put into a queue, to be put there again; the simulator, without graphs, asks anew.

    A graph keeps the addresses and numbers its launches were asked for with, and no array alive.
    """

    def __init__(self, queue: Any):
        self._queue = queue
        self._graphs: dict[Hashable, Any] = {}  # None: asked for once
        weakref.finalize(self, _destroy, self._graphs).atexit = False  # CUDA is gone by then

    def run(self, key: Hashable, ask: Callable[[], None]) -> None:
        """`ask` for launches and copies, in pinned memory, in the queue.

        It must ask for the same whenever the key is the same: the third time nobody asks it. The
        first time is no recording: kernels are compiled and loaded in it.
        """
        if NUMBA.ENABLE_CUDASIM or key not in self._graphs:
            ask()
            self._graphs[key] = None
            return
        if self._graphs[key] is None:
            self._graphs[key] = self._record(ask)
        _driver().cuGraphLaunch(self._graphs[key], int(self._queue.handle))

    def _record(self, ask: Callable[[], None]) -> Any:
        driver, handle = _driver(), int(self._queue.handle)
        # Relaxed: Numba may free, in the middle, what others have dropped.
        relaxed = _binding().CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
        driver.cuStreamBeginCapture(handle, relaxed)
        try:
            ask()
        finally:
            graph = driver.cuStreamEndCapture(handle)
        executable = driver.cuGraphInstantiate(graph, 0)
        driver.cuGraphDestroy(graph)
        return executable


def _driver() -> Any:
    """CUDA's functions, each of which raises what Numba raises."""
    from numba.cuda.cudadrv.driver import driver

    return driver


def _binding() -> Any:
    """The same functions, which raise nothing and return an error's number."""
    from cuda.bindings import driver

    return driver


def _destroy(graphs: dict[Hashable, Any]) -> None:
    for graph in graphs.values():
        if graph is not None:
            _binding().cuGraphExecDestroy(graph)  # where the GPU has failed, too
    graphs.clear()
