"""The simulated camera on real photographs: what it shows, and that it resumes bit for bit."""

import importlib.util
import itertools
import json
import warnings

import cv2
import numpy as np
import pytest

from calibration.angles import head_rotation
from edge_rjepa.errors import SourceError
from edge_rjepa.sources import decode, open_source, scene
from edge_rjepa.sources.scene import SceneSource
from tests.optics.homography import homography

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


def as_flat_pictures(folder, count):
    """A folder of pictures with a grey level each."""
    for i in range(count):
        cv2.imwrite(str(folder / f"{i:02}.png"), np.full((60, 80, 3), 12 * i, np.uint8))
    return folder


def levels(frames):
    """Which of the flat pictures they show."""
    return [round(float(frame.image.mean()) / 12) for frame in frames]


def read(source, count):
    return [source.read_next(0) for _ in range(count)]


def wander(source, count, rng):
    """Frames of a head that is told to go somewhere else every few of them."""
    frames = []
    for i in range(count):
        if i % 3 == 0:
            source.head.move(*rng.uniform(-1.3, 1.3, 2) * LIMITS)
        frames.append(source.read_next(0))
    return frames


def assert_same_frames(a, b):
    assert len(a) == len(b)
    for one, other in zip(a, b, strict=True):
        assert one[1:] == other[1:]
        np.testing.assert_array_equal(one.image, other.image)


def test_default_scenes_are_photographs_of_the_wheel():
    photographs = scene.skimage_photographs()
    assert len(photographs) >= 8
    for path in photographs:
        texture = scene.load_texture(path, WHOLE)
        assert texture.dtype == np.uint8 and texture.std() > 5.0


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
            scene.render(texture, one), homography(camera, one, other), size
        ).astype(int)
        seen = (
            cv2.warpPerspective(
                np.full(size[::-1], 255, np.uint8), homography(camera, one, other), size
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


def test_frames_are_views_with_a_head_and_a_clock():
    with open_source("scene:", seed=3) as source:
        frames = wander(source, 50, np.random.default_rng(0))
        assert not source.live and source.drain_events() == []
    assert [frame.sequence for frame in frames] == list(range(50))
    assert frames[30].t_capture_s == pytest.approx(1.0)
    for frame in frames:
        assert frame.image.shape == (source.camera.height_px, source.camera.width_px, 3)
        assert frame.image.dtype == np.uint8
        assert np.all(np.abs(frame.head_rad) <= LIMITS)
    assert len({frame.head_rad for frame in frames}) > 10


def test_the_head_stays_where_nobody_moves_it():
    source = open_source("scene:")
    assert {frame.head_rad for frame in read(source, 50)} == {(0.0, 0.0)}
    assert source.head.move(0.1, 0.05) == (0.1, 0.05)
    assert {frame.head_rad for frame in read(source, 20)} == {(0.1, 0.05)}


def test_a_frame_shows_what_the_head_saw_at_capture():
    """Under way, too: the picture is that of the angle that comes with it."""
    source = open_source("scene:", seed=5)
    frames = read(source, 1)
    source.head.move(*LIMITS)
    frames += read(source, 3)
    texture = scene.load_texture(
        scene.skimage_photographs()[0].parent / shown_name(source), scene_of(source)
    )
    assert len({frame.head_rad for frame in frames}) == 3
    for frame in frames:
        np.testing.assert_array_equal(frame.image, scene.render(texture, frame.head_rad))


def scene_of(source):
    return scene.Scene(*source.state()["scene"])


def shown_name(source):
    return source._shown[scene_of(source).photograph].name


def test_scenes_change_at_random_and_return(tmp_path):
    paths = decode.pictures_in(as_flat_pictures(tmp_path, 6))
    source = SceneSource(paths, seed=0, frames_a_scene=5)
    seen = levels(read(source, 300))
    firsts = seen[::5]
    assert seen == [level for level in firsts for _ in range(5)]
    assert len(set(firsts)) == 4
    assert all(a != b for a, b in itertools.pairwise(firsts))
    assert firsts[:20] != sorted(firsts[:20])


@pytest.mark.slow
@pytest.mark.parametrize(("pictures", "held"), [(2, 1), (3, 1), (4, 2), (10, 2), (16, 3)])
def test_held_out_photographs_are_never_shown(tmp_path, pictures, held):
    paths = decode.pictures_in(as_flat_pictures(tmp_path, pictures))
    source = SceneSource(paths, seed=1, frames_a_scene=2)
    shown = set(levels(read(source, 400)))
    kept = set(levels(source.held_out(24)))
    assert len(kept) == held and len(shown) == pictures - held
    assert not kept & shown


def test_held_out_is_chosen_by_the_seed(tmp_path):
    folder = as_flat_pictures(tmp_path, 10)
    chosen = [
        tuple(sorted(set(levels(open_source(f"scene:{folder}", seed).held_out(4)))))
        for seed in range(8)
    ]
    assert len(set(chosen)) > 1


def test_held_out_does_not_depend_on_reading_nor_disturb_it(folder):
    source, undisturbed = (open_source(f"scene:{folder}", seed=2) for _ in range(2))
    first = source.held_out(20)
    assert [frame.sequence for frame in first] == list(range(20))
    frames = wander(source, 30, np.random.default_rng(1))
    assert_same_frames(source.held_out(20), first)
    assert_same_frames(frames, wander(undisturbed, 30, np.random.default_rng(1)))
    assert source.held_out(0) == []


def test_held_out_views_wander_within_the_limits(folder):
    heads = [frame.head_rad for frame in open_source(f"scene:{folder}").held_out(80)]
    assert np.all(np.abs(heads) <= LIMITS)
    assert len(set(heads)) == 80 / scene.FRAMES_A_MOVE


@pytest.mark.slow
@pytest.mark.parametrize("steps", [0, 1, 37, 298])
def test_scene_resumes_bit_for_bit(folder, steps):
    """Also with the head under way when it was saved."""
    with open_source(f"scene:{folder}", seed=4) as source:
        wander(source, steps, np.random.default_rng(2))
        source.head.move(-0.2, 0.1)
        state = json.loads(json.dumps(source.state()))
        wanted = read(source, 3) + wander(source, 40, np.random.default_rng(3))
    with open_source(f"scene:{folder}", seed=4) as source:
        source.restore(state)
        got = read(source, 3) + wander(source, 40, np.random.default_rng(3))
    assert_same_frames(got, wanted)


def test_scene_depends_on_the_seed(folder):
    one, same, other = (open_source(f"scene:{folder}", seed).read_next(0) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.image, same.image)
    assert (one.image != other.image).any()


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
    assert "3.png" not in source._names


def test_a_folder_is_read_in_order_and_in_any_case_of_suffix(folder):
    (folder / "5.png").rename(folder / "5.PNG")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        names = open_source(f"scene:{folder}")._names
    assert names == ["0.png", "1.png", "2.png", "3.png", "4.png", "5.PNG"]


def test_a_picture_that_vanishes_is_named(folder):
    source = open_source(f"scene:{folder}")
    for path in folder.iterdir():
        path.unlink()
    with pytest.raises(SourceError, match=r"\d\.png"):
        source.read_next(0)


def test_folders_without_enough_pictures_are_refused(tmp_path):
    with pytest.raises(SourceError, match="no such folder"):
        open_source(f"scene:{tmp_path / 'none'}")
    with pytest.raises(SourceError, match="holds no picture"):
        open_source(f"scene:{tmp_path}")
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8 no picture")
    with pytest.warns(match="left out"), pytest.raises(SourceError, match="bad.jpg"):
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
        assert source.read_next(0).image.shape == (240, 320, 3)


def test_missing_scikit_image_names_the_cure(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SourceError, match="pip install scikit-image"):
        open_source("scene:")
