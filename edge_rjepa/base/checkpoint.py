"""Versioned, checked and atomic files: safetensors without pickle, whole or not there at all.

Layout: the tensors, and four strings in the safetensors metadata

    format    "edge_rjepa"
    version   integer, 1: refused when it is above `VERSION`
    metadata  the caller's dictionary as JSON
    crc32     of version, metadata and every tensor's name, dtype, shape and bytes: 8 hex digits

Versions before the latest can stay beside it, for when the latest turns out to be damaged:

    .checkpoint.safetensors.new  the newest for a moment; longer only if the process ended just then
    checkpoint.safetensors       the newest
    checkpoint.1.safetensors     the one before, and so on
"""

import glob
import json
import os
import re
import secrets
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save as safetensors_bytes

from edge_rjepa.errors import CheckpointError

FORMAT = "edge_rjepa"
VERSION = 1
DTYPES = frozenset(
    ["bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"]
    + ["float16", "float32", "float64"]
)


def save(
    path: str | os.PathLike, tensors: Mapping[str, np.ndarray], metadata: dict, keep: int = 1
) -> None:
    """Write `tensors` (any shape, dtype of `DTYPES`) and `metadata` (what JSON can hold) to `path`.

    Bytes are kept exactly, in the machine's byte order; keep as in `write_atomic`. Raises
    CheckpointError when a tensor has another dtype or the file cannot be written; what was at
    `path` before is then still there.
    """
    tensors = {name: _in_c_order(name, tensor) for name, tensor in tensors.items()}
    encoded = json.dumps(metadata)
    header = {
        "format": FORMAT,
        "version": str(VERSION),
        "metadata": encoded,
        "crc32": _checksum(VERSION, encoded, tensors),
    }
    try:
        write_atomic(path, safetensors_bytes(tensors, header), keep)
    except OSError as error:
        raise CheckpointError(f"cannot write checkpoint {path}: {error.strerror}") from error


def load(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict]:
    """Read what `save` wrote: (tensors, metadata).

    Raises CheckpointError when the file is missing, damaged, of another program or of a newer
    version of this one.
    """
    try:
        with open(path, "rb"):  # its errors are clearer than those of safetensors
            pass
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
        if header.get("format") == FORMAT:
            version, metadata, crc = int(header["version"]), header["metadata"], header["crc32"]
    except OSError as error:
        reason = error.strerror or error
        raise CheckpointError(f"cannot read checkpoint {path}: {reason}") from error
    except Exception as error:  # SafetensorError, KeyError, UnicodeDecodeError, ...
        reason = f"damaged or no checkpoint of {FORMAT}"
        raise CheckpointError(f"{path} is {reason}: use an earlier copy") from error
    if header.get("format") != FORMAT:
        raise CheckpointError(f"{path} is no checkpoint of {FORMAT}")
    if version > VERSION:
        raise CheckpointError(
            f"{path} has version {version}, this {FORMAT} reads up to {VERSION}: upgrade it"
        )
    if crc != _checksum(version, metadata, tensors):
        raise CheckpointError(f"{path} is damaged, its checksum is wrong: use an earlier copy")
    return tensors, json.loads(metadata)


def load_newest(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict, Path, list[str]]:
    """The newest version at `path` that can be read: (tensors, metadata, its path, problems).

    problems: a line for every newer version that could not be read, which is also said when `path`
    itself is missing. Raises CheckpointError with all of them when no version can be read.
    """
    problems: list[str] = []
    for version in _versions(path):
        try:
            return *load(version), version, problems
        except CheckpointError as error:
            problems.append(str(error))
    raise CheckpointError("; ".join(problems))


def newest(path: str | os.PathLike) -> list[Path]:
    """The versions of `path` that are there, the newest first."""
    return [version for version in _versions(path) if version.exists()]


def write_atomic(path: str | os.PathLike, content: bytes, keep: int = 1) -> None:
    """Replace the file `path` by `content`: after a crash or power cut it is the old or the new.

    keep: how many versions stay, the new one included; see the top of this file for their names. A
    link is followed. Raises OSError, with nothing lost, when the folder is missing or not writable,
    the disk is full, or another process writes the same file at the same time.
    """
    path = Path(os.path.realpath(path))
    for left_by_killed_process in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        left_by_killed_process.unlink(missing_ok=True)
    temporary = path.parent / f".{path.name}.{secrets.token_hex(8)}.tmp"
    line = [_incoming(path), path, *(numbered(path, i) for i in range(1, keep))]
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        move_up(line)  # where a killed process stopped half-way
        os.replace(temporary, line[0] if keep > 1 and path.exists() else path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)
    move_up(line)


def move_up(line: list[Path]) -> None:
    """Make room in front: each file takes the name of the next, up to the first that is free.

    Only the last one's content goes, and only once a newer one is at the front under a name that is
    looked for. Each step is on the disk before the next: not every file system keeps their order.
    """
    if not line[0].exists():
        return
    free = next((i for i, path in enumerate(line) if not path.exists()), len(line) - 1)
    for i in range(free, 0, -1):
        os.replace(line[i - 1], line[i])
        _sync_folder(line[i].parent)


def _versions(path: str | os.PathLike) -> list[Path]:
    """Where versions of `path` are looked for, the newest first."""
    path = Path(os.path.realpath(path))
    name = re.compile(rf"{re.escape(path.stem)}\.([1-9][0-9]*){re.escape(path.suffix)}")
    matches = (name.fullmatch(other.name) for other in path.parent.glob("*"))
    older = sorted(int(match[1]) for match in matches if match)
    incoming = [_incoming(path)] if _incoming(path).exists() else []
    return [*incoming, path, *(numbered(path, number) for number in older)]


def _incoming(path: Path) -> Path:
    return path.with_name(f".{path.name}.new")


def numbered(path: Path, number: int) -> Path:
    """Where the version of `path` is kept that is so much older than the latest."""
    return path.with_name(f"{path.stem}.{number}{path.suffix}")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _in_c_order(name: str, tensor: np.ndarray) -> np.ndarray:
    tensor = np.asarray(tensor)
    if tensor.dtype.name not in DTYPES:
        raise CheckpointError(f"tensor {name} has dtype {tensor.dtype}, which cannot be saved")
    return np.asarray(tensor, dtype=tensor.dtype.newbyteorder("="), order="C")


def _checksum(version: int, metadata: str, tensors: Mapping[str, np.ndarray]) -> str:
    crc = zlib.crc32(f"{version} {metadata}".encode())
    for name, tensor in sorted(tensors.items()):
        crc = zlib.crc32(f"{name} {tensor.dtype.name} {tensor.shape}".encode(), crc)
        crc = zlib.crc32(tensor.tobytes(), crc)
    return f"{crc:08x}"
