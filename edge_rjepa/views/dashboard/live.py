"""The newest state of a run that learns: the learning thread writes it, the server's reads it.

The learning thread only hands over references; whoever looks draws, encodes and maps them, at its
own pace.
"""

from __future__ import annotations

import base64
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np

from edge_rjepa.eye.head import Head
from edge_rjepa.optics.camera import Camera
from edge_rjepa.run.loop import FixationBatch
from edge_rjepa.run.run import Progress
from edge_rjepa.views import overlay
from edge_rjepa.views.dashboard.subject import Picture
from safe_files.plain import finite

Encoder = Callable[[np.ndarray], np.ndarray]  # features (.., f) to embeddings (.., n_z)

CELL_RAD = math.radians(3.0)  # of the map of surprise
COLUMNS, ROWS = 120, 60  # of it: all around, and from straight down to straight up
FADING = 0.05  # how much a new fixation of a place counts against those before
LATELY = 20  # batches that say which surprise would hide all others ..
FAR = 3.0  # .. as it is so many times as far off as those spread
MOST_NATS = 1e9
EVENTS = 50
PATCH_PX = 64  # cut out around a fixation ..
THUMB_PX = 56  # .. and made so small
REMEMBERED = 1200  # patches
FEW, NEAREST = 12, 6  # patches before a map is drawn; neighbours shown
JUST_NOW = 30  # patches too recent to be neighbours: of course they are alike
THUMBS_IN_MAP = 36
MEASURES = 1200  # lines, before every other one is forgotten
FIELD = 32, 24  # columns and rows of the surprise that is laid over the picture
LEVELS = 255  # of it; 0 is not known
SCALES_S = 0.5  # between two times that the scales are made anew
SMOOTH_CELLS = 1.5  # standard deviation
RECENT = 200  # frames whose surprise makes the scale of colours
WIDEST_PX = 1280  # of a picture that is sent
JPEG = [cv2.IMWRITE_JPEG_QUALITY, 70]


class RememberedPatch(NamedTuple):
    """The patch of one fixation."""

    z: np.ndarray  # (n_z,) float32, its embedding
    thumb: bytes  # JPEG


class Scales(NamedTuple):
    """What the colours over the picture mean."""

    recent: list[float] | None  # nats, of the last fixations
    usual: np.ndarray  # (ROWS, COLUMNS) nats, smooth
    field: list[float] | None  # nats, of the usual surprise


class LiveState:
    """The newest of everything. Who learns calls `observe`, `on_progress` and `on_event`.

    snapshot: `RJepa.patch_encoder` of the learner; only the learning thread calls it. camera: of
    the frames; without it, the usual surprise is not laid over the picture.
    """

    def __init__(
        self, snapshot: Callable[[], Encoder], camera: Callable[[], Camera] | None = None
    ) -> None:
        self._snapshot, self._camera = snapshot, camera
        self._lock = threading.Lock()  # guards what several threads change in more than one step
        self.batch: FixationBatch | None = None
        self.batches = 0  # so far
        self._encoder: Encoder | None = None
        self._surprise = np.full((ROWS, COLUMNS), np.nan, np.float32)
        self._recent: deque[np.ndarray] = deque(maxlen=RECENT)  # surprise of the last batches
        self._held = Scales(None, self._surprise, None)
        self._scaled_s = -math.inf
        self.progress: Progress | None = None
        self.measured: list[dict] = []  # lines of metrics since this process began, thinned out
        self._events: deque[tuple[int, str]] = deque(maxlen=EVENTS)
        self._event_count = 0
        self._patches: deque[RememberedPatch] = deque(maxlen=REMEMBERED)
        self._axes: np.ndarray | None = None  # (n_z, 2) of the map before

    # -- the learning thread ----------------------------------------------------------------------

    def observe(self, batch: FixationBatch) -> None:
        """The newest frame with its fixations."""
        if self._encoder is None:
            self._encoder = self._snapshot()
        self.batch = batch
        self.batches += 1
        if len(batch.surprise):
            known = np.isfinite(batch.surprise)  # not where learning has just diverged
            surprise = batch.surprise[known]
            self._recent.append(surprise)
            rows, columns = cells_of(batch.gaze_rad[known])
            old = self._surprise[rows, columns]
            part = np.where(np.isnan(old), 1.0, FADING)
            fence = fence_of(np.concatenate([*self._recent][-LATELY:]))
            old, new = np.clip(np.nan_to_num(old), *fence), np.clip(surprise, *fence)
            self._surprise[rows, columns] = (1.0 - part) * old + part * new

    def on_progress(self, progress: Progress) -> None:
        """The newest measures; also the moment to take the encoder as it is now."""
        self.progress = progress
        self._encoder = self._snapshot()
        self.measured = [*self.measured, progress.as_line()]
        if len(self.measured) > MEASURES:
            self.measured = thinned(self.measured, MEASURES // 2)

    def on_event(self, text: str) -> None:
        """Something happened."""
        with self._lock:
            self._event_count += 1
            self._events.append((self._event_count, text))

    # -- the server -------------------------------------------------------------------------------

    def picture(self) -> Picture | None:
        """The newest frame, and its fixations and the usual surprise to be laid over it."""
        batch = self.batch
        if batch is None:
            return None
        image = batch.frame.image
        over = {
            "fixations": fixations_over(image, batch.pixels, batch.surprise),
            "field": self._field(batch),
            "scale": self._scales().recent,
        }
        return Picture(over, jpeg_of(image))

    def _scales(self) -> Scales:
        """Now and then anew: they change slowly, and pictures come ten times a second."""
        if time.monotonic() - self._scaled_s > SCALES_S:
            self._scaled_s = time.monotonic()
            usual = smoothed(self._surprise)
            recent = np.concatenate([*self._recent, np.empty(0)])
            self._held = Scales(scale_of(recent), usual, scale_of(usual))
        return self._held

    def _field(self, batch: FixationBatch) -> dict | None:
        """How surprising it usually is in each part of the picture, as steps from low to high."""
        _, usual, scale = self._scales()
        if self._camera is None or scale is None:
            return None
        height, width = batch.frame.image.shape[:2]
        columns, rows = FIELD
        x, y = np.meshgrid(
            (np.arange(columns) + 0.5) * width / columns, (np.arange(rows) + 0.5) * height / rows
        )
        gaze_rad = self._camera().angles_of_pixels(np.dstack([x, y]) - 0.5, batch.frame.head_rad)
        gaze_rad = gaze_rad.reshape(-1, 2)
        seen = np.isfinite(gaze_rad).all(axis=1)  # by the lens
        share = np.full(len(gaze_rad), np.nan)
        share[seen] = (usual[cells_of(gaze_rad[seen])] - scale[0]) / (scale[1] - scale[0])
        levels = np.where(np.isnan(share), 0.0, 1.0 + np.clip(share, 0.0, 1.0) * (LEVELS - 1))
        packed = base64.b64encode(np.nan_to_num(levels).astype(np.uint8).tobytes()).decode()
        return {"columns": columns, "rows": rows, "levels": packed}

    def measures(self) -> dict | None:
        """The newest line of metrics."""
        progress = self.progress
        if progress is None:
            return None
        return finite(progress.as_line())

    def newest(self) -> tuple[int | None, int]:
        """At which frame measures were last, and the number of the last event."""
        return self.progress and self.progress.frames, self._event_count

    def events(self, after: int) -> list[tuple[int, str]]:
        """Events with a higher number than that, oldest first."""
        with self._lock:
            return [event for event in self._events if event[0] > after]

    def surprise_map(self) -> dict | None:
        """Surprise by head angles, as an image of one pixel a cell about what was looked at."""
        surprise = self._surprise
        known = np.isfinite(surprise)
        if not known.any():
            return None
        rows, columns = np.flatnonzero(known.any(axis=1)), np.flatnonzero(known.any(axis=0))
        part = surprise[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        low, high = scale_of(part) or [0.0, 1.0]
        shade = (part - low) / (high - low)
        alpha = np.where(np.isnan(part), 0, 255)
        image = np.dstack([overlay.colours(shade), alpha])[::-1]  # up is up
        png = cv2.imencode(".png", image.round().astype(np.uint8))[1].tobytes()
        return {
            "image": data_url(png, "png"),
            "azimuth_deg": _edges(columns, COLUMNS, 360.0),
            "elevation_deg": _edges(rows, ROWS, 180.0),
            "nats": [low, high],
        }

    def remember(self) -> None:
        """Keep the most surprising patch of the newest frame, to compare later ones with."""
        batch, encoder = self.batch, self._encoder
        if batch is None or encoder is None or not len(batch.surprise):
            return
        k = int(np.argmax(batch.surprise))
        z = encoder(batch.features[k]).astype(np.float32)
        if not np.isfinite(z).all():  # learning has just diverged: nothing is like it
            return
        thumb = cv2.imencode(".jpg", crop_thumb(batch.frame.image, batch.pixels[k]), JPEG)[1]
        self._patches.append(RememberedPatch(z, thumb.tobytes()))

    def neighbours(self) -> dict | None:
        """The newest patch, and those long ago whose embeddings are most like it."""
        patches = list(self._patches)
        if len(patches) < JUST_NOW + FEW:
            return None
        now, past = patches[-1], patches[:-JUST_NOW]
        z = np.array([patch.z for patch in past])
        alike = z @ now.z / np.maximum(np.linalg.norm(z, axis=1) * np.linalg.norm(now.z), 1e-9)
        best = np.argsort(-alike)[:NEAREST]
        return {
            "now": data_url(now.thumb, "jpeg"),
            "past": [
                {"image": data_url(past[i].thumb, "jpeg"), "alike": float(alike[i])} for i in best
            ],
        }

    def embedding_map(self) -> dict | None:
        """The patches remembered, along the two directions in which they differ most."""
        patches = list(self._patches)
        if len(patches) < FEW:
            return None
        z = np.array([patch.z for patch in patches], dtype=np.float64)
        z -= z.mean(axis=0)
        axes = np.linalg.svd(z, full_matrices=False)[2][:2].T
        if self._axes is not None:  # turned as the map before was, so that points stay in place
            left, _, right = np.linalg.svd(axes.T @ self._axes)
            axes = axes @ left @ right
        self._axes = axes
        points = z @ axes
        points /= max(float(np.abs(points).max()), 1e-9)
        some = np.linspace(0, len(patches) - 1, min(THUMBS_IN_MAP, len(patches))).astype(int)
        return {
            "points": points.round(3).tolist(),
            "thumbs": [
                {"at": points[i].round(3).tolist(), "image": data_url(patches[i].thumb, "jpeg")}
                for i in some
            ],
        }


def device_state(source, head: Head | None) -> dict:
    """The source's faults, and where the head is and how, as plain JSON values."""
    found = {"faults": dict(getattr(source, "faults", {})), "live": bool(source.live), "head": None}
    if head is not None and hasattr(head, "state") and hasattr(head, "hold"):
        state = head.state()
        found["head"] = finite({
            "name": state.name, "connected": state.connected, "moving": state.moving,
            "torque_off": state.torque_off, "pan_deg": math.degrees(state.pan_rad),
            "tilt_deg": math.degrees(state.tilt_rad), "faults": dict(state.faults),
        })  # fmt: skip
    return found


def cells_of(gaze_rad: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns (K,) of the map of surprise for gaze (K, 2)."""
    columns = ((gaze_rad[:, 0] + math.pi) / CELL_RAD).astype(int) % COLUMNS
    rows = np.clip(((gaze_rad[:, 1] + 0.5 * math.pi) / CELL_RAD).astype(int), 0, ROWS - 1)
    return rows, columns


def _edges(cells: np.ndarray, count: int, degrees: float) -> list[float]:
    return [degrees * (edge / count - 0.5) for edge in (int(cells[0]), int(cells[-1]) + 1)]


def smoothed(surprise: np.ndarray) -> np.ndarray:
    """The map of surprise, each cell a mean of those about it; NaN where there is none near."""
    known = np.isfinite(surprise)
    weights, sums = (
        cv2.GaussianBlur(each.astype(np.float32), (0, 0), SMOOTH_CELLS)
        for each in (known, np.where(known, surprise, 0.0))
    )
    return np.where(weights > 0.1, sums / np.maximum(weights, 0.1), np.nan)


def thinned(measures: list[dict], most: int) -> list[dict]:
    """So many lines, evenly from first to last; and the few that were judged on held-out views."""
    if len(measures) <= most:
        return measures
    some = set(np.linspace(0, len(measures) - 1, most).astype(int).tolist())
    return [each for i, each in enumerate(measures) if i in some or "held_out_information" in each]


def scale_of(surprise: np.ndarray) -> list[float] | None:
    """The surprise in nats at which the colours begin and end; None where none is known."""
    known = surprise[np.isfinite(surprise)]
    if not known.size:
        return None
    low, high = np.percentile(known, [5.0, 95.0]).tolist()
    return [low, max(high, low + 1e-3)]


def fence_of(surprise: np.ndarray) -> tuple[float, float]:
    """Between which nats one more may lie, not to hide these (n,): they are finite."""
    if not surprise.size:
        return -MOST_NATS, MOST_NATS
    ranked = np.sort(surprise)
    few = min(max(1, len(ranked) // 20), (len(ranked) - 1) // 2)
    ends = float(ranked[few]), float(ranked[-1 - few])
    low, high = (min(max(end, -MOST_NATS), MOST_NATS) for end in ends)
    return low - FAR * (high - low), high + FAR * (high - low)


def fixations_over(image: np.ndarray, pixels: np.ndarray, surprise: np.ndarray) -> list[list]:
    """Fixations (K, 2) in order as shares of the picture's width and height, and their nats."""
    height, width = image.shape[:2]
    shares = (np.asarray(pixels) + 0.5) / (width, height)
    return [
        [round(x, 4), round(y, 4), round(nats, 3) if math.isfinite(nats) else None]
        for (x, y), nats in zip(shares.tolist(), np.asarray(surprise).tolist(), strict=True)
    ]


def jpeg_of(image: np.ndarray) -> bytes:
    """The picture, made no wider than a screen is."""
    height, width = image.shape[:2]
    if width > WIDEST_PX:
        size = WIDEST_PX, max(1, round(height * WIDEST_PX / width))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", image, JPEG)[1].tobytes()


def crop_thumb(image: np.ndarray, pixel: np.ndarray) -> np.ndarray:
    """The patch about a pixel (x, y), THUMB_PX to a side."""
    corner = np.round(np.asarray(pixel) - PATCH_PX / 2).astype(int)
    height, width = image.shape[:2]
    left, top = np.clip(corner, 0, np.maximum([width - PATCH_PX, height - PATCH_PX], 0)).tolist()
    patch = image[top : top + PATCH_PX, left : left + PATCH_PX]
    return cv2.resize(patch, (THUMB_PX, THUMB_PX), interpolation=cv2.INTER_AREA)


def data_url(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
