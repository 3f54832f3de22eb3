"""A watch: its picture with the directions' scores, its alarms, what the owner says of them.

The watching thread calls `observe`, `tell` and `on_event`, which only hand over; nothing here knows
how novelty is found. Whatever the page asks for is checked here and handed to who watches.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edge_rjepa.base import journal
from edge_rjepa.errors import RJepaError
from edge_rjepa.views.dashboard.live import EVENTS, jpeg_of
from edge_rjepa.views.dashboard.subject import (
    Measure,
    Picture,
    Refused,
    Subject,
    done,
    of_each,
    one,
    refused,
)
from edge_rjepa.views.metrics import is_number
from safe_files.reading import read_bytes

ALARMS = 100  # shown, the newest
JPEGS = 20  # of them kept in memory, for a disk that is full
MOST_JPEG_BYTES = 8 << 20
MOST_POLYGONS, MOST_POINTS = 2000, 200
FAINTEST, STRONGEST = 0.2, 2.0  # shares of the threshold at which scores begin and end to show
LONGEST_TEXT = 200

Polygon = list[list[float]]  # [x, y] of its corners, as shares of the picture's width and height


class Look(NamedTuple):
    """A frame that was looked at, and how the watch stands."""

    image: np.ndarray  # (H, W, 3) uint8 BGR
    pixels: np.ndarray  # (K, 2) x, y of the directions in it
    scores: np.ndarray  # (K,) standard deviations, -inf where not known
    threshold: float  # infinite while nothing is reported
    to_go_s: float  # until something is reported again
    expected_per_hour: float  # false alarms; NaN while not known


class Watching(Subject):
    """What the page shows of a watch that keeps its alarms in a folder.

    fine: is told the number of an alarm that is usual. mask: is told the polygons within which
    nothing counts, all of them; masks: those that there are. fine and mask may raise RJepaError;
    without them there are no such buttons. turns: whether a head turns the camera, so that the
    place of an alarm in the picture does not stay.
    """

    kind = "watch"

    def __init__(
        self,
        folder: Path,
        fine: Callable[[int], None] | None = None,
        mask: Callable[[list], None] | None = None,
        masks: Callable[[], list[Polygon]] = list,
        turns: bool = False,
    ) -> None:
        super().__init__(folder)
        self._fine, self._mask, self._turns = fine, mask, turns
        self._lock = threading.Lock()  # guards all below but the newest look
        self._look: Look | None = None
        self._looks = 0
        self._was_watching = False
        self._alarms: deque[dict] = deque(kept_alarms(folder), maxlen=ALARMS)
        self._alarm_counts = {"new": 0, "removed": 0}
        self._jpegs: dict[int, bytes] = {}
        self._masks = masks
        self._events: deque[tuple[int, float, str]] = deque(maxlen=EVENTS)
        self._event_count = 0
        self._told = 0  # changes of the alarms

    # -- the watching thread ----------------------------------------------------------------------

    def observe(self, look: Look) -> None:
        """The newest frame with its scores."""
        self._was_watching |= math.isfinite(look.threshold)
        self._look = look
        self._looks += 1

    def tell(self, line: dict, jpeg: bytes | None) -> None:
        """A line of kind alarm, gone or fine."""
        with self._lock:
            if line.get("kind") == "alarm":
                size = None if self._look is None else self._look.image.shape[1::-1]
                self._alarms.append(_alarm(line, size))
                self._alarm_counts[self._alarms[-1]["what"]] += 1
                if jpeg is not None:
                    self._jpegs[line["number"]] = jpeg
                    if len(self._jpegs) > JPEGS:
                        del self._jpegs[min(self._jpegs)]
            else:
                _apply(self._alarms, line)
            self._told += 1

    def on_event(self, text: str) -> None:
        """Something happened to the camera, the head or the watch."""
        with self._lock:
            self._event_count += 1
            self._events.append((self._event_count, time.time(), text))

    # -- the server -------------------------------------------------------------------------------

    @property
    def pictures(self) -> int:
        """How many frames were looked at."""
        return self._looks

    def overview(self) -> dict:
        """Alarms, masks and events so far."""
        with self._lock:
            return super().overview() | {
                "alarms": [dict(each) for each in self._alarms],
                "masks": self._masks(),
                "events": [[time_s, text, None] for _, time_s, text in self._events],
                "can": {"fine": self._fine is not None, "mask": self._mask is not None},
            }

    def picture(self) -> Picture | None:
        """The newest frame; the scores of its directions as shares of the threshold."""
        look = self._look
        if look is None:
            return None
        height, width = look.image.shape[:2]
        places = (look.pixels + 0.5) / (width, height)
        known = np.where(np.isfinite(look.scores), look.scores, 0.0)
        shares = np.clip(known / look.threshold, 0.0, STRONGEST)  # 0 for an infinite one
        shown = np.isfinite(places).all(axis=1) & (shares >= FAINTEST)
        scores = np.column_stack([places, shares])[shown].round(3).tolist()
        return Picture({"scores": scores, "boxes": self._boxes()}, jpeg_of(look.image))

    def _boxes(self) -> list[dict]:
        """Of the alarms that are still there."""
        if self._turns:
            return []
        with self._lock:
            return [
                {"number": each["number"], "what": each["what"], "box": each["box"]}
                for each in self._alarms
                if each["box"] and _is_there(each)
            ]

    def alarm_jpeg(self, number: int) -> bytes | None:
        """Its cut-out, from memory or from the folder."""
        with self._lock:
            if number in self._jpegs:
                return self._jpegs[number]
        return kept_jpeg(self.folder, f"alarm-{number:06d}.jpg")

    def state(self) -> dict:
        """Whether it watches, in a word and in a sentence."""
        look = self._look
        with self._lock:
            there = sum(map(_is_there, self._alarms))
        expected = math.nan if look is None else look.expected_per_hour
        return {
            "stage": self._stage(look),
            "sentence": _sentence(self._stage(look), 0.0 if look is None else look.to_go_s, there),
            "expected_per_hour": float(f"{expected:.2g}") if math.isfinite(expected) else None,
        }

    def measures(self) -> list[Measure]:
        """What was looked at and what was told of it since this watch began."""
        look = self._look
        with self._lock:
            there = sum(map(_is_there, self._alarms))
            alarms = of_each("what", self._alarm_counts)
        found = [
            Measure("frames", "Frames that were looked at", one(self._looks), True),
            Measure("alarms", "Alarms", alarms, True),
            Measure("alarms_active", "Alarms of what is still there", one(there)),
            Measure("watching", "1 while alarms are told", one(self._stage(look) == "watching")),
        ]
        if look is not None:
            usual = one(look.expected_per_hour)
            found += [
                Measure("expected_false_alarms_per_hour", "At this threshold", usual),
                Measure("threshold_std", "Standard deviations of an alarm", one(look.threshold)),
            ]
        return found

    def _stage(self, look: Look | None) -> str:
        if look is None:
            return "waiting"
        if math.isfinite(look.threshold):
            return "watching"
        return "blind" if self._was_watching else "learning"

    def news(self, seen: Any = None) -> tuple[dict, Any]:
        """All alarms or masks if any changed; events since."""
        with self._lock:
            now = self._told, self._masks(), self._event_count
            found: dict[str, Any] = {}
            if seen is not None and seen[0] != now[0]:
                found["alarms"] = [dict(each) for each in self._alarms]
            if seen is not None and seen[1] != now[1]:
                found["masks"] = now[1]
            if seen is not None and seen[2] != now[2]:
                found["events"] = [text for number, _, text in self._events if number > seen[2]]
        return found, now

    def press(self, name: str, value: object = None) -> Future:
        """`fine` with the number of an alarm; `mask` with all polygons."""
        try:
            if name == "fine" and self._fine is not None:
                number = self._known(value)
                self._fine(number)
                return done(f"alarm {number} counts as usual from now on")
            if name == "mask" and self._mask is not None:
                polygons = checked_polygons(value)
                self._mask(polygons)
                return done(f"kept: {len(polygons)} mask{'' if len(polygons) == 1 else 's'}")
        except (Refused, RJepaError, OSError) as error:
            return refused(" ".join(str(error).split()))
        return refused(f"there is no button {name!r}")

    def _known(self, value: object) -> int:
        with self._lock:
            for each in self._alarms:
                if type(value) is int and each["number"] == value:
                    if each["fine"]:
                        raise Refused(f"alarm {value} counts as usual already")
                    return value
        raise Refused("there is no such alarm")


def checked_polygons(value: object) -> list[Polygon]:
    """Polygons within the picture, from what a browser sent. Raises Refused."""
    if not isinstance(value, list) or len(value) > MOST_POLYGONS:
        raise Refused(f"masks are a list of {MOST_POLYGONS} polygons at most")
    for polygon in value:
        if not isinstance(polygon, list) or not 3 <= len(polygon) <= MOST_POINTS:
            raise Refused(f"a mask has 3 to {MOST_POINTS} corners")
        for point in polygon:
            good = isinstance(point, list) and len(point) == 2 and all(map(is_number, point))
            if not good or not all(0.0 <= share <= 1.0 for share in point):
                raise Refused("a mask's corners are [x, y], each from 0 to 1")
    return [[[float(x), float(y)] for x, y in polygon] for polygon in value]


def _sentence(stage: str, to_go_s: float, there: int) -> str:
    to_go = f"{to_go_s:.0f} s" if to_go_s < 120.0 else f"{to_go_s / 60:.0f} min"
    if stage == "waiting":
        return "It waits for the first picture."
    if stage == "learning":
        return f"It learns what is usual here, and reports nothing for {to_go} more."
    if stage == "blind":
        return f"It is blind: all of the view has changed. It learns the place anew for {to_go}."
    if there:
        return f"It watches: {there} thing{'' if there == 1 else 's'} here changed and stayed."
    return "It watches: all is as usual."


def _is_there(alarm: dict) -> bool:
    return not alarm["fine"] and not alarm["earlier"] and alarm["gone_after_s"] is None


def kept_jpeg(folder: Path, name: str) -> bytes | None:
    """A picture in the folder of a watch, if it is there."""
    try:
        return read_bytes(folder / name, MOST_JPEG_BYTES, follow_links=False)
    except (OSError, ValueError):
        return None


def kept_alarms(folder: Path) -> list[dict]:
    """The newest of an earlier watch in this folder; who could have written there is not known."""
    alarms: deque[dict] = deque(maxlen=ALARMS)
    try:
        for line in journal.read(folder / "alarms.jsonl"):
            if line.get("kind") != "alarm":
                _apply(alarms, line)
            elif type(line.get("number")) is int and 0 <= line["number"] < 10**9:
                alarms.append(_alarm(line, None))
    except OSError:  # there was none
        pass
    return [each | {"earlier": True} for each in alarms]


def _apply(alarms: deque[dict], line: dict) -> None:
    """What became of an alarm: it is gone, or it is usual."""
    for each in alarms:
        if each["number"] == line.get("number"):
            if line.get("kind") == "gone":
                each["gone_after_s"] = _number(line, "after_s") or 0.0
            elif line.get("kind") == "fine":
                each["fine"] = True


def _alarm(line: dict, size: tuple[int, int] | None) -> dict:
    """What the page shows of an alarm's line. size: width and height of the picture of its box."""
    names = "azimuth_deg", "elevation_deg", "score", "expected_per_hour"
    return {name: _number(line, name) for name in names} | {
        "number": line["number"],
        "time": str(line.get("time", ""))[:LONGEST_TEXT],
        "what": "removed" if line.get("what") == "removed" else "new",
        "box": size and [value / size[i % 2] for i, value in enumerate(line["box"])],
        "gone_after_s": None,
        "fine": False,
        "earlier": False,  # before this watch began
    }


def _number(line: dict, name: str) -> float | None:
    """A finite number of the line, if there is one."""
    value = line.get(name)
    return float(value) if is_number(value) and math.isfinite(value) else None  # type: ignore[arg-type]
