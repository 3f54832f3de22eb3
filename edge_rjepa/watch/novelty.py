"""Novelty: what is new in a place, and stays, by a frozen encoder that looks there again and again.

The weights are frozen; what a place usually looks like is learned (background.py). Gaze sweeps a
lattice of directions (directions.py): all that are in view, every SWEEP_S seconds. Each window is
cut as if its direction were in the middle of the picture, so it is the same from wherever the head
looks. From all scores the median of the last looks is taken away: what all directions share is the
light, or a head that stopped elsewhere.

Something new has to stay. A look counts only as far as it is more surprising than it is unlike the
look before: what passes is as unlike itself as it is unlike the place. A direction's persistent
score is the lowest of its last LOOKS scores, averaged with those of its neighbours.

What is told ends, too (told.py), and is told again when it comes back. Whether something is new or
was taken away is told from the pictures (usual_pictures.py). Where all has changed the camera, or
the light, is elsewhere: in a place that is known, or in one that must be learned (place.py).

The threshold is one number, the false alarms an hour that are to be expected. The level that is
passed once an hour follows from the highest persistent scores of the warm-up (threshold.py), though
that took only minutes. What was just learned fits better than what comes later, so minutes alone
give too low a threshold: it is found anew whenever twice as much was seen with nothing new.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import cv2
import numpy as np

from edge_rjepa.errors import ConfigError
from edge_rjepa.optics.camera import Camera
from edge_rjepa.sources import Frame
from edge_rjepa.watch.background import COVARIANCE_UNTIL, MIN_VISITS, NOBODY, Match
from edge_rjepa.watch.directions import NEIGHBOURS, Directions
from edge_rjepa.watch.masks import Polygons
from edge_rjepa.watch.place import KnownPlaces, Place, median_score
from edge_rjepa.watch.threshold import Tail
from edge_rjepa.watch.told import Ended

SWEEP_S = 0.4  # in which every direction in view is looked at once
LOOKS = 3  # in a row that must be surprising
MEDIAN_LOOKS = 200  # whose median score is taken away
WARM_UP_S = 300.0  # in which nothing new is taken to come
MIN_WARM_UP_S = 30.0
MAX_VISITS = 150  # of a direction in the warm-up: looks nearer in time say the same again
TAIL_FROM = 1 / 3  # of the warm-up: from then on scores count for the threshold
MIN_THRESHOLD = 2.7  # standard deviations: minutes show too little of what else there can be
ACTIVE_SCORE = 1.5  # above it a direction is active: hardly learned from, part of a detection
MOST_DIRECTIONS = 100_000  # all around: of a lens of 10 degrees, 1.5 GB
MERGE_STEPS = 3.0  # directions this near are of one detection,
MERGE_S = 5.0  # if they are active within so long
BOX_SHARE = 0.7  # of the highest score of a detection: directions below it lie around the thing
SCENE_CHANGE_SCORE = 3.0  # as the median of all looks: another light, or another place
KNOW_AGAIN_EVERY_S = 2.0  # while a place is learned: whether it is one that is known
PROBES = 4  # windows by which an encoder is known
UNKNOWN_AFTER_S = 10.0  # then it is said that it is none

Encode = Callable[[np.ndarray], np.ndarray]


class Alarm(NamedTuple):
    """Something that was not there before, or is there no more."""

    number: int
    what: str  # "new", or "removed": taken away
    t_s: float  # when that was certain, on the clock of the frames
    frame: Frame  # in which it is seen
    pixel: tuple[float, float]  # (x, y) of its middle there
    box: tuple[int, int, int, int]  # (x, y, width, height) about it
    angles_rad: tuple[float, float]  # azimuth, elevation in the base frame
    surprise: float  # nats, at its most surprising direction
    usual: float  # nats, the usual surprise there
    score: float  # standard deviations
    per_hour: float  # how often as much is to be expected with nothing new


class Gone(NamedTuple):
    """The end of an alarm: the new thing has left, or the removed one is back."""

    number: int  # of the alarm
    t_s: float  # when that was certain
    after_s: float  # since the alarm
    usual: bool  # from now on: it came and went so often, or too many others were told since


class Watch:
    """Looks at frames and returns alarms; the same frames give the same alarms.

    encode: embeddings z (K, n_z) of windows (K, window_px, window_px, 3) uint8 BGR. camera: of the
    frames. alarms_per_hour: false ones to be expected. warm_up_s: for so long nothing is reported.
    Raises ConfigError for alarms_per_hour not above 0, and warm_up_s below MIN_WARM_UP_S.

    threshold: the score above which something is reported; infinite until it is known. known: the
    places that were watched before, and are known again. last_number: of the alarms.
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
        self.known = KnownPlaces()
        self.last_number = 0
        self._encode, self._camera, self._window_px = encode, camera, window_px
        self._directions = Directions(camera, window_px)
        self._check_view()
        self._neighbours = self._directions.neighbours()
        self._n_z = encode(np.zeros((1, window_px, window_px, 3), np.uint8)).shape[1]
        self._events: list[str] = []
        self._gone: list[Gone] = []
        self._now_s = -math.inf
        self._blind = False  # no direction is in view
        self._begin(self._empty_place(Tail()))

    def _check_view(self) -> None:
        """Raises ConfigError for a lens through which too little, or too much, would be told apart.

        Directions are a part of the picture's width apart, and none is looked at whose window is
        beyond the picture.
        """
        seen, count = len(self._directions.in_view((0.0, 0.0))), self.n_directions
        if seen < NEIGHBOURS:
            raise ConfigError(
                f"through so wide a lens {seen} directions can be watched, {NEIGHBOURS} at least "
                "are needed: calibrate the camera, or set a smaller --fov"
            )
        if count > MOST_DIRECTIONS:
            raise ConfigError(
                f"so narrow a lens has {count:,} directions all around, which is too much to keep "
                f"({MOST_DIRECTIONS:,} at most): set a larger --fov"
            )

    @property
    def n_directions(self) -> int:
        """How many directions there are, all around."""
        return len(self._directions.angles_rad)

    @property
    def n_z(self) -> int:
        """How wide embeddings are."""
        return self._n_z

    def probe_encoder(self) -> np.ndarray:
        """(K, n_z) embeddings of windows that are always the same: an encoder is known by them."""
        rng = np.random.default_rng(0)
        side = self._window_px
        coarse = rng.integers(0, 256, (PROBES, 4, 4, 3), np.uint8)
        windows = [cv2.resize(each, (side, side), interpolation=cv2.INTER_CUBIC) for each in coarse]
        return np.asarray(self._encode(np.array(windows)), np.float32)

    def probe_camera(self) -> np.ndarray:
        """(K, 2) angles in radians that are seen in the corners and the middle of the picture."""
        size = np.array([self._camera.width_px, self._camera.height_px])
        share = np.array([[0.1, 0.1], [0.9, 0.1], [0.5, 0.5], [0.1, 0.9], [0.9, 0.9]])
        angles_rad = self._camera.angles_of_pixels(share * size, (0.0, 0.0))
        return np.vstack([np.asarray(angles_rad), size])

    def _empty_place(self, tail: Tail) -> Place:
        return Place(self.n_directions, self._n_z, self.warm_up_s / MAX_VISITS, tail)

    def _begin(self, place: Place) -> None:
        """Look at a place as if nothing of it had been seen yet."""
        count = len(self._directions.angles_rad)
        self._place = place
        self._scores = np.full((count, LOOKS), -np.inf)  # of each direction's last looks
        self._last_scores: deque[float] = deque(maxlen=MEDIAN_LOOKS)  # of all directions
        self._last_looks: deque[tuple[int, np.ndarray]] = deque(maxlen=MEDIAN_LOOKS)
        self._looked_s = np.full(count, -np.inf)  # when each was looked at
        self._detections: list[Detection] = []
        self._begun_s = math.nan
        self._asked_s = -math.inf  # when it was looked last whether the place is known
        self._unknown_said = False

    @property
    def threshold(self) -> float:
        """The score above which something is reported; infinite until it is known."""
        return self._place.threshold

    @property
    def tail(self) -> Tail:
        """How high scores go with nothing new."""
        return self._place.tail

    @property
    def is_warm(self) -> bool:
        """Whether what is usual is known."""
        return math.isfinite(self.threshold)

    @property
    def holding(self) -> list[int]:
        """Numbers of the alarms that have not ended, oldest first."""
        return self._place.told.holding

    @property
    def expected_per_hour(self) -> float:
        """False alarms an hour at the present threshold, from what was seen; NaN if not known."""
        return self.tail.per_hour(self.threshold)

    @property
    def warming_up_s(self) -> float:
        """How long it will still report nothing."""
        if self.is_warm:
            return 0.0
        if math.isnan(self._begun_s):
            return self.warm_up_s
        return max(0.0, self._begun_s + self.warm_up_s - self._now_s)

    def drain_events(self) -> list[str]:
        """What happened to the watch itself since the last call, in words, oldest first."""
        events, self._events = self._events, []
        return events

    def drain_gone(self) -> list[Gone]:
        """The alarms that ended since the last call, oldest first."""
        gone, self._gone = self._gone, []
        return gone

    def mask(self, polygons: Polygons) -> None:
        """Look no more where these polygons lie in the picture; see masks.py."""
        self._directions.mask(polygons)

    def fine(self, number: int) -> bool:
        """What this alarm told of is usual from now on; False for an alarm that is forgotten."""
        if self._place.fine(number, self._now_s):
            return True
        for index, kept in enumerate(self.known.places):
            if number in kept["told.number"]:  # told in a place that was left
                place = self._restored(kept)
                place.fine(number, self._now_s)
                self.known.places[index] = place.kept(self._now_s)
                return True
        return False

    def kept_places(self) -> list[dict[str, np.ndarray]]:
        """All places that are known, the present one last; once it is learned."""
        present = [self._place.kept(self._now_s)] if self.is_warm else []
        return [*self.known.places, *present]

    def scores(self, frame: Frame) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (K, 2) of the directions in a frame, and how new it is there (K,), by the score.

        In standard deviations, to be compared with the threshold; -inf where it is not known yet.
        """
        directions = self._directions.in_view(frame.head_rad)
        angles_rad = self._directions.angles_rad[directions]
        pixels = self._camera.pixels_of_angles(angles_rad, frame.head_rad)
        return pixels, self._persistent_scores(directions)

    def look(self, frame: Frame) -> list[Alarm]:
        """Look at a frame; what is new in it."""
        directions = self._due(frame)
        if not len(directions):
            return []
        windows = self._directions.windows(frame, directions)
        z = np.asarray(self._encode(windows), np.float64)
        return self._judge(frame, directions, windows, z)

    def _due(self, frame: Frame) -> np.ndarray:
        """The directions (K,) to look at now, those first that were not looked at for longest."""
        t_s = frame.t_capture_s
        if math.isnan(self._begun_s):
            self._begun_s = t_s
        directions = self._directions.in_view(frame.head_rad)
        if not len(directions) and not self._blind:
            self._events.append("nothing can be watched here: the mask covers all that is in view")
        self._blind = not len(directions)
        passed_s = min(max(t_s - self._now_s, 0.0), SWEEP_S)
        self._now_s = t_s
        count = math.ceil(len(directions) * passed_s / SWEEP_S - 1e-6)
        directions = directions[np.argsort(self._looked_s[directions], kind="stable")[:count]]
        self._looked_s[directions] = t_s
        return directions

    def _judge(
        self, frame: Frame, directions: np.ndarray, windows: np.ndarray, z: np.ndarray
    ) -> list[Alarm]:
        """Compare looks with the background, learn from them, and return the alarms due."""
        t_s = frame.t_capture_s
        self._last_looks.extend(zip(directions.tolist(), z, strict=True))
        if not self.is_warm and self._is_known_again(t_s):
            return []
        age = math.inf if self.is_warm else (t_s - self._begun_s) / self.warm_up_s
        place = self._place
        match = place.background.match(directions, z)
        self._last_scores.extend(match.score[np.isfinite(match.score)].tolist())
        median = float(np.median(self._last_scores)) if self._last_scores else 0.0
        if median > SCENE_CHANGE_SCORE and len(self._last_scores) == MEDIAN_LOOKS and age > 1.0:
            self._leave()
            return []
        scores = match.score - median
        self._scores[directions] = np.column_stack([self._scores[directions, 1:], scores])
        persistent = self._persistent_scores(directions)
        if age > 1.0:
            if place.tail.blocks >= 2 * place.threshold_from_blocks:
                self._find_threshold()
            self._detect(frame, directions, persistent, z, match)
            self._end_alarms(directions, z, t_s)
        if age > TAIL_FROM:
            self._add_to_tail(persistent, match, t_s)
        self._detections = [
            each for each in self._detections if not each.reported or t_s - each.last_s < MERGE_S
        ]
        active = (persistent > ACTIVE_SCORE) & (age > COVARIANCE_UNTIL)
        fresh = place.background.learn(directions, z, match, frame, age, active)
        quiet = fresh & (match.still - median < ACTIVE_SCORE)
        place.pictures.keep(directions[quiet], windows[quiet])
        return self._alarms(t_s)

    def _find_threshold(self) -> None:
        place = self._place
        place.threshold = max(MIN_THRESHOLD, place.tail.threshold(self.alarms_per_hour))
        place.threshold_from_blocks = place.tail.blocks if self.is_warm else 0
        if self.is_warm:
            self._forget(self.known.settle())

    def _forget(self, places: list[dict[str, np.ndarray]]) -> None:
        """Of places that are kept no more nobody will see how their alarms end."""
        for place in places:
            told = (place["told.number"], place["told.age_s"], place["told.holds"])
            for number, age_s, holds in zip(*told, strict=True):
                if holds:
                    self._gone.append(Gone(int(number), self._now_s, float(age_s), True))

    def _leave(self) -> None:
        """All of the view has changed: keep this place, and learn the one that is there now."""
        self._forget(self.known.add(self._place.kept(self._now_s)))
        tail = Tail(self._place.tail.maxima)
        self._events.append(
            "all of the view has changed, the light or the place: unless it is one that is known, "
            f"what is usual is learned anew for {self.warm_up_s:.0f} s, in which nothing is "
            "reported"
        )
        self._begin(self._empty_place(tail))
        self._unknown_said = True

    def _is_known_again(self, t_s: float) -> bool:
        """Go on in a place that was watched before, if the last looks are of it."""
        places = self.known.places
        full = len(self._last_looks) == MEDIAN_LOOKS
        if not places or not full or t_s - self._asked_s < KNOW_AGAIN_EVERY_S:
            return False
        self._asked_s = t_s
        directions = np.array([direction for direction, _ in self._last_looks])
        z = np.array([z for _, z in self._last_looks])
        scores = [median_score(self._restored(place), directions, z) for place in places]
        best = int(np.argmin(scores))
        if scores[best] < SCENE_CHANGE_SCORE:
            self._begin(self._restored(self.known.take(best)))
            self._find_threshold()
            self._events.append("this place is known: watching goes on without a warm-up")
            return True
        if t_s - self._begun_s > UNKNOWN_AFTER_S and not self._unknown_said:
            self._unknown_said = True
            self._events.append(
                f"it looks like none of the {len(places)} places that are known: what is usual is "
                "learned anew"
            )
        return False

    def _restored(self, kept: dict[str, np.ndarray]) -> Place:
        place = self._empty_place(Tail())
        place.restore(kept, self._now_s)
        return place

    def _end_alarms(self, directions: np.ndarray, z: np.ndarray, t_s: float) -> None:
        distance = self._place.background.surprise
        for ended in self._place.told.look(directions, z, distance, t_s):
            self._end(ended, t_s)

    def _end(self, ended: Ended, t_s: float) -> None:
        if not ended.usual:
            self._place.background.drop(ended.number)
        self._gone.append(Gone(ended.number, t_s, ended.after_s, ended.usual))

    def _persistent_scores(self, directions: np.ndarray) -> np.ndarray:
        """(K,) the lowest scores of the last looks, averaged over the neighbours."""
        lowest = self._scores[self._neighbours[directions]].min(axis=2)
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
                usual = z[k] - match.error[k]
                surprise = float(match.surprise[k])
                detection.add(Evidence(frame, direction, score, z[k], usual, surprise))

    def _alarms(self, t_s: float) -> list[Alarm]:
        """Of detections that began a sweep ago: only now was every direction looked at."""
        alarms = []
        for detection in self._detections:
            if not detection.reported and t_s - detection.first_s >= SWEEP_S - 1e-6:
                for other in self._beside(detection):  # began apart, and grew together
                    detection.merge(other)
                if not detection.reported:
                    alarms += self._told(detection, t_s)
                detection.reported = True
            if detection.reported:  # what is there now is as it is: it is reported once
                for evidence in detection.drain_evidence():
                    if detection.number != NOBODY:
                        self._place.told.add(
                            detection.number, evidence.direction, evidence.usual, evidence.z
                        )
                    self._place.background.adopt(
                        evidence.direction, evidence.z, t_s, detection.number
                    )
                    self._scores[evidence.direction] = -np.inf
        return alarms

    def _told(self, detection: Detection, t_s: float) -> list[Alarm]:
        """The alarm that a detection is; none if it is the end of another one."""
        told, evidence = self._place.told, detection.strongest()
        directions = np.array([each.direction for each in evidence])
        what = self._what(evidence, directions)
        opposite = told.opposite(what, directions)
        if opposite is not None:
            self._end(told.end(opposite, self._place.background.surprise, t_s), t_s)
            return []
        self.last_number += 1
        detection.number = self.last_number
        pushed_out = told.begin(
            self.last_number,
            what,
            directions,
            np.array([each.usual for each in evidence]),
            np.array([each.z for each in evidence]),
            t_s,
        )
        if pushed_out is not None:
            self._gone.append(Gone(pushed_out.number, t_s, pushed_out.after_s, True))
        return [self._alarm(detection, what, t_s)]

    def _what(self, evidence: list[Evidence], directions: np.ndarray) -> str:
        """Whether something is new, or was taken away."""
        windows = [
            self._directions.windows(each.frame, directions[[k]])[0]
            for k, each in enumerate(evidence)
        ]
        return self._place.pictures.what(directions, np.array(windows))

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

    def _alarm(self, detection: Detection, what: str, t_s: float) -> Alarm:
        evidence = list(detection.evidence.values())
        scores = np.array([each.score for each in evidence])
        directions = np.array([each.direction for each in evidence])
        strongest = evidence[int(scores.argmax())]
        azimuth_rad, elevation_rad = scores @ self._directions.angles_rad[directions] / scores.sum()
        angles_rad = float(azimuth_rad), float(elevation_rad)
        frame = strongest.frame
        x, y = self._camera.pixels_of_angles(angles_rad, frame.head_rad)
        return Alarm(
            detection.number,
            what,
            t_s,
            frame,
            (float(x), float(y)),
            self._directions.box(frame, directions[scores >= BOX_SHARE * scores.max()]),
            angles_rad,
            strongest.surprise,
            float(np.exp(self._place.background.log_surprise[strongest.direction])),
            strongest.score,
            self._place.tail.per_hour(strongest.score),
        )


class Evidence(NamedTuple):
    """A look that was surprising, as those before it and beside it."""

    frame: Frame
    direction: int
    score: float  # standard deviations
    z: np.ndarray  # (n_z,)
    usual: np.ndarray  # (n_z,) what it looked like before
    surprise: float  # nats


@dataclass
class Detection:
    """Directions near each other that became surprising at about the same time."""

    first_s: float
    last_s: float = 0.0
    reported: bool = False
    number: int = NOBODY  # of its alarm
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

    def strongest(self) -> list[Evidence]:
        """The evidence of the thing itself, most surprising first, not of what lies around it."""
        evidence = sorted(self.evidence.values(), key=lambda each: -each.score)
        return [each for each in evidence if each.score >= BOX_SHARE * evidence[0].score]

    def drain_evidence(self) -> list[Evidence]:
        """The evidence since the last call."""
        evidence, self.evidence = self.evidence, {}
        return list(evidence.values())
