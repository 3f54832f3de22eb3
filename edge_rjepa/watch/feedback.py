"""Feedback: the owner says of an alarm that it is fine, and what it told of becomes usual.

    feedback.say(12)             in the process that watches, from any thread
    say_fine(folder, 12)         from another process, whether the watch runs or not

Between processes a word is an empty file, FOLDER/fine/12: the watch takes it up within a second, or
when it is started again.
"""

from __future__ import annotations

import math
import queue
import time
from contextlib import suppress
from pathlib import Path

from edge_rjepa.base.journal import read
from edge_rjepa.errors import ConfigError
from edge_rjepa.watch.alarms import LINES
from safe_files.errors import why
from safe_files.writing import make_private_folder, newest, write_atomic

WORDS = "fine"  # the folder of words
LOOK_EVERY_S = 1.0  # for words of other processes
MOST_WAITING = 1000


class Feedback:
    """What the owner says of the alarms of the watch in a folder."""

    def __init__(self, folder: Path) -> None:
        self._words = folder / WORDS
        self._said: queue.Queue[int] = queue.Queue(MOST_WAITING)
        self._looked_s = -math.inf

    def say(self, number: int) -> None:
        """The alarm of this number is fine; returns at once, and may be called by any thread."""
        with suppress(queue.Full):
            self._said.put_nowait(number)

    def drain(self) -> list[int]:
        """Numbers of the alarms that were said to be fine since the last call."""
        numbers = []
        with suppress(queue.Empty):
            while True:
                numbers.append(self._said.get_nowait())
        if time.monotonic() - self._looked_s >= LOOK_EVERY_S:
            self._looked_s = time.monotonic()
            numbers += self._of_other_processes()
        return numbers

    def _of_other_processes(self) -> list[int]:
        numbers = []
        with suppress(OSError):  # there is no such folder as long as nobody said anything
            words = [p for p in self._words.iterdir() if p.name.isdecimal() and len(p.name) < 10]
            for path in sorted(words)[:MOST_WAITING]:
                path.unlink()
                numbers.append(int(path.name))
        return numbers


def say_fine(folder: Path, number: int) -> None:
    """Leave the word that an alarm is fine, for the watch of this folder.

    Raises ConfigError where the folder is no watch's, has no such alarm, or cannot be written.
    """
    if not newest(folder / LINES):
        raise ConfigError(f"{folder} has no alarms: name the folder that `watch` writes to")
    try:
        numbers = {
            line.get("number") for line in read(folder / LINES) if line.get("kind") == "alarm"
        }
        if number not in numbers:
            raise ConfigError(f"{folder} has no alarm {number}: its lines are in {LINES}")
        make_private_folder(folder / WORDS)
        write_atomic(folder / WORDS / str(number), b"")
    except OSError as error:
        raise ConfigError(f"cannot say so in {folder}: {why(error)}") from error
