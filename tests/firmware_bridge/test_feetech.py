"""A head of Feetech servos: packets against the maker's SDK, the driver on an emulated bus."""

import json
import math
import os
import random
import subprocess
import time
from pathlib import Path

import pytest
import serial
from hypothesis import given
from hypothesis import strategies as some

from firmware_bridge import feetech_packets as sts
from firmware_bridge.aim import Axis, StraightAim
from firmware_bridge.driver import Hold, Home, Move, Relax, Status
from firmware_bridge.errors import HeadError, HeadMismatch, LinkError
from firmware_bridge.feetech import StsBus, quickest_s, speed_for
from firmware_bridge.head import PanTiltHead
from tests.firmware_bridge.sts_bus import (
    CURRENT,
    HEAT,
    OVERLOAD,
    VOLTAGE,
    Bus,
    Clock,
    Servo,
    Terminal,
    VirtualPort,
)

HERE = Path(__file__).parent
RECORDED = json.loads((HERE / "sts_frames.json").read_text())
SDK = Path(os.environ.get("EDGE_RJEPA_STS_SDK", HERE.parent / ".venv" / "sts" / "bin" / "python"))
with_sdk = pytest.mark.skipif(
    not SDK.exists(),
    reason=f"no {SDK}: EDGE_RJEPA_STS_SDK=PATH names an interpreter with ftservo-python-sdk",
)
ID_OF_AXIS = {"pan": 1, "tilt": 2}


# ------------------------------------------------------------------------------------------------
# Packets


def by_id(blocks, make):
    return {int(servo): make(*values) for servo, values in blocks.items()}


OURS = {
    "read": sts.read,
    "sync_read": sts.sync_read,
    "sync_write": lambda at, blocks: sts.sync_write(at, by_id(blocks, lambda *b: bytes(b))),
    "sync_write_goals": lambda goals: sts.sync_write(41, by_id(goals, sts.goal_block)),
}


@pytest.mark.parametrize(("call", "arguments", "expected"), RECORDED["frames"])
def test_packets_are_those_of_the_makers_sdk(call, arguments, expected):
    assert OURS[call](*arguments).hex() == expected


def test_each_kind_of_packet_was_recorded():
    assert {call for call, _, _ in RECORDED["frames"]} == set(OURS)


@with_sdk
def test_the_recorded_packets_are_what_the_sdk_sends():
    assert json.loads(peer("frames")) == RECORDED


@with_sdk
def test_the_makers_sdk_drives_the_emulated_bus():
    bus = Bus(Servo(1, 1900), Servo(2, 2100))
    with Terminal(bus) as terminal:
        told = json.loads(peer("drive", terminal.path))
    assert told == {
        **{f"ping {servo}": 777 for servo in (1, 2)},
        **{f"limits {servo}": 4095 << 16 for servo in (1, 2)},
        **{f"torque {servo}": 0 for servo in (1, 2)},
        "no servo 9": -6,  # no answer
        "move 1": 0,
        "prepare 2": 0,
        "act": 0,
        "sync write": 0,
        "sync read": [2000, 2050],
        "locked": 1,
        "unlock": 0,
    }


def peer(*arguments):
    program = [SDK, str(HERE / "sts_peer.py"), *arguments]
    return subprocess.run(program, check=True, capture_output=True, text=True, timeout=300).stdout


def status_packet(servo_id, errors, registers):
    inner = bytes((servo_id, len(registers) + 2, errors)) + registers
    return b"\xff\xff" + inner + bytes((255 - sum(inner) % 256,))


@given(
    before=some.binary(max_size=40),
    after=some.binary(max_size=10),
    servo_id=some.integers(0, 252),
    errors=some.integers(0, 127),
    registers=some.binary(min_size=27, max_size=34),
)
def test_an_answer_is_found_in_noise(before, after, servo_id, errors, registers):
    head = bytes((255, 255, servo_id))
    heard = before + status_packet(servo_id, errors, registers) + after
    if heard.find(head) == len(before):  # else the noise may be an answer, too
        assert sts.find_answer(heard, servo_id, len(registers)) == (errors, registers)


@given(
    registers=some.binary(min_size=27, max_size=34),
    where=some.integers(0, 1000),
    flip=some.integers(1, 255),
)
def test_an_answer_with_one_wrong_byte_is_none(registers, where, flip):
    answer = bytearray(status_packet(1, 0, registers))
    answer[where % len(answer)] ^= flip
    assert sts.find_answer(bytes(answer), 1, len(registers)) is None


def test_what_a_host_says_is_no_answer():
    said = b"".join(
        [
            sts.read(1, 40, 27),
            sts.read(1, 0, 40),
            sts.sync_read((1, 2), 28, 39),
            sts.sync_write(41, {1: sts.goal_block(2048, 300, 100), 2: bytes(7)}),
            sts.sync_write(40, {1: b"\1", 2: b"\1"}),
        ]
    )
    assert all(sts.find_answer(said, 1, count) is None for count in range(27, 41))


@pytest.mark.parametrize(("value", "low", "high"), [(0, 0, 0), (4095, 255, 15), (-300, 44, 0x81)])
def test_bit_15_is_the_sign(value, low, high):
    assert sts.word(bytes((low, high)), 0) == value


# ------------------------------------------------------------------------------------------------
# The driver, in virtual time


class Rig:
    """A driver on an emulated bus, and the clock that both live by."""

    def __init__(self, pan=2048, tilt=2048, echo=False, servo=None, **options):
        self.clock = Clock()
        self.pan, self.tilt = Servo(1, pan, **(servo or {})), Servo(2, tilt, **(servo or {}))
        self.bus = Bus(self.pan, self.tilt, clock=self.clock, echo=echo)
        self.ports = []
        self.driver = StsBus(self.open_transport, clock=self.clock, **options)

    def open_transport(self):
        self.ports.append(VirtualPort(self.bus))
        return self.ports[-1]

    @property
    def servos(self):
        return self.pan, self.tilt

    @property
    def positions(self):
        return self.pan.position, self.tilt.position

    def opened(self):
        self.driver.open()
        return self

    def wait(self, seconds):
        self.clock.now_s += seconds
        self.bus.run()

    def until_still(self, limit_s=30.0):
        """Status after status, every 5 ms; the last report."""
        end_s = self.clock.now_s + limit_s
        while self.clock.now_s < end_s:
            self.wait(0.005)
            report = self.driver.request(Status())
            if not report.moving:
                return report
        raise AssertionError(f"still moving after {limit_s} s")

    def go(self, command):
        self.driver.request(command)
        return self.until_still()


def test_opening_tells_who_is_there():
    identity = Rig(home=(2000, 5000)).driver.open()
    assert identity.name == "Feetech model 9.3 (id 1) and model 9.3 (id 2)"
    assert (identity.unit, identity.step, identity.port) == ("steps", 1.0, "emulated")
    assert identity.limits == ((0, 4095), (0, 4095))
    assert identity.home == (2000, 4095)
    assert identity.home_after_s is None


@pytest.mark.parametrize("torque_on", [False, True])
def test_opening_moves_and_changes_nothing(torque_on):
    rig = Rig(1000, 3000, servo={"torque_at_power_on": torque_on})
    before = [bytes(servo.registers[:56]) for servo in rig.servos]
    report = rig.opened().driver.request(Status())
    rig.wait(1.0)
    assert [bytes(servo.registers[:56]) for servo in rig.servos] == before
    assert rig.positions == (1000, 3000)
    assert (report.driven, report.torque_off, report.moving) == ((1000, 3000), not torque_on, False)


def test_limits_are_those_of_the_servos_and_of_the_host():
    rig = Rig(limits=((1000, 3000.7), (500.2, 5000)))
    rig.pan.set_eeprom(9, 0xDC, 5, 0x10, 0x0E)  # 1500..3600
    assert rig.driver.open().limits == ((1500, 3000), (501, 4095))
    report = rig.go(Move(0, 9999))
    assert report.goal == report.driven == rig.positions == (1500, 4095)
    assert rig.driver.request(Move(0, 0)).clipped
    assert not rig.driver.request(Move(1500, 501)).clipped


@pytest.mark.parametrize(
    ("at", "values", "what"),
    [
        (2, [1], "SCS series"),
        (33, [1], "mode"),
        (9, [0, 0, 0, 0], "no angle limits"),
        (9, [0, 12, 0, 10], "no angle limits"),
        (9, [0, 12, 0, 13], "leaves nothing"),
    ],
)
def test_unfit_servos_are_refused_with_a_cure(at, values, what):
    rig = Rig(limits=((0, 4095), (100, 3000)))
    rig.tilt.set_eeprom(at, *values)
    with pytest.raises(HeadMismatch, match=rf"tilt servo \(id 2\).*{what}"):
        rig.driver.open()
    assert rig.ports[0].closed


@pytest.mark.parametrize(
    "options",
    [
        {"servo_ids": (1, 1)},
        {"servo_ids": (1, 254)},
        {"home_speed": 0.0},
        {"home_speed": 3000.0},
        {"speed": 40_000.0},
        {"acceleration": 0.0},
        {"acceleration": math.nan},
        {"limits": ((0, 4095), (0, math.nan))},
    ],
)
def test_senseless_options_are_refused(options):
    with pytest.raises(HeadError):
        Rig(**options)


@pytest.mark.parametrize("goal_stiffens", [False, True])
@pytest.mark.parametrize("stale_goal", [0, 4000])
def test_a_limp_servo_never_jumps(goal_stiffens, stale_goal):
    rig = Rig(1000, 3000, servo={"goal_stiffens": goal_stiffens}).opened()
    for servo in rig.servos:
        servo.set_word(42, stale_goal)
        servo.set_word(46, 0)  # as fast as it can
    report = rig.go(Move(1100, 2950))
    assert report.driven == (1100, 2950) and not report.torque_off
    assert rig.pan.visited == [1000, 1100] and rig.tilt.visited == [2950, 3000]


def test_a_limp_servo_outside_its_limits_is_led_in_slowly():
    rig = Rig(500, 2048, limits=((1000, 3000), (0, 4095)), home_speed=200.0).opened()
    rig.driver.request(Hold())
    rig.until_still()
    assert rig.positions == (1000, 2048)
    assert rig.pan.highest_speed == pytest.approx(200.0, rel=0.05)


MOVES = [
    ((1000, 3000), 0.0),
    ((1000, 2100), 0.0),
    ((2100, 2049), 0.0),
    ((2060, 2040), 0.3),
    ((1500, 1900), 2.0),
    ((3500, 2148), 1.0),
]


@pytest.mark.parametrize(("goal", "duration_s"), MOVES)
def test_both_axes_arrive_together_and_in_time(goal, duration_s):
    rig = Rig(servo={"torque_at_power_on": True}).opened()
    report = rig.driver.request(Move(*goal, duration_s))
    start_s, foreseen_s = rig.clock.now_s, report.remaining_s
    distances = [abs(a - b) for a, b in zip(goal, rig.positions, strict=True)]
    arrived_s = [None, None]
    while None in arrived_s:
        rig.wait(0.001)
        for axis, servo in enumerate(rig.servos):
            if arrived_s[axis] is None and abs(servo.position - goal[axis]) < 0.02:
                arrived_s[axis] = rig.clock.now_s - start_s
        assert rig.clock.now_s < start_s + 10
    assert max(arrived_s) == pytest.approx(foreseen_s, abs=0.02)
    quickest = max(quickest_s(distance, 2400.0, 10_000.0) for distance in distances)
    assert max(arrived_s) == pytest.approx(max(duration_s, quickest), abs=0.03)
    # speeds are whole steps/s: the slower axis may come early by what rounding makes of it
    assert abs(arrived_s[0] - arrived_s[1]) < 0.02 + 0.02 * max(arrived_s)


def test_servos_that_count_speed_in_50_steps_move_as_fast():
    rig = Rig(servo={"torque_at_power_on": True})
    rig.pan.set_eeprom(18, 0)
    rig.opened().driver.request(Move(3048, 1048, 2.0))
    rig.wait(1.0)
    assert [servo.highest_speed for servo in rig.servos] == pytest.approx([530, 530], rel=0.1)


@given(
    distance=some.integers(1, 4095),
    speed=some.floats(10, 4000),
    acceleration=some.floats(100, 25_000),
    longer=some.floats(1.0, 10.0),
)
def test_the_speed_for_a_duration_takes_that_long(distance, speed, acceleration, longer):
    travel_s = longer * quickest_s(distance, speed, acceleration)
    chosen = speed_for(distance, travel_s, acceleration, speed)
    assert chosen <= speed
    assert quickest_s(distance, chosen, acceleration) == pytest.approx(travel_s, rel=1e-6)


def test_moving_is_told_from_the_command_to_the_arrival():
    rig = Rig(servo={"torque_at_power_on": True}).opened()
    report = rig.driver.request(Move(2148, 2048))
    assert report.moving and report.remaining_s > 0.15
    report = rig.until_still()
    assert report.driven == (2148, 2048) and report.remaining_s == 0.0


def test_hold_stops_where_it_is():
    rig = Rig(servo={"torque_at_power_on": True}).opened()
    rig.driver.request(Move(4000, 100))
    rig.wait(0.4)
    held = rig.driver.request(Hold()).goal
    assert 2048 < held[0] < 3500 and 600 < held[1] < 2048
    assert rig.until_still().driven == held == rig.positions


def test_home_is_gone_to_slowly():
    rig = Rig(1500, 2300, home=(2100, 2000), home_speed=250.0).opened()
    report = rig.driver.request(Home())
    assert report.homing and report.goal == (2100, 2000)
    assert rig.driver.request(Status()).homing
    report = rig.until_still()
    assert not report.homing and report.driven == rig.positions == (2100, 2000)
    assert max(servo.highest_speed for servo in rig.servos) == pytest.approx(250, rel=0.05)


def test_a_relaxed_head_is_limp_and_tells_where_it_is_turned_to():
    rig = Rig().opened()
    rig.go(Move(2500, 2500))
    report = rig.driver.request(Relax())
    assert (
        report.torque_off and not report.moving and not any(servo.torque_on for servo in rig.servos)
    )
    rig.pan.position = 2222.0  # by hand
    rig.pan.set_word(42, 2222)  # the goal of a servo without torque may follow
    report = rig.driver.request(Status())
    assert report.driven == (2222, 2500) and not report.was_reset and report.events == ()
    report = rig.driver.request(Hold())
    assert not report.torque_off and report.goal == report.driven == (2222, 2500)
    assert report.events == () and report.faults == {}


def test_an_overload_is_counted_and_told_once_each_time():
    rig = Rig().opened()
    rig.go(Move(2100, 2100))
    for times in (1, 2):
        rig.tilt.errors = OVERLOAD
        report = rig.driver.request(Status())
        assert report.faults == {"tilt overload": times}
        assert report.events == ("the tilt servo (id 2) on emulated: overload",)
        assert rig.driver.request(Status()).events == ()
        rig.tilt.errors = 0
        assert rig.driver.request(Status()).faults == {"tilt overload": times}


def test_every_error_bit_has_a_name():
    rig = Rig().opened()
    rig.pan.errors = VOLTAGE | HEAT | CURRENT
    rig.driver.request(Move(2000, 2000))
    told = {"pan voltage out of range": 1, "pan too hot": 1, "pan too much current": 1}
    assert rig.driver.request(Status()).faults == told


def test_a_blocked_servo_is_not_moving_for_ever():
    rig = Rig().opened()
    rig.pan.stuck = True
    rig.driver.request(Move(2500, 2000))
    report = rig.until_still()
    assert report.goal == (2500, 2000) and report.driven == (2048, 2000)


@pytest.mark.parametrize("torque_on", [False, True])
def test_a_servo_that_loses_its_torque_is_reported(torque_on):
    rig = Rig(servo={"torque_at_power_on": torque_on}).opened()
    rig.go(Move(2100, 2100))
    rig.pan.registers[40] = 0
    report = rig.driver.request(Status())
    assert report.torque_off and not report.was_reset
    assert report.events == ("a servo lost its torque: its power failed, or it protects itself",)
    assert rig.driver.request(Status()).events == ()


@pytest.mark.parametrize("torque_on", [False, True])
def test_a_power_cut_is_told_and_does_no_harm(torque_on):
    rig = Rig(servo={"torque_at_power_on": torque_on}).opened()
    rig.go(Move(3000, 1000))
    for servo in rig.servos:
        servo.position += 40
        servo.power_on()
    report = rig.driver.request(Status())
    assert report.was_reset and report.torque_off != torque_on and report.driven == (3040, 1040)
    assert not rig.driver.request(Status()).was_reset
    rig.pan.visited, rig.tilt.visited = [3040, 3040], [1040, 1040]
    rig.go(Move(3100, 1100))
    assert rig.pan.visited == [3040, 3100] and rig.tilt.visited == [1040, 1100]


def test_a_servo_that_does_not_obey_is_named():
    rig = Rig().opened()
    rig.tilt.errors = HEAT
    rig.tilt.write = lambda *_: None
    with pytest.raises(
        HeadError, match=r"tilt servo \(id 2\).*does not obey \(too hot\)"
    ) as raised:
        rig.driver.request(Move(2100, 2100))
    assert not isinstance(raised.value, LinkError)


@pytest.mark.parametrize("move", [Move(math.nan, 0), Move(0, math.inf), Move(0, 0, math.nan)])
def test_what_is_no_number_is_refused_before_anything_is_sent(move):
    rig = Rig().opened()
    with pytest.raises(HeadError, match="numbers"):
        rig.driver.request(move)
    assert sts.SYNC_WRITE not in {instruction for _, instruction, _ in rig.bus.packets}


def test_servos_that_answer_only_reads_serve():
    rig = Rig()
    for servo in rig.servos:
        servo.set_eeprom(8, 0)
    assert rig.opened().go(Move(2200, 1900)).driven == (2200, 1900)


def test_only_reads_and_writes_of_commands_are_sent():
    rig = Rig().opened()
    rng = random.Random(7)
    commands = [lambda: Move(rng.uniform(0, 4095), rng.uniform(0, 4095), rng.random())]
    commands += [Hold, Home, Relax, Status]
    for _ in range(200):
        rig.driver.request(rng.choice(commands)())
        rig.wait(rng.random() * 0.2)
    assert len(rig.bus.packets) == len(rig.ports[0].sent)
    for _, instruction, body in rig.bus.packets:
        if instruction == sts.SYNC_WRITE:
            assert body[0] == 41 or (body[0] == 40 and {body[3], body[5]} <= {0, 1})
        else:
            assert instruction in (sts.READ, sts.SYNC_READ)


# ------------------------------------------------------------------------------------------------
# A bad line


def test_an_adapter_that_echoes_does_no_harm():
    rig = Rig(echo=True).opened()
    report = rig.go(Move(2500, 1500, 0.3))
    assert report.driven == (2500, 1500) and report.faults == {}


@pytest.mark.parametrize("axis", ["pan", "tilt"])
@pytest.mark.parametrize("echo", [False, True])
def test_a_dead_servo_is_named_and_found_again(axis, echo):
    rig = Rig(echo=echo).opened()
    rig.go(Move(2100, 2100))
    servo = getattr(rig, axis)
    servo.dead = True
    start_s = rig.clock.now_s
    with pytest.raises(LinkError, match=rf"{axis} servo \(id {servo.id}\).*does not answer"):
        rig.driver.request(Status())
    assert rig.clock.now_s - start_s < 0.5
    with pytest.raises(LinkError, match="does not answer"):
        rig.driver.open()
    assert rig.ports[-1].closed
    servo.dead = False
    rig.driver.open()
    report = rig.driver.request(Status())
    assert report.driven == (2100, 2100)
    assert report.faults == {f"{axis} did not answer": 16}


def wrong_checksum(answer, servo):
    return [(0.0, answer[:-1] + bytes((answer[-1] ^ 1,)))]


def of_another(answer, servo):
    return [(0.0, status_packet(servo.id + 7, 0, answer[5:-1]))]


def torn(answer, servo):
    return [(0.0, answer[:12])]


def none(answer, servo):
    return []


SPOILERS = [wrong_checksum, of_another, torn, none]


@pytest.mark.parametrize("spoil", SPOILERS)
def test_one_bad_answer_is_asked_for_again(spoil):
    rig = Rig().opened()
    rig.go(Move(2100, 2050))
    answers = iter([spoil])
    rig.bus.spoil = lambda answer, servo: next(answers, whole)(answer, servo)
    report = rig.driver.request(Status())
    assert report.driven == (2100, 2050)
    assert sum(report.faults.values()) == 1


def whole(answer, servo):
    return [(0.0, answer)]


@pytest.mark.parametrize("spoil", SPOILERS)
def test_bad_answers_without_end_are_a_dead_line(spoil):
    rig = Rig().opened()
    rig.bus.spoil = lambda answer, servo: (whole if servo.id == 1 else spoil)(answer, servo)
    reason = "does not answer" if spoil in (none, of_another) else "garbled"
    with pytest.raises(LinkError, match=rf"tilt servo \(id 2\).*{reason}"):
        rig.driver.request(Status())


@pytest.mark.slow
@pytest.mark.parametrize("late_s", [0.049, 0.052, 0.07, 0.099, 0.12, 0.2])
def test_a_late_answer_is_not_believed(late_s):
    rig = Rig().opened()  # torque off, and turned by hand
    late = iter([late_s, late_s])
    rig.bus.spoil = lambda answer, servo: [(next(late, 0.0), answer)]
    for place in range(10):
        for servo in rig.servos:
            servo.position = 2000.0 + 10 * place
        report = rig.driver.request(Status())
        assert report.driven == (2000 + 10 * place, 2000 + 10 * place)


def test_twelve_readings_in_a_row_differ_in_length():
    rig = Rig().opened()
    for _ in range(12):
        rig.driver.request(Status())
    lengths = [body[1] for _, instruction, body in rig.bus.packets if instruction == sts.SYNC_READ]
    assert len(lengths) == len(set(lengths)) == 13  # that of the settings, too


@pytest.mark.parametrize("requests", [1, 2, 3])
def test_what_comes_after_a_stall_is_not_believed(requests):
    """As with a computer or an adapter that stands still: all answers come at once, too late."""
    rig = Rig(1000, 1000).opened()
    end_s = rig.clock.now_s + 2.0
    rig.bus.spoil = lambda answer, servo: [(max(0.0, end_s - rig.clock.now_s), answer)]
    for _ in range(requests):
        with pytest.raises(LinkError):
            rig.driver.request(Status())
    rig.wait(2.0)
    for servo in rig.servos:
        servo.position = 3000.0
    assert rig.driver.request(Status()).driven == (3000, 3000)


@pytest.mark.slow
def test_a_line_that_loses_and_breaks_packets_changes_no_move():
    """Of 200 bytes, in either direction, one is dropped, changed or doubled."""
    rig = Rig(servo={"torque_at_power_on": True}).opened()
    rng = random.Random(11)

    def noisy(data):
        bad = {0: lambda b: b"", 1: lambda b: bytes((b ^ 1 << rng.randrange(8),))}
        bad[2] = lambda b: bytes((b, b))
        return b"".join(
            bad[rng.randrange(3)](b) if rng.random() < 0.005 else bytes((b,)) for b in data
        )

    rig.bus.mishear = noisy
    rig.bus.spoil = lambda answer, servo: [(0.0, noisy(answer))]
    sent, failed = (2048, 2048), 0
    for _ in range(1000):
        goal = rng.randrange(4096), rng.randrange(4096)
        try:
            report = rig.driver.request(Move(*goal))
            assert report.goal == goal
        except HeadError:
            failed += 1  # and told: it may have arrived, or not
        else:
            sent = goal
            assert (rig.pan.goal, rig.tilt.goal) == sent
    rig.bus.mishear = rig.bus.spoil = None
    assert failed < 10
    report = rig.go(Move(*sent))
    assert report.driven == sent == rig.positions
    assert report.faults["pan did not take a command"] > 50


def test_a_port_that_is_gone_is_a_dead_line():
    rig = Rig().opened()
    rig.ports[0].close()
    with pytest.raises(LinkError, match="emulated is gone"):
        rig.driver.request(Status())
    rig.driver.close()
    with pytest.raises(LinkError, match="not open"):
        rig.driver.request(Status())
    rig.driver.open()
    assert rig.driver.request(Status()).driven == (2048, 2048)


def test_a_port_that_does_not_open_is_a_dead_line():
    def fail():
        raise PermissionError(13, "Permission denied")

    driver = StsBus(fail)
    with pytest.raises(LinkError, match="Permission denied"):
        driver.open()
    driver.close()


# ------------------------------------------------------------------------------------------------
# In real time


def on_terminal(terminal):
    return StsBus(lambda: serial.Serial(terminal.path, 1_000_000, exclusive=True))


def test_a_real_port_and_the_head_on_top():
    """Radians, thread, pyserial, pseudo-terminal, servos."""
    bus = Bus(Servo(1, 2048), Servo(2, 2048))
    aim = StraightAim(
        Axis(2048, 4096 / math.tau, -1.0, 1.0), Axis(2048, -4096 / math.tau, -0.5, 0.5)
    )
    with Terminal(bus) as terminal, PanTiltHead(on_terminal(terminal), aim) as head:
        commanded = head.move(0.3, 2.0)
        assert commanded == pytest.approx((0.3, 0.5), abs=0.001)
        state = head.move_and_wait(-0.3, 0.2)
        assert (state.pan_rad, state.tilt_rad) == pytest.approx((-0.3, 0.2), abs=0.001)
        assert head.at(time.monotonic())[:2] == pytest.approx((-0.3, 0.2), abs=0.001)
        assert state.connected and head.drain_events() == []
    assert bus.servos[0].position == round(2048 - 0.3 * 4096 / math.tau)
    assert bus.servos[1].position == round(2048 - 0.2 * 4096 / math.tau)
