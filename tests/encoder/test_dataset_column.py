"""What an encoder sees as a column of a LeRobot dataset, on small ones written here."""

import hashlib
import json
import os
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks.lerobot_datasets import FRONT, picture, told_by, write_dataset, write_mp4
from edge_rjepa.cli import main
from edge_rjepa.encoder import parity
from edge_rjepa.encoder.dataset_column import MEASURES, write_with_column
from edge_rjepa.encoder.describe import Describer
from edge_rjepa.encoder.export import export
from edge_rjepa.encoder.frozen import FrozenEncoder
from edge_rjepa.errors import ConfigError, InputError, SourceError
from edge_rjepa.eye.config import RetinaConfig
from edge_rjepa.eye.retina import Retina
from edge_rjepa.learner.config import RJepaConfig
from edge_rjepa.learner.rjepa import RJepa
from edge_rjepa.sources import SourceEnded, open_source
from edge_rjepa.sources.lerobot_dataset import Dataset

NAME = "observation.seen"
LENGTHS = 12, 8, 10


def describe(image):
    """A description that tells the frame."""
    return np.array([*told_by(image), image[3, 5, 1] / 255.0], np.float32)


def files_of(folder):
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in paths
    }


def written(dataset, **options):
    new = dataset.parent / "seen"
    told = write_with_column(Dataset(dataset), FRONT, NAME, describe, new, **options)
    return new, told


def rows_of(folder, part="data"):
    paths = sorted((folder / part).rglob("*.parquet"))
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


@pytest.fixture(params=[False, True], ids=["video", "image"])
def dataset(tmp_path, request):
    return write_dataset(tmp_path / "dataset", LENGTHS, images=request.param)


def test_each_frame_has_what_the_encoder_makes_of_its_picture(dataset):
    new, told = written(dataset)
    assert told == (3, 30, 3)
    rows = rows_of(new)
    with open_source(f"lerobot:{dataset}#{FRONT}", once=True) as source:
        for row in rows:
            np.testing.assert_array_equal(row[NAME], describe(source.read_next(0).image))
    assert [row[NAME][:2] for row in rows] == [
        [e, i] for e, n in enumerate(LENGTHS) for i in range(n)
    ]


def test_all_else_is_as_it_was_and_the_original_is_untouched(dataset):
    before = files_of(dataset)
    new, _ = written(dataset)
    assert files_of(dataset) == before
    others = [{k: v for k, v in row.items() if k != NAME} for row in rows_of(new)]
    assert others == rows_of(dataset)
    for path in sorted((dataset / "data").rglob("*.parquet")):
        old, again = (
            pq.ParquetFile(folder / path.relative_to(dataset)) for folder in (dataset, new)
        )
        assert again.schema_arrow.names == [*old.schema_arrow.names, NAME]
        assert again.num_row_groups == old.num_row_groups
    same = {name: value for name, value in files_of(new).items() if value == before.get(name)}
    changed = {name for name in before if name not in same}
    assert {name.split("/")[0] for name in same} == {"meta", "videos"} and set(
        files_of(new)
    ) == set(before)
    assert {name.partition("/chunk")[0] for name in changed} == {
        "data", "meta/episodes", "meta/info.json", "meta/stats.json"
    }  # fmt: skip


def test_videos_are_linked_and_what_may_be_overwritten_is_not(dataset):
    new, _ = written(dataset)
    for path in (path for path in new.rglob("*") if path.is_file()):
        relative = path.relative_to(new)
        linked = os.path.samefile(path, dataset / relative)
        assert linked == (relative.parts[0] == "videos")


def test_the_feature_and_its_statistics_are_told(dataset):
    new, _ = written(dataset)
    info = json.loads((new / "meta/info.json").read_text())
    old = json.loads((dataset / "meta/info.json").read_text())
    assert info["features"].pop(NAME) == {"dtype": "float32", "shape": [3], "names": None}
    assert info == old
    values = np.array([row[NAME] for row in rows_of(new)])
    stats = json.loads((new / "meta/stats.json").read_text())
    assert stats.pop("observation.state") == {"min": [0.0] * 3, "max": [1.0] * 3, "count": [30]}
    expect = {
        "min": values.min(0),
        "max": values.max(0),
        "mean": values.mean(0),
        "std": values.std(0),
    }
    for measure, expected in expect.items():
        np.testing.assert_allclose(stats[NAME][measure], expected, atol=1e-12)
    assert stats[NAME]["count"] == [30]
    episodes = rows_of(new, "meta/episodes")
    starts = np.cumsum((0, *LENGTHS))
    for episode, start, end in zip(episodes, starts[:-1], starts[1:], strict=True):
        for measure, expected in (("mean", np.mean), ("std", np.std), ("q50", np.median)):
            told = episode[f"stats/{NAME}/{measure}"]
            np.testing.assert_allclose(told, expected(values[start:end], 0), atol=1e-12)
        assert episode[f"stats/{NAME}/count"] == [end - start]
    lengths = [episode[f"stats/{NAME}/count"][0] for episode in episodes]
    for measure in MEASURES[4:]:
        each = [episode[f"stats/{NAME}/{measure}"] for episode in episodes]
        np.testing.assert_allclose(stats[NAME][measure], np.average(each, 0, weights=lengths))


@pytest.mark.slow
def test_the_new_dataset_is_a_source_and_may_get_another_column(dataset):
    new, _ = written(dataset)
    with open_source(f"lerobot:{new}#{FRONT}", once=True) as source:
        frames = []
        with pytest.raises(SourceEnded):
            while True:
                frames.append(source.read_next(0))
    assert len(frames) == 30
    write_with_column(Dataset(new), FRONT, "more", describe, dataset.parent / "more")
    for row in rows_of(dataset.parent / "more"):
        assert row["more"] == row[NAME]


def test_what_the_datasets_library_reads_of_a_table_knows_the_column(tmp_path):
    dataset = write_dataset(tmp_path / "dataset", LENGTHS)
    told = {"info": {"features": {"action": {"_type": "Value", "dtype": "x"}}}, "fingerprint": "1"}
    for path in (dataset / "data").rglob("*.parquet"):
        table = pq.read_table(path)
        pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(told)}), path)
    new, _ = written(dataset)
    for path in (new / "data").rglob("*.parquet"):
        features = json.loads(pq.read_schema(path).metadata[b"huggingface"])["info"]["features"]
        assert features["action"] == told["info"]["features"]["action"]
        assert features[NAME]["length"] == 3 and features[NAME]["feature"]["dtype"] == "float32"


# -- what is refused -------------------------------------------------------------------------------


def refused(dataset, error, message, name=NAME, new=None, describe=describe):
    """It raises, and nothing is left beside the dataset."""
    before = sorted(dataset.parent.rglob("*"))
    with pytest.raises(error, match=message):
        write_with_column(Dataset(dataset), FRONT, name, describe, new or dataset.parent / "seen")
    assert sorted(dataset.parent.rglob("*")) == before


def test_a_frame_without_a_picture_is_told_and_nothing_is_written(tmp_path):
    dataset = write_dataset(tmp_path / "dataset", LENGTHS)
    video = dataset / f"videos/{FRONT}/chunk-000/file-000.mp4"
    video.unlink()
    write_mp4(video, [picture(0, i) for i in range(15)])
    refused(dataset, SourceError, "frame 3 of episode 1 has no picture: delete that episode")


def test_a_failure_half_way_leaves_nothing(dataset):
    calls = []

    def failing(image):
        calls.append(image)
        if len(calls) == 20:
            raise OSError(28, "No space left on device")
        return describe(image)

    refused(dataset, OSError, "No space", describe=failing)


@pytest.mark.parametrize("name", ["action", "a/b", "", "a\nb"])
def test_names_that_cannot_be_are_refused(dataset, name):
    refused(dataset, ConfigError, "choose another with --as", name=name)


def test_folders_that_cannot_be_are_refused(dataset):
    refused(dataset, ConfigError, "is there already: name another", new=dataset.parent)
    refused(dataset, ConfigError, "lies in the dataset", new=dataset / "new")


def test_tables_with_other_rows_than_told_are_refused(dataset):
    path = dataset / "meta/episodes/chunk-000/file-000.parquet"
    pq.write_table(pq.read_table(path).slice(0, 2), path)
    refused(dataset, SourceError, "has other rows than meta/episodes says")


def test_a_table_that_is_missing_is_told(dataset):
    (dataset / "data/chunk-000/file-001.parquet").unlink()
    refused(dataset, SourceError, "lacks 'data/chunk-000/file-001.parquet': use another copy")


def test_links_out_of_the_dataset_are_not_copied(dataset, tmp_path):
    (dataset / "meta/notes").symlink_to("/etc/hostname")
    refused(dataset, SourceError, "leads out of the dataset")


# -- the command -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """The file of a small encoder."""
    retina = Retina(
        RetinaConfig(
            window_px=24, fovea_px=6, surround_cells=8, colour_cells=4,
            fovea_degree=3, surround_degree=4, colour_degree=2,
        )
    )  # fmt: skip
    config = RJepaConfig(retina.n_features, 4, n_embedding=5, n_hidden=7, n_predictor=8, n_gain=3)
    path = tmp_path_factory.mktemp("encoder") / "encoder.onnx"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parity, "PARITY_STEPS", 20)
        export(RJepa(config, seed=0), retina, path)
    return path


def embedded(encoder, dataset, *flags):
    """The rows of the column that the command writes; what it says, and the pictures."""
    new = dataset.parent / "seen"
    arguments = ["--camera", "front", "-o", str(new), *flags]
    assert main(["embed", str(encoder), str(dataset), *arguments]) == 0
    with open_source(f"lerobot:{dataset}#front", once=True) as source:
        pictures = [source.read_next(0).image for _ in range(sum(LENGTHS))]
    return np.array([row["observation.edge_rjepa"] for row in rows_of(new)]), pictures


@pytest.mark.slow
def test_the_command_writes_what_the_encoder_describes(encoder, dataset, capsys):
    rows, pictures = embedded(encoder, dataset, "--pooled", "--json")
    said = json.loads(capsys.readouterr().out)
    assert said["frames"] == 30 and said["values"] == 5
    describe = FrozenEncoder(encoder).describe
    np.testing.assert_array_equal(rows, [describe(picture) for picture in pictures])


@pytest.mark.slow
def test_by_place_there_is_a_row_for_each_place_and_their_mean_is_the_description(encoder, dataset):
    rows, pictures = embedded(encoder, dataset)
    describe = FrozenEncoder(encoder).describe
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-5)
    means = rows.reshape(-1, 16, 5).mean(axis=1)
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    np.testing.assert_allclose(means, [describe(picture) for picture in pictures], atol=1e-4)


def test_a_descriptor_has_no_places(encoder):
    describer = FrozenEncoder(encoder).describer()
    with pytest.raises(InputError, match="no places any more"):
        Describer(describer.see, lambda rows: rows[:1]).by_place(np.zeros((48, 64, 3), np.uint8))


def test_the_command_says_which_cameras_there_are(encoder, tmp_path, capsys):
    dataset = write_dataset(tmp_path / "dataset", LENGTHS)
    assert main(["embed", str(encoder), str(dataset), "-o", str(tmp_path / "seen")]) == 1
    assert "has 2 cameras: name one" in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["pyarrow", "av"])
def test_without_the_extra_the_command_to_install_it_is_told(
    encoder, tmp_path, capsys, missing, monkeypatch
):
    for module in [name for name in sys.modules if name.startswith("edge_rjepa.sources.lerobot")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.delitem(sys.modules, "edge_rjepa.sources.timed_video", raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    assert main(["embed", str(encoder), str(tmp_path), "-o", str(tmp_path / "seen")]) == 1
    assert 'pip install "edge-rjepa[lerobot]"' in capsys.readouterr().err
