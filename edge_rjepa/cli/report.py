"""`edge-rjepa report`: draw a run's curves as a picture."""

from __future__ import annotations

import argparse
from typing import Any

from edge_rjepa.cli import options as flags
from safe_files.errors import printable

EXAMPLES = """example:
  edge-rjepa report runs/mine
"""


def add_to(commands: Any) -> None:
    """Add `report` to the commands."""
    parser = flags.add_command(
        commands, "report", execute, "draw a run's curves, filters and fixations as a picture",
        EXAMPLES,
    )  # fmt: skip
    flags.add_run(parser)


def execute(options: argparse.Namespace) -> int:
    """Draw it, and print where it is."""
    from edge_rjepa.views.report import draw_report

    print(printable(draw_report(options.run)))
    return 0
