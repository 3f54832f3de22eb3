"""`edge-rjepa head ..`: look at a pan-tilt head, turn it, set its limits, flash its board."""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import firmware_bridge
from edge_rjepa.cli.terminal import number, say
from firmware_bridge import HeadError, HeadStatus, LinkError, PanTiltHead, open_head

FAILED = 1
FIRMWARE = Path(firmware_bridge.__file__).parent / "firmware" / "edge_head.hex"
BAUD, OLD_BOOT_LOADER_BAUD = 115200, 57600
CONNECT_S = 5.0
SLOW_S = 30.0  # the longest any way takes
STEP_DEG, FINE_DEG, COARSE_DEG = 2.0, 0.5, 16.0
LOOK_S = 0.05  # between two looks at the head that are shown
LEAVE = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # also where Ctrl-C was ignored

EXAMPLES = """examples:
  edge-rjepa head status                     the only board that is plugged in
  edge-rjepa head move 20 -5                 degrees: to the right, down
  edge-rjepa head jog --head serial:/dev/ttyACM0
  edge-rjepa head limits --pan 1000 2000 --tilt 1200 1800 --tilt-home 1450
  edge-rjepa head flash --port /dev/ttyUSB0 --old-boot-loader
  edge-rjepa head status --head "feetech:/dev/ttyUSB0?pan=1&tilt=2"
"""

JOG_HELP = (
    "arrow keys turn it, by larger and smaller steps with + and -; h goes home, space holds, "
    "r relaxes it, q ends"
)


def add_parser(commands, command) -> None:
    """Add `head` to argparse's `commands`.

    command(commands, name, function, summary, examples) makes the parser of one command; what is
    parsed calls function(options), which returns the exit code or raises HeadError.
    """
    head = command(commands, "head", None, "look at a pan-tilt head, turn it, set it up", EXAMPLES)
    actions = head.add_subparsers(required=True, metavar="ACTION")

    def action(name: str, function, summary: str, example: str = "") -> argparse.ArgumentParser:
        example = f"example:\n  edge-rjepa head {example or name}\n"
        parser = command(actions, name, function, summary, example)
        if name == "flash":
            return parser
        parser.add_argument(
            "--head",
            metavar="HEAD",
            default="serial:",
            help=f"{firmware_bridge.supported()} (serial:)",
        )
        if name != "jog":
            parser.add_argument("--json", action="store_true", help="print it as JSON")
        return parser

    action("status", _status, "tell where the head is and how it is")
    move = action("move", _move, "turn to these angles and wait until it is there", "move 20 -5")
    move.add_argument("pan_deg", type=number, metavar="PAN_DEG", help="positive to the right")
    move.add_argument("tilt_deg", type=number, metavar="TILT_DEG", help="positive up")
    move.add_argument("--seconds", type=number, default=0.0, help="take this long (no longer "
                      "than it must)")  # fmt: skip
    hold = action("hold", _hold, "stop where it is")
    for parser in (move, hold):
        parser.add_argument("--stay", action="store_true", help="keep it there until Ctrl-C")
    action("home", _home, "go slowly to the home position")
    action("relax", _relax, "switch the torque of its servos off")
    action("jog", _jog, f"turn it by keys: {JOG_HELP}")

    limits = action(
        "limits", _limits, "show a board's limits, or set them in its EEPROM",
        "limits --pan 1000 2000 --tilt 1200 1800 --tilt-home 1450",
    )  # fmt: skip
    for axis in ("pan", "tilt"):
        limits.add_argument(f"--{axis}", nargs=2, type=number, metavar=("LOW", "HIGH"),
                            help="pulse widths in microseconds")  # fmt: skip
        limits.add_argument(f"--{axis}-home", type=number, metavar="US", help="its home position")
        limits.add_argument(f"--{axis}-slew", type=int, metavar="US_PER_S", help="its top speed")
    limits.add_argument("--id", type=int, help="a number of this board, to tell it from others")

    flash = action(
        "flash", _flash, "write this project's firmware to an Arduino Uno or Nano, with avrdude",
        "flash --port /dev/ttyACM0",
    )  # fmt: skip
    flash.add_argument("--port", help="its serial port (the only board)")
    flash.add_argument("--hex", type=Path, default=FIRMWARE, help="another firmware")
    flash.add_argument(
        "--old-boot-loader", action="store_true", help="as many a Nano has: 57600 baud"
    )
    flash.add_argument("--print", action="store_true", help="only print the command")


# ------------------------------------------------------------------------------------------------
# One command each


def _status(options: argparse.Namespace) -> int:
    with open_head(options.head) as head:
        _show(head, head.state(), options)
    return 0


def _move(options: argparse.Namespace) -> int:
    with open_head(options.head) as head:
        goal_rad = math.radians(options.pan_deg), math.radians(options.tilt_deg)
        reached_rad = head.move(*goal_rad, options.seconds)
        state = head.wait(options.seconds + SLOW_S)
        if max(abs(a - b) for a, b in zip(goal_rad, reached_rad, strict=True)) > 0.01:
            say(f"that is beyond its limits, {_limits_in_words(head)}: it went as far as it may")
        _show(head, state, options)
        _stay(head, options)
    return 0


def _hold(options: argparse.Namespace) -> int:
    return _tell(options, PanTiltHead.hold, then=_stay)


def _home(options: argparse.Namespace) -> int:
    return _tell(options, PanTiltHead.home)


def _relax(options: argparse.Namespace) -> int:
    return _tell(options, PanTiltHead.relax)


def _tell(options: argparse.Namespace, command, then=lambda head, options: None) -> int:
    """Give the head a command without arguments, wait until it is done, and show the head."""
    with open_head(options.head) as head:
        command(head)
        _show(head, head.wait(SLOW_S), options)
        then(head, options)
    return 0


def _stay(head: PanTiltHead, options: argparse.Namespace) -> None:
    """Keep the head where it is until Ctrl-C, if that is asked for."""
    if not options.stay:
        say("a servo board goes home 3 s after its program ends; --stay keeps it here")
        return
    say("staying until Ctrl-C")
    with _leaving_on_signals():
        try:
            while True:
                time.sleep(LOOK_S)
                for event in head.drain_events():
                    say(event)
        except KeyboardInterrupt:
            pass


def _show(head: PanTiltHead, state: HeadStatus, options: argparse.Namespace) -> None:
    print(json.dumps(_as_json(head, state)) if options.json else _in_words(head, state))
    for event in head.drain_events():
        say(event)


def _as_json(head: PanTiltHead, state: HeadStatus) -> dict:
    values = state._asdict()
    for axis in ("pan", "tilt"):
        angle_rad = values.pop(f"{axis}_rad")
        values[f"{axis}_deg"] = math.degrees(angle_rad) if math.isfinite(angle_rad) else None
    values["limits_deg"] = [[math.degrees(end) for end in axis] for axis in head.limits_rad]
    return values


def _in_words(head: PanTiltHead, state: HeadStatus) -> str:
    faults = ", ".join(f"{count} {name}" for name, count in state.faults.items() if count)
    since = "" if state.uptime_s is None else f", up for {state.uptime_s:.0f} s"
    return (
        f"{state.name} at {state.port}{since}\n"
        f"at {_angles(state)}; it may go {_limits_in_words(head)}\n"
        f"faults: {faults or 'none'}"
    )


def _angles(state: HeadStatus) -> str:
    does = (
        "torque off" if state.torque_off else "on its way" if state.moving else "still"
    ) + ("" if state.connected else ", as far as is known: the line is lost")  # fmt: skip
    if math.isnan(state.pan_rad):
        return f"angles not known, {does}"
    pan_deg, tilt_deg = math.degrees(state.pan_rad), math.degrees(state.tilt_rad)
    return f"pan {pan_deg:+.1f}, tilt {tilt_deg:+.1f} degrees, {does}"


def _limits_in_words(head: PanTiltHead) -> str:
    return ", ".join(
        f"{name} {math.degrees(low):+.1f} .. {math.degrees(high):+.1f}"
        for name, (low, high) in zip(("pan", "tilt"), head.limits_rad, strict=True)
    )


# ------------------------------------------------------------------------------------------------
# jog


def _jog(options: argparse.Namespace) -> int:
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise HeadError("jog is for a terminal: use `edge-rjepa head move` in scripts")
    with open_head(options.head) as head:
        try:
            with _leaving_on_signals(), _keys_at_once(sys.stdin.fileno()):
                print(JOG_HELP)
                Jog(head).run(sys.stdin.fileno())
        except KeyboardInterrupt:
            pass
        finally:
            print()
    return 0


class Jog:
    """Turns a head by the keys of a terminal, and shows where it is."""

    def __init__(self, head: PanTiltHead) -> None:
        self._head = head
        self._step_deg = STEP_DEG
        self._goal_rad: tuple[float, float] | None = None  # None: it was not told an angle last
        self._wide = 0

    def run(self, terminal: int) -> None:
        """Until q, or the end of input. terminal: the file descriptor keys come from."""
        typed = b""
        while True:
            self._show()
            if not select.select([terminal], [], [], LOOK_S)[0]:
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
        """One step from where it was sent, or from where it is; torque comes on first."""
        state = self._head.state()
        if math.isnan(state.pan_rad):
            self._head.hold()
            return
        pan_rad, tilt_rad = self._goal_rad or (state.pan_rad, state.tilt_rad)
        step_rad = math.radians(self._step_deg)
        self._goal_rad = self._head.move(pan_rad + pan * step_rad, tilt_rad + tilt * step_rad)

    def _show(self) -> None:
        line = f"{_angles(self._head.state())}; steps of {self._step_deg:g}"
        for event in self._head.drain_events():
            print(f"\r{event:{self._wide}}")
        self._wide = max(self._wide, len(line))
        print(f"\r{line:{self._wide}}", end="", flush=True)


ARROWS = {"up": (0, 1), "down": (0, -1), "right": (1, 0), "left": (-1, 0)}
ACTIONS = {"h": PanTiltHead.home, " ": PanTiltHead.hold, "r": PanTiltHead.relax}
KEY = re.compile(rb"\x1b[\[O]([ABCD])|\x1b[\[O]?[^\x1b]?|[^\x1b]")
NAMES = {b"A": "up", b"B": "down", b"C": "right", b"D": "left"}


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


@contextmanager
def _leaving_on_signals() -> Iterator[None]:
    """What would kill the program ends it as Ctrl-C does: in order."""

    def leave(number, frame) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, leave) for number in LEAVE}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# ------------------------------------------------------------------------------------------------
# A board's settings and its firmware


def _limits(options: argparse.Namespace) -> int:
    if not firmware_bridge.kind_of(options.head).keeps_settings:
        raise HeadError(
            f"{options.head} keeps its limits in its servos: set them with their maker's tool"
        )
    with closing(firmware_bridge.driver_of(options.head)) as board:
        _connect(board)
        board_id = board.greeting.board_id if options.id is None else options.id
        pan = _changed(board.greeting.pan, options.pan, options.pan_home, options.pan_slew)
        tilt = _changed(board.greeting.tilt, options.tilt, options.tilt_home, options.tilt_slew)
        if (board_id, pan, tilt) != _settings(board):
            board.configure(board_id, pan, tilt)
            say("set, and kept in its EEPROM")
        board_id, pan, tilt = _settings(board)
    if options.json:
        print(json.dumps({"id": board_id, "pan": pan._asdict(), "tilt": tilt._asdict()}))
        return 0
    print(f"board {board_id}")
    for name, axis in (("pan", pan), ("tilt", tilt)):
        print(
            f"{name:4}  {axis.low_us:g} .. {axis.high_us:g} us, home {axis.home_us:g} us, "
            f"at most {axis.slew_us_per_s} us/s"
        )
    return 0


def _settings(board) -> tuple:
    return board.greeting.board_id, board.greeting.pan, board.greeting.tilt


def _changed(axis, limits, home_us, slew_us_per_s):
    """The axis with what was asked for. A home outside new limits goes to the nearer of them."""
    low_us, high_us = limits or (axis.low_us, axis.high_us)
    if home_us is None:
        home_us = min(max(axis.home_us, low_us), high_us)
    slew = axis.slew_us_per_s if slew_us_per_s is None else slew_us_per_s
    return axis._replace(low_us=low_us, high_us=high_us, home_us=home_us, slew_us_per_s=slew)


def _connect(board) -> None:
    """Greet a board that may be booting. Raises HeadError."""
    end_s = time.monotonic() + CONNECT_S
    while True:
        try:
            return board.open()
        except LinkError:
            if time.monotonic() >= end_s:
                raise
            time.sleep(LOOK_S)


def _flash(options: argparse.Namespace) -> int:
    from firmware_bridge.ports import the_only_board

    if not options.hex.is_file():
        raise HeadError(f"{options.hex}: no such file: build the firmware with `make firmware`")
    try:
        port = options.port or the_only_board()
    except HeadError as error:
        if not options.print:
            raise
        port = "PORT"
        say(f"{error}; in place of PORT")
    baud = OLD_BOOT_LOADER_BAUD if options.old_boot_loader else BAUD
    command = [
        *("avrdude", "-p", "atmega328p", "-c", "arduino", "-P", port, "-b", str(baud)),
        *("-U", f"flash:w:{options.hex}:i"),
    ]
    if options.print:
        print(shlex.join(command))
        return 0
    if shutil.which("avrdude") is None:
        say("avrdude is not installed: sudo apt-get install avrdude; then this flashes it:")
        print(shlex.join(command))
        return FAILED
    done = subprocess.run(command)
    if done.returncode != 0:
        other = "without" if options.old_boot_loader else "with"
        raise HeadError(
            f"avrdude failed on {port}: see above; some boards need it {other} --old-boot-loader"
        )
    with open_head(f"serial:{port}") as head:
        say(f"flashed: {head.state().name} answers at {port}")
    return 0
