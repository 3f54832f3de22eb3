"""A journal: a line of JSON for everything that is measured or happens, in files that do not grow.

    metrics.jsonl    is appended to; when it is full it becomes ..
    metrics.1.jsonl  .. the one before, and so on; the oldest goes

A line is written at once and whole, or not at all. What a power cut leaves half-written or damaged
is passed over by who reads, and cut off before the next line is written. No file stays open in
between: the disk can be made read-only, or filled and emptied, under a process that goes on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from safe_files.errors import FileError
from safe_files.reading import lines, open_regular, parse_json
from safe_files.writing import move_up, newest, numbered, private_opener

MOST_LINE_BYTES = 1 << 20  # a longer one is damaged


class Journal:
    """Appends lines to `path`; at most `keep` >= 2 files of `max_bytes` each, that one included."""

    def __init__(self, path: str | os.PathLike, max_bytes: int = 4 << 20, keep: int = 4):
        self.path = Path(path)
        self.max_bytes = max_bytes
        self.keep = keep

    def append(self, line: dict) -> None:
        """Add a line of what JSON can hold, NaN and infinity included.

        Raises OSError, with the journal as it was, when it cannot be written: the disk is full or
        read-only, say.
        """
        data = (json.dumps(line) + "\n").encode()
        size = self.path.stat().st_size if self.path.exists() else 0
        if size and size + len(data) > self.max_bytes:
            move_up([self.path, *(numbered(self.path, i) for i in range(1, self.keep))])
        with open(self.path, "ab+", buffering=0, opener=private_opener) as file:
            end = _mend(file)
            try:
                while data:  # once; on a full disk a second time, which raises the error
                    data = data[file.write(data) :]
            except BaseException:
                file.truncate(end)
                raise

    def forget(self, frames: int) -> int:
        """Drop the lines whose "frames" is above that; how many frames further they went.

        They were measured after the checkpoint that a run goes on from, and will be again. Needs no
        space on the disk. Raises OSError when a file cannot be changed.
        """
        last = frames
        for path in newest(self.path):
            kept, last_here = _until(path, frames)
            last = max(last, last_here)
            if kept < path.stat().st_size:
                os.truncate(path, kept)
        return last - frames


def read(path: str | os.PathLike) -> Iterator[dict]:
    """The lines of the journal at `path`, oldest first, without damaged ones.

    Raises OSError when there is none or it cannot be read.
    """
    for version in reversed(newest(path) or [Path(path)]):
        with open_regular(version, follow_links=False) as file:
            parsed = (_parse(line) for line, _ in lines(file, MOST_LINE_BYTES))
            yield from (line for line in parsed if line is not None)


def _mend(file: BinaryIO) -> int:
    """Cut off what follows the last whole line; the length that is left, in bytes."""
    size = file.seek(0, os.SEEK_END)
    if size:
        file.seek(size - 1)
        if file.read(1) != b"\n":
            start = max(0, size - MOST_LINE_BYTES)
            file.seek(start)
            size = start + file.read().rfind(b"\n") + 1
            file.truncate(size)
    return size


def _until(path: Path, frames: int) -> tuple[int, int]:
    """Bytes up to the end of the last line before those above `frames`, and the highest count."""
    kept, last = 0, frames
    with open_regular(path, follow_links=False) as file:
        for line, end in lines(file, MOST_LINE_BYTES):
            count = (_parse(line) or {}).get("frames")
            if not isinstance(count, int):
                continue
            last = max(last, count)
            kept = end if last == frames else kept
    return kept, last


def _parse(line: bytes | None) -> dict | None:
    """The line, or None where it is damaged."""
    try:
        value = parse_json(line or b"", finite=False)
    except FileError:
        return None
    return value if isinstance(value, dict) else None
