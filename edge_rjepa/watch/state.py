"""What is usual, on the disk: so that a watch that is started again goes on without a warm-up.

A checkpoint (base/checkpoint.py) of all places that are known. It belongs to one encoder and one
camera: an encoder is known by how it embeds a few windows, a camera by where it sees directions.
What cannot be used is set aside, never overwritten, and what is usual is learned anew.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edge_rjepa.base import checkpoint
from edge_rjepa.errors import CheckpointError
from edge_rjepa.watch.background import MODES
from edge_rjepa.watch.novelty import Watch
from edge_rjepa.watch.place import MOST_BYTES, MOST_PLACES, Kept
from edge_rjepa.watch.threshold import MAX_BLOCKS
from edge_rjepa.watch.told import MOST_ALARMS, MOST_DIRECTIONS
from edge_rjepa.watch.usual_pictures import SIDE_PX
from safe_files.errors import FileError, why
from safe_files.plain import rebuilt
from safe_files.writing import newest

FILE = "usual.safetensors"
SET_ASIDE = "usual.unused.safetensors", "usual.unused.1.safetensors", "usual.unused.2.safetensors"
KIND, VERSION = "what is usual to a watch", 1
SAVE_EVERY_S = 300.0
KEEP = 2  # versions
SAME_Z, SAME_RAD = 1e-2, 1e-2  # of embeddings, about 1 in size; of directions

# Of each place: dtype and shape, where D is directions, A alarms, B blocks, Z numbers of an
# embedding.
PLACE = {
    "background.direction": ("int32", "D"),
    "background.mode": ("float32", ("D", MODES, "Z")),
    "background.visits": ("int64", ("D", MODES)),
    "background.age_s": ("float64", ("D", MODES)),
    "background.alarm": ("int64", ("D", MODES)),
    "background.levels": ("int64", "D"),
    "background.log_surprise": ("float64", "D"),
    "background.log_variance": ("float64", "D"),
    "background.covariance": ("float64", ("Z", "Z")),
    "background.variance": ("float64", "Z"),
    "background.updates": ("int64", ()),
    "pictures.picture": ("uint8", ("D", SIDE_PX, SIDE_PX, 3)),
    "pictures.pictured": ("bool", "D"),
    "told.number": ("int64", "A"),
    "told.what": ("int8", "A"),
    "told.holds": ("bool", "A"),
    "told.times": ("int64", "A"),
    "told.age_s": ("float64", "A"),
    "told.direction": ("int32", ("A", MOST_DIRECTIONS)),
    "told.itself": ("bool", ("A", MOST_DIRECTIONS)),
    "told.before": ("float32", ("A", MOST_DIRECTIONS, "Z")),
    "told.with": ("float32", ("A", MOST_DIRECTIONS, "Z")),
    "tail.maxima": ("float64", "B"),
}


class _Said(NamedTuple):
    """The metadata of the file."""

    kind: str
    version: int
    places: int
    last_number: int


def save(watch: Watch, folder: Path) -> None:
    """Keep what is usual to a watch in its folder. Raises CheckpointError."""
    places = watch.kept_places()
    while places and sum(a.nbytes for place in places for a in place.values()) > MOST_BYTES:
        places = places[1:]
    if not places:
        return
    tensors = {f"{k}.{name}": a for k, place in enumerate(places) for name, a in place.items()}
    said = _Said(KIND, VERSION, len(places), watch.last_number)
    checkpoint.save(folder / FILE, tensors | _owner(watch), said._asdict(), KEEP)


def is_kept(folder: Path) -> bool:
    """Whether a watch kept something in this folder, of use or not."""
    return bool(newest(folder / FILE) or _aside(folder))


def load(watch: Watch, folder: Path) -> str | None:
    """Take up what was kept; a line where that is of no use, or was set aside by another watch.

    Who starts once with another --fov finds what is usual again when started as before.
    """
    path = folder / FILE
    problem = None
    if newest(path):
        try:
            return _take(watch, *checkpoint.load_newest(path, lambda p: _read(p, watch)))
        except CheckpointError as error:
            problem = f"what was usual cannot be used: {error}; {_set_aside(path)}"
    for aside in _aside(folder):
        try:
            _take(watch, *_read(aside, watch), aside, [])
            os.replace(aside, path)
        except (CheckpointError, OSError):
            continue
        return f"{problem or 'nothing is kept'}; {aside.name} is of this watch, and is used"
    return f"{problem}, and it is learned anew" if problem else None


def _take(
    watch: Watch, places: list[Kept], said: _Said, version: Path, problems: list[str]
) -> str | None:
    watch.known.places.extend(places)
    watch.last_number = max(watch.last_number, said.last_number)
    return f"{'; '.join(problems)}: {version.name} is used" if problems else None


def _aside(folder: Path) -> list[Path]:
    """What was set aside, newest first."""
    there = [folder / name for name in SET_ASIDE if (folder / name).exists()]
    return sorted(there, key=lambda path: path.stat().st_mtime_ns, reverse=True)


def _set_aside(path: Path) -> str:
    """Only the newest version that can be read: those before it are older states of the same."""
    there = _aside(path.parent)
    free = [path.with_name(name) for name in SET_ASIDE if not path.with_name(name).exists()]
    aside = free[0] if free else there[-1]
    try:
        versions = list(newest(path))
        version = next(filter(_is_checkpoint, versions), versions[0])
        os.replace(version, aside)
        for each in versions:
            each.unlink(missing_ok=True)
    except OSError as error:
        return f"it stays where it is ({why(error)})"
    return f"it is now {aside}"


def _is_checkpoint(path: Path) -> bool:
    try:
        checkpoint.load(path)
    except CheckpointError:
        return False
    return True


def _owner(watch: Watch) -> dict[str, np.ndarray]:
    """How the watch's encoder embeds a few windows, and where its camera sees directions."""
    return {"owner.embeddings": watch.probe_encoder(), "owner.directions": watch.probe_camera()}


def _read(path: Path, watch: Watch) -> tuple[list[Kept], _Said]:
    """The places in a file. Raises CheckpointError for a file that is not of this watch."""
    with checkpoint.opened(path, follow_links=False) as stored:
        size = sum(np.prod(each.shape) * each.dtype.itemsize for each in stored.layout.values())
        if size > MOST_BYTES + (1 << 20):
            raise CheckpointError(f"{path} is too large: {size:,.0f} bytes, not {MOST_BYTES:,}")
        try:
            said: _Said = rebuilt(_Said, stored.metadata, "its metadata")
        except FileError as error:
            raise CheckpointError(f"{path} is no file of a watch") from error
        if said.kind != KIND or said.version != VERSION:
            raise CheckpointError(f"{path} is no file of a watch that can be read here")
        tensors = stored.tensors()
    _check_owner(path, tensors, watch)
    try:
        if not 1 <= said.places <= MOST_PLACES + 1 or said.last_number < 0:
            raise FileError("it has a strange number of places or alarms")
        return [_place(tensors, f"{k}.", watch) for k in range(said.places)], said
    except FileError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error


def _check_owner(path: Path, tensors: Kept, watch: Watch) -> None:
    for name, own in _owner(watch).items():
        what = name.removeprefix("owner.")
        other, tolerance = tensors.get(name), SAME_Z if what == "embeddings" else SAME_RAD
        if other is None or other.shape != own.shape or not _alike(other, own, tolerance):
            reason = (
                "another encoder, or one that has learned on"
                if what == "embeddings"
                else "another camera, or another --fov or calibration"
            )
            raise CheckpointError(f"{path} was learned with {reason}")


def _place(tensors: Kept, prefix: str, watch: Watch) -> Kept:
    """One place; every tensor is of the kind, and within the bounds, that Place.restore takes."""
    sizes = {"Z": watch.n_z}
    place = {}
    for name, (dtype, shape) in PLACE.items():
        tensor = tensors.get(prefix + name)
        expected = tuple(shape)
        if tensor is None or tensor.dtype != dtype or tensor.ndim != len(expected):
            raise FileError(f"{prefix}{name} is missing or of another kind")
        for found, size in zip(tensor.shape, expected, strict=True):
            if found != (size if isinstance(size, int) else sizes.setdefault(size, found)):
                raise FileError(f"{prefix}{name} is of shape {tensor.shape}")
        if not name.endswith("age_s") and not np.isfinite(tensor).all():
            raise FileError(f"{prefix}{name} is not finite")
        place[name] = tensor
    directions, told = place["background.direction"], place["told.direction"]
    least, most = watch.n_directions, MOST_ALARMS
    good = (
        sizes["A"] <= most
        and sizes["B"] <= MAX_BLOCKS
        and _within(directions, 0, least - 1)
        and len(np.unique(directions)) == len(directions)
        and _within(told, -1, least - 1)
        and _within(place["told.what"], 0, 1)
        and (place["told.number"] > 0).all()
        and place["told.itself"].any(axis=1).all()
        and (place["background.visits"] >= 0).all()
        and (place["background.log_variance"] > 0.0).all()
        and not np.isnan(place["background.age_s"]).any()
        and np.isfinite(place["told.age_s"]).all()
    )
    if not good:
        raise FileError("its numbers are beyond their bounds")
    return place


def _alike(one: np.ndarray, other: np.ndarray, tolerance: float) -> bool:
    return bool(np.allclose(one, other, 0.0, tolerance, equal_nan=True))


def _within(values: np.ndarray, low: int, high: int) -> bool:
    return bool(((values >= low) & (values <= high)).all())
