"""Frames of a LeRobot dataset, episode by episode, over and over.

An episode is a place: it begins where the one before did not end. Nothing marks the cut, as nothing
does between the photographs of `scene:`: the learner's memory runs on over it. One prediction of an
episode's thousands is then of what nobody could foresee (docs/robots.md: what forgetting changes).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from contextlib import suppress
from typing import NamedTuple

from edge_rjepa.errors import SourceError
from edge_rjepa.optics.camera import Lens
from edge_rjepa.sources.frame import Frame, SourceEnded, count_in
from edge_rjepa.sources.images import crop_resize, size_within
from edge_rjepa.sources.kinds import Options, path_of
from edge_rjepa.sources.lerobot_dataset import (
    MOST_S,
    Dataset,
    Episode,
    EpisodeReader,
    Row,
    Values,
)
from edge_rjepa.sources.video import FEWEST_FRAMES
from safe_files.plain import rebuilt

HELD_OUT_PART = 10  # of the episodes one; of a single episode the end
NAME = re.compile(r"(?P<folder>.*?)(#(?P<camera>[^#?]*))?(\?(?P<query>[^#?]*))?", re.DOTALL)
FEATURES = {"state": "observation.state", "action": "action"}
NO_PICTURE, NO_TIME, NO_EPISODE = "frame without a picture", "frame without a time", "lost episode"


class Angles(NamedTuple):
    """Which values of a dataset are the head's (pan, tilt): each times its factor is in rad."""

    values: Values
    factors: tuple[float, float]

    def of(self, row: Row) -> tuple[float, float]:
        """The head's angles in a frame; NaN where the dataset has none."""
        (pan, tilt), (pan_factor, tilt_factor) = row.values, self.factors
        return pan * pan_factor, tilt * tilt_factor


class LeRobotSource:
    """The episodes of a dataset but the last tenth of them, which is held out whole, in a loop.

    camera: a feature of the dataset, as `Dataset.camera` gives it. lens: of that camera, which a
    dataset does not tell. angles: where the head's angles are; None if the camera's stay (0, 0).
    once: whether it ends after the last episode, of which none is then held out.

    Pictures wider than 640 px are scaled down to that. Times are those of the frames, one episode
    after the other. What cannot be read is left out, told by drain_events() in the first round, and
    counted in `faults`. Raises SourceError for a dataset of fewer than 20 frames, or none readable.
    """

    live = False
    head = None

    def __init__(
        self,
        dataset: Dataset,
        camera: str,
        lens: Lens,
        angles: Angles | None = None,
        once: bool = False,
    ) -> None:
        self._dataset, self._camera, self._angles, self._once = dataset, camera, angles, once
        self._episodes, damaged = dataset.episodes(camera)
        frames = sum(episode.frames for episode in self._episodes)
        if frames < FEWEST_FRAMES:
            raise SourceError(
                f"{dataset.folder} has {frames} frames; a dataset needs at least {FEWEST_FRAMES}"
            )
        self.faults: Counter[str] = Counter({NO_EPISODE: damaged} if damaged else {})
        self._events = [f"{dataset.folder}: {damaged} damaged rows of meta/episodes"] * bool(
            damaged
        )
        self._shown, self._held_out = self._episodes, list[Episode]()
        if not once:
            self._shown, self._held_out = _divided(self._episodes)
        self._lost: Counter[str] = Counter()  # frames of the episode that is open
        self._reader: EpisodeReader | None = None
        self._round = self._place = self._row = 0  # of the frame that comes next
        self._sequence = 0
        self._last_s, self._begun_s = -math.inf, 0.0  # times of the frame before, of the episode
        self._found = False  # whether this round had a frame
        self.camera = lens(*size_within(*self._size_px()))

    def read_next(self, timeout_ms: float) -> Frame:
        """The next frame, at once; after the last one SourceEnded, or the first one again."""
        while True:
            row = self._next_row()
            frame = None if row is None else self._framed(row)
            if frame is not None:
                self._found = True
                return frame

    def held_out(self, count: int) -> list[Frame]:
        """`count` frames of the episodes set aside, as many of each as of the others."""
        frames: list[Frame] = []
        begun_s = 0.0
        for i, episode in enumerate(self._held_out):
            share = -(-(count - len(frames)) // (len(self._held_out) - i))
            part = self._frames_of(episode._replace(frames=min(share, episode.frames)), begun_s)
            frames += [frame._replace(sequence=len(frames) + n) for n, frame in enumerate(part)]
            begun_s = frames[-1].t_capture_s + self._period_s if frames else 0.0
        return frames

    def drain_events(self) -> list[str]:
        """What was left out since the last call, in words."""
        events, self._events = self._events, []
        return events

    def state(self) -> dict:
        """Where the stream stands, as plain JSON values."""
        return {
            "dataset": self._identity(),
            "round": self._round,
            "place": self._place,
            "row": self._row,
            "sequence": self._sequence,
            "last_s": self._last_s if self._sequence else None,
            "begun_s": self._begun_s,
        }

    def restore(self, state: dict) -> None:
        """Go on from state(), bit for bit. Raises SourceError for another dataset."""
        place, row = count_in(state, "place"), count_in(state, "row")
        if state["dataset"] != self._identity() or place > len(self._shown):
            raise SourceError(
                f"{self._dataset.folder} is not the dataset that the saved run saw, or has grown; "
                "put that one back, or start a new run"
            )
        self._close_episode()
        self._events.clear()  # it was told before
        self._round, self._place, self._row = count_in(state, "round"), place, row
        self._sequence = count_in(state, "sequence")
        last_s = rebuilt(float | None, state["last_s"], "last_s")
        self._last_s = -math.inf if last_s is None else last_s
        self._begun_s = rebuilt(float, state["begun_s"], "begun_s")
        self._found = True

    def close(self) -> None:
        """Close the files."""
        self._close_episode()

    def __enter__(self) -> LeRobotSource:
        return self

    def __exit__(self, kind, error, trace) -> None:
        self.close()

    @property
    def _period_s(self) -> float:
        return 1.0 / self._dataset.frames_per_s

    def _identity(self) -> list:
        """What tells the dataset from another, and the same one from when it had fewer episodes."""
        frames = sum(episode.frames for episode in self._episodes)
        return [len(self._episodes), frames, self._camera, self._dataset.frames_per_s]

    def _size_px(self) -> tuple[int, int]:
        """Width and height of the first picture that can be read."""
        why = "it has none"
        for episode in self._episodes:
            try:
                with self._reader_of(episode) as reader:
                    while (row := reader.read()) is not None:
                        if row.picture is not None:
                            return row.picture.shape[1], row.picture.shape[0]
            except SourceError as error:
                why = str(error)
        raise SourceError(
            f"{self._dataset.folder}: no picture of {self._camera!r:.80} can be read; use another "
            f"copy of the dataset ({why})"
        )

    def _next_row(self) -> Row | None:
        """The next row of the dataset; None at the end of an episode, and where one is lost."""
        if self._place == len(self._shown):
            self._begin_again()
        episode = self._shown[self._place]
        try:
            if self._reader is None:
                self._reader = self._reader_of(episode, self._row)
            row = self._reader.read()
        except SourceError as error:
            self.faults[NO_EPISODE] += 1
            self._tell(f"the rest of episode {episode.number} is left out: {error}")
            row = None
        if row is not None:
            self._row += 1
            return row
        self._tell_lost(episode)
        self._close_episode()
        self._place, self._row = self._place + 1, 0
        self._begun_s = max(0.0, self._last_s + self._period_s)
        return None

    def _begin_again(self) -> None:
        if not self._found:
            raise SourceError(
                f"{self._dataset.folder}: no frame of {self._camera!r:.80} can be read; put the "
                "files back"
            )
        if self._once:
            raise SourceEnded
        self._round, self._place, self._found = self._round + 1, 0, False

    def _reader_of(self, episode: Episode, start: int = 0) -> EpisodeReader:
        values = self._angles and self._angles.values
        return EpisodeReader(self._dataset, self._camera, episode, start, values)

    def _framed(self, row: Row) -> Frame | None:
        """The row as a frame; None, and counted, where it cannot be one."""
        frame = self._frame_of(row, self._begun_s, self._last_s)
        if isinstance(frame, str):
            self.faults[frame] += 1
            self._lost[frame] += 1
        self._sequence += 1
        if isinstance(frame, str):
            return None
        self._last_s = frame.t_capture_s
        return frame._replace(sequence=self._sequence - 1)

    def _frame_of(self, row: Row, begun_s: float, last_s: float) -> Frame | str:
        """The row as a frame, or what it lacks."""
        t_s = begun_s + row.t_s
        if not (0.0 <= row.t_s < MOST_S and t_s > last_s):
            return NO_TIME
        if row.picture is None:
            return NO_PICTURE
        image = crop_resize(row.picture, (self.camera.width_px, self.camera.height_px))
        head_rad = self._angles.of(row) if self._angles else (0.0, 0.0)
        return Frame(image, t_s, head_rad, 0)

    def _frames_of(self, episode: Episode, begun_s: float) -> list[Frame]:
        """The frames of an episode that can be read, of a head whose angles are known.

        Raises nothing: a lost one has none.
        """
        frames: list[Frame] = []
        with suppress(SourceError), self._reader_of(episode) as reader:
            while (row := reader.read()) is not None:
                last_s = frames[-1].t_capture_s if frames else -math.inf
                frame = self._frame_of(row, begun_s, last_s)
                if not isinstance(frame, str) and all(map(math.isfinite, frame.head_rad)):
                    frames.append(frame)
        return frames

    def _tell(self, event: str) -> None:
        if self._round == 0:
            self._events.append(event)

    def _tell_lost(self, episode: Episode) -> None:
        if self._lost:
            lost = ", ".join(f"{count} times {what}" for what, count in self._lost.items())
            self._tell(f"episode {episode.number}: left out of {episode.frames} frames: {lost}")
        self._lost.clear()

    def _close_episode(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None


def _divided(episodes: list[Episode]) -> tuple[list[Episode], list[Episode]]:
    """(shown, held out): whole episodes, so that what is judged on was never seen."""
    if len(episodes) > 1:
        held = max(1, len(episodes) // HELD_OUT_PART)
        return episodes[:-held], episodes[-held:]
    (only,) = episodes
    shown = only.frames - only.frames // HELD_OUT_PART
    end = only._replace(first_row=only.first_row + shown, frames=only.frames - shown)
    return [only._replace(frames=shown)], [end]


def open_lerobot(name: str, options: Options) -> LeRobotSource:
    """The camera of a dataset that is named `DIR[#camera][?state=PAN,TILT[&degrees]]`."""
    folder, camera, query = _parts(name)
    dataset = Dataset(path_of(folder))
    key = dataset.camera(camera)
    return LeRobotSource(
        dataset, key, options.lens, _angles(dataset, query) if query else None, options.once
    )


def _parts(name: str) -> tuple[str, str | None, str]:
    """(folder, camera, query) of a name; a folder may have any name, if it is there."""
    if path_of(name).is_dir():
        return name, None, ""
    found = NAME.fullmatch(name)
    assert found is not None  # it matches every name
    return found["folder"], found["camera"], found["query"] or ""


def _angles(dataset: Dataset, query: str) -> Angles:
    """Where the head's angles are. Raises SourceError for anything else, with what is meant."""
    first, *others = query.split("&")
    kind, _, text = first.partition("=")
    names = text.split(",")
    if kind not in FEATURES or len(names) != 2 or others not in ([], ["degrees"]):
        raise SourceError(
            f"{query!r:.80} names no head angles: write ?state=PAN,TILT or ?action=PAN,TILT, with "
            "&degrees if they are in degrees and - before a name that turns the other way"
        )
    feature = FEATURES[kind]
    known = dataset.features[feature].names if feature in dataset.features else ()
    turned = [name not in known and name.startswith("-") for name in names]
    values = dataset.values(
        feature, [n[1:] if t else n for n, t in zip(names, turned, strict=True)]
    )
    unit = math.radians(1.0) if others else 1.0
    pan, tilt = (-unit if each else unit for each in turned)
    return Angles(values, (pan, tilt))
