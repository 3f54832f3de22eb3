"""A LeRobot dataset of version 3 as it lies in its folder: its cameras, episodes and frames.

    meta/info.json                        features, frames a second, where data and videos lie
    meta/episodes/chunk-*/file-*.parquet  a row an episode: its rows of data, its parts of videos
    data/chunk-*/file-*.parquet           a row a frame: time, state, action, pictures as files
    videos/KEY/chunk-*/file-*.mp4         pictures of many episodes, one after the other

Tables are read by a few rows at a time and videos forward, so memory does not grow with either.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edge_rjepa.errors import ConfigError, SourceError
from edge_rjepa.sources.decode import decode
from safe_files.errors import FileError, why
from safe_files.plain import rebuilt
from safe_files.reading import open_regular, read_json

try:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from edge_rjepa.sources.timed_video import TimedVideo
except ModuleNotFoundError as error:
    if error.name not in ("pyarrow", "av"):
        raise
    raise ConfigError(
        'LeRobot datasets need pyarrow and av: pip install "edge-rjepa[lerobot]"'
    ) from error

INFO = "meta/info.json"
EPISODES = "meta/episodes"
MOST_INFO_BYTES = 16 << 20
MOST_EPISODES = 1_000_000
MOST_ROWS = 2**40
MOST_RATE = 1000.0  # frames a second
MOST_S = 1e6  # of an episode, or a video
MOST_LIST = 1 << 20  # of values of one kind, in the footer of a table
READ_BYTES = 1 << 16  # of a column at a time
ROWS_AT_A_TIME, PICTURES_AT_A_TIME = 1024, 8
NEAR = 0.49  # of the time between two frames: what is nearer is that frame's picture
FIELD = re.compile(r"\{(\w+)(?::0?(\d)d)?\}")  # as {chunk_index:03d}

VIDEO, IMAGE = "video", "image"
TIME, EPISODE = "timestamp", "episode_index"


class Feature(NamedTuple):
    """What info.json says of a feature: a column of the table, or a camera's videos."""

    dtype: str
    shape: tuple[int, ...]
    names: tuple[str, ...]  # of its values, none where it does not say


class Episode(NamedTuple):
    """Frames that were recorded in one go, as one camera saw them. Paths are in the dataset."""

    number: int
    frames: int
    data: str  # the table with its frames ..
    first_row: int  # .. from this row of it on
    video: str | None  # None where pictures are in the table
    start_s: float  # in that video


class Values(NamedTuple):
    """Some of a feature's values."""

    feature: str
    places: tuple[int, ...]


class Row(NamedTuple):
    """A frame of an episode."""

    t_s: float  # since the episode began; may be any number
    picture: np.ndarray | None  # (H, W, 3) uint8 BGR; None where it is missing or damaged
    values: tuple[float, ...]  # those asked for


class Dataset:
    """The dataset in a folder. Raises SourceError for what is none, and for another version."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._real = os.path.realpath(folder)
        info = self._info()
        try:
            self.frames_per_s = rebuilt(float, info.get("fps"), "fps")
            if not 0.0 < self.frames_per_s <= MOST_RATE:
                raise FileError(f"fps is {self.frames_per_s:.6g}")
            self._data_path = rebuilt(str, info.get("data_path"), "data_path")
            self._video_path = rebuilt(str | None, info.get("video_path"), "video_path")
            features = rebuilt(dict[str, object], info.get("features"), "features")
            self.features = {name: _feature(name, each) for name, each in features.items()}
        except FileError as error:
            raise self._damaged(error) from None

    @property
    def cameras(self) -> list[str]:
        """The features that are pictures."""
        kinds = VIDEO, IMAGE
        # A key is a part of paths.
        return [n for n, each in self.features.items() if each.dtype in kinds and "/" not in n]

    def camera(self, name: str | None) -> str:
        """The camera of this name; the only one for None. Raises SourceError that names all."""
        cameras = self.cameras
        names = ", ".join(f"{each!r:.80}" for each in cameras[:20]) or "none"
        if name is None and len(cameras) == 1:
            return cameras[0]
        if name is None:
            raise SourceError(
                f"{self.folder} has {len(cameras)} cameras: name one behind a #: {names}"
            )
        # As people call it: observation.images.front is "front".
        called = [each for each in cameras if name in (each, each.rpartition(".")[2])]
        if len(called) != 1:
            raise SourceError(f"{self.folder} has no camera {name!r:.80}: name one of {names}")
        return called[0]

    def values(self, feature: str, names: Sequence[str]) -> Values:
        """Those values of a feature that go by these names. Raises SourceError."""
        found = self.features.get(feature)
        known = found.names if found else ()
        missing = [name for name in names if name not in known]
        if missing:
            there = ", ".join(f"{each!r:.40}" for each in known[:40]) or "no value with a name"
            raise SourceError(
                f"{self.folder}: {feature!r:.80} has no {missing[0]!r:.80}: it has {there}"
            )
        return Values(feature, tuple(known.index(name) for name in names))

    def episodes(self, camera: str) -> tuple[list[Episode], int]:
        """All episodes in their order, and how many rows of meta/episodes tell of none.

        Raises SourceError when the tables cannot be read.
        """
        found: list[Episode] = []
        damaged = 0
        first_rows: dict[str, int] = {}  # of each table of data, among all frames
        columns = self._episode_columns(camera)
        for path in self.tables(EPISODES):
            with Table(path) as table:
                for batch in table.batches(columns):
                    told = np.column_stack([numbers(batch, name, path) for name in columns])
                    for row in told:
                        episode = self._episode(row, camera, first_rows)
                        if episode is None:
                            damaged += 1
                        else:
                            found.append(episode)
                    if len(found) + damaged > MOST_EPISODES:
                        raise SourceError(f"{path}: more than {MOST_EPISODES:,} episodes")
        return found, damaged

    def tables(self, folder: str) -> list[Path]:
        """The tables below a folder of the dataset, in their order. Raises SourceError."""
        paths = sorted((self.folder / folder).glob("*/*.parquet"))
        if not paths:
            raise SourceError(
                f"{self.folder / folder} holds no tables: finalize() the dataset, or use a whole "
                "copy of it"
            )
        return [self.path(str(path.relative_to(self.folder))) for path in paths]

    def path(self, relative: str) -> Path:
        """Where a file of the dataset is. Raises SourceError for one outside of its folder."""
        path = self.folder / relative
        try:
            real = os.path.realpath(path)
        except ValueError:
            raise self._damaged(f"no file is named {relative!r:.80}") from None
        if os.path.commonpath([real, self._real]) != self._real:
            raise SourceError(
                f"{str(path)!r:.200} leads out of the dataset: copy it with `cp -rL` if it is yours"
            )
        return path

    def _info(self) -> dict:
        path = self.path(INFO)
        try:
            info = rebuilt(dict[str, object], read_json(path, MOST_INFO_BYTES, finite=False), INFO)
        except FileNotFoundError:
            raise SourceError(f"{self.folder} is no LeRobot dataset: it has no {INFO}") from None
        except OSError as error:
            raise SourceError(f"cannot read {path}: {why(error)}") from error
        except FileError as error:
            raise self._damaged(error) from None
        version = str(info.get("codebase_version"))
        if not re.match(r"v3\.\d+$", version):
            raise SourceError(
                f"{self.folder} is a LeRobot dataset of version {version!r:.20}, and this reads "
                "v3.0: convert it with LeRobot's convert_dataset_v21_to_v30"
            )
        return info

    def _damaged(self, error: object) -> SourceError:
        return SourceError(f"{self.folder / INFO} is damaged ({error}): use another copy of it")

    def _episode_columns(self, camera: str) -> list[str]:
        columns = ["length", EPISODE, "dataset_from_index", "data/chunk_index", "data/file_index"]
        if self.features[camera].dtype == VIDEO:
            parts = "chunk_index", "file_index", "from_timestamp"
            columns += [f"videos/{camera}/{part}" for part in parts]
        return columns

    def _episode(self, row: np.ndarray, camera: str, first_rows: dict[str, int]) -> Episode | None:
        """What a row of meta/episodes tells; None if that cannot be."""
        (frames, *whole), start_s = (row[:-1], row[-1]) if len(row) > 5 else (row, 0.0)
        if not all(_is_whole(n) for n in whole):
            return None
        number, first, *places = map(int, whole)
        data = self._filled(self._data_path, "data_path", places[:2])
        first_row = first - first_rows.setdefault(data, first)
        if not _is_whole(frames) or frames == 0 or first_row < 0 or not 0.0 <= start_s < MOST_S:
            return None
        video = None
        if len(places) > 2:
            video = self._filled(self._video_path or "", "video_path", places[2:], camera)
        return Episode(number, int(frames), data, first_row, video, float(start_s))

    def _filled(self, template: str, name: str, places: list[int], camera: str = "") -> str:
        """A path of info.json with its fields filled in."""
        values = {"chunk_index": places[0], "file_index": places[1], "video_key": camera}

        def value(field: re.Match) -> str:
            if field[1] not in values:
                raise self._damaged(f"{name} has a field {field[1]!r:.40}")
            return str(values[field[1]]).zfill(int(field[2] or 0))

        path = FIELD.sub(value, template)
        if not template or "{" in FIELD.sub("", template):
            raise self._damaged(f"{name} is {template!r:.80}")
        return path


class EpisodeReader:
    """The frames of an episode from its frame `start` on, one by one.

    Raises SourceError when its files cannot be read, and for rows of another episode.
    """

    def __init__(
        self,
        dataset: Dataset,
        camera: str,
        episode: Episode,
        start: int = 0,
        values: Values | None = None,
    ) -> None:
        self._dataset, self._camera, self._episode = dataset, camera, episode
        self._values = values
        self._path = dataset.path(episode.data)
        self._video: TimedVideo | None = None
        self._table = Table(self._path)
        try:
            self._rows = self._read_rows(start)
            if episode.video is not None:
                tolerance_s = NEAR / dataset.frames_per_s
                path = dataset.path(episode.video)
                self._video = TimedVideo(path, episode.start_s, tolerance_s)
        except BaseException:
            self.close()
            raise

    def read(self) -> Row | None:
        """The next frame; None after the last."""
        row = next(self._rows, None)
        if row is None:
            return None
        t_s, content, values = row
        if self._video is None:
            picture = decode(content) if content else None
        else:
            in_time = 0.0 <= t_s < MOST_S
            picture = self._video.picture_at(self._episode.start_s + t_s) if in_time else None
        return Row(t_s, picture, values)

    def close(self) -> None:
        """Close the files."""
        self._table.close()
        if self._video is not None:
            self._video.close()

    def __enter__(self) -> EpisodeReader:
        return self

    def __exit__(self, kind, error, trace) -> None:
        self.close()

    def _read_rows(self, start: int) -> Iterator[tuple[float, bytes | None, tuple[float, ...]]]:
        """(time, picture as a file, values) of each row from `start` on."""
        episode, in_table = self._episode, self._episode.video is None
        columns = [TIME, EPISODE]
        columns += [self._camera] if in_table else []
        columns += [self._values.feature] if self._values else []
        first, count = episode.first_row + start, episode.frames - start
        if episode.first_row + episode.frames > self._table.rows:
            raise SourceError(
                f"{self._path} ends before episode {episode.number} does: use another copy of it"
            )
        at_a_time = PICTURES_AT_A_TIME if in_table else ROWS_AT_A_TIME
        for batch in self._table.batches(columns, first, count, at_a_time):
            if (numbers(batch, EPISODE, self._path) != episode.number).any():
                raise SourceError(
                    f"{self._path}: episode {episode.number} is not where meta/episodes says"
                )
            times_s = numbers(batch, TIME, self._path)
            files = contents(batch, self._camera, self._path) if in_table else None
            values = np.empty((len(times_s), 0))
            if self._values:
                name, places = self._values
                values = np.column_stack([numbers(batch, name, self._path, p) for p in places])
            for i, t_s in enumerate(times_s.tolist()):
                content = files[i].as_py() if files is not None else None
                yield t_s, content, tuple(values[i].tolist())


class Table:
    """A Parquet file. Raises SourceError when it cannot be read, or is damaged."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with _refused(path):
            self._file = open_regular(path)
            try:
                self._parquet = pq.ParquetFile(
                    self._file,
                    buffer_size=READ_BYTES,
                    pre_buffer=False,
                    thrift_string_size_limit=MOST_INFO_BYTES,
                    thrift_container_size_limit=MOST_LIST,
                )
                about = self._parquet.metadata
                groups = range(about.num_row_groups)
                self._groups = [about.row_group(group).num_rows for group in groups]
                self._bytes = sum(about.row_group(group).total_byte_size for group in groups)
                self.schema: pa.Schema = self._parquet.schema_arrow
            except BaseException:
                self._file.close()
                raise
        if any(not 0 <= rows < MOST_ROWS for rows in self._groups):
            self.close()
            raise SourceError(f"{path} is damaged: use another copy of it")

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return sum(self._groups)

    @property
    def bytes_a_row(self) -> int:
        """About how many, as it says, and one at least."""
        return max(1, self._bytes // max(1, self.rows))

    def batches(
        self,
        columns: list[str] | None = None,
        first: int = 0,
        count: int | None = None,
        at_a_time: int = ROWS_AT_A_TIME,
    ) -> Iterator[pa.RecordBatch]:
        """Its rows from `first` on, `count` of them or all, `at_a_time` at most; some columns."""
        missing = set(columns or ()) - set(self.schema.names)
        if missing:
            raise SourceError(f"{self._path} has no column {min(missing)!r:.80}: use another copy")
        left = self.rows - first if count is None else count
        for group, rows in enumerate(self._groups):
            if first >= rows:
                first -= rows
                continue
            for batch in self._group_batches(group, columns, at_a_time):
                if left > 0 and first < batch.num_rows:
                    part = batch.slice(first, left)
                    left -= part.num_rows
                    yield part
                first = max(0, first - batch.num_rows)
                if left <= 0:
                    return

    def _group_batches(
        self, group: int, columns: list[str] | None, at_a_time: int
    ) -> Iterator[pa.RecordBatch]:
        with _refused(self._path):
            batches = self._parquet.iter_batches(at_a_time, [group], columns, use_threads=False)
        while True:
            with _refused(self._path):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Table:
        return self

    def __exit__(self, kind, error, trace) -> None:
        self.close()


def numbers(batch: pa.RecordBatch, name: str, path: Path, place: int | None = None) -> np.ndarray:
    """A column of numbers (rows,) float64, NaN for none; of lists, the value at a place of each.

    Raises SourceError for any other column.
    """
    with _refused(path):
        column = batch.column(name)
        if place is not None and not pa.types.is_primitive(column.type):
            column = pc.list_element(column, place)
        return column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)


def contents(batch: pa.RecordBatch, name: str, path: Path) -> pa.Array:
    """A column of pictures, as the files that they are, none for those that are elsewhere."""
    with _refused(path):
        return pc.struct_field(batch.column(name), "bytes").cast(pa.binary())


@contextmanager
def _refused(path: Path) -> Iterator[None]:
    """What pyarrow finds wrong with the file at `path`, as SourceError."""
    try:
        yield
    except (pa.ArrowException, KeyError, ValueError, OverflowError, MemoryError) as error:
        reason = " ".join(str(error).split())[:150]
        raise SourceError(f"{path} is damaged ({reason}): use another copy of it") from error
    except OSError as error:
        raise SourceError(f"cannot read {path}: {why(error)[:300]}") from error


def _is_whole(number: float) -> bool:
    return 0.0 <= number < MOST_ROWS and number == int(number)


def _feature(name: str, value: object) -> Feature:
    said = rebuilt(dict[str, object], value, f"features.{name:.40}")
    dtype = rebuilt(str, said.get("dtype"), f"features.{name:.40}.dtype")
    shape = rebuilt(tuple[int, ...], said.get("shape"), f"features.{name:.40}.shape")
    return Feature(dtype, shape, tuple(_names(said.get("names"))))


def _names(said: object) -> list[str]:
    """Names of a feature's values: a list of them, or an object of lists or of places."""
    if isinstance(said, dict):
        return [name for each, part in said.items() for name in _names(part) or [each]]
    return [each for each in said if isinstance(each, str)] if isinstance(said, list) else []
