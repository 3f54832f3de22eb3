"""Bags, on small ones that rosbags, mcap and mcap-ros2-support wrote."""

import contextlib
import itertools
import json
import math
import shutil
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from mcap.writer import CompressionType, IndexType

from calibration.model import CameraModel
from edge_rjepa.errors import SourceError
from edge_rjepa.optics.camera import Pinhole, pinhole
from edge_rjepa.sources import SourceEnded, absolute, open_source
from edge_rjepa.sources.bags.bag import Bag
from edge_rjepa.sources.bags.clock import Clock
from edge_rjepa.sources.ros_messages import BadMessage
from tests.ros2_link.made import (
    CAMERA_INFO,
    COMPRESSED,
    IMAGE,
    JOINT_STATE,
    TF,
    camera_info,
    compressed,
    image,
    joint_state,
    transforms,
)
from tests.sources.bags import (
    IMAGES,
    at_ns,
    write_foxglove,
    write_mcap,
    write_mcap_ros2,
    write_rosbag2,
)
from tests.sources.source_checks import assert_same, read

T0_S = 1_700_000_000.0  # of stamps, as of the recorder's clock
RATE = 10.0


def pixels(number, width=32, height=24):
    """A picture whose grey level tells its number, and whose texture that it is one."""
    noise = np.random.default_rng(number).integers(0, 3, (height, width, 3), np.uint8)
    return noise + np.uint8(3 * number)


def numbers(frames):
    return [int(frame.image.mean()) // 3 for frame in frames]


def stream(count, topic=IMAGES, kind=IMAGE, late_s=0.02):
    """(topic, type, seconds, message) of so many pictures, recorded a little later than taken."""
    for i in range(count):
        t_s = i / RATE
        if kind == IMAGE:
            message = image(pixels(i), stamp_s=T0_S + t_s)
        else:
            content = cv2.imencode(".png", pixels(i))[1].tobytes()
            message = compressed(content, "png", T0_S + t_s)
        yield topic, kind, t_s + late_s, message


def by_time(*streams):
    return sorted(itertools.chain(*streams), key=lambda stored: stored[2])


def whole(spec, once=True):
    """All frames of a bag, and what it told."""
    with open_source(spec, once=once) as source:
        frames = read(source, 1000)
        return frames, source.drain_events(), source.faults


WRITERS = {
    "sqlite3": lambda path, stored: write_rosbag2(path, stored),
    "sqlite3, version 8": lambda path, stored: write_rosbag2(path, stored, version=8),
    "sqlite3, packed messages": lambda path, stored: write_rosbag2(
        path, stored, compression="MESSAGE"
    ),
    "mcap": lambda path, stored: write_rosbag2(path, stored, "MCAP"),
    "mcap, packed messages": lambda path, stored: write_rosbag2(path, stored, "MCAP", "MESSAGE"),
    "mcap, packed chunks": lambda path, stored: write_rosbag2(path, stored, "MCAP", "STORAGE"),
    "mcap-ros2-support": write_mcap_ros2,
    "foxglove": write_foxglove,
    "foxglove, small chunks": lambda path, stored: write_foxglove(path, stored, chunk_size=9000),
    "lz4": lambda path, stored: write_mcap(path, stored, CompressionType.LZ4, chunk_size=9000),
    "plain": lambda path, stored: write_mcap(path, stored, CompressionType.NONE, chunk_size=9000),
    "no chunks": lambda path, stored: write_mcap(path, stored, use_chunking=False),
    "no index": lambda path, stored: write_mcap(
        path, stored, index_types=IndexType.NONE, chunk_size=9000
    ),
    "no statistics": lambda path, stored: write_mcap(path, stored, use_statistics=False),
}


@pytest.mark.parametrize("kind", [IMAGE, COMPRESSED])
@pytest.mark.parametrize("writer", WRITERS)
def test_every_writers_bag_shows_its_pictures(tmp_path, writer, kind):
    path = WRITERS[writer](tmp_path / "a.mcap", list(stream(30, kind=kind)))
    frames, events, faults = whole(f"bag:{path}#{IMAGES}")
    assert len(frames) == 30 and (events, faults) == ([], {})
    for i, frame in enumerate(frames):
        np.testing.assert_array_equal(frame.image, pixels(i))
        assert frame.t_capture_s == pytest.approx(i / RATE, abs=1e-5)
        assert (frame.sequence, frame.head_rad) == (i, (0.0, 0.0))


def test_it_loops_over_the_first_nine_tenths_and_time_runs_on(tmp_path):
    path = write_mcap(tmp_path / "a.mcap", list(stream(30)), chunk_size=9000)
    with open_source(f"bag:{path}") as source:
        frames = read(source, 60)
        held = source.held_out(10)
    assert numbers(frames) == (list(range(27)) * 3)[:60]
    assert numbers(held) == [27, 28, 29]
    assert [frame.sequence for frame in held] == [0, 1, 2]
    assert frames[50].t_capture_s == pytest.approx(5.0, abs=1e-4)
    assert np.all(np.diff([frame.t_capture_s for frame in frames]) > 0.0)


def test_it_tells_how_long_it_takes(tmp_path):
    path = write_mcap(tmp_path / "a.mcap", list(stream(30)), chunk_size=9000)
    with open_source(f"bag:{path}") as source, open_source(f"bag:{path}", once=True) as all_of_it:
        assert (source.duration_s, all_of_it.duration_s) == pytest.approx((2.6, 2.9))


def test_once_ends_with_the_last_and_holds_none_out(tmp_path):
    path = write_mcap(tmp_path / "a.mcap", list(stream(25)))
    with open_source(f"bag:{path}", once=True) as source:
        assert numbers(read(source, 100)) == list(range(25))
        assert source.held_out(5) == []
        with pytest.raises(SourceEnded):
            source.read_next(0.0)


# -- which topic ----------------------------------------------------------------------------------


def test_of_several_topics_of_pictures_one_must_be_named(tmp_path):
    both = by_time(stream(30), stream(25, "/rear/image", COMPRESSED))
    path = write_mcap(tmp_path / "a.mcap", both)
    with pytest.raises(SourceError, match="has several; name one of its topics of pictures") as e:
        open_source(f"bag:{path}")
    assert f"bag:{path}#{IMAGES}" in str(e.value) and "/rear/image" in str(e.value)
    assert len(whole(f"bag:{path}#/rear/image")[0]) == 25


@pytest.mark.parametrize(
    ("rest", "says"),
    [
        ("#/nowhere", "has no pictures on /nowhere; name one of its topics of pictures"),
        (f"#{IMAGES}?info=/nowhere", "has no topic /nowhere; it has /camera/image_raw"),
        (f"#{IMAGES}?info={IMAGES}", "is no topic of sensor_msgs CameraInfo"),
        (f"#{IMAGES}?joints=/nowhere:a", "has no topic /nowhere"),
        (f"#{IMAGES}?wrong=1", "'wrong' is unknown"),
    ],
)
def test_a_topic_that_is_not_there_is_told_in_one_line(tmp_path, rest, says):
    path = write_mcap(tmp_path / "a.mcap", list(stream(30)))
    with pytest.raises(SourceError, match=says) as error:
        open_source(f"bag:{path}{rest}")
    assert "\n" not in str(error.value)


def test_a_bag_without_pictures_tells_what_it_has(tmp_path):
    stored = [("/joint_states", JOINT_STATE, 0.1 * i, joint_state({"a": 0.0})) for i in range(3)]
    path = write_mcap(tmp_path / "a.mcap", stored)
    with pytest.raises(SourceError, match="has no topic of sensor_msgs Image .*/joint_states"):
        open_source(f"bag:{path}")


def test_messages_that_are_not_of_ros_are_no_pictures(tmp_path):
    path = write_mcap(tmp_path / "a.mcap", list(stream(30)), encoding="json")
    with pytest.raises(SourceError, match="has no topic of sensor_msgs Image"):
        open_source(f"bag:{path}")


def test_few_pictures_are_refused(tmp_path):
    path = write_mcap(tmp_path / "a.mcap", list(stream(19)))
    with pytest.raises(SourceError, match="has 19 pictures .* at least 20 are needed"):
        open_source(f"bag:{path}")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"hello, I am a bag", "is neither an MCAP file nor a bag of SQLite"),
        (b"#ROSBAG V2.0\n and so on", "is a bag of ROS 1; convert it"),
        (b"\x28\xb5\x2f\xfd and so on", "is packed as a whole; unpack it: zstd -d"),
    ],
)
def test_what_is_no_bag_is_told(tmp_path, content, says):
    (tmp_path / "a.mcap").write_bytes(content)
    with pytest.raises(SourceError, match=says):
        open_source(f"bag:{tmp_path / 'a.mcap'}")


def test_a_path_that_is_not_there_is_told(tmp_path):
    for name in ("a.mcap", "a.mcap#/image"):
        with pytest.raises(SourceError, match="cannot read .*a.mcap: No such file"):
            open_source(f"bag:{tmp_path / name}")
    with pytest.raises(SourceError, match="holds no bag"):
        open_source(f"bag:{tmp_path}")


def test_its_name_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spec = "bag:walks/a.mcap#/camera/image?info=/i&joints=/j:pan,-tilt"
    assert absolute(spec) == f"bag:{tmp_path}/{spec[4:]}"


def test_without_mcap_or_rosbags_one_line_says_what_to_install(tmp_path):
    path = write_mcap(tmp_path / "a.mcap", list(stream(30)))
    for gone in ("mcap", "rosbags"):
        program = (
            "import sys\n"
            "class Gone:\n"
            "    def find_spec(self, name, path=None, target=None):\n"
            f"        if name == {gone!r}: raise ModuleNotFoundError(name, name=name)\n"
            "sys.meta_path.insert(0, Gone())\n"
            "from edge_rjepa.errors import SourceError\n"
            "from edge_rjepa.sources import open_source\n"
            f"try: open_source('bag:{path}')\n"
            "except SourceError as error: print(error)"
        )
        said = subprocess.check_output([sys.executable, "-c", program], text=True).strip()
        assert said.endswith(f'need {gone}: pip install "edge-rjepa[bags]"')


def test_a_bag_is_read_from_any_thread(tmp_path):
    path = write_rosbag2(tmp_path / "a", list(stream(30)))
    with open_source(f"bag:{path}", once=True) as source, ThreadPoolExecutor(1) as thread:
        assert numbers(thread.submit(read, source, 100).result()) == list(range(30))


# -- several files --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".db3", ".mcap"])
def test_files_of_a_folder_come_by_their_number(tmp_path, suffix):
    everything = list(stream(36))
    folder = tmp_path / "bag"
    folder.mkdir()
    for i in range(12):
        part = everything[3 * i : 3 * i + 3]
        if suffix == ".mcap":
            write_mcap(folder / f"bag_{i}.mcap", part)
        else:
            write_rosbag2(tmp_path / f"part{i}", part)
            shutil.move(tmp_path / f"part{i}" / f"part{i}.db3", folder / f"bag_{i}.db3")
    frames, events, _ = whole(f"bag:{folder}")
    assert numbers(frames) == list(range(36))
    assert events == [f"{folder}: has no metadata.yaml, as the recording was not closed"]
    with open_source(f"bag:{folder}") as source:
        assert numbers(source.held_out(9)) == [32, 33, 34, 35]


def test_a_folder_of_rosbag2_and_the_file_in_it_are_the_same(tmp_path):
    folder = write_rosbag2(tmp_path / "bag", list(stream(30)))
    frames, events, _ = whole(f"bag:{folder}")
    assert_same(frames, whole(f"bag:{folder / 'bag.db3'}")[0])
    assert events == [] and sorted(p.name for p in folder.iterdir()) == ["bag.db3", "metadata.yaml"]


# -- time -----------------------------------------------------------------------------------------


def test_messages_come_by_the_time_they_were_recorded(tmp_path):
    stored = list(stream(40))
    shuffled = [stored[i] for i in np.random.default_rng(1).permutation(40)]
    for name, path in {
        "mcap": write_mcap(tmp_path / "a.mcap", shuffled, chunk_size=9000),
        "no chunks": write_mcap(tmp_path / "b.mcap", shuffled, use_chunking=False),
        "sqlite3": write_rosbag2(tmp_path / "c", shuffled),
    }.items():
        assert numbers(whole(f"bag:{path}")[0]) == list(range(40)), name


def test_without_stamps_time_is_the_recorders(tmp_path):
    stored = [(IMAGES, IMAGE, i**1.5, image(pixels(i))) for i in range(25)]
    frames, _, faults = whole(f"bag:{write_mcap(tmp_path / 'a.mcap', stored)}")
    assert [frame.t_capture_s for frame in frames] == pytest.approx(
        [i**1.5 for i in range(25)], abs=1e-5
    )
    assert faults == {}


def test_a_clock_goes_on_as_stamps_do():
    clock = Clock()
    assert [clock.read(s, s + 9.0) for s in (5.0, 5.5, 7.0)] == [0.0, 0.5, 2.0]


def test_a_picture_from_the_past_or_a_far_future_is_bad_and_the_next_is_not():
    for wrong_s in (3.0, 5.0, 4e9):
        clock = Clock()
        clock.read(5.0, 105.0)
        with pytest.raises(BadMessage, match="time that goes back or leaps ahead"):
            clock.read(wrong_s, 105.1)
        assert clock.read(5.2, 105.2) == pytest.approx(0.2)


def test_a_clock_that_was_set_costs_one_picture():
    clock = Clock()
    clock.read(1000.0, 50.0)
    with pytest.raises(BadMessage):
        clock.read(10.0, 50.1)
    assert clock.read(10.1, 50.2) == pytest.approx(0.2)
    assert clock.read(10.2, 50.3) == pytest.approx(0.3)


def test_a_clock_that_stands_still_is_passed_by():
    clock, times = Clock(), []
    for i in range(10):
        with contextlib.suppress(BadMessage):
            times.append(clock.read(77.0, 0.1 * i))
    assert times == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8])


def test_a_clock_goes_on_from_its_state():
    stamps = [(5.0, 1.0), (4.0, 1.1), (4.2, 1.2), (None, 1.3), (4.4, 1.5), (4.3, 1.4), (4.9, 1.6)]

    def told(clock, some):
        for stamp_s, logged_s in some:
            try:
                yield clock.read(stamp_s, logged_s)
            except BadMessage:
                yield None

    for split in range(len(stamps)):
        one, other = Clock(), Clock()
        list(told(one, stamps[:split]))
        other.restore(json.loads(json.dumps(one.state())))
        assert list(told(one, stamps[split:])) == list(told(other, stamps[split:]))


# -- what was saved -------------------------------------------------------------------------------


@pytest.mark.parametrize("writer", ["sqlite3", "lz4", "no chunks", "no index"])
@pytest.mark.parametrize("head", ["", f"#{IMAGES}?joints=/joint_states:pan,tilt"])
@pytest.mark.parametrize("steps", [1, 13, 35, 61])
def test_it_goes_on_from_its_state_through_loops(tmp_path, writer, head, steps):
    path = WRITERS[writer](tmp_path / "a.mcap", by_time(stream(40), joints(40)))
    spec = f"bag:{path}{head}"
    with open_source(spec) as source:
        read(source, steps)
        state = json.loads(json.dumps(source.state()))
        expected = read(source, 50)
    with open_source(spec) as source:
        source.restore(state)
        assert_same(read(source, 50), expected)


def test_another_bag_is_refused(tmp_path):
    paths = [write_mcap(tmp_path / f"{n}.mcap", list(stream(n))) for n in (30, 31)]
    with open_source(f"bag:{paths[0]}") as one, open_source(f"bag:{paths[1]}") as other:
        with pytest.raises(SourceError, match="name the same bag and topic"):
            other.restore(one.state())


# -- lens -----------------------------------------------------------------------------------------

MILD = (-0.2, 0.05, 1e-3, -5e-4, 0.0)


def test_the_lens_beside_the_pictures_is_taken_and_told(tmp_path):
    info = camera_info(32, 24, distortion=MILD, focal=(30.0, 31.0))
    path = write_mcap(
        tmp_path / "a.mcap", by_time(stream(25), [("/camera/camera_info", CAMERA_INFO, 0.1, info)])
    )
    with open_source(f"bag:{path}") as source:
        assert source.camera == CameraModel("pinhole", 32, 24, 30.0, 31.0, 15.5, 11.5, MILD)
        assert source.drain_events() == ["/camera/camera_info: the lens is 59 degrees wide"]


def test_large_pictures_are_scaled_and_their_lens_with_them(tmp_path):
    big = [(IMAGES, IMAGE, 0.1 * i, image(pixels(i, 1280, 720))) for i in range(20)]
    info = camera_info(1280, 720, distortion=MILD, focal=(1000.0, 1000.0))
    path = write_mcap(tmp_path / "a.mcap", by_time(big, [("/elsewhere", CAMERA_INFO, 0.0, info)]))
    with open_source(f"bag:{path}#{IMAGES}?info=/elsewhere") as source:
        assert source.read_next(0.0).image.shape == (360, 640, 3)
        whole_model = CameraModel("pinhole", 1280, 720, 1000.0, 1000.0, 639.5, 359.5, MILD)
        assert source.camera == whole_model.resized(640, 360)


def test_compressed_pictures_have_the_lens_of_the_raw_ones(tmp_path):
    info = ("/camera/camera_info", CAMERA_INFO, 0.1, camera_info(32, 24, focal=(30.0, 30.0)))
    path = write_mcap(
        tmp_path / "a.mcap", by_time(stream(25, f"{IMAGES}/compressed", COMPRESSED), [info])
    )
    with open_source(f"bag:{path}") as source:
        assert source.camera.focal_px == 30.0


@pytest.mark.parametrize(
    ("info", "says"),
    [
        (camera_info(32, 24, focal=(0.0, 0.0)), "the camera was not calibrated"),
        (camera_info(32, 24, "unheard_of"), "camera_info of no lens"),
        (camera_info(32, 32), "has not the shape"),
    ],
)
def test_a_lens_that_fits_not_is_an_event_and_where_it_is_named_an_error(tmp_path, info, says):
    path = write_mcap(
        tmp_path / "a.mcap", by_time(stream(25), [("/camera/camera_info", CAMERA_INFO, 0.1, info)])
    )
    with open_source(f"bag:{path}") as source:
        assert isinstance(source.camera, Pinhole)
        (event,) = source.drain_events()
        assert event.startswith("/camera/camera_info: is not used: ") and says in event
    with pytest.raises(SourceError, match=says):
        open_source(f"bag:{path}#{IMAGES}?info=/camera/camera_info")


def test_a_calibration_counts_for_more_than_the_bag(tmp_path):
    info = ("/camera/camera_info", CAMERA_INFO, 0.1, camera_info(32, 24, focal=(30.0, 30.0)))
    path = write_mcap(tmp_path / "a.mcap", by_time(stream(25), [info]))
    with open_source(f"bag:{path}", lens=pinhole(1.25)) as source:
        assert source.camera == Pinhole(32, 24, 1.25)


# -- head -----------------------------------------------------------------------------------------


def pan_at(t_s):
    return 0.5 * math.sin(t_s)


def joints(count, rate=25.0, late_s=0.005, topic="/joint_states"):
    """Joint states at another rate than the pictures'."""
    for i in range(round(count / RATE * rate)):
        t_s = i / rate - 0.013
        state = joint_state({"wheel": 9.0, "pan": pan_at(t_s), "tilt": 0.1 * t_s}, T0_S + t_s)
        yield topic, JOINT_STATE, max(0.0, t_s + late_s), state


def test_head_angles_are_those_at_capture_between_two_messages(tmp_path):
    path = write_mcap(tmp_path / "a.mcap", by_time(stream(40), joints(41)), chunk_size=9000)
    frames, events, faults = whole(f"bag:{path}#{IMAGES}?joints=/joint_states:pan,-tilt")
    assert (len(frames), events, faults) == (40, [], {})
    for frame in frames:
        pan_rad, tilt_rad = frame.head_rad
        assert pan_rad == pytest.approx(-pan_at(frame.t_capture_s), abs=2e-4)
        assert tilt_rad == pytest.approx(0.1 * frame.t_capture_s, abs=1e-6)


def test_tf_tells_the_same(tmp_path):
    def turned(axis, angle_rad):
        return *(math.sin(0.5 * angle_rad) * np.array(axis)).tolist(), math.cos(0.5 * angle_rad)

    still = transforms([("tilt", "camera_optical_frame", (-0.5, 0.5, -0.5, 0.5))])
    moving = [
        ("/tf", TF, max(0.0, t_s + 0.01), transforms(
            [("base", "pan", turned((0, 0, 1), pan_at(t_s))),
             ("pan", "tilt", turned((0, 1, 0), 0.1 * t_s))], T0_S + t_s))
        for t_s in np.arange(-0.01, 4.2, 0.04).tolist()
    ]  # fmt: skip
    path = write_mcap(
        tmp_path / "a.mcap", by_time([("/tf_static", TF, 0.0, still)], stream(40), moving)
    )
    frames, _, faults = whole(f"bag:{path}#{IMAGES}?tf=/tf:base,camera_optical_frame")
    assert len(frames) == 40 and faults == {}
    for frame in frames:
        expected = -pan_at(frame.t_capture_s), -0.1 * frame.t_capture_s
        assert frame.head_rad == pytest.approx(expected, abs=3e-4)


def test_pictures_without_head_angles_are_skipped_and_counted(tmp_path):
    late = [each for each in joints(60) if not 0.5 < each[2] < 2.9]
    path = write_mcap(tmp_path / "a.mcap", by_time(stream(50), late))
    frames, events, faults = whole(f"bag:{path}#{IMAGES}?joints=/joint_states:pan,tilt")
    times_s = [frame.t_capture_s for frame in frames]
    assert faults == {"head angle that is not known": 50 - len(frames)}
    assert 20 < len(frames) < 36 and not [t for t in times_s if 0.6 < t < 2.8]
    assert len(events) == 1


def test_joints_that_are_none_are_told_once(tmp_path):
    wrong = [
        ("/joint_states", JOINT_STATE, 0.1 * i, joint_state({"pan": math.nan})) for i in range(9)
    ]
    path = write_mcap(tmp_path / "a.mcap", by_time(stream(40), joints(41), wrong))
    frames, events, faults = whole(f"bag:{path}#{IMAGES}?joints=/joint_states:pan,")
    assert len(frames) == 40 and faults == {"joint angle that is no number": 9}
    assert len(events) == 1 and events[0].startswith("/joint_states: a message is skipped")


# -- what is wrong with messages ------------------------------------------------------------------


def hostile():
    """40 pictures, and between them what no camera sends: (kind, how often)."""
    good = list(stream(40))
    step, size, code = (image(pixels(0), stamp_s=T0_S + 1.0) for _ in range(3))
    step.step, size.height, code.encoding = 7, 2**31, "32FC1"
    torn = good[3][3]
    bad = {
        "step too short": [step] * 5,
        "too many pixels": [size] * 4,
        "encoding that is not read here": [code] * 3,
        "time that goes back or leaps ahead": [image(pixels(0), stamp_s=3.0)],
        "torn message": [],
    }
    wrong = [(IMAGES, IMAGE, 0.053 + 0.1 * i, each)
             for i, each in enumerate(itertools.chain(*bad.values()))]  # fmt: skip
    from ros2_link.messages import encode

    cdr = encode(torn, IMAGE)
    wrong += [(IMAGES, IMAGE, 2.05 + 0.1 * i, cdr[: 40 * i]) for i in range(6)]
    counts = {kind: len(each) for kind, each in bad.items()} | {"torn message": 6}
    return by_time(good, wrong), counts


@pytest.mark.parametrize("writer", ["sqlite3", "mcap", "lz4", "no chunks"])
def test_bad_messages_are_skipped_and_told_once_for_each_reason(tmp_path, writer):
    stored, counts = hostile()
    frames, events, faults = whole(f"bag:{WRITERS[writer](tmp_path / 'a.mcap', stored)}")
    assert numbers(frames) == list(range(40))
    assert faults == counts
    assert len(events) == len(counts)
    assert all(event.startswith(f"{IMAGES}: a message is skipped: ") for event in events)


def test_a_message_of_another_type_on_the_topic_is_skipped(tmp_path):
    others = [(IMAGES, JOINT_STATE, 0.55 + 0.1 * i, joint_state({"a": 1.0})) for i in range(7)]
    path = write_mcap(tmp_path / "a.mcap", by_time(stream(30), others))
    frames, _, faults = whole(f"bag:{path}")
    assert numbers(frames) == list(range(30)) and faults == {"message of another type": 7}


def test_a_bag_of_bad_pictures_alone_is_refused(tmp_path):
    wrong = [(*each[:3], image(pixels(0), "32FC1")) for each in stream(30)]
    path = write_mcap(tmp_path / "a.mcap", wrong)
    with pytest.raises(SourceError, match=r"no message .* is a picture \(encoding that is not"):
        open_source(f"bag:{path}")


def test_pictures_of_another_size_are_cut_to_the_first(tmp_path):
    other = [(IMAGES, IMAGE, 1.0 + 0.1 * i, image(pixels(5, 60, 60))) for i in range(10)]
    path = write_mcap(tmp_path / "a.mcap", by_time(stream(20), other))
    frames, _, _ = whole(f"bag:{path}")
    assert {frame.image.shape for frame in frames} == {(24, 32, 3)}


# -- bags that were cut off -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "writer", ["lz4", "plain", "no chunks", "no index", "foxglove, small chunks"]
)
@pytest.mark.parametrize("part", [0.35, 0.5, 0.7, 0.83, 0.9, 0.97, 0.999])
def test_a_cut_mcap_is_a_shorter_bag(tmp_path, writer, part):
    path = WRITERS[writer](tmp_path / "a.mcap", list(stream(60)))
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    frames, events, _ = whole(f"bag:{path}")
    assert numbers(frames) == list(range(len(frames)))
    assert len(frames) >= min(60, int(60 * part) - 6)
    assert events == [f"{path}: has no proper end; what can be read of it is the bag"]


def test_a_bag_cut_within_its_first_chunk_is_told(tmp_path):
    path = write_mcap(tmp_path / "a.mcap", list(stream(60)))
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(SourceError, match=f"{path}: has no message that can be read; use another"):
        open_source(f"bag:{path}")


@pytest.mark.parametrize("part", [0.4, 0.6, 0.8, 0.95, 0.9999])
def test_a_cut_database_is_a_shorter_bag(tmp_path, part):
    path = write_rosbag2(tmp_path / "a", list(stream(80))) / "a.db3"
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    frames, events, _ = whole(f"bag:{path}")
    # A page at the end may belong to any of the last messages.
    assert numbers(frames)[:-2] == list(range(len(frames) - 2))
    assert 80 * part - 12 < len(frames) <= 80
    assert events[0] == f"{path}: has no proper end; what can be read of it is the bag"


def test_messages_that_wait_in_the_databases_log_are_read(tmp_path):
    """As a crash leaves it, of a recorder that was asked to be resilient."""
    path = write_rosbag2(tmp_path / "a", list(stream(40))) / "a.db3"
    database = sqlite3.connect(path)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA wal_autocheckpoint = 0")
    database.execute("UPDATE messages SET timestamp = timestamp + 1 WHERE id > 25")
    database.execute("DELETE FROM messages WHERE id > 35")
    database.commit()
    crashed = tmp_path / "crashed"
    shutil.copytree(path.parent, crashed, ignore=shutil.ignore_patterns("*-shm"))
    database.close()
    frames, events, _ = whole(f"bag:{crashed}")
    assert numbers(frames) == list(range(35)) and events == []


def test_a_folder_whose_last_file_was_cut(tmp_path):
    everything = list(stream(40))
    folder = tmp_path / "bag"
    folder.mkdir()
    write_mcap(folder / "bag_0.mcap", everything[:20])
    last = write_mcap(folder / "bag_1.mcap", everything[20:], chunk_size=9000)
    last.write_bytes(last.read_bytes()[:-3000])
    frames, events, _ = whole(f"bag:{folder}")
    assert numbers(frames) == list(range(len(frames))) and 30 < len(frames) < 40
    assert len(events) == 2 and "has no proper end" in events[1]


def test_a_damaged_chunk_costs_its_pictures_alone(tmp_path):
    path = write_mcap(tmp_path / "a.mcap", list(stream(60)), CompressionType.LZ4, chunk_size=9000)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    frames, _, faults = whole(f"bag:{path}")
    assert 50 < len(frames) < 60 and faults["damaged chunk"] == 1
    assert faults["torn message"] == 60 - len(frames)
    with open_source(f"bag:{path}") as source:
        expected = read(source, 80)
    with open_source(f"bag:{path}") as source:
        read(source, 40)
        state = source.state()
    with open_source(f"bag:{path}") as source:
        source.restore(state)
        assert_same(read(source, 40), expected[40:])


# -- hostile files --------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", [CompressionType.ZSTD, CompressionType.LZ4])
def test_a_chunk_that_unpacks_to_gigabytes_is_refused(tmp_path, compression, monkeypatch):
    monkeypatch.setattr("edge_rjepa.sources.bags.mcap_file.MOST_CHUNK_BYTES", 2**20)
    huge = image(np.zeros((1000, 1000, 3), np.uint8), stamp_s=T0_S + 1.01)
    small = list(stream(30))
    stored = [*small[:10], (IMAGES, IMAGE, 1.01, huge), *small[10:]]
    path = write_mcap(tmp_path / "a.mcap", stored, compression, chunk_size=2000)
    frames, _, faults = whole(f"bag:{path}")
    assert numbers(frames) == list(range(30)) and faults["damaged chunk"] == 1


def test_a_chunk_that_holds_more_than_it_says_is_refused(tmp_path, monkeypatch):
    import mcap.writer

    path = tmp_path / "a.mcap"
    real = mcap.writer.Chunk

    def lying(**fields):
        return real(**fields | {"uncompressed_size": 100})

    monkeypatch.setattr("mcap.writer.Chunk", lying)
    write_mcap(path, list(stream(30)), chunk_size=9000)
    with pytest.raises(SourceError, match="no message on .* is a picture"):
        open_source(f"bag:{path}")


def test_a_database_that_computes_its_messages_is_refused(tmp_path):
    path = write_rosbag2(tmp_path / "a", list(stream(30))) / "a.db3"
    for i, trick in enumerate([
        "ALTER TABLE messages RENAME TO m; CREATE VIEW messages AS SELECT * FROM m",
        "ALTER TABLE messages ADD COLUMN more AS (zeroblob(1000000000))",
    ]):  # fmt: skip
        wrong = tmp_path / f"{i}.db3"
        shutil.copy(path, wrong)
        with sqlite3.connect(wrong) as database:
            database.executescript(trick)
        with pytest.raises(SourceError, match="has no plain table 'messages'"):
            open_source(f"bag:{wrong}")


def test_a_database_whose_names_are_no_text_is_refused(tmp_path):
    path = write_rosbag2(tmp_path / "a", list(stream(30))) / "a.db3"
    content = path.read_bytes()
    for name in (b"topics", b"messages", b"timestamp", b"serialization_format"):
        path.write_bytes(content.replace(name, b"\xff" * len(name)))
        with pytest.raises(SourceError) as error:
            open_source(f"bag:{path}")
        assert "\n" not in str(error.value)


def test_a_message_too_large_for_any_camera_is_not_read(tmp_path, monkeypatch):
    for module in ("stored", "sqlite_file"):
        monkeypatch.setattr(f"edge_rjepa.sources.bags.{module}.MOST_MESSAGE_BYTES", 100_000)
    huge = (IMAGES, IMAGE, 1.05, image(pixels(0, 640, 480), stamp_s=T0_S + 1.05))
    stored = by_time(stream(30), [huge])
    frames, _, faults = whole(f"bag:{write_rosbag2(tmp_path / 'a', stored)}")
    assert numbers(frames) == list(range(30)) and faults["message too large"] == 1
    frames, _, faults = whole(f"bag:{write_rosbag2(tmp_path / 'b', stored, 'MCAP', 'MESSAGE')}")
    assert numbers(frames) == list(range(30)) and faults["message too large"] == 1


def test_messages_held_for_their_order_are_bounded(tmp_path, monkeypatch):
    """Of chunks that all overlap, few are in memory."""
    stored = [(*each[:2], 0.0 if i % 10 == 0 else each[2], each[3])
              for i, each in enumerate(stream(60))]  # fmt: skip
    path = write_mcap(tmp_path / "a.mcap", stored, chunk_size=9000)
    monkeypatch.setattr("edge_rjepa.sources.bags.mcap_file.MOST_HELD_BYTES", 20_000)
    told = []
    bag = Bag(path, lambda *why: told.append(why))
    assert len(list(bag.messages({IMAGES}))) == 60 and told == []
    bag.close()


def test_passing_over_messages_is_reading_and_leaving_them(tmp_path):
    stored = list(stream(50))
    shuffled = [stored[i] for i in np.random.default_rng(2).permutation(50)]
    for path in (
        write_mcap(tmp_path / "a.mcap", stored, chunk_size=9000),
        write_mcap(tmp_path / "b.mcap", shuffled, chunk_size=9000),
        write_rosbag2(tmp_path / "c", shuffled),
    ):
        bag = Bag(path, lambda *why: pytest.fail(str(why)))
        everything = list(bag.messages({IMAGES}))
        assert [each.log_ns for each in everything] == sorted(at_ns(each[2]) for each in stored)
        for passed in (0, 1, 7, 25, 49, 50, 60):
            assert list(bag.messages({IMAGES}, passed)) == everything[passed:]
        bag.close()
