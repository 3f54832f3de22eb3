"""The door for files that somebody else may have written: JSON, TOML, lines of JSON, bytes.

A file is opened without waiting (a pipe that nobody writes to would hold the program for ever),
must be a regular file, and is read up to a number of bytes. Text is parsed so that every fault of
it is one FileError: broken, nested too deep, a name twice, a number that is none.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO

from safe_files.errors import FileError

MOST_KEY_PARTS = 32  # of a dotted TOML key: parsers take memory with the square of their number


def open_regular(path: str | os.PathLike, follow_links: bool = True) -> BinaryIO:
    """A regular file, open to be read.

    follow_links: whether the last part of the path may be a link; not where a folder of somebody
    else names the file. Raises OSError for everything else, a pipe, device or folder, too.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags if follow_links else flags | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno == errno.ELOOP and os.path.islink(path):
            what = "is a link, which is not followed"
            raise OSError(errno.ELOOP, what, os.fspath(path)) from None
        raise
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return open(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    raise OSError(errno.EINVAL, "is a pipe or a device, no file", os.fspath(path))


def read_bytes(path: str | os.PathLike, most_bytes: int, follow_links: bool = True) -> bytes:
    """The whole file. Raises OSError, and FileError where it is longer than most_bytes."""
    with open_regular(path, follow_links) as file:
        size = os.fstat(file.fileno()).st_size  # a hole of a terabyte costs nothing so
        content = file.read(most_bytes) if size <= most_bytes else b""
        if size > most_bytes or file.read(1):
            raise FileError(f"longer than {most_bytes:,} bytes")
    return content


def read_json(
    path: str | os.PathLike, most_bytes: int, follow_links: bool = True, finite: bool = True
) -> Any:
    """What the JSON file holds. Raises OSError, and FileError as `parse_json` does."""
    return parse_json(read_bytes(path, most_bytes, follow_links), finite)


def parse_json(text: str | bytes, finite: bool = True) -> Any:
    """What the JSON text says.

    finite: whether NaN and Infinity are refused, which are no JSON but which Python writes. Raises
    FileError for what is no JSON, nested too deep, or names a value twice in one object.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode()  # json.loads would guess at other encodings
        refusing = _refuse_constant if finite else None
        return json.loads(text, parse_constant=refusing, object_pairs_hook=_once_each)
    except RecursionError:
        raise FileError("no JSON: nested too deep") from None
    except ValueError as error:
        raise FileError(f"no JSON: {_short(error)}") from error


def read_toml(
    path: str | os.PathLike, most_bytes: int, follow_links: bool = True
) -> dict[str, Any]:
    """The table that the TOML file holds. Raises OSError, and FileError for what is no TOML."""
    if sys.version_info >= (3, 11):  # here, since a learner alone goes without tomli
        import tomllib
    else:
        import tomli as tomllib

    content = read_bytes(path, most_bytes, follow_links)
    try:
        text = content.decode(errors="surrogateescape")  # names of files may have any bytes
        _refuse_long_keys(text)
        return tomllib.loads(text)
    except RecursionError:
        raise FileError("not TOML: nested too deep") from None
    except ValueError as error:
        raise FileError(f"not TOML: {_short(error)}") from error


def lines(file: BinaryIO, most_bytes: int) -> Iterator[tuple[bytes | None, int]]:
    """Each line of the file, and where it ends; None for one that is longer than most_bytes."""
    end, whole = 0, True
    while part := file.readline(most_bytes):
        end += len(part)
        ends = part.endswith(b"\n") or len(part) < most_bytes
        if ends:
            yield (part if whole else None), end
        whole = ends
    if not whole:
        yield None, end


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a name stands twice in one object")
    return values


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _refuse_long_keys(text: str) -> None:
    for line in text.splitlines():
        if line.count(".") <= MOST_KEY_PARTS or line.lstrip().startswith("#"):
            continue
        *keys, _ = line.split("=") if "=" in line else (line, "")
        if any(key.count(".") > MOST_KEY_PARTS for key in keys):
            raise ValueError("a key of too many parts")


def _short(error: ValueError) -> str:
    return " ".join(str(error).split())[:200]
