"""Several cameras in one process: the options, the folder and the words of each.

A folder of several runs holds one a camera, `1`, `2` .., and cameras.json, which says how many they
are and whether they share one encoder.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import NamedTuple

from edge_rjepa.errors import CheckpointError, ConfigError
from safe_files.errors import FileError, why
from safe_files.plain import rebuilt
from safe_files.reading import read_json
from safe_files.writing import make_private_folder, newest, write_atomic

CAMERAS = "cameras.json"
MOST, MOST_BYTES = 64, 4096
FOR_ONE = ("head", "show", "fleet")  # what only a single camera can have


class Cameras(NamedTuple):
    """What cameras.json says."""

    cameras: int
    share: bool


def options_of_each(options: argparse.Namespace) -> list[argparse.Namespace]:
    """What `learn` was told, for each camera: one for one, as it was told.

    Raises ConfigError for what does not go with several, CheckpointError where a folder of several
    runs is damaged.
    """
    kept = _kept_in(options.resume) if options.resume else None
    if kept is not None:
        options.share = kept.share
    sources = options.source or [None]
    count = kept.cameras if kept else len(sources)
    if count == 1:
        if options.share:
            raise ConfigError("--share is for several cameras: name each with a --source")
        return [_but(options, source=sources[0])]
    for name in FOR_ONE:
        if getattr(options, name):
            raise ConfigError(f"--{name} is for one camera: leave it out, or begin a run for each")
    if count > MOST:
        raise ConfigError(f"{count} cameras: {MOST} at most learn in one process")
    if options.share and options.device != "cpu":
        raise ConfigError("--share learns on the CPU: leave --device out")
    if not kept:
        _check_holds_no_run(options.out)
    return [
        _but(
            options,
            source=None if kept else sources[i],
            out=options.out and options.out / str(i + 1),
            resume=options.resume and options.resume / str(i + 1),
            record=options.record and numbered(options.record, i + 1),
            ros2=options.ros2 and f"{options.ros2}/camera{i + 1}",
            dashboard=options.dashboard and address_after(options.dashboard, i),
            foxglove=options.foxglove and address_after(options.foxglove, i),
        )
        for i in range(count)
    ]


def note(folder: Path, cameras: Cameras) -> None:
    """Write cameras.json into the folder of several runs. Raises OSError."""
    make_private_folder(folder)
    write_atomic(folder / CAMERAS, json.dumps(cameras._asdict()).encode())


def numbered(path: Path, number: int) -> Path:
    """The recording of one camera: walk.2.mcap beside walk.mcap, walk/2 in walk/."""
    from edge_rjepa.sources.recording import MCAP  # here, so that --help stays quick

    is_file = path.suffix == MCAP  # any other name is a folder's, with dots in it or not
    return path.with_suffix(f".{number}{MCAP}") if is_file else path / str(number)


def address_after(address: str, i: int) -> str:
    """HOST:PORT with the i-th port from there; 0, for any free one, stays."""
    host, _, port = address.rpartition(":")
    return f"{host}:{int(port) + i}" if port.isdecimal() and int(port) else address


def _check_holds_no_run(folder: Path) -> None:
    """Raises ConfigError for a run's own folder: --resume would go on with the new ones instead."""
    from edge_rjepa.run.run import CHECKPOINT, GOOD  # here, so that --help stays quick

    if newest(folder / CHECKPOINT) or (folder / GOOD).exists():
        raise ConfigError(f"{folder} holds a run of one camera: name another folder for several")


def _but(options: argparse.Namespace, **changes: object) -> argparse.Namespace:
    return argparse.Namespace(**{**vars(options), **changes})


def _kept_in(folder: Path) -> Cameras | None:
    """What a folder of several runs says; None for any other."""
    path = folder / CAMERAS
    try:
        kept = rebuilt(Cameras, read_json(path, MOST_BYTES, follow_links=False), CAMERAS)
        if not 1 <= kept.cameras <= MOST:
            raise FileError(f"{kept.cameras} cameras")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {why(error)}") from error
    except FileError as error:
        raise CheckpointError(
            f"{path} is {error}: go on with each run by itself, --resume {folder}/1"
        ) from error
    return kept
