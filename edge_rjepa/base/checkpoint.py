"""Versioned, checked and atomic files of tensors: safetensors without pickle.

Layout: the tensors, and four strings in the safetensors metadata

    format    "edge_rjepa"
    version   integer, 1: refused when it is above `VERSION`
    metadata  the caller's dictionary as JSON
    crc32     of version, metadata and every tensor's name, dtype, shape and bytes: 8 hex digits

The header is read and checked before any tensor is, so that a file of another program, or one that
lies about its size, costs nothing. Older versions can stay beside the file: safe_files/writing.py.
"""

import json
import math
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from safetensors.numpy import load as safetensors_of
from safetensors.numpy import save as safetensors_bytes

from edge_rjepa.errors import CheckpointError
from safe_files.errors import FileError, why
from safe_files.plain import rebuilt
from safe_files.reading import open_regular, parse_json
from safe_files.writing import versions, write_atomic

FORMAT = "edge_rjepa"
VERSION = 1
DTYPES = {  # as safetensors names them
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16",
    "U32": "uint32", "I32": "int32", "U64": "uint64", "I64": "int64",
    "F16": "float16", "F32": "float32", "F64": "float64",
}  # fmt: skip
LENGTH_BYTES = 8  # of the number ahead of the header
MOST_HEADER_BYTES = 16 << 20
MOST_TENSORS = 1000
DAMAGED = f"damaged or no checkpoint of {FORMAT}"


class Layout(NamedTuple):
    """What a tensor is, before it is read."""

    dtype: np.dtype
    shape: tuple[int, ...]


class _Entry(NamedTuple):
    """A tensor in the header of safetensors."""

    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


class _Strings(NamedTuple):
    """The metadata in the header of safetensors."""

    format: str
    version: str
    metadata: str
    crc32: str


class Stored:
    """A checkpoint whose header is read and whose tensors are not yet.

    path: of it. metadata: the dictionary that was saved. layout: name -> Layout of its tensors.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self._file = file
        self._header = _header_of(path, file)
        values = _parsed(path, self._header[LENGTH_BYTES:])
        self._strings = _strings(path, values.pop("__metadata__", {}))
        self.metadata: dict[str, Any] = _parsed(path, self._strings.metadata)
        self._data_bytes = os.fstat(file.fileno()).st_size - len(self._header)
        self.layout = _layout(path, values, self._data_bytes)

    def tensors(self) -> dict[str, np.ndarray]:
        """All of them, by name. Raises CheckpointError when they are damaged."""
        try:
            found = safetensors_of(self._header + self._file.read(self._data_bytes))
        except Exception as error:  # SafetensorError, which is no more than that
            raise CheckpointError(f"{self.path} is {DAMAGED}: use an earlier copy") from error
        if self._strings.crc32 != _checksum(VERSION, self._strings.metadata, found):
            raise CheckpointError(
                f"{self.path} is damaged, its checksum is wrong: use an earlier copy"
            )
        return found


def save(
    path: str | os.PathLike, tensors: Mapping[str, np.ndarray], metadata: dict, keep: int = 1
) -> None:
    """Write `tensors` (any shape, dtype of `DTYPES`) and `metadata` (what JSON can hold) to `path`.

    Bytes are kept exactly, in the machine's byte order; keep as in `write_atomic`. Raises
    CheckpointError when a tensor has another dtype, the metadata is more than can be read again, or
    the file cannot be written; what was at `path` before is then still there.
    """
    tensors = {name: _in_c_order(name, tensor) for name, tensor in tensors.items()}
    encoded = json.dumps(metadata)
    header = {
        "format": FORMAT,
        "version": str(VERSION),
        "metadata": encoded,
        "crc32": _checksum(VERSION, encoded, tensors),
    }
    content = safetensors_bytes(tensors, header)
    if int.from_bytes(content[:LENGTH_BYTES], "little") > MOST_HEADER_BYTES:
        raise CheckpointError(
            f"checkpoint {path} is not written: {len(encoded):,} letters of metadata could not be "
            "read again"
        )
    try:
        write_atomic(path, content, keep)
    except OSError as error:
        raise CheckpointError(f"cannot write checkpoint {path}: {why(error)}") from error


@contextmanager
def opened(path: str | os.PathLike, follow_links: bool = True) -> Iterator[Stored]:
    """What `save` wrote, its header checked; to be used inside the `with`.

    Raises CheckpointError when the file is missing, damaged, of another program or of a newer
    version of this one; where links are not followed, also when it is one.
    """
    try:
        with open_regular(path, follow_links) as file:
            yield Stored(Path(path), file)
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"cannot read checkpoint {path}: {why(error)}") from error


def load(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict]:
    """Read what `save` wrote: (tensors, metadata). Raises CheckpointError as `opened` does."""
    with opened(path) as stored:
        return stored.tensors(), stored.metadata


def load_newest(
    path: str | os.PathLike, read: Callable[[Path], tuple[Any, Any]] = load
) -> tuple[Any, Any, Path, list[str]]:
    """The newest version at `path` that can be read: (the two that `read` gives, path, problems).

    read: as `load`, which is the usual one. problems: a line for every newer version that could not
    be read, which is also said when `path` itself is missing. Raises CheckpointError with all of
    them when no version can be read.
    """
    problems: list[str] = []
    for version in versions(path):
        try:
            return *read(version), version, problems
        except CheckpointError as error:
            problems.append(str(error))
    raise CheckpointError("; ".join(problems))


def _header_of(path: Path, file: BinaryIO) -> bytes:
    """The header with the number ahead of it, as it stands in the file."""
    ahead = file.read(LENGTH_BYTES)
    length = int.from_bytes(ahead, "little")
    header = file.read(length) if length <= MOST_HEADER_BYTES else b""
    if len(ahead) < LENGTH_BYTES or len(header) < length:
        raise CheckpointError(f"{path} is {DAMAGED}: use an earlier copy")
    return ahead + header


def _parsed(path: Path, text: bytes | str) -> dict[str, Any]:
    """An object of JSON; NaN is allowed, as metadata may hold it."""
    try:
        return rebuilt(dict[str, object], parse_json(text, finite=False), "its header")
    except FileError as error:
        raise CheckpointError(f"{path} is {DAMAGED} ({error}): use an earlier copy") from error


def _strings(path: Path, values: Any) -> _Strings:
    """The format's own strings, of a version that is read here."""
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise CheckpointError(f"{path} is no checkpoint of {FORMAT}")
    version = str(values.get("version"))
    if version.isdecimal() and len(version) < 10 and int(version) > VERSION:
        raise CheckpointError(
            f"{path} has version {version}, this {FORMAT} reads up to {VERSION}: upgrade it"
        )
    try:
        if version != str(VERSION):
            raise FileError("its version is no number")
        return rebuilt(_Strings, values, "its header")
    except FileError as error:
        raise CheckpointError(f"{path} is {DAMAGED} ({error}): use an earlier copy") from error


def _layout(path: Path, values: dict[str, Any], data_bytes: int) -> dict[str, Layout]:
    """What the tensors are, which fill the rest of the file to the last byte."""
    try:
        if len(values) > MOST_TENSORS:
            raise FileError(f"{len(values)} tensors")
        entries = {name: rebuilt(_Entry, value, name) for name, value in values.items()}
        layout = {name: _layout_of(name, entry) for name, entry in entries.items()}
        at = 0
        for begin, end in sorted(entry.data_offsets for entry in entries.values()):
            if begin != at:
                raise FileError("its tensors overlap or leave a gap")
            at = end
        if at != data_bytes:
            raise FileError(f"it tells of {at} bytes and holds {data_bytes}")
    except FileError as error:
        raise CheckpointError(f"{path} is {DAMAGED} ({error}): use an earlier copy") from error
    return layout


def _layout_of(name: str, entry: _Entry) -> Layout:
    if entry.dtype not in DTYPES or min(entry.shape, default=0) < 0:
        raise FileError(f"{name} is no tensor that a checkpoint holds")
    dtype, shape = np.dtype(DTYPES[entry.dtype]), tuple(entry.shape)
    begin, end = entry.data_offsets
    if end - begin != math.prod(shape) * dtype.itemsize:
        raise FileError(f"{name} is {shape} and has {end - begin} bytes")
    return Layout(dtype, shape)


def _in_c_order(name: str, tensor: np.ndarray) -> np.ndarray:
    tensor = np.asarray(tensor)
    if tensor.dtype.name not in DTYPES.values():
        raise CheckpointError(f"tensor {name} has dtype {tensor.dtype}, which cannot be saved")
    return np.asarray(tensor, dtype=tensor.dtype.newbyteorder("="), order="C")


def _checksum(version: int, metadata: str, tensors: Mapping[str, np.ndarray]) -> str:
    crc = zlib.crc32(f"{version} {metadata}".encode())
    for name, tensor in sorted(tensors.items()):
        crc = zlib.crc32(f"{name} {tensor.dtype.name} {tensor.shape}".encode(), crc)
        crc = zlib.crc32(tensor.tobytes(), crc)
    return f"{crc:08x}"
