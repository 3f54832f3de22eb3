"""Names for pictures: teach some looks, ask, forget.

    recogniser = Recogniser(open_encoder("runs/home"))
    recogniser.teach("kitchen", frame.image)
    name, probability = recogniser.recognise(frame.image)

A place is the whole picture, a thing is a box of it; each kind is told apart from its own kind
only. The encoder may go on learning: `renew` describes the looks again that are kept (looks.py).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np

from edge_rjepa.encoder.naming import Answer, Taught
from edge_rjepa.encoder.opener import OpenedEncoder
from edge_rjepa.errors import CheckpointError, InputError
from edge_rjepa.eye.image import check_image
from edge_rjepa.teach.likeness import directions, likeness
from edge_rjepa.teach.looks import PLACE, THING, Looks
from edge_rjepa.teach.trial import FALSE_ACCEPTANCE, Trial, attempt

Box = tuple[float, float, float, float]  # x, y, width, height, in shares of the picture's


class _Known(NamedTuple):
    """The looks of one kind, as the encoder describes them now."""

    windows: np.ndarray  # (L, n_z) float32 of length 1, of all looks, name by name
    starts: np.ndarray  # (M,) the first window of each name
    trial: Trial


class Recogniser:
    """Knows names by their looks.

    encoder: opened, with its retina. false_acceptance: the share of looks at what was never taught
    that may get a name. Raises InputError for false_acceptance not between 0 and 0.5.

    looks: what was taught. Memory: at most MOST_LOOKS looks (looks.py), whatever is asked.
    """

    def __init__(self, encoder: OpenedEncoder, false_acceptance: float = FALSE_ACCEPTANCE) -> None:
        if not 0.0 < false_acceptance < 0.5:
            raise InputError(f"false_acceptance = {false_acceptance}: give a share of 0 to 0.5")
        self.looks = Looks()
        self._false_acceptance = false_acceptance
        self._known: dict[str, _Known] = {}  # by kind
        self._follow(encoder)

    # -- teaching ---------------------------------------------------------------------------------

    def teach(
        self, name: str, pictures: np.ndarray | Sequence[np.ndarray], box: Box | None = None
    ) -> None:
        """One look or several (H, W, 3) uint8 BGR at a place, or at the thing in the box.

        Looks of one call are of one visit: they are alike, and none is judged by the others.
        Raises InputError for what is no picture, name or box, and where no more fit in; nothing is
        taught then.
        """
        one = not isinstance(pictures, Sequence) and getattr(pictures, "ndim", 0) != 4
        each_picture: Any = [pictures] if one else pictures
        self.teach_rows(name, [self.see(picture, box) for picture in each_picture], box)

    def see(self, picture: np.ndarray, box: Box | None = None) -> np.ndarray:
        """What is kept of a look, (K, w) float32. Raises InputError as `teach` does."""
        check_image(picture, "picture")
        return self._describer.see(picture if box is None else cut_out(picture, box))

    def teach_rows(self, name: str, rows: list[np.ndarray], box: Box | None = None) -> None:
        """As `teach`, by looks that were seen before: who takes many keeps no pictures."""
        self.looks.add(name, kind_of(box), rows)
        self.looks.encoder = self._encoder_id
        self._known.pop(kind_of(box), None)

    def forget(self, name: str) -> None:
        """As if it had never been taught. Raises InputError for a name that was not."""
        self.looks.forget(name)
        self._known = {}

    def renew(self, encoder: OpenedEncoder | None = None) -> None:
        """Describe all looks again, by what the encoder has learned since, or by a newer copy.

        Raises InputError for another encoder than the looks were taught with.
        """
        self._follow(encoder or self._encoder)

    # -- asking -----------------------------------------------------------------------------------

    def recognise(self, picture: np.ndarray, box: Box | None = None) -> Answer:
        """Which place a picture (H, W, 3) uint8 BGR shows, or which thing is in the box of it.

        Raises InputError for what is no picture, or no box.
        """
        return self.answer(self.likeness(picture, box), kind_of(box))

    def likeness(self, picture: np.ndarray, box: Box | None = None) -> np.ndarray:
        """The likeness (M,) to each name of that kind, -1 to 1, in the order of `names`."""
        known = self._known_of(kind_of(box))
        asked = directions(self._describer.whiten(self.see(picture, box)))
        return likeness(asked, known.windows, known.starts) if known else np.zeros(0, np.float32)

    def answer(self, likeness: np.ndarray, kind: str = PLACE) -> Answer:
        """What a likeness (M,), of one picture or the mean over several, comes to."""
        known = self._known_of(kind)
        return known.trial.answer(likeness) if known else Answer(None, 1.0)

    def names(self, kind: str = PLACE) -> list[str]:
        """Of the places, or things, in the order they were taught in."""
        return list(self.looks.of_kind(kind))

    def trial(self, kind: str = PLACE) -> Trial | None:
        """How well its own looks are told apart; None where nothing of that kind was taught."""
        known = self._known_of(kind)
        return known and known.trial

    def advice(self) -> list[str]:
        """What would help, in sentences; none where it knows enough."""
        said = []
        for kind in (PLACE, THING):
            trial = self.trial(kind)
            if trial is not None:
                named = self.looks.of_kind(kind)
                said += trial.advice({name: len(each.rows) for name, each in named.items()})
        return said

    @property
    def nbytes(self) -> int:
        """Of the looks, and of their descriptions once something was asked."""
        return self.looks.nbytes + sum(known.windows.nbytes for known in self._known.values())

    def for_export(self) -> Taught | None:
        """The places, for a file that is to know them; None where none was taught."""
        known = self._known_of(PLACE)
        if known is None:
            return None
        windows = np.split(known.windows, known.starts[1:])
        return Taught(known.trial.names, windows, known.trial.odds, self.likeness)

    # -- keeping ----------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike) -> None:
        """Write what was taught, atomically. Raises CheckpointError."""
        self.looks.save(path)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike,
        encoder: OpenedEncoder,
        false_acceptance: float = FALSE_ACCEPTANCE,
    ) -> Recogniser:
        """What `save` wrote. Raises CheckpointError, and InputError for another encoder."""
        recogniser = cls(encoder, false_acceptance)
        recogniser.looks = Looks.load(path)
        try:
            recogniser.renew()
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        shape = recogniser.looks.shape
        if shape not in (None, recogniser.see(np.zeros((8, 8, 3), np.uint8)).shape):
            raise CheckpointError(f"{path} has looks of {shape}, not this encoder's: teach again")
        return recogniser

    # -- the encoder ------------------------------------------------------------------------------

    def _follow(self, encoder: OpenedEncoder) -> None:
        encoder_id = identity(encoder)
        if self.looks.encoder not in (None, encoder_id):
            raise InputError(
                f"what was taught is of another encoder than {encoder.path}: name that one, or "
                "remove what was taught and teach again"
            )
        self._encoder, self._encoder_id = encoder, encoder_id
        self._describer = encoder.describer()
        self._known = {}

    def _known_of(self, kind: str) -> _Known | None:
        """What is known of this kind, described when it is first asked for."""
        named = self.looks.of_kind(kind)
        if not named:
            return None
        if kind not in self._known:
            windows = {
                name: directions(self._describer.whiten(np.stack(each.rows).astype(np.float32)))
                for name, each in named.items()
            }
            visits = {name: np.array(each.visits) for name, each in named.items()}
            flat = [rows.reshape(-1, rows.shape[-1]) for rows in windows.values()]
            self._known[kind] = _Known(
                np.concatenate(flat),
                np.cumsum([0, *map(len, flat[:-1])]),
                attempt(windows, visits, self._false_acceptance),
            )
        return self._known[kind]


def cut_out(picture: np.ndarray, box: Box) -> np.ndarray:
    """The part of a picture in a box, a pixel at least. Raises InputError for what is no box."""
    x, y, width, height = checked_box(box)
    rows, columns = picture.shape[:2]
    left, top = min(int(x * columns), columns - 1), min(int(y * rows), rows - 1)
    right, bottom = round((x + width) * columns), round((y + height) * rows)
    return picture[top : max(bottom, top + 1), left : max(right, left + 1)]


def checked_box(box: Sequence[float | str]) -> Box:
    """The box, if it lies in the picture. Raises InputError."""
    try:
        x, y, width, height = (float(value) for value in box)
    except (TypeError, ValueError):
        raise InputError(f"box {box!r:.80}: give x, y, width, height") from None
    inside = 0 <= x < x + width <= 1 + 1e-9 and 0 <= y < y + height <= 1 + 1e-9
    if not inside:
        raise InputError(
            f"box {x:g},{y:g},{width:g},{height:g}: give x, y, width, height in shares of the "
            "picture, such as 0.25,0.25,0.5,0.5 for its middle"
        )
    return x, y, width, height


def identity(encoder: OpenedEncoder) -> str:
    """What stays the same as long as looks of an encoder can be described by it.

    Of a learner the retina, since looks keep features; of a file its weights.
    """
    if encoder.learns:
        said = json.dumps(asdict(encoder.retina.config), sort_keys=True)
        return f"retina {hashlib.sha256(said.encode()).hexdigest()}"
    return f"file {hashlib.sha256(encoder.path.read_bytes()).hexdigest()}"


def kind_of(box: Box | None) -> str:
    """What is looked at: a place, or the thing in the box."""
    return PLACE if box is None else THING
