"""`edge-rjepa check-gradients`: show that the gradients are exact, cell by cell."""

from __future__ import annotations

import argparse
import json
from typing import Any

from edge_rjepa.cli import options as flags
from edge_rjepa.cli.terminal import FAILED, say

EXAMPLES = """example:
  edge-rjepa check-gradients --cell gated
"""


def add_to(commands: Any) -> None:
    """Add `check-gradients` to the commands."""
    parser = flags.add_command(
        commands, "check-gradients", execute,
        "show that the gradients are exact, for each cell and each parameter", EXAMPLES,
    )  # fmt: skip
    parser.add_argument(
        "--cell", action="append", help="check this cell only; may be given several times"
    )
    parser.add_argument(
        "--seed", type=flags.count, default=0, help="seed of weights and inputs (0)"
    )
    flags.add_json(parser, "table")


def execute(options: argparse.Namespace) -> int:
    """Print a row for each parameter; FAILED if one of them is not exact."""
    from edge_rjepa.learner.check_gradients import check_gradients, table

    def show(done: int, total: int, network: str) -> None:
        say(f"{done}/{total} {network}")

    rows = check_gradients(options.cell, seed=options.seed, progress=show)
    print(json.dumps([row._asdict() for row in rows]) if options.json else table(rows))
    return 0 if all(row.ok for row in rows) else FAILED
