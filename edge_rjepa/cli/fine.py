"""`edge-rjepa fine FOLDER NUMBER`: say that what an alarm told of is fine."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from edge_rjepa.cli import options as flags

EXAMPLES = """examples:
  edge-rjepa fine runs/mine/watch 12    alarm 12 told of what is usual, from now on

A watch that runs takes it up within a second, another one when it is started.
"""


def add_to(commands: Any) -> None:
    """Add `fine` to the commands."""
    parser = flags.add_command(
        commands, "fine", execute, "say that what an alarm told of is fine: it is usual", EXAMPLES
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="that the watch writes to")
    parser.add_argument("number", type=flags.positive(int), metavar="NUMBER", help="of the alarm")


def execute(options: argparse.Namespace) -> int:
    """Leave the word for the watch."""
    from edge_rjepa.watch.feedback import say_fine  # here, so that --help stays quick

    say_fine(options.folder, options.number)
    print(f"alarm {options.number} is fine: the watch of {options.folder} takes it as usual")
    return 0
