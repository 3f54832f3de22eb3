"""The form of a recording that is one MCAP file: what a replay needs, and what Foxglove shows.

    /edge_rjepa/frame       JSON, a message a frame: when, head, gaze, and where in the message of
                            /camera/image before it the picture lies
    /edge_rjepa/held_out    the same for what the source itself holds out; its pictures are those of
                            /edge_rjepa/held_out/image
    all of channels.TOPICS  for Foxglove; a replay reads none of it but the pictures
    metadata                what recording.json is in a folder; the last one counts

All messages of a frame lie in one chunk, which is written after CHUNK_S or CHUNK_BYTES: that is
what a kill can take away. Chunks are not compressed, since pictures are. Nothing is written twice,
so that whatever stops the writer leaves at most one torn chunk, which the reader leaves out.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import struct
import time
import zlib
from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from edge_rjepa._version import __version__
from edge_rjepa.errors import ConfigError, SourceError
from edge_rjepa.sources.decode import decode
from edge_rjepa.sources.recording import (
    FRAME_TOPIC,
    MOST_ABOUT_BYTES,
    MOST_LINE_BYTES,
    MOST_PICTURE_BYTES,
    About,
    Line,
    Pictures,
    Recorded,
    RecordingError,
    Taken,
    hold,
    line_of,
    parsed_line,
    text_of,
)
from safe_files.errors import FileError, why
from safe_files.reading import open_regular, parse_json
from safe_files.writing import make_private_folder, private_opener

try:
    from mcap.data_stream import ReadDataStream
    from mcap.exceptions import McapError
    from mcap.opcode import Opcode
    from mcap.records import Channel, Chunk, Message, Metadata
    from mcap.stream_reader import breakup_chunk
    from mcap.writer import CompressionType, Writer
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "mcap":
        raise
    raise ConfigError('MCAP files need mcap: pip install "edge-rjepa[foxglove]"') from error

FRAME, FRAME_PICTURE = FRAME_TOPIC, "/camera/image"
FRAMES = FRAME, FRAME_PICTURE
HELD, HELD_PICTURE = "/edge_rjepa/held_out", "/edge_rjepa/held_out/image"
ABOUT = "edge_rjepa recording"  # name of the metadata
KINDS = {".png": "png", ".mjpeg": "jpeg"}  # of pictures, as Foxglove names them
CHUNK_S, CHUNK_BYTES = 1.0, 8 << 20
CALIBRATION_S = 1.0  # between two times that the camera is described
MOST_WAITING = 1000  # messages until the next frame
MOST_CHUNK_BYTES = MOST_PICTURE_BYTES + CHUNK_BYTES + MOST_LINE_BYTES
MOST_CHUNKS = 4_000_000
MAGIC = b"\x89MCAP0\r\n"
RECORD = struct.Struct("<BQ")  # what begins a record: its kind, and how many bytes follow
INDEX = struct.Struct("<HI")  # what begins a message index: the channel, and bytes of 16 a message
FRAME_SCHEMA = {
    "title": "edge_rjepa.Frame",
    "type": "object",
    "properties": {
        "sequence": {"type": "integer"},
        "t_capture_s": {"type": "number", "description": "on the source's clock"},
        "head_rad": {
            "type": "array", "items": {"type": "number"},
            "description": "pan, tilt; right and up positive",
        },
        "fixations": {"type": "integer", "description": "learned from; 0 if set aside"},
        "gaze_rad": {
            "type": ["array", "null"],
            "items": {"type": "array", "items": {"type": "number"}},
            "description": "azimuth, elevation of each fixation; right and up positive",
        },
        "offset": {"type": "integer", "description": "of the picture in the message before"},
        "bytes": {"type": "integer"},
        "crc32": {"type": "integer"},
    },
}  # fmt: skip
# What the mcap library raises of a damaged record.
DAMAGE = (McapError, ValueError, LookupError, OverflowError, TypeError, struct.error)


# ------------------------------------------------------------------------------------------------
# Writing


class McapChannels:
    """Holds what came since the last frame, until the next one is written."""

    def __init__(self, messages: Any) -> None:
        self._messages = messages
        self._fixated: Any = None
        self._waiting: deque[Any] = deque(maxlen=MOST_WAITING)

    def observe(self, fixated: Any) -> None:
        """The frame that is added next, with its fixations."""
        self._fixated = fixated

    def on_metrics(self, values: Mapping[str, float]) -> None:
        """The newest measures."""
        self._waiting.append(self._messages.of_metrics(values))

    def on_event(self, text: str) -> None:
        """Something happened."""
        self._waiting.append(self._messages.of_event(text))

    def take(self, frame: Taken | None) -> Iterator[Any]:
        """All of it; fixations only if they are this frame's."""
        while self._waiting:
            yield self._waiting.popleft()
        fixated, self._fixated = self._fixated, None
        if fixated is not None and fixated.frame is frame and len(fixated.pixels):
            yield from self._messages.of_fixations(fixated)


class McapWriter:
    """Writes the file, which must not be there yet, but for one that never took a frame.

    Raises RecordingError, OSError.
    """

    def __init__(
        self,
        path: Path,
        about: About,
        pictures: Pictures,
        held_out: Iterable[Taken],
        live: bool,
    ) -> None:
        from edge_rjepa.sources import channels

        self.frames = 0
        self._pictures = pictures
        self._messages = channels.Messages(about.camera, live, about.head_limits_rad is not None)
        self.channels = McapChannels(self._messages)
        self._written_s = time.monotonic()
        self._waiting_bytes = 0
        self._described_ns = -(10**18)
        make_private_folder(path.parent)
        _make_room(path)
        try:
            self._file = open(path, "xb", opener=private_opener)
        except FileExistsError:
            raise RecordingError(f"{path} is there already: record into a new file") from None
        try:
            hold(self._file, path)
            self._writer = Writer(
                self._file,
                chunk_size=2 * MOST_CHUNK_BYTES,  # never by itself, within a frame
                compression=CompressionType.NONE,
            )
            self._writer.start(library=f"edge_rjepa {__version__}")
            topics = channels.TOPICS | {HELD_PICTURE: channels.TOPICS[FRAME_PICTURE]}
            self._ids = self._register(topics | {FRAME: FRAME_SCHEMA, HELD: FRAME_SCHEMA})
            self.note(about)
            for frame in held_out:
                self._write_frame(HELD, frame, None, 0)
                self._write_chunk_if_due()
            self._write_chunk()
        except BaseException:
            self.close()
            raise

    def add(self, frame: Taken, gaze_rad: np.ndarray | None, fixations: int) -> None:
        """One frame with all that belongs to it. Raises OSError."""
        for message in self.channels.take(frame):
            self._write(message)
        for message in self._messages.of_place(frame):
            self._write(message)
            newest_ns = message.time_ns
        if abs(newest_ns - self._described_ns) >= CALIBRATION_S * 1e9:
            self._described_ns = newest_ns
            self._write(self._messages.of_camera())
        self._write_frame(FRAME, frame, gaze_rad, fixations)
        self.frames += 1
        self._write_chunk_if_due()

    def note(self, about: About) -> None:
        """What the recording is; after its last frame, also the file's index."""
        if about.frames is not None:
            for message in self.channels.take(None):
                self._write(message)
        self._writer.flush()
        self._writer.add_metadata(ABOUT, {"recording": text_of(about)})
        self._writer.flush()
        if about.frames is not None:
            self._writer.finish()
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(OSError):  # a full disk was told before
            self._file.close()

    def _register(self, topics: Mapping[str, Any]) -> dict[str, int]:
        ids = {}
        for topic, kind in topics.items():
            if isinstance(kind, dict):
                schema = kind["title"], "jsonschema", json.dumps(kind).encode()
                encoding = "json"
            else:
                found = kind.get_schema()
                schema = found.name, found.encoding, found.data
                encoding = "protobuf"
            ids[topic] = self._writer.register_channel(
                topic, encoding, self._writer.register_schema(*schema)
            )
        return ids

    def _write_frame(
        self, topic: str, frame: Taken, gaze_rad: np.ndarray | None, fixations: int
    ) -> None:
        """Its picture, and then what a replay needs."""
        picture = self._pictures.encode(frame.image)
        message = self._messages.of_picture(frame, picture, KINDS[self._pictures.suffix])
        content = message.encode()
        line = line_of(frame, gaze_rad, fixations, picture)
        line["offset"] = content.index(picture)
        picture_topic = FRAME_PICTURE if topic == FRAME else HELD_PICTURE
        sequence = int(frame.sequence) % 2**32
        self._add(picture_topic, message.time_ns, content, sequence)
        self._add(topic, message.time_ns, json.dumps(line).encode(), sequence)

    def _write(self, message: Any) -> None:
        self._add(message.topic, message.time_ns, message.encode())

    def _add(self, topic: str, time_ns: int, content: bytes, sequence: int = 0) -> None:
        self._writer.add_message(self._ids[topic], time_ns, content, time_ns, sequence)
        self._waiting_bytes += len(content)

    def _write_chunk_if_due(self) -> None:
        due = time.monotonic() - self._written_s >= CHUNK_S
        if due or self._waiting_bytes >= CHUNK_BYTES:
            self._write_chunk()

    def _write_chunk(self) -> None:
        self._writer.flush()
        self._written_s, self._waiting_bytes = time.monotonic(), 0


def _make_room(path: Path) -> None:
    """Take away a recording that never took a frame. Raises RecordingError while one is made."""
    try:
        file = open_regular(path, follow_links=False)
    except OSError:  # nothing is there, or what is no file
        return
    with file:
        hold(file, path)
        if _took_no_frame(file):
            path.unlink()


def _took_no_frame(file: BinaryIO) -> bool:
    """Whether the file is a whole recording without a frame; not where anything is damaged."""
    records, topics, is_ours, whole = _Records(file), {}, False, False
    try:
        for record in records:
            whole = record.opcode == Opcode.DATA_END
            if record.opcode == Opcode.METADATA:
                is_ours |= Metadata.read(_stream(records.content(record))).name == ABOUT
            elif record.opcode == Opcode.CHUNK and record.bytes <= MOST_CHUNK_BYTES:
                chunk = Chunk.read(_stream(records.content(record)))
                if chunk.compression:  # by another program
                    return False
                for part in breakup_chunk(chunk, validate_crc=True):
                    if isinstance(part, Channel):
                        topics[part.id] = part.topic
                    if isinstance(part, Message) and topics[part.channel_id] in FRAMES:
                        return False
            elif record.opcode in (Opcode.CHUNK, Opcode.MESSAGE):
                return False
    except (FileError, *DAMAGE):
        return False
    return is_ours and (whole or records.end == records.size)


# ------------------------------------------------------------------------------------------------
# Reading


def about_in(path: Path) -> object:
    """What the file says of itself, as plain JSON values. Raises OSError, FileError."""
    with open_regular(path, follow_links=False) as file:
        records = _Records(file)
        text = None
        for record in records:
            if record.opcode == Opcode.METADATA and record.bytes <= MOST_ABOUT_BYTES:
                with contextlib.suppress(*DAMAGE):
                    found = Metadata.read(_stream(records.content(record)))
                    text = found.metadata["recording"] if found.name == ABOUT else text
    if text is None:
        raise FileError("it is no recording of edge_rjepa; for a bag of ROS there is bag:")
    return parse_json(text.encode())


class _Record(NamedTuple):
    """Where a record of the file lies."""

    opcode: int
    start: int
    bytes: int  # after what begins it


class _Records:
    """The records of a file up to the end of its data, or to where it is cut."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = os.fstat(file.fileno()).st_size
        self.end = 0  # of the last whole one

    def __iter__(self) -> Iterator[_Record]:
        self._file.seek(0)
        if self._file.read(len(MAGIC)) != MAGIC:
            raise FileError("it is no MCAP file")
        self.end = len(MAGIC)
        while True:
            self._file.seek(self.end)
            head = self._file.read(RECORD.size)
            if len(head) < RECORD.size:
                return
            opcode, count = RECORD.unpack(head)
            start = self.end + RECORD.size
            if opcode == 0 or start + count > self.size:  # no record begins with zeros
                return
            self.end = start + count
            yield _Record(opcode, start, count)
            if opcode == Opcode.DATA_END:
                return

    @property
    def ends_with_magic(self) -> bool:
        """As a file does that was closed."""
        self._file.seek(max(0, self.size - len(MAGIC)))
        return self.size > len(MAGIC) and self._file.read() == MAGIC

    def content(self, record: _Record, most: int | None = None) -> bytes:
        """What is in it, or its first bytes."""
        self._file.seek(record.start)
        return self._file.read(record.bytes if most is None else min(most, record.bytes))


def _stream(content: bytes) -> ReadDataStream:
    return ReadDataStream(io.BytesIO(content))


class McapReader:
    """The frames of the file, or those held out, in order, decoded one by one.

    A torn end, as a crash leaves it, is left out. `frames` are there to read; `torn` says whether
    something was left out. Raises SourceError where the file is damaged before the end.
    """

    def __init__(self, path: Path, held_out: bool = False) -> None:
        self._path = path
        self._topics = (HELD, HELD_PICTURE) if held_out else (FRAME, FRAME_PICTURE)
        self._ids: dict[str, int] = {}  # of the two topics
        self._chunks = array("Q")  # start, bytes and frames of each
        self.frames, self.torn = 0, False
        try:
            self._file = open_regular(path, follow_links=False)
        except OSError as error:
            raise SourceError(
                f"cannot read recording {path}: {why(error)}; use another copy of it"
            ) from error
        try:
            self._find_chunks()
        except FileError as error:
            self.close()
            raise SourceError(f"{path}: {error}") from None
        except BaseException:
            self.close()
            raise
        self.rewind()

    def rewind(self) -> None:
        """Go on with the first frame."""
        self.place = 0  # of the next frame
        self._next_chunk = 0
        self._ahead: deque[tuple[Line, bytes]] = deque()  # of the chunk that is read

    def skip(self, count: int) -> tuple[float, float] | None:
        """Pass over `count` frames at most; the head angles of the last of them."""
        head_rad = None
        left = min(count, self.frames - self.place)
        while left:
            whole = self._frames_in(self._next_chunk) if not self._ahead else 0
            if whole and whole < left:  # no need to read it
                self._next_chunk += 1
                self.place, left = self.place + whole, left - whole
                continue
            head_rad = self._take()[0].head_rad
            left -= 1
        return head_rad

    def read(self) -> Recorded | None:
        """The next frame; None after the last. Raises SourceError where it is damaged."""
        if self.place == self.frames:
            return None
        line, picture = self._take()
        image = decode(picture)
        if image is None:
            self.place -= 1
            raise self._damaged()
        gaze_rad = None if line.gaze_rad is None else line.gaze_rad.reshape(-1, 2)
        return Recorded(
            image, line.t_capture_s, line.head_rad, line.sequence, line.fixations, gaze_rad
        )

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> McapReader:
        return self

    def __exit__(self, kind, error, trace) -> None:
        self.close()

    def _take(self) -> tuple[Line, bytes]:
        """What is written of the next frame, and its picture."""
        while not self._ahead:
            if self._next_chunk >= len(self._chunks) // 3:
                raise self._damaged()
            try:
                self._ahead.extend(self._frames_of(self._next_chunk))
            except DAMAGE:
                raise self._damaged() from None
            if len(self._ahead) != self._frames_in(self._next_chunk):
                raise self._damaged()
            self._next_chunk += 1
        self.place += 1
        return self._ahead.popleft()

    def _frames_in(self, number: int) -> int:
        return self._chunks[3 * number + 2] if 3 * number < len(self._chunks) else 0

    def _frames_of(self, number: int) -> list[tuple[Line, bytes]]:
        """The frames in a chunk. Raises one of DAMAGE."""
        start, count, _ = self._chunks[3 * number : 3 * number + 3]
        return self._frames_among(self._records_of(_Record(Opcode.CHUNK, start, count)))

    def _records_of(self, record: _Record) -> list[Any]:
        """What is in a chunk, after its checksum was compared."""
        if record.bytes > MOST_CHUNK_BYTES:
            raise FileError("a chunk is beyond all bounds")
        self._file.seek(record.start)
        chunk = Chunk.read(_stream(self._file.read(record.bytes)))
        if chunk.compression:
            raise SourceError(
                f"{self._path}: its chunks are compressed ({chunk.compression:.20}): write it anew "
                "with `mcap compress --compression none`"
            )
        return breakup_chunk(chunk, validate_crc=True)

    def _frames_among(self, records: list[Any]) -> list[tuple[Line, bytes]]:
        line_id, picture_id = (self._ids.get(topic) for topic in self._topics)
        found, message = [], b""
        for record in records:
            if not isinstance(record, Message):
                continue
            if record.channel_id == picture_id:
                message = record.data
            elif record.channel_id == line_id:
                line = parsed_line(record.data, segment=0)
                picture = message[line.offset : line.offset + line.bytes]
                if zlib.crc32(picture) != line.crc32:
                    raise FileError("a picture is damaged")
                found.append((line, picture))
        return found

    def _find_chunks(self) -> None:
        """Where the chunks are and how many frames each has, without reading most of them."""
        records = _Records(self._file)
        whole = False
        counted = True  # whether the last chunk has its index
        for record in records:
            if record.opcode == Opcode.CHUNK:
                if len(self._chunks) >= 3 * MOST_CHUNKS:
                    raise FileError("it has more chunks than any recording")
                if not counted:
                    self._count_last()
                self._chunks.extend((record.start, record.bytes, 0))
                if not self._ids:
                    self._read_channels(record)
                counted = False
            elif record.opcode == Opcode.MESSAGE_INDEX and self._chunks:
                content = records.content(record, INDEX.size)
                if len(content) == INDEX.size:
                    channel, count = INDEX.unpack(content)
                    counted = True
                    if channel == self._ids.get(self._topics[0]):
                        self._chunks[-1] = count // 16
            whole = record.opcode == Opcode.DATA_END
        if not whole and records.ends_with_magic:  # it was closed, and no cut made it shorter
            raise FileError(f"it is damaged at byte {records.end}: use another copy of it")
        self.torn = not whole and records.size > records.end
        while self._chunks and not self._count_last():  # only the end may be torn
            del self._chunks[-3:]
            self.torn = True
        self.frames = sum(self._chunks[2::3])

    def _read_channels(self, record: _Record) -> None:
        with contextlib.suppress(*DAMAGE):
            for found in self._records_of(record):
                if isinstance(found, Channel) and found.topic in self._topics:
                    self._ids[found.topic] = found.id

    def _count_last(self) -> bool:
        """Read the last chunk to see how many frames it has; whether it is whole."""
        start, count, _ = self._chunks[-3:]
        try:
            records = self._records_of(_Record(Opcode.CHUNK, start, count))
            self._chunks[-1] = len(self._frames_among(records))
        except DAMAGE:
            return False
        return True

    def _damaged(self) -> SourceError:
        return SourceError(
            f"frame {self.place} of {self.frames} is damaged, in {self._path}: use another copy of "
            "the recording"
        )
