"""Bags of ROS 2 as files: what is in them, and their messages by time, within fixed memory.

A bag is an MCAP file, an SQLite file (.db3), or a folder of either. Which of them a file is, its
first bytes say. Messages stay bytes here (CDR); ros_messages.py knows what they mean.

A bag that was cut off, as when the power failed, is a shorter bag. An MCAP file has its table of
contents at its end: without it the file is read through once to make one. SQLite is told to read
the pages that there are.
"""

from __future__ import annotations

import heapq
import io
import re
import sqlite3
import struct
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from urllib.parse import quote

from edge_rjepa.errors import SourceError
from edge_rjepa.sources.ros_messages import BadMessage
from safe_files.errors import why
from safe_files.reading import open_regular

if TYPE_CHECKING:
    from mcap.records import Chunk, ChunkIndex, Message

MOST_MESSAGE_BYTES = 2**28
MOST_CHUNK_BYTES = 2**28  # packed or not; writers make chunks of about a megabyte
MOST_HELD_BYTES = 2**28  # of messages that wait for earlier ones in later chunks
RUN_BYTES = 2**20  # of messages that lie in an MCAP file without a chunk: so many are read together
MOST_CHANNELS = 65_536  # MCAP has no more; more topics in SQLite are no robot's

MCAP_MAGIC, SQLITE_MAGIC = b"\x89MCAP0\r\n", b"SQLite format 3\0"
ROS1_MAGIC, ZSTD_MAGIC = b"#ROSBAG V", b"\x28\xb5\x2f\xfd"
SQLITE_FAULTS = sqlite3.Error, ValueError, OverflowError  # names may be no text
SUFFIXES = ".mcap", ".db3", ".zstd"

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


# -- MCAP -----------------------------------------------------------------------------------------


class _Place(NamedTuple):
    """Messages that are read together: a chunk, or a run of messages that are in none."""

    offset: int  # of the first record to read
    run: int  # so many messages; 0 for a chunk
    start_ns: int  # of its messages
    end_ns: int
    counts: dict[int, int]  # messages by channel, as far as they were counted
    indexes: dict[int, int]  # where the index of a channel's messages is


class McapFile:
    """An MCAP file."""

    def __init__(self, path: Path, report: Report) -> None:
        _check_mcap()
        self._path, self._report = path, report
        self._file = _Bounded(open_regular(path).detach())  # type: ignore[attr-defined]
        self._channels: dict[int, tuple[str, str]] = {}  # topic and type
        self._schemas: dict[int, Any] = {}
        self.cut = False
        try:
            self._places = self._from_summary() or self._from_all()
        except BaseException:
            self.close()
            raise
        self._places.sort(key=lambda place: (place.start_ns, place.offset))
        self.topics = set(self._channels.values())

    def count(self, topics: Collection[str]) -> int:
        """How many messages on these topics there are."""
        return sum(self._count_in(place, topics) for place in self._places)

    def messages(self, topics: Collection[str], passed: int = 0) -> Iterator[Stored]:
        """The messages on these topics by time, without the first `passed` of them."""
        first, before = self._first_place(topics, passed)
        passed -= before
        held: list[tuple[int, int, int, Message]] = []  # by time, then as they lie in the file
        held_bytes = 0
        for i in range(first, len(self._places)):
            for j, message in enumerate(self._loaded(self._places[i], topics)):
                heapq.heappush(held, (message.log_time, i, j, message))
                held_bytes += len(message.data)
            next_ns = self._places[i + 1].start_ns if i + 1 < len(self._places) else 2**64
            while held and (held[0][0] < next_ns or held_bytes > MOST_HELD_BYTES):
                message = heapq.heappop(held)[3]
                held_bytes -= len(message.data)
                passed -= 1
                if passed < 0:
                    topic, kind = self._channels[message.channel_id]
                    yield Stored(topic, kind, message.log_time, message.data)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _first_place(self, topics: Collection[str], passed: int) -> tuple[int, int]:
        """Where to begin so as to pass over `passed` messages, and how many lie before that.

        None that lies before is from later than what follows.
        """
        found, before, end_ns = (0, 0), 0, -1
        for i, place in enumerate(self._places):
            if before > passed:
                break
            if end_ns < place.start_ns:
                found = i, before
            before += self._count_in(place, topics)
            end_ns = max(end_ns, place.end_ns)
        return found

    def _count_in(self, place: _Place, topics: Collection[str]) -> int:
        return sum(self._count_of(place, id) for id in self._channels_in(place, topics))

    def _channels_in(self, place: _Place, topics: Collection[str]) -> list[int]:
        return [id for id in place.counts | place.indexes if self._topic_of(id) in topics]

    def _count_of(self, place: _Place, channel: int) -> int:
        if channel not in place.counts:
            from mcap.records import MessageIndex

            try:
                index = next(self._records(place.indexes[channel]))
                if not isinstance(index, MessageIndex) or index.channel_id != channel:
                    raise ValueError("an index of messages is not where it is said to be")
                place.counts[channel] = len(index.records)
            except _mcap_faults() as error:
                self._report(str(self._path), BadMessage("damaged chunk", _short(error)))
                place.counts[channel] = 0
        return place.counts[channel]

    def _topic_of(self, channel: int) -> str | None:
        return self._channels[channel][0] if channel in self._channels else None

    def _loaded(self, place: _Place, topics: Collection[str]) -> list[Message]:
        """The messages on these topics in one place; without content where it is damaged."""
        from mcap.records import Message

        channels = self._channels_in(place, topics)
        if not channels:
            return []
        try:
            return [each for each in self._messages_at(place) if each.channel_id in channels]
        except _mcap_faults() as error:
            self._report(str(self._path), BadMessage("damaged chunk", _short(error)))
        at_ns = place.start_ns
        return [
            Message(channel_id=id, log_time=at_ns, data=b"", publish_time=at_ns, sequence=0)
            for id in channels
            for _ in range(self._count_of(place, id))
        ]

    def _messages_at(self, place: _Place) -> list[Message]:
        from mcap.records import Chunk, Message

        found: list[Message] = []
        for record in self._records(place.offset):
            if isinstance(record, Chunk):
                return [each for each in _unpacked(record) if isinstance(each, Message)]
            if isinstance(record, Message):
                found.append(record)
            if len(found) == place.run:
                break
        return found

    def _records(self, offset: int) -> Iterator[Any]:
        """The records of the file from there on, chunks as they are."""
        from mcap.stream_reader import StreamReader

        self._file.seek(offset)
        reader = StreamReader(
            self._file,
            skip_magic=offset > 0,
            emit_chunks=True,
            record_size_limit=MOST_CHUNK_BYTES,
        )
        return iter(reader.records)

    def _from_summary(self) -> list[_Place] | None:
        """What the table of contents at the file's end says; None if there is none that says all.

        Of a file that is cut off there is none.
        """
        from mcap.reader import SeekingReader

        self._file.seek(0)
        try:
            summary = SeekingReader(self._file, record_size_limit=MOST_CHUNK_BYTES).get_summary()
            if summary is None or summary.statistics is None:
                return None
            chunks = summary.chunk_indexes
            indexed = all(chunk.message_index_offsets for chunk in chunks)
            if len(chunks) != summary.statistics.chunk_count or not (chunks and indexed):
                return None
            for schema in summary.schemas.values():
                self._schemas[schema.id] = schema
            for channel in summary.channels.values():
                self._add_channel(channel)
            if len(summary.channels) != summary.statistics.channel_count:
                return None
            return [_place_of(chunk) for chunk in chunks]
        except _mcap_faults():
            return None

    def _from_all(self) -> list[_Place]:
        """The same, found by reading all there is of the file."""
        from mcap.records import Channel, Chunk, Footer, Message, Schema

        places: list[_Place] = []
        run: list[Message] = []
        run_offset = run_bytes = offset = 0
        self.cut = True
        self._channels.clear()
        self._schemas.clear()
        records = self._records(0)
        while True:
            try:
                record = next(records, None)
                if record is None or isinstance(record, Footer):
                    self.cut = record is None
                    break
                parts = _unpacked(record) if isinstance(record, Chunk) else [record]
            except _mcap_faults():
                break
            for part in parts:
                if isinstance(part, Schema):
                    self._schemas[part.id] = part
                elif isinstance(part, Channel):
                    self._add_channel(part)
            if isinstance(record, Message):
                run_offset = run_offset if run else offset
                run.append(record)
                run_bytes += len(record.data)
            if run and (run_bytes > RUN_BYTES or isinstance(record, Chunk)):
                places.append(_place(run_offset, len(run), run))
                run, run_bytes = [], 0
            if isinstance(record, Chunk):
                inside = [part for part in parts if isinstance(part, Message)]
                places.append(_place(offset, 0, inside))
            offset = self._file.tell()
        if run:
            places.append(_place(run_offset, len(run), run))
        return [place for place in places if place.counts]

    def _add_channel(self, channel: Any) -> None:
        """Take note of a channel; of one that is none of ROS 2, without a type."""
        schema = self._schemas.get(channel.schema_id)
        name = schema.name if schema is not None and channel.message_encoding == "cdr" else ""
        self._channels.setdefault(channel.id, (channel.topic, name))


def _place_of(chunk: ChunkIndex) -> _Place:
    times_ns = chunk.message_start_time, chunk.message_end_time
    return _Place(chunk.chunk_start_offset, 0, *times_ns, {}, chunk.message_index_offsets)


def _place(offset: int, run: int, messages: list[Message]) -> _Place:
    times_ns = [message.log_time for message in messages] or [0]
    counts = Counter(message.channel_id for message in messages)
    return _Place(offset, run, min(times_ns), max(times_ns), dict(counts), {})


class _Bounded(io.BufferedReader):
    """A file of which nobody reads more at once than there is reason to."""

    def read(self, size: int | None = -1, /) -> bytes:
        """As that of any file."""
        if size is not None and size > MOST_CHUNK_BYTES:
            raise ValueError(f"a record of {size:,} bytes")
        return super().read(size)


def _unpacked(chunk: Chunk) -> list[Any]:
    """The records in a chunk. Raises one of _mcap_faults()."""
    import lz4.frame
    import zstandard
    from mcap.stream_reader import breakup_chunk

    size = chunk.uncompressed_size
    if size > MOST_CHUNK_BYTES:
        raise ValueError(f"a chunk of {size:,} bytes")
    # mcap itself unpacks whatever comes out.
    if chunk.compression == "zstd":
        data = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(chunk.data)).read(size)
    elif chunk.compression == "lz4":
        data = lz4.frame.LZ4FrameDecompressor().decompress(chunk.data, max_length=size)
    elif chunk.compression == "":
        data = chunk.data
    else:
        raise ValueError(f"a chunk packed by {chunk.compression!r:.40}")
    if len(data) != size:
        raise ValueError(f"a chunk of {len(data):,} bytes that says {size:,}")
    chunk.data, chunk.compression = data, ""
    return breakup_chunk(chunk, validate_crc=True)


def _check_mcap() -> None:
    """Raises SourceError where mcap is not installed."""
    try:
        import mcap  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "mcap":
            raise
        raise SourceError('bags need mcap: pip install "edge-rjepa[bags]"') from error


def _mcap_faults() -> tuple[type[Exception], ...]:
    """What reading a damaged MCAP file may raise."""
    import zstandard
    from mcap.exceptions import McapError

    return (
        McapError, zstandard.ZstdError, struct.error, ValueError, EOFError, OverflowError,
        MemoryError, RuntimeError, OSError, StopIteration,
    )  # fmt: skip


# -- SQLite ---------------------------------------------------------------------------------------


class SqliteFile:
    """A bag of rosbag2's own kind: a database with topics and messages."""

    def __init__(self, path: Path, report: Report) -> None:
        self._path, self._report = path, report
        self.cut = False
        self._database = self._opened()
        try:
            self._ids = self._topics()
        except SQLITE_FAULTS as error:
            self.close()
            raise SourceError(f"{path}: {_short(error)}; use another copy of the bag") from error
        except BaseException:
            self.close()
            raise
        self.topics = set(self._ids.values())

    def count(self, topics: Collection[str]) -> int:
        """How many messages on these topics there are."""
        return sum(1 for _ in self._rows(topics, 0))

    def messages(self, topics: Collection[str], passed: int = 0) -> Iterator[Stored]:
        """The messages on these topics by time, without the first `passed` of them."""
        for id, topic_id, log_ns, size in self._rows(topics, passed):
            topic, kind = self._ids[topic_id]
            log_ns = log_ns if isinstance(log_ns, int) else 0
            yield Stored(topic, kind, log_ns, self._data(topic, id, size))

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _opened(self) -> sqlite3.Connection:
        # Nothing is written beside a bag, unless its last messages wait there to be taken in.
        log = self._path.with_name(self._path.name + "-wal")
        how = "mode=ro" if log.exists() else "mode=ro&immutable=1"
        name = f"file:{quote(str(self._path.absolute()))}?{how}"
        database = sqlite3.connect(name, uri=True, check_same_thread=False)
        database.text_factory = lambda text: text.decode(errors="replace")
        try:
            database.execute("PRAGMA trusted_schema = OFF")
            database.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except SQLITE_FAULTS:
            # SQLite then takes a file that is shorter than it says for what there is of it.
            self.cut = True
            database.execute("PRAGMA writable_schema = ON")
        return database

    def _topics(self) -> dict[int, tuple[str, str]]:
        """Topic and type by number. Raises SourceError for what is no bag."""
        for table in ("topics", "messages"):
            self._check_table(table)
        found = {}
        query = "SELECT id, name, type, serialization_format FROM topics LIMIT ?"
        for id, name, kind, form in self._database.execute(query, (MOST_CHANNELS,)):
            if isinstance(id, int) and isinstance(name, str) and isinstance(kind, str):
                found[id] = name, kind if form == "cdr" else ""
        return found

    def _check_table(self, name: str) -> None:
        """What is called so must be a plain table: others compute whatever they like."""
        query = "SELECT type, sql FROM sqlite_master WHERE name = ?"
        kind, sql = self._database.execute(query, (name,)).fetchone() or ("", "")
        columns = self._database.execute(f"PRAGMA table_xinfo({name})").fetchall()
        plain = kind == "table" and str(sql).upper().startswith("CREATE TABLE")
        if not plain or any(column[6] for column in columns):
            raise SourceError(f"{self._path}: is no bag: it has no plain table {name!r}")

    def _rows(self, topics: Collection[str], passed: int) -> Iterator[tuple[int, int, Any, Any]]:
        """Number, topic, time and size of each message, up to where the file is damaged."""
        ids = [id for id, (topic, _) in self._ids.items() if topic in topics]
        # The order that messages were written in: an index may lie where the file is no more.
        order = (
            "messages NOT INDEXED {} ORDER BY id"
            if self.cut
            else "messages {} ORDER BY timestamp, id"
        )
        where = f"WHERE topic_id IN ({','.join('?' * len(ids))})"
        query = f"SELECT id, topic_id, timestamp, length(data) FROM {order.format(where)}"
        try:
            yield from self._database.execute(f"{query} LIMIT -1 OFFSET ?", (*ids, passed))
        except SQLITE_FAULTS as error:
            if not self.cut:
                self._report(str(self._path), BadMessage("damaged pages", _short(error)))

    def _data(self, topic: str, id: int, size: object) -> bytes:
        """The message; nothing where it cannot be read."""
        if not isinstance(size, int) or size > MOST_MESSAGE_BYTES:
            self._report(topic, BadMessage("message too large", f"{size} bytes"))
            return b""
        try:
            row = self._database.execute("SELECT data FROM messages WHERE id = ?", (id,)).fetchone()
        except SQLITE_FAULTS as error:
            self._report(topic, BadMessage("damaged pages", _short(error)))
            return b""
        return row[0] if row and isinstance(row[0], bytes) else b""


def unpacked(cdr: bytes) -> bytes:
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
        raise BadMessage("torn message", _short(error)) from error


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
