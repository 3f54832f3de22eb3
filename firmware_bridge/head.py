"""A head in radians that never makes its user wait: one thread speaks to whatever drives it."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from dataclasses import replace
from typing import NamedTuple

from firmware_bridge.aim import Aim, Limits, Pair, StraightAim
from firmware_bridge.driver import (
    Command,
    Driver,
    Hold,
    Home,
    Identity,
    Move,
    Relax,
    Report,
    Status,
)
from firmware_bridge.errors import HeadError, LinkError
from firmware_bridge.track import UNKNOWN, Pose, SafePose, Sample, Track

REST_S, MOVING_S = 0.1, 0.02  # between two looks at a head that rests, that moves
SOONEST_S, LATEST_S = 0.1, 2.0  # between two tries to reach a lost head
PART_OF_ABSENCE = 0.1  # it is tried again after this part of the time for which it is gone
LOST_S = 1.0  # a line that is back sooner is nothing to tell those who wait for a move
KEEP_S = 3.0  # a command that could not be sent for so long is forgotten
NEWS_KEPT = 100


class Driven(NamedTuple):
    """A command in the driver's unit, and when it was given, on the clock of time.monotonic()."""

    pan: float
    tilt: float
    t_s: float


class HeadStatus(NamedTuple):
    """What is known of a head just now."""

    pan_rad: float  # as `PanTiltHead.at` has it: a belief while not connected
    tilt_rad: float
    moving: bool
    connected: bool
    age_s: float  # of the newest report
    torque_off: bool
    homing: bool
    host_lost: bool  # it had not heard from here for so long that it held or went home
    name: str
    port: str
    uptime_s: float | None
    faults: dict[str, int]


class Task(NamedTuple):
    """A command and when it was given; `number` counts them."""

    number: int
    command: Command
    commanded_s: float


class PanTiltHead:
    """A camera on two servos, by angles; a context manager, to be used from any thread.

    Connects, and raises HeadError when nothing fit answers within connect_timeout_s. From then on
    no call but move_and_wait waits for the head: a thread of its own sends the newest command and
    asks the head 10 times a second how it is, 50 times while it moves. A line that is lost is
    opened again for as long as it takes; `drain_events` reports it.

    driver: as driver.py has it; nobody else may use it until close().
    aim: from a calibration; None for what servos of its kind usually do. Positive pan turns right,
    positive tilt up. Angles outside its limits or the head's own are clipped.
    settle_s: for so long after it arrived the head still counts as moving.
    """

    def __init__(
        self,
        driver: Driver,
        aim: Aim | None = None,
        *,
        settle_s: float = 0.1,
        connect_timeout_s: float = 5.0,
    ) -> None:
        self._driver = driver
        self._aim = aim
        self._changed = threading.Condition()  # guards all that follows
        self._track = Track(settle_s)
        self._identity: Identity  # of who answered: there before anyone can ask
        self._limits_rad: Limits = ((0.0, 0.0), (0.0, 0.0))
        self._report: Report | None = None
        self._connected = False
        self._trouble: Exception | None = None  # of the last try to reach it
        self._lost_s: float | None = None  # since when it is not reached
        self._looked_s = -math.inf  # when it was asked last
        self._times_lost = 0
        self._newest = Task(0, Status(), time.monotonic())  # given; number 0: by nobody
        self._waiting: Task | None = None  # to be sent
        self._sent: Task | None = None  # and not answered yet
        self._obeyed: Task | None = None  # the last the head answered
        self._refused: tuple[int, HeadError] | None = None
        self._events: deque[str] = deque(maxlen=NEWS_KEPT)
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="pan-tilt head")
        self._thread.start()
        try:
            self._await_first_report(connect_timeout_s)
        except BaseException:
            self.close()
            raise

    # --------------------------------------------------------------------------------------------
    # For its users

    @property
    def limits_rad(self) -> Limits:
        """(lowest, highest) angle of pan and of tilt: the aim's limits cut with the head's own."""
        return self._limits_rad

    @property
    def unit(self) -> str:
        """Of positions: as its driver has it, "us" of pulse width, say."""
        return self._identity.unit

    @property
    def limits(self) -> Limits:
        """(lowest, highest) position of pan and of tilt that the head allows."""
        return self._identity.limits

    @property
    def home_position(self) -> Pair:
        """Where it goes on `home`."""
        return self._identity.home

    @property
    def per_rad(self) -> Pair:
        """Units a radian of pan and of tilt that such servos usually have."""
        per_rad = self._identity.usual.per_rad
        return per_rad, per_rad

    @property
    def speed(self) -> Pair:
        """Units a second of pan and of tilt at their fastest."""
        return self._identity.speed

    def move(self, pan_rad: float, tilt_rad: float, duration_s: float = 0.0) -> Pair:
        """Set out for these angles and return at once: the angles commanded.

        Those are clipped to the limits and rounded to what the head can tell apart. Both axes
        arrive together, after duration_s or as soon as the head can. The newest move wins; while
        the line is lost it is kept for KEEP_S. Raises HeadError for what is no angle or duration,
        and for a duration longer than such a head can be told.
        """
        return self._move(pan_rad, tilt_rad, duration_s)[1]

    def move_and_wait(
        self,
        pan_rad: float,
        tilt_rad: float,
        duration_s: float = 0.0,
        timeout_s: float = 10.0,
    ) -> HeadStatus:
        """Move, and wait until the head is there and still; raises what move and wait do."""
        return self._wait(self._move(pan_rad, tilt_rad, duration_s)[0], timeout_s)

    def wait(self, timeout_s: float = 10.0) -> HeadStatus:
        """Wait until the last command is done and it is still.

        Raises HeadError when that takes longer than timeout_s, when the line is lost for LOST_S, or
        when it gets another command meanwhile.
        """
        return self._wait(self._newest.number, timeout_s)

    def drive(self, pan: float, tilt: float, duration_s: float = 0.0) -> Driven:
        """As `move`, in the driver's unit: what a calibration needs, before angles are known.

        Raises LinkError when the line is lost for LOST_S: nothing is measured of such a move.
        """
        self._check(pan, tilt, duration_s)
        with self._changed:
            self._check_line(time.monotonic())
            goal = self._allowed((pan, tilt))
            self._command(Move(*goal, duration_s))
            return Driven(*goal, self._newest.commanded_s)

    def home(self) -> None:
        """Go slowly to the home position."""
        self._command(Home())

    def hold(self) -> None:
        """Stop where it is."""
        self._command(Hold())

    def relax(self) -> None:
        """Torque off, until the next command."""
        self._command(Relax())

    def at(self, t_s: float) -> Pose:
        """Where the head was at t_s, on the clock of time.monotonic(), not in the future.

        Between two reports the motion commanded, through both. While the line is lost it moves, for
        all that is known, until it must have gone home by itself; then it is believed to be there.
        NaN for a head without torque and sensors.
        """
        with self._changed:
            return self._track.at(t_s)

    def state(self) -> HeadStatus:
        """What is known of the head now."""
        with self._changed:
            return self._state(time.monotonic())

    def drain_events(self) -> list[str]:
        """What went wrong or right since the last call, in words, oldest first."""
        with self._changed:
            events = list(self._events)
            self._events.clear()
        return events

    def close(self) -> None:
        """Let go of the head, which then helps itself as its firmware has it. Does not raise."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    def __enter__(self) -> PanTiltHead:
        return self

    def __exit__(self, kind, error, trace) -> None:
        self.close()

    # --------------------------------------------------------------------------------------------
    # Commands

    def _move(self, pan_rad: float, tilt_rad: float, duration_s: float) -> tuple[int, Pair]:
        self._check(pan_rad, tilt_rad, duration_s)
        with self._changed:
            goal, angles_rad = self._reachable((pan_rad, tilt_rad))
            return self._command(Move(*goal, duration_s)), angles_rad

    def _check(self, pan: float, tilt: float, duration_s: float) -> None:
        if not all(map(math.isfinite, (pan, tilt, duration_s))) or duration_s < 0.0:
            raise HeadError(
                f"cannot move to ({pan}, {tilt}) in {duration_s} s: numbers are needed, and no "
                "negative duration"
            )
        longest_s = self._identity.longest_s
        if duration_s > longest_s:
            raise HeadError(
                f"cannot take {duration_s:g} s for a move: {longest_s:g} s is the longest here; go "
                "in several shorter moves"
            )

    def _command(self, command: Command) -> int:
        with self._changed:
            if self._closing:
                raise HeadError("this head was closed: open it again")
            task = Task(self._newest.number + 1, command, time.monotonic())
            self._newest = self._waiting = task
            if self._connected and self._track.commanded_s is None:
                self._track.commanded_s = task.commanded_s
            self._changed.notify_all()
            return task.number

    def _reachable(self, angles_rad: Pair) -> tuple[Pair, Pair]:
        """The nearest position that the head can take, in its unit, and its angles."""
        pose = self._track.at(time.monotonic())
        here_rad = pose.pan_rad, pose.tilt_rad
        goal = self._allowed(self._aim_in_use.positions(self._within(angles_rad), here_rad))
        return goal, self._within(self._aim_in_use.angles_rad(goal, here_rad))

    def _allowed(self, positions: Pair) -> Pair:
        """The positions, rounded to what the head can tell apart, within its limits.

        Raises HeadError for what is no position: an aim may find none for some angles.
        """
        if any(map(math.isnan, positions)):
            raise HeadError(f"the aim finds no position but {positions}: calibrate the head again")
        step = self._identity.step
        pan, tilt = (
            _clip(step * round(_clip(position, of_head) / step), of_head)
            for position, of_head in zip(positions, self._identity.limits, strict=True)
        )
        return pan, tilt

    def _within(self, angles_rad: Pair) -> Pair:
        pan_rad, tilt_rad = map(_clip, angles_rad, self._limits_rad)
        return pan_rad, tilt_rad

    def _wait(self, number: int, timeout_s: float) -> HeadStatus:
        end_s = time.monotonic() + timeout_s
        with self._changed:
            while True:
                now_s = time.monotonic()
                state = self._state(now_s)
                if self._refused and self._refused[0] == number:
                    raise self._refused[1]
                if self._closing or self._newest.number != number:
                    raise HeadError("the head did not finish its move: it got another command")
                self._check_line(now_s)
                if (self._obeyed.number if self._obeyed else 0) == number and not state.moving:
                    return state
                if now_s >= end_s:
                    raise HeadError(
                        f"the head is not there within {timeout_s:g} s: allow more time, or see "
                        "whether it is blocked"
                    )
                self._changed.wait(min(MOVING_S, end_s - now_s))

    def _check_line(self, now_s: float) -> None:
        if self._lost_s is not None and now_s - self._lost_s > LOST_S:
            raise LinkError(f"the line to the head is lost: {self._trouble}")

    def _state(self, now_s: float) -> HeadStatus:
        report, identity = self._report, self._identity
        assert report is not None  # the head has answered, or this would not be connected
        return HeadStatus(
            *self._track.at(now_s),
            connected=self._connected,
            age_s=now_s - report.t_s,
            torque_off=report.torque_off,
            homing=report.homing,
            host_lost=report.host_lost,
            name=identity.name,
            port=identity.port,
            uptime_s=report.uptime_s,
            faults={**report.faults, "lost": self._times_lost},
        )

    def _await_first_report(self, timeout_s: float) -> None:
        def decided() -> bool:
            hopeless = self._trouble is not None and not isinstance(self._trouble, LinkError)
            return self._connected or hopeless

        with self._changed:
            self._changed.wait_for(decided, timeout_s)
            if self._connected:
                return
            if self._trouble is None:
                raise LinkError(f"no head answers within {timeout_s:g} s: allow more time")
            raise self._trouble

    # --------------------------------------------------------------------------------------------
    # The thread

    def _work(self) -> None:
        try:
            while not self._ending():
                try:
                    self._meet(self._driver.open())
                    self._serve()
                except Exception as error:  # a bug, too: it is reported, and the head tried again
                    self._lose(error)
        finally:
            self._driver.close()

    def _ending(self) -> bool:
        """Whether to stop: closed, or the program has ended and forgot to."""
        return self._closing or not threading.main_thread().is_alive()

    def _serve(self) -> None:
        """Send the commands and look how the head is, to the end. Raises when it is lost."""
        while not self._ending():
            task = self._next_task()
            try:
                report = self._driver.request(task.command)
            except LinkError:
                raise
            except HeadError as error:
                self._refuse(task, error)
            else:
                with self._changed:
                    before = self._report
                    assert before is not None  # of _meet
                    self._hear(task, report)
                    if report.was_reset or (report.host_lost and not before.host_lost):
                        self._command_again(report.t_s, report.t_s - before.t_s)

    def _next_task(self) -> Task:
        """The next command as soon as there is one; else a Status, when one is due."""
        with self._changed:
            moving = self._track.at(time.monotonic()).moving
            due_s = self._looked_s + (MOVING_S if moving else REST_S)
            self._changed.wait_for(
                lambda: self._waiting or self._closing, max(0.0, due_s - time.monotonic())
            )
            self._sent, self._waiting = self._waiting, None
            self._looked_s = time.monotonic()
            return self._sent or Task(0, Status(), self._looked_s)

    def _refuse(self, task: Task, error: HeadError) -> None:
        with self._changed:
            self._refused = task.number, error
            self._events.append(f"head: {error}")
            self._answered()
            self._changed.notify_all()

    def _answered(self) -> None:
        self._sent = None
        self._track.commanded_s = self._waiting.commanded_s if self._waiting else None

    def _hear(self, task: Task, report: Report) -> None:
        before, self._report = self._report, report
        if task.number:
            self._obeyed = task
        self._track.add(self._sample(task, report))
        self._answered()
        self._connected = True
        self._events.extend(f"head: {event}" for event in report.events)
        if report.clipped and not (before and before.clipped):
            self._events.append("head: its own limits are narrower than it said: it keeps to them")
        if report.host_lost and before and not before.host_lost:
            self._events.append(
                "head: it heard nothing from here for a while and held, or went home"
            )
        self._changed.notify_all()

    def _sample(self, task: Task, report: Report) -> Sample:
        here_rad = UNKNOWN
        if report.driven:
            here_rad = self._aim_in_use.angles_rad(report.driven, self._track.newest_rad)
        return Sample(
            t_s=report.t_s,
            commanded_s=task.commanded_s,
            here_rad=here_rad,
            goal_rad=self._aim_in_use.angles_rad(report.goal, here_rad),
            remaining_s=report.remaining_s,
            moving=report.moving,
        )

    def _meet(self, identity: Identity) -> None:
        """The head answers: note what it can do, and command again what it may have forgotten."""
        report = self._driver.request(Status())
        with self._changed:
            before, self._identity = self._report, identity
            self._take_limits()
            self._track.safe = self._safe_pose()
            self._trouble = self._lost_s = None
            away_s = report.t_s - before.t_s if before else 0.0
            if before:
                self._events.append(
                    f"head: found again after {away_s:.1f} s: {identity.name} at {identity.port}"
                )
            self._hear(Task(0, Status(), report.t_s), report)
            if before:
                self._command_again(report.t_s, away_s)

    def _command_again(self, now_s: float, away_s: float) -> None:
        """After an absence or a reset: what it is to do now.

        A command that waits, unless it is too old; else what it did before; but what went home by
        itself stays there.
        """
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            if now_s - waiting.commanded_s <= KEEP_S or isinstance(waiting.command, Home | Relax):
                self._waiting = waiting._replace(command=_what_is_left(waiting, now_s))
                return
            self._events.append("head: the command from while it was lost is too old: forgotten")
        before = self._obeyed
        if before is None:
            return
        home_after_s = self._identity.home_after_s
        went_home = home_after_s is not None and away_s >= home_after_s
        if went_home and not isinstance(before.command, Relax):
            self._command(Home())
        else:
            self._waiting = Task(before.number, _what_is_left(before, now_s), now_s)
            self._track.commanded_s = now_s

    def _lose(self, error: Exception) -> None:
        """Tell that the head does not answer, and wait a little before the next try.

        A command that may not have arrived is sent again then, unless there is a newer one.
        """
        if not isinstance(error, LinkError):
            self._driver.close()
        now_s = time.monotonic()
        with self._changed:
            if self._lost_s is None:
                self._lost_s = now_s
                if self._connected:
                    self._times_lost += 1
                    self._events.append(f"head: lost, and tried again until it is back: {error}")
            self._connected, self._trouble = False, error
            self._waiting, self._sent = self._waiting or self._sent, None
            self._changed.notify_all()
            pause_s = _clip(PART_OF_ABSENCE * (now_s - self._lost_s), (SOONEST_S, LATEST_S))
            self._changed.wait_for(lambda: self._closing, pause_s)

    # --------------------------------------------------------------------------------------------
    # Units

    @property
    def _aim_in_use(self) -> Aim:
        usual = self._identity.usual
        return self._aim or StraightAim(usual, usual)

    def _take_limits(self) -> None:
        limits_rad = self._aim_in_use.limits_rad(self._identity.limits)
        if self._report is not None and limits_rad != self._limits_rad:
            self._events.append("head: it came back with other limits than it had")
        self._limits_rad = limits_rad

    def _safe_pose(self) -> SafePose | None:
        who = self._identity
        if who.home_after_s is None:
            return None
        longest_s = max(
            max(high - rest, rest - low) / speed
            for (low, high), rest, speed in zip(who.limits, who.home, who.home_speed, strict=True)
        )
        home_rad = self._aim_in_use.angles_rad(who.home, UNKNOWN)  # from wherever it is
        return SafePose(home_rad, who.home_after_s + longest_s)


def _what_is_left(task: Task, now_s: float) -> Command:
    """The command, and of a move's duration what is not over."""
    command = task.command
    if not isinstance(command, Move):
        return command
    return replace(command, duration_s=max(0.0, task.commanded_s + command.duration_s - now_s))


def _clip(value: float, within: Pair) -> float:
    return min(max(value, within[0]), within[1])
