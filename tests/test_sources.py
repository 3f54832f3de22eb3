"""Sources on real photographs and on small videos written here."""

import importlib.util
import json
import math
import warnings

import cv2
import numpy as np
import pytest

from edge_rjepa.errors import SourceError
from edge_rjepa.optics import head_rotation
from edge_rjepa.sources import SceneSource, VideoSource, open_source, scene, video

WHOLE = scene.Scene(0, 0.0, 0.0, 1.0, False)
LIMITS = scene.PAN_LIMIT_RAD, scene.TILT_LIMIT_RAD


def smooth_picture(seed, height=300, width=400):
    noise = np.random.default_rng(seed).uniform(0, 255, (height // 20, width // 20, 3))
    return cv2.resize(noise.astype(np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.fixture
def folder(tmp_path):
    for i in range(6):
        cv2.imwrite(str(tmp_path / f"{i}.png"), smooth_picture(i))
    return tmp_path


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
            source.read()
        state = json.loads(json.dumps(source.state()))
        wanted = [source.read() for _ in range(40)]
    with make() as source:
        source.restore(state)
        return [source.read() for _ in range(40)], wanted


# --- scene ---------------------------------------------------------------------------------------


def test_default_scenes_are_photographs_of_the_wheel():
    photographs = scene.skimage_photographs()
    assert len(photographs) >= 8
    for path in photographs:
        texture = scene.load_texture(path, WHOLE)
        assert texture.dtype == np.uint8 and texture.std() > 5.0


def test_frames_are_views_with_a_head_and_a_clock():
    with open_source("scene:", seed=3) as source:
        frames = [source.read() for _ in range(50)]
    assert [frame.sequence for frame in frames] == list(range(50))
    assert frames[30].t_capture_s == pytest.approx(1.0)
    for frame in frames:
        assert frame.image.shape == (source.camera.height_px, source.camera.width_px, 3)
        assert frame.image.dtype == np.uint8
        assert np.all(np.abs(frame.head) <= LIMITS)
    assert len({frame.head for frame in frames}) == math.ceil(50 / scene.FRAMES_A_MOVE)


def test_views_at_the_limits_lie_on_the_plane():
    """What HALF_WIDTH and HALF_HEIGHT are for: no corner looks past the photograph."""
    camera = scene.CAMERA
    right, bottom = camera.width_px - 0.5, camera.height_px - 0.5
    corners = camera.rays_of_pixels([(-0.5, -0.5), (right, -0.5), (-0.5, bottom), (right, bottom)])
    reach = np.zeros(2)
    for pan in np.linspace(-1, 1, 9) * LIMITS[0]:
        for tilt in np.linspace(-1, 1, 9) * LIMITS[1]:
            x, y, z = head_rotation((pan, tilt)) @ corners.T
            reach = np.maximum(reach, [np.abs(x / z).max(), np.abs(y / z).max()])
    assert reach[0] < scene.HALF_WIDTH and reach[1] < scene.HALF_HEIGHT


def test_two_views_are_related_by_the_homography():
    # A smooth texture, so that interpolating it twice loses little.
    texture = cv2.GaussianBlur(scene.load_texture(scene.skimage_photographs()[0], WHOLE), (0, 0), 3)
    camera = scene.CAMERA
    size = camera.width_px, camera.height_px
    for one, other in (((0.1, -0.05), (-0.05, 0.08)), ((0.0, 0.0), LIMITS)):
        by_warp = cv2.warpPerspective(
            scene.render(texture, one), camera.homography(one, other), size
        ).astype(int)
        seen = (
            cv2.warpPerspective(
                np.full(size[::-1], 255, np.uint8), camera.homography(one, other), size
            )
            == 255
        )
        assert seen.mean() > 0.3
        difference = np.abs(by_warp - scene.render(texture, other))[seen]
        assert difference.mean() < 1.0 and np.quantile(difference, 0.999) < 6.0
        unmoved = np.abs(scene.render(texture, one).astype(int) - scene.render(texture, other))
        assert unmoved[seen].mean() > 10.0


def test_a_head_that_turns_right_and_up_sees_more_of_the_right_and_the_top():
    photograph = np.zeros((480, 640, 3), np.uint8)
    photograph[:240, 320:] = 255
    shares = [scene.render(photograph, head).mean() for head in ((0, 0), LIMITS)]
    assert shares[1] > shares[0] + 50


def test_scenes_change_at_random_and_return(folder, monkeypatch):
    monkeypatch.setattr(scene, "FRAMES_A_SCENE", 5)
    source = open_source(f"scene:{folder}", seed=0)
    seen = []
    for _ in range(60):
        source.read()
        seen.append([source.state()["scene"][0], *(source.read() for _ in range(4))][0])
    assert set(seen) == set(range(4))
    assert all(a != b for a, b in zip(seen, seen[1:], strict=False))
    assert seen[:20] != sorted(seen[:20])


def as_flat_pictures(folder, count):
    """A folder of pictures with a grey level each."""
    for i in range(count):
        cv2.imwrite(str(folder / f"{i:02}.png"), np.full((60, 80, 3), 12 * i, np.uint8))
    return folder


@pytest.mark.parametrize(("pictures", "held"), [(2, 1), (3, 1), (4, 2), (10, 2), (16, 3)])
def test_held_out_photographs_are_never_shown(tmp_path, monkeypatch, pictures, held):
    monkeypatch.setattr(scene, "FRAMES_A_SCENE", 2)
    source = open_source(f"scene:{as_flat_pictures(tmp_path, pictures)}", seed=1)
    shown = set(numbers(source.read() for _ in range(400)))
    kept = set(numbers(source.held_out(24)))
    assert len(kept) == held and len(shown) == pictures - held
    assert not kept & shown


def test_held_out_is_chosen_by_the_seed(tmp_path):
    folder = as_flat_pictures(tmp_path, 10)
    chosen = [
        tuple(sorted(set(numbers(open_source(f"scene:{folder}", seed).held_out(4)))))
        for seed in range(8)
    ]
    assert len(set(chosen)) > 1


def test_held_out_does_not_depend_on_reading_nor_disturb_it(folder):
    source, undisturbed = (open_source(f"scene:{folder}", seed=2) for _ in range(2))
    first = source.held_out(20)
    assert [frame.sequence for frame in first] == list(range(20))
    frames = [source.read() for _ in range(30)]
    assert_same_frames(source.held_out(20), first)
    assert_same_frames(frames, [undisturbed.read() for _ in range(30)])
    assert source.held_out(0) == []


@pytest.mark.parametrize("steps", [0, 1, 37, 298])
def test_scene_resumes_bit_for_bit(folder, steps):
    assert_same_frames(*resumed(lambda: open_source(f"scene:{folder}", seed=4), steps))


def test_scene_depends_on_the_seed(folder):
    heads = [open_source(f"scene:{folder}", seed).read().head for seed in (0, 0, 1)]
    assert heads[0] == heads[1] != heads[2]


def test_a_state_of_other_pictures_is_refused(folder):
    state = open_source(f"scene:{folder}", seed=0).state()
    (folder / "0.png").unlink()
    with pytest.raises(SourceError, match="same pictures"):
        open_source(f"scene:{folder}", seed=0).restore(state)


def test_unreadable_picture_among_good_ones_is_left_out_with_a_warning(folder):
    (folder / "3.png").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("not meant as one")
    with pytest.warns(UserWarning, match="3.png"):
        source = open_source(f"scene:{folder}")
    assert "3.png" not in source.state()["pictures"]


def test_a_folder_is_read_in_order_and_in_any_case_of_suffix(folder):
    (folder / "5.png").rename(folder / "5.PNG")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        names = open_source(f"scene:{folder}").state()["pictures"]
    assert names == ["0.png", "1.png", "2.png", "3.png", "4.png", "5.PNG"]


def test_a_picture_that_vanishes_is_named(folder):
    source = open_source(f"scene:{folder}")
    for path in folder.iterdir():
        path.unlink()
    with pytest.raises(SourceError, match=r"\d\.png"):
        source.read()


def test_folders_without_enough_pictures_are_refused(tmp_path):
    with pytest.raises(SourceError, match="no such folder"):
        open_source(f"scene:{tmp_path / 'none'}")
    with pytest.raises(SourceError, match="holds no picture"):
        open_source(f"scene:{tmp_path}")
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8 no picture")
    with pytest.warns(UserWarning), pytest.raises(SourceError, match="bad.jpg"):
        open_source(f"scene:{tmp_path}")
    (tmp_path / "bad.jpg").unlink()
    cv2.imwrite(str(tmp_path / "only.png"), smooth_picture(0))
    with pytest.raises(SourceError, match="at least two"):
        open_source(f"scene:{tmp_path}")
    with pytest.raises(SourceError, match="at least two"):
        SceneSource([])


def test_grey_and_deep_pictures_are_read_as_colour(tmp_path):
    cv2.imwrite(str(tmp_path / "grey.png"), smooth_picture(0)[..., 0])
    cv2.imwrite(str(tmp_path / "deep.png"), smooth_picture(1).astype(np.uint16) * 257)
    with open_source(f"scene:{tmp_path}") as source:
        assert source.read().image.shape == (240, 320, 3)


def test_missing_scikit_image_names_the_cure(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SourceError, match="pip install scikit-image"):
        open_source("scene:")


# --- video ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["FFV1", "MJPG"])
def test_video_loops_over_the_first_nine_tenths(tmp_path, codec):
    path = write_video(tmp_path / "v.avi", numbered(30), codec)
    with open_source(str(path)) as source:
        frames = [source.read() for _ in range(60)]
        held = source.held_out(10)
    assert numbers(frames) == (list(range(27)) * 3)[:60]
    assert numbers(held) == [27, 28, 29]
    assert [frame.sequence for frame in frames] == list(range(60))
    assert frames[50].t_capture_s == pytest.approx(2.0)
    assert frames[0].head == (0.0, 0.0)


def test_held_out_of_a_video_is_no_more_than_asked_and_disturbs_nothing(tmp_path):
    path = write_video(tmp_path / "v.avi", numbered(40))
    with open_source(str(path)) as source:
        read = [source.read() for _ in range(3)]
        assert numbers(source.held_out(2)) == [36, 37]
        assert source.held_out(0) == []
        assert numbers(read + [source.read()]) == [0, 1, 2, 3]


@pytest.mark.parametrize("steps", [0, 1, 26, 27, 70])
def test_video_resumes_bit_for_bit(tmp_path, steps):
    path = write_video(tmp_path / "v.avi", [smooth_picture(i, 60, 80) for i in range(30)], "MJPG")
    assert_same_frames(*resumed(lambda: open_source(str(path)), steps))


def test_wide_videos_are_scaled_down(tmp_path):
    path = write_video(tmp_path / "wide.avi", numbered(20, 1280, 720))
    with open_source(str(path), field_of_view_rad=1.2) as source:
        assert source.read().image.shape == (360, 640, 3)
        assert (source.camera.width_px, source.camera.height_px) == (640, 360)
        assert source.camera.field_of_view_rad == 1.2


def test_narrow_videos_keep_their_size(tmp_path):
    path = write_video(tmp_path / "narrow.avi", numbered(20))
    with open_source(str(path)) as source:
        assert source.read().image.shape == (48, 64, 3)
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
    with pytest.raises(SourceError, match="scene:"):
        open_source(str(tmp_path))


def test_a_video_cut_short_says_so(tmp_path):
    # Written whole, so that its header promises 30 frames, then cut in the middle.
    path = write_video(tmp_path / "cut.avi", [smooth_picture(i, 60, 80) for i in range(30)], "MJPG")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(SourceError, match="cut.avi"):
        with VideoSource(path) as source:
            source.held_out(1)


@pytest.mark.parametrize(
    "spec", ["0", "/dev/video0", "rtsp://camera/1", "http://camera", "gst:x ! y", "replay:run", ""]
)
def test_sources_to_come_say_what_there_is(spec):
    with pytest.raises(SourceError, match="scene:DIR"):
        open_source(spec)
