"""Files and folders that are there whole or not at all, and that nobody else reads.

Versions before the latest can stay beside a file, for when it turns out to be damaged:

    .checkpoint.safetensors.new  the newest for a moment; longer only if the process ended just then
    checkpoint.safetensors       the newest
    checkpoint.1.safetensors     the one before, and so on
"""

from __future__ import annotations

import errno
import glob
import os
import re
import secrets
import stat
from pathlib import Path

PRIVATE_FOLDER, PRIVATE_FILE, USUAL_FILE = 0o700, 0o600, 0o666  # the last one less the umask


def write_atomic(
    path: str | os.PathLike, content: bytes, keep: int = 1, private: bool = True
) -> None:
    """Replace the file `path` by `content`: after a crash or power cut it is the old or the new.

    keep: how many versions stay, the new one included; see the top of this file for their names.
    private: whether nobody else may read it. Raises OSError, with nothing lost, when the folder is
    missing or not writable, the disk is full, another process writes the same file at the same
    time, or a link, a device or a folder has that name: what a link leads to may be somebody's.
    """
    path = Path(path)
    check_is_file(path)
    for left_by_killed_process in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        left_by_killed_process.unlink(missing_ok=True)
    temporary = path.parent / f".{path.name}.{secrets.token_hex(8)}.tmp"
    line = [_incoming(path), path, *(numbered(path, i) for i in range(1, keep))]
    try:
        with open(temporary, "xb", opener=private_opener if private else None) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        move_up(line)  # where a killed process stopped half-way
        os.replace(temporary, line[0] if keep > 1 and path.exists() else path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a full disk does not say which file it was full for
        raise
    _sync_folder(path.parent)
    move_up(line)


def make_private_folder(path: str | os.PathLike) -> None:
    """A folder that nobody else can look into, unless there is one of that name already.

    Folders above it are made as usual. All of them are on the disk when this returns. Raises
    OSError.
    """
    path = Path(path)
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(PRIVATE_FOLDER, parents=True, exist_ok=True)
    for folder in missing:
        _sync_folder(folder.parent)


def private_opener(path: str, flags: int) -> int:
    """For `open(.., opener=)`: a new file is private, and a link is not followed."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE_FILE)


def newest(path: str | os.PathLike) -> list[Path]:
    """The versions of `path` that are there, the newest first."""
    return [version for version in versions(path) if os.path.lexists(version)]


def versions(path: str | os.PathLike) -> list[Path]:
    """Where versions of `path` are looked for, the newest first; their folder by its full name."""
    path = Path(os.path.realpath(Path(path).parent), Path(path).name)
    name = re.compile(rf"{re.escape(path.stem)}\.([1-9][0-9]*){re.escape(path.suffix)}")
    matches = (name.fullmatch(other.name) for other in path.parent.glob("*"))
    older = sorted(int(match[1]) for match in matches if match)
    incoming = [_incoming(path)] if _incoming(path).exists() else []
    return [*incoming, path, *(numbered(path, number) for number in older)]


def numbered(path: Path, number: int) -> Path:
    """Where the version of `path` is kept that is so much older than the latest."""
    return path.with_name(f"{path.stem}.{number}{path.suffix}")


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


def _incoming(path: Path) -> Path:
    return path.with_name(f".{path.name}.new")


def check_is_file(path: Path) -> None:
    """Raises OSError where a link, a device or a folder has the name: write_atomic refuses it."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if stat.S_ISLNK(mode):
        raise OSError(errno.ELOOP, "is a link: remove it, or name the file it leads to", str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "is a pipe or a device: name another file", str(path))


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
