"""The loop: take a frame, look, learn, turn the head.

Capture, learning and head each keep their own pace. A live source fills in the background and hands
out its newest frame only; a head is commanded and not waited for; learning takes as many
fixations of a frame as there is time for.

Gaze is planned with the head's angle at capture (usable_frames.py), so that the efference copy
tells what was really travelled.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Generator
from pathlib import Path
from typing import NamedTuple, Protocol, TypeAlias, TypeVar

import numpy as np

from edge_rjepa.errors import SourceError
from edge_rjepa.eye.eye import Eye
from edge_rjepa.eye.head import Head
from edge_rjepa.learner.rjepa import BlockReport, RJepa
from edge_rjepa.run.config import RunConfig
from edge_rjepa.run.held_out import HeldOut, SetAside
from edge_rjepa.run.pace import Latency, Pace
from edge_rjepa.run.usable_frames import PlacedFrame, PlacedFrames, allowed_rad
from edge_rjepa.sources import Frame, FrameUse, Source

WAIT_MS = 200.0  # for a frame: also how soon a signal is noticed while the camera is away

MOST_UNUSABLE = 10_000  # frames at the beginning of a source that is not live


Result = TypeVar("Result")


class Block(NamedTuple):
    """What to learn from next."""

    features: np.ndarray  # (K, f) float32
    efference: np.ndarray  # (K, A) float32


# Whoever runs it learns from each Block that it yields, and sends what that taught; it yields None
# where there is nothing to learn from just now. So several can learn in one thread (together.py).
Learning: TypeAlias = Generator[Block | None, BlockReport | None, Result]


def learn_alone(learning: Learning[Result], learner: Callable[[], RJepa]) -> Result:
    """Run it to its end with the learner that there is then, and return its result.

    What the learner raises is raised where the block was yielded.
    """
    taught: BlockReport | BaseException | None = None
    while True:
        try:
            block = answer(learning, taught)
        except StopIteration as end:
            return end.value
        try:
            taught = block and learner().learn_block(*block)
        except BaseException as error:
            taught = error


def answer(learning: Learning[Result], taught: BlockReport | BaseException | None) -> Block | None:
    """Go on with what the last block taught, or with what went wrong; the next block."""
    if isinstance(taught, BaseException):
        return learning.throw(taught)
    return learning.send(taught)


class Recorder(Protocol):
    """Takes down what the loop used."""

    folder: Path

    def add(self, frame: Frame, gaze_rad: np.ndarray | None, fixations: int) -> None:
        """One frame with its gaze (K, 2); None and 0 for one set aside. Raises OSError."""

    def close(self, digest: str | None = None) -> None:
        """That was all; digest of what was learned from it. Raises OSError."""


class Measures(NamedTuple):
    """Means over the fixations learned from since the last call."""

    frames: int
    fixations: int
    loss: float  # nats
    surprise: float  # nats


class FixationBatch(NamedTuple):
    """A frame and its K fixations, none while learning is paused. Nothing in it is used again."""

    frame: Frame
    pixels: np.ndarray  # (K, 2) gaze as x, y
    gaze_rad: np.ndarray  # (K, 2) azimuth, elevation
    features: np.ndarray  # (K, f) float32, what the retina made of the fixations
    surprise: np.ndarray  # (K,) nats


class Loop:
    """Everything a learner needs to learn from what it looks at, without files.

    head: what turns the camera; the source's own if None, and no head at all if it has none.
    observers: are shown each frame that is used; the loop waits for them to return.
    """

    def __init__(
        self,
        config: RunConfig,
        source: Source,
        eye: Eye,
        learner: RJepa,
        held_out: HeldOut,
        head: Head | None = None,
        recorder: Recorder | None = None,
    ):
        self.config = config
        self.source = source
        self.eye = eye
        self.learner = learner
        self.held_out = held_out
        self.placed = PlacedFrames(source, head, config.head)
        self.head = self.placed.head
        self.recorder = recorder
        self.observers: list[Callable[[FixationBatch], None]] = []
        self.pace = Pace(config.fixations_per_frame, config.camera.frames_per_s)
        self.latency = Latency()
        self.paused = False  # it looks on, and neither learns nor turns the head
        self.wait_ms = WAIT_MS  # for a frame
        self.frames = 0  # used: learned from or set aside
        self.torn = False  # whether a frame was begun with and not done with
        self.skipped: Counter[str] = Counter()  # frames, by the reason
        self._set_aside = SetAside(config)
        self._slow = False
        self._events: list[str] = []
        self._reports: list[tuple[int, float, float]] = []

    def step(self) -> bool:
        """Use the next frame; False if none came in time or it was of no use.

        Raises SourceEnded after the last one, SourceError when the source is gone for good.
        """
        return learn_alone(self.stepping(), lambda: self.learner)

    def stepping(self) -> Learning[bool]:
        """A step, as `step` takes it, for whoever learns from its block."""
        if self.paused and not self.source.live:  # what it shows waits, too
            time.sleep(1e-3 * self.wait_ms)
            return False
        placed = self.placed.read_next(self.wait_ms)
        if placed is None:
            return False
        if self.paused:
            none = np.empty((0, 2))
            features = np.empty((0, self.config.retina.n_features), np.float32)
            self._show(FixationBatch(placed.frame, none, none, features, np.empty(0)))
            return False
        self.torn = True  # what happens in between, a second Ctrl-C say, leaves half a step
        used = yield from self._use(placed)
        self.torn = False
        return used

    @property
    def faults(self) -> dict[str, int]:
        """How often what failed, of a source that counts its faults."""
        return getattr(self.source, "faults", {})

    def measures(self) -> Measures:
        """What was learned since the last call; NaN for what was not measured."""
        frames = len(self._reports)
        count = sum(fixations for fixations, _, _ in self._reports)
        loss, surprise = (
            sum(report[0] * report[i] for report in self._reports) / count if count else math.nan
            for i in (1, 2)
        )
        self._reports.clear()
        return Measures(frames, count, loss, surprise)

    def drain_events(self) -> list[str]:
        """What went wrong or right since the last call, in words, oldest first."""
        events, self._events = self._events, []
        return events + self.placed.drain_events()

    def state(self) -> dict:
        """Where the loop stands, but for the learner, as plain JSON values."""
        return {
            "frames": self.frames,
            "skipped": dict(self.skipped),
            "gaze": self.eye.gaze.state(),
            "source": self.source.state(),
        }

    def restore(self, state: dict) -> None:
        """Go on from state()."""
        self.frames = state["frames"]
        self.skipped = Counter(state["skipped"])
        self.eye.gaze.restore(state["gaze"])
        self.source.restore(state["source"])

    def _use(self, placed: PlacedFrame) -> Learning[bool]:
        frame = placed.frame
        if placed.why_unusable:
            self._skip(placed.why_unusable)
            return False
        looks = self._set_aside.looks(frame.t_capture_s)
        if self._sets_aside(frame, looks):
            self.held_out.add(self.source.camera, [frame] * max(1, looks))
            gaze_rad = None
        else:
            gaze_rad = yield from self._learn(frame)
        self._record(frame, gaze_rad)
        self.frames += 1
        return True

    def _skip(self, why: str) -> None:
        self.skipped[why] += 1
        if not (self.source.live or self.frames or self.skipped.total() < MOST_UNUSABLE):
            raise SourceError(
                f"the first {MOST_UNUSABLE:,} frames are of no use ({why}): name a source that "
                "shows something"
            )

    def _show(self, batch: FixationBatch) -> None:
        for observer in self.observers:
            observer(batch)

    def _sets_aside(self, frame: Frame, looks: int) -> bool:
        if frame.use is not FrameUse.UNDECIDED:  # a recording: as it was then
            return frame.use is FrameUse.SET_ASIDE
        return self.source.live and looks > 0

    def _learn(self, frame: Frame) -> Learning[np.ndarray]:
        """Look at the frame, learn from it, turn the head; where gaze was, (K, 2) rad."""
        started_s = time.monotonic()
        fixations = frame.fixations if frame.use is FrameUse.LEARN else self.pace.fixations
        plan, features = self.eye.look(self.source.camera, frame.image, frame.head_rad, fixations)
        report = yield Block(features, plan.efference)
        assert report is not None  # a block was yielded
        self._reports.append((fixations, report.loss, float(report.surprise.mean())))
        self.eye.gaze.learned(report.surprise)
        self._show(FixationBatch(frame, plan.pixels, plan.gaze_rad, features, report.surprise))
        if self.source.live:
            done_s = time.monotonic()
            self.latency.add(done_s - frame.t_capture_s)
            self._keep_pace(frame, done_s - started_s)
        self._turn_head()
        return plan.gaze_rad

    def _record(self, frame: Frame, gaze_rad: np.ndarray | None) -> None:
        if self.recorder is None:
            return
        try:
            self.recorder.add(frame, gaze_rad, 0 if gaze_rad is None else len(gaze_rad))
        except OSError as error:
            self.recorder = None
            self._events.append(f"recording has ended, learning goes on: {error}")

    def _keep_pace(self, frame: Frame, busy_s: float) -> None:
        pace = self.pace
        pace.learned(frame, busy_s)
        if not self._slow and 4 * pace.fixations <= 3 * pace.most:
            self._slow = True
            self._events.append(
                f"learning cannot keep up with {pace.frames_per_s:.0f} frames a second: "
                f"{pace.fixations} fixations a frame instead of {pace.most}"
            )
        elif self._slow and pace.fixations == pace.most:
            self._slow = False
            self._events.append(f"learning keeps up again: {pace.most} fixations a frame")

    def _turn_head(self) -> None:
        if self.head is None:
            return
        aim = self.eye.gaze.aim(allowed_rad(self.head, self.config.head))
        if aim is not None:
            self.head.move(*aim)
