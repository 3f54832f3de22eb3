"""All files of a bag as one: an MCAP file, an SQLite file (.db3), or a folder of either.

Which of them a file is, its first bytes say. A bag that was cut off is a shorter bag.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from pathlib import Path

from edge_rjepa.errors import SourceError
from edge_rjepa.sources.bags.mcap_file import McapFile
from edge_rjepa.sources.bags.sqlite_file import SqliteFile
from edge_rjepa.sources.bags.stored import ZSTD_MAGIC, BagFile, Report, Stored
from safe_files.errors import why
from safe_files.reading import open_regular

MCAP_MAGIC, SQLITE_MAGIC = b"\x89MCAP0\r\n", b"SQLite format 3\0"
ROS1_MAGIC = b"#ROSBAG V"
SUFFIXES = ".mcap", ".db3", ".zstd"


class Bag:
    """All files of a bag, one after the other.

    path: of a file, or of a folder with the files of one recording. report: is called for what is
    damaged and left out. Raises SourceError for what is no bag.
    """

    def __init__(self, path: Path, report: Report) -> None:
        self.events: list[str] = []
        self.topics: set[tuple[str, str]] = set()  # each with its type, "" if none of ROS 2
        self._files: list[BagFile] = []
        try:
            for each in self._paths(path):
                self._open(each, report)
        except BaseException:
            self.close()
            raise
        for file in self._files:
            self.topics |= file.topics
        if not self.topics:
            self.close()
            raise SourceError(f"{path}: has no message that can be read; use another copy of it")

    def count(self, topics: Collection[str]) -> int:
        """How many messages on these topics there are."""
        return sum(file.count(topics) for file in self._files)

    def messages(self, topics: Collection[str], passed: int = 0) -> Iterator[Stored]:
        """The messages on these topics by time, without the first `passed` of them."""
        for file in self._files:
            count = file.count(topics) if passed else 0
            if count <= passed and passed:
                passed -= count
                continue
            yield from file.messages(topics, passed)
            passed = 0

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()

    def _paths(self, path: Path) -> list[Path]:
        if not path.is_dir():
            return [path]
        try:
            found = [each for each in path.iterdir() if each.suffix in SUFFIXES]
        except OSError as error:
            raise SourceError(f"cannot read folder {path}: {why(error)}") from error
        if not found:
            raise SourceError(f"{path}: holds no bag; name a folder with .mcap or .db3 files")
        if not (path / "metadata.yaml").exists():
            self.events.append(f"{path}: has no metadata.yaml, as the recording was not closed")
        return sorted(found, key=_by_number)

    def _open(self, path: Path, report: Report) -> None:
        try:
            with open_regular(path) as file:
                magic = file.read(16)
        except OSError as error:
            raise SourceError(f"cannot read {path}: {why(error)}") from error
        opened: BagFile
        if magic.startswith(MCAP_MAGIC):
            opened = McapFile(path, report)
        elif magic.startswith(SQLITE_MAGIC):
            opened = SqliteFile(path, report)
        else:
            raise SourceError(f"{path}: {_no_bag(magic)}")
        self._files.append(opened)
        if opened.cut:
            self.events.append(f"{path}: has no proper end; what can be read of it is the bag")


def _by_number(path: Path) -> list[tuple[int, str]]:
    """So that bag_10 comes after bag_9."""
    parts = re.split(r"(\d+)", path.name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _no_bag(magic: bytes) -> str:
    if not magic:
        return "is empty; use another copy of the bag"
    if magic.startswith(ROS1_MAGIC):
        return "is a bag of ROS 1; convert it: pip install rosbags; rosbags-convert --help"
    if magic.startswith(ZSTD_MAGIC):
        return "is packed as a whole; unpack it: zstd -d FILE"
    return "is neither an MCAP file nor a bag of SQLite; name one, or use another copy"
