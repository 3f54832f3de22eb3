"""`edge-rjepa learn`: learn from a source of pictures, and keep it in a run's folder."""

from __future__ import annotations

import argparse
import json
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from edge_rjepa.cli import options as flags
from edge_rjepa.cli.cameras import Cameras, note, options_of_each
from edge_rjepa.cli.options import positive
from edge_rjepa.cli.terminal import FAILED, USAGE, say, stop_on_signals
from edge_rjepa.errors import ConfigError, RJepaError
from edge_rjepa.eye.config import GazePolicy
from edge_rjepa.learner.config import DEVICES
from safe_files.errors import in_words, why

LINE_EVERY_S = 60.0  # of progress, where there is no terminal to draw a bar on
# Once begun.
FIXED = ("out", "config", "seed", "source", "fov", "calibration", "gaze", "record", "share")

EXAMPLES = """examples:
  edge-rjepa learn                                  photographs, until Ctrl-C; it is saved then
  edge-rjepa learn --source walk.mp4 --seconds 60   a video, for a minute
  edge-rjepa learn --source scene:pictures/ --out runs/mine --fixations 500000
  edge-rjepa learn --source 0 --fov 70              the first camera, 70 degrees wide
  edge-rjepa learn --source rtsp://camera/stream    or http://.., /dev/v4l/by-id/.., gst:..
  edge-rjepa learn --source bag:walk.mcap           a bag of ROS 2, or bag:walk/#/camera/image_raw
  edge-rjepa learn --source 0 --head serial:        gaze also turns the head the camera is on
  edge-rjepa learn --source 0 --record walk/        record every frame it learns from
  edge-rjepa learn --source replay:walk/            learn from that recording again, bit for bit
  edge-rjepa learn --source 0 --record walk.mcap    the same in one file, which Foxglove shows
  edge-rjepa learn --source ros2:/camera/image_raw --ros2   a robot's camera; publish what it sees
  edge-rjepa learn --resume runs/mine --seconds 60  continue a run, bit for bit
  edge-rjepa learn --source 0 --source 2 --share    two cameras, one encoder
  edge-rjepa learn --source 0 --fleet HOST:9092     with other robots: edge-rjepa fleet serve
"""


def add_to(commands: Any) -> None:
    """Add `learn` to the commands."""
    parser = flags.add_command(
        commands, "learn", execute, "learn from a camera, a video or pictures", EXAMPLES
    )
    flags.add_source(
        parser, "default: scene:; several times for several cameras, a run each", action="append"
    )
    parser.add_argument(
        "--share", action="store_true", help="several cameras: all learn one and the same encoder"
    )
    flags.add_head(parser)
    parser.add_argument("--out", type=Path, metavar="RUN", help="the run's folder (runs/DATE-TIME)")
    parser.add_argument("--resume", type=Path, metavar="RUN", help="continue this run")
    flags.add_seconds(parser)
    parser.add_argument(
        "--fixations", type=positive(int), metavar="N", help="stop after N fixations in all"
    )
    parser.add_argument(
        "--config", type=Path, metavar="F", help="read settings from this TOML file, such as a "
        "run's config.toml"
    )  # fmt: skip
    flags.add_view(parser)
    flags.add_calibration(parser)
    parser.add_argument(
        "--gaze",
        choices=[policy.value for policy in GazePolicy],
        help="what decides where to look (mixed)",
    )
    _add_record(parser)
    parser.add_argument(
        "--device",
        choices=DEVICES,
        default="cpu",
        help="where to learn; auto measures both for a second and takes the faster one (cpu)",
    )
    _add_views(parser)
    _add_fleet(parser)
    parser.add_argument("--seed", type=int, help="seed of weights, gaze and scene (0)")
    flags.add_json(parser, "summary")


def _add_record(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--record", type=Path, metavar="DIR|F.mcap", help="record the frames it learns from in the "
        "folder DIR, or in an MCAP file, which Foxglove shows"
    )  # fmt: skip
    parser.add_argument(
        "--record-format",
        choices=("lossless", "mjpg"),
        default="lossless",
        help="lossless replays bit for bit and takes 0.5 MB for a 640x480 picture; mjpg takes a "
        "fifth of that (lossless)",
    )


def _add_views(parser: argparse.ArgumentParser) -> None:
    flags.add_dashboard(parser)
    flags.add_foxglove(parser)
    flags.add_ros2(parser)
    parser.add_argument("--show", action="store_true", help="show the fixations in a window")


def _add_fleet(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--fleet", metavar="HOST:PORT", help="learn one encoder together with the robots of the "
        "fleet that is served there; pictures stay here"
    )  # fmt: skip
    parser.add_argument(
        "--fleet-certificate", type=Path, metavar="F",
        help="the certificate (PEM) that the fleet's server, or who signed its own, is known by",
    )  # fmt: skip
    parser.add_argument(
        "--fleet-key", type=Path, metavar="F", help="the private key that this robot is known by"
    )


def execute(options: argparse.Namespace) -> int:
    """Learn until there is a signal or a limit is reached, then judge what was learned."""
    if options.dashboard is not None:
        options.token = flags.read_token(options)  # told before anything is begun
    if options.foxglove is not None:
        import edge_rjepa.views.foxglove  # noqa: F401 - what is missing is told now, too
    _check_fleet(options)
    _check_resume(options)
    options.out = options.out or Path(time.strftime("runs/%Y%m%d-%H%M%S"))
    each = options_of_each(options)
    go_on_line = f"edge-rjepa learn --resume {options.resume or options.out}"
    with ExitStack() as opened:
        # All cameras are opened before the first run is begun: a folder has all of them, or none.
        begins = [opened.enter_context((_resume if one.resume else _start)(one)) for one in each]
        _tell_of_compiling()
        runs = [begin() for begin in begins]
        if len(runs) > 1 and not options.resume:
            note(runs[0].folder.parent, Cameras(len(runs), options.share))
        try:
            with stop_on_signals("stopping: saving what was learned") as received:
                failed = _learn(runs, each, received)
        except BaseException:
            for run in runs:
                say(f"saved {run.folder} up to frame {run.frames_kept:,}")
            say(f"continue with {go_on_line}")
            raise
        for run, one in zip(runs, each, strict=True):
            _close_recording(run, one)
        if set(received) - {signal.SIGINT}:  # no time for a summary: the machine may go down
            say(f"saved; continue with {go_on_line}")
            return 0
        summaries = _judge_each(runs)
        failed |= None in summaries
        say(f"continue: {go_on_line}")
    if options.json:
        print(json.dumps(summaries[0] if len(summaries) == 1 else summaries))
    return FAILED if failed else 0


def _check_fleet(options: argparse.Namespace) -> None:
    """Told before anything is begun. Raises ConfigError."""
    if options.fleet is None:
        if options.fleet_certificate or options.fleet_key:
            raise ConfigError("--fleet-certificate and --fleet-key are for --fleet HOST:PORT")
        return
    from edge_rjepa.fleet import check_flower

    check_flower()
    flags.host_and_port(options.fleet)
    if options.fleet_key and not options.fleet_certificate:
        raise ConfigError(
            "--fleet-key needs an encrypted connection: name the --fleet-certificate, too"
        )
    for path in (options.fleet_certificate, options.fleet_key):
        if path is not None and not path.is_file():
            raise ConfigError(f"{path} is no file: docs/fleet.md says how to make it")


def _tell_of_compiling() -> None:
    from edge_rjepa.run.warm_up import nothing_compiled

    if nothing_compiled():
        say("compiling for this machine, the first time: a minute or so")


def _learn(runs: list[Any], each: list[argparse.Namespace], received: list[int]) -> bool:
    """Learn with every run; whether one of several has failed: one alone raises why."""
    with ExitStack() as opened:
        callbacks = [
            opened.enter_context(_watched(run, one, received, i, len(runs)))
            for i, (run, one) in enumerate(zip(runs, each, strict=True))
        ]
        if len(runs) == 1:
            runs[0].learn(*callbacks[0])
            return False
        from edge_rjepa.run.together import learn_together

        learnings = [run.learning(*told) for run, told in zip(runs, callbacks, strict=True)]
        errors = learn_together(runs, learnings, each[0].share)
    for run, error in zip(runs, errors, strict=True):
        if error is not None:
            say(f"error: {run.folder}: {error}")
    return any(errors)


@contextmanager
def _watched(
    run: Any, options: argparse.Namespace, received: list[int], i: int, count: int
) -> Iterator[_Callbacks]:
    """The callbacks of the i-th run: its limit, its progress, its views."""
    name = f"{i + 1}: " if count > 1 else ""
    with (
        _progress(run, options.fixations, name, i) as (show, write),
        _with_views(run, _Callbacks(_limit(options, received), show, write), options) as callbacks,
        _in_fleet(run, callbacks, options) as callbacks,
    ):
        yield callbacks


def _judge_each(runs: list[Any]) -> list[dict[str, Any] | None]:
    """The summary of each run; None for one of several that cannot be judged: one alone raises why.

    The pictures that a run holds out may be gone with its source; the others are judged all the
    same.
    """
    if len(runs) == 1:
        return [_judge(runs[0])]
    summaries: list[dict[str, Any] | None] = []
    for run in runs:
        try:
            summaries.append(_judge(run))
        except (RJepaError, OSError) as error:
            words = error if isinstance(error, RJepaError) else in_words(error)
            say(f"error: {run.folder} is not judged: {words}")
            summaries.append(None)
    return summaries


def _judge(run: Any) -> dict[str, Any]:
    """The summary of what was learned; says it, and what to do with it."""
    summary: dict[str, Any] = run.finish()
    summary["verdict"] = _verdict(run.folder, summary)
    say(summary["verdict"])
    _draw(run.folder)
    say(f"next: edge-rjepa export {run.folder}")
    return summary


# -- the run --------------------------------------------------------------------------------------


def _check_resume(options: argparse.Namespace) -> None:
    """A run that goes on is as it was begun."""
    if options.resume:
        for flag in FIXED:
            value = getattr(options, flag)
            if value is not None and value is not False:  # a seed of 0 is one
                say(f"edge-rjepa: --{flag} cannot change a run that is resumed")
                raise SystemExit(USAGE)


@contextmanager
def _start(options: argparse.Namespace) -> Iterator[Callable[[], Any]]:
    """Camera, head and folder of a new run: what begins it."""
    from edge_rjepa.cli import rig
    from edge_rjepa.run.run import Run, alone_in
    from edge_rjepa.sources import redacted

    config = _configuration(options)
    folder = options.out
    device = _device(options.device, config)
    with (
        rig.open_rig(config) as (source, head),
        alone_in(folder),
        _recorder(options, config, source, head) as recorder,
    ):
        say(f"run: {folder}   source: {redacted(config.source)}")
        yield partial(Run.start, folder, config, source, device, head=head, recorder=recorder)


@contextmanager
def _resume(options: argparse.Namespace) -> Iterator[Callable[[], Any]]:
    """Camera, head and folder of a run that goes on: what has it go on."""
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

            def begin() -> Run:
                run = Run.resume(folder, source, kept, device, head=head)
                if run.frames_lost:
                    say(f"the last {run.frames_lost:,} frames came after the checkpoint: lost")
                return run

            yield begin


def _device(name: str, config: Any) -> str:
    """Where to learn; says which device "auto" chose, and why."""
    from edge_rjepa.learner.engines import choose

    if name != "auto":
        return name
    choice = choose(config.network, config.fixations_per_frame)
    say(choice.reason)
    return choice.device


def _configuration(options: argparse.Namespace) -> Any:
    """That of a file, of a recording, or the defaults; what the command line says replaces it."""
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
    if options.gaze is not None:
        config = replace(config, gaze=replace(config.gaze, policy=options.gaze))
    if options.source is not None:
        config = replace(config, source=options.source)
    if options.seed is not None:
        config = replace(config, seed=options.seed)
    config = rig.with_head(replace(config, source=absolute(config.source)), options.head)
    config = rig.with_view(config, options.fov)
    return rig.with_calibration(config, options.calibration)


@contextmanager
def _recorder(
    options: argparse.Namespace, config: Any, source: Any, head: Any
) -> Iterator[Any | None]:
    """Records the frames that are learned from, if --record asks for that."""
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
        live=source.live,
    ) as recorder:
        yield recorder


def _close_recording(run: Any, options: argparse.Namespace) -> None:
    """Note in the recording what was learned; or compare that with the recording replayed."""
    recorder = run.loop.recorder
    if recorder is not None:
        try:
            # What was learned with others, or from lossy pictures, a replay does not learn again.
            with_others = options.share or options.fleet
            same_again = options.record_format == "lossless" and not with_others
            recorder.close(run.learner.digest if same_again else None)
            say(f"recorded: {recorder.folder}; to learn from it: --source replay:{recorder.folder}")
        except OSError as error:
            say(f"warning: {error}")
    digest_then = getattr(run.loop.source, "digest", None)
    if run.ended and digest_then is not None:
        if digest_then == run.learner.digest:
            say("what was learned is the same as when this was recorded, bit for bit")
        else:
            say(
                "what was learned differs from when this was recorded: other flags, or another "
                "kind of processor, make other weights"
            )


def _verdict(folder: Path, summary: dict[str, Any]) -> str:
    from edge_rjepa.run.run import METRICS
    from edge_rjepa.views import metrics
    from edge_rjepa.views.verdict import verdict

    try:
        return verdict(metrics.read(folder / METRICS).measures, summary).sentence
    except OSError as error:  # the disk may be gone
        return f"not judged: {folder / METRICS} cannot be read: {why(error)}"


def _draw(folder: Path) -> None:
    from edge_rjepa.views.report import ReportError, draw_report

    try:
        say(f"report: {draw_report(folder)}")
    except ReportError as error:
        say(f"no report: {error}")


# -- what is called while it learns ----------------------------------------------------------------


class _Callbacks(NamedTuple):
    """What `Run.learn` calls: whether to go on, with measures, with events."""

    go_on: Callable[[Any], bool]
    on_progress: Callable[[Any], None]
    on_event: Callable[[str], None]


@contextmanager
def _with_views(
    run: Any, callbacks: _Callbacks, options: argparse.Namespace
) -> Iterator[_Callbacks]:
    """The callbacks, with those of a window or a page beside them if one is asked for."""
    with ExitStack() as opened:
        if options.show:
            from edge_rjepa.views.window import Window

            window = opened.enter_context(Window(callbacks.on_event))
            run.loop.observers.append(window.show)
        if recorder := run.loop.recorder:
            callbacks = _with_channels(run, callbacks, recorder.channels)
        if options.foxglove is not None:
            from edge_rjepa.cli.rig import foxglove_view

            loop = run.loop
            view = foxglove_view(options.foxglove, loop.source, loop.head)
            callbacks = _with_channels(run, callbacks, opened.enter_context(view))
        if options.ros2 is not None:
            from edge_rjepa.cli.rig import ros2_view

            publisher = ros2_view(
                "learning", options.ros2, run.loop.source, run.config.source, callbacks.on_event,
                lambda: run.learner,
            )  # fmt: skip
            callbacks = _with_channels(run, callbacks, opened.enter_context(publisher))
        if options.dashboard is None:
            yield callbacks
            return
        from edge_rjepa.eye.retina import Retina
        from edge_rjepa.teach.seen_now import seen_now
        from edge_rjepa.views.dashboard import page_of

        # A rollback replaces the learner.
        seen = opened.enter_context(
            seen_now(run.folder, lambda: run.learner, Retina(run.config.retina))
        )
        page = opened.enter_context(
            page_of(run, options.dashboard, options.token, options.host_name, seen)
        )
        run.loop.observers.append(lambda batch: seen.observe(batch.frame.image))
        say(f"page: {page.server.url}")

        def go_on(run: Any) -> bool:
            page.buttons.obey(run)
            return callbacks.go_on(run)

        def on_progress(progress: Any) -> None:
            callbacks.on_progress(progress)
            page.live.on_progress(progress)

        def on_event(event: str) -> None:
            callbacks.on_event(event)
            page.live.on_event(event)

        yield _Callbacks(go_on, on_progress, on_event)


def _with_channels(run: Any, callbacks: _Callbacks, channels: Any) -> _Callbacks:
    """The callbacks, beside them what takes fixations, measures and events: Foxglove's, ROS 2's."""
    if channels is None:
        return callbacks
    run.loop.observers.append(channels.observe)

    def on_progress(progress: Any) -> None:
        callbacks.on_progress(progress)
        channels.on_metrics(progress.in_units())

    def on_event(event: str) -> None:
        callbacks.on_event(event)
        channels.on_event(event)

    return _Callbacks(callbacks.go_on, on_progress, on_event)


@contextmanager
def _in_fleet(run: Any, callbacks: _Callbacks, options: argparse.Namespace) -> Iterator[_Callbacks]:
    """The callbacks of a run that learns in a fleet, if it does."""
    if options.fleet is None:
        yield callbacks
        return
    from edge_rjepa.fleet.child import Settings
    from edge_rjepa.fleet.member import Member

    settings = Settings(
        options.fleet, str(options.fleet_certificate or ""), str(options.fleet_key or "")
    )
    with closing(Member(run, settings, run.report)) as member:

        def go_on(run: Any) -> bool:
            member.attend(run)
            return callbacks.go_on(run)

        yield callbacks._replace(go_on=go_on)


def _limit(options: argparse.Namespace, received: list[int]) -> Callable[[Any], bool]:
    """Whether a run goes on: no signal yet, and within --seconds and --fixations."""
    most_s, fixations = options.seconds or math.inf, options.fixations or math.inf
    first_s = time.monotonic()

    def go_on(run: Any) -> bool:
        in_time = time.monotonic() < first_s + most_s
        return not received and in_time and run.learner.fixations < fixations

    return go_on


@contextmanager
def _progress(
    run: Any, fixations: int | None, name: str, position: int
) -> Iterator[tuple[Callable[[Any], None], Callable[[str], None]]]:
    """Two functions that show a run's Progress and its events: on a terminal, or line by line.

    name: before every line. position: of its bar on the terminal, from the top.
    """
    from tqdm import tqdm

    terminal = sys.stderr.isatty()
    shown_s = -math.inf

    with tqdm(
        total=fixations, initial=run.learner.fixations, unit=" fixations", unit_scale=True,
        dynamic_ncols=True, disable=not terminal, position=position, desc=name,
        bar_format=None if fixations else "{desc}{n_fmt}{unit} [{elapsed}{postfix}]",
    ) as bar:  # fmt: skip

        def show(progress: Any) -> None:
            nonlocal shown_s
            with suppress(OSError):  # no terminal and no log is no reason to stop learning
                bar.set_postfix_str(_in_words(progress), refresh=False)
                bar.update(progress.fixations - bar.n)
            if not terminal and time.monotonic() >= shown_s + LINE_EVERY_S:
                shown_s = time.monotonic()
                line = f"{name}{progress.fixations:,} fixations: {_in_words(progress)}"
                say(line, **progress.in_units())

        def write(event: str) -> None:
            if not terminal:
                say(name + event)
                return
            with suppress(OSError):
                bar.write(name + event, file=sys.stderr)

        yield show, write


def _in_words(progress: Any) -> str:
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
