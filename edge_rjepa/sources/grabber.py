"""The newest picture of a live camera, kept by threads that notice its faults and reopen it.

A camera hands out its pictures in order, so whoever reads slowly sees the past. Here one thread
reads all the time and keeps only the newest picture; another watches it:

    reader      opens the camera and grabs pictures until one of them, or none, is a fault
    supervisor  starts a reader, notices its fault, waits a little, starts the next: for ever

A reader that hangs inside a driver cannot be stopped. It is abandoned: nothing it hands in counts
any more, and it releases the camera when the driver lets it go.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

from edge_rjepa.base.threads import DriverThread
from edge_rjepa.errors import SourceError
from edge_rjepa.sources.images import as_bgr, crop_resize, same

OPEN_S = 10.0  # from opening to the first picture, unless told otherwise
STALL_S = 1.6  # without a picture: noticed within 2 s, whatever the scheduler adds
MOST_DOUBLED = 3  # how often that time is doubled for a camera that gives one picture only
SLOW_FRAMES = 3.0  # so many of its own intervals without a picture are no stall either
SILENT_S = 1.0  # a read that failed after so long was no sudden death but a stall
FROZEN_S = 1.6  # of one and the same picture ..
FROZEN_FRAMES = 5  # .. that came so many times at least
PATIENCE_MAX_S = 600.0  # with a picture that stays the same through reopening
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 5.0  # before opening again; doubled each time
STEADY_S = 1.0  # of pictures: then the next pause is short again
MOST_ABANDONED = 3  # threads that hang in a driver: no further one joins them
CLOSE_S = 0.4  # for a reader to come back when all is closed
FAULTS = ("stalled", "died", "frozen", "resized")


class Capture(Protocol):
    """An open camera; used by one thread only."""

    where: str  # what was opened, in words

    def grab(self) -> bool:
        """Wait for the next picture; False when it does not come."""

    def retrieve(self) -> np.ndarray | None:
        """Decode what was grabbed; None where it cannot be."""

    def captured_s(self, grabbed_s: float) -> float:
        """When what was grabbed at `grabbed_s` was captured, both on time.monotonic()."""

    def release(self) -> None:
        """Let go of the camera."""


class Picture(NamedTuple):
    """One picture of a camera."""

    image: np.ndarray  # (H, W, 3) uint8 BGR
    t_capture_s: float  # time.monotonic()
    sequence: int  # 0, 1, 2 .. as captured, through all reopening


class Fault(NamedTuple):
    """Why a reader ended."""

    kind: str  # one of FAULTS
    words: str


class Grabber:
    """Keeps the newest picture of the camera that `open_capture` opens, until close().

    name: of the camera, for messages. open_capture: opens it or raises SourceError; called from
    threads of the grabber, again after every fault. slowest_s: the longest time between two
    pictures when all is well, for cameras that take few a second. first_s: from opening to the
    first picture; more counts as a stall.

    The first picture decides the size: if later ones differ, their middle is cut to its shape and
    scaled. `faults` counts what went wrong, by FAULTS, and how often the camera was "reopened".
    Raises SourceError when there is no first picture.
    """

    def __init__(
        self,
        name: str,
        open_capture: Callable[[], Capture],
        slowest_s: float = 0.0,
        first_s: float | None = None,
    ) -> None:
        self.faults = dict.fromkeys((*FAULTS, "reopened"), 0)
        self._name = name
        self._open_capture = open_capture
        self._stall_s = max(STALL_S, slowest_s)
        self._first_s = OPEN_S if first_s is None else first_s
        self._changed = threading.Condition()  # guards all that follows
        self._closed = False
        self._newest: Picture | None = None
        self._captured = 0
        self._size: tuple[int, int] | None = None  # (width, height) of what is handed out
        self._given: tuple[int, int] | None = None  # .. of what the camera gives
        self._where = ""
        self._stillness = Stillness()
        self._single = 0  # how often on end it stalled after a single picture
        self._attempts = 0  # to open it since it failed; 0 when all is well
        self._lost_s = 0.0  # when it failed
        self._events: deque[str] = deque(maxlen=100)
        self._hanging: list[_Reader] = []
        self._reader = self._new_reader()
        self._supervisor = threading.Thread(target=self._supervise, name=f"{name}: supervisor")
        self._supervisor.daemon = True
        self._wait_for_the_first()
        try:
            self._supervisor.start()
        except RuntimeError as error:
            self.close()
            raise SourceError(_no_thread(error)) from error

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._closed

    def newest(self) -> Picture:
        """The newest picture, however old it is."""
        assert self._newest is not None  # else there would be no grabber
        return self._newest

    def newer_than(self, sequence: int, timeout_s: float) -> Picture | None:
        """The newest picture as soon as it is newer than that; None if none is in time."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed or self.newest().sequence > sequence, timeout_s
            )
            newest = self.newest()
            return newest if newest.sequence > sequence else None

    def drain_events(self) -> list[str]:
        """What went wrong or right since the last call, in words, oldest first."""
        with self._changed:
            events = list(self._events)
            self._events.clear()
        return events

    def close(self) -> None:
        """Let go of the camera, within half a second; whoever waits for a picture is woken.

        A reader that hangs in a driver is left to release the camera when it comes back.
        """
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in (self._supervisor, self._reader):
            if thread.ident is not None:  # it was started
                thread.join(CLOSE_S)

    def _wait_for_the_first(self) -> None:
        try:
            with self._changed:
                self._begin_reading()
                self._wait_for_fault(until_seen=True)
        finally:
            if self._newest is None:
                self.close()
        if self._newest is None:
            fault = self._reader.fault
            raise SourceError(fault.words if fault else "closed before the first picture")

    # What the supervisor does: it holds the lock but where it waits.

    def _supervise(self) -> None:
        pause_s = FIRST_PAUSE_S
        with self._changed:
            while not self._closed:
                self._wait_for_fault()
                if self._closed:
                    return
                self._note_fault()
                if self._reader.steady:
                    pause_s = FIRST_PAUSE_S
                self._changed.wait_for(lambda: self._closed, pause_s)
                pause_s = min(2.0 * pause_s, LONGEST_PAUSE_S)
                self._wait_for_the_hanging()
                if not self._closed:
                    self._stillness.restart()
                    self._reader = self._new_reader()
                    self._begin_reading()

    def _wait_for_the_hanging(self) -> None:
        """Until there are not too many readers that hang in a driver."""
        self._hanging.append(self._reader)
        while not self._closed:
            self._hanging = [reader for reader in self._hanging if reader.is_alive()]
            if len(self._hanging) < MOST_ABANDONED:
                return
            self._changed.wait(LONGEST_PAUSE_S)

    def _wait_for_fault(self, until_seen: bool = False) -> None:
        """Until the reader has a fault, all is closed or, if so wanted, a picture is there."""
        reader = self._reader
        while not (self._closed or reader.fault or (until_seen and reader.seen_s)):
            limit_s = self._patience_s(reader)
            silent_s = time.monotonic() - (reader.seen_s or reader.started_s)
            if silent_s >= limit_s:
                reader.fault = reader.silence(silent_s)
            else:
                self._changed.wait(limit_s - silent_s)

    def _patience_s(self, reader: _Reader) -> float:
        """How long it may give no picture."""
        if not reader.seen_s:
            return self._first_s
        return max(self._stall_s * 2.0**self._single, SLOW_FRAMES * reader.interval_s)

    def _begin_reading(self) -> None:
        """Start the reader; that there is no thread for it is a fault as others are."""
        try:
            self._reader.start()
        except RuntimeError as error:
            self._reader.fault = Fault("died", _no_thread(error))

    def _new_reader(self) -> _Reader:
        return _Reader(self, self._name, self._open_capture)

    def _note_fault(self) -> None:
        self._attempts += 1
        fault, seen_s = self._reader.fault, self._reader.seen_s
        if fault and seen_s:  # else it was only one more attempt to open it
            self._lost_s = seen_s
            self.faults[fault.kind] += 1
            self._report(f"{fault.words}; reopening")
            # One picture each time it is opened: it may only be slow.
            single = fault.kind == "stalled" and self._reader.first_s == seen_s
            self._single = min(self._single + 1, MOST_DOUBLED) if single else 0

    # What its reader does.

    def take(self, reader: _Reader, image: np.ndarray, t_capture_s: float, where: str) -> None:
        """Hand in a picture (H, W, 3) uint8 of the camera at `where`, unless it is a fault."""
        with self._changed:
            if self.is_over(reader):
                return
            now_s, size = time.monotonic(), (image.shape[1], image.shape[0])
            resized, self._given = self._given not in (None, size), size
            words = f"pictures are {size[0]}x{size[1]} px now"
            if resized and reader.seen_s:
                self.give_up(reader, Fault("resized", words))
                return
            if self._stillness.lasts(image, now_s):
                self.give_up(reader, Fault("frozen", "the same picture over and over"))
                return
            if resized:
                self.faults["resized"] += 1
                wanted = self._size or size
                fitted = "" if size == wanted else f"; cut and scaled to {wanted[0]}x{wanted[1]}"
                self._report(words + fitted)
            self._publish(image, t_capture_s, where)
            reader.saw(now_s)
            self._changed.notify_all()

    def _publish(self, image: np.ndarray, t_capture_s: float, where: str) -> None:
        self._size = self._size or (image.shape[1], image.shape[0])
        self._newest = Picture(crop_resize(image, self._size), t_capture_s, self._captured)
        self._captured += 1
        if self._attempts:
            self.faults["reopened"] += 1
            moved = "" if where == self._where else f" as {where}"
            after_s = time.monotonic() - self._lost_s
            self._report(f"back{moved} after {after_s:.1f} s (attempt {self._attempts})")
        self._where = where
        self._attempts = 0

    def give_up(self, reader: _Reader, fault: Fault) -> None:
        """What the reader met; the first fault counts."""
        with self._changed:
            reader.fault = reader.fault or fault
            self._changed.notify_all()

    def is_over(self, reader: _Reader) -> bool:
        """Whether nothing more is wanted of the reader."""
        return self._closed or reader.fault is not None

    def _report(self, words: str) -> None:
        self._events.append(f"{self._name}: {words}")


def _no_thread(error: RuntimeError) -> str:
    return f"{error}: end other programs, or allow this user more processes (ulimit -u)"


class _Reader(DriverThread):
    """One opening of the camera, and all it gives until it fails.

    The grabber's lock guards what it saw and its fault.
    """

    def __init__(self, grabber: Grabber, name: str, open_capture: Callable[[], Capture]) -> None:
        super().__init__(f"{name}: reader")
        self.started_s = time.monotonic()
        self.first_s: float | None = None  # when the first picture came ..
        self.seen_s: float | None = None  # .. and the last one
        self.fault: Fault | None = None
        self._grabber = grabber
        self._open_capture = open_capture
        self._gaps_s: deque[float] = deque(maxlen=3)  # between the last pictures
        self._undecodable = 0  # pictures on end

    @property
    def steady(self) -> bool:
        """Whether it gave pictures for a while."""
        if self.first_s is None or self.seen_s is None:
            return False
        return self.seen_s - self.first_s > STEADY_S

    @property
    def interval_s(self) -> float:
        """The camera's interval: what every gap of late was at least."""
        return min(self._gaps_s, default=0.0)

    def saw(self, now_s: float) -> None:
        """A picture of it was handed in."""
        if self.seen_s is not None:
            self._gaps_s.append(now_s - self.seen_s)
        self.first_s = self.first_s or now_s
        self.seen_s = now_s

    def silence(self, silent_s: float) -> Fault:
        """The fault of having heard nothing sound for so long."""
        if self._undecodable:
            return Fault("died", f"{self._undecodable} pictures on end cannot be decoded")
        return Fault("stalled", f"no picture for {silent_s:.1f} s")

    def run(self) -> None:
        try:
            capture = self._open_capture()
            try:
                while not self._grabber.is_over(self):
                    self._read(capture)
            finally:
                capture.release()
        except SourceError as error:
            self._grabber.give_up(self, Fault("died", str(error)))
        except Exception as error:  # whatever a driver's wrapper raises, opening again may cure it
            words = " ".join(str(error).split()) or repr(error)
            self._grabber.give_up(self, Fault("died", f"reading failed ({words})"))

    def _read(self, capture: Capture) -> None:
        if not capture.grab():
            silent_s = time.monotonic() - (self.seen_s or self.started_s)
            died = Fault("died", "reading failed")
            self._grabber.give_up(self, self.silence(silent_s) if silent_s > SILENT_S else died)
            return
        t_capture_s = capture.captured_s(time.monotonic())
        image = as_bgr(capture.retrieve())
        if image is None:
            self._undecodable += 1
        else:
            self._undecodable = 0
            self._grabber.take(self, image, t_capture_s, capture.where)


class Stillness:
    """Whether a camera gives one picture over and over, as one with a hung sensor does.

    Opening it again is the cure, and no cure for a camera that looks at a test picture: each time
    it changed nothing, the next is put off for twice as long.
    """

    def __init__(self) -> None:
        self._image = np.empty(0)
        self._patience_s = FROZEN_S
        self.restart()

    def restart(self) -> None:
        """The camera was opened again: time and pictures are counted anew."""
        self._since_s: float | None = None
        self._repeats = 0

    def lasts(self, image: np.ndarray, now_s: float) -> bool:
        """Take the next picture: whether it has been the same for too long now."""
        if not same(image, self._image):
            self._image, self._patience_s = image, FROZEN_S
            self.restart()
        if self._since_s is None:
            self._since_s = now_s
        self._repeats += 1
        if self._repeats <= FROZEN_FRAMES or now_s - self._since_s < self._patience_s:
            return False
        self._patience_s = min(2.0 * self._patience_s, PATIENCE_MAX_S)
        return True
