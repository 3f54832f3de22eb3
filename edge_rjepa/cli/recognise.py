"""`edge-rjepa recognise ..`: say which of the taught places and things a camera sees."""

from __future__ import annotations

import argparse
import json
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from edge_rjepa.cli import options as flags
from edge_rjepa.cli.options import positive
from edge_rjepa.cli.terminal import say, stop_on_signals
from edge_rjepa.errors import ConfigError, RJepaError

if TYPE_CHECKING:
    import numpy as np

    from edge_rjepa.encoder.naming import Answer
    from edge_rjepa.sources import Source
    from edge_rjepa.teach.recogniser import Box

SMOOTHED = 5  # pictures whose mean likeness is judged: a hand before the camera is no other room
LOOK_AGAIN_S = 10.0  # for what was taught or learned meanwhile

EXAMPLES = """examples:
  edge-rjepa recognise runs/mine --source 0               a line whenever the answer changes
  edge-rjepa recognise runs/mine --source photos/         the name of each picture of a folder
  edge-rjepa recognise encoder.onnx --source 0 --json --exec "python3 lamps.py"
"""


def add_to(commands: Any) -> None:
    """Add `recognise` to the commands."""
    parser = flags.add_command(
        commands, "recognise", execute, "say which taught place or thing a camera sees", EXAMPLES
    )
    flags.add_encoder(parser)
    flags.add_source(parser, "each picture of a folder is asked about by itself", required=True)
    flags.add_box(parser, "name the thing")
    parser.add_argument(
        "--looks-per-second", type=positive(float), default=10.0, metavar="N",
        help="look at so many pictures of a second (10)",
    )  # fmt: skip
    flags.add_seconds(parser)
    parser.add_argument(
        "--exec", metavar="COMMAND", help="run COMMAND at each change, without a shell, for 10 s "
        "at most; it reads the line of JSON from its standard input"
    )  # fmt: skip
    flags.add_ros2(parser)
    flags.add_json(parser, "answers, a line each,")


def execute(options: argparse.Namespace) -> int:
    """Of a folder a line a picture, else a line a change."""
    from edge_rjepa.cli.rig import named_pictures
    from edge_rjepa.teach.recogniser import kind_of
    from edge_rjepa.watch.alarms import Command

    known, kind = _Known(options.encoder, options.box), kind_of(options.box)
    if not known.names.any:
        raise ConfigError(
            f"no {kind} was taught to {options.encoder}: edge-rjepa teach "
            f"{options.encoder} NAME --source SRC{' --thing' if options.box else ''}"
        )
    with ExitStack() as opened:
        command = None
        if options.exec:
            command = opened.enter_context(closing(Command(options.exec, say)))
        teller = _Teller(kind, options.json, command)
        pictures = named_pictures(options.source)
        if pictures is None:
            _follow(known, options, teller)
        else:
            for name, picture in pictures:
                names = known.names
                teller.tell(names.answer(names.likeness(picture)), picture=name)
    return 0


def _follow(known: _Known, options: argparse.Namespace, teller: _Teller) -> None:
    """A camera or a video: tell each change of what the last few pictures come to."""
    import numpy as np

    from edge_rjepa.cli.rig import open_alone, usable_frames

    until_s = time.monotonic() + (options.seconds or math.inf)
    recent: deque[np.ndarray] = deque(maxlen=SMOOTHED)
    due_s = -math.inf
    with (
        open_alone(options.source) as source,
        _robot(options, source) as robot,
        stop_on_signals("stopping") as received,
    ):
        for frame in usable_frames(source, lambda: bool(received) or time.monotonic() > until_s):
            robot.on_frame()
            if frame.t_capture_s < due_s:
                continue
            due_s = frame.t_capture_s + 1.0 / options.looks_per_second - 1e-3
            if known.renewed():
                recent.clear()
            recent.append(known.names.likeness(frame.image))
            answer = known.names.answer(np.mean(recent, axis=0))
            if answer.name != teller.name or not teller.number:
                robot.recognise(*answer)
                teller.tell(answer, t_s=round(frame.t_capture_s, 3), frame=frame.sequence)


class _NoRobot:
    """Is told what a Ros2View is, where none is asked for."""

    def on_frame(self) -> None: ...

    def recognise(self, name: str | None, probability: float) -> None: ...


@contextmanager
def _robot(options: argparse.Namespace, source: Source) -> Iterator[Any]:
    """What publishes on ROS 2, if --ros2 asks for that."""
    if options.ros2 is None:
        yield _NoRobot()
        return
    from edge_rjepa.cli.rig import ros2_view

    with ros2_view("recognising", options.ros2, source, options.source, say) as view:
        yield view


class _Stamp(NamedTuple):
    """When files were changed last."""

    encoder_ns: int
    taught_ns: int


class _Names(NamedTuple):
    """What pictures are asked by: a recogniser, or a file that knows names by itself."""

    likeness: Callable[[np.ndarray], np.ndarray]
    answer: Callable[[np.ndarray], Answer]
    any: bool


class _Known:
    """What was taught, read again when it was taught more, or when the run has learned on.

    Reading takes a while. So it is done on a thread, and what was known before answers meanwhile.
    """

    def __init__(self, encoder: Path, box: Box | None) -> None:
        self._encoder, self._box = encoder, box
        self._looked_s = time.monotonic()
        self._stamp = self._now()
        self.names = self._read()
        self._reading: Future[_Names] | None = None
        self._next_stamp = self._stamp

    def renewed(self) -> bool:
        """Whether it is newer than before; looks no more often than every LOOK_AGAIN_S."""
        if self._reading is not None:
            return self._reading.done() and self._take()
        if time.monotonic() - self._looked_s < LOOK_AGAIN_S:
            return False
        self._looked_s = time.monotonic()
        self._next_stamp = self._now()
        if self._next_stamp != self._stamp:
            self._reading = Future()
            threading.Thread(target=self._read_again, args=(self._reading,), daemon=True).start()
        return False

    def _take(self) -> bool:
        """Take over what was read; False where that failed, and it is tried again."""
        assert self._reading is not None  # there is one when this is called
        reading, self._reading = self._reading, None
        try:
            self.names = reading.result()
        except (OSError, RJepaError) as error:  # a file that is just being changed, or damaged
            say(f"warning: {error}; what was known before still is")
            return False
        self._stamp = self._next_stamp
        return True

    def _read_again(self, reading: Future[_Names]) -> None:
        try:
            reading.set_result(self._read())
        except BaseException as error:
            reading.set_exception(error)

    def _read(self) -> _Names:
        from edge_rjepa.cli.teach import known_to
        from edge_rjepa.encoder.frozen import FrozenEncoder
        from edge_rjepa.encoder.opener import open_encoder
        from edge_rjepa.teach.looks import path_beside
        from edge_rjepa.teach.recogniser import kind_of

        opened, kind = open_encoder(self._encoder), kind_of(self._box)
        file = opened.model
        if isinstance(file, FrozenEncoder) and file.taught and self._box is None:
            return _Names(file.likeness, file.answer, True)
        known = known_to(opened, path_beside(self._encoder))
        known.trial(kind)  # so that the first picture need not wait
        return _Names(
            lambda picture: known.likeness(picture, self._box),
            lambda likeness: known.answer(likeness, kind),
            bool(known.names(kind)),
        )

    def _now(self) -> _Stamp:
        from edge_rjepa.run.run import CHECKPOINT
        from edge_rjepa.teach.looks import path_beside

        file = self._encoder / CHECKPOINT if self._encoder.is_dir() else self._encoder
        return _Stamp(_changed_ns(file), _changed_ns(path_beside(self._encoder)))


class _Teller:
    """Tells answers in words or as JSON, and to a program. name: of the last; number: of it."""

    def __init__(self, kind: str, as_json: bool, command: Any) -> None:
        self.name: str | None = None
        self.number = 0
        self._kind, self._as_json, self._command = kind, as_json, command

    def tell(self, answer: Answer, **where: Any) -> None:
        from edge_rjepa.encoder.naming import UNKNOWN

        self.number += 1
        self.name = answer.name
        line = {
            "kind": "recognised",
            "number": self.number,
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            **where,
            self._kind: answer.name,
            "probability": round(answer.probability, 3),
        }
        if self._command:
            self._command.run(line)
        said = f"{answer.name or UNKNOWN} ({answer.probability:.2f})"
        if "picture" in where:
            said = f"{where['picture']}: {said}"
        print(json.dumps(line, ensure_ascii=False) if self._as_json else said, flush=True)


def _changed_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
