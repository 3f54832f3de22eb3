"""`edge-rjepa dashboard`: serve the page of a run that another process learns, or that ended."""

from __future__ import annotations

import argparse
import time
from typing import Any

from edge_rjepa.cli import options as flags
from edge_rjepa.cli.terminal import say, stop_on_signals
from edge_rjepa.errors import ConfigError

POLL_S = 0.2  # between two looks whether to stop

EXAMPLES = """example:
  edge-rjepa dashboard runs/mine
"""


def add_to(commands: Any) -> None:
    """Add `dashboard` to the commands."""
    parser = flags.add_command(
        commands, "dashboard", execute, "show a run in the browser", EXAMPLES
    )
    flags.add_run(parser)
    parser.add_argument(
        "--address", metavar="HOST:PORT", default=flags.ADDRESS, help=f"({flags.ADDRESS})"
    )
    flags.add_token(parser)
    flags.add_host_names(parser)


def execute(options: argparse.Namespace) -> int:
    """Serve the page until there is a signal."""
    from edge_rjepa.teach.seen_now import NamesKept
    from edge_rjepa.views.dashboard import Dashboard, KeptRun

    if not (options.run / "metrics.jsonl").exists():
        raise ConfigError(f"{options.run} is no folder of a run: name one that `learn` made")
    page = KeptRun(options.run, NamesKept(options.run))
    with (
        stop_on_signals("stopping") as received,
        Dashboard(options.address, page, flags.read_token(options), options.host_name) as server,
    ):
        say(f"page: {server.url}   Ctrl-C ends it")
        while not received:
            time.sleep(POLL_S)
    return 0
