"""Packets and registers of Feetech STS serial-bus servos. Pure: bytes in, values out.

An instruction is FF FF, servo id, length, instruction, parameters, checksum; an answer has its
error bits in the place of the instruction. The length counts what follows it; the checksum is the
inverted sum of all after FF FF. Two bytes are little endian; bit 15 of a position or a speed is its
sign.

Sources: the maker's memory table of the STS series (registers, units, bits of phase and status) and
its SDK, `ftservo-python-sdk` 2.0.1 (packets, names of registers).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

READ = 0x02
SYNC_READ = 0x82
SYNC_WRITE = 0x83
EVERYONE = 0xFE
LAST_ID = 0xFC

BYTE_ORDER = 2  # 1: big endian, as the SCS series
MODEL = 3
LOWEST = 9
HIGHEST = 11
PHASE = 18
SPEED_IN_STEPS = 4  # bit of PHASE: speed in steps/s; else in 50 steps/s
MODE = 33  # 0: goes to positions
TORQUE = 40  # 0 off, 1 on, 2 damped. 128 would make this place the middle: never to be written
ACCELERATION = 41  # in 100 steps/s2; followed by the goal, a time that is not used, the speed
GOAL = 42
POSITION = 56
SPEED = 58  # in the unit that PHASE tells
STATUS = 65  # error bits
MOVING = 66

SETTINGS_END = TORQUE
STATE_END = MOVING + 1
STEPS_S2 = 100  # unit of ACCELERATION
COARSE_STEPS_S = 50  # unit of a speed without SPEED_IN_STEPS

ERRORS = {
    1: "voltage out of range",
    2: "position sensor broken",
    4: "too hot",
    8: "too much current",
    32: "overload",
}


def packet(servo_id: int, instruction: int, parameters: bytes) -> bytes:
    """A whole instruction."""
    inner = bytes((servo_id, len(parameters) + 2, instruction)) + parameters
    return b"\xff\xff" + inner + bytes((checksum(inner),))


def checksum(inner: bytes) -> int:
    """Of all that stands between FF FF and the checksum."""
    return ~sum(inner) & 0xFF


def read(servo_id: int, address: int, count: int) -> bytes:
    """Reads `count` registers of one servo."""
    return packet(servo_id, READ, bytes((address, count)))


def sync_read(servo_ids: Iterable[int], address: int, count: int) -> bytes:
    """Reads the same registers of several servos, which answer one after the other."""
    return packet(EVERYONE, SYNC_READ, bytes((address, count, *servo_ids)))


def sync_write(address: int, blocks: dict[int, bytes]) -> bytes:
    """Writes {servo id: block} from `address` on; blocks of one length. No servo answers."""
    (count,) = {len(block) for block in blocks.values()}
    parameters = b"".join(bytes((servo_id,)) + block for servo_id, block in blocks.items())
    return packet(EVERYONE, SYNC_WRITE, bytes((address, count)) + parameters)


def goal_block(position: int, speed: int, acceleration: int) -> bytes:
    """What is written from ACCELERATION on, in the registers' own units."""
    time = bytes(2)
    return (
        bytes((acceleration,)) + position.to_bytes(2, "little") + time + speed.to_bytes(2, "little")
    )


def find_answer(heard: bytes, servo_id: int, count: int) -> tuple[int, bytes] | None:
    """(error bits, registers) of the first whole answer of this servo with `count` registers."""
    head = answer_head(servo_id) + bytes((count + 2,))
    end = len(head) + 1 + count
    at = heard.find(head)
    while at >= 0:
        answer = heard[at : at + end + 1]
        if len(answer) == end + 1 and checksum(answer[2:end]) == answer[end]:
            return answer[4], answer[5:end]
        at = heard.find(head, at + 1)
    return None


def answer_head(servo_id: int) -> bytes:
    """What each packet to or from this servo begins with."""
    return bytes((0xFF, 0xFF, servo_id))


def word(registers: bytes, at: int) -> int:
    """Two bytes: 15 bits and a sign. `at` may count from the end."""
    size = registers[at] | (registers[at + 1] & 0x7F) << 8
    return -size if registers[at + 1] & 0x80 else size


class ServoState(NamedTuple):
    """What one servo tells; positions in steps."""

    torque_on: bool
    goal: int
    position: int
    speed: int  # in the servo's own unit, signed
    moving: bool
    errors: int  # bits of ERRORS

    @classmethod
    def parse(cls, errors: int, registers: bytes) -> ServoState:
        """From the error bits and the registers of an answer that ends with MOVING."""
        return cls(
            torque_on=registers[TORQUE - STATE_END] == 1,
            goal=word(registers, GOAL - STATE_END),
            position=word(registers, POSITION - STATE_END),
            speed=word(registers, SPEED - STATE_END),
            moving=registers[MOVING - STATE_END] != 0,
            errors=errors | registers[STATUS - STATE_END],
        )


def named(errors: int) -> list[str]:
    """The error bits in words."""
    return [name for bit, name in ERRORS.items() if errors & bit]
