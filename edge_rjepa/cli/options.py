"""What the commands' parsers share: a flag is added, named and explained here once."""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import firmware_bridge
from edge_rjepa.cli.json_log import FORMATS
from edge_rjepa.errors import ConfigError
from edge_rjepa.sources.kinds import supported
from safe_files.errors import why
from safe_files.reading import read_bytes

TOKEN_VARIABLE, MOST_SECRET_BYTES = "EDGE_RJEPA_TOKEN", 4096
ADDRESS = "127.0.0.1:8000"  # of the page, unless another one is given
FOXGLOVE_ADDRESS = "127.0.0.1:8765"  # Foxglove's own default
ROS2_NAMESPACE = "edge_rjepa"  # of topics, unless another one is given


def add_command(
    commands: Any,
    name: str,
    command: Callable[[argparse.Namespace], int] | None,
    summary: str,
    examples: str,
) -> argparse.ArgumentParser:
    """Add a command to what argparse's `add_subparsers` returned, and return its parser.

    command: does what the parsed options say and returns the exit code; None where a command has
    commands of its own. summary: one line without a full stop. examples: shown below the flags.
    """
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=command)
    if command is not None:
        parser.add_argument(
            "--log",
            choices=FORMATS,
            default=FORMATS[0],
            help="json: what goes to standard error is one JSON object a line (text)",
        )
    return parser


# -- flags that several commands have -------------------------------------------------------------


def add_run(parser: Any) -> None:
    """RUN: the folder of a run."""
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a run")


def add_encoder(parser: Any) -> None:
    """RUN|encoder.onnx: a run or an exported encoder."""
    parser.add_argument(
        "encoder", type=Path, metavar="RUN|encoder.onnx", help="a run or an exported encoder"
    )


def add_source(
    parser: Any, note: str, required: bool = False, action: Literal["store", "append"] = "store"
) -> None:
    """--source. note: what the default is, or which sources fit. action: as argparse has it."""
    parser.add_argument(
        "--source",
        metavar="SRC",
        required=required,
        action=action,
        help=f"{supported()}; {note}",
    )


def add_head(parser: Any, default: str | None = None) -> None:
    """--head. default: None for no head."""
    parser.add_argument(
        "--head",
        metavar="HEAD",
        default=default,
        help=f"the pan-tilt head: {firmware_bridge.supported()}; default: {default or 'none'}",
    )


def add_view(parser: Any, default_deg: float | None = None) -> None:
    """--fov. default_deg: None where the configuration has the default."""
    parser.add_argument(
        "--fov",
        type=view,
        metavar="DEG",
        default=default_deg,
        help="the camera's horizontal field of view in degrees, if it is not calibrated (60)",
    )


def add_calibration(parser: Any) -> None:
    """--calibration."""
    parser.add_argument(
        "--calibration", type=Path, metavar="F", help="a file that edge-rjepa calibrate wrote"
    )


def add_seconds(parser: Any, what: str = "stop after this many seconds") -> None:
    """--seconds. what: it does."""
    parser.add_argument("--seconds", type=positive(float), metavar="S", help=what)


def add_dashboard(parser: Any) -> None:
    """--dashboard, and who may look at it."""
    parser.add_argument(
        "--dashboard",
        nargs="?",
        const=ADDRESS,
        metavar="HOST:PORT",
        help=f"serve a live page for the browser ({ADDRESS} if no address is given)",
    )
    add_token(parser)
    add_host_names(parser)


def add_foxglove(parser: Any) -> None:
    """--foxglove."""
    parser.add_argument(
        "--foxglove",
        nargs="?",
        const=FOXGLOVE_ADDRESS,
        metavar="HOST:PORT",
        help=f"serve a live view for Foxglove ({FOXGLOVE_ADDRESS} if no address is given); it has "
        "no password",
    )


def add_ros2(parser: Any) -> None:
    """--ros2."""
    parser.add_argument(
        "--ros2",
        nargs="?",
        const=ROS2_NAMESPACE,
        metavar="NAMESPACE",
        help=f"publish on topics of ROS 2 below this name ({ROS2_NAMESPACE} if none is given)",
    )


def add_token(parser: Any) -> None:
    """--token and --token-file; `read_token` has what they say."""
    either = parser.add_mutually_exclusive_group()
    either.add_argument(
        "--token",
        help="viewers need this token; one is made and printed if the page is served on an address "
        "of the network. Who looks at the list of processes sees it: --token-file, or "
        f"{TOKEN_VARIABLE} in the environment, keeps it to you",
    )
    either.add_argument(
        "--token-file", type=Path, metavar="F", help="viewers need the token in this file"
    )


def read_token(options: argparse.Namespace) -> str | None:
    """The token of the flags or else of the environment; None for none.

    Raises ConfigError for a file that cannot be read, and for an empty token, which would let in
    everybody.
    """
    token: str | None = options.token
    if token is None:
        token = read_secret(options.token_file, TOKEN_VARIABLE, "token")
    if token is not None and not token.strip():
        raise ConfigError("the page's token is empty: give one, or leave it out")
    return token


def read_secret(path: Path | None, variable: str, what: str) -> str | None:
    """What stands in the file, or else in the variable of the environment; None for neither.

    what: it is, for messages. Raises ConfigError for a file that cannot be read.
    """
    if path is None:
        return os.environ.get(variable)
    try:
        return read_bytes(path, MOST_SECRET_BYTES).decode().strip()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {why(error)}") from error
    except ValueError as error:  # too long, or not UTF-8
        raise ConfigError(f"{path} holds no {what} ({error})") from error


def host_and_port(address: str) -> tuple[str, int]:
    """Of HOST:PORT, where an IPv6 address stands in brackets. Raises ConfigError."""
    found = re.fullmatch(r"([^][:/@\s]+|\[[^][/@\s]+\]):([0-9]{1,5})", address)
    if not found or not 0 < int(found[2]) < 65536:
        raise ConfigError(f"{address[:80]!r} is no address: write it as HOST:PORT, or [IPV6]:PORT")
    return found[1].strip("[]"), int(found[2])


def add_host_names(parser: Any) -> None:
    """--host-name, once or more often."""
    parser.add_argument(
        "--host-name",
        action="append",
        default=[],
        metavar="NAME",
        help="the page is also asked for by this name, such as that of a reverse proxy",
    )


def add_json(parser: Any, what: str = "result") -> None:
    """--json. what: is printed so."""
    parser.add_argument("--json", action="store_true", help=f"print the {what} as JSON")


def add_box(parser: Any, what: str) -> None:
    """--box and --thing, one of them. what: is done with it."""
    either = parser.add_mutually_exclusive_group()
    either.add_argument(
        "--box", type=box, metavar="X,Y,W,H",
        help=f"{what} in this box, in shares of the picture: 0.25,0.25,0.5,0.5 is its middle",
    )  # fmt: skip
    either.add_argument(
        "--thing", dest="box", action="store_const", const=(0.25, 0.25, 0.5, 0.5),
        help=f"{what} in the middle of the picture",
    )  # fmt: skip


# -- numbers ---------------------------------------------------------------------------------------


def number(text: str) -> float:
    """A finite number, for argparse."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError
    return value


number.__name__ = "number"  # as argparse names it


def box(text: str) -> tuple[float, float, float, float]:
    """x, y, width and height in shares of a picture; argparse reports what it raises."""
    from edge_rjepa.errors import InputError
    from edge_rjepa.teach.recogniser import checked_box

    try:
        return checked_box(text.split(","))
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def size_px(text: str) -> tuple[int, int]:
    """Width and height of WIDTHxHEIGHT; argparse reports what it raises."""
    try:
        width, height = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is no size: write it as 320x240") from None
    if not (1 <= width <= 16384 and 1 <= height <= 16384):
        raise argparse.ArgumentTypeError(f"'{text}': width and height must be 1 to 16384")
    return width, height


def positive(kind: Callable[[str], float]) -> Callable[[str], Any]:
    """What makes a number of this kind above 0 from text, for argparse."""

    def parse(text: str) -> float:
        value = kind(text)
        if not 0 < value <= sys.float_info.max:  # a whole number may be more than any float holds
            raise ValueError
        return value

    parse.__name__ = f"positive {kind.__name__}"
    return parse


def count(text: str) -> int:
    """A whole number, 0 or more, for argparse."""
    value = int(text)
    if value < 0:
        raise ValueError
    return value


count.__name__ = "whole number of 0 or more"


def view(text: str) -> float:
    """A camera's field of view in degrees, above 0 and below 180, for argparse."""
    value: float = positive(float)(text)
    if value >= 180.0:
        raise ValueError
    return value


view.__name__ = "view in degrees, above 0 and below 180"
