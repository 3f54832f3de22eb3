"""What is done with an alarm: a line and a cut-out are kept, and a command is run."""

from __future__ import annotations

import json
import math
import os
import queue
import secrets
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np

from edge_rjepa.base.journal import Journal, read
from edge_rjepa.errors import ConfigError
from edge_rjepa.watch.novelty import Alarm, Gone
from safe_files.errors import why
from safe_files.writing import make_private_folder, newest, write_atomic

LINES = "alarms.jsonl"
MAX_CUT_OUTS = 1000
JPEG_QUALITY, WHOLE_QUALITY = 92, 85  # of cut-outs, of whole pictures
WIDEST_PX = 1280  # of whole pictures
TIMEOUT_S = 10.0  # of a command
MAX_WAITING = 8  # alarms whose command has not begun
MAX_LEFT = 8  # commands that could not be killed and still run
KILL_S = 1.0  # for a program to be gone once it is killed
MARK = "EDGE_RJEPA_ALARM"  # in the environment of a command


class AlarmFolder:
    """Keeps alarms in a folder: lines in alarms.jsonl, and the newest MAX_CUT_OUTS cut-outs.

    Goes on counting where an earlier watch in the same folder ended. report: takes what went wrong
    or right, in words. A disk that is full is no reason not to tell of an alarm.
    """

    def __init__(self, folder: Path, report: Callable[[str], None]) -> None:
        self._folder, self._report = folder, report
        self._fails = False
        make_private_folder(folder)
        self._journal = Journal(folder / LINES)
        self.last_number = max(self._numbers(), default=0)

    def keep_picture(self, alarm: Alarm, jpeg: bytes) -> dict:
        """The alarm's line; its picture is None where the cut-out cannot be written."""
        self.last_number = alarm.number
        picture: Path | None = self._path(alarm.number)
        try:
            self._path(alarm.number - MAX_CUT_OUTS).unlink(missing_ok=True)
            write_atomic(self._path(alarm.number), jpeg)
        except OSError as error:
            self._report_failure(error)
            picture = None
        return alarm_line(alarm, picture)

    def keep_line(self, line: dict) -> None:
        """Write the line down, as far as the disk lets it."""
        try:
            self._journal.append(line)
        except OSError as error:
            self._report_failure(error)
        else:
            if self._fails and line.get("picture"):
                self._report(f"alarms are kept again in {self._folder}")
                self._fails = False

    def _report_failure(self, error: OSError) -> None:
        if not self._fails:
            self._report(
                f"alarms cannot be kept in {self._folder} ({why(error)}); watching goes on"
            )
        self._fails = True

    def _numbers(self) -> Iterator[int]:
        """Of the alarms that were kept, with a picture or without."""
        names = (path.stem.removeprefix("alarm-") for path in self._folder.glob("alarm-*.jpg"))
        yield from (int(name) for name in names if name.isdecimal())
        if newest(self._folder / LINES):
            numbers = (line.get("number") for line in read(self._folder / LINES))
            yield from (number for number in numbers if isinstance(number, int))

    def _path(self, number: int) -> Path:
        return self._folder / f"alarm-{number:06d}.jpg"


def now() -> str:
    """The time of day, as lines have it."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def cut_out(alarm: Alarm) -> bytes:
    """What is about the alarm in its picture, a JPEG."""
    x, y, width, height = alarm.box
    image = alarm.frame.image[y : y + height, x : x + width]
    _, jpeg = cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))
    return jpeg.tobytes()


def jpeg_of(image: np.ndarray) -> bytes:
    """A whole picture (H, W, 3) uint8 BGR: not larger than a phone shows."""
    shrink = min(1.0, WIDEST_PX / image.shape[1])
    if shrink < 1.0:
        image = cv2.resize(image, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    _, jpeg = cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, WHOLE_QUALITY))
    return jpeg.tobytes()


def gone_line(gone: Gone) -> dict:
    """The end of an alarm as plain JSON values."""
    return {
        "kind": "gone",
        "number": gone.number,
        "time": now(),
        "t_s": round(gone.t_s, 3),
        "after_s": round(gone.after_s, 1),
    }


def fine_line(number: int) -> dict:
    """What the owner said of an alarm as plain JSON values."""
    return {"kind": "fine", "number": number, "time": now()}


def alarm_line(alarm: Alarm, picture: Path | None) -> dict:
    """An alarm as plain JSON values."""
    azimuth_rad, elevation_rad = alarm.angles_rad
    return {
        "kind": "alarm",
        "number": alarm.number,
        "time": now(),
        "what": alarm.what,
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
        "picture": None if picture is None else str(picture),
    }


class Command:
    """Runs a command for alarms, one after another, while the watching goes on.

    text: the program and its arguments, as in a shell, but there is none. It gets the alarm's line
    as JSON on its standard input; what it prints goes to standard error. It is killed after
    timeout_s with all it started, but for what runs as another user. Of alarms that come faster,
    MAX_WAITING wait and the rest go without. report: takes what went wrong, in words. Raises
    ConfigError for a program that is not there.
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
        self._lines: queue.SimpleQueue[dict | None] = queue.SimpleQueue()
        self._left: list[subprocess.Popen] = []  # programs that could not be killed
        self._thread = threading.Thread(target=self._work, name="exec", daemon=True)
        self._thread.start()

    def tell(self, line: dict, _jpeg: bytes | None = None) -> None:
        """Have it run for a line of a watch, if it is an alarm's; returns at once."""
        if line["kind"] == "alarm":
            self.run(line)

    def run(self, line: dict) -> None:
        """Have it run for this line, which has a kind and a number; returns at once."""
        if self._lines.qsize() < MAX_WAITING:
            self._lines.put(line)
        else:
            self._report(f"{_called(line)}: {MAX_WAITING} commands wait, this one is not run")

    def close(self) -> None:
        """Return when the commands of all alarms have ended, or after their time."""
        self._lines.put(None)
        self._thread.join((MAX_WAITING + 1) * (self._timeout_s + 2.0 * KILL_S))

    def _work(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                problem = self._run(line)
            except Exception as error:  # whatever it is, the next alarm's command is run
                problem = f"cannot be run: {' '.join(str(error).split()) or repr(error)}"
            if problem:
                self._report(f"{_called(line)}: {self._arguments[0]} {problem}")

    def _run(self, line: dict) -> str | None:
        """What went wrong, in words."""
        self._left = [program for program in self._left if program.poll() is None]
        if len(self._left) >= MAX_LEFT:
            return f"is not run: {MAX_LEFT} earlier ones still run, and cannot be killed"
        mark = f"{line['number']}-{secrets.token_hex(8)}"
        try:
            program = subprocess.Popen(
                self._arguments,
                stdin=subprocess.PIPE,
                stdout=2,  # standard output is for lines of JSON
                env=os.environ | {MARK: mark},  # all that it starts has it, too
                start_new_session=True,  # not to be ended by Ctrl-C
            )
        except OSError as error:
            return f"cannot be run: {why(error)}"
        try:
            program.communicate(json.dumps(line).encode() + b"\n", timeout=self._timeout_s)
        except subprocess.TimeoutExpired:
            return f"took more than {self._timeout_s:.0f} s: {self._kill(program, mark)}"
        return f"ended with {program.returncode}" if program.returncode else None

    def _kill(self, program: subprocess.Popen, mark: str) -> str:
        """Kill it and all that it started; what became of it."""
        end_s = time.monotonic() + KILL_S
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(program.pid, signal.SIGKILL)
        while time.monotonic() < end_s and (others := _marked(mark)):
            for other in others:  # also those that left its session
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(other, signal.SIGKILL)
            time.sleep(0.01)
        try:
            program.wait(KILL_S)
        except subprocess.TimeoutExpired:
            self._left.append(program)
            return "it cannot be killed, and goes on; does it run as another user?"
        return "killed"


def _called(line: dict) -> str:
    return f"{line['kind']} {line['number']}"


def _marked(mark: str) -> list[int]:
    """The processes that are alive and have the mark in their environment, as far as we may see."""
    entry = f"{MARK}={mark}".encode()
    found = []
    for process in filter(str.isdecimal, os.listdir("/proc")):
        with suppress(OSError):  # it has ended, or is another user's
            if entry in Path("/proc", process, "environ").read_bytes().split(b"\0"):
                found.append(int(process))
    return found
