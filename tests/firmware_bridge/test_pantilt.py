"""PanTiltHead with the shipping firmware core behind a real pseudo-terminal, in real time."""

import functools
import itertools
import math
import os
import random
import subprocess
import sys
import threading
import time

import pytest

from firmware_bridge import (
    Axis,
    HeadError,
    HeadMismatch,
    LinkError,
    PanTiltHead,
    StraightAim,
    open_head,
)
from firmware_bridge.aim import PULSES
from firmware_bridge.driver import Move
from firmware_bridge.link import ServoBoard
from firmware_bridge.ports import SerialPort
from firmware_bridge.track import WAKE_S
from tests.firmware_bridge.core_board import WATCHDOG, CoreBoard
from tests.tools import unhindered_s

pytestmark = pytest.mark.slow  # a head moves in real time

PATIENCE_S = 10.0  # with what should come about within moments


@pytest.fixture
def board(tmp_path):
    with CoreBoard(tmp_path) as board:
        yield board


@pytest.fixture
def limp_head(board):
    with open_head(f"serial:{board.path}") as head:
        yield head


@pytest.fixture
def head(board):
    """One that stands at home already."""
    board.send_home()
    with open_head(f"serial:{board.path}") as head:
        yield head


def comes_about(condition):
    """Whether it does, within PATIENCE_S."""
    end_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < end_s:
        if condition():
            return True
        time.sleep(0.005)
    return False


def news_with(head, text):
    told = []
    assert comes_about(lambda: told.extend(head.drain_events()) or text in " ".join(told)), told
    return told


# ------------------------------------------------------------------------------------------------
# Commands


def test_it_goes_where_it_is_told(head, board):
    state = head.move_and_wait(0.3, -0.2, 0.2)
    assert (state.pan_rad, state.tilt_rad) == pytest.approx((0.3, -0.2), abs=0.001)
    assert board.pulses_us() == pytest.approx(
        (PULSES.position(0.3), PULSES.position(-0.2)), abs=0.3
    )
    assert state.connected and not state.moving and not state.torque_off and state.age_s < 1.0
    assert state.port == board.path


def test_what_is_commanded_is_told_after_clipping_and_rounding(head, board):
    (low_rad, high_rad), _ = head.limits_rad
    assert (low_rad, high_rad) == pytest.approx((-math.pi / 4, math.pi / 4))
    assert head.move(3.0, -3.0) == (high_rad, -high_rad)
    angles_rad = head.move(0.1234567, 0.0)
    assert angles_rad != (0.1234567, 0.0) and angles_rad == pytest.approx(
        (0.1234567, 0.0), abs=5e-4
    )
    head.wait()
    assert board.pulses_us() == tuple(map(PULSES.position, angles_rad))


@pytest.mark.parametrize("move", [(math.nan, 0.0), (0.0, math.inf), (0.0, 0.0, -1.0)])
def test_what_is_no_move_is_refused_and_nothing_happens(limp_head, move):
    with pytest.raises(HeadError, match="cannot move"):
        limp_head.move(*move)
    assert limp_head.wait().torque_off


def test_a_move_that_is_to_take_longer_than_the_board_can_be_told_is_refused(head, board):
    for command in (head.move, head.move_and_wait, head.drive):
        with pytest.raises(HeadError, match=r"cannot take 65.1 s .*: 65 s is the longest here"):
            command(0.1, 0.1, 65.1)
    head.move(0.1, 0.1, 65.0)
    assert comes_about(lambda: board.pulses_us() != (1500.0, 1500.0)) and head.state().moving


def test_calibrated_axes_turn_the_other_way_and_have_limits_of_their_own(board):
    pan = Axis(zero=1600.0, per_rad=-500.0, low_rad=-0.4, high_rad=0.2)
    tilt = Axis(zero=1500.0, per_rad=600.0)
    board.send_home()
    with open_head(f"serial:{board.path}", StraightAim(pan, tilt)) as head:
        assert head.limits_rad == ((-0.4, 0.2), pytest.approx((-500 / 600, 500 / 600)))
        assert head.move(1.0, 0.1)[0] == pytest.approx(0.2)
        state = head.wait()
        assert board.pulses_us() == (1500.0, 1560.0)
        assert (state.pan_rad, state.tilt_rad) == pytest.approx((0.2, 0.1))


def test_an_aim_that_finds_no_position_is_refused(board):
    class Lost(StraightAim):
        def positions(self, angles_rad, here_rad):
            return math.nan, 1500.0

    with open_head(f"serial:{board.path}", Lost(PULSES, PULSES)) as head:
        with pytest.raises(HeadError, match="no position .*calibrate the head again"):
            head.move(0.1, 0.1)
        assert head.drive(1e308, -1e308)[:2] == (2000.0, 1000.0)


def test_axes_that_leave_no_angle_are_refused(board):
    with pytest.raises(HeadMismatch, match="nothing in common"):
        open_head(f"serial:{board.path}", StraightAim(Axis(1500.0, 600.0, 1.0, 2.0), PULSES))
    with pytest.raises(HeadError, match="must be finite"):
        StraightAim(Axis(1500.0, 0.0), PULSES)


def test_it_is_driven_in_its_own_unit_within_its_own_limits(head, board):
    assert head.unit == "us" and head.limits == ((1000.0, 2000.0), (1000.0, 2000.0))
    assert head.home_position == (1500.0, 1500.0)
    before_s = time.monotonic()
    driven = head.drive(1600.2, 9000.0)
    assert driven[:2] == (1600.0, 2000.0) and before_s <= driven.t_s <= time.monotonic()
    head.wait()
    assert board.pulses_us() == (1600.0, 2000.0)
    with pytest.raises(HeadError, match="cannot move"):
        head.drive(math.nan, 1500.0)


@pytest.mark.slow
def test_home_hold_and_relax(head, board):
    head.move_and_wait(0.5, 0.5)
    head.home()
    state = head.wait()
    assert (state.pan_rad, state.tilt_rad) == (0.0, 0.0)
    head.move(0.7, 0.0, 2.0)
    assert comes_about(lambda: head.state().pan_rad > 0.1)
    head.hold()
    held = head.wait()
    assert 0.05 < held.pan_rad < 0.6
    head.relax()
    state = head.wait()
    assert state.torque_off and math.isnan(state.pan_rad)
    assert comes_about(lambda: board.pulses_us() is None)


class Held:
    """A driver whose requests wait until they are let go."""

    def __init__(self, driver):
        self._driver = driver
        self.free = threading.Event()
        self.free.set()
        self.waiting = threading.Event()
        self.moves = []

    def open(self):
        return self._driver.open()

    def request(self, command):
        if isinstance(command, Move):
            self.moves.append(command.pan)
        if not self.free.is_set():
            self.waiting.set()
            self.free.wait()
        return self._driver.request(command)

    def close(self):
        self._driver.close()


@pytest.mark.slow
def test_nothing_waits_for_a_head_that_does_not_answer_and_the_newest_move_wins(board):
    driver = Held(ServoBoard(SerialPort(board.path)))
    with PanTiltHead(driver) as head:
        driver.free.clear()
        assert driver.waiting.wait(PATIENCE_S)
        try:
            last = [head.move(0.001 * i, 0.0) for i in range(300)][-1]
            assert head.at(time.monotonic()).moving  # it may have begun, for all that is known
            head.state(), head.drain_events(), head.limits_rad
        finally:
            driver.free.set()
        assert head.wait().pan_rad == pytest.approx(last[0])
        assert driver.moves == [PULSES.position(last[0])]


def test_waiting_ends_when_something_else_is_told(head):
    threading.Timer(0.2, head.hold).start()
    with pytest.raises(HeadError, match="got another command"):
        head.move_and_wait(0.5, 0.0, 5.0)


def test_waiting_ends_after_its_time(head):
    with pytest.raises(HeadError, match="not there within 0.2 s"):
        head.move_and_wait(0.5, 0.0, 5.0, timeout_s=0.2)


def test_many_threads_may_use_it_at_once(head, board):
    errors = []

    def use(seed):
        rng = random.Random(seed)
        try:
            for _ in range(200):
                head.move(rng.uniform(-1, 1), rng.uniform(-1, 1))
                pose = head.at(time.monotonic() - rng.uniform(0.0, 0.5))
                assert len(pose) == 3
                state = head.state()
                assert state.connected and isinstance(head.drain_events(), list)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=use, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    state = head.move_and_wait(0.25, 0.25)
    assert (state.pan_rad, state.tilt_rad) == pytest.approx((0.25, 0.25), abs=1e-3)


# ------------------------------------------------------------------------------------------------
# Where it was


@pytest.mark.slow
def test_where_it_was_is_where_the_pulses_had_it(head, board):
    head.move_and_wait(-0.5, 0.3)
    begin_s = time.monotonic()
    for goal in ((0.5, -0.3, 0.6), (0.5, -0.1, 0.0), (-0.2, 0.4, 0.3)):
        head.move_and_wait(*goal)
    end_s = time.monotonic()
    pulses = [p._replace(t_s=p.t_s + board.born_s) for p in list(board.core.pulses)]
    pulses = [pulse for pulse in pulses if begin_s < pulse.t_s < end_s - 0.05]
    assert len(pulses) > 50
    a_period_rad = 3000.0 * 0.02 / PULSES.per_rad  # of motion: positions change once in each
    errors_rad = []
    for before, pulse in itertools.pairwise(pulses):
        pose = head.at(pulse.t_s)
        pan_rad, tilt_rad = PULSES.angle_rad(pulse.pan_us), PULSES.angle_rad(pulse.tilt_us)
        errors_rad.append(max(abs(pose.pan_rad - pan_rad), abs(pose.tilt_rad - tilt_rad)))
        assert pose.moving or pulse[1:] == before[1:]
    # All but those that a busy machine dated wrong.
    assert sorted(errors_rad)[int(0.9 * len(errors_rad))] <= 1.5 * a_period_rad


def test_it_is_still_only_after_it_has_settled(board):
    board.send_home()
    with open_head(f"serial:{board.path}", settle_s=0.5) as head:
        head.wait()
        before_s = time.monotonic()
        head.move(0.3, 0.0, 0.1)
        state = head.wait()
        assert not state.moving and time.monotonic() - before_s > 0.55
        assert head.at(before_s + 0.3).moving and not head.at(before_s).moving


@pytest.mark.slow
def test_limp_it_is_nowhere_and_then_turns_unseen_for_a_while(limp_head):
    assert math.isnan(limp_head.at(time.monotonic()).pan_rad)
    before_s = time.monotonic()
    limp_head.hold()
    limp_head.wait()
    assert limp_head.at(time.monotonic()) == (0.0, 0.0, False)
    assert time.monotonic() - before_s > WAKE_S


# ------------------------------------------------------------------------------------------------
# Lines that are lost


@pytest.mark.slow
def test_it_comes_back_from_being_unplugged_under_another_name(head, board):
    head.move_and_wait(0.4, 0.1)
    for i in range(5):
        name = os.path.realpath(board.path)
        board.unplug()
        assert comes_about(lambda: not head.state().connected)
        others = []
        while i % 2 and not os.path.exists(name):  # until the name that became free is taken
            others += os.openpty()
        board.plug()
        assert i % 2 == 0 or os.path.realpath(board.path) != name
        assert comes_about(lambda: head.state().connected)
        for end in others:
            os.close(end)
        state = head.wait()
        assert (state.pan_rad, state.tilt_rad) == pytest.approx((0.4, 0.1), abs=1e-3)
    told = " ".join(head.drain_events())
    assert told.count("lost") == told.count("found again") == 5
    assert head.state().faults["lost"] == 5


@pytest.mark.slow
def test_a_move_told_meanwhile_is_made_when_it_is_back(head, board):
    head.move_and_wait(0.4, 0.1)
    board.unplug()
    assert comes_about(lambda: not head.state().connected)
    with pytest.raises(LinkError, match="lost"):
        head.move_and_wait(0.1, 0.1)
    head.move(-0.3, 0.2)
    board.plug()
    assert comes_about(lambda: head.state().connected)
    state = head.wait()
    assert (state.pan_rad, state.tilt_rad) == pytest.approx((-0.3, 0.2), abs=1e-3)


@pytest.mark.slow
def test_after_long_it_is_believed_to_be_home_and_is(head, board):
    head.move_and_wait(0.2, -0.2)
    head.drain_events()
    board.unplug()
    assert comes_about(lambda: not head.state().connected)
    head.move(0.7, 0.7)  # too old by the time it could be made
    time.sleep(0.6)
    assert head.at(time.monotonic()).moving  # for all that is known
    assert comes_about(lambda: not head.at(time.monotonic()).moving)
    believed = head.state()
    assert (believed.pan_rad, believed.tilt_rad) == (0.0, 0.0)
    assert not believed.connected and believed.age_s > 3.0
    assert board.pulses_us() == (1500.0, 1500.0)
    board.plug()
    told = news_with(head, "found again")
    assert any("too old" in line for line in told)
    state = head.wait()
    assert (state.pan_rad, state.tilt_rad) == (0.0, 0.0) and not state.host_lost


def test_a_relaxed_head_stays_limp_through_all_that(head, board):
    head.move_and_wait(0.2, 0.2)
    head.relax()
    head.wait()
    board.unplug()
    assert comes_about(lambda: not head.state().connected)
    board.reset()
    board.plug()
    assert comes_about(lambda: head.state().connected)
    assert head.wait().torque_off and board.pulses_us() is None


@pytest.mark.slow
def test_a_board_that_was_reset_is_told_again(head, board):
    head.move_and_wait(0.4, 0.1)
    head.drain_events()
    board.reset(WATCHDOG)
    told = news_with(head, "reset")
    assert "its program hung" in " ".join(told)
    state = head.wait()
    assert not state.torque_off and state.pan_rad == pytest.approx(0.4, abs=1e-3)
    assert board.pulses_us() == pytest.approx((PULSES.position(0.4), PULSES.position(0.1)), abs=0.3)


@pytest.mark.slow
def test_a_board_that_stood_still_is_waited_for_and_makes_its_move_then(head, board):
    head.move_and_wait(0.4, 0.1)
    asked_s = time.monotonic()
    board.stop_for(1.5)
    head.move(-0.4, 0.1)
    assert comes_about(lambda: not head.state().connected)
    assert head.at(time.monotonic()).moving
    assert comes_about(lambda: head.state().connected)
    assert time.monotonic() - asked_s > 1.4
    state = head.wait()
    assert state.pan_rad == pytest.approx(-0.4, abs=1e-3)


@pytest.mark.slow
def test_a_program_that_stood_still_makes_its_move_when_it_goes_on(board):
    """The board has held meanwhile: nobody may believe that the move was made."""
    board.send_home()
    driver = Held(ServoBoard(SerialPort(board.path)))
    with PanTiltHead(driver) as head:
        head.wait()
        head.move(0.7, 0.0, 1.2)
        assert comes_about(lambda: head.state().pan_rad > 0.05)
        driver.waiting.clear()
        driver.free.clear()
        assert driver.waiting.wait(PATIENCE_S)
        time.sleep(0.7)
        driver.free.set()
        assert head.wait().pan_rad == pytest.approx(0.7, abs=1e-3)
        assert "held" in " ".join(head.drain_events())


# ------------------------------------------------------------------------------------------------
# Beginning and end


def open_files():
    return len(os.listdir("/proc/self/fd"))


def test_nothing_is_left_behind(board):
    with open_head(f"serial:{board.path}"):
        pass
    files, threads = open_files(), threading.active_count()
    for _ in range(5):
        with open_head(f"serial:{board.path}") as head:
            head.move(0.1, 0.1)
        with pytest.raises(HeadError, match="closed"):
            head.move(0.0, 0.0)
    assert (open_files(), threading.active_count()) == (files, threads)


def test_closing_twice_and_while_the_line_is_lost(board):
    head = open_head(f"serial:{board.path}")
    board.unplug()
    assert comes_about(lambda: not head.state().connected)
    head.close()
    head.close()


def test_a_port_that_is_not_there_is_told_at_the_end_of_its_time(tmp_path):
    with pytest.raises(LinkError, match="plug it in|there is only"):
        open_head(f"serial:{tmp_path}/nothing", connect_timeout_s=0.3)


def test_a_port_where_nobody_answers_is_told_with_the_cure():
    master, slave = os.openpty()
    threads = threading.active_count()
    before_s = unhindered_s()
    with pytest.raises(LinkError, match="no head answers.*edge-rjepa head flash"):
        open_head(f"serial:{os.ttyname(slave)}", connect_timeout_s=0.6)
    assert unhindered_s() - before_s < 2.0  # closing while it connects waits for nobody
    assert threading.active_count() == threads
    os.close(master)
    os.close(slave)


@pytest.mark.slow
def test_a_board_that_boots_for_long_is_waited_for(board):
    board.stop_for(1.5)
    with open_head(f"serial:{board.path}") as head:
        assert head.state().connected


def test_a_program_that_ends_without_closing_ends(board):
    program = (
        "import sys; from firmware_bridge import open_head\n"
        "head = open_head(sys.argv[1]); head.home()"
    )
    command = [sys.executable, "-c", program, f"serial:{board.path}"]
    assert subprocess.run(command, timeout=300).returncode == 0


def test_two_programs_cannot_have_one_head(head, board):
    with pytest.raises(LinkError, match="in use by process"):
        open_head(f"serial:{board.path}", connect_timeout_s=0.3)
    assert head.state().connected


def test_what_is_broken_in_a_driver_is_told_and_tried_again(board):
    class Broken(ServoBoard):
        broken = functools.partial(next, iter([False, False, True]), False)
        closed = 0

        def request(self, command):
            if self.broken():
                raise ZeroDivisionError("a bug")
            return super().request(command)

        def close(self):
            self.closed += 1
            super().close()

    driver = Broken(SerialPort(board.path))
    with PanTiltHead(driver) as head:
        told = news_with(head, "found again")
        assert "a bug" in " ".join(told) and driver.closed == 1
