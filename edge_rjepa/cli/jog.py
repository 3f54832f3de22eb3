"""`edge-rjepa head jog`: turn a head by the keys of a terminal."""

from __future__ import annotations

import math
import os
import re
import select
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from edge_rjepa.cli.terminal import interrupt_on_signals
from firmware_bridge import HeadError, HeadStatus, PanTiltHead

STEP_DEG, FINE_DEG, COARSE_DEG = 2.0, 0.5, 16.0
POLL_S = 0.05  # between two lines that show where the head is

ARROWS = {"up": (0, 1), "down": (0, -1), "right": (1, 0), "left": (-1, 0)}
ACTIONS = {"h": PanTiltHead.home, " ": PanTiltHead.hold, "r": PanTiltHead.relax}
KEY = re.compile(rb"\x1b[\[O]([ABCD])|\x1b[\[O]?[^\x1b]?|[^\x1b]")
NAMES = {b"A": "up", b"B": "down", b"C": "right", b"D": "left"}
KEYS_IN_WORDS = (
    "arrow keys turn it; + and - make the steps larger and smaller; h: home, space: hold, "
    "r: relax (torque off), q: quit"
)


def check_terminal() -> None:
    """Raises HeadError where no person can press keys."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise HeadError("jog is for a terminal: use `edge-rjepa head move` in scripts")


def jog(head: PanTiltHead) -> None:
    """Turn the head by the keys of this terminal until q, or a signal."""
    try:
        with suppress(KeyboardInterrupt), interrupt_on_signals(), _keys_at_once(sys.stdin.fileno()):
            print(KEYS_IN_WORDS)
            Jog(head).run(sys.stdin.fileno())
    finally:
        print()


class Jog:
    """Turns a head by the keys of a terminal, and shows where it is."""

    def __init__(self, head: PanTiltHead) -> None:
        self._head = head
        self._step_deg = STEP_DEG
        self._goal_rad: tuple[float, float] | None = None  # None: the last command was no angle
        self._wide = 0

    def run(self, terminal: int) -> None:
        """Until q, or the end of input. terminal: the file descriptor keys come from."""
        typed = b""
        while True:
            self._show()
            if not select.select([terminal], [], [], POLL_S)[0]:
                continue
            heard = os.read(terminal, 64)
            keys, typed = keys_in(typed + heard)
            for key in keys:
                if key == "q":
                    return
                self.press(key)
            if not heard:
                return

    def press(self, key: str) -> None:
        """Do what the key stands for; nothing for one that stands for nothing."""
        if key in ARROWS:
            self._step(*ARROWS[key])
        elif key in "+-":
            factor = 2.0 if key == "+" else 0.5
            self._step_deg = min(max(self._step_deg * factor, FINE_DEG), COARSE_DEG)
        elif key in ACTIONS:
            ACTIONS[key](self._head)
            self._goal_rad = None

    def _step(self, pan: int, tilt: int) -> None:
        """One step from where it was sent, or from where it is; without torque it first holds."""
        state = self._head.state()
        if math.isnan(state.pan_rad):
            self._head.hold()
            return
        pan_rad, tilt_rad = self._goal_rad or (state.pan_rad, state.tilt_rad)
        step_rad = math.radians(self._step_deg)
        self._goal_rad = self._head.move(pan_rad + pan * step_rad, tilt_rad + tilt * step_rad)

    def _show(self) -> None:
        line = f"{angles_in_words(self._head.state())}; steps of {self._step_deg:g}"
        for event in self._head.drain_events():
            print(f"\r{event:{self._wide}}")
        self._wide = max(self._wide, len(line))
        print(f"\r{line:{self._wide}}", end="", flush=True)


def keys_in(typed: bytes) -> tuple[list[str], bytes]:
    """The keys in what a terminal sent, and the beginning of one whose rest has yet to come."""
    begun = re.search(rb"\x1b[\[O]?$", typed)
    whole, rest = (typed[: begun.start()], begun[0]) if begun else (typed, b"")
    keys = [NAMES.get(key[1]) or key[0].decode("latin-1") for key in KEY.finditer(whole)]
    return keys, rest


@contextmanager
def _keys_at_once(terminal: int) -> Iterator[None]:
    """The terminal hands out each key as it is pressed, and shows none; as before at the end."""
    before = termios.tcgetattr(terminal)
    stop = signal.signal(signal.SIGTSTP, signal.SIG_IGN)  # a stopped program would leave it so
    try:
        tty.setcbreak(terminal, termios.TCSADRAIN)  # what was typed before counts, too
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
        signal.signal(signal.SIGTSTP, stop)


def angles_in_words(state: HeadStatus) -> str:
    """Where the head points, and whether it moves."""
    does = "torque off" if state.torque_off else "turning" if state.moving else "still"
    if not state.connected:
        does += ", as far as is known: the line is lost"
    if math.isnan(state.pan_rad):
        return f"angles not known, {does}"
    pan_deg, tilt_deg = math.degrees(state.pan_rad), math.degrees(state.tilt_rad)
    return f"pan {pan_deg:+.1f}, tilt {tilt_deg:+.1f} degrees, {does}"
