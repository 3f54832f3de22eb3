"""`edge-rjepa head ..`: show a pan-tilt head, turn it, set its limits, flash its board."""

from __future__ import annotations

import argparse
import json
import math
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import firmware_bridge
from edge_rjepa.cli import jog
from edge_rjepa.cli import options as flags
from edge_rjepa.cli.jog import KEYS_IN_WORDS, angles_in_words
from edge_rjepa.cli.options import number
from edge_rjepa.cli.terminal import FAILED, interrupt_on_signals, say
from firmware_bridge import HeadError, HeadStatus, LinkError, PanTiltHead, open_head

FIRMWARE = Path(firmware_bridge.__file__).parent / "firmware" / "edge_head.hex"
BAUD, OLD_BOOT_LOADER_BAUD = 115200, 57600
CONNECT_S = 5.0
SLOW_S = 90.0  # the longest any way takes: 2000 us at 25 us/s, and some to spare
POLL_S = 0.05  # between two looks at the head
CLIPPED_RAD = 0.01  # a goal this far from what was asked for is worth a line

EXAMPLES = """examples:
  edge-rjepa head status                     of the only board that is plugged in
  edge-rjepa head move 20 -5                 20 degrees to the right, 5 down
  edge-rjepa head jog --head serial:/dev/ttyACM0
  edge-rjepa head limits --pan 1000 2000 --tilt 1200 1800 --tilt-home 1450
  edge-rjepa head flash --port /dev/ttyUSB0 --old-boot-loader
  edge-rjepa head status --head "feetech:/dev/ttyUSB0?pan=1&tilt=2"
"""


def add_to(commands: Any) -> None:
    """Add `head` and its actions to the commands; an action may raise HeadError."""
    head = flags.add_command(
        commands, "head", None, "show, turn and set up a pan-tilt head", EXAMPLES
    )
    actions = head.add_subparsers(required=True, metavar="ACTION")
    _add_action(actions, "status", _status, "show where the head points and what state it is in")
    move = _add_action(
        actions, "move", _move, "turn to these angles and wait for the head", "move 20 -5"
    )
    move.add_argument("pan_deg", type=number, metavar="PAN_DEG", help="positive to the right")
    move.add_argument("tilt_deg", type=number, metavar="TILT_DEG", help="positive up")
    move.add_argument(
        "--seconds",
        type=number,
        default=0.0,
        metavar="S",
        help="take S seconds; 65 is the most on a servo board, 3600 on others (full speed)",
    )
    hold = _add_action(actions, "hold", _hold, "stop, and hold this position")
    for parser in (move, hold):
        parser.add_argument("--stay", action="store_true", help="hold it there until Ctrl-C")
    _add_action(actions, "home", _home, "go slowly to the home position")
    _add_action(actions, "relax", _relax, "turn the torque of the servos off")
    _add_action(actions, "jog", _jog, f"turn it with the keyboard: {KEYS_IN_WORDS}")
    _add_limits(actions)
    _add_flash(actions)


def _add_action(
    actions: Any,
    name: str,
    command: Callable[[argparse.Namespace], int],
    summary: str,
    example: str = "",
) -> argparse.ArgumentParser:
    example = f"example:\n  edge-rjepa head {example or name}\n"
    parser = flags.add_command(actions, name, command, summary, example)
    if name != "flash":
        flags.add_head(parser, "serial:")
    if name not in ("flash", "jog"):
        flags.add_json(parser)
    return parser


def _add_limits(actions: Any) -> None:
    limits = _add_action(
        actions, "limits", _limits, "show a board's limits, or set them in its EEPROM",
        "limits --pan 1000 2000 --tilt 1200 1800 --tilt-home 1450",
    )  # fmt: skip
    for axis in ("pan", "tilt"):
        limits.add_argument(
            f"--{axis}", nargs=2, type=number, metavar=("LOW", "HIGH"),
            help="the shortest and the longest pulse, in microseconds",
        )  # fmt: skip
        limits.add_argument(
            f"--{axis}-home", type=number, metavar="US", help="the pulse of the home position"
        )
        limits.add_argument(
            f"--{axis}-slew", type=int, metavar="US_PER_S", help="the highest speed"
        )
    limits.add_argument("--id", type=int, help="a number that tells this board from others")


def _add_flash(actions: Any) -> None:
    flash = _add_action(
        actions, "flash", _flash, "write this project's firmware to an Arduino Uno or Nano "
        "(needs avrdude)", "flash --port /dev/ttyACM0",
    )  # fmt: skip
    flash.add_argument("--port", help="its serial port (the only board)")
    flash.add_argument(
        "--hex", type=Path, default=FIRMWARE, metavar="F", help="write this firmware instead"
    )
    flash.add_argument(
        "--old-boot-loader", action="store_true", help="use 57600 baud, as many a Nano needs"
    )
    flash.add_argument("--print", action="store_true", help="print avrdude's command, and stop")


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
        if max(abs(a - b) for a, b in zip(goal_rad, reached_rad, strict=True)) > CLIPPED_RAD:
            say(f"that is beyond its limits, {_limits_in_words(head)}: it went to the nearest one")
        _show(head, state, options)
        _stay(head, options)
    return 0


def _hold(options: argparse.Namespace) -> int:
    return _command(options, PanTiltHead.hold, then=_stay)


def _home(options: argparse.Namespace) -> int:
    return _command(options, PanTiltHead.home)


def _relax(options: argparse.Namespace) -> int:
    return _command(options, PanTiltHead.relax)


def _jog(options: argparse.Namespace) -> int:
    jog.check_terminal()
    with open_head(options.head) as head:
        jog.jog(head)
    return 0


def _command(
    options: argparse.Namespace,
    command: Callable[[PanTiltHead], None],
    then: Callable[[PanTiltHead, argparse.Namespace], None] = lambda head, options: None,
) -> int:
    """Give the head a command without arguments, wait until it is done, and show the head."""
    with open_head(options.head) as head:
        command(head)
        _show(head, head.wait(SLOW_S), options)
        then(head, options)
    return 0


def _stay(head: PanTiltHead, options: argparse.Namespace) -> None:
    """Hold the head where it is until Ctrl-C, if --stay asks for that."""
    if not options.stay:
        say("a servo board goes home 3 s after its program ends; --stay holds it here")
        return
    say("staying until Ctrl-C")
    with suppress(KeyboardInterrupt), interrupt_on_signals():
        while True:
            time.sleep(POLL_S)
            for event in head.drain_events():
                say(event)


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
        f"at {angles_in_words(state)}; it may go {_limits_in_words(head)}\n"
        f"faults: {faults or 'none'}"
    )


def _limits_in_words(head: PanTiltHead) -> str:
    return ", ".join(
        f"{name} {math.degrees(low):+.1f} .. {math.degrees(high):+.1f}"
        for name, (low, high) in zip(("pan", "tilt"), head.limits_rad, strict=True)
    )


# ------------------------------------------------------------------------------------------------
# A board's settings and its firmware


def _limits(options: argparse.Namespace) -> int:
    with closing(_board_of(options.head)) as board:
        _connect(board)
        board_id, pan, tilt = before = _settings(board)
        wanted = (
            board_id if options.id is None else options.id,
            _with_changes(pan, options.pan, options.pan_home, options.pan_slew),
            _with_changes(tilt, options.tilt, options.tilt_home, options.tilt_slew),
        )
        if wanted != before:
            board.configure(*wanted)
            say("the board has stored this in its EEPROM")
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


def _board_of(spec: str) -> Any:
    """The driver of a board that keeps settings, not opened yet. Raises HeadError for another."""
    if not firmware_bridge.kind_of(spec).keeps_settings:
        raise HeadError(f"{spec} keeps its limits in its servos: set them with their maker's tool")
    return firmware_bridge.driver_of(spec)


def _settings(board: Any) -> tuple[int, Any, Any]:
    """Its number, and what limits each axis, as it greeted with them."""
    return board.greeting.board_id, board.greeting.pan, board.greeting.tilt


def _with_changes(
    axis: Any, limits_us: list[float] | None, home_us: float | None, slew_us_per_s: int | None
) -> Any:
    """The axis with what was asked for. A home outside new limits goes to the nearer of them."""
    low_us, high_us = limits_us or (axis.low_us, axis.high_us)
    if home_us is None:
        home_us = min(max(axis.home_us, low_us), high_us)
    slew = axis.slew_us_per_s if slew_us_per_s is None else slew_us_per_s
    return axis._replace(low_us=low_us, high_us=high_us, home_us=home_us, slew_us_per_s=slew)


def _connect(board: Any) -> None:
    """Greet a board that may be booting. Raises HeadError."""
    end_s = time.monotonic() + CONNECT_S
    while True:
        try:
            board.open()
            return
        except LinkError:
            if time.monotonic() >= end_s:
                raise
            time.sleep(POLL_S)


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
        say(f"{error}; put its name in place of PORT")
    command = _avrdude(port, options)
    if options.print:
        print(shlex.join(command))
        return 0
    if shutil.which("avrdude") is None:
        say("avrdude is not installed: sudo apt-get install avrdude; then run this command:")
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


def _avrdude(port: str, options: argparse.Namespace) -> list[str]:
    baud = OLD_BOOT_LOADER_BAUD if options.old_boot_loader else BAUD
    return [
        *("avrdude", "-p", "atmega328p", "-c", "arduino", "-P", port, "-b", str(baud)),
        *("-U", f"flash:w:{options.hex}:i"),
    ]
