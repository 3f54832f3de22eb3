"""`edge-rjepa watch ..`: say what is new in what a camera sees."""

from __future__ import annotations

import argparse
import json
import math
import time
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from edge_rjepa.cli import options as flags
from edge_rjepa.cli.options import positive
from edge_rjepa.cli.terminal import say, stop_on_signals
from edge_rjepa.errors import ConfigError

WAIT_MS = 200.0  # for a frame, until it is looked whether to stop
ESTIMATE_EVERY_S = 60.0
STAY_S = 4.0  # of a head at each stop

EXAMPLES = """examples:
  edge-rjepa watch runs/mine --source 0                     the first camera, until Ctrl-C
  edge-rjepa watch encoder.onnx --source yard.mp4 --warm-up 60
  edge-rjepa watch runs/mine --source 0 --head serial:      also turn the head to look around
  edge-rjepa watch runs/mine --source 0 --alarms-per-hour 0.1 --exec "python3 notify.py"
"""


def add_to(commands: Any) -> None:
    """Add `watch` to the commands."""
    parser = flags.add_command(
        commands, "watch", execute, "report what is new, and stays, in what a camera sees", EXAMPLES
    )
    flags.add_encoder(parser)
    flags.add_source(parser, "default: the run's own, if it is no camera")
    flags.add_head(parser)
    flags.add_view(parser)
    flags.add_calibration(parser)
    parser.add_argument(
        "--alarms-per-hour", type=positive(float), default=1.0, metavar="N",
        help="how many false alarms an hour to allow (1)",
    )  # fmt: skip
    parser.add_argument(
        "--warm-up", type=positive(float), default=300.0, metavar="S",
        help="first learn for S seconds what the place looks like, and report nothing (300)",
    )  # fmt: skip
    flags.add_seconds(parser)
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="write alarms.jsonl and cut-outs to DIR "
        "(watch/DATE-TIME)"
    )  # fmt: skip
    parser.add_argument(
        "--exec", metavar="COMMAND", help="run COMMAND for each alarm, without a shell, for 10 s "
        "at most; it reads the alarm as JSON from its standard input"
    )  # fmt: skip
    flags.add_json(parser, "reports, a line each,")


def execute(options: argparse.Namespace) -> int:
    from edge_rjepa.cli import rig
    from edge_rjepa.encoder.opener import open_encoder
    from edge_rjepa.sources import redacted
    from edge_rjepa.watch.alarms import AlarmFolder, Command
    from edge_rjepa.watch.novelty import Watch

    encoder = open_encoder(options.encoder)
    embed = encoder.patch_embedder()
    config = _configuration(options, encoder.config)
    folder = options.out or Path(time.strftime("watch/%Y%m%d-%H%M%S"))
    with ExitStack() as opened:
        command = None
        if options.exec:
            command = opened.enter_context(closing(Command(options.exec, say)))
        source, head = opened.enter_context(rig.open_rig(config, once=True))
        watch = Watch(
            embed, source.camera, encoder.window_px,
            options.alarms_per_hour, options.warm_up,
        )  # fmt: skip
        kept = AlarmFolder(folder)
        received = opened.enter_context(stop_on_signals("stopping"))
        say(f"watching {redacted(config.source)}; alarms go to {folder}")
        say(f"nothing is reported for {options.warm_up:.0f} s, while it learns what is usual here")
        reporter = _Reporter(watch, options.json)
        until_s = time.monotonic() + (options.seconds or math.inf)
        for frame in _frames(source, head, config, lambda: received or time.monotonic() > until_s):
            for alarm in watch.look(frame):
                line = kept.keep(alarm)
                reporter.report_alarm(line)
                if command:
                    command.run(line)
            reporter.report_status(frame.t_capture_s)
        reporter.report_end()
    return 0


def _configuration(options: argparse.Namespace, of_run):
    """Of the run, or the usual one, with what the command line says of source and head."""
    from edge_rjepa.cli import rig
    from edge_rjepa.run.config import RunConfig
    from edge_rjepa.sources import absolute, find_kind, is_live, redacted

    if options.source is None and of_run is None:
        raise ConfigError("an ONNX file does not say what to watch: name it with --source")
    config = of_run or RunConfig()
    if options.source is None and is_live(config.source):
        raise ConfigError(
            f"the run's camera {redacted(config.source)} is opened only when it is named: --source"
        )
    source = absolute(options.source or config.source)
    kind = find_kind(source)
    if kind is not None and not kind.shows_one_place:
        raise ConfigError(
            f"{source} shows another picture all the time, so that nothing is usual: watch a "
            "camera, a video or a recording"
        )
    if options.source is not None:  # another camera than the run's: nothing else of it holds
        config = replace(config, source=source, calibration="")
        config = replace(config, head=replace(config.head, device=""))
    config = rig.with_view(config, options.fov)
    return rig.with_calibration(rig.with_head(config, options.head), options.calibration)


def _frames(source, head, config, ended):
    """Frames with something to see, each from where the head was; the head goes its round."""
    from edge_rjepa.run.usable_frames import HEAD_MOVING, PlacedFrames, allowed_rad
    from edge_rjepa.sources import SourceEnded
    from edge_rjepa.watch.patrol import Patrol

    placed_frames = PlacedFrames(source, head, replace(config.head, while_moving="skip"))
    head = placed_frames.head
    patrol = Patrol(allowed_rad(head, config.head), source.camera, STAY_S) if head else None
    while not ended():
        try:
            placed = placed_frames.read_next(WAIT_MS)
        except SourceEnded:
            return
        for event in placed_frames.drain_events():
            say(event)
        if placed is None or placed.why_unusable == HEAD_MOVING:
            continue
        if head and patrol:
            aim = patrol.due(placed.frame.t_capture_s)
            if aim is not None:
                head.move(*aim)
        if not placed.why_unusable:
            yield placed.frame


class _Reporter:
    """Reports alarms, and now and then how it stands, in words or as lines of JSON."""

    def __init__(self, watch, as_json: bool) -> None:
        self._watch, self._as_json = watch, as_json
        self._first_s = self._last_s = self._now_s = math.nan
        self._alarms = 0
        self._warm = False

    def report_alarm(self, line: dict) -> None:
        self._alarms += 1
        times = line["surprise_nats"] / max(line["usual_nats"], 1e-9)
        self._print(
            line,
            f"something new at pixel ({line['pixel'][0]:.0f}, {line['pixel'][1]:.0f}), "
            f"{line['azimuth_deg']:.1f} degrees to the right and {line['elevation_deg']:.1f} up, "
            f"{times:.0f} times as surprising as usual there (by chance "
            f"{line['expected_per_hour']:.2g} an hour): {line['picture']}",
        )

    def report_status(self, t_s: float) -> None:
        """What is due, after each frame."""
        for event in self._watch.drain_events():
            say(event)
        if math.isnan(self._first_s):
            self._first_s = self._last_s = t_s
        self._now_s = t_s
        if not self._warm and math.isfinite(self._watch.threshold):
            self._warm = True
            self._report_estimate()
        elif t_s - self._last_s >= ESTIMATE_EVERY_S:
            self._report_estimate()

    def report_end(self) -> None:
        """How it stands at the end."""
        if math.isnan(self._now_s):
            say("nothing was seen")
        elif not math.isfinite(self._watch.threshold):
            say("it ended while what is usual was still learned: give it longer, or less --warm-up")
        else:
            self._report_estimate()

    def _report_estimate(self) -> None:
        self._last_s = self._now_s
        watch = self._watch
        watched_s = max(0.0, self._now_s - self._first_s - watch.warm_up_s)
        expected = watch.expected_per_hour
        known = math.isfinite(watch.threshold)
        self._print(
            {
                "kind": "estimate",
                "t_s": round(self._now_s, 3),
                "watched_s": round(watched_s, 1),
                "alarms": self._alarms,
                "threshold": round(watch.threshold, 2) if known else None,
                "expected_false_per_hour": float(f"{expected:.2g}") if known else None,
                "from_hours": round(watch.tail.hours, 3),
            },
            f"watched for {watched_s / 60:.1f} min: {self._alarms} alarms; "
            f"{expected:.2g} false ones an hour are to be expected at the threshold of "
            f"{watch.threshold:.1f}, from {60 * watch.tail.hours:.1f} min with nothing new"
            if known
            else f"still learning what is usual: {watch.warming_up_s:.0f} s to go",
        )

    def _print(self, line: dict, words: str) -> None:
        if self._as_json:
            print(json.dumps(line), flush=True)
        else:
            print(words, flush=True)
