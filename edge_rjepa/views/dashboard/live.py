"""The newest state of a run that learns: the learning thread writes it, the server's reads it.

The learning thread only hands over references; whoever looks draws, encodes and maps them, at its
own pace.
"""

from __future__ import annotations

import base64
import math
import threading
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np

from edge_rjepa.eye.head import Head
from edge_rjepa.run.loop import FixationBatch
from edge_rjepa.run.run import Progress
from edge_rjepa.views import overlay

Encoder = Callable[[np.ndarray], np.ndarray]  # features (.., f) to embeddings (.., n_z)

CELL_RAD = math.radians(3.0)  # of the map of surprise
COLUMNS, ROWS = 120, 60  # of it: all around, and from straight down to straight up
FADING = 0.05  # how much a new fixation of a place counts against those before
EVENTS = 50
PATCH_PX = 64  # cut out around a fixation ..
THUMB_PX = 40  # .. and made so small
REMEMBERED = 1200  # patches
FEW, NEAREST = 12, 6  # patches before a map is drawn; neighbours shown
JUST_NOW = 30  # patches too recent to be neighbours: of course they are alike
THUMBS_IN_MAP = 36
JPEG = [cv2.IMWRITE_JPEG_QUALITY, 70]


class RememberedPatch(NamedTuple):
    """The patch of one fixation."""

    z: np.ndarray  # (n_z,) float32, its embedding
    thumb: bytes  # JPEG


class LiveState:
    """The newest of everything. Who learns calls `observe`, `on_progress` and `on_event`.

    snapshot: `RJepa.patch_encoder` of the learner; only the learning thread calls it.
    """

    def __init__(self, snapshot: Callable[[], Encoder]) -> None:
        self._snapshot = snapshot
        self._lock = threading.Lock()  # guards what several threads change in more than one step
        self.batch: FixationBatch | None = None
        self.batches = 0  # so far
        self._encoder: Encoder | None = None
        self._surprise = np.full((ROWS, COLUMNS), np.nan, np.float32)
        self._progress: Progress | None = None
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
            rows, columns = cells_of(batch.gaze_rad)
            old = self._surprise[rows, columns]
            part = np.where(np.isnan(old), 1.0, FADING)
            self._surprise[rows, columns] = (
                np.nan_to_num(old) * (1.0 - part) + part * batch.surprise
            )

    def on_progress(self, progress: Progress) -> None:
        """The newest measures; also the moment to take the encoder as it is now."""
        self._progress = progress
        self._encoder = self._snapshot()

    def on_event(self, text: str) -> None:
        """Something happened."""
        with self._lock:
            self._event_count += 1
            self._events.append((self._event_count, text))

    # -- the server -------------------------------------------------------------------------------

    def picture(self) -> bytes | None:
        """The newest frame with its fixations, as JPEG."""
        batch = self.batch
        if batch is None:
            return None
        drawn = overlay.draw(batch.frame.image, batch.pixels, batch.surprise)
        return cv2.imencode(".jpg", drawn, JPEG)[1].tobytes()

    def measures(self) -> dict | None:
        """The newest line of metrics."""
        progress = self._progress
        if progress is None:
            return None
        line = progress._asdict() | progress.health._asdict()
        del line["health"]
        return finite(line)

    def newest(self) -> tuple[int | None, int]:
        """At which frame measures were last, and the number of the last event."""
        return self._progress and self._progress.frames, self._event_count

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
        low, high = np.nanpercentile(part, [5.0, 95.0])
        shade = (part - low) / max(high - low, 1e-9)
        alpha = np.where(np.isnan(part), 0, 255)
        image = np.dstack([overlay.colours(shade), alpha])[::-1]  # up is up
        png = cv2.imencode(".png", image.round().astype(np.uint8))[1].tobytes()
        return {
            "image": data_url(png, "png"),
            "azimuth_deg": _edges(columns, COLUMNS, 360.0),
            "elevation_deg": _edges(rows, ROWS, 180.0),
            "nats": [float(low), float(high)],
        }

    def remember(self) -> None:
        """Keep the most surprising patch of the newest frame, to compare later ones with."""
        batch, encoder = self.batch, self._encoder
        if batch is None or encoder is None or not len(batch.surprise):
            return
        k = int(np.argmax(batch.surprise))
        z = encoder(batch.features[k]).astype(np.float32)
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


def crop_thumb(image: np.ndarray, pixel: np.ndarray) -> np.ndarray:
    """The patch about a pixel (x, y), THUMB_PX to a side."""
    corner = np.round(np.asarray(pixel) - PATCH_PX / 2).astype(int)
    height, width = image.shape[:2]
    left, top = np.clip(corner, 0, np.maximum([width - PATCH_PX, height - PATCH_PX], 0)).tolist()
    patch = image[top : top + PATCH_PX, left : left + PATCH_PX]
    return cv2.resize(patch, (THUMB_PX, THUMB_PX), interpolation=cv2.INTER_AREA)


def data_url(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def finite(values: dict) -> dict:
    """The same, null where a number is not finite, in counts by name too: JSON knows no other."""

    def known(value):
        if isinstance(value, dict):
            return finite(value)
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return {name: known(value) for name, value in values.items()}
