"""What a run looked at, kept on disk: written while it learns, read again in the same order.

A recording has one of two forms; docs/recording.md describes both for other programs. One is a file
of MCAP, which Foxglove shows (mcap_recording.py). The other is a folder:

    recording.json        what it is: camera, configuration, head, and at its end how many frames
    frames.jsonl          a line a frame: when, head, gaze, and where its picture lies
    pictures.000000.png   the pictures of 300 frames, whole PNG files one after another; or .mjpeg
    held_out/             frames.jsonl and pictures of what the source itself holds out

A picture is written before its line, and nothing is ever written twice, so that whatever stops the
writer leaves at most one torn end, which the reader leaves out.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import mmap
import os
import re
import secrets
import shutil
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Protocol

import cv2
import numpy as np

from edge_rjepa.errors import RJepaError, SourceError
from edge_rjepa.eye.head import Limits
from edge_rjepa.eye.image import check_image
from edge_rjepa.optics.camera import Camera, as_values, camera_of
from edge_rjepa.sources.decode import decode
from safe_files.errors import FileError, why
from safe_files.plain import rebuilt
from safe_files.reading import open_regular, parse_json, read_json
from safe_files.writing import make_private_folder, private_opener, write_atomic

if TYPE_CHECKING:
    from edge_rjepa.sources.channels import Fixated

FORMAT, VERSION = "edge_rjepa recording", 1
ABOUT, FRAMES, HELD_OUT = "recording.json", "frames.jsonl", "held_out"
MCAP = ".mcap"  # suffix of the form that is a file ..
FRAME_TOPIC = "/edge_rjepa/frame"  # .. and in it the topic with a message a frame
FRAMES_A_SEGMENT = 300  # pictures in one file
MOST_ABOUT_BYTES, MOST_LINE_BYTES, MOST_PICTURE_BYTES = 8 << 20, 1 << 20, 128 << 20
MOST_SEGMENTS, MOST_FIXATIONS, MOST_OFFSET = 1_000_000, 4096, 1 << 53


class RecordingError(RJepaError, OSError):
    """A recording cannot be begun or gone on with."""


class Pictures(NamedTuple):
    """How pictures become bytes."""

    kind: str  # as cv2.imencode names it
    options: list[int]  # .. and its options
    greatest_error: int  # grey levels that a smooth picture may be off by
    suffix: str  # of files with many pictures: FFmpeg plays them

    def encode(self, image: np.ndarray) -> bytes:
        return cv2.imencode(self.kind, image, self.options)[1].tobytes()


# PNG without its search for repeated strings, which camera noise has none of: twice as fast for no
# byte more.
HUFFMAN_ONLY = [cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY]
LOSSLESS = Pictures(".png", HUFFMAN_ONLY, 0, ".png")
MJPG = Pictures(".jpg", [cv2.IMWRITE_JPEG_QUALITY, 95], 16, ".mjpeg")


class Taken(Protocol):
    """A frame of a source, as far as it is recorded."""

    @property
    def image(self) -> np.ndarray:
        """(H, W, 3) uint8 BGR."""

    @property
    def t_capture_s(self) -> float:
        """When it was taken, on the source's clock."""

    @property
    def head_rad(self) -> tuple[float, float]:
        """(pan, tilt)."""

    @property
    def sequence(self) -> int:
        """Its number as taken."""


class Channels(Protocol):
    """Takes what a replay does not need, and Foxglove shows. Nothing here raises."""

    def observe(self, fixated: Fixated) -> None:
        """The frame that is added next, with its fixations."""

    def on_metrics(self, values: Mapping[str, float]) -> None:
        """The newest measures, by names of channels.METRIC_NAMES."""

    def on_event(self, text: str) -> None:
        """Something happened."""


class Recorded(NamedTuple):
    """One frame of a recording."""

    image: np.ndarray  # (H, W, 3) uint8 BGR
    t_capture_s: float
    head_rad: tuple[float, float]  # (pan, tilt)
    sequence: int
    fixations: int  # 0 for a frame that was set aside
    gaze_rad: np.ndarray | None  # (K, 2) float64 (azimuth, elevation); None for one set aside


class About(NamedTuple):
    """What a recording is."""

    id: str  # no two recordings have the same
    pictures: str  # suffix of the files with pictures: .png or .mjpeg
    camera: Camera
    config: dict  # of the run, as dataclasses.asdict makes it
    head_limits_rad: Limits | None  # (lowest, highest) pan, tilt; None if there was no head
    frames: int | None  # None if it was never closed
    digest: str | None  # of what the run had learned at the end, if it said so


class _Plain(NamedTuple):
    """An About without its camera, as recording.json holds it."""

    id: str
    pictures: str
    config: dict[str, object]
    head_limits_rad: tuple[tuple[float, float], tuple[float, float]] | None
    frames: int | None
    digest: str | None


@dataclass(frozen=True)
class Line:
    """What is written of a frame: a line of frames.jsonl."""

    sequence: int
    t_capture_s: float
    head_rad: tuple[float, float]
    fixations: int
    gaze_rad: np.ndarray | None  # (K, 2)
    segment: int
    offset: int
    bytes: int
    crc32: int

    def __post_init__(self) -> None:
        within = 0 <= self.fixations <= MOST_FIXATIONS and 0 <= self.segment < MOST_SEGMENTS
        within &= 0 <= self.offset <= MOST_OFFSET
        if not within or not 0 <= self.bytes <= MOST_PICTURE_BYTES:
            raise FileError("a frame is beyond all bounds")
        gaze_rad = self.gaze_rad
        if gaze_rad is not None and gaze_rad.size and gaze_rad.shape[1:] != (2,):
            raise FileError(f"gaze is {gaze_rad.shape}")


# ------------------------------------------------------------------------------------------------
# Writing


class Writer(Protocol):
    """What one form of a recording writes. Every method raises OSError."""

    @property
    def frames(self) -> int:
        """So far."""

    def add(self, frame: Taken, gaze_rad: np.ndarray | None, fixations: int) -> None:
        """One frame, as in Recorder.add."""

    def note(self, about: About) -> None:
        """What the recording is, as far as it is known now."""

    def close(self) -> None:
        """Close the files."""


class Recorder:
    """Keeps what a run looks at in a new or empty folder, or in a new file NAME.mcap.

    A context manager that closes itself. held_out: frames that the source sets aside itself, kept
    at once so that a replay is judged on the same. lossless: PNG, bit for bit; else JPEG of quality
    95, about a fifth of that. live: whether the source is.
    `channels` is what also takes fixations, measures and events, and None for a folder, which keeps
    what a replay needs and no more.
    Raises RecordingError where the folder or file is in use or cannot be written, or this OpenCV
    does not keep pictures as they are; ConfigError where a package is missing.
    """

    def __init__(
        self,
        folder: Path,
        camera: Camera,
        config: dict,
        head_limits_rad: Limits | None = None,
        held_out: Iterable[Taken] = (),
        lossless: bool = True,
        live: bool = False,
    ):
        pictures = LOSSLESS if lossless else MJPG
        _try_out(pictures)
        self.folder = folder
        self._failed = False
        self._about = About(
            secrets.token_hex(8), pictures.suffix, camera, config, head_limits_rad, None, None
        )
        self._writer: Writer
        self.channels: Channels | None = None
        with self._ending_on_error():
            if folder.suffix == MCAP:
                from edge_rjepa.sources.mcap_recording import McapWriter

                writer = McapWriter(folder, self._about, pictures, held_out, live)
                self._writer, self.channels = writer, writer.channels
            else:
                self._writer = _FolderWriter(folder, self._about, pictures, held_out)

    def add(self, frame: Taken, gaze_rad: np.ndarray | None, fixations: int) -> None:
        """Keep one frame with its gaze (K, 2) and how many fixations it had: None, 0 if set aside.

        Raises InputError for a picture that is not (H, W, 3) uint8, and RecordingError when the
        disk is full or gone: what was added before can be replayed, and nothing more is taken.
        """
        if self._failed:
            raise RecordingError(f"{self.folder}: recording has ended: see the first error")
        check_image(frame.image, "a picture to record")
        with self._ending_on_error():
            self._writer.add(frame, gaze_rad, fixations)

    def close(self, digest: str | None = None) -> None:
        """Note that the recording is whole, and with what digest the run ended."""
        try:
            if not self._failed and self._about.frames is None:
                self._about = self._about._replace(frames=self._writer.frames, digest=digest)
                with self._ending_on_error():
                    self._writer.note(self._about)
        finally:
            self._writer.close()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # What went wrong first is what the reader of the message needs.
        with contextlib.suppress(RecordingError) if error else contextlib.nullcontext():
            self.close()

    @contextlib.contextmanager
    def _ending_on_error(self):
        """Errors of the disk end the recording, in words."""
        try:
            yield
        except RecordingError:
            raise
        except OSError as error:
            self._failed = True
            raise RecordingError(
                f"cannot record to {self.folder}: {why(error)}; what was recorded "
                "before can be replayed; record into a new folder or file"
            ) from error


def _is_free(folder: Path) -> bool:
    """Whether there is nothing in it; a recording that never took a frame is taken away.

    Raises RecordingError where another process records into it.
    """
    if not folder.is_dir():
        return False
    names = {path.name for path in folder.iterdir()}
    is_ours = (folder / HELD_OUT / FRAMES).exists() or names == {FRAMES}
    if not (names <= {ABOUT, HELD_OUT, FRAMES} and is_ours):
        return not names
    frames = folder / FRAMES
    with contextlib.ExitStack() as opened:
        if frames.exists():
            hold(opened.enter_context(open_regular(frames, follow_links=False)), folder)
            if frames.stat().st_size > 0:
                return False
        shutil.rmtree(folder)
    return True


def hold(frames: BinaryIO, recording: Path) -> None:
    """Keep a recording, by the open file of its frames, from other processes: until that is closed.

    One without a frame is no sign that it was given up: the first one may be long in
    coming. Raises RecordingError where another process has it.
    """
    try:
        fcntl.flock(frames, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RecordingError(
            f"another process records into {recording}: stop it first, or record into a new one"
        ) from None
    except OSError:  # a file system without locks
        pass


class _FolderWriter:
    """Writes the form that is a folder."""

    def __init__(
        self, folder: Path, about: About, pictures: Pictures, held_out: Iterable[Taken]
    ) -> None:
        if folder.exists() and not _is_free(folder):
            raise RecordingError(f"{folder} is not an empty folder: record into a new one")
        self._folder = folder
        self._writer = _FrameWriter(folder, pictures)
        self.add, self.close = self._writer.add, self._writer.close
        try:
            with _FrameWriter(folder / HELD_OUT, pictures) as writer:
                for frame in held_out:
                    writer.add(frame, None, 0)
            self.note(about)
        except BaseException:
            self.close()
            raise

    @property
    def frames(self) -> int:
        """So far."""
        return self._writer.frames

    def note(self, about: About) -> None:
        """Write recording.json."""
        write_atomic(self._folder / ABOUT, text_of(about, indent=2).encode())


class _FrameWriter:
    """Appends to frames.jsonl and the files with pictures of one folder."""

    def __init__(self, folder: Path, pictures: Pictures):
        make_private_folder(folder)
        self.frames = 0
        self._folder = folder
        self._pictures = pictures
        # Unbuffered: what was written is the system's, and no longer lost with this process.
        self._lines = open(folder / FRAMES, "xb", buffering=0, opener=private_opener)
        self._segment: BinaryIO | None = None
        try:
            hold(self._lines, folder)
        except BaseException:
            self.close()
            raise

    def add(self, frame: Taken, gaze_rad: np.ndarray | None, fixations: int) -> None:
        number = self.frames // FRAMES_A_SEGMENT
        within = self.frames % FRAMES_A_SEGMENT
        segment = self._segment if self._segment and within else self._begin_segment(number)
        picture = self._pictures.encode(frame.image)
        line = line_of(frame, gaze_rad, fixations, picture)
        line |= {"segment": number, "offset": segment.tell()}
        _write_all(segment, picture)
        _write_all(self._lines, json.dumps(line).encode() + b"\n")
        self.frames += 1

    def close(self) -> None:
        self._lines.close()
        if self._segment is not None:
            self._segment.close()

    def __enter__(self) -> _FrameWriter:
        return self

    def __exit__(self, kind, error, trace) -> None:
        self.close()

    def _begin_segment(self, number: int) -> BinaryIO:
        if self._segment is not None:
            self._segment.close()
        path = _segment_path(self._folder, number, self._pictures.suffix)
        self._segment = open(path, "xb", buffering=0, opener=private_opener)
        return self._segment


def text_of(about: About, indent: int | None = None) -> str:
    """An About as JSON."""
    values = {"format": FORMAT, "version": VERSION} | about._asdict()
    values["camera"] = as_values(about.camera)
    return json.dumps(values, indent=indent)


def line_of(frame: Taken, gaze_rad: np.ndarray | None, fixations: int, picture: bytes) -> dict:
    """What is written of a frame, but for where its picture lies."""
    return {
        "sequence": int(frame.sequence),
        "t_capture_s": float(frame.t_capture_s),
        "head_rad": [float(angle) for angle in frame.head_rad],
        "fixations": int(fixations),
        "gaze_rad": None if gaze_rad is None else np.asarray(gaze_rad, np.float64).tolist(),
        "bytes": len(picture),
        "crc32": zlib.crc32(picture),
    }


def _write_all(file: BinaryIO, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]


def _segment_path(folder: Path, number: int, suffix: str) -> Path:
    return folder / f"pictures.{number:06d}{suffix}"


def _try_out(pictures: Pictures) -> None:
    """Raise RecordingError unless this OpenCV gives pictures back as they were."""
    y, x = np.mgrid[:37, :53]  # odd sides, and every channel different
    image = np.stack([2 * x, 3 * y, x + y], axis=-1).astype(np.uint8)
    try:
        again = decode(pictures.encode(image))
        off = 256 if again is None else np.abs(again.astype(int) - image).max()
    except (cv2.error, ValueError):
        off = 256
    if off > pictures.greatest_error:
        raise RecordingError(
            f"this OpenCV ({cv2.__version__}) cannot keep pictures as {pictures.kind}: install "
            "opencv-python, or choose the other --record-format"
        )


# ------------------------------------------------------------------------------------------------
# Reading


class Reader(Protocol):
    """The frames of a recording, or of what it holds out, in order; `frames` are whole."""

    frames: int
    torn: bool  # whether something at the end was left out
    place: int  # of the next frame

    def read(self) -> Recorded | None:
        """The next frame; None after the last. Raises SourceError where it is damaged."""

    def skip(self, count: int) -> tuple[float, float] | None:
        """Pass over `count` frames at most; the head angles of the last of them."""

    def rewind(self) -> None:
        """Go on with the first frame."""

    def close(self) -> None:
        """Close the files."""

    def __enter__(self) -> Reader: ...

    def __exit__(self, kind, error, trace) -> None: ...


def open_frames(path: Path, about: About, held_out: bool = False) -> Reader:
    """The frames of a recording, or those that its source held out. Raises SourceError."""
    if path.is_file():
        from edge_rjepa.sources.mcap_recording import McapReader

        return McapReader(path, held_out)
    return FrameReader(path / HELD_OUT if held_out else path, about.pictures)


def about(path: Path) -> About:
    """What the recording in a folder or file is.

    Raises SourceError where there is none, or one of a newer version.
    """
    source = path / ABOUT
    try:
        if path.suffix == MCAP and path.is_file():
            from edge_rjepa.sources.mcap_recording import about_in

            source, values = path, about_in(path)
        else:
            values = read_json(source, MOST_ABOUT_BYTES, follow_links=False)
        return _about_of(rebuilt(dict[str, object], values, "a recording"))
    except FileNotFoundError:
        raise SourceError(f"{path} is not a recording: name what --record wrote") from None
    except NotADirectoryError:
        raise SourceError(
            f"{path} is a file: name a folder or an {MCAP} that --record wrote"
        ) from None
    except OSError as error:
        raise SourceError(f"cannot read recording {source}: {why(error)}") from error
    except NewerVersionError as error:
        raise SourceError(f"{source} {error}") from None
    except ValueError as error:  # FileError, or what a camera says of its values
        raise SourceError(
            f"{source} does not describe a recording, or is damaged ({error}): use another copy "
            "of it"
        ) from error


class NewerVersionError(FileError):
    """Written by a later version of this program."""


def _about_of(values: dict) -> About:
    """What recording.json says. Raises ValueError."""
    if values.pop("format", None) != FORMAT:
        raise FileError("of another format")
    version = rebuilt(int, values.pop("version", None), "version")
    if version > VERSION:
        raise NewerVersionError(
            f"has version {version}, this edge_rjepa reads up to {VERSION}: upgrade it"
        )
    camera = camera_of(values.pop("camera", None))
    about = About(camera=camera, **rebuilt(_Plain, values, "recording")._asdict())
    if about.pictures not in (LOSSLESS.suffix, MJPG.suffix):  # it becomes part of a path
        raise FileError(f"pictures are {about.pictures!r:.40}")
    if about.frames is not None and about.frames < 0:
        raise FileError(f"{about.frames} frames")
    return about


class FrameReader:
    """The frames of one folder of a recording, in order, decoded one by one.

    A torn end, as a crash leaves it, is left out. `frames` are there to read; `torn` says whether
    something was left out. Raises SourceError where a file is missing or damaged before the end.
    """

    def __init__(self, folder: Path, suffix: str):
        self._folder = folder
        self._suffix = suffix
        self._segment: BinaryIO | None = None
        try:
            self._lines = open_regular(folder / FRAMES, follow_links=False)
        except OSError as error:
            raise SourceError(
                f"cannot read recording {folder / FRAMES}: {why(error)}; use another copy of it"
            ) from error
        try:
            self.frames, self.torn = self._whole_frames()
        except BaseException:
            self.close()
            raise
        self.rewind()

    def rewind(self) -> None:
        """Go on with the first frame."""
        self._lines.seek(0)
        self.place = 0  # of the next frame
        self._end = 0  # of the picture before, in its file
        self._close_segment()

    def skip(self, count: int) -> tuple[float, float] | None:
        """Pass over `count` frames at most; the head angles of the last of them."""
        text = None
        for _ in range(min(count, self.frames - self.place)):
            text = self._lines.readline(MOST_LINE_BYTES + 1)
            if len(text) > MOST_LINE_BYTES:
                raise self._damaged()
            self.place += 1
        self._close_segment()
        if text is None:
            return None
        line = self._parsed(text)
        self._end = line.offset + line.bytes
        return line.head_rad

    def read(self) -> Recorded | None:
        """The next frame; None after the last. Raises SourceError where it is damaged."""
        if self.place == self.frames:
            return None
        line = self._parsed(self._lines.readline(MOST_LINE_BYTES + 1))
        image = decode(self._picture(line))
        if image is None:
            raise self._damaged()
        self.place += 1
        gaze_rad = None if line.gaze_rad is None else line.gaze_rad.reshape(-1, 2)
        return Recorded(
            image, line.t_capture_s, line.head_rad, line.sequence, line.fixations, gaze_rad
        )

    def close(self) -> None:
        """Close the files."""
        self._lines.close()
        self._close_segment()

    def __enter__(self) -> FrameReader:
        return self

    def __exit__(self, kind, error, trace) -> None:
        self.close()

    def _whole_frames(self) -> tuple[int, bool]:
        """How many frames there are up to the last that is whole, and if anything comes after."""
        size = os.fstat(self._lines.fileno()).st_size
        if size == 0:
            return 0, self._beyond(0, 0)
        with mmap.mmap(self._lines.fileno(), 0, access=mmap.ACCESS_READ) as lines:
            end = lines.rfind(b"\n") + 1
            last = None
            while end > 0 and last is None:
                start = lines.rfind(b"\n", 0, end - 1) + 1
                line = _parsed(lines[start : min(end, start + MOST_LINE_BYTES + 1)])
                if line is not None and self._is_whole(line):
                    last = line
                else:
                    end = start
            frames = sum(1 for _ in re.compile(b"\n").finditer(lines, 0, end))
        if last is None:
            return 0, True
        for number in range(last.segment):
            if not _segment_path(self._folder, number, self._suffix).is_file():
                raise self._missing(number)
        return frames, end < size or self._beyond(last.segment, last.offset + last.bytes)

    def _is_whole(self, line: Line) -> bool:
        path = _segment_path(self._folder, line.segment, self._suffix)
        try:
            with open_regular(path, follow_links=False) as segment:
                segment.seek(line.offset)
                return zlib.crc32(segment.read(line.bytes)) == line.crc32
        except FileNotFoundError:  # no crash does that: files are made before lines are written
            raise self._missing(line.segment) from None
        except OSError:
            return False

    def _beyond(self, number: int, end: int) -> bool:
        """Whether there is more in the files with pictures than the lines tell of."""
        path = _segment_path(self._folder, number, self._suffix)
        after = _segment_path(self._folder, number + 1, self._suffix)
        return after.exists() or (path.exists() and path.stat().st_size > end)

    def _picture(self, line: Line) -> bytes:
        """The picture of this line, checked."""
        number = self.place // FRAMES_A_SEGMENT
        if self.place % FRAMES_A_SEGMENT == 0:
            self._close_segment()
            self._end = 0
        if self._segment is None:
            try:
                path = _segment_path(self._folder, number, self._suffix)
                self._segment = open_regular(path, follow_links=False)
            except OSError:
                raise self._missing(number) from None
            self._segment.seek(self._end)
        # Read where the last one ended and not at its offset: a lost line shows in the checksum.
        picture = self._segment.read(line.bytes)
        if zlib.crc32(picture) != line.crc32:
            raise self._damaged()
        self._end += len(picture)
        return picture

    def _parsed(self, text: bytes) -> Line:
        line = _parsed(text)
        if line is None:
            raise self._damaged()
        return line

    def _damaged(self) -> SourceError:
        segment = _segment_path(self._folder, self.place // FRAMES_A_SEGMENT, self._suffix)
        return SourceError(
            f"frame {self.place} of {self.frames} is damaged, in {self._folder / FRAMES} or "
            f"{segment.name}: use another copy of the recording"
        )

    def _missing(self, number: int) -> SourceError:
        path = _segment_path(self._folder, number, self._suffix)
        return SourceError(f"{path} is missing: put it back, or use another copy of the recording")

    def _close_segment(self) -> None:
        if self._segment is not None:
            self._segment.close()
            self._segment = None


def _parsed(text: bytes) -> Line | None:
    """A line of frames.jsonl, or None if it is damaged."""
    try:
        return parsed_line(text)
    except FileError:
        return None


def parsed_line(text: bytes, **more: int) -> Line:
    """What was written of a frame; more: values beside the text's. Raises FileError."""
    if len(text) > MOST_LINE_BYTES:
        raise FileError("a frame is beyond all bounds")
    values = rebuilt(dict[str, object], parse_json(text), "a frame")
    return rebuilt(Line, values | more, "a frame")
