"""PanTiltHead over pyserial and a pseudo-terminal to the emulated chip, in real time.

Outcomes are asserted, not latencies.
"""

import random
import time

import pytest

from firmware_bridge import PanTiltHead
from firmware_bridge.aim import PULSES
from firmware_bridge.link import ServoBoard
from firmware_bridge.ports import SerialPort
from firmware_bridge.protocol import Cause
from tests.firmware_bridge import emulated

pytestmark = pytest.mark.chip

emulated.require()

many_times = pytest.mark.parametrize("cycles", [10, pytest.param(50, marks=pytest.mark.attack)])


@pytest.fixture
def board():
    with emulated.Board() as board:
        yield board


@pytest.fixture
def head(board):
    with opened(board) as head:
        yield head


def opened(board, **options):
    return PanTiltHead(ServoBoard(SerialPort(board.path)), settle_s=0.0, **options)


def some_move(rng):
    return rng.uniform(-0.75, 0.75), rng.uniform(-0.75, 0.75)


def widths_us(angles_rad):
    return tuple(map(PULSES.position, angles_rad))


def is_at(board, head, angles_rad):
    """The pins have it, and the head says so."""
    state = head.state()
    close = pytest.approx(widths_us(angles_rad), abs=0.26)  # half a tick
    return (
        state.connected
        and not state.moving
        and board.measured() == close
        and widths_us((state.pan_rad, state.tilt_rad)) == close
    )


def looked_at(head, seconds):
    """What the head says of itself for so long."""
    end_s = time.monotonic() + seconds
    seen = []
    while time.monotonic() < end_s:
        seen.append(head.state())
        time.sleep(0.01)
    return seen


def test_it_goes_where_it_is_told(board, head):
    angles_rad = head.move(0.5, -0.3)
    board.wait_for(lambda: is_at(board, head, angles_rad))
    head.move_and_wait(-0.5, 0.25)
    board.wait_for(lambda: is_at(board, head, (-0.5, 0.25)))


@many_times
def test_unplugged_and_back_again_and_again(board, head, cycles):
    """Every other time its power goes as well; its terminal has another name each time."""
    rng = random.Random(1)
    for cycle in range(cycles):
        head.move(*some_move(rng), duration_s=rng.uniform(0.0, 0.3))
        time.sleep(rng.uniform(0.0, 0.05))  # somewhere on the way
        board.unplug()
        board.wait_for(lambda: not head.state().connected)
        lost = head.state()
        if cycle % 2:
            board.power_cycle()
        angles_rad = head.move(*some_move(rng))  # told to a head that is not there
        assert head.at(time.monotonic()).moving
        assert not head.state().connected and head.state().age_s >= lost.age_s
        board.replug()
        board.wait_for(lambda angles=angles_rad: is_at(board, head, angles))
    assert head.state().faults["lost"] >= cycles  # more where this machine is too busy
    news = " ".join(head.drain_events())
    assert "lost" in news and "found again" in news


@many_times
def test_reset_at_any_moment(board, head, cycles):
    rng = random.Random(2)
    for cycle in range(cycles):
        angles_rad = head.move(*some_move(rng), duration_s=rng.uniform(0.0, 0.2))
        time.sleep(rng.uniform(0.0, 0.3))  # in a request, a reply, on the way, at rest
        before = len(board.resets)
        board.reset() if cycle % 5 else board.hang()
        board.wait_for(lambda before=before: len(board.resets) > before)
        board.wait_for(lambda angles=angles_rad: is_at(board, head, angles))
    assert board.resets.count(Cause.EXTERNAL) == cycles - cycles // 5
    assert board.resets.count(Cause.WATCHDOG) == cycles // 5
    assert any("reset" in line for line in head.drain_events())


def test_stopped_for_a_while_it_is_found_again_and_no_old_answer_believed(board, head):
    rng = random.Random(3)
    head.move_and_wait(0.0, 0.0)
    for _ in range(5):
        board.stop()
        head.move(*some_move(rng))
        board.wait_for(lambda: not head.state().connected)
        angles_rad = head.move(*some_move(rng))
        seen = looked_at(head, 1.5)
        assert not any(state.connected for state in seen)
        assert seen[-1].age_s > 1.4
        board.go()
        board.wait_for(lambda angles=angles_rad: is_at(board, head, angles))
    assert head.state().faults["stale replies"] > 0


def test_a_boot_loader_of_two_seconds_is_waited_for():
    with emulated.Board(boot_s=2.0) as board, opened(board, connect_timeout_s=20.0) as head:
        angles_rad = head.move(0.4, 0.2)
        board.wait_for(lambda: is_at(board, head, angles_rad))
        assert board.resets.count(Cause.EXTERNAL) == 1  # opened once, and not again while it boots


def test_a_head_that_is_gone_can_be_closed(board, head):
    head.move_and_wait(0.1, 0.1)
    board.unplug()
    board.wait_for(lambda: not head.state().connected)
    head.close()
    assert not head.state().connected
