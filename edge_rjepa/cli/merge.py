"""`edge-rjepa merge RUN RUN .. -o RUN`: make one run of several that learned apart."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from edge_rjepa.cli import options as flags
from edge_rjepa.cli.terminal import say

EXAMPLES = """examples:
  edge-rjepa merge runs/kitchen runs/hall -o runs/home    what both learned, and were taught

Runs of one configuration and one seed are averaged: the mean of weights that began alike. What is
known of each place and thing by its name is taken over from all of them.
"""


def add_to(commands: Any) -> None:
    """Add `merge` to the commands."""
    parser = flags.add_command(
        commands, "merge", execute, "make one run of several that learned apart", EXAMPLES
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="two runs, or more")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="RUN", help="the folder of the new run"
    )


def execute(options: argparse.Namespace) -> int:
    """Write the run; say what it is made of."""
    from edge_rjepa.run.merge_runs import merge_runs
    from edge_rjepa.teach.looks import Looks, path_beside

    taught = [Looks.load(path) for path in map(path_beside, options.runs) if path.exists()]
    known = Looks.merged(taught)  # told before anything is written
    made = merge_runs(options.runs, options.output)
    for problem in made.problems:
        say(f"warning: {problem}")
    if known.names:
        known.save(path_beside(options.output))
    say(
        f"wrote {options.output}: {len(options.runs)} runs, {made.fixations:,} fixations, "
        f"{len(known.names)} names; next: edge-rjepa export {options.output}"
    )
    return 0
