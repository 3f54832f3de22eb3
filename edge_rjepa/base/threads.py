"""Threads that wait inside a driver: Python must not end while one of them is still there.

Python ends a daemon thread when it comes back to Python, by unwinding its stack. If that stack goes
through C++, as OpenCV's does, the C++ runtime aborts the process instead: "terminate called without
an active exception", SIGABRT. Python 3.14 no longer does so.
"""

from __future__ import annotations

import atexit
import threading
import time
import weakref
from typing import ClassVar

LIMIT_S = 30.0  # a driver that hangs for longer may hang for ever


class DriverThread(threading.Thread):
    """A daemon thread that waits inside a driver, in C++ code that nothing can interrupt."""

    all: ClassVar[weakref.WeakSet[DriverThread]] = weakref.WeakSet()

    def __init__(self, name: str) -> None:
        super().__init__(name=name, daemon=True)
        DriverThread.all.add(self)


@atexit.register
def join_driver_threads(limit_s: float = LIMIT_S) -> bool:
    """Wait until all have come back, so long at most; whether they have."""
    end_s = time.monotonic() + limit_s
    started = [thread for thread in DriverThread.all if thread.ident is not None]
    for thread in started:
        thread.join(max(0.0, end_s - time.monotonic()))
    return not any(thread.is_alive() for thread in started)
