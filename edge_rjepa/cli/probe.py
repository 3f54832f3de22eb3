"""`edge-rjepa probe`: ask what an encoder knows about labelled pictures."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from edge_rjepa.cli import options as flags

EXAMPLES = """example:
  edge-rjepa probe runs/mine --data pictures/    each folder in pictures/ is a class
"""


def add_to(commands: Any) -> None:
    """Add `probe` to the commands."""
    parser = flags.add_command(
        commands,
        "probe",
        execute,
        "test what an encoder knows about labelled pictures",
        EXAMPLES,
    )
    flags.add_encoder(parser)
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="each folder in DIR is a class"
    )
    parser.add_argument(
        "--seed",
        type=flags.count,
        default=0,
        help="seed of the split and of the untrained network (0)",
    )
    flags.add_json(parser, "table")


def execute(options: argparse.Namespace) -> int:
    """Print a row for the encoder and one for each peer it is compared with."""
    from tqdm import tqdm

    from edge_rjepa.encoder.probe import probe

    with tqdm(unit=" pictures", disable=not sys.stderr.isatty()) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        report = probe(options.encoder, options.data, seed=options.seed, progress=show)
    print(json.dumps(report.as_json()) if options.json else report.table())
    return 0
