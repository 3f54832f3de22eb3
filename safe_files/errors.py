"""What is wrong with a file, in words."""

from __future__ import annotations

import errno

CURES = {
    errno.EACCES: "change its owner or its rights (ls -l shows them), or name another",
    errno.EPERM: "change its owner or its rights (ls -l shows them), or name another",
    errno.EDQUOT: "make room, or name a folder on another disk",
    errno.EEXIST: "something stands there: move it away, or name another",
    errno.EIO: "the disk fails: look at `dmesg`, and save what is on it",
    errno.EISDIR: "name a file",
    errno.EMFILE: "allow more open files: ulimit -n 4096",
    errno.ENAMETOOLONG: "use a shorter name",
    errno.ENOENT: "name one that is there",
    errno.ENOSPC: "make room, or name a folder on another disk",
    errno.ENOTDIR: "a file stands where a folder belongs: move it away, or name another folder",
    errno.EROFS: "name a folder on a disk that can be written",
}


class FileError(ValueError):
    """The content of a file is not what it should be; the message says what, without its name."""


def why(error: OSError) -> str:
    """What the system says, and what to do about it, in one line without the file's name."""
    says = error.strerror or " ".join(str(error).split()) or type(error).__name__
    cure = CURES.get(error.errno or 0)
    return f"{says}: {cure}" if cure else says


def in_words(error: OSError) -> str:
    """The same with the file's name."""
    names = [name for name in (error.filename, error.filename2) if name is not None]
    if error.errno is None or not names:  # one of ours says all that
        return why(error)
    return f"{' -> '.join(map(printable, names))}: {why(error)}"


def printable(name: object) -> str:
    """A file's name with what is no UTF-8 written as backslashes and digits."""
    text = name.decode(errors="surrogateescape") if isinstance(name, bytes) else str(name)
    return text.encode(errors="backslashreplace").decode()
