"""What was taught: the looks of each name, in fixed memory, and the file they are kept in.

Of a look the rows are kept that a describer saw (describe.py), as float16: of a learner the
retina's features, which no learning changes, so that the looks can be whitened anew whenever the
weights have moved on. Names know nothing of each other here. So what is left after one is forgotten
is to the bit what it would be had that name never been taught, and so is what the file holds.

A name keeps MOST_LOOKS_A_NAME looks; of more, a random choice in which each has the same chance
(reservoir sampling), drawn by the number of the look alone.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edge_rjepa.base import checkpoint
from edge_rjepa.base.checkpoint import Layout
from edge_rjepa.encoder.naming import checked_name
from edge_rjepa.errors import CheckpointError, InputError
from safe_files.errors import FileError, why
from safe_files.plain import plain, rebuilt

KINDS = PLACE, THING = ("place", "thing")
MOST_NAMES, MOST_LOOKS, MOST_LOOKS_A_NAME = 1024, 2048, 64
MOST_SHOWN = 2**53
MOST_WIDTH, MOST_WINDOWS = 4096, 256  # of the rows of a look
LARGEST = float(np.finfo(np.float16).max)
FILE_KIND, FILE_VERSION = "taught", 1


@dataclass
class Named:
    """The looks of a name.

    rows: (K, w) float16 each. visits: which visit each look is of, counted from 0: a visit is one
    call of `teach`, and its looks are alike. shown: how many looks there ever were.
    """

    kind: str
    rows: list[np.ndarray] = field(default_factory=list)
    visits: list[int] = field(default_factory=list)
    shown: int = 0

    @property
    def next_visit(self) -> int:
        return 1 + max(self.visits, default=-1)

    def add(self, rows: np.ndarray, visit: int) -> None:
        """One more look, in place of another one where there are MOST_LOOKS_A_NAME."""
        self.shown += 1
        if len(self.rows) < MOST_LOOKS_A_NAME:
            self.rows.append(rows)
            self.visits.append(visit)
            return
        place = int(np.random.default_rng(self.shown).integers(self.shown))
        if place < MOST_LOOKS_A_NAME:
            self.rows[place], self.visits[place] = rows, visit

    @property
    def shown_for_each(self) -> float:
        """How many looks there were for each that is kept."""
        return self.shown / len(self.rows) if self.rows else 0.0

    def take(self, other: Named) -> None:
        """All looks of another one, too; of too many a random choice."""
        visit = self.next_visit
        weights = np.repeat(
            [self.shown_for_each, other.shown_for_each], [len(self.rows), len(other.rows)]
        )
        self.shown += other.shown
        self.rows += other.rows
        self.visits += [visit + number for number in other.visits]
        if len(self.rows) > MOST_LOOKS_A_NAME:
            drawn = np.random.default_rng(self.shown).choice(
                len(weights), MOST_LOOKS_A_NAME, replace=False, p=weights / weights.sum()
            )
            self.rows = [self.rows[i] for i in sorted(drawn)]
            self.visits = [self.visits[i] for i in sorted(drawn)]


class Looks:
    """All names and their looks.

    encoder: what says which encoder the rows are of; None until the first look or a file says it.
    names: in the order they were taught in.
    """

    def __init__(self) -> None:
        self.names: dict[str, Named] = {}
        self.encoder: str | None = None

    def __len__(self) -> int:
        return sum(len(named.rows) for named in self.names.values())

    @property
    def nbytes(self) -> int:
        """Of all rows."""
        return sum(rows.nbytes for named in self.names.values() for rows in named.rows)

    def of_kind(self, kind: str) -> dict[str, Named]:
        """Name -> its looks, of places or of things."""
        return {name: named for name, named in self.names.items() if named.kind == kind}

    def add(self, name: str, kind: str, many_rows: list[np.ndarray]) -> None:
        """Looks (K, w) of a name, one at least, all of one visit.

        Raises InputError, and then adds nothing.
        """
        name = checked_name(name)
        named = self.names.get(name, Named(kind))
        if named.kind != kind:
            raise InputError(f"'{name}' was taught as a {named.kind}: give the {kind} another name")
        more = min(len(many_rows), MOST_LOOKS_A_NAME - len(named.rows))
        if len(self) + more > MOST_LOOKS:
            raise InputError(
                f"{len(self)} looks are kept, and {MOST_LOOKS} is the most: forget a name first"
            )
        if name not in self.names and len(self.names) >= MOST_NAMES:
            raise InputError(f"{MOST_NAMES} names are the most: forget one first")
        if not many_rows or len({rows.shape for rows in (*many_rows, *self._some_rows())}) > 1:
            raise InputError(f"no looks at '{name}' that are like the others: give some pictures")
        kept = [_as_kept(rows) for rows in many_rows]
        visit = named.next_visit
        for rows in kept:
            named.add(rows, visit)
        self.names[name] = named

    def forget(self, name: str) -> None:
        """Raises InputError for a name that was not taught."""
        name = checked_name(name)
        if name not in self.names:
            raise InputError(f"'{name}' was not taught: {self._told()}")
        del self.names[name]
        if not self.names:
            self.encoder = None

    @classmethod
    def merged(cls, many: Sequence[Looks]) -> Looks:
        """The names and looks of several, as if all had been taught to one.

        Of a name that several know all looks are kept, up to MOST_LOOKS_A_NAME. Of more it is a
        random choice, in which a look weighs as many as were shown for each that its owner kept.
        Raises InputError where they are of different encoders, one name is a place here and a thing
        there, or they are too many.
        """
        looks = cls()
        for other in many:
            if looks.encoder not in (None, other.encoder) and other.names:
                raise InputError("what was taught is of different encoders: merge runs of one kind")
            looks.encoder = looks.encoder or other.encoder
            for name, named in other.names.items():
                own = looks.names.setdefault(name, Named(named.kind))
                if named.kind != own.kind:
                    raise InputError(
                        f"'{name}' is a {own.kind} here and a {named.kind} there: teach it to one "
                        "by another name"
                    )
                own.take(named)
        if len(looks) > MOST_LOOKS or len(looks.names) > MOST_NAMES:
            raise InputError(
                f"{len(looks)} looks of {len(looks.names)} names: {MOST_LOOKS} of {MOST_NAMES} "
                "are the most; forget some first"
            )
        return looks

    @property
    def shape(self) -> tuple[int, ...] | None:
        """(K, w) of all looks; None while there is none."""
        return next((rows.shape for rows in self._some_rows()), None)

    def _some_rows(self) -> list[np.ndarray]:
        """Of the first name's first look: all are alike."""
        return [named.rows[0] for named in list(self.names.values())[:1]]

    def _told(self) -> str:
        known = ", ".join(list(self.names)[:10]) or "nothing was"
        return f"known are {known}{', ..' if len(self.names) > 10 else ''}"

    # -- the file ---------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike) -> None:
        """Write everything, atomically. Raises CheckpointError; an older file is then left."""
        metadata = {
            "kind": FILE_KIND,
            "taught": FILE_VERSION,
            "encoder": self.encoder,
            "names": [
                plain(_Noted(name, named.kind, named.visits, named.shown))
                for name, named in self.names.items()
            ],
        }
        rows = [rows for named in self.names.values() for rows in named.rows]
        stacked = np.stack(rows) if rows else np.zeros((0, 0, 0), np.float16)
        checkpoint.save(path, {"rows": stacked}, metadata)

    @classmethod
    def load(cls, path: str | os.PathLike) -> Looks:
        """What `save` wrote. Raises CheckpointError for a file that is missing, damaged, of another
        kind or version, or larger than any that this class writes."""
        with checkpoint.opened(path, follow_links=False) as stored:
            encoder, notes = _described(stored.path, stored.metadata)
            _check_layout(stored.path, stored.layout, sum(len(note.visits) for note in notes))
            rows = stored.tensors()["rows"]
        if not np.isfinite(rows).all():
            raise CheckpointError(f"{path} holds NaN or infinity: use an earlier copy")
        looks, at = cls(), 0
        looks.encoder = encoder
        for note in notes:
            count = len(note.visits)
            own = [rows[k] for k in range(at, at + count)]
            looks.names[note.name] = Named(note.kind, own, note.visits, note.shown)
            at += count
        return looks


class _Noted(NamedTuple):
    """A name in the file; its rows are in the tensor, name by name."""

    name: str
    kind: str
    visits: list[int]
    shown: int


def _as_kept(rows: np.ndarray) -> np.ndarray:
    return np.clip(rows, -LARGEST, LARGEST).astype(np.float16)


def _described(path: Path, metadata: dict) -> tuple[str | None, list[_Noted]]:
    """Encoder and names of a file's metadata, checked."""
    if metadata.get("kind") != FILE_KIND:
        raise CheckpointError(f"{path} holds nothing that was taught: name what `teach` wrote")
    if metadata.get("taught") != FILE_VERSION:
        raise CheckpointError(f"{path} is of another version of edge_rjepa: teach again")
    try:
        encoder = rebuilt(str | None, metadata.get("encoder"), "encoder")
        notes = rebuilt(list[_Noted], metadata.get("names"), "names")
        _check_names(notes)
    except (FileError, InputError) as error:
        raise CheckpointError(f"{path} is damaged ({error}): use an earlier copy") from error
    return encoder, notes


def _check_names(notes: list[_Noted]) -> None:
    if len({note.name for note in notes}) < len(notes) or len(notes) > MOST_NAMES:
        raise FileError("names are there twice, or too many")
    for note in notes:
        count = len(note.visits)
        few = 1 <= count <= MOST_LOOKS_A_NAME and min(note.visits) >= 0
        if note.kind not in KINDS or not few or not count <= note.shown < MOST_SHOWN:
            raise FileError(f"what stands of '{note.name:.60}' cannot be")
        if checked_name(note.name) != note.name:
            raise FileError(f"'{note.name:.60}' is no name")
    if sum(len(note.visits) for note in notes) > MOST_LOOKS:
        raise FileError("there are too many looks")


def _check_layout(path: Path, layout: dict[str, Layout], looks: int) -> None:
    """Before a tensor is read."""
    rows = layout.get("rows")
    fits = rows is not None and rows.dtype == np.float16 and len(rows.shape) == 3
    if not fits or len(layout) > 1 or rows is None or rows.shape[0] != looks:
        raise CheckpointError(f"{path} lacks the looks that it tells of: use an earlier copy")
    if looks and not (1 <= rows.shape[1] <= MOST_WINDOWS and 1 <= rows.shape[2] <= MOST_WIDTH):
        raise CheckpointError(f"{path} has looks of {rows.shape[1:]}: teach again")


def path_beside(encoder: Path) -> Path:
    """Where what was taught to an encoder is kept: in the run's folder, or beside the file."""
    if encoder.is_dir():
        return encoder / "taught.safetensors"
    return encoder.with_suffix(".taught.safetensors")


@contextmanager
def changing(path: Path) -> Iterator[None]:
    """Keeps others from changing the same file meanwhile; they wait. Raises CheckpointError."""
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        lock = os.open(path.with_name(f".{path.name}.lock"), flags, 0o600)
    except OSError as error:
        raise CheckpointError(f"cannot write beside {path}: {why(error)}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
