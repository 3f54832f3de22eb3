"""The files of devices: who may use one, and who does."""

from __future__ import annotations

import os
from pathlib import Path


def group_of(path: str) -> str:
    """The group that may use a device; Debian's where it cannot be found out."""
    try:
        return Path(path).group()
    except (OSError, KeyError):
        return "dialout"


def holders(path: str) -> dict[int, str]:
    """Which processes have the file open, their names by their numbers, as far as one may know."""
    target = os.path.realpath(path)
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(os.path.realpath(fd) == target for fd in (process / "fd").iterdir()):
                found[int(process.name)] = (process / "comm").read_text().strip()
        except OSError:  # of another user, or gone by now
            continue
    return found


def in_words(processes: dict[int, str]) -> str:
    """`1234 (name), 1240 (name)`."""
    return ", ".join(f"{number} ({name})" for number, name in processes.items())
