"""The process beside a robot that speaks to the fleet's server. It may hang or die at any time.

The learning process never waits for it: it looks between two steps whether there is anything to
read. It is started again with growing pauses.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from edge_rjepa.errors import InputError
from edge_rjepa.fleet.wire import Frame, Wire

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
SILENT_S = 120.0  # without a sign of life it hangs: its own calls wait for 30 s at most
LEAVE_S = 3.0  # to take leave of the server


class Settings(NamedTuple):
    """How a robot reaches its fleet."""

    address: str  # HOST:PORT
    certificate: str = ""  # file of the certificate that the server's must be signed by
    key: str = ""  # file of the robot's private key


class Child:
    """The process, and the wire to it. on_event: is told what befell it, in one line."""

    def __init__(self, settings: Settings, on_event: Callable[[str], None]) -> None:
        self._settings = settings
        self._on_event = on_event
        self._process: subprocess.Popen[bytes] | None = None
        self._wire: Wire | None = None
        self._heard_s = 0.0  # when it last gave a sign of life
        self._start_s = 0.0  # when it may be started
        self._pause_s = FIRST_PAUSE_S

    @property
    def pid(self) -> int | None:
        """Of the process, while there is one."""
        return self._process.pid if self._process else None

    def send(self, what: str, facts: Any = None, arrays: Any = ()) -> None:
        """Send it a frame, if it is there."""
        if self._wire is not None:
            self._wire.send(what, facts, arrays)

    def tend(self) -> list[Frame]:
        """What it said since the last call; starts it where it is not there."""
        now = time.monotonic()
        if self._wire is None:
            if now >= self._start_s:
                self._start(now)
            return []
        try:
            frames = self._wire.pump()
        except (EOFError, InputError):
            self._lost(now, "ended")
            return []
        if frames:
            self._heard_s = now
        elif now - self._heard_s > SILENT_S:
            self._lost(now, "hangs")
        if any(frame.what == "connected" for frame in frames):
            self._pause_s = FIRST_PAUSE_S
        return frames

    def close(self) -> None:
        """End it; waits for LEAVE_S at most."""
        if self._wire is not None:
            self._wire.close()
            self._wire = None
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(LEAVE_S)
            self._process.kill()
            self._process.wait()
            self._process = None

    def _start(self, now: float) -> None:
        ours, theirs = socket.socketpair()
        root = Path(__file__).parents[2]
        paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "edge_rjepa.fleet.node", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
                start_new_session=True,  # Ctrl-C is for the learning process, which ends this one
            )
        except OSError as error:
            ours.close()
            self._later(now, f"cannot be started ({error.strerror})")
            return
        finally:
            theirs.close()
        self._wire, self._heard_s = Wire(ours), now
        self._wire.send("settings", self._settings)

    def _lost(self, now: float, how: str) -> None:
        assert self._wire is not None and self._process is not None
        self._wire.close()
        self._wire = None
        self._process.kill()
        code = self._process.wait()  # at once, after SIGKILL
        self._process = None
        self._later(now, f"{how} (exit code {code})")

    def _later(self, now: float, what: str) -> None:
        self._on_event(
            f"fleet: the process that speaks to {self._settings.address} {what}; learning goes on, "
            f"it is started again in {self._pause_s:.0f} s"
        )
        self._start_s = now + self._pause_s
        self._pause_s = min(2.0 * self._pause_s, LONGEST_PAUSE_S)
