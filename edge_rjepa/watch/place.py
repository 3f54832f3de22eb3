"""A place: all that is known of it, and the places that were known before.

A robot is carried to and fro, a lamp is switched on and off, a program is started again: each of up
to MOST_PLACES places is kept as it was left, and known again within seconds.
"""

from __future__ import annotations

import math
from collections import deque

import numpy as np

from edge_rjepa.watch.background import OWNER_SAYS_FINE, BackgroundModel
from edge_rjepa.watch.threshold import Tail
from edge_rjepa.watch.told import Told
from edge_rjepa.watch.usual_pictures import UsualPictures

MOST_PLACES = 8  # that are kept beside the present one
MOST_BYTES = 128 << 20  # of all places that are kept; the one left longest ago goes first
LEAST_KNOWN = 0.5  # of the looks at a place that is known: directions that are known there

Kept = dict[str, np.ndarray]


class Place:
    """What is usual in one place, and what was told of it.

    n_directions, n_z: how many directions there are, and how wide embeddings are. visit_s: see
    BackgroundModel. threshold: the score above which something is told; infinite until it is known.
    threshold_from_blocks: how much of the tail there was when it was found.
    """

    def __init__(self, n_directions: int, n_z: int, visit_s: float, tail: Tail) -> None:
        self.background = BackgroundModel(n_directions, n_z, visit_s)
        self.pictures = UsualPictures(n_directions)
        self.told = Told(n_z)
        self.tail = tail
        self.threshold = math.inf
        self.threshold_from_blocks = 0

    def fine(self, number: int, t_s: float) -> bool:
        """What this alarm told of is usual from now on; False for an alarm that is forgotten."""
        if self.told.is_usual(number):  # it was said before
            return True
        looks = self.told.looks_of(number)
        if looks is None:
            return False
        self.background.drop(number)
        for direction, z in zip(*looks, strict=True):
            self.background.adopt(int(direction), z, t_s, OWNER_SAYS_FINE)
        return True

    def kept(self, now_s: float) -> Kept:
        """All of it, in the bytes it needs; `restore` takes it, on another clock."""
        background = self.background.kept(now_s)
        parts = {
            "background": background,
            "pictures": self.pictures.kept(background["direction"]),
            "told": self.told.kept(now_s),
            "tail": {"maxima": np.array(self.tail.maxima)},
        }
        return {f"{part}.{name}": a for part, arrays in parts.items() for name, a in arrays.items()}

    def restore(self, kept: Kept, now_s: float) -> None:
        """Know what `kept` was made of."""
        self.background.restore(_part(kept, "background"), now_s)
        self.pictures.restore(kept["background.direction"], _part(kept, "pictures"))
        self.told.restore(_part(kept, "told"), now_s)
        self.tail = Tail(kept["tail.maxima"])


def _part(kept: Kept, part: str) -> Kept:
    return {name.removeprefix(f"{part}."): a for name, a in kept.items() if name.startswith(part)}


def n_bytes(kept: Kept) -> int:
    """Bytes of a place that is kept."""
    return sum(array.nbytes for array in kept.values())


class KnownPlaces:
    """Places that are kept, within MOST_PLACES and MOST_BYTES; the one left last is the last.

    While it is not known which of them is the present one, there may be one more.
    """

    def __init__(self) -> None:
        self.places: deque[Kept] = deque()

    def add(self, place: Kept) -> list[Kept]:
        """Keep one more; those that were left longest ago go, if need be: they are returned."""
        self.places.append(place)
        return self._shortened(MOST_PLACES + 1)

    def settle(self) -> list[Kept]:
        """The present place is known now; returns the one that there is no room for beside it."""
        return self._shortened(MOST_PLACES)

    def _shortened(self, most: int) -> list[Kept]:
        gone = []
        while len(self.places) > most or sum(map(n_bytes, self.places)) > MOST_BYTES:
            gone.append(self.places.popleft())
        return gone

    def take(self, index: int) -> Kept:
        """A place, which is kept here no more."""
        place = self.places[index]
        del self.places[index]
        return place


def median_score(place: Place, directions: np.ndarray, z: np.ndarray) -> float:
    """How unlike a place looks z (K, n_z) at directions (K,) are; infinite if it hardly knows them.

    In standard deviations; about 0 in the place itself.
    """
    scores = place.background.score(directions, z)
    known = np.isfinite(scores)
    return float(np.median(scores[known])) if known.mean() >= LEAST_KNOWN else math.inf
