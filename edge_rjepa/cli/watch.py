"""`edge-rjepa watch ..`: say what is new in what a camera sees."""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from edge_rjepa.cli import messages
from edge_rjepa.cli import options as flags
from edge_rjepa.cli.options import positive
from edge_rjepa.cli.terminal import say, stop_on_signals
from edge_rjepa.errors import ConfigError

ESTIMATE_EVERY_S = 60.0
STAY_S = 4.0  # of a head at each stop
FAINTEST_SHARE = 0.2  # of the threshold that is shown in Foxglove
MOST_TIMES = 100  # as surprising as usual that are told as a number

EXAMPLES = """examples:
  edge-rjepa watch runs/mine --source 0                     the first camera, until Ctrl-C
  edge-rjepa watch encoder.onnx --source yard.mp4 --warm-up 60
  edge-rjepa watch runs/mine --source 0 --dashboard         show alarms in the browser, draw masks
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
        help="first learn for S seconds what the place looks like, and report nothing (300; 30 at "
        "least)",
    )  # fmt: skip
    flags.add_seconds(parser, "stop after this many seconds, the warm-up among them")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="keep alarms, and what is usual, in DIR "
        "(RUN/watch, or watch/NAME for an encoder NAME.onnx); a watch with the same DIR goes on "
        "from there"
    )  # fmt: skip
    parser.add_argument(
        "--mask", type=Path, metavar="F", help="watch nothing in the polygons of this JSON file, "
        "or where this picture is dark; it is kept in DIR"
    )  # fmt: skip
    parser.add_argument(
        "--exec", metavar="COMMAND", help="run COMMAND for each alarm, without a shell, for 10 s "
        "at most; it reads the alarm as JSON from its standard input"
    )  # fmt: skip
    messages.add_mqtt(parser)
    flags.add_dashboard(parser)
    flags.add_foxglove(parser)
    flags.add_ros2(parser)
    flags.add_json(parser, "reports, a line each,")


def execute(options: argparse.Namespace) -> int:
    from edge_rjepa.cli import rig
    from edge_rjepa.encoder.opener import open_encoder
    from edge_rjepa.run.run import alone_in
    from edge_rjepa.sources import redacted
    from edge_rjepa.watch import state
    from edge_rjepa.watch.alarms import Command
    from edge_rjepa.watch.masks import read_mask
    from edge_rjepa.watch.novelty import Watch
    from edge_rjepa.watch.session import Session, Tell

    session: Session

    def fine(number: int) -> None:
        session.feedback.say(number)

    mqtt = messages.mqtt_of(options, fine)
    token = flags.read_token(options) if options.dashboard is not None else None
    encoder = open_encoder(options.encoder)
    embed = encoder.patch_embedder()
    config = _configuration(options, encoder.config)
    folder = options.out or _usual_folder(options.encoder)
    mask = read_mask(options.mask) if options.mask else None
    with ExitStack() as opened:
        tell: list[Tell] = []
        if options.exec:
            tell.append(opened.enter_context(closing(Command(options.exec, say))).tell)
        source, head = opened.enter_context(rig.open_rig(config, once=True))
        if not state.is_kept(folder):  # else it may go on within seconds
            _check_time(source, options)
        watch = Watch(
            embed, source.camera, encoder.window_px,
            options.alarms_per_hour, options.warm_up,
        )  # fmt: skip
        opened.enter_context(alone_in(folder))
        page = None
        if options.dashboard is not None:
            page = _page(folder, head, fine, lambda: session.masks)
        view = None
        if options.foxglove is not None:
            view = opened.enter_context(rig.foxglove_view(options.foxglove, source, head))
        robot = None
        if options.ros2 is not None:
            robot = opened.enter_context(
                rig.ros2_view("watching", options.ros2, source, config.source, say)
            )
        listeners = [each.on_event for each in (page, view, robot) if each]
        reporter = _Reporter(watch, options.json, listeners)
        tell += [each.tell for each in (reporter, mqtt, page, view, robot) if each]
        session = Session(watch, folder, tell, reporter.report_event, mask)
        if mqtt:
            opened.enter_context(mqtt)
        if page:
            _serve(page, options, token, opened)
        received = opened.enter_context(stop_on_signals("stopping"))
        say(f"watching {redacted(config.source)}; alarms go to {folder}")
        say(f"nothing is reported for {options.warm_up:.0f} s, while it learns what is usual here")
        if watch.known.places:
            say("unless it looks as it did before: then it goes on within seconds")
        until_s = time.monotonic() + (options.seconds or math.inf)

        def ended() -> bool:
            return bool(received or reporter.unread) or time.monotonic() > until_s

        frames = _frames(source, head, config, ended, reporter.report_event)
        try:
            for frame in frames:
                if mqtt:
                    mqtt.see(frame.image)
                session.look(frame)
                reporter.report_status(frame.t_capture_s)
                if page:
                    page.observe(_look_of(watch, frame))
                if view:
                    _show_in_foxglove(view, watch, frame)
                if robot:
                    robot.look(_novelty_of(watch, frame))
        finally:
            session.save()
        reporter.report_end()
    return 0


def _usual_folder(encoder: Path) -> Path:
    """Of a run its own, so that what is usual is found again; a file may lie anywhere."""
    return encoder / "watch" if encoder.is_dir() else Path("watch", encoder.stem)


def _page(folder: Path, head: Any, fine: Callable[[int], None], masks: Callable[[], Any]) -> Any:
    """What the page shows and asks for; `masks` gives the session's, once somebody looks."""
    from edge_rjepa.views.dashboard import Watching

    return Watching(
        folder,
        fine,
        mask=lambda polygons: masks().set(polygons),
        masks=lambda: masks().polygons,
        turns=head is not None,
    )


def _serve(page: Any, options: argparse.Namespace, token: str | None, opened: ExitStack) -> None:
    from edge_rjepa.views.dashboard import Dashboard

    server = opened.enter_context(Dashboard(options.dashboard, page, token, options.host_name))
    say(f"page: {server.url}")


def _look_of(watch: Any, frame: Any) -> Any:
    """What the page shows of a frame that was looked at."""
    from edge_rjepa.views.dashboard import Look

    pixels, scores = watch.scores(frame)
    left_s, expected = watch.warming_up_s, watch.expected_per_hour
    return Look(frame.image, pixels, scores, watch.threshold, left_s, expected)


def _show_in_foxglove(view: Any, watch: Any, frame: Any) -> None:
    """A frame that was looked at, with where it is less usual than usual, and how it stands."""
    import numpy as np

    if view.is_watched:
        pixels, scores = watch.scores(frame)
        shares = (
            np.where(np.isfinite(scores), scores, 0.0) / watch.threshold
        )  # 0 of an infinite one
        shown = shares >= FAINTEST_SHARE
        view.look(frame, pixels[shown], shares[shown])
        view.on_metrics(
            {
                "expected_false_alarms_per_hour": watch.expected_per_hour,
                "threshold": watch.threshold,
            }
        )


def _novelty_of(watch: Any, frame: Any) -> float:
    """The highest score in a frame, in shares of the threshold; 0 while that is not known."""
    _, scores = watch.scores(frame)
    highest = max(scores, default=-math.inf)
    return max(0.0, float(highest / watch.threshold)) if math.isfinite(watch.threshold) else 0.0


def _check_time(source: Any, options: argparse.Namespace) -> None:
    """Refuse what ends before the warm-up does: nothing would be reported."""
    if source.live:
        lasts_s, what = options.seconds, "--seconds ends it"
    else:  # a video is shown as fast as it can be looked at
        lasts_s, what = getattr(source, "duration_s", None), "the video ends"
    if lasts_s is not None and lasts_s <= options.warm_up:
        raise ConfigError(
            f"{what} after {lasts_s:.0f} s, and for the first {options.warm_up:.0f} s nothing is "
            "reported: watch for longer, or set another --warm-up"
        )


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


def _frames(source, head, config, ended, report_event):
    """Frames with something to see, each from where the head was; the head goes its round."""
    from edge_rjepa.cli import rig
    from edge_rjepa.run.usable_frames import HEAD_MOVING, PlacedFrames, allowed_rad
    from edge_rjepa.watch.patrol import Patrol

    placed_frames = PlacedFrames(source, head, replace(config.head, while_moving="skip"))
    head = placed_frames.head
    patrol = Patrol(allowed_rad(head, config.head), source.camera, STAY_S) if head else None
    for placed in rig.placed_frames(placed_frames, ended, report_event):
        if placed.why_unusable == HEAD_MOVING:
            continue
        if head and patrol:
            aim = patrol.due(placed.frame.t_capture_s)
            if aim is not None:
                head.move(*aim)
        if not placed.why_unusable:
            yield placed.frame


class _Reporter:
    """Reports alarms, events, and now and then how it stands, in words or as lines of JSON."""

    def __init__(
        self, watch, as_json: bool, listeners: Sequence[Callable[[str], None]] = ()
    ) -> None:
        self._watch, self._as_json = watch, as_json
        self._listeners = listeners  # are told of events, too
        self._now_s = self._reported_s = math.nan
        self._watched_s = 0.0  # with a threshold: not while what is usual was learned
        self._alarms = 0
        self._warm = False
        self._printing_fails = False
        self.unread: BrokenPipeError | None = None  # who read standard output has ended

    def tell(self, line: dict, _jpeg: bytes | None = None) -> None:
        """Of an alarm, of its end, or of what the owner said."""
        if line["kind"] == "alarm":
            self._alarms += 1
            self._print(line, self._of_alarm(line))
        elif line["kind"] == "gone":
            after = _duration(line["after_s"])
            self._print(line, f"alarm {line['number']} is over, after {after}")
        else:
            self._print(line, f"alarm {line['number']} is fine: it is usual from now on")

    def _of_alarm(self, line: dict) -> str:
        what = "something new" if line["what"] == "new" else "something was taken away"
        return (
            f"alarm {line['number']}: {what} at pixel "
            f"({line['pixel'][0]:.0f}, {line['pixel'][1]:.0f}), "
            f"{_direction(line['azimuth_deg'], line['elevation_deg'])}, "
            f"{_times(line['surprise_nats'], line['usual_nats'])} as surprising as usual there "
            f"(by chance {line['expected_per_hour']:.2g} an hour): "
            f"{line['picture'] or 'its picture could not be kept'}"
        )

    def report_event(self, event: str) -> None:
        """What happened to the camera, the head or the watch itself."""
        say(event)
        for listener in self._listeners:
            listener(event)
        if self._as_json:
            self._print({"kind": "event", "time": _now(), "event": event})

    def report_status(self, t_s: float) -> None:
        """What is due, after each frame."""
        passed_s = 0.0 if math.isnan(self._now_s) else t_s - self._now_s
        self._now_s = t_s
        warm = math.isfinite(self._watch.threshold)
        for event in self._watch.drain_events():
            self.report_event(event)
        if self._warm and not warm:
            blind_s = round(self._watch.warming_up_s, 1)
            line = {"kind": "relearning", "time": _now(), "t_s": round(t_s, 3), "blind_s": blind_s}
            self._print(line)
        if self._warm and warm:
            self._watched_s += passed_s
        if math.isnan(self._reported_s):
            self._reported_s = t_s
        if warm > self._warm or t_s - self._reported_s >= ESTIMATE_EVERY_S:
            self._report_estimate()
        self._warm = warm

    def report_end(self) -> None:
        """How it stands at the end. Raises BrokenPipeError where nobody reads it any more."""
        if self.unread:
            raise self.unread
        if math.isnan(self._now_s):
            say("nothing was seen")
        elif not self._warm:
            say("it ended while what is usual was still learned: give it longer, or less --warm-up")
        else:
            self._report_estimate()

    def _report_estimate(self) -> None:
        self._reported_s = self._now_s
        watch = self._watch
        expected = watch.expected_per_hour
        known = math.isfinite(watch.threshold)
        self._print(
            {
                "kind": "estimate",
                "t_s": round(self._now_s, 3),
                "watched_s": round(self._watched_s, 1),
                "alarms": self._alarms,
                "threshold": round(watch.threshold, 2) if known else None,
                "expected_false_per_hour": float(f"{expected:.2g}") if known else None,
                "from_hours": round(watch.tail.hours, 3),
            },
            f"{self._so_far()}; {expected:.2g} false ones an hour are to be expected at the "
            f"threshold of {watch.threshold:.1f}, from {_duration(3600 * watch.tail.hours)} with "
            "nothing new"
            if known
            else f"still learning what is usual: {watch.warming_up_s:.0f} s to go",
        )

    def _so_far(self) -> str:
        if not self._watched_s:
            return "what is usual here is known: alarms are reported from now on"
        plural = "" if self._alarms == 1 else "s"
        return f"watched for {_duration(self._watched_s)}: {self._alarms} alarm{plural}"

    def _print(self, line: dict, words: str = "") -> None:
        """On standard output; a log on a full disk is no reason to stop."""
        text = json.dumps(line) if self._as_json else words
        if not text:
            return
        try:
            print(text, flush=True)
            self._printing_fails = False
        except BrokenPipeError as error:  # the alarm goes to the others first, then it ends
            self.unread = error
        except OSError as error:
            if not self._printing_fails:
                say(f"standard output cannot be written: {error.strerror}; watching goes on")
            self._printing_fails = True


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def _direction(azimuth_deg: float, elevation_deg: float) -> str:
    side = "right" if azimuth_deg >= 0.0 else "left"
    way = "up" if elevation_deg >= 0.0 else "down"
    return f"{abs(azimuth_deg):.1f} degrees to the {side} and {abs(elevation_deg):.1f} {way}"


def _times(surprise_nats: float, usual_nats: float) -> str:
    """How many times; where next to nothing is usual, the number says no more."""
    times = surprise_nats / max(usual_nats, 1e-9)
    return f"{times:.0f} times" if times < MOST_TIMES else f"over {MOST_TIMES} times"


def _duration(seconds: float) -> str:
    if seconds < 120.0:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200.0 else f"{seconds / 3600:.1f} h"
