"""What the runtime knows of a pan-tilt head, and one that is simulated."""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple, Protocol

import numpy as np

from calibration.angles import Limits
from firmware_bridge.track import Pose
from safe_files.plain import plain, rebuilt

WANDER_STD_RAD = math.radians(2.5)
MOVES_REMEMBERED = 16


class Head(Protocol):
    """A camera mount that turns. Angles as in optics.py; times as the camera's frames have them."""

    @property
    def limits_rad(self) -> Limits:
        """(lowest, highest) pan and tilt."""

    def move(self, pan_rad: float, tilt_rad: float) -> tuple[float, float]:
        """Set out for these angles and return at once: the angles commanded, after clipping."""

    def at(self, t_s: float) -> Pose:
        """Where the head was at time t_s, not in the future."""

    def drain_events(self) -> list[str]:
        """What went wrong or right since the last call, in words, oldest first."""


class Move(NamedTuple):
    """Both axes set out at once; each arrives when its own way is done."""

    t_s: float
    start_rad: tuple[float, float]
    goal_rad: tuple[float, float]


def within(limits_rad: Limits, angles_rad) -> tuple[float, float]:
    """The (pan, tilt) within the limits that is nearest to these angles."""
    pan_rad, tilt_rad = np.clip(angles_rad, *np.transpose(limits_rad)).tolist()
    return pan_rad, tilt_rad


class SimulatedHead:
    """A head that turns at a constant speed, on a clock that its source sets with `advance`.

    speed_rad_per_s: of each axis. The head begins at the angles nearest to (0, 0) and knows where
    it was during its last MOVES_REMEMBERED moves; longer ago counts as their beginning.
    """

    def __init__(self, limits_rad: Limits, speed_rad_per_s: float = 5.0) -> None:
        self.limits_rad = limits_rad
        self._speed_rad_per_s = speed_rad_per_s
        self._now_s = 0.0
        rest = within(limits_rad, (0.0, 0.0))
        self._moves = deque([Move(0.0, rest, rest)], MOVES_REMEMBERED)

    def advance(self, t_s: float) -> None:
        """It is t_s now: moves commanded from here on begin then."""
        self._now_s = t_s

    def move(self, pan_rad: float, tilt_rad: float) -> tuple[float, float]:
        """Set out for these angles from where the head is; the angles within the limits."""
        here = self.at(self._now_s)
        goal = within(self.limits_rad, (pan_rad, tilt_rad))
        self._moves.append(Move(self._now_s, (here.pan_rad, here.tilt_rad), goal))
        return goal

    def at(self, t_s: float) -> Pose:
        """Where the head is at time t_s. A move commanded at t_s has not begun to turn it then."""
        move = next((move for move in reversed(self._moves) if move.t_s < t_s), self._moves[0])
        reach_rad = self._speed_rad_per_s * max(0.0, t_s - move.t_s)
        pan_rad, tilt_rad = (
            goal
            if abs(goal - start) <= reach_rad
            else start + math.copysign(reach_rad, goal - start)
            for start, goal in zip(move.start_rad, move.goal_rad, strict=True)
        )
        return Pose(pan_rad, tilt_rad, reach_rad > 0.0 and (pan_rad, tilt_rad) != move.goal_rad)

    def drain_events(self) -> list[str]:
        """Nothing ever happens to it."""
        return []

    def state(self) -> dict:
        """Clock and moves, as plain JSON values."""
        return {
            "now_s": self._now_s,
            "moves": [[m.t_s, *m.start_rad, *m.goal_rad] for m in self._moves],
        }

    def restore(self, state: dict) -> None:
        """Go on from state(), bit for bit."""
        state = plain(state)
        self._now_s = rebuilt(float, state["now_s"], "now_s")
        moves = rebuilt(list[tuple[float, float, float, float, float]], state["moves"], "moves")
        self._moves.clear()
        self._moves.extend(Move(t_s, (a, b), (c, d)) for t_s, a, b, c, d in moves)


def wandered(rng: np.random.Generator, head, limits_rad: Limits) -> tuple[float, float]:
    """Head angles after a small random move, thrown back from a limit as far as it went beyond."""
    aim_rad = rng.normal(head, WANDER_STD_RAD)
    return within(limits_rad, 2.0 * np.array(within(limits_rad, aim_rad)) - aim_rad)
