"""The firmware's core, compiled for this machine, as a board: in virtual time, or behind a port.

The shipping C answers; here is only what lies around it: a line, a clock, a plug.
"""

import contextlib
import ctypes
import functools
import os
import pty
import shutil
import subprocess
import threading
import time
import tty
from ctypes import POINTER, c_size_t, c_uint8, c_uint16, c_uint64
from pathlib import Path
from typing import NamedTuple

from firmware_bridge.protocol import STEP_US, Home, encode_request, frame
from tests.tools import need

FIRMWARE = Path(__file__).parents[2] / "firmware_bridge" / "firmware"
POLL_S = 0.00025  # in which virtual time goes on
STEP_S = 0.2  # a busy machine may let it run less often: what is more is not its host's silence
POWER_ON, WATCHDOG = 1, 8


@functools.cache
def library() -> Path:
    """The core, built. Where that cannot be done, its tests are reported as not run."""
    need("the firmware's core cannot be built", {"make": "make", "gcc": "gcc"})
    subprocess.run(["make", "-C", FIRMWARE, "host"], check=True, stdout=subprocess.DEVNULL)
    return FIRMWARE / "build" / "host" / "edge_head.so"


class Pulse(NamedTuple):
    """What the pins did in one period; t_s of the board's whole life."""

    t_s: float
    pan_us: float
    tilt_us: float


class HostPulse(ctypes.Structure):
    _fields_ = [("t_us", c_uint64), ("width", c_uint16 * 2)]


class Core:
    """One board, whose time stands still until it is told to go on."""

    def __init__(self, folder: Path):
        # Each loaded file has its own variables: a copy is another board.
        copy = folder / f"board{len(list(folder.iterdir()))}.so"
        self._lib = ctypes.CDLL(shutil.copy(library(), copy))
        self._lib.host_run.argtypes = [c_uint64]
        self._lib.host_feed.argtypes = [ctypes.c_char_p, c_size_t]
        self._lib.host_take_sent.argtypes = [ctypes.c_char_p, c_size_t]
        self._lib.host_take_pulses.argtypes = [POINTER(HostPulse), c_size_t]
        for take in (self._lib.host_take_sent, self._lib.host_take_pulses):
            take.restype = c_size_t
        self._lib.host_now_us.restype = c_uint64
        self._lib.host_power_on.argtypes = [c_uint8]
        self._lib.host_power_on(0xAA)
        self.pulses: list[Pulse] = []

    @property
    def now_s(self) -> float:
        return 1e-6 * self._lib.host_now_us()

    def reset(self, cause=WATCHDOG):
        self._lib.host_reset(cause)

    def feed(self, data: bytes):
        self._lib.host_feed(data, len(data))

    def run(self, seconds: float):
        self._lib.host_run(round(1e6 * seconds))
        room = (HostPulse * 64)()
        while count := self._lib.host_take_pulses(room, len(room)):
            for one in room[:count]:
                self.pulses.append(Pulse(1e-6 * one.t_us, *(STEP_US * w for w in one.width)))

    def read(self) -> bytes:
        room = ctypes.create_string_buffer(4096)
        count = self._lib.host_take_sent(room, len(room))
        return room.raw[:count]

    def pulses_us(self) -> tuple[float, float] | None:
        """(pan, tilt) of the last pulses; None where the last 20 ms had none."""
        last = self.pulses[-1] if self.pulses else None
        return last[1:] if last and self.now_s - last.t_s < 0.0201 else None


class VirtualLine:
    """A transport and a clock: reading is what makes time go by.

    down, up: change what the host sends, what the board sends; (bytes, time_s) -> bytes.
    """

    def __init__(self, core, down=None, up=None):
        self.core = core
        self.timeout = 0.0
        self.now_s = 0.0
        self.down = down or (lambda data, now_s: data)
        self.up = up or (lambda data, now_s: data)
        self.dead = False
        self.opened = 0
        self._arrived = b""

    def open(self):
        if self.dead:
            raise FileNotFoundError(2, "No such file or directory")
        self.opened += 1
        self._arrived = b""
        return self

    def clock(self):
        return self.now_s

    def pass_by(self, seconds):
        for _ in range(round(seconds / POLL_S)):
            self.core.run(POLL_S)
            self.now_s += POLL_S
            self._arrived += self.up(self.core.read(), self.now_s)

    def read(self, size):
        end_s = self.now_s + self.timeout
        while len(self._arrived) < size and self.now_s < end_s:
            self._check()
            self.pass_by(POLL_S)
        data, self._arrived = self._arrived[:size], self._arrived[size:]
        return data

    def write(self, data):
        self._check()
        self.core.feed(self.down(data, self.now_s))
        return len(data)

    def close(self):
        pass

    def _check(self):
        if self.dead:
            raise OSError(5, "Input/output error")


class CoreBoard:
    """A board behind a pseudo-terminal, in real time, with a name that stays: `path`."""

    def __init__(self, folder: Path):
        self.core = Core(folder)
        self.path = str(folder / "head")
        self.born_s = time.monotonic()  # when its time 0 was, or would have been without stops
        self._stopped_until_s = 0.0  # the board's clock stands still
        self._master = self._slave = None
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self.plug()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, kind, error, trace):
        self._closing.set()
        self._thread.join()
        self.unplug()

    def plug(self):
        """Under whatever name the system gives it now."""
        with self._lock:
            self._master, self._slave = pty.openpty()
            tty.setraw(self._slave)
            os.set_blocking(self._master, False)
            os.symlink(os.ttyname(self._slave), self.path)

    def unplug(self):
        with self._lock:
            if self._master is not None:
                os.unlink(self.path)
                os.close(self._master)
                os.close(self._slave)
                self._master = None

    def send_home(self):
        """As another program would have done before."""
        with self._lock:
            self.core.feed(frame(encode_request(0, Home())))
            self.core.read()

    def stop_for(self, seconds):
        """The board stands still; what it is sent waits."""
        with self._lock:
            self._stopped_until_s = time.monotonic() + seconds

    def reset(self, cause=WATCHDOG):
        with self._lock:
            self.core.reset(cause)

    def pulses_us(self):
        with self._lock:
            return self.core.pulses_us()

    def _run(self):
        while not self._closing.wait(0.0005):
            with self._lock:
                due_s = time.monotonic() - self.born_s - self.core.now_s
                runs_s = 0.0 if time.monotonic() < self._stopped_until_s else min(due_s, STEP_S)
                self.born_s += due_s - runs_s
                if runs_s:
                    self.core.run(runs_s)
                    self._hear()
                    self._answer(self.core.read())

    def _hear(self):
        if self._master is not None:
            with contextlib.suppress(OSError):  # nothing there
                self.core.feed(os.read(self._master, 1000))

    def _answer(self, data):
        if self._master is not None and data:
            with contextlib.suppress(OSError):  # nobody reads
                os.write(self._master, data)
