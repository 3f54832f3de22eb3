"""What robots and server send each other: facts, and the arrays of a lesson. Nothing of pictures.

    Task    server to robot   the fleet's lesson; adopt it, learn so much more, hand out your own
    Answer  robot to server   the robot's lesson, or why there is none

Between server and robot they travel as a RecordDict of Flower (records.py), between a robot and
the process beside it as frames (wire.py).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from edge_rjepa.errors import InputError
from safe_files.errors import FileError
from safe_files.plain import plain, rebuilt
from safe_files.reading import parse_json

if TYPE_CHECKING:  # the process beside a robot has no use for the memory that these take
    from edge_rjepa.learner.merge import Lesson
    from edge_rjepa.run.config import RunConfig

VERSION = 1  # of what is sent
MOST_FACTS_BYTES = 1 << 16
SHOWN = 300  # characters of what somebody else says

# What may differ from robot to robot: how fast each learns, and what its machine computes with.
OWN = {
    "learning_rate", "anneal_fixations", "anneal_floor", "encoder_rate", "update_every",
    "max_block",
}  # fmt: skip

Facts = TypeVar("Facts", bound="Task | Answer")


class Task(NamedTuple):
    """What the server asks of a robot in a round."""

    version: int
    fleet: str  # drawn at random when the fleet began
    round: int
    learned: int  # fixations that the fleet has learned from
    after_fixations: int  # the robot answers once it has learned from so many ..
    after_s: float  # .. or after so long
    taken: list[str]  # digests of the lessons that were merged last
    kind: dict[str, object]  # of the network: see kind_of


class Answer(NamedTuple):
    """What a robot answers."""

    version: int
    fleet: str
    round: int
    since: int  # fixations it has learned from since the lesson it began with
    kind: dict[str, object]
    refusal: str  # why it takes no part; empty if it does


class Parcel(NamedTuple):
    """Facts as plain values, and arrays as `Lesson.arrays` gives them, or none."""

    facts: dict[str, Any]
    arrays: list[np.ndarray]


def facts_as_text(facts: NamedTuple | dict[str, Any]) -> str:
    """As they travel."""
    return json.dumps(plain(facts))


def facts_of_text(text: str) -> dict[str, Any]:
    """The facts somebody sent. Raises InputError."""
    try:
        if len(text) > MOST_FACTS_BYTES:
            raise FileError(f"longer than {MOST_FACTS_BYTES:,} bytes")
        return rebuilt(dict[str, object], parse_json(text), "facts")
    except FileError as error:
        raise InputError(f"it is of another version, or damaged: {error}") from error


def understood(kind: type[Facts], facts: dict[str, Any]) -> Facts:
    """A Task or an Answer that somebody sent. Raises InputError, in words."""
    version = facts.get("version")
    if version != VERSION:
        raise InputError(
            f"it speaks version {as_text(version)} and this is {VERSION}: install the same "
            "version of edge_rjepa on all"
        )
    try:
        return rebuilt(kind, facts, "facts")
    except FileError as error:
        raise InputError(f"it is of another version, or damaged: {error}") from error


def kind_of(config: RunConfig) -> dict[str, object]:
    """All that must be the same for two lessons to be of one and the same network."""
    network = {name: value for name, value in asdict(config.network).items() if name not in OWN}
    gaze = {name: getattr(config.gaze, name) for name in ("saccade_scale_rad", "gaze_scale_rad")}
    parts = {"network": network, "retina": asdict(config.retina), "gaze": gaze}
    return {f"{part}.{name}": value for part in parts for name, value in parts[part].items()}


def check_kind(theirs: dict[str, object], ours: dict[str, object], whose: str) -> None:
    """Raises InputError that names the first difference. whose: 'the fleet' or 'this robot'."""
    for name in [*ours, *theirs]:
        if theirs.get(name) != ours.get(name):
            raise InputError(
                f"{as_text(name)} is {ours.get(name)} here and {as_text(theirs.get(name))} of "
                f"{whose}: they cannot learn together"
            )


def as_text(said: object) -> str:
    """What somebody else says, as part of a line: nothing in it moves a terminal's cursor."""
    return "".join(c if c.isprintable() else " " for c in str(said)[:SHOWN])


def digest(lesson: Lesson) -> str:
    """Tells a lesson's weights from all others."""
    return hashlib.sha256(np.ascontiguousarray(lesson.weights).data).hexdigest()[:32]
