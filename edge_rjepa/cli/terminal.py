"""What the commands share: lines to the person who watches, exit codes, signals that end them."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

FAILED, USAGE, INTERRUPTED = 1, 2, 130  # exit codes
SIGNALS = signal.SIGINT, signal.SIGTERM, signal.SIGHUP  # Ctrl-C, an end, a closed terminal


def say(line: str) -> None:
    """To the person who watches; standard output stays for what a script reads."""
    with suppress(OSError):  # a log that cannot be written is no reason to stop
        print(line, file=sys.stderr, flush=True)


@contextmanager
def stop_on_signals(says: str) -> Iterator[list[int]]:
    """The signals received: Ctrl-C, SIGTERM, a closed terminal. A second one ends the process."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        signal.signal(number, previous[number])
        with suppress(OSError):  # whoever read it is gone
            os.write(2, f"\n{says}\n".encode())  # print is not for handlers

    previous: dict[int, Any] = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def interrupt_on_signals() -> Iterator[None]:
    """What would kill the program raises KeyboardInterrupt, also where Ctrl-C was ignored."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous = {number: signal.signal(number, interrupt) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
