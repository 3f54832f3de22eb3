"""Serial ports: which one a head hangs on, and how it is opened.

`root` is the root of the file system, for tests to hand in another.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import termios
from contextlib import suppress
from pathlib import Path

import serial

from firmware_bridge.device_files import group_of, holders, in_words
from firmware_bridge.errors import HeadError, LinkError

ROOT = Path("/")
LINKS = "dev/serial/by-id"
BOARDS = re.compile(r"arduino|1a86|ch34|ftdi|ft232|cp21|silicon_labs|2341|2a03", re.IGNORECASE)
BAUD = 115200
WRITE_TIMEOUT_S = 1.0  # a port that takes no bytes for so long is dead


def serial_ports(root: Path = ROOT) -> list[str]:
    """The serial devices that were plugged in, by their names that stay: /dev/serial/by-id/.."""
    try:
        return sorted(str(link) for link in (root / LINKS).iterdir())
    except OSError:  # no such folder: nothing plugged in, or no udev
        return []


def the_only_board(root: Path = ROOT) -> str:
    """The one serial device, or the one among several that looks like a microcontroller board.

    Raises LinkError when there is none, HeadError when there are several to choose from.
    """
    ports = serial_ports(root)
    if not ports:
        raise LinkError(
            "no serial device is plugged in: plug the head in, or name its port: "
            "serial:/dev/ttyACM0"
        )
    boards = [port for port in ports if BOARDS.search(Path(port).name)]
    for choice in (ports, boards):
        if len(choice) == 1:
            return choice[0]
    raise HeadError(f"several serial devices: name one, serial:PORT with {' or '.join(ports)}")


def stable_path(path: str, root: Path = ROOT) -> str:
    """The name in /dev/serial/by-id of the device at `path`, which a replug does not change.

    `path` itself where it has none. Of two boards with the same name udev links only one: that is
    the one which is found again.
    """
    target = os.path.realpath(path)
    return next((link for link in serial_ports(root) if os.path.realpath(link) == target), path)


class _OwnPort(serial.Serial):
    """A port that no other program can open meanwhile, unless it is root's.

    `exclusive` of pyserial is a lock that only those heed who ask for it: `cat` and most programs
    do not. TIOCEXCL makes the kernel refuse them. It is undone, since it would outlive this process
    where another one has had the port open before.
    """

    def open(self) -> None:
        super().open()
        self._claim(termios.TIOCEXCL)

    def close(self) -> None:
        if self.is_open:
            self._claim(termios.TIOCNXCL)
        super().close()

    def _claim(self, request: int) -> None:
        with suppress(OSError):  # a port whose driver knows no such thing, or that is gone
            fcntl.ioctl(self.fd, request)


def open_serial(path: str, timeout_s: float, baud: int = BAUD) -> serial.Serial:
    """The port, raw, 8N1, for this process alone; a read waits timeout_s at most.

    Setting DTR and RTS may fail, as on pseudo-terminals. Raises LinkError.
    """
    try:
        return _OwnPort(
            path, baud, timeout=timeout_s, write_timeout=WRITE_TIMEOUT_S, exclusive=True
        )
    except (OSError, ValueError, termios.error) as error:  # ValueError: a rate it does not know
        raise LinkError(f"{path} cannot be opened: {why_not(path, error)}") from error


class SerialPort:
    """Opens the same serial port again and again, whatever its name is by then.

    path: None for the only board there is when it is opened first.
    """

    def __init__(
        self,
        path: str | None,
        timeout_s: float = 0.05,
        baud: int = BAUD,
        root: Path = ROOT,
    ) -> None:
        self._path = path
        self._timeout_s = timeout_s
        self._baud = baud
        self._root = root

    def __call__(self) -> serial.Serial:
        """The open port. Raises HeadError, of which a LinkError may pass."""
        path = stable_path(self._path or the_only_board(self._root), self._root)
        port = open_serial(path, self._timeout_s, self._baud)
        self._path = path
        return port


def why_not(path: str, error: Exception) -> str:
    """Why a port does not open, and what to do."""
    if not os.path.exists(path):
        there = ", ".join(serial_ports())
        return f"there is {'only ' + there if there else 'no such device: plug it in'}"
    if not os.access(path, os.R_OK | os.W_OK):
        return f"permission denied: run `sudo usermod -aG {group_of(path)} $USER`, log in again"
    if getattr(error, "errno", None) in (errno.EAGAIN, errno.EBUSY):
        others = {number: name for number, name in holders(path).items() if number != os.getpid()}
        return f"it is in use by process {in_words(others) or 'of another user'}: end that"
    return " ".join(str(error).split())
