"""What the files of a bag have in common: messages as bytes, and how large they may be."""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple, Protocol

from edge_rjepa.errors import SourceError
from edge_rjepa.sources.ros_messages import BadMessage
from ros2_link.errors import MessageError, MissingError
from ros2_link.messages import decode

MOST_MESSAGE_BYTES = 2**28
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"

Report = Callable[[str, BadMessage], None]  # of what is left out: of which topic or file, and why


class Stored(NamedTuple):
    """A message as it is in a bag."""

    topic: str
    type_name: str
    log_ns: int  # when it was recorded, by the clock of the recorder
    cdr: bytes


class BagFile(Protocol):
    """One file of a bag."""

    topics: set[tuple[str, str]]  # each with its type, "" if that is none of ROS 2
    cut: bool  # it has no proper end

    def count(self, topics: Collection[str]) -> int:
        """How many messages on these topics there are."""

    def messages(self, topics: Collection[str], passed: int = 0) -> Iterator[Stored]:
        """The messages on these topics by time, without the first `passed` of them."""

    def close(self) -> None:
        """Close the file."""


def message_of(stored: Stored, types: tuple[str, ...]) -> Any:
    """The message that is stored, of one of these types. Raises BadMessage."""
    if stored.type_name not in types:
        raise BadMessage("message of another type", stored.type_name or "none of ROS 2")
    try:
        return decode(_unpacked(stored.cdr), stored.type_name)
    except MessageError as error:
        raise BadMessage("torn message", str(error)) from error
    except MissingError as error:
        raise SourceError(str(error)) from error


def _unpacked(cdr: bytes) -> bytes:
    """The message, where rosbag2 packed each by itself. Raises BadMessage."""
    if not cdr.startswith(ZSTD_MAGIC):
        return cdr
    import zstandard

    try:
        size = zstandard.frame_content_size(cdr)
        if size < 0:
            raise BadMessage("torn message", "packed, and not told how large it is")
        if size > MOST_MESSAGE_BYTES:
            raise BadMessage("message too large", f"{size:,} bytes")
        return zstandard.ZstdDecompressor().stream_reader(io.BytesIO(cdr)).read(size)
    except zstandard.ZstdError as error:
        raise BadMessage("torn message", short(error)) from error


def short(error: Exception) -> str:
    """What an error says, in one line that is not long."""
    return " ".join(str(error).split())[:120] or type(error).__name__
