"""`edge-rjepa embed`: what an encoder makes of each frame, as a column of a LeRobot dataset."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from edge_rjepa.cli import options as flags
from edge_rjepa.cli.terminal import say

COLUMN = "observation.edge_rjepa"

EXAMPLES = """examples:
  edge-rjepa embed runs/mine so101_pick -o so101_pick_seen
  edge-rjepa embed encoder.onnx so101_pick --camera front -o so101_pick_seen
  edge-rjepa embed runs/mine so101_pick --pooled -o so101_pick_seen   a sixteenth as long
  edge-rjepa embed runs/mine so101_pick --as observation.environment_state -o so101_pick_seen
"""


def add_to(commands: Any) -> None:
    """Add `embed` to the commands."""
    parser = flags.add_command(
        commands, "embed", execute, "add an encoder's rows to a LeRobot dataset", EXAMPLES
    )
    flags.add_encoder(parser)
    parser.add_argument("dataset", type=Path, metavar="DIR", help="a LeRobot dataset, version 3")
    parser.add_argument(
        "--camera", metavar="K", help="whose pictures are described (the only one there is)"
    )
    parser.add_argument(
        "--as", dest="column", default=COLUMN, metavar="NAME",
        help="the column; ACT and Diffusion policies take observation.environment_state by "
        f"themselves ({COLUMN})",
    )  # fmt: skip
    parser.add_argument(
        "--pooled", action="store_true",
        help="the mean over the picture's 16 places, a sixteenth as long; it does not tell where "
        "things are",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="NEWDIR", help="the new dataset"
    )
    flags.add_json(parser, "summary")


def execute(options: argparse.Namespace) -> int:
    """Write the new dataset; say what it has."""
    dataset, camera = _opened(options)
    from tqdm import tqdm

    from edge_rjepa.encoder.dataset_column import write_with_column
    from edge_rjepa.encoder.opener import open_encoder

    encoder = open_encoder(options.encoder)
    describer = encoder.describer()
    describe = describer.__call__ if options.pooled else describer.by_place
    started_s = time.monotonic()
    with tqdm(unit=" frames", disable=not sys.stderr.isatty()) as bar:
        written = write_with_column(
            dataset, camera, options.column, describe, options.output, bar.update
        )
    took_ms = 1e3 * (time.monotonic() - started_s) / written.frames
    say(
        f"{options.output}: {written.frames:,} frames of {written.episodes:,} episodes, each with "
        f"{written.values} values as {options.column}; {took_ms:.1f} ms a frame"
    )
    if options.json:
        print(json.dumps(written._asdict() | {"column": options.column, "ms_a_frame": took_ms}))
    return 0


def _opened(options: argparse.Namespace) -> tuple[Any, str]:
    """The dataset and its camera; here it is told if the extra is missing."""
    from edge_rjepa.sources.lerobot_dataset import Dataset

    dataset = Dataset(options.dataset)
    return dataset, dataset.camera(options.camera)
