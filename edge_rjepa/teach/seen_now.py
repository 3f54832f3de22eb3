"""What a run that learns was taught, and which of it is seen now: for whoever watches it learn."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from edge_rjepa.encoder.opener import OpenedEncoder
from edge_rjepa.errors import RJepaError
from edge_rjepa.eye.retina import Retina
from edge_rjepa.learner.rjepa import RJepa
from edge_rjepa.teach.looks import Looks, path_beside
from edge_rjepa.teach.recogniser import Recogniser

LOOK_EVERY_S = 1.0
RENEW_EVERY_S = 120.0  # describe what was taught again, by what was learned since


class SeenNow:
    """Looks at the newest frame once a second, on a thread of its own.

    folder: of the run. learner: gives the one that learns. `observe` belongs to the thread that
    learns; calling it gives {"taught": [{"name", "looks"}, ..], "recognised": {"name", or None for
    unknown, "probability"}}, or {} as long as nothing was taught.
    """

    def __init__(self, folder: Path, learner: Callable[[], RJepa], retina: Retina) -> None:
        self._folder, self._learner, self._retina = folder, learner, retina
        self._path = path_beside(folder)
        self._image: np.ndarray | None = None
        self._encoder: OpenedEncoder | None = None  # a copy, which the learning leaves alone
        self._copied_s = -RENEW_EVERY_S
        self._known: tuple[OpenedEncoder, int, Recogniser] | None = None
        self._seen: dict = {}

    def observe(self, image: np.ndarray) -> None:
        """The newest frame (H, W, 3) uint8 BGR."""
        self._image = image
        if time.monotonic() - self._copied_s >= RENEW_EVERY_S and self._path.exists():
            self._copied_s = time.monotonic()
            learner = self._learner().to("cpu").copy()
            self._encoder = OpenedEncoder(self._folder, learner, self._retina, learner.config, None)

    def __call__(self) -> dict:
        return self._seen

    def look(self) -> None:
        """Recognise the newest frame by what is taught at this moment."""
        encoder, image = self._encoder, self._image
        if encoder is None or image is None:
            return
        try:
            changed_ns = self._path.stat().st_mtime_ns
            if self._known is None or self._known[:2] != (encoder, changed_ns):
                self._known = encoder, changed_ns, Recogniser.load(self._path, encoder)
            recogniser = self._known[2]
            answer = recogniser.recognise(image)
        except (OSError, RJepaError):  # it was just removed, or is of another encoder
            self._known, self._seen = None, {}
            return
        self._seen = _names_of(recogniser.looks)
        if recogniser.names():
            self._seen["recognised"] = answer._asdict()


class NamesKept:
    """What was taught to a run that nobody learns now: {"taught": ..} as SeenNow gives it."""

    def __init__(self, folder: Path) -> None:
        self._path, self._changed_ns = path_beside(folder), 0
        self._names: dict = {}

    def __call__(self) -> dict:
        try:
            changed_ns = self._path.stat().st_mtime_ns
            if changed_ns != self._changed_ns:
                self._names, self._changed_ns = _names_of(Looks.load(self._path)), changed_ns
        except OSError:  # it is not there, or damaged
            return {}
        return self._names


def _names_of(looks: Looks) -> dict:
    return {
        "taught": [{"name": name, "looks": len(each.rows)} for name, each in looks.names.items()]
    }


@contextmanager
def seen_now(folder: Path, learner: Callable[[], RJepa], retina: Retina) -> Iterator[SeenNow]:
    """A SeenNow that looks until the end of the `with`."""
    seen, ended = SeenNow(folder, learner, retina), threading.Event()

    def look_again() -> None:
        while not ended.wait(LOOK_EVERY_S):
            seen.look()

    thread = threading.Thread(target=look_again, name="recognise", daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()
