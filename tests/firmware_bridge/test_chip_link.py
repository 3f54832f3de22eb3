"""The shipping host driver and the shipping firmware over a line that spoils what it carries."""

import random
from collections import Counter

import pytest

from firmware_bridge.driver import Move, Relax, Status
from firmware_bridge.errors import LinkError
from firmware_bridge.link import ServoBoard
from firmware_bridge.protocol import AxisSettings, Cause
from tests.firmware_bridge import emulated
from tests.firmware_bridge.emulated import HZ, ChipLine, FaultyLine, faultless

pytestmark = pytest.mark.chip

emulated.require()


SHARE = 0.01  # of the bytes, in each direction
PERIOD_S = 0.02
FAST = AxisSettings(1000.0, 2000.0, 1500.0, 65535)  # any step takes one period: pulses tell goals


def ready(chip, down, up):
    """A driver that has met the board over a line without fault, which then gets its faults."""
    line = ChipLine(chip)
    board = ServoBoard(line.open, line.clock, random.Random(4))
    board.open()
    board.configure(1, FAST, FAST)
    chip.run(0.3)
    line.down, line.up = down, up
    return board


def moved(board, move, noted):
    """Have it obeyed; requests that are reported as lost are noted, and made again."""
    while True:
        try:
            return board.request(move)
        except LinkError:
            noted["reported"] += 1
        while True:
            try:
                board.open()
                break
            except LinkError:
                noted["greetings reported"] += 1


def widths_us(chip):
    """Of the pulses since the last call: those of pan, those of tilt."""
    pulses = chip.pulses()
    return [set(pulses[pulses["axis"] == axis]["width"] * 1e6 / HZ) for axis in (0, 1)]


@pytest.mark.parametrize("moves", [2_000, pytest.param(10_000, marks=pytest.mark.attack)])
def test_moves_through_a_line_that_spoils_one_byte_in_a_hundred(moves):
    """After each accepted move the pins are judged: no pulse but where one was sent to."""
    noted = Counter()
    with emulated.Chip(seed=5) as chip:
        down, up = FaultyLine(SHARE, 6), FaultyLine(SHARE, 7)
        board = ready(chip, down, up)
        rng = random.Random(8)
        last = 1500.0, 1500.0
        chip.pulses()
        for _ in range(moves):
            goal = tuple(1000.0 + 0.5 * rng.randrange(2001) for _ in (0, 1))
            report = moved(board, Move(*goal), noted)
            assert report.goal == goal
            chip.run(2 * PERIOD_S)
            for widths, before, now in zip(widths_us(chip), last, goal, strict=True):
                assert widths <= {before, now}
            assert chip.measured() == goal
            last = goal
        end = moved(board, Status(), noted)
        assert end.driven == end.goal == chip.measured() == last
        print(f"{down.faults} of {down.bytes} bytes down, {up.faults} of {up.bytes} up spoilt")
        print(dict(board.faults), dict(noted), end.faults)
        assert down.faults > 0.009 * down.bytes and up.faults > 0.009 * up.bytes
        assert board.faults["retries"] > 1000  # what was lost was noticed
        assert chip.record.glitches == 0


def test_without_faults_nothing_is_repeated():
    with emulated.Chip(seed=5) as chip:
        board = ready(chip, faultless, faultless)
        for step in range(500):
            report = board.request(Move(1000.0 + step, 2000.0 - step))
            assert report.goal == (1000.0 + step, 2000.0 - step)
        assert not +board.faults


@pytest.mark.parametrize("before_s", [0.02, 0.3, 2.0])
@pytest.mark.parametrize("after_s", [0.05, 0.5, 3.0])
def test_a_reset_is_noticed_however_long_the_board_had_run(before_s, after_s):
    """Also where it runs for longer since than it had when it was asked last."""
    with emulated.Chip(seed=10) as chip:
        board = ready(chip, faultless, faultless)
        chip.reset(Cause.EXTERNAL)
        chip.run(before_s)
        assert not board.request(Move(1200.0, 1200.0)).torque_off
        chip.reset(Cause.EXTERNAL)
        chip.run(after_s)
        report = board.request(Status())
        assert report.was_reset and report.torque_off and report.events
        assert not board.request(Status()).was_reset
        assert not board.request(Move(1200.0, 1200.0)).was_reset
        assert not board.request(Relax()).was_reset


def test_answers_that_come_too_late_are_not_believed():
    """The wire to the host stands still with answers on it, and brings them much later."""
    late = bytearray()
    with emulated.Chip(seed=9) as chip:
        board = ready(chip, faultless, faultless)
        line = board._transport

        def keep(data):
            late.extend(data)
            return b""

        board.request(Move(1200.0, 1200.0))
        line.up = keep
        with pytest.raises(LinkError):
            board.request(Move(1800.0, 1800.0))
        with pytest.raises(LinkError):
            board.open()
        assert len(late) > 200
        line.up = faultless
        board.open()
        line.up = lambda data: late_first(late, data)
        for wanted in ((1300.0, 1700.0), (1301.0, 1701.0)):
            report = board.request(Move(*wanted))
            assert report.goal == wanted
        assert board.faults["stale replies"] >= 6


def late_first(late, data):
    before = bytes(late)
    late.clear()
    return before + data
