"""`edge-rjepa dashboard`: the page of a run or a watch that another process has, or that ended."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from edge_rjepa.cli import options as flags
from edge_rjepa.cli.terminal import say, stop_on_signals
from edge_rjepa.errors import ConfigError

POLL_S = 0.2  # between two looks whether to stop

EXAMPLES = """examples:
  edge-rjepa dashboard runs/mine
  edge-rjepa dashboard runs/mine/watch   the folder of a watch
"""


def add_to(commands: Any) -> None:
    """Add `dashboard` to the commands."""
    parser = flags.add_command(
        commands, "dashboard", execute, "show a run or an ended watch in the browser", EXAMPLES
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="of a run, or of a watch")
    parser.add_argument(
        "--address", metavar="HOST:PORT", default=flags.ADDRESS, help=f"({flags.ADDRESS})"
    )
    flags.add_token(parser)
    flags.add_host_names(parser)


def execute(options: argparse.Namespace) -> int:
    """Serve the page until there is a signal."""
    from edge_rjepa.views.dashboard import Dashboard

    page = _page_of(options.folder)
    with (
        stop_on_signals("stopping") as received,
        Dashboard(options.address, page, flags.read_token(options), options.host_name) as server,
    ):
        say(f"page: {server.url}   Ctrl-C ends it")
        while not received:
            time.sleep(POLL_S)
    return 0


def _page_of(folder: Path) -> Any:
    """What the page shows. Raises ConfigError for a folder of neither."""
    from edge_rjepa.teach.seen_now import NamesKept
    from edge_rjepa.views.dashboard import KeptRun, KeptWatch

    if (folder / "metrics.jsonl").exists():
        return KeptRun(folder, NamesKept(folder))
    if KeptWatch.is_in(folder):
        return KeptWatch(folder)
    raise ConfigError(
        f"{folder} is no folder of a run or of a watch: name one that `learn` or `watch` made"
    )
