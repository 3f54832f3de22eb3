"""A recording that is one MCAP file: it replays as the folder does, and others can read it."""

import json
import math
import os
import signal
import stat
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from mcap.reader import make_reader
from mcap.writer import CompressionType, Writer

from calibration.angles import head_rotation
from calibration.model import CameraModel
from edge_rjepa.errors import SourceError
from edge_rjepa.optics.camera import Pinhole
from edge_rjepa.run.config import RunConfig
from edge_rjepa.run.run import Run
from edge_rjepa.sources import channels, mcap_recording, open_source
from edge_rjepa.sources.decode import decode
from edge_rjepa.sources.frame import Frame
from edge_rjepa.sources.recording import LOSSLESS, Recorder, RecordingError
from edge_rjepa.sources.replay import ReplaySource
from tests.foxglove_messages import decoded
from tests.sources.test_recording import (
    CAMERA,
    CONFIG,
    LIMITS,
    RECORD_FOR_EVER,
    assert_same,
    assert_same_end,
    files_of_at_most,
    gaze_of,
    noise,
    noise_frame,
    replayed,
    run_config,
)


@pytest.fixture
def small_chunks(monkeypatch):
    """A chunk is written after every second frame or so."""
    monkeypatch.setattr(mcap_recording, "CHUNK_BYTES", 2500)


def record(path, count, held_out=0, close=True, limits=LIMITS, lossless=True):
    """`count` noise frames with what Foxglove shows; the recorder."""
    frames = [noise_frame(1000 + i) for i in range(held_out)]
    recorder = Recorder(path, CAMERA, CONFIG, limits, frames, lossless)
    for i in range(count):
        frame, gaze_rad = noise_frame(i), gaze_of(i)
        if gaze_rad is not None:
            pixels = np.full((len(gaze_rad), 2), 4.0)
            surprise = np.arange(1.0, 1.0 + len(gaze_rad))
            recorder.channels.observe(
                SimpleNamespace(frame=frame, pixels=pixels, surprise=surprise)
            )
        if i == 1:
            recorder.channels.on_event("the camera is away")
            recorder.channels.on_metrics({"surprise_nats": 2.5, "loss_nats": math.nan})
        recorder.add(frame, gaze_rad, i % 4)
    if close:
        recorder.close("digest")
    return recorder


def messages_in(path):
    """(topic, decoded message) of all, by the mcap library and the file's own schemas."""
    with open(path, "rb") as file:
        for schema, channel, message in make_reader(file).iter_messages():
            yield channel.topic, decoded(schema.name, schema.encoding, schema.data, message.data)


def by_topic(path):
    found = {}
    for topic, message in messages_in(path):
        found.setdefault(topic, []).append(message)
    return found


def test_frames_come_back_exactly_with_all_that_was_said_of_them(tmp_path, small_chunks):
    path = tmp_path / "walk.mcap"
    record(path, 9, held_out=3)
    with ReplaySource(path) as source:
        assert source.camera == CAMERA and source.config == CONFIG and source.digest == "digest"
        assert source.head.limits_rad == LIMITS and source.live is False
        assert_same(source.held_out(5), [Frame(*noise_frame(1000 + i)[:4]) for i in range(3)])
        assert_same(replayed(source), [noise_frame(i) for i in range(9)])
        assert source.drain_events() == []
    with mcap_recording.McapReader(path) as reader:
        for i in range(9):
            again = reader.read().gaze_rad
            assert (again is None) if i % 4 == 0 else np.array_equal(again, gaze_of(i))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_others_read_it_and_see_what_was_seen(tmp_path):
    path = tmp_path / "walk.mcap"
    record(path, 8)
    found = by_topic(path)
    assert len(found[channels.PICTURE]) == len(found["/edge_rjepa/frame"]) == 8
    for i, picture in enumerate(found[channels.PICTURE]):
        assert (picture.format, picture.frame_id) == ("png", "camera_optical_frame")
        np.testing.assert_array_equal(decode(picture.data), noise_frame(i).image)
        pan_rad, tilt_rad = noise_frame(i).head_rad
        joints = {each.name: each.position for each in found[channels.JOINTS][i].joints}
        assert joints == {"pan_joint": -pan_rad, "tilt_joint": -tilt_rad}  # left and down positive
    looked = [i for i in range(8) if i % 4]
    stamps = [
        (found[channels.PICTURE][i].timestamp.seconds, found[channels.PICTURE][i].timestamp.nanos)
        for i in looked
    ]
    over = found[channels.FIXATIONS]
    assert [(each.timestamp.seconds, each.timestamp.nanos) for each in over] == stamps
    assert [len(each.circles) for each in over] == [i % 4 for i in looked]
    assert found[channels.SURPRISE][2] == {"mean_nats": 2.0, "highest_nats": 3.0, "fixations": 3}
    assert found[channels.METRICS] == [{"surprise_nats": 2.5}]  # NaN is no JSON
    assert found[channels.EVENTS][0].message == "the camera is away"
    lens = found[channels.CALIBRATION][0]
    assert (lens.width, lens.height, lens.K[0]) == (13, 9, CAMERA.focal_px)


def test_names_that_are_no_utf_8_are_told_as_far_as_can_be(tmp_path):
    with Recorder(tmp_path / "new" / "walk.mcap", CAMERA, {"source": "\udcff.mp4"}) as recorder:
        recorder.channels.on_event("\udcff.mp4 has ended")
        recorder.add(noise_frame(0), None, 0)
    found = by_topic(tmp_path / "new" / "walk.mcap")
    assert found[channels.EVENTS][0].message == "?.mp4 has ended"
    with ReplaySource(tmp_path / "new" / "walk.mcap") as source:
        assert source.config == {"source": "\udcff.mp4"}


def test_without_a_head_there_are_no_joints(tmp_path):
    record(tmp_path / "walk.mcap", 1, limits=None)
    assert channels.JOINTS not in by_topic(tmp_path / "walk.mcap")


def rotated(quaternion, vector):
    """By a unit quaternion, from its definition."""
    x, y, z, w = (getattr(quaternion, name) for name in "xyzw")
    v = np.array([x, y, z])
    return vector + 2.0 * np.cross(v, np.cross(v, vector) + w * np.asarray(vector))


def test_transforms_have_the_axes_of_rep_103(tmp_path):
    """x ahead, y left, z up: what lies ahead of the camera is where the head points."""
    path, pan_rad, tilt_rad = tmp_path / "walk.mcap", 0.3, 0.1  # right, up
    with Recorder(path, CAMERA, CONFIG, LIMITS) as recorder:
        recorder.add(Frame(noise(0), 1.0, (pan_rad, tilt_rad), 0), None, 0)
    link, optical = by_topic(path)[channels.TRANSFORMS][0].transforms
    assert (link.parent_frame_id, link.child_frame_id) == ("base_link", "camera_link")
    assert (optical.parent_frame_id, optical.child_frame_id) == (
        "camera_link",
        "camera_optical_frame",
    )
    ahead = rotated(link.rotation, rotated(optical.rotation, [0.0, 0.0, 1.0]))
    wanted = [
        math.cos(tilt_rad) * math.cos(pan_rad),
        -math.cos(tilt_rad) * math.sin(pan_rad),
        math.sin(tilt_rad),
    ]
    np.testing.assert_allclose(ahead, wanted, atol=1e-12)
    right = rotated(link.rotation, rotated(optical.rotation, [1.0, 0.0, 0.0]))
    x, y, z = head_rotation((pan_rad, tilt_rad)) @ [1.0, 0.0, 0.0]
    np.testing.assert_allclose(right, [z, -x, -y], atol=1e-12)


@pytest.mark.parametrize(
    ("lens", "distortion", "model"),
    [("pinhole", (0.1, -0.02, 0.0, 0.001, 0.0), "plumb_bob"),
     ("fisheye", (0.1, -0.02, 0.0, 0.001), "kannala_brandt")],
)  # fmt: skip
def test_a_calibrated_lens_is_told_as_foxglove_has_it(lens, distortion, model):
    camera = CameraModel(lens, 640, 480, 500.0, 510.0, 320.5, 239.5, distortion)
    made = channels.Messages(camera, False, False).of_camera().content
    said = repr(made)
    assert model in said and all(repr(value) in said for value in (500.0, 510.0, 320.5, 0.1))


# --- going on, and what a crash leaves -----------------------------------------------------------


@pytest.mark.parametrize("place", range(9))
def test_a_replay_goes_on_from_its_state(tmp_path, small_chunks, place):
    path = tmp_path / "walk.mcap"
    record(path, 8)
    with ReplaySource(path) as source:
        for _ in range(min(place, 8)):
            source.read_next(0.0)
        state, head = json.loads(json.dumps(source.state())), source.head.at(0.0)
    with ReplaySource(path) as source:
        source.read_next(0.0)
        source.restore(state)
        assert source.head.at(0.0) == head and source.state() == state
        assert_same(replayed(source), [noise_frame(i) for i in range(place, 8)])


def test_cut_anywhere_it_is_a_shorter_recording(tmp_path, small_chunks):
    whole, path = tmp_path / "whole.mcap", tmp_path / "walk.mcap"
    record(whole, 24, held_out=2)
    content = whole.read_bytes()
    with ReplaySource(whole) as source:
        described = content.index(b"edge_rjepa recording") + 2000  # so far it is no recording
        wanted = replayed(source)
    counts = []
    for end in np.linspace(described, len(content) - 1, 30).astype(int):
        path.write_bytes(content[:end])
        with ReplaySource(path) as source:
            frames = replayed(source)
            assert_same(frames, wanted[: len(frames)])
            if end < 0.7 * len(content):
                assert "was not closed" in source.drain_events()[0]
        counts.append(len(frames))
    assert counts == sorted(counts) and counts[0] == 0 and counts[-1] == 24
    assert len(set(counts)) > 8


def test_the_last_bytes_of_a_power_cut_are_left_out(tmp_path, small_chunks):
    path = tmp_path / "walk.mcap"
    record(path, 8, close=False)._writer.close()
    content = path.read_bytes()
    for end in (content[:-700] + bytes(700), content + bytes(5000), content + b"\x06" + bytes(8)):
        path.write_bytes(end)
        with ReplaySource(path) as source:
            frames = replayed(source)
            assert "was not closed" in source.drain_events()[0]
        assert len(frames) >= 4
        assert_same(frames, [noise_frame(i) for i in range(len(frames))])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_killed_while_recording_it_lacks_a_chunk_at_most(tmp_path, seed):
    """kill -9 with the recorder in full flow: what came before the chunk it was filling replays."""
    path = tmp_path / "walk.mcap"
    wait_for = int(np.random.default_rng(seed).integers(1000, 3000))
    program = RECORD_FOR_EVER.replace(
        "recorder = ",
        "from edge_rjepa.sources import mcap_recording\n"
        "mcap_recording.CHUNK_BYTES = 40_000\nrecorder = ",
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    ) as run:
        for line in run.stdout:
            if int(line) >= wait_for:
                break
        run.send_signal(signal.SIGKILL)
        added = [int(line), *map(int, run.stdout.read().split())][-1] + 1
    with ReplaySource(path) as source:
        frames = replayed(source)
    assert added - 100 < len(frames) <= added + 1
    assert_same(frames[-50:], [noise_frame(i) for i in range(len(frames))][-50:])


def test_a_disk_that_fills_up_ends_the_recording_and_keeps_what_there_is(tmp_path, small_chunks):
    path = tmp_path / "walk.mcap"
    recorder = Recorder(path, CAMERA, CONFIG)
    added = 0
    with files_of_at_most(40_000), pytest.raises(RecordingError, match="cannot .* can be replayed"):
        for i in range(100):
            recorder.add(noise_frame(i), None, 0)
            added += 1
    with pytest.raises(RecordingError, match="has ended"):
        recorder.add(noise_frame(added), None, 0)
    recorder.close()
    with ReplaySource(path) as source:
        frames = replayed(source)
    assert 3 < added - 4 <= len(frames) <= added + 1
    for i, frame in enumerate(frames):
        np.testing.assert_array_equal(frame.image, noise_frame(i).image)


def test_nothing_stays_open(tmp_path):
    before = set(os.listdir("/proc/self/fd"))
    record(tmp_path / "a.mcap", 3, held_out=2)
    assert set(os.listdir("/proc/self/fd")) == before
    with ReplaySource(tmp_path / "a.mcap") as source:
        replayed(source)
        source.held_out(4)
    assert set(os.listdir("/proc/self/fd")) == before


# --- damage, and what is no recording ------------------------------------------------------------


def test_damage_before_the_end_is_noticed_at_its_chunk(tmp_path, small_chunks):
    path = tmp_path / "walk.mcap"
    record(path, 24)
    content = bytearray(path.read_bytes())
    content[content.index(LOSSLESS.encode(noise_frame(12).image)) + 200] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(SourceError, match="damaged.*copy") as caught, ReplaySource(path) as source:
        replayed(source)
    assert "\n" not in str(caught.value)


def test_other_files_are_refused_in_a_line(tmp_path):
    bag, text = tmp_path / "bag.mcap", tmp_path / "text.mcap"
    with open(bag, "wb") as file:
        writer = Writer(file)
        writer.start("ros2")
        writer.finish()
    with pytest.raises(SourceError, match="no recording of edge_rjepa; for a bag of ROS .* bag:"):
        ReplaySource(bag)
    text.write_text("pictures: none")
    with pytest.raises(SourceError, match="no MCAP file"):
        ReplaySource(text)
    with pytest.raises(SourceError, match="not a recording: name what --record wrote"):
        ReplaySource(tmp_path / "none.mcap")


def test_as_a_bag_it_is_told_what_it_is(tmp_path):
    path = tmp_path / "walk.mcap"
    record(path, 3)
    with pytest.raises(SourceError, match=f"is a recording of edge_rjepa: replay:{path}") as error:
        open_source(f"bag:{path}")
    assert "\n" not in str(error.value)


def kill(recorder):
    """As if its process was: nothing more is written, and nobody holds the file."""
    recorder._writer.close()


@pytest.mark.parametrize("held_out", [0, 2])
@pytest.mark.parametrize("ended", [False, True])
def test_a_recording_that_took_no_frame_is_begun_again(tmp_path, held_out, ended):
    path = tmp_path / "walk.mcap"
    kill(record(path, 0, held_out=held_out, close=ended))
    record(path, 3, held_out=1)
    with ReplaySource(path) as source:
        assert len(replayed(source)) == 3 and len(source.held_out(9)) == 1


def test_a_recording_that_waits_for_its_first_frame_is_not_taken_away(tmp_path):
    path = tmp_path / "walk.mcap"
    waits = record(path, 0, held_out=2, close=False)
    with pytest.raises(RecordingError, match="another process records into .*: stop it first"):
        Recorder(path, CAMERA, CONFIG)
    waits.add(noise_frame(0), gaze_of(0), 0)
    waits.close("digest")
    with ReplaySource(path) as source:
        assert len(replayed(source)) == 1


def with_a_frame(path):
    record(path, 1)


def killed_after_a_frame(path):
    recorder = record(path, 1, held_out=1, close=False)
    recorder._writer._write_chunk()
    kill(recorder)


def with_a_damaged_chunk(path):
    record(path, 3)
    content = bytearray(path.read_bytes())
    content[content.index(LOSSLESS.encode(noise_frame(0).image)) + 200] ^= 0x10
    path.write_bytes(content)


def cut_within_its_first_chunk(path):
    record(path, 1)
    content = path.read_bytes()
    path.write_bytes(content[: content.index(LOSSLESS.encode(noise_frame(0).image)) + 200])


def zeros_in_the_middle(path):
    record(path, 3, held_out=1)
    content = bytearray(path.read_bytes())
    at = content.index(LOSSLESS.encode(noise_frame(1000).image))
    content[at + 600 : at + 700] = bytes(100)
    path.write_bytes(content)


def of_another_program(path):
    with open(path, "wb") as file:
        writer = Writer(file)
        writer.start("ros2")
        writer.finish()


@pytest.mark.parametrize(
    "left",
    [
        with_a_frame, killed_after_a_frame, with_a_damaged_chunk, cut_within_its_first_chunk,
        zeros_in_the_middle, of_another_program, Path.touch,
    ],
)  # fmt: skip
def test_what_is_or_may_be_of_use_is_not_recorded_into(tmp_path, left):
    path = tmp_path / "walk.mcap"
    left(path)
    before = path.read_bytes()
    with pytest.raises(RecordingError, match="is there already: record into a new file"):
        Recorder(path, CAMERA, CONFIG)
    assert path.read_bytes() == before


def test_a_link_is_not_recorded_into(tmp_path):
    path, link = tmp_path / "walk.mcap", tmp_path / "link.mcap"
    record(path, 0)
    link.symlink_to(path)
    with pytest.raises(RecordingError, match="is there already"):
        Recorder(link, CAMERA, CONFIG)
    assert path.exists() and link.is_symlink()


def test_compressed_chunks_are_refused_with_the_cure(tmp_path):
    """Else a small file could ask for all memory there is."""
    path = tmp_path / "walk.mcap"
    with pytest.MonkeyPatch.context() as patch:
        zstd = SimpleNamespace(NONE=CompressionType.ZSTD)
        patch.setattr(mcap_recording, "CompressionType", zstd)
        record(path, 2)
    with pytest.raises(SourceError, match="compressed .*: write it anew with `mcap compress"):
        ReplaySource(path)


# --- a run, recorded and replayed ----------------------------------------------------------------


@pytest.mark.slow
def test_a_replay_ends_as_the_recorded_run_of_a_scene_with_its_head(tmp_path):
    config, path = run_config("scene:"), tmp_path / "walk.mcap"
    with open_source(config.source, config.seed, config.camera) as source:
        held_out = source.held_out(config.held_out_frames)
        limits_rad = source.head.limits_rad
        with Recorder(path, source.camera, asdict(config), limits_rad, held_out) as recorder:
            run = Run.start(tmp_path / "run", config, source, recorder=recorder)
            run.loop.observers.append(recorder.channels.observe)
            run.learn(lambda run: run.frames < 50, lambda progress: None)
            summary = run.finish()
            recorder.close(run.learner.digest)
    with open_source(f"replay:{path}") as source:
        config = replace(RunConfig.from_dict(source.config), source=f"replay:{path}")
        again = Run.start(tmp_path / "replay", config, source)
        again.learn(lambda run: True, lambda progress: None)
        assert source.digest == again.learner.digest
        assert summary == again.finish()
    assert_same_end(run, again)
    assert len(by_topic(path)[channels.FIXATIONS]) == run.frames


def test_memory_does_not_grow_with_frames(tmp_path):
    """The chunk that is filled is bounded, and what waits is taken with each frame."""
    recorder = Recorder(tmp_path / "walk.mcap", Pinhole(64, 48, 1.0), CONFIG)
    for i in range(400):
        recorder.channels.on_event("x")
        recorder.add(Frame(noise(i, 48, 64), 0.1 * i, (0.0, 0.0), i), None, 0)
        assert not recorder.channels._waiting
    assert recorder._writer._waiting_bytes < mcap_recording.CHUNK_BYTES
    recorder.close()
