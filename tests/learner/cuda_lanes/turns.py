"""Numba's simulator runs the threads of a block in turns, from one barrier to the next.

As it is, all of them and a loop that watches them compete for the interpreter, which takes several
times as long, many times on a busy machine. In turns the order is also ours: every other block runs
its threads backwards, so that a result which needs more barriers than there are shows.
"""

import threading

import numpy as np
from numba.cuda.simulator import kernel as simulator


class Turn(threading.Thread):
    """One CUDA thread. `go` lets it run, it releases `back` at a barrier and at its end."""

    def __init__(self, target, block, thread, number, back):
        super().__init__(target=target, daemon=True)
        self.blockIdx, self.threadIdx = simulator.Dim3(*block), simulator.Dim3(*thread)
        self.thread_id, self.back, self.go = number, back, threading.Semaphore(0)
        self.ended, self.error = False, None

    def run(self):
        self.go.acquire()
        try:
            super().run()
        except BaseException as error:
            self.error = error
        self.ended = True
        self.back.release()

    def syncthreads(self):
        self.back.release()
        self.go.acquire()


def _run_in_turns(manager, block, *arguments):
    back = threading.Semaphore(0)
    threads = [
        Turn(lambda: manager._f(*arguments), block, thread, number, back)
        for number, thread in enumerate(np.ndindex(*manager._block_dim))
    ]
    if sum(block) % 2:
        threads.reverse()
    for thread in threads:
        thread.start()
    waiting = threads
    while waiting:
        for thread in waiting:
            thread.go.release()
            back.acquire()
            if thread.error is not None:
                raise thread.error
        waiting = [thread for thread in waiting if not thread.ended]


def install() -> None:
    simulator.BlockManager.run = _run_in_turns
