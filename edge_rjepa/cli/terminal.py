"""What the commands share: lines to who watches, numbers they take, signals that end them."""

from __future__ import annotations

import math
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress


def say(line: str) -> None:
    """To the person who watches; standard output stays for what a script reads."""
    with suppress(OSError):  # a log that cannot be written is no reason to stop
        print(line, file=sys.stderr, flush=True)


def number(text: str) -> float:
    """A finite number, for argparse."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError
    return value


number.__name__ = "number"  # as argparse names it


def positive(kind: type):
    """What makes a number of this kind above 0 from text, for argparse."""

    def parse(text: str):
        value = kind(text)
        if not (value > 0 and math.isfinite(value)):
            raise ValueError
        return value

    parse.__name__ = f"positive {kind.__name__}"
    return parse


def view(text: str) -> float:
    """A camera's view in degrees, above 0 and below 180, for argparse."""
    value = positive(float)(text)
    if value >= 180.0:
        raise ValueError
    return value


view.__name__ = "view in degrees, above 0 and below 180"


@contextmanager
def stop_on_signals(says: str) -> Iterator[list[int]]:
    """The signals received: Ctrl-C, SIGTERM, a closed terminal. A second one ends the process."""
    received: list[int] = []

    def note(number, frame):
        received.append(number)
        signal.signal(number, previous[number])
        with suppress(OSError):  # whoever read it is gone
            os.write(2, f"\n{says}\n".encode())  # print is not for handlers

    numbers = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
    previous = {number: signal.signal(number, note) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
