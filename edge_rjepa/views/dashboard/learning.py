"""A run that learns in this process: its folder, its newest state and its buttons."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

from edge_rjepa.views import metrics
from edge_rjepa.views.dashboard.buttons import Buttons
from edge_rjepa.views.dashboard.history import POINTS, summed_up
from edge_rjepa.views.dashboard.kept import FILES
from edge_rjepa.views.dashboard.live import LiveState, thinned
from edge_rjepa.views.dashboard.subject import Picture, Subject
from edge_rjepa.views.verdict import verdict


class Seen(NamedTuple):
    """What a viewer was sent last."""

    frames: int | None  # of the measures
    event: int


class LearningRun(Subject):
    """What the page shows of it.

    live: who learns writes it. buttons: who learns obeys them. devices: camera and head as plain
    JSON values. taught: quickly, what was taught and what is seen now, as far as there is any:
    {"taught": [{"name", "looks"}, ..], "recognised": {"name": None for unknown, "probability"}}.
    """

    kind = "learns"

    def __init__(
        self,
        folder: Path,
        live: LiveState,
        buttons: Buttons,
        devices: Callable[[], dict] = dict,
        taught: Callable[[], dict] = dict,
    ) -> None:
        super().__init__(folder)
        self._live, self._buttons = live, buttons
        self._devices, self._taught = devices, taught
        self._earlier: list[dict] = []  # measures in the folder when it was looked at last

    @property
    def pictures(self) -> int:
        """How many it has seen so far."""
        return self._live.batches

    @property
    def files(self) -> dict[str, str]:
        """Its encoder and its report."""
        return FILES

    def overview(self) -> dict:
        """Its curves, events and verdict."""
        try:
            record = metrics.read(self.folder / "metrics.jsonl")
        except OSError:
            record = metrics.Record([], [])
        self._earlier = thinned(record.measures, POINTS)
        return super().overview() | summed_up(record)

    def picture(self) -> Picture | None:
        """The newest frame, its fixations and how surprising it is usually there."""
        return self._live.picture()

    def state(self) -> dict:
        """Camera and head, whether it learns, what is recognised."""
        return {"devices": self._devices(), "paused": self._buttons.paused} | self._taught()

    def maps(self) -> dict:
        """What it thinks is alike, and the verdict as it stands."""
        live = self._live
        known = self._earlier[-1].get("frames", -1) if self._earlier else -1
        newer = [line for line in live.measured if line["frames"] > known]
        return {
            "surprise_map": live.surprise_map(),
            "neighbours": live.neighbours(),
            "embedding_map": live.embedding_map(),
            "verdict": verdict([*self._earlier, *newer])._asdict(),
        }

    def news(self, seen: Seen | None = None) -> tuple[dict, Seen]:
        """Measures and events that the viewer does not have yet."""
        frames, event = self._live.newest()
        if seen is None:
            return {}, Seen(frames, event)
        found: dict[str, Any] = {}
        if frames != seen.frames:
            found["measures"] = self._live.measures()
        events = self._live.events(seen.event)
        if events:
            event = events[-1][0]
            found["events"] = [text for _, text in events]
        return found, Seen(frames, event)

    def remember(self) -> None:
        """Keep a patch, to compare later ones with."""
        self._live.remember()

    def press(self, name: str, value: object = None) -> Future:
        """Hand the button to who learns."""
        return self._buttons.press(name)
