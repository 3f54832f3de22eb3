"""What is done with an alarm: a line and a cut-out are kept, and a command is run."""

from __future__ import annotations

import json
import math
import os
import queue
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import cv2

from edge_rjepa.base.journal import Journal
from edge_rjepa.errors import ConfigError
from edge_rjepa.watch.novelty import Alarm
from safe_files.writing import make_private_folder, write_atomic

LINES = "alarms.jsonl"
MAX_CUT_OUTS = 1000
JPEG_QUALITY = 92
TIMEOUT_S = 10.0  # of a command
MAX_WAITING = 8  # alarms whose command has not begun


class AlarmFolder:
    """Keeps alarms in a folder: lines in alarms.jsonl, and the newest MAX_CUT_OUTS cut-outs.

    Goes on counting where an earlier watch in the same folder ended.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        make_private_folder(folder)
        self._journal = Journal(folder / LINES)
        numbers = (path.stem.removeprefix("alarm-") for path in folder.glob("alarm-*.jpg"))
        self._number = max((int(n) for n in numbers if n.isdecimal()), default=0)

    def keep(self, alarm: Alarm) -> dict:
        """Write an alarm down; its line. Raises OSError when it cannot be written."""
        self._number += 1
        x, y, width, height = alarm.box
        cut_out = alarm.frame.image[y : y + height, x : x + width]
        picture = self._path(self._number)
        _, jpeg = cv2.imencode(".jpg", cut_out, (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))
        write_atomic(picture, jpeg.tobytes())
        self._path(self._number - MAX_CUT_OUTS).unlink(missing_ok=True)
        line = as_line(alarm, self._number, picture)
        self._journal.append(line)
        return line

    def _path(self, number: int) -> Path:
        return self._folder / f"alarm-{number:06d}.jpg"


def as_line(alarm: Alarm, number: int, picture: Path) -> dict:
    """An alarm as plain JSON values."""
    azimuth_rad, elevation_rad = alarm.angles_rad
    return {
        "kind": "alarm",
        "number": number,
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "t_s": round(alarm.t_s, 3),
        "frame": alarm.frame.sequence,
        "pixel": [round(value, 1) for value in alarm.pixel],
        "box": list(alarm.box),
        "azimuth_deg": round(math.degrees(azimuth_rad), 2),
        "elevation_deg": round(math.degrees(elevation_rad), 2),
        "surprise_nats": round(alarm.surprise, 2),
        "usual_nats": round(alarm.usual, 2),
        "score": round(alarm.score, 2),
        "expected_per_hour": float(f"{alarm.per_hour:.2g}"),
        "picture": str(picture),
    }


class Command:
    """Runs a command for alarms, one after another, while the watching goes on.

    text: the program and its arguments, as in a shell, but there is none. It gets the alarm's line
    as JSON on its standard input; what it prints goes to standard error. It is killed, with all it
    started, after timeout_s. Of alarms that come faster, MAX_WAITING wait and the rest go without.
    report: takes what went wrong, in words. Raises ConfigError for a program that is not there.
    """

    def __init__(
        self, text: str, report: Callable[[str], None], timeout_s: float = TIMEOUT_S
    ) -> None:
        try:
            self._arguments = shlex.split(text)
        except ValueError as error:
            raise ConfigError(f"--exec {text!r}: {error}") from error
        if not self._arguments or shutil.which(self._arguments[0]) is None:
            raise ConfigError(f"--exec {text!r}: no such program; name one, and its arguments")
        self._report, self._timeout_s = report, timeout_s
        self._lines: queue.Queue[dict | None] = queue.Queue(MAX_WAITING)
        self._thread = threading.Thread(target=self._work, name="exec", daemon=True)
        self._thread.start()

    def run(self, line: dict) -> None:
        """Have it run for this alarm; returns at once."""
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._report(
                f"alarm {line['number']}: {MAX_WAITING} commands wait, this one is not run"
            )

    def close(self) -> None:
        """Return when the commands of all alarms have ended, TIMEOUT_S for each at most."""
        self._lines.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (line := self._lines.get()) is not None:
            problem = self._run(line)
            if problem:
                self._report(f"alarm {line['number']}: {self._arguments[0]} {problem}")

    def _run(self, line: dict) -> str | None:
        """What went wrong, in words."""
        try:
            program = subprocess.Popen(
                self._arguments,
                stdin=subprocess.PIPE,
                stdout=2,  # standard output is for lines of JSON
                text=True,
                start_new_session=True,  # to be killed with all it started, and not by Ctrl-C
            )
        except OSError as error:
            return f"cannot be run: {error.strerror}"
        try:
            program.communicate(json.dumps(line) + "\n", timeout=self._timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(program.pid, signal.SIGKILL)
            program.wait()
            return f"took more than {self._timeout_s:.0f} s: killed"
        return f"ended with {program.returncode}" if program.returncode else None
