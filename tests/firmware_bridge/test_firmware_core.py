"""The firmware's core, the shipping C, against the codec and an independent model of its motion."""

import ctypes
import json
import math
import random
import subprocess
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_bridge import protocol
from firmware_bridge.protocol import (
    AxisSettings,
    Cause,
    Configure,
    Flag,
    FrameDecoder,
    Hello,
    Hold,
    Home,
    Kind,
    Move,
    Relax,
    Reply,
    Result,
    Status,
    decode_reply,
    encode_request,
    frame,
)
from tests.firmware_bridge.core_board import FIRMWARE, POWER_ON, WATCHDOG, Core, library
from tests.tools import need

GOLDEN = json.loads(protocol.VECTORS.read_text(encoding="utf-8"))
FLASH, RAM = 8192, 512  # bytes: what the firmware may use
PERIOD_MS = 20
COPY_BYTES = 26  # of the settings in EEPROM: layout, generation, settings, CRC
BROWN_OUT, EXTERNAL = 4, 2


class Board(Core):
    """The core with a host that asks and reads."""

    def __init__(self, folder):
        super().__init__(folder)
        self._lib.host_eeprom.restype = ctypes.POINTER(ctypes.c_uint8 * 64)
        self._seq = 0

    @property
    def eeprom(self):
        return self._lib.host_eeprom().contents

    def age(self, milliseconds):
        self._lib.host_age(ctypes.c_uint32(milliseconds))

    def tell(self, message) -> Reply:
        """The reply to the message; it takes no time."""
        self._seq = (self._seq + 1) % 65536
        self.feed(frame(encode_request(self._seq, message)))
        [payload] = FrameDecoder().feed(self.read())
        reply = decode_reply(payload)
        assert (reply.seq, reply.kind) == (self._seq, protocol.KINDS[type(message)])
        return reply

    def state(self):
        return self.tell(Status()).body

    def pulses_of(self, seconds):
        """The pulses of the next seconds, as (t_s, pan_us, tilt_us); the host stays awake."""
        self.pulses.clear()
        for _ in range(round(seconds / 0.1)):
            self.run(0.1)
            self.state()
        return np.array(self.pulses).reshape(-1, 3)

    def save(self, message):
        """Configure and wait until it is written."""
        assert self.tell(message).result == Result.OK
        while self.state().flags & Flag.EEPROM_BUSY:
            self.run(0.05)


@pytest.fixture
def board(tmp_path):
    return Board(tmp_path)


@pytest.fixture(scope="module")
def framing():
    """framing.c alone."""
    return ctypes.CDLL(str(library()))


WIDE = AxisSettings(600.0, 2400.0, 1450.0, 3000)
SLOW = AxisSettings(900.0, 2100.0, 1500.0, 700)


# ------------------------------------------------------------------------------------------------
# Frames: both sides agree


def encoded_by_c(framing, payload: bytes) -> bytes:
    room = ctypes.create_string_buffer(protocol.LONGEST_FRAME)
    size = framing.frame_encode(payload, ctypes.c_uint8(len(payload)), room)
    return room.raw[:size]


def decoded_by_c(framing, stream: bytes) -> tuple[list[bytes], int]:
    """(payloads, bad frames) that the C decoder finds."""
    decoder = ctypes.create_string_buffer(128)  # a Decoder: its bytes, then its size
    room = protocol.LONGEST_PAYLOAD + protocol.CRC.size
    framing.decoder_begin(decoder)
    payloads, bad = [], 0
    for byte in stream:
        event = framing.decoder_take(decoder, ctypes.c_uint8(byte))
        if event == 1:
            payloads.append(decoder.raw[: decoder.raw[room]])
        bad += event == 2
    return payloads, bad


@pytest.mark.parametrize("golden", GOLDEN["requests"] + GOLDEN["replies"] + [GOLDEN["longest"]])
def test_golden_frames_in_c(framing, golden):
    payload, whole = bytes.fromhex(golden["payload"]), bytes.fromhex(golden["frame"])
    assert encoded_by_c(framing, payload) == whole
    assert decoded_by_c(framing, whole) == ([payload], 0)


@pytest.mark.parametrize("golden", GOLDEN["bad"], ids=lambda golden: golden["why"])
def test_golden_broken_frames_in_c(framing, golden):
    assert decoded_by_c(framing, bytes.fromhex(golden["frame"])) == ([], 1)


pieces = st.one_of(
    st.just(b"\0"),
    st.binary(max_size=60),
    st.binary(min_size=3, max_size=40).map(frame),
    st.binary(max_size=60).map(lambda data: protocol.cobs(data) + b"\0"),
    st.sampled_from([bytes.fromhex(golden["frame"]) for golden in GOLDEN["bad"]]),
)


@given(st.lists(pieces, max_size=5).map(b"".join))
def test_both_decoders_agree_on_any_stream(framing, stream):
    decoder = FrameDecoder()
    payloads = decoder.feed(stream)
    assert decoded_by_c(framing, stream) == (payloads, decoder.bad_frames)


@given(st.binary(min_size=3, max_size=40))
def test_both_encoders_agree(framing, payload):
    assert encoded_by_c(framing, payload) == frame(payload)


# ------------------------------------------------------------------------------------------------
# What it says


def test_the_greeting(board):
    greeting = board.tell(Hello(0xDEADBEEF)).body
    assert greeting == protocol.Greeting(
        0xDEADBEEF, 1, (1, 0, 0), 0, 0, AxisSettings(), AxisSettings(), 500
    )


def test_a_board_that_has_just_started(board):
    board.run(1.234)
    state = board.state()
    assert state.flags == Flag.TORQUE_OFF | Flag.DEFAULT_SETTINGS
    assert state.goal_us == (1500.0, 1500.0) and state.driven_us is None
    assert (state.uptime_ms, state.reset_cause) == (1234, Cause.POWER_ON)
    assert (state.bad_frames, state.overruns, state.remaining_ms) == (0, 0, 0)


def test_it_never_speaks_unasked(board):
    board.tell(Move(1600.0, 1400.0))
    board.run(20.0)
    assert board.read() == b""


def test_limits_are_obeyed_and_told(board):
    assert board.tell(Move(1000.0, 2000.0)).result == Result.OK
    reply = board.tell(Move(0.0, 32767.5))
    assert reply.result == Result.CLIPPED and reply.body.goal_us == (1000.0, 2000.0)


@pytest.mark.parametrize("kind", [Kind.HELLO, Kind.MOVE, Kind.CONFIGURE, Kind.STATUS])
def test_a_wrong_length_is_refused_and_changes_nothing(board, kind):
    board.tell(Hold())
    before = board.state()
    length = protocol.BODIES[kind].size
    for wrong in {length + 1, abs(length - 1)} - {length}:
        board.feed(frame(protocol.HEAD.pack(4, kind) + b"\x10" * wrong))
        [payload] = FrameDecoder().feed(board.read())
        assert decode_reply(payload) == Reply(4, kind, Result.REFUSED, before)


@pytest.mark.parametrize("kind", [0, 8, 99, 0x7F])
def test_an_unknown_kind_is_told(board, kind):
    board.feed(frame(protocol.HEAD.pack(4, kind)))
    [payload] = FrameDecoder().feed(board.read())
    assert decode_reply(payload)[:3] == (4, kind, Result.UNKNOWN)


def test_broken_frames_are_counted_and_not_answered(board):
    for golden in GOLDEN["bad"]:
        board.feed(bytes.fromhex(golden["frame"]))
    assert board.read() == b""
    assert board.state().bad_frames == len(GOLDEN["bad"])
    board.feed(b"\x05\0" * 70000)
    assert board.state().bad_frames == 65535


# ------------------------------------------------------------------------------------------------
# Motion, against a model in fractions


def half_us(value) -> float:
    """Towards zero, to a whole half microsecond."""
    return math.trunc(2 * value) / 2


def expected_way(start, goal, slews, duration_ms):
    """(pan_us, tilt_us) of each pulse after the first, by the words of PROTOCOL.md."""
    ways = [Fraction(2 * (b - a)) / 2 for a, b in zip(start, goal, strict=True)]
    if not any(ways):
        return []
    longest_ms = max(
        [abs(way) / slew * 1000 for way, slew in zip(ways, slews, strict=True)] + [duration_ms]
    )
    count = math.ceil(Fraction(longest_ms) / PERIOD_MS)
    return [
        tuple(a + half_us(way * k / count) for a, way in zip(start, ways, strict=True))
        for k in range(1, count + 1)
    ]


positions = st.integers(1200, 4800).map(lambda ticks: 0.5 * ticks)
slews = st.integers(25, 20000)


@pytest.mark.slow
@given(
    st.tuples(positions, positions),
    st.tuples(slews, slews),
    st.one_of(st.just(0), st.integers(1, 2500)),
)
@settings(max_examples=60, deadline=None)
def test_every_pulse_of_a_move_is_where_the_model_has_it(tmp_path_factory, goal, slew, duration_ms):
    board = Board(tmp_path_factory.mktemp("board"))
    axes = (WIDE._replace(slew_us_per_s=each) for each in slew)
    board.save(Configure(1, *axes))
    board.tell(Hold())
    board.run(0.1)  # torque on, at home
    start = (1450.0, 1450.0)
    told = board.tell(Move(*goal, duration_ms)).body
    way = expected_way(start, goal, slew, duration_ms)[:3000]
    assert told.remaining_ms == min(65535, PERIOD_MS * len(way)) or len(way) == 3000
    got = board.pulses_of(PERIOD_MS * len(way) / 1000 + 0.2)
    assert np.all(np.diff(got[:, 0]) == pytest.approx(0.02, abs=1e-9))
    assert [tuple(pulse) for pulse in got[: len(way), 1:]] == way
    if len(way) < 3000:
        assert np.all(got[len(way) :, 1:] == goal)
        assert not board.state().flags & Flag.MOVING
    steps = np.abs(np.diff(np.vstack([start, got[:, 1:]]), axis=0))
    assert np.all(steps <= np.ceil(np.array(slew) / 25) / 2)


def test_a_move_arrives_when_it_was_told_to(board):
    board.tell(Hold())
    board.run(0.1)
    commanded_s = board.now_s
    board.tell(Move(1600.0, 1010.0, 1000))
    pulses = board.pulses_of(1.3)
    moving = pulses[:, 1:] != (1600.0, 1010.0)
    arrived = pulses[np.argmin(moving, axis=0), 0] - commanded_s
    assert arrived[0] == arrived[1] == pytest.approx(1.0, abs=0.021)


def test_the_slower_axis_sets_the_pace(board):
    board.save(Configure(1, WIDE, SLOW))
    board.tell(Hold())
    board.run(0.1)
    reply = board.tell(Move(1500.0, 2000.0))  # tilt has 500 us at 700 us/s
    assert reply.body.remaining_ms == 20 * math.ceil(500 / 700 / 0.02)


def test_a_way_longer_than_a_minute_is_told_as_such(board):
    board.save(Configure(1, AxisSettings(500.0, 2500.0, 500.0, 25)))
    assert board.tell(Move(2500.0, 1500.0)).body.remaining_ms == 65535
    board.pulses_of(20.0)
    assert board.state().remaining_ms == pytest.approx(60_000, abs=200)


def test_a_newer_move_starts_from_where_it_is(board):
    board.tell(Move(2000.0, 1000.0, 1000))
    board.run(0.5)
    here = board.state().driven_us
    board.tell(Move(*here, 500))
    assert board.state().flags & Flag.MOVING == 0
    assert np.all(board.pulses_of(0.3)[:, 1:] == here)


def test_the_same_move_again_goes_to_the_same_place(board):
    board.tell(Move(2000.0, 1000.0))
    board.run(0.1)
    board.tell(Move(2000.0, 1000.0))
    assert np.all(board.pulses_of(0.5)[-1, 1:] == (2000.0, 1000.0))


def test_hold_stops_it_at_once(board):
    board.tell(Move(2000.0, 1000.0, 1000))
    board.run(0.5)
    here = board.state().driven_us
    reply = board.tell(Hold())
    assert reply.body.goal_us == reply.body.driven_us == here
    assert np.all(board.pulses_of(0.4)[:, 1:] == here)


def test_home_is_slow(board):
    board.tell(Move(2000.0, 1500.0))
    board.pulses_of(0.5)
    reply = board.tell(Home())
    assert reply.body.flags & Flag.HOMING and reply.body.remaining_ms == 1000  # 500 us at 500 us/s
    assert board.pulses_of(1.1)[-1, 1] == 1500.0
    assert board.state().flags == Flag.DEFAULT_SETTINGS


def test_hold_ends_homing(board):
    assert board.tell(Home()).body.flags & Flag.MOVING, "it wakes"
    assert not board.tell(Hold()).body.flags & Flag.HOMING


def test_a_slew_slower_than_homing_holds_on_the_way_home(board):
    board.save(Configure(1, WIDE, WIDE._replace(slew_us_per_s=100)))
    board.tell(Move(1450.0, 1550.0))
    board.pulses_of(1.2)
    assert board.tell(Home()).body.remaining_ms == 1000


def test_relax_ends_the_pulses_and_the_next_one_is_where_the_last_was(board):
    board.tell(Move(1800.0, 1250.0))
    board.pulses_of(0.5)
    reply = board.tell(Relax())
    assert reply.body.driven_us is None and reply.body.goal_us == (1800.0, 1250.0)
    assert len(board.pulses_of(1.0)) == 0
    board.tell(Move(1000.0, 1250.0))
    assert tuple(board.pulses_of(0.1)[0, 1:]) == (1800.0, 1250.0)


def test_relax_takes_back_the_pulse_that_was_asked_for(board):
    board.tell(Hold())
    board.run(0.0985)  # 1.5 ms before the next pulse
    board.pulses.clear()
    board.tell(Relax())
    assert len(board.pulses_of(0.1)) == 0


# ------------------------------------------------------------------------------------------------
# Silence


def test_silence_holds_then_homes(board):
    board.tell(Move(2000.0, 1000.0, 5000))
    board.pulses.clear()
    board.run(6.0)
    pulses = np.array(board.pulses)
    t_s, pan_us = pulses[:, 0], pulses[:, 1]
    still = np.flatnonzero(np.diff(pan_us) == 0)
    held_s, homing_s = t_s[still[0]], t_s[still[np.flatnonzero(np.diff(still) > 1)[0]] + 1]
    assert held_s == pytest.approx(0.5, abs=0.025)
    assert homing_s == pytest.approx(3.0, abs=0.025)
    assert tuple(pulses[-1, 1:]) == (1500.0, 1500.0)
    assert np.abs(np.diff(pan_us)[t_s[1:] > 2.9]).max() <= 10.0  # 500 us/s
    flags = board.state().flags
    assert flags & Flag.HOST_LOST and not flags & Flag.HOMING
    assert board.state().flags & Flag.HOST_LOST, "it is told until a command to move"
    assert not board.tell(Move(1500.0, 1500.0)).body.flags & Flag.HOST_LOST


def test_each_silence_is_minded_anew(board):
    for _ in range(2):
        board.tell(Move(2000.0, 1000.0))
        board.pulses_of(0.6)
        assert board.state().driven_us == (2000.0, 1000.0)
        board.run(5.0)
        state = board.state()
        assert state.driven_us == (1500.0, 1500.0) and state.flags & Flag.HOST_LOST


def test_a_host_that_speaks_again_does_not_stop_it_on_its_way_home(board):
    board.tell(Move(2000.0, 1000.0))
    board.pulses_of(0.6)
    board.run(3.5)
    assert board.state().flags & Flag.HOMING
    assert tuple(board.pulses_of(1.0)[-1, 1:]) == (1500.0, 1500.0)


def test_a_heartbeat_is_enough(board):
    board.tell(Move(2000.0, 1000.0, 5000))
    for _ in range(12):
        board.run(0.49)
        assert not board.state().flags & Flag.HOST_LOST
    assert board.state().driven_us == (2000.0, 1000.0)


def test_broken_frames_are_no_sign_of_life(board):
    board.tell(Move(2000.0, 1000.0))
    for _ in range(60):
        board.run(0.1)
        board.feed(b"\x03\x01\x02\0")
    assert board.state().driven_us == (1500.0, 1500.0)


def test_a_limp_head_stays_limp(board):
    board.tell(Hold())
    board.tell(Relax())
    board.run(0.02)
    board.pulses.clear()
    board.run(10.0)
    assert not board.pulses and board.state().flags == Flag.TORQUE_OFF | Flag.DEFAULT_SETTINGS


def test_the_clock_may_wrap(board):
    board.age(2**32 - 700)
    board.tell(Move(2000.0, 1000.0, 5000))
    board.run(0.49)
    assert not board.state().flags & Flag.HOST_LOST
    board.run(0.45)
    state = board.state()
    assert state.uptime_ms < 1000 and not state.flags & Flag.HOST_LOST
    board.run(0.51)
    assert board.state().flags & Flag.HOST_LOST


# ------------------------------------------------------------------------------------------------
# Resets


@pytest.mark.parametrize("cause", [WATCHDOG, EXTERNAL, 0])
def test_after_a_reset_it_is_limp_and_begins_where_it_was(board, cause):
    board.tell(Move(1800.0, 1250.0))
    board.pulses_of(0.5)
    board.reset(cause)
    assert board.pulses_of(1.0).size == 0
    state = board.state()
    assert state.flags & Flag.TORQUE_OFF and state.reset_cause == cause and state.uptime_ms < 1100
    board.tell(Move(1000.0, 2000.0))
    assert tuple(board.pulses_of(0.1)[0, 1:]) == (1800.0, 1250.0)


@pytest.mark.parametrize("cause", [POWER_ON, BROWN_OUT])
def test_after_a_power_cut_it_begins_at_home(board, cause):
    board.tell(Move(1800.0, 1250.0))
    board.pulses_of(0.5)
    board.reset(cause)
    assert board.pulses_of(1.0).size == 0
    board.tell(Move(1000.0, 2000.0))
    assert tuple(board.pulses_of(0.1)[0, 1:]) == (1500.0, 1500.0)


@pytest.mark.parametrize("byte", range(8))
def test_damaged_memory_is_not_believed(board, byte):
    keep = (ctypes.c_uint8 * 8).in_dll(board._lib, "board_keep")
    board.tell(Move(1800.0, 1250.0))
    board.pulses_of(0.5)
    keep[byte] ^= 0x10
    board.reset(WATCHDOG)
    assert board.state().goal_us == (1500.0, 1500.0)


def test_random_memory_is_not_believed(board):
    keep = (ctypes.c_uint8 * 8).in_dll(board._lib, "board_keep")
    rng = random.Random(1)
    for fill in [bytes(8), b"\xff" * 8, *(rng.randbytes(8) for _ in range(2000))]:
        keep[:] = fill
        board.reset(0)
        assert board.state().goal_us == (1500.0, 1500.0)


# ------------------------------------------------------------------------------------------------
# Settings


def test_settings_are_obeyed_and_kept(board):
    board.save(Configure(77, WIDE, SLOW))
    assert not board.state().flags & Flag.DEFAULT_SETTINGS
    for cause in (WATCHDOG, POWER_ON):
        board.reset(cause)
        greeting = board.tell(Hello(1)).body
        assert (greeting.board_id, greeting.pan, greeting.tilt) == (77, WIDE, SLOW)
    assert board.tell(Move(0.0, 4000.0)).body.goal_us == (600.0, 2100.0)


@pytest.mark.parametrize(
    "axis",
    [
        AxisSettings(499.5, 2000.0, 1500.0, 3000),
        AxisSettings(1000.0, 2500.5, 1500.0, 3000),
        AxisSettings(1000.0, 2000.0, 999.5, 3000),
        AxisSettings(1000.0, 2000.0, 2000.5, 3000),
        AxisSettings(2000.0, 1000.0, 1500.0, 3000),
        AxisSettings(1000.0, 2000.0, 1500.0, 24),
    ],
)
def test_settings_that_cannot_be_are_refused(board, axis):
    for message in (Configure(1, axis, SLOW), Configure(1, SLOW, axis)):
        assert board.tell(message).result == Result.REFUSED
        assert board.tell(Hello(1)).body.pan == AxisSettings()
    assert bytes(board.eeprom) == b"\xff" * 64


def test_settings_wait_for_the_eeprom(board):
    assert board.tell(Configure(1, WIDE, WIDE)).result == Result.OK
    board.run(0.05)
    assert board.tell(Configure(2, SLOW, SLOW)).result == Result.BUSY
    board.run(0.1)
    assert board.tell(Configure(2, SLOW, SLOW)).result == Result.OK


def test_the_same_settings_again_spare_the_eeprom(board):
    board.save(Configure(1, WIDE, WIDE))
    kept = bytes(board.eeprom)
    board.save(Configure(1, WIDE, WIDE))
    assert bytes(board.eeprom) == kept


def test_new_limits_never_turn_the_head(board):
    board.tell(Move(2000.0, 1500.0))
    narrow = Configure(1, AxisSettings(1400.0, 1600.0, 1500.0, 3000))
    assert board.tell(narrow).result == Result.NOT_NOW, "it moves"
    board.pulses_of(0.5)
    assert board.tell(narrow).result == Result.NOT_NOW, "it stands outside"
    board.tell(Relax())
    assert board.tell(narrow).result == Result.OK
    assert board.tell(Hold()).body.goal_us == (1600.0, 1500.0)


def test_unknown_where_it_is_a_new_home_is_where_it_begins(board):
    board.save(Configure(1, WIDE, SLOW))
    assert board.state().goal_us == (1450.0, 1500.0)


@pytest.mark.parametrize("written", range(COPY_BYTES + 1))
def test_a_power_cut_while_settings_are_written_leaves_the_old_or_the_new(board, written):
    board.save(Configure(1, WIDE, WIDE))
    board.save(Configure(2, SLOW, SLOW))
    before = bytes(board.eeprom)
    board.tell(Configure(3, WIDE, SLOW))
    changed = 0
    while changed < written and board.state().flags & Flag.EEPROM_BUSY:
        board.run(0.0005)
        changed = sum(a != b for a, b in zip(before, bytes(board.eeprom), strict=True))
    whole = not board.state().flags & Flag.EEPROM_BUSY
    board.reset(POWER_ON)
    greeting = board.tell(Hello(1)).body
    new, old = (3, WIDE, SLOW), (2, SLOW, SLOW)
    found = (greeting.board_id, greeting.pan, greeting.tilt)
    assert found in ({new} if whole else {old, new})
    assert found == old or bytes(board.eeprom) != before


def test_generations_go_round(board):
    for number in range(1, 300):
        board.save(Configure(number))
        board.reset(POWER_ON)
        assert board.tell(Hello(1)).body.board_id == number


@pytest.mark.parametrize("place", range(COPY_BYTES))
def test_one_spoilt_byte_costs_one_copy(board, place):
    board.save(Configure(1, WIDE, WIDE))
    board.save(Configure(2, SLOW, SLOW))
    newer = next(at for at in (0, 32) if board.eeprom[at + 2] == 2)  # the number's low byte
    board.eeprom[newer + place] ^= 0x01
    board.reset(POWER_ON)
    assert board.tell(Hello(1)).body.board_id == 1
    board.eeprom[(newer ^ 32) + place] ^= 0x80
    board.reset(POWER_ON)
    greeting = board.tell(Hello(1)).body
    assert (greeting.board_id, greeting.pan) == (0, AxisSettings())
    assert board.state().flags & Flag.DEFAULT_SETTINGS


def test_an_eeprom_that_does_not_keep_is_told(board):
    board.save(Configure(1, WIDE, WIDE))
    before = bytes(board.eeprom)
    board.tell(Configure(2, SLOW, SLOW))
    while bytes(board.eeprom) == before:
        board.run(0.0005)
    [place] = [at for at in range(64) if board.eeprom[at] != before[at]]
    board.eeprom[place] ^= 0x40
    board.run(0.2)
    assert board.state().flags & Flag.EEPROM_FAILED
    board.reset(POWER_ON)
    assert board.tell(Hello(1)).body.board_id == 1
    board.save(Configure(2, SLOW, SLOW))
    assert not board.state().flags & (Flag.EEPROM_FAILED | Flag.DEFAULT_SETTINGS)


def test_after_a_failed_write_the_good_copy_is_still_spared(board):
    board.save(Configure(1, WIDE, WIDE))
    for number in (2, 3):
        before = bytes(board.eeprom)
        board.tell(Configure(number, SLOW, SLOW))
        while bytes(board.eeprom) == before:
            board.run(0.0005)
        [place] = [at for at in range(64) if board.eeprom[at] != before[at]]
        board.eeprom[place] ^= 0x40
        board.run(0.2)
    board.reset(POWER_ON)
    assert board.tell(Hello(1)).body.board_id == 1


# ------------------------------------------------------------------------------------------------
# Mutated frames


def mutated(rng: np.random.Generator, count: int) -> bytes:
    """Frames of every kind, one byte in forty flipped, dropped or repeated, and some noise."""
    moves = rng.integers(0, 65536, (count, 3))
    others = [Status(), Hold(), Home(), Relax(), Hello(5)]
    picks = rng.integers(0, 16, count)
    stream = b"".join(
        frame(
            protocol.HEAD.pack(i % 65536, Kind.MOVE) + protocol.BODIES[Kind.MOVE].pack(*moves[i])
            if pick >= len(others)
            else encode_request(i % 65536, others[pick])
        )
        for i, pick in enumerate(picks)
    )
    data = np.frombuffer(stream, np.uint8).copy()
    fate = rng.integers(0, 160, data.size)
    flips = fate < 2
    data[flips] ^= (1 << rng.integers(0, 8, flips.sum())).astype(np.uint8)
    return np.repeat(data, np.where(fate == 2, 0, np.where(fate == 3, 2, 1))).tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("frames", [100_000, pytest.param(1_000_000, marks=pytest.mark.attack)])
def test_no_mutated_frames_make_a_pulse_outside_the_limits(board, frames):
    axes = (WIDE, SLOW)
    board.save(Configure(1, *axes))
    rng = np.random.default_rng(7)
    judge, answers, last, answered = FrameDecoder(), FrameDecoder(), None, 0
    for _ in range(frames // 1000):
        stream = mutated(rng, 1000)
        for at in range(0, len(stream), 1200):  # the answers to which fit the board's memory
            part = stream[at : at + 1200]
            intact = [payload[:3] for payload in judge.feed(part)]
            board.feed(part)
            told = [
                payload[:2] + bytes([payload[2] & 0x7F]) for payload in answers.feed(board.read())
            ]
            assert told == intact, "each whole request is answered, and nothing else"
            answered += len(told)
            board.run(0.02 * rng.integers(1, 6))
        widths = np.array(board.pulses)[:, 1:]
        board.pulses.clear()
        for axis, limits in enumerate(axes):
            assert limits.low_us <= widths[:, axis].min()
            assert widths[:, axis].max() <= limits.high_us
            joined = np.append([] if last is None else last[axis], widths[:, axis])
            assert np.abs(np.diff(joined)).max() <= limits.slew_us_per_s * 0.02 + 0.5
        last = widths[-1]
    assert 0.6 * frames < answered < 0.9 * frames
    assert board.state().bad_frames == min(65535, judge.bad_frames) > frames / 4


# ------------------------------------------------------------------------------------------------
# The build for the chip


def avr_gcc() -> str:
    """The compiler's version. Where there is none, its tests are reported as not run."""
    need(
        "the firmware cannot be built for the chip",
        {
            "avr-gcc": "gcc-avr",
            "avr-size": "binutils-avr",
            "/usr/lib/avr/include/avr/io.h": "avr-libc",
        },
    )
    return subprocess.check_output(["avr-gcc", "-dumpversion"], text=True).strip()


def test_the_firmware_is_small():
    avr_gcc()
    subprocess.run(["make", "-C", FIRMWARE, "avr"], check=True, stdout=subprocess.DEVNULL)
    elf = FIRMWARE / "build" / "atmega328p" / "edge_head.elf"
    sizes = subprocess.check_output(["avr-size", elf], text=True).splitlines()[1].split()
    text, data, bss = map(int, sizes[:3])
    assert text + data < FLASH
    assert data + bss < RAM


@pytest.mark.slow
def test_the_shipped_firmware_is_this_source(tmp_path):
    version = avr_gcc()
    if version != "5.4.0":
        pytest.skip(f"not run: the shipped .hex was built by avr-gcc 5.4.0, here is {version}")
    subprocess.run(
        ["make", "-C", FIRMWARE, f"BUILD={tmp_path}", "avr"], check=True, stdout=subprocess.DEVNULL
    )
    fresh = (tmp_path / "atmega328p" / "edge_head.hex").read_bytes()
    assert (FIRMWARE / "edge_head.hex").read_bytes() == fresh, "run `make ship` in the firmware"
