"""Real photographs for benchmarks, out of Debian's package gcompris-qt-data (44 MB, all free).

    monuments    49 photographs of sights, 1024 x 768
    paintings   267 paintings
    words       116 drawings and photographs of things

Nothing of it lies in this repository: `fetch` downloads the package with apt and takes the pictures
out. They lie in archives of Qt (.rcc), uncompressed, one after another: a WebP file knows its own
length, that of a JPEG stands in the four bytes before it. Each set has a digest, so that figures
that are compared come from the same pictures.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

PACKAGE = "gcompris-qt-data"
ARCHIVES = {"monuments": "explore_monuments.rcc", "paintings": "paintings.rcc", "words": "lang.rcc"}
COUNTS = {"monuments": 49, "paintings": 267, "words": 116}
DIGESTS = {  # of gcompris-qt-data 3.1: SHA-256 of all pictures, one after another
    "monuments": "eed35b1e289a80b6d3a96d53907bfc987020fb8dfef778f994801b20b3ea3c61",
    "paintings": "c01d4ffccea6b2703f046d6936f78d88fffbdb03d39b2f42ea8c58f3e906bc5a",
    "words": "53ae694849b92683a70d5b68ee9ef9af88c2b7e2c40cec105db566f3b3d7b1a2",
}


def default_folder() -> Path:
    """EDGE_RJEPA_PICTURES, or a folder of the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("EDGE_RJEPA_PICTURES") or cache / "edge-rjepa" / "pictures")


def load(name: str, folder: Path | None = None) -> list[np.ndarray]:
    """The pictures of a set, (H, W, 3) uint8 BGR; downloads all sets first if they are not there.

    SystemExit says in a line what is wrong.
    """
    folder = require(folder)
    paths = sorted((folder / name).iterdir())
    contents = [path.read_bytes() for path in paths]
    _check(name, contents, folder)
    pictures = [cv2.imdecode(np.frombuffer(each, np.uint8), cv2.IMREAD_COLOR) for each in contents]
    for path, picture in zip(paths, pictures, strict=True):
        if picture is None:
            raise SystemExit(f"error: this OpenCV cannot read {path}: install opencv-python")
    return pictures


def require(folder: Path | None = None) -> Path:
    """The folder of all sets, fetched if one is missing."""
    folder = Path(folder or default_folder())
    if not all((folder / name).is_dir() for name in COUNTS):
        fetch(folder)
    return folder


def fetch(folder: Path) -> None:
    """Download the package and write every set into folder/NAME."""
    with tempfile.TemporaryDirectory() as scratch:
        _run(["apt-get", "download", "-q", PACKAGE], scratch)
        _run(["dpkg", "-x", *(path.name for path in Path(scratch).glob("*.deb")), "out"], scratch)
        for name, archive in ARCHIVES.items():
            found = sorted(Path(scratch, "out").rglob(archive))
            contents = list(pictures_in(found[0].read_bytes())) if found else []
            _check(name, contents, PACKAGE)
            (folder / name).mkdir(parents=True, exist_ok=True)
            for number, content in enumerate(contents):
                suffix = "webp" if content.startswith(b"RIFF") else "jpg"
                (folder / name / f"{number:03d}.{suffix}").write_bytes(content)


def pictures_in(archive: bytes) -> Iterator[bytes]:
    """Files of pictures in an archive of Qt: all WebP in the order they lie in, then all JPEG."""
    at = archive.find(b"RIFF")
    while at >= 0:
        size = 8 + int.from_bytes(archive[at + 4 : at + 8], "little")
        is_picture = archive[at + 8 : at + 12] == b"WEBP"
        if is_picture:
            yield archive[at : at + size]
        at = archive.find(b"RIFF", at + (size if is_picture else 4))
    at = archive.find(b"\xff\xd8\xff")
    while at >= 0:
        size = int.from_bytes(archive[max(at - 4, 0) : at], "big")
        is_picture = 1000 < size <= len(archive) - at  # thumbnails inside of pictures are not
        if is_picture:
            yield archive[at : at + size]
        at = archive.find(b"\xff\xd8\xff", at + (size if is_picture else 3))


def digest(contents: list[bytes]) -> str:
    """SHA-256 of files, one after another."""
    return hashlib.sha256(b"".join(contents)).hexdigest()


def _check(name: str, contents: list[bytes], where: object) -> None:
    if len(contents) != COUNTS[name] or digest(contents) != DIGESTS[name]:
        raise SystemExit(
            f"error: {where} has {len(contents)} pictures called {name}, not the {COUNTS[name]} "
            f"that figures here are of: name another folder by --pictures, or remove {name} there"
        )


def _run(command: list[str], folder: str) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        reason = "there is no such program: fetch pictures on Debian or Ubuntu"
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or [f"it returned {error.returncode}"]
        reason = lines[-1]
    else:
        return
    raise SystemExit(f"error: no photographs, {' '.join(command)}: {reason}")
