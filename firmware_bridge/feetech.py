"""A head of two Feetech STS serial-bus servos (STS3215 and its kin), as on SO-100 and SO-101 arms.

Positions are steps: 4096 a turn, 0..4095. The driver sends three kinds of packet only: READ, SYNC
READ and SYNC WRITE, so that a servo set to answer nothing but reads serves too. SYNC WRITE has no
answer: what was written is read back, and written again where it did not arrive.

The protocol has no sequence number. The length of what is read serves as one: each reading of the
state begins at another register, so a late answer to one of the readings before has the wrong
length, and so has the echo of a half-duplex adapter that returns what was sent. The checksum has 8
bits: of packets with several wrong bytes one in some 256 passes. A servo may so hear another
goal than was sent, within its own limits, until it is read back, a few milliseconds later.

These servos know no silent host, as the head's own firmware does. When the host dies or the cable
is pulled they finish the last move and hold it, torque on, for as long as they have power; nothing
sends them home. Only their own limits of angle, temperature, voltage and load guard them: set the
angle limits in the servos, with the maker's tool. They are read at opening, and whatever is asked
is cut to them. The driver writes nothing that outlives a power cut.

Opening moves nothing and leaves torque as it is. A servo whose torque is off is first sent where it
is, then gets torque, then moves: it never jumps to what its goal register held.

Packets are made in feetech_packets.py and not by the maker's SDK. Two incompatible releases of that
share one module name; it opens its own port, waits busily, and believes any packet of the right
servo: no transport could be injected, no late answer recognised. The tests compare with it byte by
byte.
"""

from __future__ import annotations

import math
import termios
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple, Protocol

from firmware_bridge import feetech_packets as sts
from firmware_bridge.aim import STEPS, Limits, Pair
from firmware_bridge.driver import Command, Home, Identity, Move, Relax, Report, Status
from firmware_bridge.errors import HeadError, HeadMismatch, LinkError
from firmware_bridge.feetech_packets import ServoState

AXES = ("pan", "tilt")
FASTEST = 0x7FFF  # what the speed register holds
HARDEST = 254 * sts.STEPS_S2

TRIES = 8  # with ANSWER_S for each: a dead servo is noticed after 0.4 s
ANSWER_S = 0.05  # 28 ms at 38,400 baud, and up to 16 ms in the adapter
LENGTHS = 13  # in which the state is read: more than there are tries, none that of the settings
LOST = (OSError, termios.error)  # what a port raises when its device is gone
ARRIVED_STEPS = 4  # a servo rests this near its goal


class Transport(Protocol):
    """What is asked of a port: what pyserial's has."""

    timeout: float | None
    in_waiting: int

    def read(self, size: int) -> bytes:
        """Up to `size` bytes, as many as come within the timeout. Raises OSError."""

    def write(self, data: bytes) -> int | None:
        """Send the bytes. Raises OSError."""

    def reset_input_buffer(self) -> None:
        """Forget what came and was not read. Raises OSError or termios.error."""

    def close(self) -> None:
        """Let go of the port."""


class Seen(NamedTuple):
    """The states of both servos, and when."""

    t_s: float
    servos: tuple[ServoState, ServoState]


class StsBus:
    """Driver of two STS servos on one bus. Positions in steps, speeds in steps/s.

    open_transport: opens the line, each time anew; raises OSError. Its timeout is set here; a name
    in its `port` is shown to people.
    servo_ids: of pan and of tilt, 0..252.
    limits: (low, high) of pan and of tilt; the servos' own limits cut them further.
    speed, acceleration: the most of either axis, in steps/s and steps/s2. home_speed: on the way
    home, and where a servo is caught whose torque was off.
    clock: seconds; of Report.t_s, too. There is no other waiting than in the transport's read.
    Raises HeadError.
    """

    def __init__(
        self,
        open_transport: Callable[[], Transport],
        servo_ids: tuple[int, int] = (1, 2),
        limits: Limits = ((0, 4095), (0, 4095)),
        home: Pair = (2048, 2048),
        speed: float = 2400.0,
        home_speed: float = 300.0,
        acceleration: float = 10_000.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        if len(set(servo_ids)) != 2 or not all(0 <= one <= sts.LAST_ID for one in servo_ids):
            raise HeadError(f"servo ids are two different numbers of 0..252, not {servo_ids}")
        if not all(map(math.isfinite, (*limits[0], *limits[1], *home))):
            raise HeadError(f"limits and home are numbers, not {limits}, {home}")
        if not 0 < home_speed <= speed <= FASTEST:
            raise HeadError(f"0 < home_speed <= speed <= {FASTEST}: {home_speed:g}, {speed:g}")
        if not sts.STEPS_S2 <= acceleration <= HARDEST:
            raise HeadError(f"acceleration is {sts.STEPS_S2}..{HARDEST}, not {acceleration:g}")
        self._open_transport = open_transport
        self._ids = servo_ids
        self._wanted_limits = limits
        self._wanted_home = home
        self._speed = speed
        self._home_speed = home_speed
        self._acceleration = round(acceleration / sts.STEPS_S2)
        self._clock = clock
        self._line: Transport | None = None
        self._port = "no port"
        self._limits = limits
        self._speed_units = (1, 1)
        self._readings = 0
        self._faults: dict[str, int] = {}
        self._forget()

    def open(self) -> Identity:
        """Open the port and read the settings of both servos; see Driver.open.

        Raises LinkError when a servo does not answer, HeadMismatch when one cannot be used.
        """
        self.close()
        try:
            self._line = self._open_transport()
            self._line.timeout = ANSWER_S
            self._port = str(getattr(self._line, "port", None) or "a port without a name")
            _, answers = self._read_both(lambda: (0, sts.SETTINGS_END))
            pan, tilt = (registers for _, registers in answers)
            self._limits = self._usable_limits(0, pan), self._usable_limits(1, tilt)
        except HeadError:
            self.close()
            raise
        except LOST as error:
            self.close()
            raise LinkError(f"the servo bus does not open: {error}") from error
        self._speed_units = speed_unit(pan), speed_unit(tilt)
        return Identity(
            name=f"Feetech {model(pan)} (id {self._ids[0]}) and {model(tilt)} (id {self._ids[1]})",
            port=self._port,
            unit="steps",
            usual=STEPS,
            step=1.0,
            limits=self._limits,
            home=self._cut(self._wanted_home),
            speed=(self._speed, self._speed),
            home_speed=(self._home_speed, self._home_speed),
            home_after_s=None,
        )

    def request(self, command: Command) -> Report:
        """Obey, and tell the state after it; see Driver.request.

        Raises LinkError when a servo does not answer, HeadError when one answers but does not obey
        and for a position or a duration that is no number.
        """
        self._open_line()
        seen = self._look()
        self._notice(seen)
        if isinstance(command, Status):
            return self._report(seen)
        self._homing = isinstance(command, Home)
        if isinstance(command, Relax):
            return self._report(self._relax())
        if isinstance(command, Move):
            wanted = command.pan, command.tilt
            seen = self._drive(seen, wanted, self._speed, command.duration_s)
            return self._report(seen, clipped=self._is_outside(wanted))
        goal = self._wanted_home if isinstance(command, Home) else positions(seen)
        return self._report(self._drive(seen, goal, self._home_speed))

    def close(self) -> None:
        """Let go of the port. The servos stay as they are, torque too."""
        line, self._line = self._line, None
        self._forget()
        if line is not None:
            with suppress(*LOST):  # the device is gone
                line.close()

    def _forget(self) -> None:
        """What the servos were sent and what was heard of them."""
        self._commanded_goal: tuple[int, int] | None = None
        self._commanded_torque: bool | None = None
        self._errors = [0, 0]
        self._was_reset = False
        self._events: list[str] = []
        self._arrival_s = -math.inf
        self._homing = False

    # Commands

    def _drive(self, seen: Seen, wanted: Pair, speed: float, duration_s: float = 0.0) -> Seen:
        """Send both axes to the wanted position, to arrive together; torque on first."""
        if not all(map(math.isfinite, (*wanted, duration_s))):
            raise HeadError(f"a position and a duration are numbers, not {wanted}, {duration_s}")
        goal = self._cut(wanted)
        if not has_torque(seen):
            self._write_goal(self._cut(positions(seen)), self._home_speed, self._home_speed)
            self._write_torque(True)
        acceleration = float(self._acceleration * sts.STEPS_S2)
        distances = [
            max(abs(where - servo.position), (servo.speed * unit) ** 2 / (2.0 * acceleration))
            for where, servo, unit in zip(goal, seen.servos, self._speed_units, strict=True)
        ]  # one that turns fast has to come back from where it can stop
        travel_s = max(duration_s, *(quickest_s(d, speed, acceleration) for d in distances))
        pan, tilt = (speed_for(d, travel_s, acceleration, speed) for d in distances)
        self._arrival_s = self._clock() + travel_s
        seen = self._write_goal(goal, pan, tilt)
        self._commanded_torque = True
        return seen

    def _relax(self) -> Seen:
        self._arrival_s = -math.inf
        self._commanded_goal = None
        return self._write_torque(False)

    def _write_goal(self, goal: tuple[int, int], *speeds: float) -> Seen:
        registers = zip(self._ids, goal, speeds, self._speed_units, strict=True)
        blocks = {
            servo: sts.goal_block(where, max(1, round(speed / unit)), self._acceleration)
            for servo, where, speed, unit in registers
        }
        seen = self._write(sts.ACCELERATION, blocks, lambda axis, servo: servo.goal == goal[axis])
        self._commanded_goal = goal
        return seen

    def _write_torque(self, torque_on: bool) -> Seen:
        blocks = {servo: bytes((torque_on,)) for servo in self._ids}
        seen = self._write(sts.TORQUE, blocks, lambda _, servo: servo.torque_on == torque_on)
        self._commanded_torque = torque_on
        return seen

    def _write(
        self, address: int, blocks: dict[int, bytes], arrived: Callable[[int, ServoState], bool]
    ) -> Seen:
        """Write registers until both servos tell that they have them."""
        for _ in range(TRIES):
            self._send(sts.sync_write(address, blocks))
            seen = self._look()
            deaf = [axis for axis, servo in enumerate(seen.servos) if not arrived(axis, servo)]
            if not deaf:
                return seen
            for axis in deaf:
                self._count(f"{AXES[axis]} did not take a command")
        axis = deaf[0]
        trouble = ", ".join(sts.named(seen.servos[axis].errors)) or "it names no error"
        raise HeadError(
            f"{self._who(axis)} answers but does not obey ({trouble}): end that, "
            "or switch its power off and on"
        )

    # What the servos tell

    def _report(self, seen: Seen, clipped: bool = False) -> Report:
        self._notice(seen)
        torque_off = not has_torque(seen)
        moving = not torque_off and self._is_moving(seen)
        self._homing = self._homing and moving
        events, self._events = self._events, []
        was_reset, self._was_reset = self._was_reset, False
        return Report(
            t_s=seen.t_s,
            goal=positions(seen) if torque_off else goals(seen),
            driven=positions(seen),
            moving=moving,
            torque_off=torque_off,
            remaining_s=max(0.0, self._arrival_s - seen.t_s) if moving else 0.0,
            homing=self._homing,
            was_reset=was_reset,
            clipped=clipped,
            faults=dict(self._faults),
            events=tuple(events),
        )

    def _is_moving(self, seen: Seen) -> bool:
        """By the servos' own flags, which rise late, or because a move was just begun."""
        if any(servo.moving for servo in seen.servos):
            return True
        far = any(abs(one.goal - one.position) > ARRIVED_STEPS for one in seen.servos)
        return far and seen.t_s < self._arrival_s

    def _notice(self, seen: Seen) -> None:
        """Keep for the next report what happened to the servos that nobody commanded."""
        for axis, servo in enumerate(seen.servos):
            for trouble in sts.named(servo.errors & ~self._errors[axis]):
                self._count(f"{AXES[axis]} {trouble}")
                self._events.append(f"{self._who(axis)}: {trouble}")
            self._errors[axis] = servo.errors
        if self._commanded_torque and not has_torque(seen):
            self._commanded_torque = None
            self._events.append("a servo lost its torque: its power failed, or it protects itself")
        if self._commanded_goal not in (None, goals(seen)):
            self._commanded_goal = None
            self._was_reset = True
            self._events.append("a servo was reset, or something else on the bus has moved it")

    def _look(self) -> Seen:
        """Read the state of both servos."""
        t_s, answers = self._read_both(self._next_span)
        pan, tilt = (ServoState.parse(*answer) for answer in answers)
        return Seen(t_s, (pan, tilt))

    def _next_span(self) -> tuple[int, int]:
        """(first register, how many): all of the state, of another length than those before."""
        self._readings += 1
        first = sts.TORQUE - self._readings % LENGTHS
        return first, sts.STATE_END - first

    def _read_both(
        self, next_span: Callable[[], tuple[int, int]]
    ) -> tuple[float, list[tuple[int, bytes]]]:
        """When both servos were read, and their answers: (error bits, registers).

        First both at once; then one by one, for where an answer was lost the other may be too.
        Raises LinkError.
        """
        for attempt in range(TRIES):
            first, count = next_span()
            start_s = self._clock()
            if attempt == 0:
                heard = self._ask(sts.sync_read(self._ids, first, count), self._ids, count)
            answers: list[tuple[int, bytes]] = []
            for servo in self._ids:
                if attempt > 0:
                    heard = self._ask(sts.read(servo, first, count), (servo,), count)
                answer = sts.find_answer(heard, servo, count)
                if answer is None:
                    break
                answers.append(answer)
            else:
                return (start_s + self._clock()) / 2, answers
            axis, garbled = len(answers), sts.answer_head(servo) in heard
            self._count(f"{AXES[axis]} {'garbled its answer' if garbled else 'did not answer'}")
        if garbled:
            raise LinkError(
                f"{self._who(axis)} answers garbled: check the wiring, and that no other has its id"
            )
        raise LinkError(
            f"{self._who(axis)} does not answer: check its plug, its power, its id, its baud rate"
        )

    def _ask(self, instruction: bytes, servos: Sequence[int], count: int) -> bytes:
        """All that was heard until each of these servos has answered, or the time is over.

        Without what was said itself, which some adapters return.
        """
        self._send(instruction)
        deadline_s = self._clock() + ANSWER_S
        heard = b""
        while self._clock() < deadline_s:
            heard += self._hear()
            if all(sts.find_answer(heard, one, count) for one in servos):
                break
        return heard.removeprefix(instruction)

    # The line

    def _send(self, instruction: bytes) -> None:
        """Say it into silence: what came before is no answer."""
        line = self._open_line()
        try:
            line.reset_input_buffer()
            line.write(instruction)
        except LOST as error:
            raise self._lost(error) from error

    def _hear(self) -> bytes:
        line = self._open_line()
        try:
            return line.read(max(1, line.in_waiting))
        except LOST as error:
            raise self._lost(error) from error

    def _open_line(self) -> Transport:
        if self._line is None:
            raise LinkError("the bus is not open: call open() first")
        return self._line

    def _lost(self, error: Exception) -> LinkError:
        return LinkError(f"{self._port} is gone: plug the adapter in again ({error})")

    # Small things

    def _usable_limits(self, axis: int, registers: bytes) -> Pair:
        """The wanted limits of an axis cut with those in its servo. Raises HeadMismatch."""
        who = self._who(axis)
        if registers[sts.BYTE_ORDER] != 0:
            raise HeadMismatch(f"{who} is of the SCS series: use servos of the STS series")
        if registers[sts.MODE] != 0:
            raise HeadMismatch(f"{who} turns without end: set its mode (register 33) to 0")
        lowest, highest = sts.word(registers, sts.LOWEST), sts.word(registers, sts.HIGHEST)
        if not 0 <= lowest < highest:
            raise HeadMismatch(
                f"{who} has no angle limits (registers 9 and 11: {lowest}, {highest}): set them"
            )
        low, high = self._wanted_limits[axis]
        low, high = math.ceil(max(low, lowest)), math.floor(min(high, highest))
        if low >= high:
            raise HeadMismatch(
                f"{who} may go from {lowest} to {highest}, which leaves nothing of the limits "
                f"{self._wanted_limits[axis]}: correct either"
            )
        return low, high

    def _cut(self, wanted: Pair) -> tuple[int, int]:
        """The nearest whole steps inside the limits."""
        pan, tilt = (
            round(min(max(where, low), high))
            for where, (low, high) in zip(wanted, self._limits, strict=True)
        )
        return pan, tilt

    def _is_outside(self, wanted: Pair) -> bool:
        limits = zip(wanted, self._limits, strict=True)
        return any(not low <= where <= high for where, (low, high) in limits)

    def _who(self, axis: int) -> str:
        return f"the {AXES[axis]} servo (id {self._ids[axis]}) on {self._port}"

    def _count(self, fault: str) -> None:
        self._faults[fault] = self._faults.get(fault, 0) + 1


def positions(seen: Seen) -> Pair:
    pan, tilt = seen.servos
    return pan.position, tilt.position


def goals(seen: Seen) -> tuple[int, int]:
    pan, tilt = seen.servos
    return pan.goal, tilt.goal


def has_torque(seen: Seen) -> bool:
    return all(servo.torque_on for servo in seen.servos)


def model(settings: bytes) -> str:
    return f"model {settings[sts.MODEL]}.{settings[sts.MODEL + 1]}"


def speed_unit(settings: bytes) -> int:
    """Of the speed register, in steps/s."""
    return 1 if settings[sts.PHASE] & sts.SPEED_IN_STEPS else sts.COARSE_STEPS_S


def quickest_s(distance: float, speed: float, acceleration: float) -> float:
    """How long a move takes from rest to rest at this top speed: a trapezoid, or a triangle."""
    if distance * acceleration < speed * speed:
        return 2.0 * math.sqrt(distance / acceleration)
    return distance / speed + speed / acceleration


def speed_for(distance: float, travel_s: float, acceleration: float, speed: float) -> float:
    """The top speed, not above `speed`, with which a move from rest to rest takes travel_s.

    It solves travel_s = distance / v + v / acceleration for the smaller v.
    """
    reach = acceleration * travel_s
    return min(
        speed, (reach - math.sqrt(max(0.0, reach * reach - 4 * acceleration * distance))) / 2
    )
