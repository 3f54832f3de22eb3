"""Novelty: what is new in a place, and stays, by a frozen encoder that looks there again and again.

The weights are frozen; what a place usually looks like is learned (background.py). Gaze sweeps a
lattice of directions (directions.py): all that are in view, every SWEEP_S seconds. Each window is
cut as if its direction were in the middle of the picture, so it is the same from wherever the head
looks. From all scores the median of the last looks is taken away: what all directions share is the
light, or a head that stopped elsewhere.

Something new has to stay. A look counts only as far as it is more surprising than it is unlike the
look before: what passes is as unlike itself as it is unlike the place. A direction's persistent
score is the lowest of its last LOOKS scores, averaged with those of its neighbours.

The threshold is one number, the false alarms an hour that are to be expected. The level that is
passed once an hour follows from the highest persistent scores of the warm-up (threshold.py), though
that took only minutes. The threshold then stays; what is seen later gives a running estimate of how
often it is passed with nothing new.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from edge_rjepa.errors import ConfigError
from edge_rjepa.optics.camera import Camera
from edge_rjepa.sources import Frame
from edge_rjepa.watch.background import COVARIANCE_UNTIL, MIN_VISITS, BackgroundModel, Match
from edge_rjepa.watch.directions import NEIGHBOURS, Directions
from edge_rjepa.watch.threshold import Tail

SWEEP_S = 0.4  # in which every direction in view is looked at once
LOOKS = 3  # in a row that must be surprising
MEDIAN_LOOKS = 200  # whose median score is taken away
WARM_UP_S = 300.0  # in which nothing new is taken to come
MIN_WARM_UP_S = 30.0
MAX_VISITS = 150  # of a direction in the warm-up: looks nearer in time say the same again
TAIL_FROM = 1 / 3  # of the warm-up: from then on scores count for the threshold
MIN_THRESHOLD = 2.7  # standard deviations: minutes show too little of what else there can be
ACTIVE_SCORE = 1.5  # above it a direction is active: hardly learned from, part of a detection
MERGE_STEPS = 3.0  # directions this near are of one detection,
MERGE_S = 5.0  # if they are active within so long
BOX_SHARE = 0.7  # of the highest score of a detection: directions below it lie around the thing
SCENE_CHANGE_SCORE = 3.0  # as the median of all looks: another light, or another place

Encode = Callable[[np.ndarray], np.ndarray]


class Alarm(NamedTuple):
    """Something that was not there before."""

    t_s: float  # when that was certain, on the clock of the frames
    frame: Frame  # in which it is seen
    pixel: tuple[float, float]  # (x, y) of its middle there
    box: tuple[int, int, int, int]  # (x, y, width, height) about it
    angles_rad: tuple[float, float]  # azimuth, elevation in the base frame
    surprise: float  # nats, at its most surprising direction
    usual: float  # nats, the usual surprise there
    score: float  # standard deviations
    per_hour: float  # how often as much is to be expected with nothing new


class Watch:
    """Looks at frames and returns alarms; the same frames give the same alarms.

    encode: embeddings z (K, n_z) of windows (K, window_px, window_px, 3) uint8 BGR. camera: of the
    frames. alarms_per_hour: false ones to be expected. warm_up_s: for so long nothing is reported.
    Raises ConfigError for alarms_per_hour not above 0, and warm_up_s below MIN_WARM_UP_S.

    threshold: the score above which something is reported; infinite until it is known.
    """

    def __init__(
        self,
        encode: Encode,
        camera: Camera,
        window_px: int = 64,
        alarms_per_hour: float = 1.0,
        warm_up_s: float = WARM_UP_S,
    ) -> None:
        if not (math.isfinite(alarms_per_hour) and alarms_per_hour > 0.0):
            raise ConfigError(f"alarms_per_hour = {alarms_per_hour}: must be a number above 0")
        if not (math.isfinite(warm_up_s) and warm_up_s >= MIN_WARM_UP_S):
            raise ConfigError(f"warm_up_s = {warm_up_s}: must be {MIN_WARM_UP_S:.0f} at least")
        self.alarms_per_hour, self.warm_up_s = alarms_per_hour, warm_up_s
        self.tail = Tail()
        self._encode, self._camera = encode, camera
        self._directions = Directions(camera, window_px)
        self._n_z = encode(np.zeros((1, window_px, window_px, 3), np.uint8)).shape[1]
        self._events: list[str] = []
        self._begin()

    def _begin(self) -> None:
        """Know nothing of the place, but how high scores go with nothing new."""
        count = len(self._directions.angles_rad)
        self._background = BackgroundModel(count, self._n_z, self.warm_up_s / MAX_VISITS)
        self._scores = np.full((count, LOOKS), -np.inf)  # of each direction's last looks
        self._last_scores: deque[float] = deque(maxlen=MEDIAN_LOOKS)  # of all directions
        self._looked_s = np.full(count, -np.inf)  # when each was looked at
        self._detections: list[Detection] = []
        self.threshold = math.inf
        self._begun_s = math.nan
        self._now_s = -math.inf

    @property
    def expected_per_hour(self) -> float:
        """False alarms an hour at the present threshold, from what was seen; NaN if not known."""
        return self.tail.per_hour(self.threshold)

    @property
    def warming_up_s(self) -> float:
        """How long it will still report nothing."""
        if math.isnan(self._begun_s):
            return self.warm_up_s
        return max(0.0, self._begun_s + self.warm_up_s - self._now_s)

    def drain_events(self) -> list[str]:
        """What happened to the watch itself since the last call, in words, oldest first."""
        events, self._events = self._events, []
        return events

    def look(self, frame: Frame) -> list[Alarm]:
        """Look at a frame; what is new in it."""
        directions = self._due(frame)
        if not len(directions):
            return []
        z = np.asarray(self._encode(self._directions.windows(frame, directions)), np.float64)
        return self._judge(frame, directions, z)

    def _due(self, frame: Frame) -> np.ndarray:
        """The directions (K,) to look at now, those first that were not looked at for longest."""
        t_s = frame.t_capture_s
        if math.isnan(self._begun_s):
            self._begun_s = t_s
        directions = self._directions.in_view(frame.head_rad)
        passed_s = min(max(t_s - self._now_s, 0.0), SWEEP_S)
        self._now_s = t_s
        count = math.ceil(len(directions) * passed_s / SWEEP_S - 1e-6)
        directions = directions[np.argsort(self._looked_s[directions], kind="stable")[:count]]
        self._looked_s[directions] = t_s
        return directions

    def _judge(self, frame: Frame, directions: np.ndarray, z: np.ndarray) -> list[Alarm]:
        """Compare looks with the background, learn from them, and return the alarms due."""
        t_s = frame.t_capture_s
        age = (t_s - self._begun_s) / self.warm_up_s
        match = self._background.match(directions, z)
        self._last_scores.extend(match.score[np.isfinite(match.score)].tolist())
        median = float(np.median(self._last_scores)) if self._last_scores else 0.0
        if median > SCENE_CHANGE_SCORE and len(self._last_scores) == MEDIAN_LOOKS and age > 1.0:
            self._events.append(
                "all of the view has changed, the light or the place: what is usual is learned "
                f"anew for {self.warm_up_s:.0f} s, in which nothing is reported"
            )
            self._begin()
            return []
        scores = match.score - median
        self._scores[directions] = np.column_stack([self._scores[directions, 1:], scores])
        persistent = self._persistent_scores(directions)
        if age > 1.0:
            if math.isinf(self.threshold):
                self.threshold = max(MIN_THRESHOLD, self.tail.threshold(self.alarms_per_hour))
            self._detect(frame, directions, persistent, z, match)
        if age > TAIL_FROM:
            self._add_to_tail(persistent, match, t_s)
        self._detections = [
            each for each in self._detections if not each.reported or t_s - each.last_s < MERGE_S
        ]
        active = (persistent > ACTIVE_SCORE) & (age > COVARIANCE_UNTIL)
        self._background.learn(directions, z, match, frame, age, active)
        return self._alarms(t_s)

    def _persistent_scores(self, directions: np.ndarray) -> np.ndarray:
        """(K,) the lowest scores of the last looks, averaged over the neighbours."""
        lowest = self._scores[self._directions.neighbours[directions]].min(axis=2)
        known = np.isfinite(lowest)
        count = np.maximum(known.sum(axis=1), (NEIGHBOURS + 1) // 2)
        mean = np.where(known, lowest, 0.0).sum(axis=1) / count
        return np.where(known[:, 0], mean, -np.inf)

    def _add_to_tail(self, persistent: np.ndarray, match: Match, t_s: float) -> None:
        """How high scores go where the background is well known."""
        well_known = persistent[match.visits >= 2 * MIN_VISITS]
        if not self._detections and len(well_known):
            self.tail.add(float(well_known.max()), t_s)

    def _detect(
        self,
        frame: Frame,
        directions: np.ndarray,
        persistent: np.ndarray,
        z: np.ndarray,
        match: Match,
    ) -> None:
        """Collect evidence: directions above the threshold, and active ones near them."""
        for k in np.flatnonzero(persistent > ACTIVE_SCORE):
            direction, score = int(directions[k]), float(persistent[k])
            near = (each for each in self._detections if self._is_near(direction, each))
            detection = next(near, None)
            if detection is None and score > self.threshold:
                detection = Detection(frame.t_capture_s)
                self._detections.append(detection)
            if detection is not None:
                detection.add(Evidence(frame, direction, score, z[k], float(match.surprise[k])))

    def _alarms(self, t_s: float) -> list[Alarm]:
        """Of detections that began a sweep ago: only now was every direction looked at."""
        alarms = []
        for detection in self._detections:
            if not detection.reported and t_s - detection.first_s >= SWEEP_S - 1e-6:
                for other in self._beside(detection):  # began apart, and grew together
                    detection.merge(other)
                if not detection.reported:
                    alarms.append(self._alarm(detection, t_s))
                detection.reported = True
            if detection.reported:  # what is there now is usual: it is reported once
                for evidence in detection.drain_evidence():
                    self._background.adopt(evidence.direction, evidence.z, t_s)
                    self._scores[evidence.direction] = -np.inf
        return alarms

    def _beside(self, detection: Detection) -> list[Detection]:
        """The other detections that are near it."""
        return [
            other
            for other in self._detections
            if other is not detection
            and any(self._is_near(direction, other) for direction in detection.directions)
        ]

    def _is_near(self, direction: int, detection: Detection) -> bool:
        angles_rad = self._directions.angles_rad
        near_rad = MERGE_STEPS * self._directions.step_rad
        here_rad = angles_rad[direction]
        return any(math.dist(angles_rad[o], here_rad) < near_rad for o in detection.directions)

    def _alarm(self, detection: Detection, t_s: float) -> Alarm:
        evidence = list(detection.evidence.values())
        scores = np.array([each.score for each in evidence])
        directions = np.array([each.direction for each in evidence])
        strongest = evidence[int(scores.argmax())]
        azimuth_rad, elevation_rad = scores @ self._directions.angles_rad[directions] / scores.sum()
        angles_rad = float(azimuth_rad), float(elevation_rad)
        frame = strongest.frame
        x, y = self._camera.pixels_of_angles(angles_rad, frame.head_rad)
        return Alarm(
            t_s,
            frame,
            (float(x), float(y)),
            self._directions.box(frame, directions[scores >= BOX_SHARE * scores.max()]),
            angles_rad,
            strongest.surprise,
            float(np.exp(self._background.log_surprise[strongest.direction])),
            strongest.score,
            self.tail.per_hour(strongest.score),
        )


class Evidence(NamedTuple):
    """A look that was surprising, as those before it and beside it."""

    frame: Frame
    direction: int
    score: float  # standard deviations
    z: np.ndarray  # (n_z,)
    surprise: float  # nats


@dataclass
class Detection:
    """Directions near each other that became surprising at about the same time."""

    first_s: float
    last_s: float = 0.0
    reported: bool = False
    evidence: dict[int, Evidence] = field(default_factory=dict)  # by direction, since last drained
    directions: set[int] = field(default_factory=set)  # of all evidence ever

    def add(self, evidence: Evidence) -> None:
        """One more of its directions, or one of them again."""
        self.last_s = evidence.frame.t_capture_s
        self.evidence[evidence.direction] = evidence
        self.directions.add(evidence.direction)

    def merge(self, other: Detection) -> None:
        """Take over the evidence of another one, which counts as reported from now on."""
        self.reported |= other.reported
        self.evidence |= other.evidence
        other.reported, other.evidence = True, {}

    def drain_evidence(self) -> list[Evidence]:
        """The evidence since the last call."""
        evidence, self.evidence = self.evidence, {}
        return list(evidence.values())
