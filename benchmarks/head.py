"""Round trips to the head's firmware, beside what its bytes take on the wire at 115200 baud.

    python -m benchmarks.head [--port PORT] [--requests 2000]

Without a port the shipping firmware runs on an emulated ATmega328P in real time, behind a
pseudo-terminal: tests/firmware_bridge/emulator, which needs gcc, make, gcc-avr, avr-libc and
libsimavr-dev. The driver is the shipping one over pyserial. Then the calls that a vision loop
makes, which never wait, are timed while the head moves.
"""

from __future__ import annotations

import argparse
import contextlib
import platform
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchmarks.tables import Table
from firmware_bridge import PanTiltHead, protocol
from firmware_bridge.driver import Command, Move, Status
from firmware_bridge.link import STATE_BYTES, ServoBoard
from firmware_bridge.ports import SerialPort

ROOT = Path(__file__).parent.parent
FIRMWARE = ROOT / "firmware_bridge" / "firmware"
EMULATOR = ROOT / "tests" / "emulator"
BITS_A_BYTE = 10


@contextlib.contextmanager
def emulated_board() -> Iterator[str]:
    """The port of an emulated board; it ends with the context."""
    for folder, target in ((FIRMWARE, "avr"), (EMULATOR, "all")):
        subprocess.run(["make", "-s", "-C", folder, target], check=True)
    program = EMULATOR / "build" / "emulated_board"
    elf = FIRMWARE / "build" / "atmega328p" / "edge_head.elf"
    with subprocess.Popen(
        [program, elf], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as board:
        try:
            port = board.stdout.readline().split()[1]
            pins = subprocess.Popen(["cat"], stdin=board.stdout, stdout=subprocess.DEVNULL)
            yield port
        finally:
            board.kill()
            pins.wait()


def wire_s(command: Command) -> float:
    """What request and reply take on the wire alone."""
    message = protocol.Status() if isinstance(command, Status) else protocol.Move(1500.0, 1500.0)
    request = len(protocol.frame(protocol.encode_request(0, message)))
    return (request + STATE_BYTES) * BITS_A_BYTE / protocol.BAUD


def times_s(call: Callable[[int], object], count: int) -> np.ndarray:
    """Seconds that each of `count` calls took."""
    taken = np.empty(count)
    for index in range(count):
        started = time.perf_counter()
        call(index)
        taken[index] = time.perf_counter() - started
    return taken


def row(name: str, seconds: np.ndarray, alone_s: float | None, unit: float, digits: int) -> tuple:
    median, p95, longest = (
        f"{unit * x:.{digits}f}" for x in np.quantile(seconds, [0.5, 0.95, 1.0])
    )
    return name, median, p95, longest, f"{unit * alone_s:.{digits}f}" if alone_s else "-"


def round_trips(port: str, requests: int) -> list[tuple]:
    """Rows in milliseconds."""
    board = ServoBoard(SerialPort(port))
    board.open()
    commands = {
        "status": lambda index: Status(),
        "move": lambda index: Move(1400.0 + index % 200, 1600.0 - index % 200),
    }
    rows = []
    for name, command in commands.items():
        seconds = times_s(lambda index, made=command: board.request(made(index)), requests)
        rows.append(row(f"{name}, ms", seconds, wire_s(command(0)), 1e3, 2))
    rows.append(("repeated", str(board.faults["retries"]), "-", "-", "-"))
    board.close()
    return rows


def calls(port: str, requests: int) -> list[tuple]:
    """Rows in microseconds."""
    with PanTiltHead(ServoBoard(SerialPort(port)), connect_timeout_s=10.0) as head:
        head.move(0.5, 0.5, 10.0)
        timed = {
            "PanTiltHead.at, us": lambda index: head.at(time.monotonic()),
            "PanTiltHead.state, us": lambda index: head.state(),
            "PanTiltHead.move, us": lambda index: head.move(0.001 * (index % 500), 0.1, 1.0),
        }
        return [row(name, times_s(call, requests), None, 1e6, 1) for name, call in timed.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", help="of a real head; it will move a little")
    parser.add_argument("--requests", type=int, default=2000)
    options = parser.parse_args()

    where = contextlib.nullcontext(options.port) if options.port else emulated_board()
    with where as port:
        rows = round_trips(port, options.requests) + calls(port, options.requests)
    print(f"{platform.machine()}, Python {platform.python_version()}, {options.requests} requests")
    print(Table(("", "median", "p95", "longest", "wire alone"), rows))


if __name__ == "__main__":
    main()
