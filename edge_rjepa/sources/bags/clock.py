"""When the pictures of a bag were taken."""

from __future__ import annotations

from edge_rjepa.sources.ros_messages import BadMessage
from safe_files.plain import plain, rebuilt

LONGEST_PAUSE_S = 60.0  # by which stamps may go ahead of the recorder's clock between two pictures
USUAL_STEP_S = 1.0 / 30.0


class Clock:
    """When pictures were taken, on a clock from 0 that always goes on.

    It goes on as their stamps do. A stamp that goes back, or ahead by far more than the recorder's
    clock did, makes a bad message; the one after it counts, since the robot's clock may have been
    set, and takes its time from the recorder's clock.
    """

    def __init__(self) -> None:
        self._t_s = 0.0
        self._step_s = USUAL_STEP_S  # between the last two pictures
        self._last: tuple[float | None, float] | None = None  # stamp and recorder's clock
        self._doubted = False  # the message before was bad

    def read(self, stamp_s: float | None, logged_s: float) -> float:
        """The time of the next picture. Raises BadMessage."""
        step_s = self._step_to(stamp_s, logged_s)
        if step_s is None:
            self._doubted = True
            raise BadMessage("time that goes back or leaps ahead")
        if self._last is not None:
            self._step_s = step_s
        self._t_s += step_s
        self._last, self._doubted = (stamp_s, logged_s), False
        return self._t_s

    def begin_again(self) -> None:
        """The next picture is the bag's first again: it comes as soon as the last one did."""
        self._last, self._doubted = None, False
        self._t_s += self._step_s

    def state(self) -> dict:
        """All of it, as plain JSON values."""
        return {
            "t_s": self._t_s,
            "step_s": self._step_s,
            "last": self._last,
            "doubted": self._doubted,
        }

    def restore(self, state: dict) -> None:
        """Go on from state()."""
        state = plain(state)
        self._t_s = rebuilt(float, state["t_s"], "t_s")
        self._step_s = rebuilt(float, state["step_s"], "step_s")
        self._last = rebuilt(tuple[float | None, float] | None, state["last"], "last")
        self._doubted = rebuilt(bool, state["doubted"], "doubted")

    def _step_to(self, stamp_s: float | None, logged_s: float) -> float | None:
        """Seconds since the last picture; None where that is not known."""
        if self._last is None:
            return 0.0
        last_stamp_s, last_logged_s = self._last
        logged_step_s = logged_s - last_logged_s
        by_recorder_s = logged_step_s if 0.0 < logged_step_s else None
        if stamp_s is None or last_stamp_s is None:
            return by_recorder_s
        step_s = stamp_s - last_stamp_s
        if 0.0 < step_s <= logged_step_s + LONGEST_PAUSE_S:
            return step_s
        return by_recorder_s if self._doubted else None
