"""The command line, and the composition root: the only module that knows all the others.

Heavy modules are imported by the command that needs them, so that --help answers at once.
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import firmware_bridge
from calibration.errors import CalibrationError
from edge_rjepa._version import __version__
from edge_rjepa.cli import calibrate as calibrate_cli
from edge_rjepa.cli import head as head_cli
from edge_rjepa.cli import watch as watch_cli
from edge_rjepa.cli.terminal import positive, say, stop_on_signals, view
from edge_rjepa.errors import ConfigError, RJepaError, SourceError
from edge_rjepa.sources.kinds import supported

FAILED, USAGE, INTERRUPTED = 1, 2, 130
LOOK_S = 0.2  # between two looks whether to stop
HERE = "127.0.0.1:8000"  # where the page is unless told
A_LINE_EVERY_S = 60.0  # of progress, where there is no terminal to draw a bar on

LEARN_EXAMPLES = """examples:
  edge-rjepa learn                                  photographs, until Ctrl-C, which saves
  edge-rjepa learn --source walk.mp4 --seconds 60   a video, for a minute
  edge-rjepa learn --source scene:pictures/ --out runs/mine --fixations 500000
  edge-rjepa learn --source 0 --fov 70              the first camera, 70 degrees wide
  edge-rjepa learn --source rtsp://camera/stream    or http://..., /dev/v4l/by-id/..., gst:...
  edge-rjepa learn --source 0 --head serial:        and turn the camera with the head it sits on
  edge-rjepa learn --source 0 --record walk/        and keep what it looked at
  edge-rjepa learn --source replay:walk/            learn from that again, bit for bit
  edge-rjepa learn --resume runs/mine --seconds 60  go on, bit for bit
"""

EXPORT_EXAMPLES = """examples:
  edge-rjepa export runs/mine -o encoder.onnx
  edge-rjepa export runs/mine -o sequence.onnx --form sequence --fixations 16
  edge-rjepa export runs/mine -o encoder.onnx --int8     and encoder.int8.onnx
"""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code: 0, 1 for a failure, 2 for wrong usage."""
    options = _parser().parse_args(arguments)
    warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
    try:
        return options.command(options)
    except (RJepaError, CalibrationError, OSError, MemoryError) as error:
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
        "--source",
        metavar="SRC",
        help=f"{supported()} (scene:)",
    )
    learn.add_argument(
        "--head",
        metavar="HEAD",
        help=f"what the camera sits on: {firmware_bridge.supported()}; none if left out",
    )
    learn.add_argument("--out", type=Path, metavar="RUN", help="the run's folder (runs/DATE-TIME)")
    learn.add_argument("--resume", type=Path, metavar="RUN", help="go on with this run")
    learn.add_argument("--seconds", type=positive(float), help="stop after learning this long")
    learn.add_argument("--fixations", type=positive(int), help="stop after this many in all")
    learn.add_argument("--config", type=Path, metavar="F", help="TOML; see a run's config.toml")
    learn.add_argument("--fov", type=view, metavar="DEG", help="the camera's horizontal view (60)")
    learn.add_argument(
        "--calibration",
        type=Path,
        metavar="F",
        help="what edge-rjepa calibrate found of the camera, and of the head",
    )
    learn.add_argument(
        "--gaze",
        choices=("random", "salience", "surprise", "mixed"),
        help="what decides where to look (mixed)",
    )
    learn.add_argument("--record", type=Path, metavar="DIR", help="keep what is learned from there")
    learn.add_argument(
        "--record-format",
        choices=("lossless", "mjpg"),
        default="lossless",
        help="lossless replays bit for bit (0.5 MB a 640x480 picture); mjpg takes a fifth of that",
    )
    learn.add_argument(
        "--device",
        choices=("cpu", "cuda", "auto"),
        default="cpu",
        help="where to learn; auto measures both for a second and says which (cpu)",
    )
    learn.add_argument(
        "--dashboard",
        nargs="?",
        const=HERE,
        metavar="HOST:PORT",
        help="a live page for the browser, here or on another address, which needs a token",
    )
    learn.add_argument("--show", action="store_true", help="show it in a window on this screen")
    learn.add_argument("--token", help="for the page on another address (made up and shown)")
    learn.add_argument("--seed", type=int, help="of weights, gaze and scene (default 0)")
    learn.add_argument("--json", action="store_true", help="print the summary as JSON")

    export = _command(
        commands, "export", _export, "write a run's frozen encoder as ONNX", EXPORT_EXAMPLES
    )
    export.add_argument("run", type=Path, metavar="RUN")
    export.add_argument("-o", "--output", type=Path, help="the file (RUN/encoder.onnx)")
    export.add_argument(
        "--form",
        choices=("step", "sequence", "patches"),
        default="step",
        help="one fixation with the memory handed in and out (default), T fixations at once, or "
        "the embedding of single patches",
    )
    export.add_argument("--fixations", type=positive(int), default=16, help="T of a sequence (16)")
    export.add_argument(
        "--int8", action="store_true", help="write a second file with 8-bit weights beside it"
    )
    export.add_argument(
        "--patches",
        metavar="SRC",
        help="take real patches from here (the run's own source): pictures, a video, a recording",
    )
    export.add_argument("--licence", default="not stated", help="of the weights, kept in the file")
    export.add_argument("--json", action="store_true", help="print the parity report as JSON")

    probe = _command(
        commands, "probe", _probe, "ask what an encoder knows about labelled pictures",
        "example:\n  edge-rjepa probe runs/mine --data pictures/    a folder a class\n",
    )  # fmt: skip
    probe.add_argument("encoder", type=Path, metavar="RUN|encoder.onnx")
    probe.add_argument("--data", type=Path, required=True, help="its folders are the classes")
    probe.add_argument("--seed", type=int, default=0, help="of the split and the untrained network")
    probe.add_argument("--json", action="store_true", help="print the table as JSON")

    report = _command(
        commands, "report", _report, "draw a run's curves as a picture",
        "example:\n  edge-rjepa report runs/mine\n",
    )  # fmt: skip
    report.add_argument("run", type=Path, metavar="RUN")

    page = _command(
        commands, "dashboard", _dashboard, "look at a run in the browser",
        "example:\n  edge-rjepa dashboard runs/mine\n",
    )  # fmt: skip
    page.add_argument("run", type=Path, metavar="RUN")
    page.add_argument("--address", metavar="HOST:PORT", default=HERE)
    page.add_argument("--token", help="for another address than this machine's own")

    head_cli.add_parser(commands, _command)
    calibrate_cli.add_parser(commands, _command)
    watch_cli.add_parser(commands, _command)

    doctor = _command(
        commands, "doctor", _doctor,
        "look over cameras, serial ports, libraries, and say what to do about each problem",
        "example:\n  edge-rjepa doctor\n",
    )  # fmt: skip
    doctor.add_argument(
        "--calibration", type=Path, metavar="F", help="see whether this fits what is plugged in"
    )
    doctor.add_argument("--json", action="store_true", help="print the findings as JSON")

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


# ------------------------------------------------------------------------------------------------
# learn


def _learn(options: argparse.Namespace) -> int:
    with _open_run(options) as run:
        try:
            with (
                stop_on_signals("stopping: saving what was learned") as received,
                _progress(run, options.fixations) as (show, tell),
                _viewed(run, _Watchers(_limit(options, received), show, tell), options) as watchers,
            ):
                run.learn(*watchers)
        except BaseException:
            say(f"kept up to frame {run.frames_kept:,}: edge-rjepa learn --resume {run.folder}")
            raise
        _close_recording(run, options)
        if set(received) - {signal.SIGINT}:  # no time for a summary: the machine may go down
            say(f"saved; go on with edge-rjepa learn --resume {run.folder}")
            return 0
        summary = run.finish()
    say(summary["verdict"])
    _draw(run.folder)
    say(f"next: edge-rjepa export {run.folder}   or go on: edge-rjepa learn --resume {run.folder}")
    if options.json:
        print(json.dumps(summary))
    return 0


class _Watchers(NamedTuple):
    """What `Run.learn` calls: whether to go on, with measures, with events."""

    go_on: Callable
    progress: Callable
    event: Callable


@contextmanager
def _viewed(run, watchers: _Watchers, options: argparse.Namespace):
    """The watchers, and a window or a page beside them if it is asked for."""
    with ExitStack() as opened:
        if options.show:
            from edge_rjepa.views.window import Window

            window = opened.enter_context(Window(watchers.event))
            run.loop.observers.append(window.show)
        if options.dashboard is None:
            yield watchers
            return
        from edge_rjepa.views.dashboard import page_of

        page = opened.enter_context(page_of(run, options.dashboard, options.token))
        say(f"page: {page.server.url}")

        def go_on(run) -> bool:
            page.buttons.obey(run)
            return watchers.go_on(run)

        def both(first, second):
            return lambda what: (first(what), second(what))

        yield _Watchers(
            go_on,
            both(watchers.progress, page.shown.progress),
            both(watchers.event, page.shown.event),
        )


def _close_recording(run, options: argparse.Namespace) -> None:
    """Note with what the run ended in its recording, or compare it with the one replayed."""
    recorder = run.loop.recorder
    if recorder is not None:
        try:
            recorder.close(run.learner.digest if options.record_format == "lossless" else None)
            say(f"recorded: {recorder.folder}; to learn from it: --source replay:{recorder.folder}")
        except OSError as error:
            say(f"warning: {error}")
    then = getattr(run.loop.source, "digest", None)
    if run.ended and then is not None:
        if then == run.learner.digest:
            say("what was learned is the same as when this was recorded, bit for bit")
        else:
            say("what was learned differs from when this was recorded, as other flags make it")


def _draw(folder: Path) -> None:
    from edge_rjepa.views.report import ReportError, draw_report

    try:
        say(f"report: {draw_report(folder)}")
    except ReportError as error:
        say(f"no report: {error}")


@contextmanager
def _open_run(options: argparse.Namespace):
    """A new run, or the one to resume; its source, head and recording are closed at the end."""
    if options.resume:
        for flag in ("out", "config", "seed", "source", "fov", "calibration", "gaze", "record"):
            if getattr(options, flag) is not None:
                raise SystemExit(_usage(f"--{flag} cannot change a run that is resumed"))
        opened = _resumed(options)
    else:
        opened = _started(options)
    with opened as run:
        yield run


@contextmanager
def _started(options: argparse.Namespace):
    from edge_rjepa.cli import rig
    from edge_rjepa.run.run import Run, alone_in
    from edge_rjepa.sources import redacted

    config = _configuration(options)
    folder = options.out or Path(time.strftime("runs/%Y%m%d-%H%M%S"))
    device = _device(options.device, config)
    with (
        rig.open_rig(config) as (source, head),
        alone_in(folder),
        _recorder(options, config, source, head) as recorder,
    ):
        say(f"run: {folder}   source: {redacted(config.source)}")
        yield Run.start(folder, config, source, device, head=head, recorder=recorder)


@contextmanager
def _resumed(options: argparse.Namespace):
    from edge_rjepa.cli import rig
    from edge_rjepa.run.run import Run, alone_in, load_run
    from edge_rjepa.sources import redacted

    folder = options.resume
    with alone_in(folder, new=False):
        kept = load_run(folder)
        for problem in kept.problems:
            say(f"warning: {problem}")
        device = _device(options.device, kept.config)
        with rig.open_rig(kept.config, options.head) as (source, head):
            say(f"run: {folder}   source: {redacted(kept.config.source)}")
            run = Run.resume(folder, source, kept, device, head=head)
            if run.frames_lost:
                say(f"the last {run.frames_lost:,} frames came after the checkpoint: lost")
            yield run


def _device(name: str, config) -> str:
    """Where to learn; says what was chosen and why, if that is asked for."""
    from edge_rjepa.learner.engines import choose

    if name != "auto":
        return name
    choice = choose(config.network, config.fixations_per_frame)
    say(choice.reason)
    return choice.device


def _configuration(options: argparse.Namespace):
    """What the command line asks for: a file or a recording's or the defaults, and flags on top."""
    from edge_rjepa.cli import rig
    from edge_rjepa.run.config import RunConfig
    from edge_rjepa.sources import absolute, config_of

    if options.config:
        config = RunConfig.from_toml(options.config)
    elif options.source and (recorded := config_of(options.source)) is not None:
        config = RunConfig.from_dict(recorded)
        config = replace(  # the head is where it was, and the lens is the recording's
            config, head=replace(config.head, device=""), calibration=""
        )
    else:
        config = RunConfig()
    config = rig.with_view(config, options.fov)
    if options.gaze is not None:
        config = replace(config, gaze=replace(config.gaze, policy=options.gaze))
    given = {"source": options.source, "seed": options.seed}
    config = replace(config, **{k: v for k, v in given.items() if v is not None})
    config = rig.with_head(replace(config, source=absolute(config.source)), options.head)
    return rig.with_calibration(config, options.calibration)


@contextmanager
def _recorder(options: argparse.Namespace, config, source, head):
    """Takes down what is learned from, if that is asked for."""
    if options.record is None:
        yield None
        return
    from dataclasses import asdict

    from edge_rjepa.sources import redacted
    from edge_rjepa.sources.recording import Recorder

    with Recorder(
        options.record,
        source.camera,
        asdict(replace(config, source=redacted(config.source))),  # recordings are given to others
        getattr(head or source.head, "limits_rad", None),
        source.held_out(config.held_out_frames),
        lossless=options.record_format == "lossless",
    ) as recorder:
        yield recorder


def _limit(options: argparse.Namespace, received: list):
    """Whether a run goes on: no signal yet, and within --seconds and --fixations."""
    most_s, fixations = options.seconds or math.inf, options.fixations or math.inf
    first_s = time.monotonic()

    def go_on(run) -> bool:
        in_time = time.monotonic() < first_s + most_s
        return not received and in_time and run.learner.fixations < fixations

    return go_on


@contextmanager
def _progress(run, fixations: int | None):
    """Two functions that show a run's Progress and its events: on a terminal, or line by line."""
    from tqdm import tqdm

    terminal = sys.stderr.isatty()
    shown_s = -math.inf

    with tqdm(
        total=fixations, initial=run.learner.fixations, unit=" fixations", unit_scale=True,
        dynamic_ncols=True, disable=not terminal,
        bar_format=None if fixations else "{n_fmt}{unit} [{elapsed}{postfix}]",
    ) as bar:  # fmt: skip

        def show(progress) -> None:
            nonlocal shown_s
            with suppress(OSError):  # no terminal and no log is no reason to stop learning
                bar.set_postfix_str(_in_words(progress), refresh=False)
                bar.update(progress.fixations - bar.n)
            if not terminal and time.monotonic() >= shown_s + A_LINE_EVERY_S:
                shown_s = time.monotonic()
                say(f"{progress.fixations:,} fixations: {_in_words(progress)}")

        def tell(event: str) -> None:
            with suppress(OSError):
                bar.write(event, file=sys.stderr)

        yield show, tell


def _in_words(progress) -> str:
    health = progress.health
    words = (
        f"{progress.fixations_per_s:,.0f}/s, information {health.information:.2f} nats, "
        f"rank {health.effective_rank:.1f}, std {health.embedding_std:.2f}, "
        f"surprise {progress.surprise:.2f}"
    )
    if progress.latency_median_ms is not None:
        words += (
            f", {progress.latency_median_ms:.0f} ms from capture to learned "
            f"(95%: {progress.latency_p95_ms:.0f})"
        )
    return words


# ------------------------------------------------------------------------------------------------
# The other commands


def _export(options: argparse.Namespace) -> int:
    from edge_rjepa.encoder.export import export
    from edge_rjepa.encoder.int8 import quantise
    from edge_rjepa.eye.retina import Retina
    from edge_rjepa.run.patches import recorded_patches
    from edge_rjepa.run.run import load_run
    from edge_rjepa.sources import absolute

    learner, config, _, problems = load_run(options.run)
    for problem in problems:
        say(f"warning: {problem}")
    source = absolute(options.patches) if options.patches else config.source
    try:
        patches = recorded_patches(replace(config, source=source))
    except SourceError as error:
        if options.int8 or options.patches:
            raise SourceError(f"{error}; name other pictures: --patches SRC") from error
        patches = None
        say(f"warning: no real patches to compare on: {error}")
    output = options.output or options.run / "encoder.onnx"
    parity = export(
        learner,
        Retina(config.retina),
        output,
        form=options.form,
        fixations=options.fixations,
        gaze=config.gaze,
        patches=patches,
        licence=options.licence,
    )
    say(f"wrote {output}; it agrees with the learner:\n{parity.in_words()}")
    reports = {"parity": parity.as_json()}
    if options.int8:
        coarse = output.with_suffix(".int8.onnx")
        int8 = quantise(output, coarse, patches)
        say(f"wrote {coarse}; against {output.name}:\n{int8.in_words()}")
        reports["int8"] = int8._asdict()
    if options.json:
        print(json.dumps(reports))
    return 0


def _probe(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from edge_rjepa.encoder.probe import probe

    with tqdm(unit=" pictures", disable=not sys.stderr.isatty()) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        report = probe(options.encoder, options.data, seed=options.seed, progress=show)
    print(json.dumps(report.as_json()) if options.json else report.table())
    return 0


def _report(options: argparse.Namespace) -> int:
    from edge_rjepa.views.report import draw_report

    print(draw_report(options.run))
    return 0


def _dashboard(options: argparse.Namespace) -> int:
    from edge_rjepa.views.dashboard import Dashboard

    if not (options.run / "metrics.jsonl").exists():
        raise ConfigError(f"{options.run} is no folder of a run: name one that `learn` made")
    with (
        stop_on_signals("stopping") as received,
        Dashboard(options.address, options.run, token=options.token) as server,
    ):
        say(f"page: {server.url}   Ctrl-C ends it")
        while not received:
            time.sleep(LOOK_S)
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from edge_rjepa.doctor import examine, table

    findings = examine(options.calibration)
    print(json.dumps([f._asdict() for f in findings]) if options.json else table(findings))
    return FAILED if any(finding.level == "fail" for finding in findings) else 0


def _check_gradients(options: argparse.Namespace) -> int:
    from edge_rjepa.learner.check_gradients import check_gradients, table

    def show(done: int, total: int, network: str) -> None:
        say(f"{done}/{total} {network}")

    rows = check_gradients(options.cell, seed=options.seed, progress=show)
    print(json.dumps([row._asdict() for row in rows]) if options.json else table(rows))
    return 0 if all(row.ok for row in rows) else FAILED


def _usage(message: str) -> int:
    say(f"edge-rjepa: {message}")
    return USAGE
