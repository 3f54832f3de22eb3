"""A run that learns in this process: its folder, its newest state and its buttons."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

from edge_rjepa.run.run import Progress
from edge_rjepa.views import metrics
from edge_rjepa.views.dashboard.buttons import Buttons
from edge_rjepa.views.dashboard.history import POINTS, summed_up
from edge_rjepa.views.dashboard.kept import FILES
from edge_rjepa.views.dashboard.live import LiveState, thinned
from edge_rjepa.views.dashboard.subject import Measure, Picture, Subject, of_each, one
from edge_rjepa.views.verdict import verdict


def _of_progress(progress: Progress) -> list[Measure]:
    health = progress.health
    found = [
        Measure("frames", "Frames learned from or set aside", one(progress.frames), True),
        Measure("fixations", "Fixations learned from", one(progress.fixations), True),
        Measure("learning_seconds", "Time spent learning", one(progress.seconds), True),
        Measure("skipped_frames", "Frames of no use", of_each("reason", progress.skipped), True),
        Measure("rollbacks", "Returns to the last good state", one(progress.rollbacks), True),
        Measure("fixations_per_frame", "Fixations on a frame", one(progress.fixations_per_frame)),
        Measure("information_nats", "Predictive information", one(health.information)),
        Measure("effective_rank", "Directions of the embedding", one(health.effective_rank)),
        Measure("embedding_std", "Spread of the embedding's values", one(health.embedding_std)),
        Measure("surprise_nats", "Mean surprise of a fixation", one(progress.surprise)),
        Measure("loss_nats", "Mean loss of a fixation", one(progress.loss)),
    ]
    latency_s = {
        percentile: 1e-3 * latency_ms
        for percentile, latency_ms in (
            ("50", progress.latency_median_ms),
            ("95", progress.latency_p95_ms),
        )
        if latency_ms is not None
    }
    if latency_s:
        samples = of_each("percentile", latency_s)
        found.append(Measure("latency_seconds", "From capture to learned", samples))
    return found


def _of_head(head: dict | None) -> list[Measure]:
    """Of device_state's head."""
    if head is None:
        return []
    angles_rad = {
        axis: math.radians(head[f"{axis}_deg"])
        for axis in ("pan", "tilt")
        if head[f"{axis}_deg"] is not None
    }
    return [
        Measure("head_connected", "1 while the head answers", one(head["connected"])),
        Measure("head_radians", "Angles, right and up positive", of_each("axis", angles_rad)),
        Measure("head_faults", "Faults of the head", of_each("fault", head["faults"]), True),
    ]


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

    def measures(self) -> list[Measure]:
        """How learning goes, and what camera and head are at."""
        devices = self._devices()
        found = [
            Measure("paused", "1 while learning is paused", one(self._buttons.paused)),
            Measure(
                "source_faults", "Faults of the source", of_each("fault", devices["faults"]), True
            ),
        ]
        progress = self._live.progress
        if progress is not None:
            found += _of_progress(progress)
        return found + _of_head(devices["head"])

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
