"""`edge-rjepa teach ..`, `taught`, `forget`: names for places and things, and what is known."""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_rjepa.cli import options as flags
from edge_rjepa.cli.options import positive
from edge_rjepa.cli.terminal import say, stop_on_signals
from edge_rjepa.errors import ConfigError, SourceError

if TYPE_CHECKING:
    import numpy as np

    from edge_rjepa.encoder.opener import OpenedEncoder
    from edge_rjepa.teach.recogniser import Recogniser

LOOKS, SECONDS = 10, 10.0

TEACH_EXAMPLES = """examples:
  edge-rjepa teach runs/mine kitchen --source 0            ten looks in ten seconds: turn the camera
  edge-rjepa teach runs/mine kitchen --source photos/kitchen   every picture of a folder is a look
  edge-rjepa teach runs/mine cup --source 0 --thing        what is in the middle of the picture
  edge-rjepa teach encoder.onnx hall --source hall.mp4     an exported encoder, a video
"""
TAUGHT_EXAMPLES = """example:
  edge-rjepa taught runs/mine
"""
FORGET_EXAMPLES = """example:
  edge-rjepa forget runs/mine kitchen
"""


def add_to(commands: Any) -> None:
    """Add `teach`, `taught` and `forget` to the commands."""
    parser = flags.add_command(
        commands, "teach", teach, "teach a name by some looks at a place or a thing", TEACH_EXAMPLES
    )
    flags.add_encoder(parser)
    parser.add_argument("name", metavar="NAME", help="what it is called, in any script")
    flags.add_source(parser, "each picture of a folder is a look", required=True)
    parser.add_argument(
        "--looks", type=positive(int), metavar="N",
        help=f"how many looks ({LOOKS}; of a folder, all its pictures)",
    )  # fmt: skip
    flags.add_seconds(
        parser, f"in which the looks are taken, evenly ({SECONDS:.0f}; of a video, its length)"
    )
    flags.add_box(parser, "teach the thing")
    flags.add_json(parser)

    parser = flags.add_command(
        commands, "taught", taught, "say what was taught, and how well it is known", TAUGHT_EXAMPLES
    )
    flags.add_encoder(parser)
    flags.add_json(parser)

    parser = flags.add_command(
        commands, "forget", forget, "forget a name, as if it had never been taught", FORGET_EXAMPLES
    )
    flags.add_encoder(parser)
    parser.add_argument("name", metavar="NAME", help="that was taught")


def teach(options: argparse.Namespace) -> int:
    """Take looks, then keep them with those of other names."""
    import numpy as np

    from edge_rjepa.encoder.opener import open_encoder
    from edge_rjepa.teach.looks import MOST_LOOKS_A_NAME, changing, path_beside

    encoder = open_encoder(options.encoder)
    if names_of_file(encoder):
        raise ConfigError(
            f"{options.encoder} knows its names already: teach the run, and export it again"
        )
    path = path_beside(options.encoder)
    known = known_to(encoder, path)
    # What cannot be taught is told before anybody looks.
    blank = known.see(np.zeros((64, 64, 3), np.uint8), options.box)
    kept = min(options.looks or LOOKS, MOST_LOOKS_A_NAME)  # more would only take memory
    known.teach_rows(options.name, [blank] * kept, options.box)
    rows = [known.see(picture, options.box) for picture in _looks(options)]
    if not rows:
        raise SourceError(f"nothing was seen: '{options.name}' is not taught")
    with changing(path):
        recogniser = known_to(encoder, path)
        recogniser.teach_rows(options.name, rows, options.box)
        recogniser.save(path)
    say(f"'{options.name}' is taught by {_count(len(rows), 'look')}, kept in {path}")
    return _tell(recogniser, path, options.json)


def taught(options: argparse.Namespace) -> int:
    """Print what is known."""
    from edge_rjepa.encoder.opener import open_encoder
    from edge_rjepa.teach.looks import path_beside

    encoder, path = open_encoder(options.encoder), path_beside(options.encoder)
    names = names_of_file(encoder)
    if names:
        print(
            json.dumps({"names": names}, ensure_ascii=False) if options.json else "\n".join(names)
        )
        return 0
    return _tell(known_to(encoder, path), path, options.json)


def forget(options: argparse.Namespace) -> int:
    """Leave what would be there had the name never been taught."""
    from edge_rjepa.teach.looks import Looks, changing, path_beside

    path = path_beside(options.encoder)
    if not path.exists():
        raise ConfigError(f"nothing was taught to {options.encoder}")
    with changing(path):
        looks = Looks.load(path)
        looks.forget(options.name)
        looks.save(path)
    say(f"'{options.name}' is forgotten")
    return 0


def names_of_file(encoder: OpenedEncoder) -> list[str]:
    """The names that an exported file knows by itself."""
    from edge_rjepa.encoder.frozen import FrozenEncoder

    taught = encoder.model.taught if isinstance(encoder.model, FrozenEncoder) else None
    return taught.names if taught else []


def known_to(encoder: OpenedEncoder, path: Path) -> Recogniser:
    """What was taught to an encoder and is kept there; nothing if there is no such file."""
    from edge_rjepa.teach.recogniser import Recogniser

    return Recogniser.load(path, encoder) if path.exists() else Recogniser(encoder)


def _looks(options: argparse.Namespace) -> Iterator[np.ndarray]:
    """The pictures to teach by, evenly over the time; of a folder all, in their order."""
    from edge_rjepa.cli.rig import named_pictures, open_alone, usable_frames

    pictures = named_pictures(options.source)
    if pictures is not None:
        for count, (name, picture) in enumerate(pictures):
            if count == options.looks:
                return
            say(f"look {count + 1}: {name}")
            yield picture
        return
    wanted = options.looks or LOOKS
    with open_alone(options.source) as source, stop_on_signals("stopping") as received:
        seconds = options.seconds or getattr(source, "duration_s", None) or SECONDS
        turn = ": move the camera a little meanwhile" if source.live else ""
        say(f"{_count(wanted, 'look')} in {seconds:.0f} s{turn}")
        until_s = time.monotonic() + 2.0 * seconds + 30.0  # of a camera that shows nothing
        due_s, taken = -math.inf, 0
        for frame in usable_frames(source, lambda: bool(received) or time.monotonic() > until_s):
            if frame.t_capture_s < due_s:
                continue
            due_s = frame.t_capture_s + seconds / wanted
            taken += 1
            say(f"look {taken} of {wanted}")
            yield frame.image
            if taken == wanted:
                return
        if received:
            raise ConfigError("stopped: nothing was taught")
        say(f"warning: only {taken} of {_count(wanted, 'look')} could be taken")


def _tell(recogniser: Recogniser, path: Path, as_json: bool) -> int:
    """Print what is known, name by name, and what would help."""
    from edge_rjepa.teach.looks import KINDS

    known = {kind: _lines(recogniser, kind) for kind in KINDS}
    advice = recogniser.advice()
    if as_json:
        kept = {"taught": known, "advice": advice, "bytes": recogniser.nbytes, "file": str(path)}
        print(json.dumps(kept, ensure_ascii=False))
        return 0
    if not any(known.values()):
        print("nothing was taught yet: edge-rjepa teach .. NAME --source SRC")
    for kind, lines in known.items():
        for line in lines:
            print(_in_words(kind, line))
        if lines:
            print(_of_strangers(recogniser, kind))
    for sentence in advice or ["enough: more looks would change little"] * any(known.values()):
        print(sentence)
    print(f"{recogniser.nbytes / 1e6:.1f} MB")
    return 0


def _lines(recogniser: Recogniser, kind: str) -> list[dict]:
    """A line for each name of a kind."""
    from edge_rjepa.encoder.naming import UNKNOWN

    trial = recogniser.trial(kind)
    return [
        {
            "name": name,
            "looks": len(named.rows),
            "visits": len(set(named.visits)),
            "tried": trial.tried[name],
            "right": trial.tried[name] - trial.wrong(name),
            "taken_for": {
                other or UNKNOWN: count
                for (own, other), count in trial.confused.items()
                if own == name
            },
        }
        for name, named in recogniser.looks.of_kind(kind).items()
        if trial is not None
    ]


def _of_strangers(recogniser: Recogniser, kind: str) -> str:
    trial = recogniser.trial(kind)
    assert trial is not None  # there are names
    if trial.strangers:
        told = f"in {trial.named} of {trial.strangers} trials"
    else:
        told = f"in about {trial.expected:.0%} of looks, by what is usual elsewhere"
    return f"a {kind} that was not taught gets a name {told}"


def _in_words(kind: str, line: dict) -> str:
    said = f"{line['name']} ({kind}): {_count(line['looks'], 'look')}"
    if line["tried"]:
        said += f"; {line['right']} of {line['tried']} are known again by the others"
    if line["taken_for"]:
        taken = ", ".join(f"{name} {count}" for name, count in line["taken_for"].items())
        said += f" (taken for: {taken})"
    return said


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
