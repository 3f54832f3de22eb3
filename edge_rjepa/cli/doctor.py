"""`edge-rjepa doctor`: examine this machine, and say what to do about each problem."""

from __future__ import annotations

import argparse
import json
from typing import Any

from edge_rjepa.cli import options as flags
from edge_rjepa.cli.terminal import FAILED

EXAMPLES = """examples:
  edge-rjepa doctor
  edge-rjepa doctor --calibration calibration.json    does it fit what is plugged in?
"""


def add_to(commands: Any) -> None:
    """Add `doctor` to the commands."""
    parser = flags.add_command(
        commands, "doctor", execute,
        "check cameras, serial ports and libraries, and say how to solve each problem", EXAMPLES,
    )  # fmt: skip
    flags.add_calibration(parser)
    flags.add_json(parser, "findings")


def execute(options: argparse.Namespace) -> int:
    """Print the findings; FAILED if one of them is a failure."""
    from edge_rjepa.doctor import FAIL, examine, table

    findings = examine(options.calibration)
    print(json.dumps([f._asdict() for f in findings]) if options.json else table(findings))
    return FAILED if any(finding.level == FAIL for finding in findings) else 0
