"""`--log json`: whatever goes to standard error is one JSON object a line.

What this program says comes from `terminal.say`. What anybody else writes there, such as a library
written in C, a program of --exec or Python itself, goes through a pipe and comes out as JSON, too.
"""

from __future__ import annotations

import json
import math
import os
import re
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from itertools import pairwise

FORMATS = "text", "json"
MOST_LINE_BYTES = 1 << 16  # of others; a longer one is cut into several
DRAINED_S = 1.0  # for what is in the pipe as the program ends
LEVELS = (  # what a line begins with, which the level then says
    (re.compile(r"warning: "), "warning"),
    (re.compile(r"edge-rjepa[\w -]*: (error: )?|error: "), "error"),
)


class JsonLog:
    """Takes over descriptor 2 from construction to `close`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._out = os.dup(2)
        reading, writing = os.pipe()
        os.dup2(writing, 2)
        os.close(writing)
        self._reader = threading.Thread(target=self._read, args=(reading,), daemon=True)
        self._reader.start()

    def say(self, line: str, **numbers: float) -> None:
        """A line of this program; its first word may tell the level. Raises OSError."""
        level = "info"
        for beginning, named in LEVELS:
            if found := beginning.match(line):
                line, level = line[found.end() :], named
                break
        known = {name: value for name, value in numbers.items() if math.isfinite(value)}
        self._write(level, line, known)

    def close(self) -> None:
        """What others have written so far comes out; what they write from now on goes nowhere."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)
        self._reader.join(DRAINED_S)

    def _read(self, descriptor: int) -> None:
        with open(descriptor, "rb") as lines:
            while text := lines.readline(MOST_LINE_BYTES):
                line = text.decode(errors="replace").rstrip()
                with suppress(OSError):  # a log that cannot be written is no reason to stop
                    if found := LEVELS[1][0].match(line):
                        self._write("error", line[found.end() :], {})
                    elif line:
                        self._write("warning", line, {})

    def _write(self, level: str, line: str, numbers: dict[str, float]) -> None:
        time = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        said = {"time": time, "level": level, "event": line} | numbers
        content = memoryview(json.dumps(said).encode() + b"\n")
        with self._lock:
            while content:
                content = content[os.write(self._out, content) :]


active: JsonLog | None = None


@contextmanager
def log_of(arguments: Sequence[str]) -> Iterator[None]:
    """Standard error as JSON if the command line asks for it; also errors that nobody caught."""
    global active
    if not _is_asked_for(arguments):
        yield
        return
    active = JsonLog()
    try:
        yield
    except Exception:
        traceback.print_exc()
        raise SystemExit(1) from None
    finally:
        active.close()


def _is_asked_for(arguments: Sequence[str]) -> bool:
    """Before anything is parsed: what is wrong with the command line is told as JSON, too."""
    return "--log=json" in arguments or ("--log", "json") in pairwise(arguments)
