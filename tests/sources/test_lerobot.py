"""LeRobot datasets as a source, on small ones written to the specification."""

import json
import math
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.lerobot_datasets import FRONT, JOINTS, RATE, told_by, write_dataset, write_mp4
from edge_rjepa.errors import SourceError
from edge_rjepa.sources import SourceEnded, open_source
from edge_rjepa.sources.lerobot import NO_EPISODE, NO_PICTURE, NO_TIME

DATA, DATA_1 = "data/chunk-000/file-000.parquet", "data/chunk-000/file-001.parquet"
VIDEO = f"videos/{FRONT}/chunk-000/file-000.mp4"


@pytest.fixture
def folder(tmp_path):
    return write_dataset(tmp_path / "dataset")


def opened(folder, rest="#front", **options):
    return open_source(f"lerobot:{folder}{rest}", **options)


def all_frames(source):
    frames = []
    try:
        while True:
            frames.append(source.read_next(0))
    except SourceEnded:
        return frames


def told(frames):
    return [told_by(frame.image) for frame in frames]


def rewritten(path, change):
    """The table at `path`, its columns as lists changed by change(columns)."""
    table = pq.read_table(path)
    columns = table.to_pydict()
    change(columns)
    arrays = [pa.array(columns[field.name], field.type) for field in table.schema]
    pq.write_table(pa.table(arrays, schema=table.schema), path, row_group_size=5)


@pytest.mark.parametrize("codec", ["libx264", "libsvtav1"])
def test_all_frames_of_videos_come_in_their_order_with_their_times(tmp_path, codec):
    with opened(write_dataset(tmp_path / "set", codec=codec), once=True) as source:
        frames = all_frames(source)
    assert told(frames) == [(e, i) for e, n in enumerate((12, 8, 10)) for i in range(n)]
    assert [frame.t_capture_s for frame in frames] == pytest.approx(np.arange(30) / RATE, abs=1e-6)
    assert [frame.sequence for frame in frames] == list(range(30))
    assert not source.faults


def test_pictures_in_the_table_are_those_that_were_put_there(tmp_path):
    with opened(write_dataset(tmp_path / "set", images=True), once=True) as source:
        frames = all_frames(source)
    assert told(frames) == [(e, i) for e, n in enumerate((12, 8, 10)) for i in range(n)]
    assert np.ptp(frames[5].image[:, :32]) == 0  # PNG: to the last bit


def test_the_last_episodes_are_held_out_whole_and_the_others_go_round(folder):
    with opened(folder) as source:
        frames = [source.read_next(0) for _ in range(45)]
        held = source.held_out(300)
    shown = [(e, i) for e, n in enumerate((12, 8)) for i in range(n)]
    assert told(frames) == (shown * 3)[:45]
    assert np.all(np.diff([frame.t_capture_s for frame in frames]) > 0.09)
    assert told(held) == [(2, i) for i in range(10)]


def test_held_out_takes_as_much_of_each_episode(tmp_path):
    with opened(write_dataset(tmp_path / "set", lengths=(6,) * 20)) as source:
        held = source.held_out(5)
    assert [frame.sequence for frame in held] == list(range(5))
    assert told(held)[0][1] == 0 and [i for _, i in told(held)] == [0, 1, 2, 0, 1]


def test_of_a_single_episode_the_end_is_held_out(tmp_path):
    with opened(write_dataset(tmp_path / "set", lengths=(30,))) as source:
        frames, held = [source.read_next(0) for _ in range(28)], source.held_out(99)
    assert told(frames)[26:] == [(0, 26), (0, 0)] and told(held) == [(0, 27), (0, 28), (0, 29)]


def test_it_goes_on_from_any_frame_bit_for_bit(folder):
    with opened(folder) as source:
        states, frames = [], []
        for _ in range(50):
            states.append(json.loads(json.dumps(source.state())))
            frames.append(source.read_next(0))
    for start in (0, 1, 11, 12, 19, 20, 21, 40):
        with opened(folder) as again:
            again.restore(states[start])
            for frame in frames[start : start + 9]:
                other = again.read_next(0)
                assert other[1:] == frame[1:]
                np.testing.assert_array_equal(other.image, frame.image)


def test_another_dataset_is_no_place_to_go_on(folder, tmp_path):
    with opened(folder) as source, opened(write_dataset(tmp_path / "b", (12, 8, 9))) as other:
        with pytest.raises(SourceError, match="is not the dataset"):
            other.restore(source.state())


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("state=pan.pos,tilt.pos", (0.1, 0.02)),
        ("action=tilt.pos,pan.pos", (0.02, 0.1)),
        ("state=pan.pos,-tilt.pos&degrees", (math.radians(0.1), -math.radians(0.02))),
    ],
)
def test_joints_are_head_angles_where_they_are_named(folder, query, expected):
    with opened(folder, f"#front?{query}", once=True) as source:
        frame = all_frames(source)[14]
    assert told([frame]) == [(1, 2)] and frame.head_rad == pytest.approx(expected, abs=1e-6)


def test_without_a_name_the_head_stays(folder):
    with opened(folder) as source:
        assert source.read_next(0).head_rad == (0.0, 0.0)


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        ("", "has 2 cameras: name one behind a #: 'observation.images.front', "),
        ("#back", "no camera 'back': name one of"),
        ("#front?state=pan.pos", "names no head angles: write [?]state=PAN,TILT"),
        ("#front?state=pan.pos,neck", f"has no 'neck': it has '{JOINTS[0]}', '{JOINTS[1]}'"),
        ("#front?speed=a,b", "names no head angles"),
        ("/nowhere#front", "is no LeRobot dataset: it has no meta/info.json"),
    ],
)
def test_a_name_that_fits_nothing_is_told_with_what_does(folder, rest, message):
    with pytest.raises(SourceError, match=message):
        opened(folder, rest)


def test_larger_pictures_are_scaled_down_as_those_of_videos(tmp_path):
    folder = write_dataset(tmp_path / "set", lengths=(20, 4), size=(1280, 720))
    with opened(folder) as source:
        frame = source.read_next(0)
    assert frame.image.shape == (360, 640, 3) and source.camera.width_px == 640
    assert told([frame]) == [(0, 0)]


def test_the_folder_may_have_any_name(tmp_path):
    folder = write_dataset(tmp_path / "a#b?state=c, d")
    with opened(folder) as source:
        assert told([source.read_next(0)]) == [(0, 0)]


# -- what is damaged -------------------------------------------------------------------------------


def test_a_video_shorter_than_the_table_loses_those_frames_alone(folder):
    os.remove(folder / VIDEO)
    write_mp4(folder / VIDEO, [np.full((48, 64, 3), 40, np.uint8)] * 9)
    with opened(folder, once=True) as source:
        frames = all_frames(source)
        events = source.drain_events()
    assert [frame.sequence for frame in frames] == [*range(9), *range(20, 30)]
    assert source.faults == {NO_PICTURE: 11}
    assert events == [
        "episode 0: left out of 12 frames: 3 times frame without a picture",
        "episode 1: left out of 8 frames: 8 times frame without a picture",
    ]


def test_a_torn_video_is_as_long_as_it_can_be_read(folder):
    content = (folder / VIDEO).read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")  # so that it opens
    (folder / VIDEO).write_bytes(content[: -(len(content) - content.index(b"mdat")) // 4])
    with opened(folder, once=True) as source:
        frames = all_frames(source)
    read = 20 - source.faults[NO_PICTURE]
    assert 5 < read < 15
    assert told(frames[:-10]) == [(e, i) for e, n in enumerate((12, 8)) for i in range(n)][:read]


@pytest.mark.parametrize("missing", [VIDEO, DATA])
def test_missing_files_lose_their_episodes_alone(folder, missing):
    os.remove(folder / missing)
    with opened(folder, once=True) as source:
        assert told(all_frames(source)) == [(2, i) for i in range(10)]
        assert source.faults == {NO_EPISODE: 2}
        assert all("is left out: cannot read" in event for event in source.drain_events())


def test_a_torn_table_loses_its_episodes_alone(folder):
    content = (folder / DATA).read_bytes()
    (folder / DATA).write_bytes(content[: len(content) // 2])
    with opened(folder, once=True) as source:
        assert told(all_frames(source)) == [(2, i) for i in range(10)]


def test_times_that_are_none_and_go_back_are_left_out(folder):
    def change(columns):
        columns["timestamp"][2:6] = [math.nan, -1.0, math.inf, 0.05]

    rewritten(folder / DATA, change)
    with opened(folder, once=True) as source:
        frames = all_frames(source)
    assert told(frames)[:4] == [(0, 0), (0, 1), (0, 6), (0, 7)]
    assert source.faults == {NO_TIME: 4}
    assert np.all(np.diff([frame.t_capture_s for frame in frames]) > 0)


def test_states_that_are_no_numbers_leave_the_head_unknown(folder):
    def change(columns):
        columns["observation.state"][3] = [math.nan, 0.0, 0.0]

    rewritten(folder / DATA, change)
    with opened(folder, "#front?state=pan.pos,tilt.pos", once=True) as source:
        assert math.isnan(all_frames(source)[3].head_rad[0])


def test_held_out_frames_are_those_of_a_head_whose_angles_are_known(folder):
    def change(columns):
        columns["observation.state"][-1] = [math.nan] * 3

    rewritten(folder / DATA_1, change)
    with opened(folder, "#front?state=pan.pos,tilt.pos") as source:
        frames = source.held_out(100)
    assert frames and np.isfinite([frame.head_rad for frame in frames]).all()
    with opened(folder) as source:
        assert len(frames) == len(source.held_out(100)) - 1


def test_rows_of_another_episode_are_not_shown_as_this_one(folder):
    rewritten(folder / DATA, lambda columns: columns["episode_index"].reverse())
    with opened(folder, once=True) as source:
        assert told(all_frames(source)) == [(2, i) for i in range(10)]
        assert "is not where meta/episodes says" in source.drain_events()[0]


@pytest.mark.parametrize(
    ("column", "value"), [("length", 2**62), (f"videos/{FRONT}/from_timestamp", math.inf)]
)
def test_rows_of_meta_that_claim_too_much_are_left_out(tmp_path, column, value):
    folder = write_dataset(tmp_path / "set", lengths=(8, 12, 10))

    def change(columns):
        columns[column][0] = value

    rewritten(folder / "meta/episodes/chunk-000/file-000.parquet", change)
    with opened(folder, once=True) as source:
        frames = all_frames(source)
    assert told(frames) == [(1, i) for i in range(12)] + [(2, i) for i in range(10)]
    assert source.faults == {NO_EPISODE: 1}


def test_a_dataset_of_which_nothing_is_left_says_so(folder):
    for file in (folder / "videos" / FRONT).rglob("*.mp4"):
        file.write_bytes(b"nothing")
    with pytest.raises(SourceError, match="no picture of 'observation.images.front' can be read"):
        opened(folder)


def test_files_that_vanish_while_it_reads_end_it(folder):
    with opened(folder) as source:
        source.read_next(0)
        for file in folder.rglob("file-*.*"):
            file.unlink()
        with pytest.raises(SourceError, match="no frame of .* can be read; put the files back"):
            for _ in range(100):
                source.read_next(0)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("data_path", "../{chunk_index}{file_index}.parquet", "leads out of the dataset"),
        ("data_path", "/etc/passwd", "leads out of the dataset"),
        ("video_path", "{video_key.__class__}", "video_path is"),
        ("video_path", "{length}/x", "has a field 'length'"),
        ("video_path", None, "video_path is ''"),
        ("data_path", "a\0b", "no file is named"),
        ("fps", 0, "fps is 0"),
        ("fps", "ten", "fps is not a number"),
        ("codebase_version", "v2.1", "version 'v2.1', and this reads v3.0: convert it"),
        ("features", [], "features is not an object"),
        ("features", {"a/../b": {"dtype": "video", "shape": [1, 1, 3]}}, "name one of none"),
    ],
)
def test_a_description_that_cannot_be_is_one_line(folder, key, value, message):
    path = folder / "meta/info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(SourceError, match=message):
        with opened(folder, once=True) as source:
            all_frames(source)
            raise SourceError(" ".join(source.drain_events()))


def test_links_out_of_the_folder_are_not_followed(folder, tmp_path):
    for relative in (VIDEO, "meta/info.json"):
        path = folder / relative
        path.rename(tmp_path / path.name)
        path.symlink_to(tmp_path / path.name)
    with pytest.raises(SourceError, match="leads out of the dataset: copy it with `cp -rL`"):
        opened(folder)


def test_a_dataset_named_as_a_folder_of_pictures_is_named_right(folder):
    with pytest.raises(SourceError, match="is a LeRobot dataset: name it lerobot:"):
        open_source(str(folder))
