"""What the commands share: lines to the person who watches, exit codes, signals that end them."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

from edge_rjepa.base.threads import join_driver_threads
from edge_rjepa.cli import json_log
from safe_files.errors import why

DRIVERS_S = 1.0  # for cameras to come back, as the program ends

FAILED, USAGE, INTERRUPTED = 1, 2, 130  # exit codes
SIGNALS = signal.SIGINT, signal.SIGTERM, signal.SIGHUP  # Ctrl-C, an end, a closed terminal


def complete_streams() -> None:
    """Put nothing in the place of standard streams that were closed, as `2>&-` does.

    Else the next file that is opened takes the number, and what a library says goes into it.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    sys.stdin = sys.stdin or open(0)
    sys.stdout = sys.stdout or open(1, "w")
    sys.stderr = sys.stderr or open(2, "w")
    # As standard error has it: the name of a file may have bytes that are no text.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def say(line: str, **numbers: float) -> None:
    """To the person who watches; standard output stays for what a script reads.

    numbers: what the line tells, for a log of JSON.
    """
    with suppress(OSError):  # a log that cannot be written is no reason to stop
        if json_log.active is None:
            print(line, file=sys.stderr, flush=True)
        elif line:
            json_log.active.say(line, **numbers)


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


def output_failed(error: OSError) -> str:
    """Nothing more goes to the standard output; what there is to say of it."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    return f"standard output cannot be written: {why(error)}"


def leave(code: int) -> NoReturn:
    """End the process with this exit code, even while a thread hangs in a driver."""
    try:
        sys.stdout.flush()
    except OSError as error:  # else Python says so at its end, in three lines
        say(f"edge-rjepa: {output_failed(error)}")
        code = code or FAILED
    # Python ends by the signal, not with our code, if Ctrl-C came while it ran code given as a
    # string, as the import of a NamedTuple does. Running another string makes it forget that.
    exec("")
    if not join_driver_threads(DRIVERS_S):
        if json_log.active is not None:
            json_log.active.close()
        os._exit(code)  # the usual end would wait for it, or be aborted by it
    sys.exit(code)
