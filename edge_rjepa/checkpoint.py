"""Versioned, checked and atomic files: safetensors without pickle, whole or not there at all.

Layout: the tensors, and four strings in the safetensors metadata

    format    "edge_rjepa"
    version   integer, 1: refused when it is above `VERSION`
    metadata  the caller's dictionary as JSON
    crc32     of version, metadata and every tensor's name, dtype, shape and bytes: 8 hex digits
"""

import glob
import json
import os
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


def save(path: str | os.PathLike, tensors: Mapping[str, np.ndarray], metadata: dict) -> None:
    """Write `tensors` (any shape, dtype of `DTYPES`) and `metadata` (what JSON can hold) to `path`.

    Bytes are kept exactly, in the machine's byte order. Raises CheckpointError when a tensor has
    another dtype or the file cannot be written; what was at `path` before is then still there.
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
        write_atomic(path, safetensors_bytes(tensors, header))
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
            tensors = {name: file.get_tensor(name) for name in file.keys()}
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


def write_atomic(path: str | os.PathLike, content: bytes) -> None:
    """Replace the file `path` by `content`: after a crash or power cut it is the old or the new.

    A link is followed. Raises OSError, with the old file untouched, when the folder is missing or
    not writable, the disk is full, or another process writes the same file at the same time.
    """
    path = Path(os.path.realpath(path))
    for left_by_killed_process in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        left_by_killed_process.unlink(missing_ok=True)
    temporary = path.parent / f".{path.name}.{secrets.token_hex(8)}.tmp"
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


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
