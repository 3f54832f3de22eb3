"""What the page's buttons do: asked for by the server, done by the thread that learns."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path

from edge_rjepa.errors import RJepaError
from edge_rjepa.learner.rjepa import RJepa
from edge_rjepa.run.run import Run
from edge_rjepa.views.dashboard.subject import Refused, refused

PACE_S = 10.0  # between two checkpoints that are asked for
JOG_RAD = math.radians(3.0)
JOGS = {"left": (-1, 0), "right": (1, 0), "up": (0, 1), "down": (0, -1)}


class Buttons:
    """A queue of presses; the learning thread calls `obey` between two frames to work it off.

    export: writes the frozen encoder of a learner to a file; runs in a thread of its own. notify:
    is called from that thread with how it ended.
    """

    def __init__(
        self, export: Callable[[RJepa, Path], None], notify: Callable[[str], None]
    ) -> None:
        self._export = export
        self._notify = notify
        self._presses: queue.Queue[tuple[str, Future]] = queue.Queue()
        self._exporting: threading.Thread | None = None
        self._actions: dict[str, Callable[[Run], str]] = {
            "pause": self._pause, "resume": self._resume, "checkpoint": self._checkpoint,
            "export": self._start_export, "home": self._home,
            **{f"jog {way}": partial(self._jog, way) for way in JOGS},
        }  # fmt: skip
        self._asked_s = -math.inf
        self.paused = False

    def press(self, name: str) -> Future:
        """Ask for what it does; the future has what was done, in words, or Refused."""
        if name not in self._actions:
            return refused(f"there is no button {name!r}")
        done: Future = Future()
        self._presses.put((name, done))
        return done

    def obey(self, run: Run) -> None:
        """Do what was asked for since the last call."""
        while not self._presses.empty():
            name, done = self._presses.get()
            if not done.set_running_or_notify_cancel():
                continue
            try:
                done.set_result(self._actions[name](run))
            # A button ends no run: not for want of a thread (RuntimeError) or of memory either.
            except (Refused, RJepaError, OSError, RuntimeError, MemoryError) as error:
                done.set_exception(Refused(" ".join(str(error).split()) or repr(error)))

    def close(self) -> None:
        """Wait for an export that is being written, and refuse what is still asked for."""
        if self._exporting is not None:
            self._exporting.join()
        while not self._presses.empty():
            done = self._presses.get()[1]
            if done.set_running_or_notify_cancel():  # else who pressed it waits no longer
                done.set_exception(Refused("the run has ended"))

    def _pause(self, run: Run) -> str:
        run.loop.paused = self.paused = True
        return "learning is paused"

    def _resume(self, run: Run) -> str:
        run.loop.paused = self.paused = False
        return "learning goes on"

    def _checkpoint(self, run: Run) -> str:
        """Not at every press: a save holds up learning, and puts an older state away."""
        waits_s = self._asked_s + PACE_S - time.monotonic()
        if waits_s > 0.0:
            raise Refused(f"it was asked for just now: press again in {math.ceil(waits_s)} s")
        self._asked_s = time.monotonic()
        if run.frames != run.frames_kept:  # else it would be one moment twice
            why_not = run.keep()
            if why_not:
                raise Refused(f"not kept: {why_not}")
        return f"kept at frame {run.frames_kept:,}"

    def _start_export(self, run: Run) -> str:
        if self._exporting is not None and self._exporting.is_alive():
            raise Refused("an export is being written")
        learner, path = run.learner.copy(), run.folder / "encoder.onnx"
        exporting = threading.Thread(target=self._write, args=(learner, path), name="export")
        exporting.start()
        self._exporting = exporting
        return f"writing {path}"

    def _write(self, learner: RJepa, path: Path) -> None:
        try:
            self._export(learner, path)
        except Exception as error:  # whatever it is, it is told to who pressed the button
            self._notify(f"export: {' '.join(str(error).split()) or repr(error)}")
        else:
            self._notify(f"exported: {path}")

    def _head(self, run: Run):
        head = run.loop.head
        if head is None or not hasattr(head, "hold"):
            raise Refused("this run has no head of its own")
        return head

    def _home(self, run: Run) -> str:
        self._head(run).home()
        return "the head goes home"

    def _jog(self, way: str, run: Run) -> str:
        head = self._head(run)
        state = head.state()
        if math.isnan(state.pan_rad):
            head.hold()
            return "the torque was off: the head holds now"
        pan, tilt = JOGS[way]
        head.move(state.pan_rad + pan * JOG_RAD, state.tilt_rad + tilt * JOG_RAD)
        return f"the head goes {way}"
