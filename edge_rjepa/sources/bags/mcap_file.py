"""A bag as an MCAP file.

Its table of contents is at its end. Without it, as when the power failed, the file is read through
once to make one. Chunks are unpacked here and not by mcap, which unpacks whatever comes out.
"""

from __future__ import annotations

import heapq
import io
import struct
from collections import Counter
from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from edge_rjepa.errors import SourceError
from edge_rjepa.sources.bags.stored import Report, Stored, short
from edge_rjepa.sources.ros_messages import BadMessage
from safe_files.reading import open_regular

if TYPE_CHECKING:
    from mcap.records import Chunk, ChunkIndex, Message

MOST_CHUNK_BYTES = 2**28  # packed or not; writers make chunks of about a megabyte
MOST_HELD_BYTES = 2**28  # of messages that wait for earlier ones in later chunks
RUN_BYTES = 2**20  # of messages that lie in the file without a chunk: so many are read together


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
            if end_ns <= place.start_ns:
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
                self._report(str(self._path), BadMessage("damaged chunk", short(error)))
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
            self._report(str(self._path), BadMessage("damaged chunk", short(error)))
        at_ns = place.start_ns
        return [
            Message(channel_id=id, log_time=at_ns, data=b"", publish_time=at_ns, sequence=0)
            for id in channels
            for _ in range(self._count_of(place, id))
        ]

    def _messages_at(self, place: _Place) -> list[Message]:
        from mcap.records import Chunk, Message

        records = self._records(place.offset)
        if place.run:
            return list(islice((each for each in records if isinstance(each, Message)), place.run))
        chunk = next(records)
        if not isinstance(chunk, Chunk):
            raise ValueError("a chunk is not where it is said to be")
        return [each for each in _unpacked(chunk) if isinstance(each, Message)]

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
            chunks = [chunk for chunk in summary.chunk_indexes if chunk.message_index_offsets]
            empty = sum(chunk.message_end_time == 0 for chunk in summary.chunk_indexes)
            if not chunks or len(chunks) + empty != summary.statistics.chunk_count:
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
