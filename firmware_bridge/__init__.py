"""A pan-tilt head: its protocol, its firmware, and the host's side. Works without edge_rjepa.

from firmware_bridge import open_head
with open_head("serial:") as head:
    head.move_and_wait(0.3, -0.1)
"""

from __future__ import annotations

from urllib.parse import parse_qsl

from firmware_bridge.aim import Aim, Axis, StraightAim
from firmware_bridge.driver import Driver
from firmware_bridge.errors import HeadError, HeadMismatch, LinkError
from firmware_bridge.head import HeadStatus, PanTiltHead
from firmware_bridge.track import Pose

__all__ = [
    "Aim",
    "Axis",
    "HeadError",
    "HeadMismatch",
    "HeadStatus",
    "LinkError",
    "PanTiltHead",
    "Pose",
    "StraightAim",
    "driver_of",
    "open_head",
]

KINDS = "serial: (the only board), serial:PORT, feetech:PORT?pan=1&tilt=2&baud=1000000"


def open_head(spec: str, aim: Aim | None = None, **options) -> PanTiltHead:
    """The connected head that `spec` names: see driver_of. Options: those of PanTiltHead.

    Raises HeadError when nothing fit answers.
    """
    return PanTiltHead(driver_of(spec), aim, **options)


def driver_of(spec: str) -> Driver:
    """The driver that `spec` names, not opened yet.

    spec: `serial:PORT`, a board with this project's firmware; `feetech:PORT?pan=1&tilt=2`, two
    servos of the STS series by their numbers, `&baud=` where it is not 1000000. Without PORT it is
    the only serial device there is. Raises HeadError for anything else.
    """
    kind, colon, rest = spec.partition(":")
    port, question, query = rest.partition("?")
    if kind == "serial" and colon and not question:
        from firmware_bridge.link import ServoBoard
        from firmware_bridge.ports import SerialPort

        return ServoBoard(SerialPort(port or None))
    if kind == "feetech" and colon:
        from firmware_bridge.feetech import BAUD, StsBus
        from firmware_bridge.ports import SerialPort

        given = {"pan": 1, "tilt": 2, "baud": BAUD, **_numbers(spec, query)}
        line = SerialPort(port or None, baud=given["baud"])
        return StsBus(line, (given["pan"], given["tilt"]))
    raise HeadError(f"unknown head {spec!r}: use {KINDS}")


def _numbers(spec: str, query: str) -> dict[str, int]:
    """The whole numbers in `pan=1&tilt=2&baud=1000000`. Raises HeadError."""
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
        numbers = {name: int(value) for name, value in pairs}
    except ValueError:
        numbers = {"": 0}
    if not numbers.keys() <= {"pan", "tilt", "baud"}:
        raise HeadError(f"{spec!r}: after ? belongs pan=1&tilt=2&baud=1000000, all as you need it")
    return numbers
