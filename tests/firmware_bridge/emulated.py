"""The shipping firmware on an emulated ATmega328P.

`Chip` runs it in virtual time, cycle by cycle: exact, repeatable, faster than real time. `Board` is
a program of its own that runs it in real time behind a pseudo-terminal. Both are libsimavr, with
what it gets wrong put right; see emulator/chip.c.

A test file that needs them calls `require()` first: where a tool is missing its tests are reported
as not run, with what to install; with EDGE_RJEPA_REQUIRE_EMULATOR=1 in the environment they fail.
"""

from __future__ import annotations

import ctypes
import enum
import itertools
import random
import subprocess
import tempfile
import threading
import time
from collections import deque
from ctypes import (
    POINTER,
    c_char_p,
    c_int,
    c_size_t,
    c_uint8,
    c_uint16,
    c_uint32,
    c_uint64,
    c_void_p,
)
from functools import cache
from pathlib import Path

import numpy as np

from firmware_bridge import protocol
from tests.tools import need

ROOT = Path(__file__).parents[2]
FIRMWARE = ROOT / "firmware_bridge" / "firmware"
ELF = FIRMWARE / "build" / "atmega328p" / "edge_head.elf"
EMULATOR = Path(__file__).parent / "emulator"
NEEDED = {
    "make": "make",
    "gcc": "gcc",
    "avr-gcc": "gcc-avr",
    "/usr/lib/avr/include/avr/io.h": "avr-libc",
    "/usr/include/simavr/sim_avr.h": "libsimavr-dev",
}
HZ = 16_000_000
BYTE_S = 1389 / HZ  # one byte on the wire
START_S = 0.05  # after power-on, until the firmware listens
PULSE = np.dtype(
    [("rise", "<u8"), ("width", "<u4"), ("axis", "u1"), ("cut", "u1"), ("unused", "<u2")]
)
SENT = np.dtype([("at", "<u8"), ("value", "u1"), ("unused", "u1", 7)])


def require() -> None:
    """Skip the test file, or fail it, where the emulator cannot be built."""
    need("the emulated chip cannot be built", NEEDED)


@cache
def built() -> Path:
    """The folder of the emulator, made if need be, with the firmware made as well."""
    for folder, target in ((FIRMWARE, "avr"), (EMULATOR, "all")):
        made = subprocess.run(["make", "-C", folder, target], capture_output=True, text=True)
        if made.returncode:
            raise RuntimeError(f"make -C {folder} {target} failed:\n{made.stdout}{made.stderr}")
    return EMULATOR / "build"


class Ram(enum.IntEnum):
    """What a reset leaves of it."""

    KEPT = 0
    DAMAGED = 1  # 200 bits flipped
    RANDOM = 2


class Record(ctypes.Structure):
    """What every pulse was judged by, in cycles, and what was seen: chip_record_t."""

    class Pulse(ctypes.Structure):
        _fields_ = [
            ("rise", c_uint64),
            ("width", c_uint32),
            ("axis", c_uint8),
            ("cut", c_uint8),
            ("unused", c_uint16),
        ]

    _fields_ = [
        ("low", c_uint32),
        ("high", c_uint32),
        ("step", c_uint32),
        ("shortest", c_uint32),
        ("longest", c_uint32),
        ("period_shortest", c_uint32),
        ("period_longest", c_uint32),
        ("pulses", c_uint64),
        ("outside", c_uint64),
        ("jumps", c_uint64),
        ("cut", c_uint64),
        ("glitches", c_uint64),
        ("resets", c_uint64 * 16),
        ("overruns", c_uint64),
        ("first_bad", Pulse),
    ]


class Attack(ctypes.Structure):
    """How many frames of which kind were fed: attack_count_t."""

    _fields_ = [
        (name, c_uint64)
        for name in (
            "frames",
            "noise",
            "broken",
            "hostile",
            "sane",
            "silences",
            "replies",
            "garbled",
        )
    ]


@cache
def library() -> ctypes.CDLL:
    lib = ctypes.CDLL(str(built() / "chip.so"))
    chip = c_void_p
    for name, result, *arguments in (
        ("chip_new", c_void_p, c_char_p, c_uint32),
        ("chip_free", None, chip),
        ("chip_now", c_uint64, chip),
        ("chip_run", c_int, chip, c_uint64),
        ("chip_feed", c_size_t, chip, c_char_p, c_size_t),
        ("chip_unfed", c_size_t, chip),
        ("chip_take_sent", c_size_t, chip, c_void_p, c_size_t),
        ("chip_take_pulses", c_size_t, chip, c_void_p, c_size_t),
        ("chip_untaken", c_uint64, chip),
        ("chip_reset", None, chip, c_int, c_int),
        ("chip_boot_delay", None, chip, c_uint64),
        ("chip_hang", c_int, chip, c_int),
        ("chip_eeprom", POINTER(c_uint8), chip, POINTER(c_size_t)),
        ("chip_ram", POINTER(c_uint8), chip, POINTER(c_size_t)),
        ("chip_record", POINTER(Record), chip),
        ("chip_attack", c_int, chip, c_uint32, c_uint32, c_int, c_int, POINTER(Attack)),
    ):
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    return lib


class Chip:
    """One powered board in virtual time. A context manager.

    Times are seconds since it was made, across resets; widths are microseconds.
    """

    def __init__(self, seed: int = 0):
        self._lib = library()
        self._chip = self._lib.chip_new(str(ELF).encode(), seed)
        if not self._chip:
            raise RuntimeError(f"{ELF} is no firmware")
        self._untaken = 0  # pulses
        self._seq = itertools.count(1)
        self._decoder = protocol.FrameDecoder()
        self._latest: dict[int, tuple[float, float]] = {}  # by axis: rise_s, width_us

    def __enter__(self) -> Chip:
        return self

    def __exit__(self, *error) -> None:
        self._lib.chip_free(self._chip)
        self._chip = None

    @property
    def now_s(self) -> float:
        return self._lib.chip_now(self._chip) / HZ

    @property
    def record(self) -> Record:
        return self._lib.chip_record(self._chip).contents

    def eeprom(self) -> np.ndarray:
        """Its bytes, uint8, to be read and changed in place."""
        return self._memory(self._lib.chip_eeprom)

    def ram(self) -> np.ndarray:
        """Its bytes but registers, uint8, to be read and changed in place; the stack is its end."""
        return self._memory(self._lib.chip_ram)

    def _memory(self, of) -> np.ndarray:
        size = c_size_t()
        start = of(self._chip, ctypes.byref(size))
        return np.ctypeslib.as_array(start, (size.value,))

    # --------------------------------------------------------------------------------------------
    # Time, faults

    def run(self, seconds: float) -> None:
        """Let the time go by."""
        if self._lib.chip_run(self._chip, round(seconds * HZ)):
            raise RuntimeError("the firmware slept with interrupts off")

    def reset(
        self,
        cause: protocol.Cause = protocol.Cause.EXTERNAL,
        ram: Ram = Ram.KEPT,
        boot_s: float = 0.0,
    ) -> None:
        """Reset it; a boot loader may keep it for boot_s and swallow what it is sent."""
        self._lib.chip_reset(self._chip, cause, ram)
        self._lib.chip_boot_delay(self._chip, round(boot_s * HZ))

    def hang(self, interrupts: bool) -> None:
        """Put an endless loop in place of its main loop, with interrupts on or off."""
        assert self._lib.chip_hang(self._chip, interrupts) == 0

    def attack(self, seed: int, frames: int, settings: bool, resets: bool) -> Attack:
        """Feed it frames that nobody should send; see emulator/attack.h.

        Its pulses are judged, and forgotten.
        """
        count = Attack()
        failed = self._lib.chip_attack(
            self._chip, seed, frames, settings, resets, ctypes.byref(count)
        )
        assert not failed, "the firmware slept with interrupts off"
        self._taken(self._lib.chip_take_pulses, PULSE)
        self._untaken = self._lib.chip_untaken(self._chip)
        return count

    # --------------------------------------------------------------------------------------------
    # Its serial line

    def feed(self, data: bytes) -> None:
        """Bytes for it, which follow each other at wire pace from now on."""
        assert self._lib.chip_feed(self._chip, data, len(data)) == len(data)

    @property
    def unfed(self) -> int:
        """Bytes that are still on their way to it."""
        return self._lib.chip_unfed(self._chip)

    def sent(self) -> np.ndarray:
        """Bytes that it has sent since the last call: `at` in cycles, `value`."""
        return self._taken(self._lib.chip_take_sent, SENT)

    def say(self, message: protocol.Request, seq: int = 0) -> None:
        """Send it a request, whatever it may answer."""
        self.feed(protocol.frame(protocol.encode_request(seq, message)))

    def ask(self, message: protocol.Request, within_s: float = 0.02) -> protocol.Reply:
        """Send it a request and wait for the answer, over a line without fault.

        Whatever it may have heard of a frame before is ended first.
        """
        seq = next(self._seq) & 0xFFFF
        self.feed(b"\0")
        self.say(message, seq)
        end_s = self.now_s + within_s
        while self.now_s < end_s:
            self.run(BYTE_S)
            for payload in self._decoder.feed(self.sent()["value"].tobytes()):
                reply = protocol.decode_reply(payload)
                if reply.seq == seq:
                    return reply
        raise AssertionError(f"no answer to {message} within {within_s} s")

    def state(self) -> protocol.State:
        """What it tells about itself. It hears its host thereby."""
        return self.ask(protocol.Status()).body

    # --------------------------------------------------------------------------------------------
    # Its pins

    def pulses(self) -> np.ndarray:
        """Pulses since the last call: `rise`, `width` in cycles, `axis`, `cut`; none was missed."""
        pulses = self._taken(self._lib.chip_take_pulses, PULSE)
        assert self._lib.chip_untaken(self._chip) == self._untaken
        for axis in (0, 1):
            of_axis = pulses[(pulses["axis"] == axis) & (pulses["cut"] == 0)]
            if len(of_axis):
                self._latest[axis] = of_axis["rise"][-1] / HZ, of_axis["width"][-1] * 1e6 / HZ
        return pulses

    def measured(self) -> tuple[float, float] | None:
        """(pan, tilt) of the latest pulses; None where one has had none for 30 ms."""
        self.pulses()
        recent = [self._latest.get(axis, (-1.0, 0.0)) for axis in (0, 1)]
        if any(self.now_s - rise_s > 0.03 for rise_s, _ in recent):
            return None
        return recent[0][1], recent[1][1]

    def _taken(self, take, dtype) -> np.ndarray:
        parts = []
        while not parts or len(parts[-1]) == 4096:
            room = np.zeros(4096, dtype)
            parts.append(room[: take(self._chip, room.ctypes.data, len(room))])
        return np.concatenate(parts) if len(parts) > 1 else parts[0]


# ------------------------------------------------------------------------------------------------
# Lines


class FaultyLine:
    """Drops, flips and doubles bytes: each a third of `share` of them, by a seed of its own."""

    def __init__(self, share: float, seed: int):
        self._share = share
        self._random = random.Random(seed)
        self.bytes = self.faults = 0

    def __call__(self, data: bytes) -> bytes:
        spoilt = bytearray()
        for byte in data:
            self.bytes += 1
            if self._random.random() >= self._share:
                spoilt.append(byte)
                continue
            self.faults += 1
            match self._random.randrange(3):
                case 1:
                    spoilt.append(byte ^ 1 << self._random.randrange(8))
                case 2:
                    spoilt += bytes([byte, byte])
        return bytes(spoilt)


def faultless(data: bytes) -> bytes:
    return data


class ChipLine:
    """A chip as the transport of a driver: reading is what makes its time go by."""

    def __init__(self, chip: Chip, down=faultless, up=faultless):
        self.timeout: float | None = 0.0
        self.down, self.up = down, up  # what becomes of bytes to the board, to the host
        self._chip = chip
        self._arrived = bytearray()

    def open(self) -> ChipLine:
        return self

    def clock(self) -> float:
        return self._chip.now_s

    def read(self, size: int) -> bytes:
        end_s = self._chip.now_s + self.timeout
        while True:
            self._arrived += self.up(self._chip.sent()["value"].tobytes())
            left_s = end_s - self._chip.now_s
            if len(self._arrived) >= size or left_s <= 0.0:
                break
            self._chip.run(max(1 / HZ, min(left_s, BYTE_S * (size - len(self._arrived)))))
        data = bytes(self._arrived[:size])
        del self._arrived[:size]
        return data

    def write(self, data: bytes) -> int:
        self._chip.feed(self.down(data))
        return len(data)

    def close(self) -> None:
        self._arrived.clear()


# ------------------------------------------------------------------------------------------------
# In real time


class Board:
    """A board behind a pseudo-terminal, in real time. A context manager.

    path: its port, a name that stays when the terminal behind it changes. boot_s: opening the port
    resets it, and its boot loader keeps it for so long.
    """

    def __init__(self, boot_s: float = 0.0):
        self._boot_ms = round(1e3 * boot_s)
        self._changed = threading.Condition()
        self._latest: dict[int, tuple[float, float]] = {}  # by axis: time heard, width_us
        self._ports = 0
        self.history: deque[tuple[float, int, float]] = deque(maxlen=100_000)  # rise_s, axis, us
        self.resets: list[int] = []  # causes

    def __enter__(self) -> Board:
        self._folder = tempfile.TemporaryDirectory()
        self.path = str(Path(self._folder.name) / "head")
        self._program = subprocess.Popen(
            [built() / "emulated_board", ELF, str(self._boot_ms)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()
        self.wait_for(lambda: self._ports)
        return self

    def __exit__(self, *error) -> None:
        self._program.kill()
        self._program.wait()
        self._listener.join()
        self._program.stdin.close()
        self._program.stdout.close()
        self._folder.cleanup()

    # --------------------------------------------------------------------------------------------
    # What happens to it

    def unplug(self) -> None:
        """Its line is gone, and so is its name; it keeps its power."""
        Path(self.path).unlink(missing_ok=True)
        self._tell("unplug")

    def replug(self) -> None:
        """It is back behind another terminal."""
        before = self._ports
        self._tell("replug")
        self.wait_for(lambda: self._ports > before)

    def power_cycle(self) -> None:
        """Its power goes and comes back."""
        self._tell("power")

    def reset(self) -> None:
        """Somebody presses its button."""
        self._tell("reset")

    def hang(self) -> None:
        """Its main loop hangs."""
        self._tell("hang")

    def stop(self) -> None:
        """Its clock stands still; what it is sent waits."""
        self._tell("stop")

    def go(self) -> None:
        """Its clock goes on."""
        self._tell("go")

    def _tell(self, word: str) -> None:
        self._program.stdin.write(word + "\n")

    # --------------------------------------------------------------------------------------------
    # What it does

    def measured(self) -> tuple[float, float] | None:
        """(pan, tilt) of the latest pulses, us; None where one has had none for 100 ms."""
        with self._changed:
            latest = [self._latest.get(axis) for axis in (0, 1)]
        now_s = time.monotonic()
        if any(pulse is None or now_s - pulse[0] > 0.1 for pulse in latest):
            return None
        return latest[0][1], latest[1][1]

    def wait_for(self, true, timeout_s: float = 20.0) -> None:
        """Until it is true; asked again at everything that the board does, and every 20 ms."""
        end_s = time.monotonic() + timeout_s
        with self._changed:
            while not true():
                assert time.monotonic() < end_s, f"not within {timeout_s} s"
                assert self._program.poll() is None, "the emulated board has ended"
                self._changed.wait(0.02)

    def _listen(self) -> None:
        for line in self._program.stdout:
            what, *words = line.split()
            with self._changed:
                getattr(self, f"_heard_{what}")(*words)
                self._changed.notify_all()

    def _heard_port(self, terminal: str) -> None:
        Path(self.path).unlink(missing_ok=True)
        Path(self.path).symlink_to(terminal)
        self._ports += 1

    def _heard_pulse(self, axis: str, half_us: str, rise_us: str) -> None:
        width_us = protocol.STEP_US * int(half_us)
        self._latest[int(axis)] = time.monotonic(), width_us
        self.history.append((1e-6 * int(rise_us), int(axis), width_us))

    def _heard_reset(self, cause: str) -> None:
        self.resets.append(int(cause))
