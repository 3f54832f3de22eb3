"""Videos, on small ones written here."""

import json
import math

import cv2
import numpy as np
import pytest

from edge_rjepa.errors import SourceError
from edge_rjepa.optics.camera import pinhole
from edge_rjepa.sources import open_source, video
from edge_rjepa.sources.config import CameraConfig
from edge_rjepa.sources.video import VideoSource


def smooth_picture(seed, height=300, width=400):
    noise = np.random.default_rng(seed).uniform(0, 255, (height // 20, width // 20, 3))
    return cv2.resize(noise.astype(np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)


def write_video(path, images, codec="FFV1", rate=25.0):
    height, width = images[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), rate, (width, height))
    assert writer.isOpened()
    for image in images:
        writer.write(image)
    writer.release()
    return path


def numbered(count, width=64, height=48):
    """Pictures whose grey level tells their number, through lossy coding too."""
    return [np.full((height, width, 3), 6 * i, np.uint8) for i in range(count)]


def numbers(frames):
    return [round(float(frame.image.mean()) / 6) for frame in frames]


def assert_same_frames(a, b):
    assert len(a) == len(b)
    for one, other in zip(a, b, strict=True):
        assert one[1:] == other[1:]
        np.testing.assert_array_equal(one.image, other.image)


def resumed(make, steps):
    """Read `steps` frames, save, read on; and the same from the saved state in a new source."""
    with make() as source:
        for _ in range(steps):
            source.read_next(0)
        state = json.loads(json.dumps(source.state()))
        wanted = [source.read_next(0) for _ in range(40)]
    with make() as source:
        source.restore(state)
        return [source.read_next(0) for _ in range(40)], wanted


@pytest.mark.parametrize("codec", ["FFV1", "MJPG"])
def test_video_loops_over_the_first_nine_tenths(tmp_path, codec):
    path = write_video(tmp_path / "v.avi", numbered(30), codec)
    with open_source(str(path)) as source:
        frames = [source.read_next(0) for _ in range(60)]
        held = source.held_out(10)
    assert numbers(frames) == (list(range(27)) * 3)[:60]
    assert numbers(held) == [27, 28, 29]
    assert [frame.sequence for frame in frames] == list(range(60))
    assert frames[50].t_capture_s == pytest.approx(2.0)
    assert frames[0].head_rad == (0.0, 0.0)


def test_held_out_of_a_video_is_no_more_than_asked_and_disturbs_nothing(tmp_path):
    path = write_video(tmp_path / "v.avi", numbered(40))
    with open_source(str(path)) as source:
        read = [source.read_next(0) for _ in range(3)]
        assert numbers(source.held_out(2)) == [36, 37]
        assert source.held_out(0) == []
        assert numbers(read + [source.read_next(0)]) == [0, 1, 2, 3]


@pytest.mark.parametrize("steps", [0, 1, 26, 27, 70])
def test_video_resumes_bit_for_bit(tmp_path, steps):
    path = write_video(tmp_path / "v.avi", [smooth_picture(i, 60, 80) for i in range(30)], "MJPG")
    assert_same_frames(*resumed(lambda: open_source(str(path)), steps))


def test_wide_videos_are_scaled_down(tmp_path):
    path = write_video(tmp_path / "wide.avi", numbered(20, 1280, 720))
    with open_source(str(path), camera=CameraConfig(field_of_view_rad=1.2)) as source:
        assert source.read_next(0).image.shape == (360, 640, 3)
        assert (source.camera.width_px, source.camera.height_px) == (640, 360)
        assert source.camera.field_of_view_rad == 1.2


def test_narrow_videos_keep_their_size(tmp_path):
    path = write_video(tmp_path / "narrow.avi", numbered(20))
    with open_source(str(path)) as source:
        assert source.read_next(0).image.shape == (48, 64, 3)
        assert source.camera.field_of_view_rad == pytest.approx(math.radians(60.0))


def test_a_video_without_a_frame_count_is_counted(tmp_path, monkeypatch):
    path = write_video(tmp_path / "v.avi", numbered(30))
    monkeypatch.setattr(video.cv2, "CAP_PROP_FRAME_COUNT", -1)  # unknown to OpenCV: it answers 0
    with open_source(str(path)) as source:
        assert numbers(source.held_out(9)) == [27, 28, 29]


def test_a_state_of_another_video_is_refused(tmp_path):
    short = open_source(str(write_video(tmp_path / "short.avi", numbered(20))))
    long = open_source(str(write_video(tmp_path / "long.avi", numbered(30))))
    with pytest.raises(SourceError, match="same video"):
        long.restore(short.state())


def test_bad_videos_are_refused(tmp_path):
    with pytest.raises(SourceError, match="no such video"):
        open_source(str(tmp_path / "none.avi"))
    (tmp_path / "empty.avi").touch()
    with pytest.raises(SourceError, match="cannot read"):
        open_source(str(tmp_path / "empty.avi"))
    (tmp_path / "text.mp4").write_text("no video " * 100)
    with pytest.raises(SourceError, match="cannot read"):
        open_source(str(tmp_path / "text.mp4"))
    with pytest.raises(SourceError, match="at least 20"):
        open_source(str(write_video(tmp_path / "short.avi", numbered(19))))


def test_a_video_cut_short_says_so(tmp_path):
    # Written whole, so that its header promises 30 frames, then cut in the middle.
    path = write_video(tmp_path / "cut.avi", [smooth_picture(i, 60, 80) for i in range(30)], "MJPG")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(SourceError, match="cut.avi"):
        with VideoSource(path, pinhole(1.0)) as source:
            source.held_out(1)
