"""The command line, and the composition root: the only module that knows all the others.

Heavy modules are imported by the command that needs them, so that --help answers at once.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import sys
import time
import warnings
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from edge_rjepa import __version__
from edge_rjepa.errors import ConfigError, RJepaError

FAILED, USAGE, INTERRUPTED = 1, 2, 130

LEARN_EXAMPLES = """examples:
  edge-rjepa learn                                  photographs, until Ctrl-C, which saves
  edge-rjepa learn --source walk.mp4 --seconds 60   a video, for a minute
  edge-rjepa learn --source scene:pictures/ --out runs/mine --fixations 500000
  edge-rjepa learn --resume runs/mine --seconds 60  go on, bit for bit
"""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code: 0, 1 for a failure, 2 for wrong usage."""
    options = _parser().parse_args(arguments)
    warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
    try:
        return options.command(options)
    except (RJepaError, OSError, MemoryError) as error:
        print(f"edge-rjepa: {' '.join(str(error).split())}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("edge-rjepa: interrupted", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edge-rjepa",
        description="Learn to see from a camera, without labels; export a frozen encoder.",
        epilog="edge-rjepa COMMAND --help shows examples.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    learn = _command(commands, "learn", _learn, "learn from a source of pictures", LEARN_EXAMPLES)
    learn.add_argument(
        "--source", metavar="SRC", help="scene: (default), scene:DIR with pictures, or a video file"
    )
    learn.add_argument("--out", type=Path, metavar="RUN", help="the run's folder (runs/DATE-TIME)")
    learn.add_argument("--resume", type=Path, metavar="RUN", help="go on with this run")
    learn.add_argument("--seconds", type=_positive(float), help="stop after learning this long")
    learn.add_argument("--fixations", type=_positive(int), help="stop after this many in all")
    learn.add_argument("--config", type=Path, metavar="F", help="TOML; see a run's config.toml")
    learn.add_argument("--seed", type=int, help="of weights, gaze and scene (default 0)")
    learn.add_argument("--json", action="store_true", help="print the summary as JSON")

    export = _command(
        commands, "export", _export, "write a run's frozen encoder as ONNX",
        "example:\n  edge-rjepa export runs/mine -o encoder.onnx\n",
    )  # fmt: skip
    export.add_argument("run", type=Path, metavar="RUN")
    export.add_argument("-o", "--output", type=Path, help="the file (RUN/encoder.onnx)")
    export.add_argument(
        "--input",
        choices=("window", "features"),
        default="window",
        help="what the encoder takes: raw uint8 windows of pixels (default) or retina features",
    )
    export.add_argument("--json", action="store_true", help="print the parity report as JSON")

    report = _command(
        commands, "report", _report, "draw a run's curves as a picture",
        "example:\n  edge-rjepa report runs/mine\n",
    )  # fmt: skip
    report.add_argument("run", type=Path, metavar="RUN")

    check = _command(
        commands, "check-gradients", _check_gradients,
        "show that RFP's gradients are exact, cell by cell",
        "example:\n  edge-rjepa check-gradients --cell gated\n",
    )  # fmt: skip
    check.add_argument("--cell", action="append", help="only this cell (may be repeated)")
    check.add_argument("--seed", type=int, default=0)
    check.add_argument("--json", action="store_true", help="print the table as JSON")
    return parser


def _command(commands, name: str, function, summary: str, examples: str):
    parser = commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=function)
    return parser


def _positive(kind: type):
    def parse(text: str):
        value = kind(text)
        if not (value > 0 and math.isfinite(value)):
            raise ValueError
        return value

    parse.__name__ = f"positive {kind.__name__}"
    return parse


# ------------------------------------------------------------------------------------------------
# learn


def _learn(options: argparse.Namespace) -> int:
    from edge_rjepa.report import ReportError, draw_report

    with _stop_on_signals() as stopped, _open_run(options) as run:
        if run.frames == 0:
            _say(f"untrained: {run.before.information:.2f} nats on held-out fixations")
        with _progress_bar(run, options.fixations) as on_progress:
            run.learn(_limit(options, stopped), on_progress)
        summary = run.finish()
    _say(summary["verdict"])
    try:
        _say(f"report: {draw_report(run.folder)}")
    except ReportError as error:
        _say(f"no report: {error}")
    _say(f"next: edge-rjepa export {run.folder}   or go on: edge-rjepa learn --resume {run.folder}")
    if options.json:
        print(json.dumps(summary))
    return 0


@contextmanager
def _open_run(options: argparse.Namespace):
    """A new run, or the one to resume; its source is closed at the end."""
    from edge_rjepa.config import RunConfig
    from edge_rjepa.runtime import Run, kept_run
    from edge_rjepa.sources import absolute, open_source

    if options.resume:
        for flag in ("out", "config", "seed", "source"):
            if getattr(options, flag) is not None:
                raise SystemExit(_usage(f"--{flag} cannot change a run that is resumed"))
        folder, config = options.resume, kept_run(options.resume)[1]
    else:
        config = RunConfig.from_toml(options.config) if options.config else RunConfig()
        given = {"source": options.source, "seed": options.seed}
        config = replace(config, **{k: v for k, v in given.items() if v is not None})
        config = replace(config, source=absolute(config.source))
        folder = options.out or Path(time.strftime("runs/%Y%m%d-%H%M%S"))
    with open_source(config.source, config.seed) as source:
        _say(f"run: {folder}   source: {config.source}   (the first start compiles for a minute)")
        if options.resume:
            with _alone_in(folder):
                yield Run.resume(folder, source)
        else:
            run = Run.start(folder, config, source)
            with _alone_in(folder):
                yield run


@contextmanager
def _alone_in(folder: Path):
    """Holds the run's folder against a second process; freed however this one ends."""
    import fcntl

    from edge_rjepa.runtime import CONFIG

    with open(folder / CONFIG) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"another process is learning in {folder}: stop it first") from None
        yield


def _limit(options: argparse.Namespace, stopped: list):
    """Whether a run goes on: no signal yet, and within --seconds and --fixations."""
    most_s, fixations = options.seconds or math.inf, options.fixations or math.inf
    first_s = None  # the clock starts with the first frame: compiling does not count

    def go_on(run) -> bool:
        nonlocal first_s
        first_s = first_s or time.monotonic()
        in_time = time.monotonic() < first_s + most_s
        return not stopped and in_time and run.learner.fixations < fixations

    return go_on


@contextmanager
def _stop_on_signals():
    """A list that is no longer empty after Ctrl-C or SIGTERM; a second one ends the process."""
    received: list[int] = []

    def note(number, frame):
        received.append(number)
        signal.signal(number, previous[number])
        os.write(2, b"\nstopping: saving what was learned\n")  # print is not for handlers

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def _progress_bar(run, fixations: int | None):
    from tqdm import tqdm

    with tqdm(
        total=fixations, initial=run.learner.fixations, unit=" fixations", unit_scale=True,
        dynamic_ncols=True, bar_format=None if fixations else "{n_fmt}{unit} [{elapsed}{postfix}]",
    ) as bar:  # fmt: skip

        def show(progress):
            health = progress.health
            bar.set_postfix_str(
                f"{progress.fixations_per_s:,.0f}/s, information {health.information:.2f} nats, "
                f"rank {health.effective_rank:.1f}, std {health.embedding_std:.2f}, "
                f"surprise {progress.surprise:.2f}",
                refresh=False,
            )
            bar.update(progress.fixations - bar.n)
            if progress.event:
                bar.write(
                    f"COLLAPSE: {progress.event}. Rolled back to the last good checkpoint, "
                    f"learning rate lowered to {run.learner.learning_rate:.2g}.",
                    file=sys.stderr,
                )

        yield show


# ------------------------------------------------------------------------------------------------
# The other commands


def _export(options: argparse.Namespace) -> int:
    from edge_rjepa.export import export
    from edge_rjepa.retina import Retina
    from edge_rjepa.runtime import kept_run

    learner, config, _ = kept_run(options.run)
    retina = Retina(config.retina) if options.input == "window" else None
    output = options.output or options.run / "encoder.onnx"
    parity = export(learner, retina, output, gaze=config.gaze)
    error = max(parity.embedding, parity.memory, parity.prediction)
    agrees = f"onnxruntime agrees with the learner to {error:.1e} over {parity.steps} fixations"
    _say(f"wrote {output}: {agrees}")
    if options.json:
        print(json.dumps(parity._asdict()))
    return 0


def _report(options: argparse.Namespace) -> int:
    from edge_rjepa.report import draw_report

    print(draw_report(options.run))
    return 0


def _check_gradients(options: argparse.Namespace) -> int:
    from edge_rjepa.check import check_gradients, table

    def show(done: int, total: int, network: str) -> None:
        _say(f"{done}/{total} {network}")

    rows = check_gradients(options.cell, seed=options.seed, progress=show)
    print(json.dumps([row._asdict() for row in rows]) if options.json else table(rows))
    return 0 if all(row.ok for row in rows) else FAILED


def _say(line: str) -> None:
    """To the person who watches; standard output stays for what a script reads."""
    print(line, file=sys.stderr, flush=True)


def _usage(message: str) -> int:
    _say(f"edge-rjepa: {message}")
    return USAGE


if __name__ == "__main__":
    sys.exit(main())
