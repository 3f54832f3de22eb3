"""`edge-rjepa export`: write the frozen encoder of a run as ONNX."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from edge_rjepa.cli import options as flags
from edge_rjepa.cli.options import positive, size_px
from edge_rjepa.cli.terminal import say
from edge_rjepa.encoder.names import DESCRIPTOR, FORMS, STEP
from edge_rjepa.errors import ExportError, SourceError

EXAMPLES = """examples:
  edge-rjepa export runs/mine -o encoder.onnx
  edge-rjepa export runs/mine -o sequence.onnx --form sequence --fixations 16
  edge-rjepa export runs/mine -o encoder.onnx --int8     also writes encoder.int8.onnx
  edge-rjepa export runs/mine -o place.onnx --form descriptor --picture 640x480
  edge-rjepa export runs/mine -o rooms.onnx --taught     a picture in, names out
"""


def add_to(commands: Any) -> None:
    """Add `export` to the commands."""
    parser = flags.add_command(
        commands, "export", execute, "write a run's frozen encoder as ONNX", EXAMPLES
    )
    flags.add_run(parser)
    parser.add_argument("-o", "--output", type=Path, help="the file (RUN/encoder.onnx)")
    parser.add_argument(
        "--form",
        choices=FORMS,
        help="step: one fixation a call, the state goes in and out; sequence: T fixations a call; "
        "patches: the embedding of single patches, without memory; descriptor: a whole picture to "
        "one row, the scan inside (step; descriptor with --taught)",
    )
    parser.add_argument(
        "--fixations", type=positive(int), default=16, metavar="T", help="T of a sequence (16)"
    )
    parser.add_argument(
        "--picture", type=size_px, default=(320, 240), metavar="WxH",
        help="size of the camera's pictures, of a descriptor (320x240)",
    )  # fmt: skip
    parser.add_argument(
        "--taught", action="store_true",
        help="a descriptor that also answers with the names of the places taught to the run",
    )  # fmt: skip
    parser.add_argument(
        "--float-input", action="store_true",
        help="the window or picture as float32 of 0..255: for ncnn, TFLite, TensorRT before 8.5",
    )  # fmt: skip
    parser.add_argument(
        "--int8", action="store_true", help="also write a file with 8-bit weights beside it"
    )
    parser.add_argument(
        "--patches",
        metavar="SRC",
        help="compare on patches of these pictures, this video, recording or camera (the run's own "
        "source, if it is no camera)",
    )
    parser.add_argument(
        "--licence", default="not stated", help="licence of the weights, written into the file"
    )
    flags.add_json(parser, "parity report")


def execute(options: argparse.Namespace) -> int:
    """Write the file, and another of 8 bits if that is asked for; say how well each agrees."""
    from edge_rjepa.encoder.export import export
    from edge_rjepa.encoder.int8 import quantise
    from edge_rjepa.eye.retina import Retina
    from edge_rjepa.run.run import load_run

    form = options.form or (DESCRIPTOR if options.taught else STEP)
    if options.int8 and form == DESCRIPTOR:
        raise ExportError("a descriptor stays in float: export another form for --int8")
    learner, config, _, problems = load_run(options.run)
    for problem in problems:
        say(f"warning: {problem}")
    # A descriptor is compared on whole pictures.
    patches = None if form == DESCRIPTOR else _patches(options, config)
    output = options.output or options.run / "encoder.onnx"
    parity = export(
        learner,
        Retina(config.retina),
        output,
        form=form,
        fixations=options.fixations,
        picture_px=options.picture,
        float_input=options.float_input,
        taught=_taught(options.run) if options.taught else None,
        gaze=config.gaze,
        patches=patches,
        licence=options.licence,
    )
    say(f"wrote {output}; it agrees with the learner:\n{parity.in_words()}")
    reports = {"parity": parity.as_json()}
    if options.int8 and patches is not None:
        coarse = output.with_suffix(".int8.onnx")
        int8 = quantise(output, coarse, patches)
        say(f"wrote {coarse}; compared with {output.name}:\n{int8.in_words()}")
        reports["int8"] = int8._asdict()
    if options.json:
        print(json.dumps(reports))
    return 0


def _patches(options: argparse.Namespace, config: Any) -> Any:
    """Real patches to compare on; None where the run's own source has none to give.

    Raises SourceError where they are needed: for 8 bits, or from a source that was named.
    """
    from edge_rjepa.run.patches import recorded_patches
    from edge_rjepa.sources import absolute, is_live, redacted

    source = absolute(options.patches) if options.patches else config.source
    try:
        if not options.patches and is_live(source):
            raise SourceError(
                f"{redacted(source)} is a camera, which is opened only when it is named: --patches"
            )
        return recorded_patches(replace(config, source=source))
    except SourceError as error:
        if options.int8 or options.patches:
            raise SourceError(f"{error}; name other pictures: --patches SRC") from error
        say(f"warning: no real patches to compare on: {error}")
        return None


def _taught(run: Path) -> Any:
    """The places taught to a run. Raises ExportError where there are none."""
    from edge_rjepa.cli.teach import known_to
    from edge_rjepa.encoder.opener import open_encoder
    from edge_rjepa.teach.looks import THING, path_beside

    known = known_to(open_encoder(run), path_beside(run))
    taught = known.for_export()
    if taught is None:
        raise ExportError(f"no place was taught to {run}: edge-rjepa teach {run} NAME --source SRC")
    if known.names(THING):
        say(f"warning: things stay out of it: {', '.join(known.names(THING))}")
    return taught
