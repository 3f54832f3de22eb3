"""Launches that are made again and again, as one: CUDA graphs.

Python takes longer to ask for a launch than a small kernel runs. A graph asks once for all of them.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from typing import Any

from edge_rjepa.learner.kernels.cuda.tiles import NUMBA

MOST = 32  # graphs kept; a learner whose blocks have one length needs three


class LaunchGraphs:
    """What was put into a queue, to be put there again; the simulator, without graphs, asks anew.

    A graph keeps the addresses and numbers its launches were asked for with, and no array alive.
    The graph used longest ago makes room for one more than MOST.
    """

    def __init__(self, queue: Any):
        self._queue = queue
        self._graphs: dict[Hashable, Any] = {}  # the newest last; None: asked for once
        weakref.finalize(self, _destroy, self._graphs).atexit = False  # CUDA is gone by then

    def run(self, key: Hashable, ask: Callable[[], None]) -> None:
        """Call `ask`, which puts launches and copies of pinned memory into the queue.

        It must ask for the same whenever the key is the same: the third time nobody asks it. The
        first time is no recording: kernels are compiled and loaded in it.
        """
        if NUMBA.ENABLE_CUDASIM:
            ask()
        elif key not in self._graphs:
            ask()
            self._graphs[key] = None
            self._make_room()
        else:
            graph = self._graphs.pop(key) or self._record(ask)
            self._graphs[key] = graph
            _driver().cuGraphLaunch(graph, int(self._queue.handle))

    def _make_room(self) -> None:
        while len(self._graphs) > MOST:
            oldest = next(iter(self._graphs))
            _destroy({oldest: self._graphs.pop(oldest)})

    def _record(self, ask: Callable[[], None]) -> Any:
        driver, binding, handle = _driver(), _binding(), int(self._queue.handle)
        # Relaxed: Numba may free, in the middle, what others have dropped.
        driver.cuStreamBeginCapture(
            handle, binding.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
        )
        try:
            ask()
        except BaseException:
            _, graph = binding.cuStreamEndCapture(handle)  # the queue is to be of use again
            binding.cuGraphDestroy(graph)
            raise
        graph = driver.cuStreamEndCapture(handle)
        try:
            return driver.cuGraphInstantiate(graph, 0)
        finally:
            driver.cuGraphDestroy(graph)


def _driver() -> Any:
    """CUDA's functions, each of which raises what Numba raises."""
    from numba.cuda.cudadrv.driver import driver

    return driver


def _binding() -> Any:
    """The same functions, which raise nothing and return an error's number first."""
    from cuda.bindings import driver

    return driver


def _destroy(graphs: dict[Hashable, Any]) -> None:
    for graph in graphs.values():
        if graph is not None:
            _binding().cuGraphExecDestroy(graph)  # where the GPU has failed, too
    graphs.clear()
