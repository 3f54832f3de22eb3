"""Numba's simulator runs the threads of a block in turns, from one barrier to the next.

As it is, all of them and a loop that watches them compete for the interpreter, which takes several
times as long, many times on a busy machine. In turns the order is also ours: every other block runs
its threads backwards, so that a result which needs more barriers than there are shows.
"""

import functools
import threading
import types

import numpy as np
from numba.cuda.simulator import kernel as simulator
from numba.cuda.simulator import kernelapi

Index = functools.cache(simulator.Dim3)


class Turn(threading.Thread):
    """Is one CUDA thread after another.

    `go` lets it run, it releases `back` at a barrier and at the end of a CUDA thread.
    """

    def __init__(self):
        super().__init__(daemon=True)
        self.go = threading.Lock()
        self.go.acquire()
        self.start()

    def become(self, target, block, thread, number, back):
        self.target, self.thread_id, self.back = target, number, back
        self.blockIdx, self.threadIdx = Index(*block), Index(*thread)
        self.ended, self.error = False, None

    def run(self):
        while True:
            self.go.acquire()
            try:
                self.target()
            except BaseException as error:
                self.error = error
            self.ended = True
            self.back.release()

    def syncthreads(self):
        self.back.release()
        self.go.acquire()


_turns = []  # as many as the largest block had threads: to start one takes longer than to run it


def _run_in_turns(manager, block, *arguments):
    back = threading.Lock()
    back.acquire()
    indices = list(np.ndindex(*manager._block_dim))
    while len(_turns) < len(indices):
        _turns.append(Turn())
    threads = _turns[: len(indices)]
    for number, thread in enumerate(threads):
        thread.become(lambda: manager._f(*arguments), block, indices[number], number, back)
    if sum(block) % 2:
        threads.reverse()
    waiting = threads
    while waiting:
        for thread in waiting:
            thread.go.release()
            back.acquire()
            if thread.error is not None:
                _turns.clear()  # the others stand at a barrier for ever
                raise thread.error
        waiting = [thread for thread in waiting if not thread.ended]


def _caller_of(frame):
    """The last of a stack but one, as the simulator asks for it to know a shared array by its line.

    The whole stack, with a look at the disk for every file of it, took most of a check's time.
    """
    return [(frame.f_back.f_code.co_filename, frame.f_back.f_lineno), None]


def install() -> None:
    simulator.BlockManager.run = _run_in_turns
    kernelapi.traceback = types.SimpleNamespace(extract_stack=_caller_of)
