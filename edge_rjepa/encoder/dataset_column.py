"""A LeRobot dataset once more, with what an encoder makes of each frame as a column of its own.

    data/**                 the same tables, row by row, and the column: a list of float32 a frame
    meta/info.json          the column as a feature
    meta/episodes/**, meta/stats.json    its statistics, of each episode and of all
    videos/**               the same files under a second name (hard links), or copies
    everything else         copied

LeRobot overwrites some files in place, but no video; so only videos are shared with the original.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from edge_rjepa.errors import ConfigError, SourceError
from edge_rjepa.sources.lerobot_dataset import (
    EPISODES,
    INFO,
    MOST_INFO_BYTES,
    Dataset,
    Episode,
    EpisodeReader,
    Table,
    numbers,
)
from safe_files.errors import FileError, why
from safe_files.plain import rebuilt
from safe_files.reading import parse_json, read_json
from safe_files.writing import write_atomic

DATA, VIDEOS, STATS = "data", "videos", "meta/stats.json"
HUGGINGFACE = b"huggingface"  # what their library says of a table, in its footer
BATCH_BYTES, MOST_BATCH_ROWS = 64 << 20, 1 << 14  # of a table, copied at a time
EPISODES_AT_A_TIME = 64
QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
MEASURES = ("min", "max", "mean", "std", *QUANTILES)  # as LeRobot calls them; and "count"

Describe = Callable[[np.ndarray], np.ndarray]  # (H, W, 3) uint8 BGR -> (n,) float32


class Written(NamedTuple):
    """What the new dataset has."""

    episodes: int
    frames: int
    values: int  # of the column, a frame


def write_with_column(
    dataset: Dataset,
    camera: str,
    name: str,
    describe: Describe,
    folder: Path,
    on_frame: Callable[[], object] = lambda: None,
) -> Written:
    """Write `dataset` to the new folder, with `describe` of each picture of `camera` as `name`.

    on_frame: is called after each. The folder is there whole or not at all; the dataset stays as it
    is. Raises ConfigError for a name or a folder that cannot be, SourceError for a dataset that
    cannot be read whole: a row without a value would be one that no policy can be trained on.
    """
    _check_names(dataset, name, folder)
    episodes, damaged = dataset.episodes(camera)
    if damaged or not episodes:
        raise SourceError(
            f"{dataset.folder}: {damaged} of {damaged + len(episodes)} episodes have damaged rows "
            f"in {EPISODES}: delete them with LeRobot's own tools, or use another copy"
        )
    building = folder.parent / f".{folder.name}.{secrets.token_hex(8)}.tmp"
    folder.parent.mkdir(parents=True, exist_ok=True)
    building.mkdir()
    try:
        column = _Column(dataset, camera, name, describe, len(episodes), on_frame, building)
        _copy_others(dataset, building)
        _write_data(column, episodes, building)
        _write_episodes(column, building)
        _write_info(column, building)
        os.sync()  # all of it is on the disk before it has its name
        os.rename(building, folder)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return Written(len(episodes), column.total.count, column.width)


class Statistics:
    """What LeRobot keeps of a feature (n,): of an episode's frames, or of all episodes together."""

    def __init__(self, count: int, measures: np.ndarray) -> None:
        self.count = count
        self.measures = measures  # (9, n) float64, in the order of MEASURES

    @classmethod
    def of(cls, values: np.ndarray) -> Statistics:
        """Those of the frames (F, n) of an episode."""
        values = np.asarray(values, np.float64)
        moments = [values.min(0), values.max(0), values.mean(0), values.std(0)]
        return cls(
            len(values), np.vstack([*moments, np.quantile(values, [*QUANTILES.values()], 0)])
        )

    def with_those_of(self, other: Statistics) -> Statistics:
        """Of both together; the quantiles are the weighted means of theirs, as LeRobot has them."""
        count = self.count + other.count
        share = other.count / count
        low, high, mean, std = range(4)
        both = (1.0 - share) * self.measures + share * other.measures
        both[low] = np.minimum(self.measures[low], other.measures[low])
        both[high] = np.maximum(self.measures[high], other.measures[high])
        within = (1.0 - share) * self.measures[std] ** 2 + share * other.measures[std] ** 2
        between = share * (1.0 - share) * (self.measures[mean] - other.measures[mean]) ** 2
        both[std] = np.sqrt(within + between)
        return Statistics(count, both)

    def as_lists(self) -> dict[str, list]:
        """As meta/stats.json has them."""
        named = dict(zip(MEASURES, self.measures.tolist(), strict=True))
        return named | {"count": [self.count]}


class _Column:
    """The values of all frames, made as they are asked for; statistics are kept of each episode."""

    def __init__(
        self,
        dataset: Dataset,
        camera: str,
        name: str,
        describe: Describe,
        episodes: int,
        on_frame: Callable[[], object],
        folder: Path,
    ) -> None:
        self.dataset, self.name = dataset, name
        self._camera, self._describe, self._on_frame = camera, describe, on_frame
        self.width = len(describe(np.zeros((64, 64, 3), np.uint8)))
        # On the disk, since there may be many episodes.
        shape = episodes, len(MEASURES), self.width
        with tempfile.TemporaryFile(dir=folder) as file:
            self._measures = np.memmap(file, np.float64, "w+", shape=shape)
        self._kept: dict[int, tuple[int, int]] = {}  # by number: its place there, its frames
        self._total: Statistics | None = None

    @property
    def total(self) -> Statistics:
        """Of all episodes that were made."""
        assert self._total is not None
        return self._total

    def of_episode(self, number: int) -> Statistics:
        """Of the episode of this number."""
        place, frames = self._kept[number]
        return Statistics(frames, self._measures[place])

    def values(self, episodes: list[Episode]) -> Iterator[np.ndarray]:
        """The values (n,) of each frame of these episodes."""
        for episode in episodes:
            rows: list[np.ndarray] = []
            with EpisodeReader(self.dataset, self._camera, episode) as reader:
                while (row := reader.read()) is not None:
                    if row.picture is None:
                        raise SourceError(
                            f"{self.dataset.folder}: frame {len(rows)} of episode {episode.number} "
                            "has no picture: delete that episode with LeRobot's own tools, or use "
                            "another copy"
                        )
                    rows.append(np.asarray(self._describe(row.picture), np.float32))
                    yield rows[-1]
                    self._on_frame()
            self._keep(episode, Statistics.of(np.stack(rows)))

    def _keep(self, episode: Episode, found: Statistics) -> None:
        self._measures[len(self._kept)] = found.measures
        self._kept[episode.number] = len(self._kept), found.count
        self._total = found if self._total is None else self._total.with_those_of(found)


def _write_data(column: _Column, episodes: list[Episode], folder: Path) -> None:
    """The tables of data, each with the column."""
    dataset = column.dataset
    by_table: dict[str, list[Episode]] = {}
    for episode in sorted(episodes, key=lambda each: each.first_row):
        by_table.setdefault(os.path.normpath(episode.data), []).append(episode)
    for path in dataset.tables(DATA):
        relative = str(path.relative_to(dataset.folder))
        own = by_table.pop(relative, [])
        with Table(path) as table:
            starts = np.cumsum([0, *(episode.frames for episode in own)]).tolist()
            if [*(episode.first_row for episode in own), table.rows] != starts:
                raise SourceError(f"{path} has other rows than {EPISODES} says: use another copy")
            kind = pa.list_(pa.float32(), column.width)
            schema = table.schema.append(pa.field(column.name, kind))
            schema = schema.with_metadata(_told(table.schema.metadata, column))
            values = column.values(own)
            with _writer(folder / relative, schema) as writer:
                at_a_time = max(1, min(MOST_BATCH_ROWS, BATCH_BYTES // table.bytes_a_row))
                for batch in table.batches(at_a_time=at_a_time):
                    rows = list(islice(values, batch.num_rows))
                    if len(rows) < batch.num_rows:
                        raise SourceError(f"{path} is damaged: use another copy of it")
                    added = pa.FixedSizeListArray.from_arrays(np.concatenate(rows), column.width)
                    arrays = [*batch.columns, added]
                    writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))
            next(values, None)  # the last episode's end: its statistics
    if by_table:
        raise SourceError(f"{dataset.folder} lacks {min(by_table)!r:.200}: use another copy")


def _write_episodes(column: _Column, folder: Path) -> None:
    """The tables of episodes, each with the column's statistics."""
    names = [f"stats/{column.name}/{measure}" for measure in (*MEASURES, "count")]
    kinds = [pa.list_(pa.float64())] * len(MEASURES) + [pa.list_(pa.int64())]
    dataset = column.dataset
    for path in dataset.tables(EPISODES):
        with Table(path) as table:
            fields = [pa.field(*each) for each in zip(names, kinds, strict=True)]
            schema = pa.schema([*table.schema, *fields])  # what was said of it no longer fits
            with _writer(folder / path.relative_to(dataset.folder), schema) as writer:
                for batch in table.batches(at_a_time=EPISODES_AT_A_TIME):
                    told = numbers(batch, "episode_index", path).astype(int).tolist()
                    found = [column.of_episode(number).as_lists() for number in told]
                    arrays = [
                        pa.array([each[measure] for each in found], kind)
                        for measure, kind in zip((*MEASURES, "count"), kinds, strict=True)
                    ]
                    columns = [*batch.columns, *arrays]
                    writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))


def _write_info(column: _Column, folder: Path) -> None:
    """info.json with the column as a feature, and stats.json with what all frames have."""
    dataset = column.dataset
    info = _json(dataset, INFO)
    features = rebuilt(dict[str, object], info["features"], "features")
    told = {"dtype": "float32", "shape": [column.width], "names": None}
    _write_json(folder / INFO, info | {"features": features | {column.name: told}})
    stats = _json(dataset, STATS) if (dataset.folder / STATS).exists() else {}
    _write_json(folder / STATS, stats | {column.name: column.total.as_lists()})


def _copy_others(dataset: Dataset, folder: Path) -> None:
    """Everything that is not written anew; hidden files, which are of caches, are left out."""
    anew = {str(path.relative_to(dataset.folder)) for path in dataset.tables(DATA)}
    anew |= {str(path.relative_to(dataset.folder)) for path in dataset.tables(EPISODES)}
    anew |= {INFO, STATS}
    for place, folders, files in os.walk(dataset.folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            relative = os.path.relpath(os.path.join(place, name), dataset.folder)
            if name.startswith(".") or relative in anew:
                continue
            source, copy = dataset.path(relative), folder / relative
            if source.is_file():  # and no pipe
                copy.parent.mkdir(parents=True, exist_ok=True)
                _copy(source, copy, linked=Path(relative).parts[0] == VIDEOS)


def _copy(source: Path, copy: Path, linked: bool) -> None:
    try:
        if linked:
            os.link(os.path.realpath(source), copy)
            return
    except OSError:  # another disk, or one that has no links
        pass
    shutil.copyfile(source, copy)


def _writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    path.parent.mkdir(parents=True, exist_ok=True)
    return pq.ParquetWriter(path, schema, compression="snappy")


def _told(metadata: dict[bytes, bytes] | None, column: _Column) -> dict[bytes, bytes]:
    """What a table says of itself, with the column, so that the datasets library knows its kind."""
    told = dict(metadata or {})
    try:
        values = rebuilt(dict[str, object], parse_json(told[HUGGINGFACE]), "huggingface")
        info = rebuilt(dict[str, object], values["info"], "info")
        features = rebuilt(dict[str, object], info["features"], "features")
    except (FileError, KeyError):
        told.pop(HUGGINGFACE, None)  # it goes by the table's own types then
        return told
    single = {"dtype": "float32", "_type": "Value"}
    # "List" where the library is new; all of them know this name.
    features[column.name] = {"feature": single, "length": column.width, "_type": "Sequence"}
    told[HUGGINGFACE] = json.dumps({"info": info | {"features": features}}).encode()
    return told


def _json(dataset: Dataset, relative: str) -> dict[str, object]:
    """What a file of the dataset says. Raises SourceError."""
    path = dataset.path(relative)
    try:
        return rebuilt(dict[str, object], read_json(path, MOST_INFO_BYTES, finite=False), relative)
    except OSError as error:
        raise SourceError(f"cannot read {path}: {why(error)}") from error
    except FileError as error:
        raise SourceError(f"{path} is damaged ({error}): use another copy of it") from error


def _write_json(path: Path, values: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(values, indent=4, ensure_ascii=False)
    write_atomic(path, text.encode(errors="surrogatepass"), private=False)


def _check_names(dataset: Dataset, name: str, folder: Path) -> None:
    if name in dataset.features:
        raise ConfigError(f"{dataset.folder} has a feature {name!r:.80}: choose another with --as")
    if not name or "/" in name or not name.isprintable():
        raise ConfigError(f"{name!r:.80} cannot name a feature: choose another with --as")
    inside = Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(dataset.folder))
    if inside or os.path.lexists(folder):
        what = "lies in the dataset" if inside else "is there already"
        raise ConfigError(f"{folder} {what}: name another folder")
