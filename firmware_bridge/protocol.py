"""The bytes between host and head, version 1: PROTOCOL.md in code, both ways, without any I/O.

A message is encoded into a payload, a payload into a frame: COBS(payload + CRC-32) + 0x00. Both
directions are here for both sides, so that a test can play the board.

    python -m firmware_bridge.protocol            # compares vectors.json with this code
    python -m firmware_bridge.protocol --write    # writes it anew
"""

from __future__ import annotations

import argparse
import enum
import json
import struct
import sys
import zlib
from pathlib import Path
from typing import NamedTuple

PROTOCOL = 1
LONGEST_PAYLOAD = 40  # bytes; a longer one is a bad frame
STEP_US = 0.5  # pulse widths travel as whole half microseconds
HARD_LOW_US, HARD_HIGH_US = 500.0, 2500.0  # no board drives a servo outside these
SLOWEST_SLEW_US_PER_S = 25
PERIOD_S = 0.02  # of the pulses, and of the steps in which a board moves
BAUD = 115200  # 8N1
HOLD_AFTER_S, HOME_AFTER_S = 0.5, 3.0  # of silence
REPLY = 0x80  # set in the kind of a reply
VECTORS = Path(__file__).with_name("vectors.json")


class ProtocolError(ValueError):
    """Bytes that say nothing in this protocol, or a message that it cannot say."""


class Kind(enum.IntEnum):
    """What a request asks for."""

    HELLO = 1
    STATUS = 2
    MOVE = 3
    HOLD = 4
    HOME = 5
    RELAX = 6
    CONFIGURE = 7


class Result(enum.IntEnum):
    """What became of a request."""

    OK = 0
    CLIPPED = 1  # obeyed within the limits; the goal tells
    REFUSED = 2  # a wrong length, or values that cannot be
    UNKNOWN = 3  # no such kind
    BUSY = 4  # CONFIGURE while the EEPROM is being written
    NOT_NOW = 5  # CONFIGURE while it moves, or stands outside the new limits


class Flag(enum.IntFlag):
    """Bits of State.flags."""

    MOVING = 1
    TORQUE_OFF = 2  # no pulses
    HOMING = 4  # moving, and home
    HOST_LOST = 8  # held or sent home because the host was silent; no command to move since
    EEPROM_BUSY = 16  # settings are being written
    DEFAULT_SETTINGS = 32  # the EEPROM held no valid settings at the start
    EEPROM_FAILED = 64  # settings written last did not read back


class Cause(enum.IntFlag):
    """Bits of State.reset_cause. None set: a boot loader has hidden it."""

    POWER_ON = 1
    EXTERNAL = 2
    BROWN_OUT = 4
    WATCHDOG = 8


class AxisSettings(NamedTuple):
    """Limits of one servo, kept in EEPROM."""

    low_us: float = 1000.0
    high_us: float = 2000.0
    home_us: float = 1500.0
    slew_us_per_s: int = 3000


class Hello(NamedTuple):
    """Who are you? The nonce makes the answer to an earlier Hello unusable."""

    nonce: int


class Status(NamedTuple):
    """Tell the state; and the host lives."""


class Move(NamedTuple):
    """Go there: both axes arrive together after the duration, or when the slower one can."""

    pan_us: float
    tilt_us: float
    duration_ms: int = 0


class Hold(NamedTuple):
    """Stop where it is being driven now; its torque is on again."""


class Home(NamedTuple):
    """Go home, slowly."""


class Relax(NamedTuple):
    """No pulses: the torque of the servos is off."""


class Configure(NamedTuple):
    """New settings, at once and for good."""

    board_id: int
    pan: AxisSettings = AxisSettings()
    tilt: AxisSettings = AxisSettings()


Request = Hello | Status | Move | Hold | Home | Relax | Configure
REQUESTS = {
    Kind.HELLO: Hello,
    Kind.STATUS: Status,
    Kind.MOVE: Move,
    Kind.HOLD: Hold,
    Kind.HOME: Home,
    Kind.RELAX: Relax,
    Kind.CONFIGURE: Configure,
}
KINDS = {message: kind for kind, message in REQUESTS.items()}


class Greeting(NamedTuple):
    """A board's answer to Hello. Of another protocol only what is before `pan` means anything."""

    nonce: int
    protocol: int
    firmware: tuple[int, int, int]  # major, minor, patch
    board_type: int  # what it is built on; 1: an ATmega328P
    board_id: int  # 0: never set
    pan: AxisSettings = AxisSettings()
    tilt: AxisSettings = AxisSettings()
    home_slew_us_per_s: int = 0


class State(NamedTuple):
    """A board's answer to everything else. Pairs are (pan, tilt)."""

    flags: Flag
    goal_us: tuple[float, float]  # with torque off: where the first pulses will hold it
    driven_us: tuple[float, float] | None  # None: torque off
    remaining_ms: int  # until both axes arrive; 65535: at least that
    uptime_ms: int  # since the reset; starts anew after 49.7 days
    reset_cause: Cause
    bad_frames: int  # received, since the reset; stays at 65535
    overruns: int  # bytes lost before they were read, since the reset; stays at 255


class Reply(NamedTuple):
    """What a board sent."""

    seq: int
    kind: int  # of the request, without REPLY
    result: Result
    body: Greeting | State


HEAD = struct.Struct("<HB")  # seq, kind
BODIES = {
    Kind.HELLO: struct.Struct("<I"),
    Kind.STATUS: struct.Struct("<"),
    Kind.MOVE: struct.Struct("<HHH"),
    Kind.HOLD: struct.Struct("<"),
    Kind.HOME: struct.Struct("<"),
    Kind.RELAX: struct.Struct("<"),
    Kind.CONFIGURE: struct.Struct("<I4H4H"),
}
REPLY_HEAD = struct.Struct("<HBB")  # seq, kind, result
GREETING_START = struct.Struct("<IB3BBI")  # the same in every version of the protocol
GREETING_REST = struct.Struct("<4H4HH")
STATE = struct.Struct("<BBBHHHHHHI")
CRC = struct.Struct("<I")
LONGEST_FRAME = LONGEST_PAYLOAD + CRC.size + 2  # with the COBS code byte and the closing zero


# Messages and payloads


def encode_request(seq: int, message: Request) -> bytes:
    """Payload of a request. Raises ProtocolError for values that do not fit."""
    kind = KINDS[type(message)]
    return pack(HEAD, seq, kind) + pack(BODIES[kind], *request_fields(message))


def request_fields(message: Request) -> tuple:
    """The whole numbers of a request's body."""
    match message:
        case Move(pan_us, tilt_us, duration_ms):
            return half_us(pan_us), half_us(tilt_us), duration_ms
        case Configure(board_id, pan, tilt):
            return board_id, *axis_fields(pan), *axis_fields(tilt)
        case _:
            return tuple(message)


def decode_request(payload: bytes) -> tuple[int, Request]:
    """(seq, message) of a request's payload. Raises ProtocolError."""
    seq, kind = unpack(HEAD, payload[: HEAD.size])
    if kind not in REQUESTS:
        raise ProtocolError(f"request of unknown kind {kind}")
    fields = unpack(BODIES[kind], payload[HEAD.size :])
    match kind:
        case Kind.MOVE:
            return seq, Move(fields[0] * STEP_US, fields[1] * STEP_US, fields[2])
        case Kind.CONFIGURE:
            return seq, Configure(fields[0], axis_of(fields[1:5]), axis_of(fields[5:9]))
        case _:
            return seq, REQUESTS[kind](*fields)


def encode_reply(reply: Reply) -> bytes:
    """Payload of a reply. Raises ProtocolError for values that do not fit."""
    head = pack(REPLY_HEAD, reply.seq, reply.kind | REPLY, reply.result)
    body = reply.body
    if isinstance(body, Greeting):
        start = (body.nonce, body.protocol, *body.firmware, body.board_type, body.board_id)
        rest = (*axis_fields(body.pan), *axis_fields(body.tilt), body.home_slew_us_per_s)
        return head + pack(GREETING_START, *start) + pack(GREETING_REST, *rest)
    driven = body.driven_us or (0.0, 0.0)
    widths = [half_us(width) for width in (*body.goal_us, *driven)]
    counts = (body.reset_cause, body.overruns, body.bad_frames, body.remaining_ms)
    return head + pack(STATE, body.flags, *counts, *widths, body.uptime_ms)


def decode_reply(payload: bytes) -> Reply:
    """The reply in a payload. Raises ProtocolError."""
    seq, kind, result = unpack(REPLY_HEAD, payload[: REPLY_HEAD.size])
    if not kind & REPLY:
        raise ProtocolError(f"kind {kind} is no reply: the line echoes")
    body = payload[REPLY_HEAD.size :]
    try:
        result = Result(result)
    except ValueError:
        raise ProtocolError(f"reply with unknown result {result}") from None
    greets = kind == Kind.HELLO | REPLY and result == Result.OK
    return Reply(
        seq, kind & ~REPLY, result, decode_greeting(body) if greets else decode_state(body)
    )


def decode_greeting(body: bytes) -> Greeting:
    """A greeting. Of another protocol its start only. Raises ProtocolError."""
    nonce, protocol, *firmware, board_type, board_id = unpack(
        GREETING_START, body[: GREETING_START.size]
    )
    start = Greeting(nonce, protocol, tuple(firmware), board_type, board_id)
    if protocol != PROTOCOL:
        return start
    fields = unpack(GREETING_REST, body[GREETING_START.size :])
    return start._replace(
        pan=axis_of(fields[0:4]), tilt=axis_of(fields[4:8]), home_slew_us_per_s=fields[8]
    )


def impossible_settings(greeting: Greeting) -> str | None:
    """Which settings of a greeting no board keeps to, in words; None where all of them can be."""
    for name, axis in (("pan", greeting.pan), ("tilt", greeting.tilt)):
        low, high, home, slew = axis
        if not HARD_LOW_US <= low <= home <= high <= HARD_HIGH_US:
            return f"{name} from {low:g} to {high:g} us, home at {home:g}"
        if slew < SLOWEST_SLEW_US_PER_S:
            return f"{name} at {slew} us/s"
    if greeting.home_slew_us_per_s < SLOWEST_SLEW_US_PER_S:
        return f"the way home at {greeting.home_slew_us_per_s} us/s"
    return None


def decode_state(body: bytes) -> State:
    """A state. Raises ProtocolError."""
    flags, cause, overruns, bad, remaining, *widths, uptime = unpack(STATE, body)
    goal_pan, goal_tilt, driven_pan, driven_tilt = (width * STEP_US for width in widths)
    driven = None if flags & Flag.TORQUE_OFF else (driven_pan, driven_tilt)
    return State(
        Flag(flags), (goal_pan, goal_tilt), driven, remaining, uptime, Cause(cause), bad, overruns
    )


def half_us(width_us: float) -> int:
    """A pulse width in the protocol's unit, rounded. Raises ProtocolError outside 0 .. 32767.5."""
    if not 0.0 <= width_us <= 0xFFFF * STEP_US:
        raise ProtocolError(f"pulse width of {width_us} us: must lie between 0 and 32767.5")
    return round(width_us / STEP_US)


def axis_fields(axis: AxisSettings) -> tuple[int, int, int, int]:
    return half_us(axis.low_us), half_us(axis.high_us), half_us(axis.home_us), axis.slew_us_per_s


def axis_of(fields) -> AxisSettings:
    low, high, home, slew = fields
    return AxisSettings(low * STEP_US, high * STEP_US, home * STEP_US, slew)


def pack(layout: struct.Struct, *fields: int) -> bytes:
    try:
        return layout.pack(*fields)
    except struct.error as error:
        raise ProtocolError(f"{fields} do not fit {layout.format}: {error}") from None


def unpack(layout: struct.Struct, data: bytes) -> tuple:
    if len(data) != layout.size:
        raise ProtocolError(f"{len(data)} bytes where {layout.size} belong")
    return layout.unpack(data)


# Payloads and frames


def frame(payload: bytes) -> bytes:
    """What goes over the wire: COBS(payload + CRC-32) + 0x00. Raises ProtocolError if too long."""
    if len(payload) > LONGEST_PAYLOAD:
        raise ProtocolError(f"payload of {len(payload)} bytes: at most {LONGEST_PAYLOAD}")
    return cobs(payload + CRC.pack(zlib.crc32(payload))) + b"\0"


def cobs(data: bytes) -> bytes:
    """Consistent overhead byte stuffing of fewer than 254 bytes: each zero becomes a distance."""
    return b"".join(bytes([len(run) + 1]) + run for run in data.split(b"\0"))


def uncobs(stuffed: bytes) -> bytes:
    """What was stuffed. Raises ProtocolError when a distance points outside."""
    runs, at = [], 0
    while at < len(stuffed):
        distance = stuffed[at]
        if distance == 0 or at + distance > len(stuffed):
            raise ProtocolError("byte stuffing that points outside the frame")
        runs.append(stuffed[at + 1 : at + distance])
        at += distance
    return b"\0".join(runs)


def payload_of(stuffed: bytes) -> bytes:
    """The payload of one frame without its closing zero. Raises ProtocolError."""
    data = uncobs(stuffed)
    payload, sum32 = data[: -CRC.size], data[-CRC.size :]
    if len(data) < CRC.size + HEAD.size or CRC.pack(zlib.crc32(payload)) != sum32:
        raise ProtocolError("wrong CRC")
    return payload


class FrameDecoder:
    """Payloads out of a stream of bytes, however it is cut; what is broken is only counted."""

    def __init__(self) -> None:
        self.bad_frames = 0
        self._waiting = (
            bytearray()
        )  # the frame that has not ended yet, never more than one too long

    def feed(self, data: bytes) -> list[bytes]:
        """The payloads that `data` completes, in order."""
        *ends, rest = data.split(b"\0")
        payloads = []
        for end in ends:
            self._keep(end)
            payloads += self._closed()
        self._keep(rest)
        return payloads

    def _keep(self, part: bytes) -> None:
        self._waiting += part[: LONGEST_FRAME - len(self._waiting)]

    def _closed(self) -> list[bytes]:
        """The payload of the frame that has just ended, if it has one."""
        stuffed = bytes(self._waiting)
        self._waiting.clear()
        if not stuffed:  # zeros between frames
            return []
        try:
            if len(stuffed) >= LONGEST_FRAME:
                raise ProtocolError("a frame too long")
            return [payload_of(stuffed)]
        except ProtocolError:
            self.bad_frames += 1
            return []


# Golden frames


def vectors() -> dict:
    """Frames of every kind with what they say, and broken ones: both sides are tested by them."""
    narrow = AxisSettings(600.0, 2400.5, 1450.0, 65535)
    requests: list[Request] = [
        Hello(0x12345678),
        Hello(0),
        Status(),
        Move(1500.0, 1500.0),
        Move(1000.5, 1999.5, 250),
        Move(0.0, 32767.5, 65535),
        Hold(),
        Home(),
        Relax(),
        Configure(7),
        Configure(0xFFFFFFFF, narrow, AxisSettings(500.0, 2500.0, 500.0, SLOWEST_SLEW_US_PER_S)),
    ]
    rest = State(Flag.TORQUE_OFF, (1500.0, 1500.0), None, 0, 1234, Cause.POWER_ON, 0, 0)
    going = State(
        Flag.MOVING, (1000.5, 1999.5), (1250.0, 1700.5), 240, 2**32 - 1, Cause(0), 65535, 255
    )
    axes = (AxisSettings(), narrow)
    replies = [
        Reply(0, Kind.HELLO, Result.OK, Greeting(0x12345678, 1, (1, 0, 0), 1, 0, *axes, 500)),
        Reply(0x0100, Kind.STATUS, Result.OK, rest),
        Reply(0xFFFF, Kind.MOVE, Result.CLIPPED, going),
        Reply(3, Kind.HELLO, Result.REFUSED, rest),
        Reply(4, 99, Result.UNKNOWN, rest),
        Reply(5, Kind.CONFIGURE, Result.NOT_NOW, going),
    ]
    numbers = [0, 1, 0x00FF, 0x0100, 0xFFFF, 0x1234, 7, 8, 9, 10, 11]
    whole = frame(encode_request(5, Move(1500.0, 1500.0)))
    longest = bytes(range(LONGEST_PAYLOAD))
    bad = {
        "a bit flipped": bytes([*whole[:6], whole[6] ^ 4, *whole[7:]]),
        "a byte lost": whole[:4] + whole[5:],
        "a byte twice": whole[:5] + whole[4:],
        "cut off": whole[:-4] + b"\0",
        "a distance beyond the end": b"\xff\x01\x02\0",
        "the last distance one too long": whole[:-6] + b"\6" + whole[-5:],
        "too short for a kind": cobs(b"\1\0" + CRC.pack(zlib.crc32(b"\1\0"))) + b"\0",
        "nothing but a CRC": cobs(CRC.pack(0)) + b"\0",
        "one byte too long": cobs(longest + b"!" + CRC.pack(zlib.crc32(longest + b"!"))) + b"\0",
    }
    return {
        "protocol": PROTOCOL,
        "requests": [
            golden(seq, message, encode_request(seq, message))
            for seq, message in zip(numbers, requests, strict=True)
        ],
        "replies": [golden(reply.seq, reply, encode_reply(reply)) for reply in replies],
        "longest": {"payload": longest.hex(), "frame": frame(longest).hex()},
        "bad": [{"why": why, "frame": data.hex()} for why, data in bad.items()],
    }


def golden(seq: int, message: Request | Reply, payload: bytes) -> dict:
    return {
        "seq": seq,
        "message": type(message).__name__,
        "fields": list(message),
        "payload": payload.hex(),
        "frame": frame(payload).hex(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare vectors.json with protocol.py.")
    parser.add_argument("--write", action="store_true", help="write vectors.json anew")
    text = json.dumps(vectors(), indent=2) + "\n"
    if parser.parse_args().write:
        VECTORS.write_text(text, encoding="utf-8")
        return 0
    if VECTORS.read_text(encoding="utf-8") == text:
        return 0
    print(f"error: {VECTORS} differs from protocol.py: run again with --write", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
