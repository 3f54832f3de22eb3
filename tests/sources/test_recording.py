"""What is recorded comes back exactly, whatever stopped the recording, or it says what is wrong."""

import inspect
import json
import math
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.faulty_camera import FaultyCamera
from edge_rjepa.errors import InputError, SourceError
from edge_rjepa.learner.config import RJepaConfig
from edge_rjepa.optics.camera import Pinhole
from edge_rjepa.run import held_out
from edge_rjepa.run.config import RunConfig
from edge_rjepa.run.pace import Pace
from edge_rjepa.run.run import Run
from edge_rjepa.sources import open_source, recording
from edge_rjepa.sources.config import CameraConfig
from edge_rjepa.sources.frame import Frame, FrameUse, SourceEnded
from edge_rjepa.sources.recording import FRAMES, Recorder, RecordingError
from edge_rjepa.sources.replay import ReplaySource
from edge_rjepa.sources.scene import skimage_photographs

CAMERA = Pinhole(13, 9, 1.1)
LIMITS = (-0.3, 0.4), (-0.1, 0.2)
CONFIG = {"seed": 3, "gaze": {"policy": "mixed", "decay": 0.1 + 0.2}}


@pytest.fixture
def short_segments(monkeypatch):
    """Three pictures a file."""
    monkeypatch.setattr(recording, "FRAMES_A_SEGMENT", 3)


def noise(seed, height=9, width=13):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def noise_frame(i):
    """Frame i of a stream: what is in it follows from i."""
    rng = np.random.default_rng([i, 1])
    t_s, pan, tilt = rng.normal(size=3)
    return Frame(noise(i), 100.0 + i / 30 + 1e-3 * t_s, (pan, tilt), 2 * i, *used_for(i % 4))


def used_for(fixations):
    """What a frame with so many fixations was used for, and how many they were."""
    return FrameUse.LEARN if fixations else FrameUse.SET_ASIDE, fixations


def gaze_of(i):
    return np.random.default_rng([i, 2]).normal(size=(i % 4, 2)) if i % 4 else None


# For tests of `record(.., close=False)`: what is killed closes nothing.
leaves_files_open = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


def record(folder, count, held_out=0, close=True, limits=LIMITS, lossless=True):
    """`count` noise frames; the recorder, closed or left as it was when its process was killed."""
    frames = [noise_frame(1000 + i) for i in range(held_out)]
    recorder = Recorder(folder, CAMERA, CONFIG, limits, frames, lossless)
    for i in range(count):
        recorder.add(noise_frame(i), gaze_of(i), i % 4)
    if close:
        recorder.close("digest")
    return recorder


def replayed(source):
    """Every frame left in a source."""
    frames = []
    while True:
        try:
            frames.append(source.read_next(0.0))
        except SourceEnded:
            return frames


def assert_same(frames, wanted):
    assert len(frames) == len(wanted)
    for frame, other in zip(frames, wanted, strict=True):
        assert frame[1:] == other[1:]
        assert frame.image.dtype == np.uint8
        np.testing.assert_array_equal(frame.image, other.image)


def assert_replays(folder, count, news=""):
    """The first `count` noise frames come back, and the news tell so much."""
    with ReplaySource(folder) as source:
        assert_same(replayed(source), [noise_frame(i) for i in range(count)])
        said = source.drain_events()
        assert (news in said[0] and len(said) == 1) if news else said == []
        assert source.drain_events() == []


# --- what goes in comes out ----------------------------------------------------------------------

finite = st.floats(allow_nan=False, allow_infinity=False)
frames = st.tuples(
    st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32), finite, finite, finite,
    st.integers(0, 2**60), st.lists(st.tuples(finite, finite), max_size=5),
)  # fmt: skip


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.lists(frames, max_size=8))
def test_frames_of_any_size_come_back_exactly(drawn):
    taken = [
        (Frame(noise(seed, height, width), t_s, (pan, tilt), sequence, *used_for(len(gaze))), gaze)
        for height, width, seed, t_s, pan, tilt, sequence, gaze in drawn
    ]
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(
        recording, "FRAMES_A_SEGMENT", 3
    ):  # fmt: skip
        with Recorder(Path(folder), CAMERA, CONFIG, LIMITS) as recorder:
            for frame, gaze in taken:
                recorder.add(frame, np.array(gaze).reshape(-1, 2) if gaze else None, len(gaze))
        with ReplaySource(Path(folder)) as source:
            assert_same(replayed(source), [frame for frame, _ in taken])
            assert source.drain_events() == []
        with recording.FrameReader(Path(folder), ".png") as reader:
            for _, gaze in taken:
                again = reader.read().gaze_rad
                assert (again is None) if not gaze else again.tolist() == [list(g) for g in gaze]


def test_a_recording_tells_what_it_was_made_with(tmp_path):
    record(tmp_path, 2, held_out=3)
    with ReplaySource(tmp_path) as source:
        assert source.camera == CAMERA and source.config == CONFIG and source.digest == "digest"
        assert source.live is False and source.head.limits_rad == LIMITS
        wanted = [Frame(*noise_frame(1000 + i)[:4]) for i in range(3)]
        assert_same(source.held_out(10), wanted)
        assert_same(source.held_out(2), wanted[:2])
        assert source.held_out(0) == []
        assert len(replayed(source)) == 2


def test_a_source_without_head_or_frames_set_aside_has_none_in_replay(tmp_path):
    record(tmp_path, 1, limits=None)
    with ReplaySource(tmp_path) as source:
        assert source.head is None and source.held_out(5) == []
        assert source.read_next(0.0).head_rad == noise_frame(0).head_rad


def test_the_head_was_where_it_was(tmp_path):
    record(tmp_path, 5)
    with ReplaySource(tmp_path) as source:
        for i in range(5):
            source.read_next(0.0)
            assert source.head.move(0.39, -2.0) == (0.39, -0.1)
            assert source.head.at(0.0) == (*noise_frame(i).head_rad, False)
        assert source.head.drain_events() == []


def test_a_recording_of_nothing_ends_at_once(tmp_path):
    record(tmp_path, 0)
    assert_replays(tmp_path, 0)


def test_jpeg_is_close_and_small(tmp_path):
    pictures = [cv2.imread(str(path)) for path in skimage_photographs()[:4]]
    sizes, noise_ratios_db = [], []
    for lossless in (True, False):
        folder = tmp_path / str(lossless)
        with Recorder(folder, CAMERA, CONFIG, lossless=lossless) as recorder:
            for i, picture in enumerate(pictures):
                recorder.add(Frame(picture, 0.0, (0.0, 0.0), i), None, 0)
        with ReplaySource(folder) as source:
            again = [frame.image for frame in replayed(source)]
        noise_ratios_db.append([cv2.PSNR(a, b) for a, b in zip(pictures, again, strict=True)])
        sizes.append(sum(path.stat().st_size for path in folder.glob("pictures.*")))
    assert min(noise_ratios_db[0]) > 300.0  # nothing differs
    assert 33.0 < min(noise_ratios_db[1]) < 60.0
    assert sizes[1] < 0.4 * sizes[0]


@pytest.mark.parametrize("lossless", [True, False])
def test_other_programs_play_the_pictures(tmp_path, lossless):
    """They are whole pictures one after another, which FFmpeg knows."""
    frame = Frame(noise(0, 48, 64), 0.0, (0.0, 0.0), 0)
    with Recorder(tmp_path, CAMERA, CONFIG, lossless=lossless) as recorder:
        for _ in range(7):
            recorder.add(frame, None, 0)
    capture = cv2.VideoCapture(str(next(tmp_path.glob("pictures.*"))), cv2.CAP_FFMPEG)
    count = 0
    while capture.read()[0]:
        count += 1
    capture.release()
    assert count == 7


def test_nothing_stays_open(tmp_path, short_segments):
    before = set(os.listdir("/proc/self/fd"))
    record(tmp_path / "a", 8, held_out=4)
    assert set(os.listdir("/proc/self/fd")) == before
    with ReplaySource(tmp_path / "a") as source:
        replayed(source)
        source.held_out(4)
        assert len(os.listdir("/proc/self/fd")) <= len(before) + 2
    assert set(os.listdir("/proc/self/fd")) == before


# --- going on from the middle --------------------------------------------------------------------


@pytest.mark.parametrize("place", range(9))
def test_a_replay_goes_on_from_its_state(tmp_path, short_segments, place):
    record(tmp_path, 8)
    with ReplaySource(tmp_path) as source:
        for _ in range(min(place, 8)):
            source.read_next(0.0)
        state, head = json.loads(json.dumps(source.state())), source.head.at(0.0)
    with ReplaySource(tmp_path) as source:
        source.read_next(0.0)
        source.restore(state)
        assert source.head.at(0.0) == head and source.state() == state
        assert_same(replayed(source), [noise_frame(i) for i in range(place, 8)])


def test_a_state_of_another_recording_is_refused(tmp_path):
    record(tmp_path / "a", 4)
    record(tmp_path / "b", 4)
    with ReplaySource(tmp_path / "a") as a, ReplaySource(tmp_path / "b") as b:
        a.read_next(0.0)
        with pytest.raises(SourceError, match="not the recording"):
            b.restore(a.state())
        assert_same(replayed(b), [noise_frame(i) for i in range(4)])


def test_a_state_beyond_a_lost_end_is_refused(tmp_path):
    record(tmp_path, 4)
    with ReplaySource(tmp_path) as source:
        replayed(source)
        state = source.state()
    cut(tmp_path / FRAMES, -1)
    with ReplaySource(tmp_path) as source, pytest.raises(SourceError, match="lost its end"):
        source.restore(state)


# --- what a crash leaves -------------------------------------------------------------------------


def cut(path, length):
    content = path.read_bytes()
    path.write_bytes(content[:length])


RECORD_FOR_EVER = f"""
import sys
from pathlib import Path
import numpy as np
from edge_rjepa.optics.camera import Pinhole
from edge_rjepa.sources.recording import Recorder
from edge_rjepa.sources.frame import Frame, FrameUse

{inspect.getsource(noise)}
{inspect.getsource(used_for)}
{inspect.getsource(noise_frame)}
{inspect.getsource(gaze_of)}

recorder = Recorder(Path(sys.argv[1]), Pinhole(13, 9, 1.0), {{}})
for i in range(10**6):
    recorder.add(noise_frame(i), gaze_of(i), i % 4)
    print(i, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_killed_while_recording_what_was_added_replays(tmp_path, seed):
    """kill -9 with the recorder in full flow; past the end of the first file with pictures too."""
    wait_for = int(np.random.default_rng(seed).integers(0, 700))
    program = [sys.executable, "-c", RECORD_FOR_EVER, str(tmp_path)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as run:
        for line in run.stdout:
            if int(line) >= wait_for:
                break
        run.send_signal(signal.SIGKILL)
        added = [int(line), *map(int, run.stdout.read().split())][-1] + 1
    with ReplaySource(tmp_path) as source:
        frames = replayed(source)
        assert "was not closed" in source.drain_events()[0]
    assert added <= len(frames) <= added + 1
    assert_same(frames, [noise_frame(i) for i in range(len(frames))])


@leaves_files_open
@pytest.mark.parametrize("count", [1, 3, 4])
def test_wherever_writing_stopped_the_frames_before_replay(tmp_path, short_segments, count):
    """Every state of the files from before the last frame to after it; a picture comes first."""
    record(tmp_path, count, close=False)
    segment = tmp_path / f"pictures.{(count - 1) // 3:06d}.png"
    lines, pictures = (tmp_path / FRAMES).read_bytes(), segment.read_bytes()
    last = json.loads(lines.splitlines()[-1])
    without = lines[: lines.rfind(b"\n", 0, -1) + 1]
    rng = np.random.default_rng(count)

    (tmp_path / FRAMES).write_bytes(without)
    for end in (last["offset"], *rng.integers(last["offset"] + 1, len(pictures), 10)):
        segment.write_bytes(pictures[:end])
        torn = end > last["offset"] or segment.stat().st_size == 0
        assert_replays(tmp_path, count - 1, "broke off" if torn and end else "not closed")

    segment.write_bytes(pictures)
    for end in (len(without), *rng.integers(len(without) + 1, len(lines), 10), len(lines) - 1):
        (tmp_path / FRAMES).write_bytes(lines[:end])
        assert_replays(tmp_path, count - 1, "broke off")
    (tmp_path / FRAMES).write_bytes(lines)
    assert_replays(tmp_path, count, "was not closed")


@pytest.mark.parametrize("lost", range(1, 6))
def test_after_a_power_cut_pictures_may_lack_though_lines_are_there(tmp_path, short_segments, lost):
    record(tmp_path, 8)
    offsets = [json.loads(line) for line in (tmp_path / FRAMES).read_bytes().splitlines()]
    for line in offsets[-lost:]:
        path = tmp_path / f"pictures.{line['segment']:06d}.png"
        path.write_bytes(path.read_bytes()[: line["offset"]] + bytes(line["bytes"] // 2))
    assert_replays(tmp_path, 8 - lost, f"the last {lost} of 8 recorded frames are missing")


def test_zeros_at_the_end_of_the_lines_are_left_out(tmp_path):
    record(tmp_path, 4)
    with open(tmp_path / FRAMES, "ab") as file:
        file.write(bytes(100))
    with ReplaySource(tmp_path) as source:
        assert len(replayed(source)) == 4


@contextmanager
def files_of_at_most(limit_bytes):
    """Breaks a write off in the middle, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("fixations", [1, 60], ids=["in a picture", "in a line"])
def test_a_disk_that_fills_up_ends_the_recording_and_keeps_what_there_is(tmp_path, fixations):
    recorder = Recorder(tmp_path, CAMERA, CONFIG)
    added = 0
    with files_of_at_most(5000), pytest.raises(RecordingError, match="cannot .* can be replayed"):
        for i in range(100):
            recorder.add(noise_frame(i), np.full((fixations, 2), 0.123456789), i % 4)
            added += 1
    assert 0 < added < 15
    with pytest.raises(RecordingError, match="has ended"):  # a gap would be worse than an end
        recorder.add(noise_frame(added), None, 0)
    recorder.close()
    assert_replays(tmp_path, added, "broke off")


def test_an_error_while_recording_is_not_hidden_by_closing(tmp_path):
    with pytest.raises(ZeroDivisionError), Recorder(tmp_path / "a", CAMERA, CONFIG) as recorder:
        recorder.add(noise_frame(0), None, 0)
        (tmp_path / "a").rename(tmp_path / "b")
        raise ZeroDivisionError
    with ReplaySource(tmp_path / "b") as source:
        assert len(replayed(source)) == 1


# --- damage --------------------------------------------------------------------------------------


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 0x10
    path.write_bytes(content)


def assert_says(folder, match):
    """Opening or reading it raises one line that says so."""
    with pytest.raises(SourceError, match=match) as caught, ReplaySource(folder) as source:
        replayed(source)
    assert "\n" not in str(caught.value) and "copy" in str(caught.value)


@pytest.mark.parametrize("lossless", [True, False])
def test_a_damaged_picture_is_noticed_at_its_frame(tmp_path, short_segments, lossless):
    record(tmp_path, 8, lossless=lossless)
    path = next(tmp_path.glob("pictures.000001.*"))
    flip(path, json.loads((tmp_path / FRAMES).read_bytes().splitlines()[5])["offset"] - 10)
    with ReplaySource(tmp_path) as source:
        for i in range(4):
            assert source.read_next(0.0).sequence == noise_frame(i).sequence
        with pytest.raises(SourceError, match=f"frame 4 of 8 is damaged, .*{path.name}"):
            source.read_next(0.0)


def test_a_file_cut_short_in_the_middle_is_noticed(tmp_path, short_segments):
    record(tmp_path, 8)
    cut(tmp_path / "pictures.000000.png", -1)
    assert_says(tmp_path, "frame 2 of 8 is damaged")


@pytest.mark.parametrize("number", range(3))
def test_a_missing_file_is_named(tmp_path, short_segments, number):
    record(tmp_path, 8)
    (tmp_path / f"pictures.{number:06d}.png").unlink()
    assert_says(tmp_path, f"pictures.{number:06d}.png is missing: put it back")


def test_a_damaged_line_is_noticed(tmp_path):
    record(tmp_path, 8)
    lines = (tmp_path / FRAMES).read_bytes().splitlines(keepends=True)
    for damaged in (b"{}\n", b"[]\n", lines[3].replace(b'"offset": ', b'"offset": -'), b"\xff\n"):
        (tmp_path / FRAMES).write_bytes(b"".join([*lines[:3], damaged, *lines[4:]]))
        assert_says(tmp_path, "frame 3 of 8 is damaged")


@pytest.mark.parametrize("lost", [0, 3, 7])
def test_a_missing_line_is_noticed(tmp_path, short_segments, lost):
    record(tmp_path, 9)
    lines = (tmp_path / FRAMES).read_bytes().splitlines(keepends=True)
    (tmp_path / FRAMES).write_bytes(b"".join(lines[:lost] + lines[lost + 1 :]))
    assert_says(tmp_path, "damaged")


# --- what is no recording, and what cannot be recorded -------------------------------------------


def test_other_folders_are_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(SourceError, match="not a recording: name what --record wrote"):
            ReplaySource(folder)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"format": "other"}', b"\xff", b'{"format": "edge_rjepa recording"}']
)
def test_another_description_is_refused(tmp_path, content):
    record(tmp_path, 1)
    (tmp_path / recording.ABOUT).write_bytes(content)
    assert_says(tmp_path, "does not describe a recording")


def test_a_newer_version_is_refused(tmp_path):
    record(tmp_path, 1)
    values = json.loads((tmp_path / recording.ABOUT).read_text())
    (tmp_path / recording.ABOUT).write_text(json.dumps(values | {"version": 2}))
    with pytest.raises(SourceError, match="version 2, this edge_rjepa reads up to 1: upgrade"):
        ReplaySource(tmp_path)


def test_missing_lines_are_named(tmp_path):
    record(tmp_path, 1)
    (tmp_path / FRAMES).unlink()
    assert_says(tmp_path, FRAMES)


@leaves_files_open
@pytest.mark.parametrize("killed_before_it_said_what_it_is", [False, True])
def test_a_recording_that_took_no_frame_is_begun_again(tmp_path, killed_before_it_said_what_it_is):
    record(tmp_path, 0, held_out=3, close=False)
    if killed_before_it_said_what_it_is:
        (tmp_path / recording.ABOUT).unlink()
        (tmp_path / FRAMES).unlink()
    record(tmp_path, 2, held_out=1)
    assert_replays(tmp_path, 2)


def test_a_folder_in_use_is_not_recorded_into(tmp_path):
    record(tmp_path, 1)
    with pytest.raises(RecordingError, match="not an empty folder: record into a new one"):
        Recorder(tmp_path, CAMERA, CONFIG)
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(RecordingError, match="file"):
            Recorder(folder, CAMERA, CONFIG)
    assert_replays(tmp_path, 1)


@pytest.mark.parametrize("held_out", [0, 2])
def test_a_recording_that_waits_for_its_first_frame_is_not_taken_away(tmp_path, held_out):
    waits = record(tmp_path, 0, held_out=held_out, close=False)
    with pytest.raises(RecordingError, match="another process records into"):
        Recorder(tmp_path, CAMERA, CONFIG)
    waits.add(noise_frame(0), gaze_of(0), 0)
    waits.close("digest")
    assert_replays(tmp_path, 1)


def test_a_recording_is_kept_from_others_while_it_takes_what_is_held_out(tmp_path):
    refused = []

    def held_out():
        with pytest.raises(RecordingError, match="another process records into") as told:
            Recorder(tmp_path, CAMERA, CONFIG)
        refused.append(told)
        yield noise_frame(1000)

    with Recorder(tmp_path, CAMERA, CONFIG, LIMITS, held_out()) as recorder:
        recorder.add(noise_frame(0), gaze_of(0), 0)
    assert refused
    assert_replays(tmp_path, 1)


@leaves_files_open
def test_a_recording_killed_before_it_took_what_is_held_out_is_begun_again(tmp_path):
    (tmp_path / FRAMES).touch()
    record(tmp_path, 2, held_out=1)
    assert_replays(tmp_path, 2)


def test_other_pictures_are_refused_and_recording_goes_on(tmp_path):
    with Recorder(tmp_path, CAMERA, CONFIG) as recorder:
        recorder.add(noise_frame(0), gaze_of(0), 0)
        for image in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), "u1")):
            with pytest.raises(InputError, match="uint8"):
                recorder.add(Frame(image, 0.0, (0.0, 0.0), 0), None, 0)
        recorder.add(noise_frame(1), gaze_of(1), 1)
    assert_replays(tmp_path, 2)


@pytest.mark.parametrize("lossless", [True, False])
def test_an_opencv_that_changes_pictures_is_noticed_before_anything_is_written(
    tmp_path, monkeypatch, lossless
):
    encode = cv2.imencode

    def lossy(kind, image, options):
        return encode(kind, image // 64 * 64, options)

    def missing(kind, image, options):
        raise cv2.error("no encoder")

    for broken in (lossy, missing):
        monkeypatch.setattr(cv2, "imencode", broken)
        with pytest.raises(RecordingError, match="install opencv-python"):
            Recorder(tmp_path / "a", CAMERA, CONFIG, lossless=lossless)
        assert not (tmp_path / "a").exists()


# --- a run, recorded and replayed ----------------------------------------------------------------

NETWORK = RJepaConfig(n_embedding=16, n_hidden=24, n_predictor=16, n_gain=4, max_block=16)


def run_config(source):
    return RunConfig(
        source=source,
        seed=5,
        metrics_every_frames=10,
        rollback_every_frames=20,
        held_out_frames=20,
        camera=CameraConfig(width_px=320, height_px=240),
        network=NETWORK,
    )


def recorded_run(folder, config, go_on):
    """A run that keeps a recording beside it, and what it said."""
    said = []
    with open_source(config.source, config.seed, config.camera) as source:
        limits_rad = source.head and source.head.limits_rad
        held_out = source.held_out(config.held_out_frames)
        with Recorder(
            folder / "walk", source.camera, asdict(config), limits_rad, held_out
        ) as recorder:
            run = Run.start(folder / "run", config, source, recorder=recorder)
            run.learn(go_on, lambda progress: None, said.append)
            return run, run.finish(), said


def replayed_run(folder, run=None, go_on=lambda run: True):
    """The run that learns from the recording in `folder`, from the start or where `run` stands."""
    with open_source(f"replay:{folder / 'walk'}") as source:
        if run is None:
            config = replace(RunConfig.from_dict(source.config), source=f"replay:{folder / 'walk'}")
            run = Run.start(folder / "replay", config, source)
        else:
            run = Run.resume(folder / "replay", source)
        run.learn(go_on, lambda progress: None)
        return run, run.finish()


def assert_same_end(run, other):
    for (name, value), (other_name, other_value) in zip(
        run.learner.tensors().items(), other.learner.tensors().items(), strict=True
    ):
        assert name == other_name
        np.testing.assert_array_equal(value, other_value, err_msg=name)
    assert run.learner.fixations == other.learner.fixations > 0
    assert run.loop.eye.gaze.state() == other.loop.eye.gaze.state()
    assert run.monitor.state() == other.monitor.state()
    assert (run.frames, run.rollbacks) == (other.frames, other.rollbacks)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["mixed", "random"])
def test_a_replay_ends_as_the_recorded_run_of_a_scene_with_its_head(tmp_path, policy):
    config = run_config("scene:")
    config = replace(config, gaze=replace(config.gaze, policy=policy))
    run, summary, _ = recorded_run(tmp_path, config, lambda run: run.frames < 60)
    again, summary_again = replayed_run(tmp_path)
    heads = {line["head_rad"][0] for line in lines_of(tmp_path / "walk")}
    assert len(heads) > 3  # it did move
    assert_same_end(run, again)
    assert summary == summary_again  # judged on the same, too


def lines_of(folder):
    return [json.loads(line) for line in (folder / FRAMES).read_text().splitlines()]


@pytest.mark.slow
def test_a_replay_that_is_stopped_and_resumed_ends_the_same(tmp_path):
    run, _, _ = recorded_run(tmp_path, run_config("scene:"), lambda run: run.frames < 40)
    again, _ = replayed_run(tmp_path, go_on=lambda run: run.frames < 17)
    again, _ = replayed_run(tmp_path, again)
    assert_same_end(run, again)


@pytest.mark.slow
def test_a_replay_ends_as_the_run_of_a_live_camera_that_failed(tmp_path, monkeypatch):
    """Whatever the camera and the clock did: stalls, breaks, too little time for all fixations."""
    monkeypatch.setattr(held_out, "SET_ASIDE_EVERY_S", 0.25)
    monkeypatch.setattr(held_out, "SET_ASIDE_S", 0.04)
    faults = {20: "black", 45: "garbage", 70: "die"}

    def go_on(run):
        fault = faults.pop(run.frames, None)
        if fault:
            camera.fault(fault)
            threading.Timer(0.3, camera.heal).start()
        return run.frames < 100

    shares = iter([4.0, *np.random.default_rng(0).uniform(0.0, 2.0, 10_000)])
    learned = Pace.learned

    def learned_slowly(pace, frame, _):
        """As if it took now less, now more than the time between two frames."""
        learned(pace, frame, next(shares) / pace.frames_per_s)

    monkeypatch.setattr(Pace, "learned", learned_slowly)
    with FaultyCamera(size=(320, 240), frames_per_s=100) as camera:
        run, summary, said = recorded_run(tmp_path, run_config(camera.url), go_on)

    counts = [line["fixations"] for line in lines_of(tmp_path / "walk")]
    assert counts.count(0) > 8 and len(set(counts)) > 2
    assert not faults and said
    again, summary_again = replayed_run(tmp_path)
    assert_same_end(run, again)
    assert summary == summary_again


@pytest.mark.slow
def test_a_run_goes_on_when_its_recording_cannot(tmp_path):
    with files_of_at_most(4_500_000):
        run, _, said = recorded_run(tmp_path, run_config("scene:"), lambda run: run.frames < 60)
    assert run.frames == 60
    assert [words for words in said if "recording has ended, learning goes on" in words]
    again, _ = replayed_run(tmp_path)
    assert 0 < again.frames < 60
    assert again.learner.fixations == 16 * again.frames


# --- recordings of somebody else -----------------------------------------------------------------

ABOUTS = {
    "a list for an object": {"config": [1]},
    "no camera": {"camera": None},
    "a camera of a kind that is a list": {"camera": {"kind": ["x"]}},
    "a path for a suffix": {"pictures": "/../../secret.png"},
    "a number for a suffix": {"pictures": 5},
    "a NUL in the suffix": {"pictures": "\0"},
    "limits that are text": {"head_limits_rad": "ab"},
    "three limits": {"head_limits_rad": [[0, 1]] * 3},
    "limits that are no number": {"head_limits_rad": [[math.nan, 1], [0, 1]]},
    "frames that are text": {"frames": "x"},
    "fewer frames than none": {"frames": -1},
    "a version that is a list": {"version": [1]},
    "an id that is a list": {"id": [1]},
    "a digest that is an object": {"digest": {}},
}
LINES = {
    "bytes": 10**30, "offset": 10**30, "segment": -1, "head_rad": ["a", "b"],
    "gaze_rad": [[1], [1, 2]], "fixations": -1, "sequence": 10**400, "t_capture_s": math.inf,
    "crc32": "x",
}  # fmt: skip


@pytest.mark.parametrize("change", ABOUTS.values(), ids=ABOUTS)
def test_a_description_that_lies_is_refused(tmp_path, change):
    record(tmp_path, 3)
    path = tmp_path / recording.ABOUT
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert_says(tmp_path, "does not describe a recording")


@pytest.mark.parametrize(("name", "value"), LINES.items(), ids=LINES)
def test_a_line_that_lies_is_damage(tmp_path, name, value):
    """In the middle it is told; at the end it is left out, as what a crash leaves is."""
    record(tmp_path, 6)
    path = tmp_path / FRAMES
    lines = [json.loads(line) for line in path.read_text().splitlines()]

    def write(number):
        changed = [line | {name: value} if i == number else line for i, line in enumerate(lines)]
        path.write_text("".join(json.dumps(line) + "\n" for line in changed))

    write(2)
    assert_says(tmp_path, "frame 2 of 6 is damaged")
    write(5)
    with ReplaySource(tmp_path) as source:
        assert len(replayed(source)) == 5


@pytest.mark.parametrize("text", ["[" * 100_000, "\0" * 3_000_000, "{}", '{"a": 1, "a": 1}'])
def test_a_last_line_of_any_text_is_left_out(tmp_path, text):
    record(tmp_path, 4)
    with open(tmp_path / FRAMES, "a") as file:
        file.write(text + "\n")
    with ReplaySource(tmp_path) as source:
        assert len(replayed(source)) == 4


@pytest.mark.parametrize("name", [recording.ABOUT, FRAMES, "pictures.000000.png"])
@pytest.mark.parametrize("kind", ["pipe", "device", "link", "folder"])
def test_only_files_of_the_folder_itself_are_read(tmp_path, name, kind):
    record(tmp_path / "rec", 3)
    path = tmp_path / "rec" / name
    path.rename(tmp_path / "elsewhere")
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if kind == "device" else tmp_path / "elsewhere")
    with pytest.raises(SourceError) as caught, ReplaySource(tmp_path / "rec") as source:
        assert replayed(source) == []
        raise SourceError("nothing of it is read")
    assert "\n" not in str(caught.value)


def test_nobody_else_can_read_a_recording(tmp_path):
    record(tmp_path / "rec", 3, held_out=1)
    for path in [tmp_path / "rec", *(tmp_path / "rec").rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path
