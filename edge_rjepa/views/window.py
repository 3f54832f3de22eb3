"""The frames it learns from, with their fixations, in a window."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

import cv2

from edge_rjepa.errors import ConfigError
from edge_rjepa.run.loop import FixationBatch
from edge_rjepa.views import overlay

TITLE = "edge_rjepa"
PICTURES_A_SECOND = 15.0
# Where there is no display, or one that cannot be reached, some builds of OpenCV end the process.
TRIAL = f"import cv2; cv2.namedWindow({TITLE!r}); cv2.waitKey(1); cv2.destroyAllWindows()"
TRIAL_S = 20.0


class Window:
    """A Loop's observer that shows frames with their fixations; a context manager.

    q or its button closes it; learning goes on then, and `notify` is called once. Call it from the
    main thread only. Raises ConfigError where no window can be opened.
    """

    def __init__(self, notify: Callable[[str], None] = lambda event: None) -> None:
        _check_display()
        self._notify = notify
        self._open, self._due_s = True, 0.0
        cv2.namedWindow(TITLE, cv2.WINDOW_NORMAL)

    def show(self, batch: FixationBatch) -> None:
        """Show the frame, if it is time for one."""
        now_s = time.monotonic()
        if not self._open or now_s < self._due_s:
            return
        self._due_s = now_s + 1.0 / PICTURES_A_SECOND
        cv2.imshow(TITLE, overlay.draw(batch.frame.image, batch.pixels, batch.surprise))
        if cv2.waitKey(1) & 0xFF == ord("q") or not _is_there():
            self.close()
            self._notify("the window is closed, learning goes on; Ctrl-C ends it")

    def close(self) -> None:
        """Close the window, if it is open."""
        if self._open:
            self._open = False
            cv2.destroyAllWindows()
            cv2.waitKey(1)  # else it stays until the next event

    def __enter__(self) -> Window:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _is_there() -> bool:
    try:
        return cv2.getWindowProperty(TITLE, cv2.WND_PROP_VISIBLE) >= 1.0
    except cv2.error:  # of Qt, once its last window was closed
        return False


def _check_display() -> None:
    command = [sys.executable, "-c", TRIAL]
    try:
        tried = subprocess.run(command, capture_output=True, timeout=TRIAL_S).returncode == 0
    except subprocess.TimeoutExpired:
        tried = False
    if not tried:
        raise ConfigError(
            "--show: no window can be opened here (no display, or an OpenCV without windows): "
            "use --dashboard, and look with a browser"
        )
