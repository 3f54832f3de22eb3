"""What a page can be about: a run that learns, a run that ended, a watch."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple


class Refused(Exception):  # noqa: N818 - a refusal is no fault of the program
    """A button cannot do now what it says; with the reason."""


class Picture(NamedTuple):
    """A picture, and what the browser lays over it."""

    overlay: dict  # plain JSON values; places are fractions 0..1 of the picture's width and height
    jpeg: bytes


class Measure(NamedTuple):
    """A number, or one for each value of some labels, for Prometheus.

    name: with its unit at its end. counts: it only grows; Prometheus adds `_total` to the name.
    """

    name: str
    says: str
    samples: list[tuple[dict[str, str], float]]
    counts: bool = False


def one(number: float) -> list[tuple[dict[str, str], float]]:
    """The samples of a measure without labels."""
    return [({}, number)]


def of_each(label: str, numbers: Mapping[str, float]) -> list[tuple[dict[str, str], float]]:
    """The samples of a measure with a number for each value of a label."""
    return [({label: value}, number) for value, number in numbers.items()]


class Subject:
    """What the server asks for, in threads of its own; as it stands here, nothing goes on.

    kind: which page the browser draws.
    """

    kind = "ended"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def pictures(self) -> int:
        """How many there have been so far."""
        return 0

    @property
    def files(self) -> Mapping[str, str]:
        """Names of files in the folder that may be fetched, and what to do where one is missing."""
        return {}

    def overview(self) -> dict:
        """All that the page shows first, as plain JSON values."""
        files = [name for name in self.files if (self.folder / name).is_file()]
        return {"kind": self.kind, "name": self.folder.resolve().name, "files": files}

    def pictures_kept(self) -> list[dict]:
        """Pictures of what has ended, each with its `image` as an address and its overlay."""
        return []

    def picture(self) -> Picture | None:
        """The newest picture."""
        return None

    def alarm_jpeg(self, number: int) -> bytes | None:
        """The picture of an alarm."""
        return None

    def state(self) -> dict:
        """What changes all the time; quick."""
        return {}

    def measures(self) -> list[Measure]:
        """What Prometheus is told; nothing where nothing goes on."""
        return []

    def maps(self) -> dict:
        """What changes slowly and takes time to draw."""
        return {}

    def news(self, seen: Any = None) -> tuple[dict, Any]:
        """What came since `seen`, and what has been seen now; None: the overview has the rest."""
        return {}, seen

    def remember(self) -> None:
        """Called twice a second, whoever looks."""

    def press(self, name: str, value: object = None) -> Future:
        """Ask for what a button does; the future has what was done, in words, or Refused."""
        return refused("this is only looked at")


def done(words: str) -> Future:
    """What was done at once."""
    future: Future = Future()
    future.set_result(words)
    return future


def refused(why: str) -> Future:
    """What is not done, and why."""
    future: Future = Future()
    future.set_exception(Refused(why))
    return future
