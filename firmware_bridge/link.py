"""The serial line to a board with this project's firmware; PROTOCOL.md tells what goes over it.

A line may lose, break, repeat or delay whatever it likes. Each try of a request has a sequence
number of its own, and only an answer to one of these is believed; every request may be repeated,
since it tells where to be, not how far to go.
"""

from __future__ import annotations

import random
import termios
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple, Protocol

from firmware_bridge import protocol
from firmware_bridge.aim import PULSES, Pair
from firmware_bridge.driver import Command, Hold, Home, Identity, Move, Relax, Report, Status
from firmware_bridge.errors import HeadError, HeadMismatch, LinkError
from firmware_bridge.protocol import AxisSettings, Cause, Flag, Greeting, Reply, Result, State

TRIES = 6
REPLY_S = 0.05  # for each: 4 ms on the wire, 16 in some USB adapters, and what a busy host takes
GREET_S = 0.4  # of greeting a board that may be booting, at a time
PATIENCE_S = 5.0  # with a board that does not answer, before its port is opened anew
SETTLED_S = 2.0  # for an EEPROM to be written
LONGEST_S = 65.0  # of a move: its ms have 16 bits
NOT_OPEN = "the line to the head is not open: open() it first"
FIRMWARE = "firmware_bridge/firmware/edge_head.hex"
SETTINGS = (
    f"low <= home <= high within {protocol.HARD_LOW_US:g} .. {protocol.HARD_HIGH_US:g} us, slew "
    f"{protocol.SLOWEST_SLEW_US_PER_S} to 65535 us/s, a number below 2^32"
)
LOST = (OSError, termios.error)  # what a port raises when its device is gone

FRAME_BYTES = protocol.REPLY_HEAD.size + protocol.CRC.size + 2
STATE_BYTES = FRAME_BYTES + protocol.STATE.size
GREETING_BYTES = FRAME_BYTES + protocol.GREETING_START.size + protocol.GREETING_REST.size

CAUSES = {
    Cause.POWER_ON: "its power came back",
    Cause.EXTERNAL: "by its button or its port",
    Cause.BROWN_OUT: "its supply voltage broke down",
    Cause.WATCHDOG: "its program hung",
}


class Transport(Protocol):
    """What is asked of a port: what pyserial's has."""

    timeout: float | None

    def read(self, size: int) -> bytes:
        """Up to `size` bytes, as many as come within the timeout. Raises OSError."""

    def write(self, data: bytes) -> int | None:
        """Send the bytes. Raises OSError."""

    def close(self) -> None:
        """Let go of the port."""


class Answer(NamedTuple):
    """A reply to a request, and when it was true."""

    result: Result
    state: State
    t_s: float


class ServoBoard:
    """The driver of a head on a servo board; positions are pulse widths in microseconds.

    open_transport: opens the line, each time anew; raises OSError. Its timeout is set here; a name
    in its `port` is shown to people.
    clock: seconds; of Report.t_s, too. There is no other waiting than in the transport's read.
    rng: of sequence numbers and nonces.
    """

    def __init__(
        self,
        open_transport: Callable[[], Transport],
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self.greeting: Greeting | None = None  # of the board, with its settings
        self.faults: Counter[str] = Counter()
        self._open_transport = open_transport
        self._clock = clock
        self._rng = rng or random.SystemRandom()
        self._transport: Transport | None = None
        self._greeting_since_s: float | None = None  # a board that has not answered yet
        self._nonces: set[int] = set()  # that it was greeted with
        self._decoder = protocol.FrameDecoder()
        self._seq = 0
        self._pending_bytes = 0  # of a frame that has begun
        self._last: State | None = None
        self._relaxing = False  # its torque was switched off on command since then
        self._goal_us: Pair | None = None  # where our last command sent it; None: not known

    @property
    def port(self) -> str:
        """The name of the open line."""
        return str(getattr(self._transport, "port", None) or "the line")

    # --------------------------------------------------------------------------------------------
    # As a Driver

    def open(self) -> Identity:
        """Open the line and greet; see Driver.open.

        A line that is open is kept, since opening it resets many boards, and a board that boots
        takes up to 3 s to answer. After PATIENCE_S of silence it is opened anew.
        """
        if self._transport is None:
            self._connect()
        since_s = self._greeting_since_s
        if since_s is None:
            since_s = self._begin_greeting()
        greeting = self._greet()
        if greeting is None:
            message = (
                f"{self.port} can be opened, but no head answers there: flash its firmware "
                f"(edge-rjepa head flash --port {self.port}), or name another port"
            )
            if self._clock() - since_s > PATIENCE_S:
                self.close()
            raise LinkError(message)
        self._greeting_since_s = None
        return self._met(greeting)

    def request(self, command: Command) -> Report:
        """Send the command and tell what the board answered; see Driver.request."""
        self._relaxing |= isinstance(command, Relax)
        answer = self._ask(_message(command))
        result = answer.result
        if result not in (Result.OK, Result.CLIPPED):
            raise _refusal(command, result)
        if not isinstance(command, Status):
            self._goal_us = answer.state.goal_us
        return self._report(answer)

    def close(self) -> None:
        """Let go of the line."""
        transport, self._transport = self._transport, None
        self._greeting_since_s = None
        self._last = self._goal_us = None
        if transport is not None:
            with suppress(*LOST):  # it was gone before
                transport.close()

    # --------------------------------------------------------------------------------------------
    # Settings, which only such a board has

    def configure(self, board_id: int, pan: AxisSettings, tilt: AxisSettings) -> Identity:
        """Give the board a number, limits, home and speed of its axes, for good; returns anew who.

        Returns when the EEPROM has them. Raises HeadError when the board refuses them or cannot
        keep them, and for what the protocol cannot say.
        """
        message = protocol.Configure(board_id, pan, tilt)
        try:
            protocol.encode_request(0, message)
        except protocol.ProtocolError as error:  # a negative speed, say: no board would take it
            raise _refusal(message, Result.REFUSED) from error
        end_s = self._clock() + SETTLED_S
        while (result := self._ask(message).result) == Result.BUSY:
            self._await_eeprom(end_s)
        if result != Result.OK:
            raise _refusal(message, result)
        if self._await_eeprom(end_s).flags & Flag.EEPROM_FAILED:
            raise HeadError(
                "the board could not keep its settings: they hold until its power goes; its EEPROM "
                "may be worn out, use another board"
            )
        return self.open()

    def _await_eeprom(self, end_s: float) -> State:
        while (state := self._state()).flags & Flag.EEPROM_BUSY:
            if self._clock() >= end_s:
                raise HeadError(f"the board writes settings for {SETTLED_S:g} s: use another one")
        return state

    def _state(self) -> State:
        return self._ask(protocol.Status()).state

    # --------------------------------------------------------------------------------------------
    # Greeting

    def _connect(self) -> None:
        try:
            self._transport = self._open_transport()
            self._transport.timeout = REPLY_S
        except HeadError:
            raise
        except LOST as error:
            raise LinkError(f"the line cannot be opened: {_line(error)}") from error
        self._decoder = protocol.FrameDecoder()
        self._seq = self._rng.randrange(0x10000)
        self._pending_bytes = 0
        self._send(b"\0")  # ends whatever the board may have heard of a frame

    def _begin_greeting(self) -> float:
        """Since when there is a new series of greetings."""
        self._greeting_since_s = now_s = self._clock()
        self._nonces.clear()
        return now_s

    def _greet(self) -> Greeting | None:
        """The answer to a greeting of this series, if one comes within GREET_S."""
        end_s = self._clock() + GREET_S
        while self._clock() < end_s:
            nonce = self._rng.randrange(1, 2**32)
            self._nonces.add(nonce)
            self._say(protocol.Hello(nonce))
            for reply in self._heard(GREETING_BYTES):
                if isinstance(reply.body, Greeting) and reply.body.nonce in self._nonces:
                    return reply.body
                self.faults["stale replies"] += 1
        return None

    def _met(self, greeting: Greeting) -> Identity:
        """Who answered. Raises HeadMismatch for another protocol, and for impossible settings."""
        port = self.port
        if greeting.protocol != protocol.PROTOCOL:
            self.close()
            newer = greeting.protocol > protocol.PROTOCOL
            cure = "update this program" if newer else f"flash {FIRMWARE}"
            raise HeadMismatch(
                f"the firmware on {port} speaks protocol {greeting.protocol}, this program "
                f"{protocol.PROTOCOL}: {cure} (edge-rjepa head flash --port {port})"
            )
        wrong = protocol.impossible_settings(greeting)
        if wrong is not None:
            self.close()
            raise HeadMismatch(
                f"the board on {port} says {wrong}; settings are {SETTINGS}: flash {FIRMWARE} "
                f"(edge-rjepa head flash --port {port})"
            )
        self.greeting = greeting
        pan, tilt = greeting.pan, greeting.tilt
        version = ".".join(map(str, greeting.firmware))
        return Identity(
            name=f"servo board {greeting.board_id}, firmware {version}",
            port=port,
            unit="us",
            usual=PULSES,
            step=protocol.STEP_US,
            limits=((pan.low_us, pan.high_us), (tilt.low_us, tilt.high_us)),
            home=(pan.home_us, tilt.home_us),
            speed=(float(pan.slew_us_per_s), float(tilt.slew_us_per_s)),
            home_speed=(float(greeting.home_slew_us_per_s),) * 2,
            home_after_s=protocol.HOME_AFTER_S,
            longest_s=LONGEST_S,
        )

    # --------------------------------------------------------------------------------------------
    # Requests and replies

    def _ask(self, message: protocol.Request) -> Answer:
        """The board's answer. Raises LinkError when none of TRIES is answered."""
        if self._transport is None or self._greeting_since_s is not None:
            raise LinkError(NOT_OPEN)
        kind = protocol.KINDS[type(message)]
        sent_s: dict[int, float] = {}  # by sequence number
        for attempt in range(TRIES):
            now_s = self._clock()
            sent_s[self._say(message)] = now_s
            for reply in self._heard(STATE_BYTES):
                if reply.seq in sent_s and reply.kind == kind and isinstance(reply.body, State):
                    self.faults["retries"] += attempt
                    t_s = (sent_s[reply.seq] + self._clock()) / 2
                    return Answer(reply.result, reply.body, t_s)
                self.faults["stale replies"] += 1
        self.faults["retries"] += TRIES - 1
        self._goal_us = None  # it may have obeyed all the same
        self._begin_greeting()
        raise LinkError(f"{self.port} is open, but the head has stopped to answer")

    def _say(self, message: protocol.Request) -> int:
        """Send it once; its sequence number."""
        self._seq = (self._seq + 1) & 0xFFFF
        self._send(protocol.frame(protocol.encode_request(self._seq, message)))
        return self._seq

    def _heard(self, frame_bytes: int) -> Iterator[Reply]:
        """The replies that come within REPLY_S. frame_bytes: the length of the one waited for."""
        end_s = self._clock() + REPLY_S
        while self._clock() < end_s:
            data = self._receive(max(1, frame_bytes - self._pending_bytes))
            if not data:  # the transport has waited for as long
                return
            *ended, rest = data.rsplit(b"\0", 1)
            self._pending_bytes = len(rest) + (0 if ended else self._pending_bytes)
            bad_before = self._decoder.bad_frames
            payloads = self._decoder.feed(data)
            self.faults["bad frames"] += self._decoder.bad_frames - bad_before
            for payload in payloads:
                try:
                    yield protocol.decode_reply(payload)
                except protocol.ProtocolError:  # an echo, or what another protocol says
                    self.faults["bad frames"] += 1

    def _receive(self, size: int) -> bytes:
        transport = self._open_line()
        try:
            return transport.read(size)
        except LOST as error:
            raise self._gone(error) from error

    def _send(self, data: bytes) -> None:
        transport = self._open_line()
        try:
            transport.write(data)
        except LOST as error:
            raise self._gone(error) from error

    def _open_line(self) -> Transport:
        if self._transport is None:
            raise LinkError(NOT_OPEN)
        return self._transport

    def _gone(self, error: Exception) -> LinkError:
        port = self.port
        self.close()
        return LinkError(f"{port} is gone ({_line(error)}): plug the head in again")

    # --------------------------------------------------------------------------------------------
    # What the board answered

    def _report(self, answer: Answer) -> Report:
        state = answer.state
        before, self._last = self._last, state
        # One that was reset twice in a short time may run for longer now than it did before.
        torque_off = Flag.TORQUE_OFF in state.flags and not self._relaxing
        was_reset = before is not None and (
            _fell(state.uptime_ms, before.uptime_ms)
            or (torque_off and Flag.TORQUE_OFF not in before.flags)
        )
        self._relaxing = False
        events = []
        if was_reset:
            self.faults["resets"] += 1
            events.append(f"it was reset ({_causes(state.reset_cause)})")
        elif self._goal_us is not None and self._is_turned_by_another(state):
            events.append("somebody else has turned it: end the other program that uses its port")
        if was_reset or state.goal_us != self._goal_us:
            self._goal_us = None  # until the next command, so that it is told once
        if before and Flag.EEPROM_FAILED in state.flags & ~before.flags:
            events.append("it could not keep its settings: they hold until its power goes")
        return Report(
            t_s=answer.t_s,
            goal=state.goal_us,
            driven=state.driven_us,
            moving=Flag.MOVING in state.flags,
            torque_off=Flag.TORQUE_OFF in state.flags,
            remaining_s=1e-3 * state.remaining_ms,
            homing=Flag.HOMING in state.flags,
            host_lost=Flag.HOST_LOST in state.flags,
            was_reset=was_reset,
            clipped=answer.result == Result.CLIPPED,
            uptime_s=1e-3 * state.uptime_ms,
            faults={
                **self.faults,
                "bad frames at the board": state.bad_frames,
                "bytes lost at the board": state.overruns,
            },
            events=tuple(events),
        )

    def _is_turned_by_another(self, state: State) -> bool:
        """Whether it goes where neither we nor its own care for a silent host has sent it."""
        by_itself = Flag.HOST_LOST | Flag.TORQUE_OFF
        return state.goal_us != self._goal_us and not state.flags & by_itself


def _message(command: Command) -> protocol.Request:
    match command:
        case Status():
            return protocol.Status()
        case Move(pan, tilt, duration_s):
            return protocol.Move(pan, tilt, round(1e3 * duration_s))
        case Hold():
            return protocol.Hold()
        case Home():
            return protocol.Home()
        case Relax():
            return protocol.Relax()
    raise TypeError(f"{command!r} is no command of driver.py")


def _refusal(what: object, result: Result) -> HeadError:
    match result:
        case Result.UNKNOWN:
            return HeadMismatch(f"the firmware does not know {what}: flash {FIRMWARE}")
        case Result.NOT_NOW:
            return HeadError(
                "the board takes no settings while it moves or stands outside the new limits: "
                "relax it first, or move it inside them"
            )
    return HeadError(f"the board refuses {what}: settings are {SETTINGS}")


def _fell(uptime_ms: int, before_ms: int) -> bool:
    """Whether a clock of 32 bits was set back rather than went on, if need be past its end."""
    return (uptime_ms - before_ms) & 0xFFFFFFFF >= 1 << 31


def _causes(cause: Cause) -> str:
    named = [text for flag, text in CAUSES.items() if flag & cause]
    return ", ".join(named) or "why is not known"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
