"""What a watch keeps in its folder: what is usual, masks, and what the owner says."""

import json
import math

import cv2
import numpy as np
import pytest

from edge_rjepa.base import checkpoint
from edge_rjepa.cli import main
from edge_rjepa.errors import ConfigError
from edge_rjepa.optics.camera import Pinhole
from edge_rjepa.sources.scene import skimage_photographs
from edge_rjepa.watch import place, state
from edge_rjepa.watch.feedback import Feedback, say_fine
from edge_rjepa.watch.masks import Masks, covered, drawn, read_mask
from edge_rjepa.watch.novelty import Watch
from edge_rjepa.watch.session import Session
from edge_rjepa.watch.told import MOST_ALARMS, Told
from edge_rjepa.watch.usual_pictures import UsualPictures
from tests.watch.test_watch import REST, WARM_UP_S, encode, put, stream, watched

KEPT_FOR_S = 4.0


@pytest.fixture(scope="module")
def photographs():
    paths = skimage_photographs()
    return [cv2.resize(cv2.imread(str(paths[k])), (320, 240)).astype(float) for k in (0, 3)]


@pytest.fixture(scope="module")
def thing():
    rng = np.random.default_rng(1)
    return cv2.resize(rng.integers(0, 256, (6, 7, 3), np.uint8), (50, 40))


class Kept:
    """A session in a folder, with all that it tells and reports."""

    def __init__(self, folder, embed=encode, camera=REST, **options):
        self.lines, self.pictures, self.reports = [], [], []
        self.watch = Watch(embed, camera, warm_up_s=WARM_UP_S)
        self.session = Session(self.watch, folder, [self.tell], self.reports.append, **options)

    def tell(self, line, jpeg):
        self.lines.append(line)
        self.pictures.append(jpeg)

    def see(self, frames):
        for frame in frames:
            self.session.look(frame)
        self.session.save()
        return self.told()

    def told(self):
        return [(line["kind"], line["number"]) for line in self.lines]


@pytest.fixture(scope="module")
def learned(tmp_path_factory, photographs, thing):
    """A folder of a watch of the first photograph, which told of a thing that is there still."""
    folder = tmp_path_factory.mktemp("session") / "watch"
    kept = Kept(folder)
    placed = lambda t_s, image: put(image, thing, 200, 100) if t_s > 33.0 else image  # noqa: E731
    assert kept.see(stream(photographs[0], 37.0, placed)) == [("alarm", 1)]
    assert kept.reports == []
    return folder


@pytest.fixture
def folder(learned, tmp_path):
    """A copy of it."""
    copy = tmp_path / "watch"
    copy.mkdir()
    for path in learned.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    return copy


# ------------------------------------------------------------------------------------------------
# What is usual outlives the process


@pytest.mark.slow
def test_a_watch_goes_on_without_a_warm_up(folder, photographs, thing):
    """What stood there still does, and ends; something new is told; numbers go on."""

    def then(t_s, image):
        image = put(image, thing, 200, 100) if t_s < 6.0 else image
        return put(image, thing, 40, 150) if t_s > 9.0 else image

    kept = Kept(folder)
    told = kept.see(stream(photographs[0], 14.0, then))
    assert kept.reports == [] and told == [("gone", 1), ("alarm", 2)]
    assert kept.watch.drain_events() == ["this place is known: watching goes on without a warm-up"]
    assert kept.lines[0]["after_s"] > 3.0 and 6.0 < kept.lines[0]["t_s"] < 8.5
    assert kept.pictures[0] is None and kept.pictures[1][:2] == b"\xff\xd8"
    lines = [json.loads(line) for line in (folder / "alarms.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["alarm", "gone", "alarm"]
    view = cv2.imread(str(folder / "view.jpg")).astype(float)
    assert np.abs(view - put(photographs[0], thing, 40, 150)).mean() < 8.0  # what it saw last


@pytest.mark.slow
def test_what_came_while_it_was_not_running_is_told(folder, photographs, thing):
    both = lambda t_s, image: put(put(image, thing, 200, 100), thing, 40, 150)  # noqa: E731
    assert Kept(folder).see(stream(photographs[0], 8.0, both)) == [("alarm", 2)]


@pytest.mark.slow
def test_another_place_is_learned_anew_and_both_are_known_then(folder, photographs):
    kept = Kept(folder)
    assert kept.see(stream(photographs[1], WARM_UP_S + 2.0)) == []
    assert kept.watch.is_warm
    (event,) = kept.watch.drain_events()
    assert "none of the 1 places that are known" in event
    again = Kept(folder)
    for photograph in photographs[::-1]:  # carried from the one to the other
        start_s = 0.0 if photograph is photographs[1] else 20.0
        shifted = (f._replace(t_capture_s=f.t_capture_s + start_s) for f in stream(photograph, 10))
        again.see(shifted)
        assert again.watch.is_warm
        assert again.watch.drain_events()[-1].startswith("this place is known")
    assert len(again.watch.kept_places()) == 2


def test_places_are_kept_within_bounds(monkeypatch):
    places = place.KnownPlaces()
    for k in range(20):
        places.add({"x": np.full(1000, k, np.uint8)})
    assert [int(p["x"][0]) for p in places.places] == list(range(11, 20))
    assert [int(p["x"][0]) for p in places.settle()] == [11]  # the present one is known beside them
    assert [int(p["x"][0]) for p in places.places] == list(range(12, 20))
    monkeypatch.setattr(place, "MOST_BYTES", 2500)
    places.add({"x": np.full(1000, 20, np.uint8)})
    assert [int(p["x"][0]) for p in places.places] == [19, 20]


@pytest.mark.slow
def test_what_is_kept_is_of_a_fixed_size(folder, photographs):
    """All that a place holds is there from the start: looking on adds nothing."""
    watch = Watch(encode, REST, warm_up_s=WARM_UP_S)
    assert state.load(watch, folder) is None
    (kept,) = watch.known.places
    sizes = {name: a.shape for name, a in kept.items() if not name.startswith(("told", "tail"))}
    for frame in stream(photographs[0], 8.0):
        watch.look(frame)
    (again,) = watch.kept_places()
    assert sizes == {name: again[name].shape for name in sizes}


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def of_another_program(path):
    path.write_bytes(b"\x00" * 5000)


def of_another_kind(path):
    checkpoint.save(path, {"x": np.zeros(3)}, {"kind": "a learner"})


def changed(**tensors):
    """What writes the state with other tensors, whole as a file."""

    def write(path):
        found, metadata = checkpoint.load(path)
        for name, change in tensors.items():
            name = name.replace("__", ".")
            found[f"0.{name}"] = change(found[f"0.{name}"])
        checkpoint.save(path, found, metadata)

    return write


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip, "checksum is wrong"),
        (cut, "damaged"),
        (of_another_program, "no checkpoint"),
        (of_another_kind, "no file of a watch"),
        (changed(background__direction=lambda a: a + 10**6), "beyond their bounds"),
        (changed(background__mode=lambda a: a[:, :2].copy()), "is of shape"),
        (changed(background__mode=lambda a: a * np.nan), "not finite"),
        (changed(told__direction=lambda a: a - 5), "beyond their bounds"),
        (changed(tail__maxima=lambda a: np.zeros(10**5)), "beyond their bounds"),
        (changed(background__log_variance=lambda a: -a), "beyond their bounds"),
        (changed(background__levels=lambda a: a.astype("float32")), "of another kind"),
    ],
)
def test_a_state_that_cannot_be_used_is_set_aside(folder, damage, message):
    path = folder / state.FILE
    damage(path)
    for older in folder.glob("usual.[0-9].safetensors"):
        older.unlink()
    content = path.read_bytes()
    kept = Kept(folder)
    (report,) = kept.reports
    assert message in report and "learned anew" in report and "\n" not in report
    assert (folder / state.SET_ASIDE[0]).read_bytes() == content and not path.exists()
    assert not kept.watch.known.places and kept.watch.last_number == 1


@pytest.mark.slow
def test_a_state_that_is_too_large_is_not_read(folder, monkeypatch):
    monkeypatch.setattr(state, "MOST_BYTES", -(1 << 20))
    assert "too large" in Kept(folder).reports[0]


@pytest.mark.slow
def test_an_earlier_copy_is_used_when_the_newest_is_damaged(folder, photographs):
    state.save(Kept(folder).watch, folder)
    cut(folder / state.FILE)
    kept = Kept(folder)
    assert "usual.1.safetensors is used" in kept.reports[0]
    assert len(kept.watch.known.places) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"embed": lambda windows: -encode(windows)}, "another encoder"),
        ({"embed": lambda windows: encode(windows)[:, :5]}, "another encoder"),
        ({"camera": Pinhole(320, 240, math.radians(50.0))}, "another camera"),
        ({"camera": Pinhole(640, 480, math.radians(60.0))}, "another camera"),
    ],
)
def test_a_state_of_another_encoder_or_camera_is_learned_anew(folder, options, message):
    kept = Kept(folder, **options)
    (report,) = kept.reports
    assert message in report and "learned anew" in report
    assert (folder / state.SET_ASIDE[0]).exists()


@pytest.mark.slow
def test_what_was_set_aside_is_found_again_by_the_watch_it_is_of(folder, photographs):
    """Started once with another --fov, which learns and is kept; then as before."""
    wrong = Pinhole(320, 240, math.radians(50.0))
    other = Kept(folder, camera=wrong)
    assert other.see(stream(photographs[1], WARM_UP_S + 2.0)) == []
    other.session.save()
    back = Kept(folder)
    (report,) = back.reports
    assert "another camera" in report and "is of this watch, and is used" in report
    assert len(back.watch.known.places) == 1 and back.watch.last_number == 1
    assert (folder / state.FILE).exists()
    assert len(Kept(folder, camera=wrong).watch.known.places) == 1  # nor is the other one lost


@pytest.mark.slow
def test_no_more_is_set_aside_than_there_are_names_for(folder):
    content = (folder / state.FILE).read_bytes()
    for fov_deg in (40.0, 45.0, 50.0, 55.0, 65.0):
        (folder / state.FILE).write_bytes(content)
        Kept(folder, camera=Pinhole(320, 240, math.radians(fov_deg)))
    names = {path.name for path in folder.glob("usual*")}
    assert names == set(state.SET_ASIDE)


@pytest.mark.slow
def test_a_disk_that_is_full_is_said_once(folder, photographs, monkeypatch):
    kept = Kept(folder)
    for frame in stream(photographs[0], KEPT_FOR_S):
        kept.session.look(frame)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_atomic", full)
    kept.session.save()
    kept.session.save()
    (report,) = kept.reports
    assert "cannot be kept" in report and "watching goes on" in report


# ------------------------------------------------------------------------------------------------
# What the owner says


@pytest.mark.slow
def test_what_is_fine_is_not_told_again(folder, photographs, thing, capsys):
    """Said while nothing runs; the thing goes and comes back."""
    assert main(["fine", str(folder), "1"]) == 0 and "alarm 1 is fine" in capsys.readouterr().out

    def to_and_fro(t_s, image):
        return put(image, thing, 200, 100) if not 6.0 < t_s < 10.0 else image

    kept = Kept(folder)
    assert kept.see(stream(photographs[0], 16.0, to_and_fro)) == [("fine", 1)]
    assert not list((folder / "fine").iterdir())
    again = Kept(folder)  # and it is kept
    assert again.see(stream(photographs[0], 16.0, to_and_fro)) == []


@pytest.mark.slow
def test_without_the_word_it_is_told_again(folder, photographs, thing):
    def to_and_fro(t_s, image):
        return put(image, thing, 200, 100) if not 6.0 < t_s < 10.0 else image

    told = Kept(folder).see(stream(photographs[0], 16.0, to_and_fro))
    assert told == [("gone", 1), ("alarm", 2)]


@pytest.mark.slow
def test_an_alarm_that_is_gone_can_be_fine(folder, photographs, thing):
    kept = Kept(folder)
    assert kept.see(stream(photographs[0], 7.0)) == [("gone", 1)]
    kept.session.feedback.say(1)
    kept.session.feedback.say(99)
    later = (f._replace(t_capture_s=f.t_capture_s + 7.0) for f in stream(
        photographs[0], 10.0, lambda t_s, image: put(image, thing, 200, 100)))  # fmt: skip
    assert kept.see(later) == [("gone", 1), ("fine", 1)]
    assert ["alarm 99 is not remembered" in report for report in kept.reports] == [True]


@pytest.mark.slow
def test_what_is_said_to_be_fine_again_and_again_takes_no_room(folder, photographs, thing):
    """The place itself is still usual when the thing has left."""

    def leaves(t_s, image):
        return put(image, thing, 200, 100) if t_s < 6.0 else image

    kept = Kept(folder)
    for _ in range(5):
        kept.session.feedback.say(1)
    told = kept.see(stream(photographs[0], 14.0, leaves))
    assert set(told) == {("fine", 1)}


def test_an_alarm_that_is_pushed_out_while_it_holds_has_an_end():
    told = Told(4)
    z = np.eye(4)[:1]
    for number in range(1, MOST_ALARMS + 1):
        assert told.begin(number, "new", np.array([number]), z, -z, float(number)) is None
    assert told.begin(40, "new", np.array([40]), z, -z, 50.0) == (1, 49.0, True)
    assert told.holding == [*range(2, MOST_ALARMS + 1), 40]


@pytest.mark.slow
def test_what_is_said_in_another_place_holds_there(folder, photographs):
    watch = Watch(encode, REST, warm_up_s=WARM_UP_S)
    state.load(watch, folder)
    for frame in stream(photographs[1], 3.0):
        watch.look(frame)
    assert not watch.is_warm and watch.fine(1) and not watch.fine(2)
    assert not watch.known.places[0]["told.holds"].any()


@pytest.mark.slow
def test_words_of_other_processes_are_heard_once(folder):
    feedback = Feedback(folder)
    assert feedback.drain() == []
    say_fine(folder, 1)
    (folder / "fine" / "notes.txt").write_text("none of ours")
    assert Feedback(folder).drain() == [1]
    assert Feedback(folder).drain() == []
    assert [path.name for path in (folder / "fine").iterdir()] == ["notes.txt"]
    feedback.say(3)
    feedback.say(1)
    assert feedback.drain() == [3, 1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "number", "message"),
    [
        (".", "7", "no alarm 7"),
        ("nothing", "1", "has no alarms"),
        ("alarms.jsonl", "1", "no alarms"),
    ],
)
def test_a_word_that_cannot_be_left_is_refused_in_a_line(folder, name, number, message, capsys):
    assert main(["fine", str(folder / name), number]) == 1
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


# ------------------------------------------------------------------------------------------------
# Masks

LEFT = [[[0.0, 0.0], [0.5, 0.0], [0.5, 1.0], [0.0, 1.0]]]


def test_a_mask_covers_what_lies_in_it():
    mask = drawn(LEFT)
    assert mask[:, :318].all() and not mask[:, 322:].any()
    window = np.array([[0, 0], [0.2, 0], [0.2, 0.2], [0, 0.2]])
    windows = np.array([window + (x, 0.4) for x in (0.1, 0.29, 0.4, 0.45, 0.49, 0.6)])
    assert covered(mask, windows).tolist() == [True, True, True, True, False, False]


@pytest.mark.slow
def test_nothing_is_told_where_a_mask_lies(folder, photographs, thing):
    """A thing comes on each side: only that on the right is told of; the mask is kept."""
    both = lambda t_s, image: (  # noqa: E731
        put(put(put(image, thing, 200, 100), thing, 20, 20), thing, 260, 180)
        if t_s > KEPT_FOR_S
        else put(image, thing, 200, 100)
    )
    kept = Kept(folder, mask=LEFT)
    assert kept.see(stream(photographs[0], 9.0, both)) == [("alarm", 2)]
    assert kept.lines[0]["pixel"][0] > 240
    assert json.loads((folder / "mask.json").read_text()) == {"polygons": LEFT}


def test_a_mask_can_change_while_it_is_watched(tmp_path):
    masks = Masks(tmp_path)
    assert masks.take_change() == [] and masks.take_change() is None
    masks.set(LEFT)
    assert masks.take_change() == LEFT and masks.take_change() is None
    assert Masks(tmp_path).take_change() == LEFT


def test_what_is_dark_in_a_picture_is_a_mask(tmp_path):
    picture = np.zeros((240, 320), np.uint8)
    picture[60:180, 80:240] = 255  # all but the middle
    cv2.imwrite(str(tmp_path / "mask.png"), picture)
    polygons = read_mask(tmp_path / "mask.png")
    again = cv2.resize(drawn(polygons).astype(np.uint8), (320, 240))
    assert ((again > 0) == (picture == 0)).mean() > 0.98 and len(polygons) == 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[[[0, 0], [1, 0]]]", "2 corners"),
        ("[[[0, 0], [1, 0], [1, 2]]]", "within 0 to 1"),
        ('{"polygons": 3}', "not a list"),
        ("nothing", "no JSON"),
        (json.dumps([[[0, 0], [1, 0], [1, 1]]] * 2001), "2001 polygons"),
    ],
)
def test_what_is_no_mask_is_refused(tmp_path, content, message):
    (tmp_path / "mask.json").write_text(content)
    with pytest.raises(ConfigError, match=message):
        Masks(tmp_path)
    with pytest.raises(ConfigError, match="cannot read"):
        read_mask(tmp_path / "none.json")


# ------------------------------------------------------------------------------------------------
# Told, gone, removed


@pytest.mark.slow
def test_what_is_taken_away_is_told_as_removed_and_ends_when_it_is_back(photographs, thing):
    def taken(t_s, image):
        return image if 33.0 < t_s < 40.0 else put(image, thing, 200, 100)

    found, watching = watched(stream(photographs[0], 43.0, taken))
    assert [alarm.what for alarm in found] == ["removed"]
    (gone,) = watching.drain_gone()
    assert gone.number == 1 and 40.0 < gone.t_s < 42.5


def test_the_outline_tells_new_from_removed():
    rng = np.random.default_rng(5)
    right = []
    for _ in range(60):
        before = cv2.resize(rng.integers(60, 200, (4, 4, 3), np.uint8), (64, 64))
        now = before.copy()
        x, y = rng.integers(12, 22, 2)
        now[y : y + 24, x : x + 24] = cv2.resize(
            rng.integers(0, 255, (2, 2, 3), np.uint8), (24, 24)
        )
        for first, second, what in ((before, now, "new"), (now, before, "removed")):
            pictures = UsualPictures(3)
            pictures.keep(np.array([1]), first[None])
            light = np.clip(second.astype(float) + 8.0, 0, 255).astype(np.uint8)
            right.append(pictures.what(np.array([1]), light[None]) == what)
    assert np.mean(right) > 0.9


def square(error):
    return (error**2).sum(axis=-1)


def test_an_alarm_ends_when_it_looks_as_before_and_not_when_something_stands_before_it():
    told = Told(2)
    directions, before, with_it = np.array([3, 4]), np.zeros((2, 2)), np.full((2, 2), 1.0)
    told.begin(1, "new", directions, before, with_it, 10.0)
    for _ in range(10):  # somebody stands in front of it
        assert not told.look(directions, np.full((2, 2), [9.0, -9.0]), square, 11.0)
    assert told.holding == [1]
    looks = [told.look(directions, np.full((2, 2), 0.1), square, 20.0) for _ in range(3)]
    assert looks[:2] == [[], []] and looks[2][0][:2] == (1, 10.0)
    assert told.holding == []


def test_alarms_that_are_remembered_are_bounded_and_ended_ones_go_first():
    told = Told(2)
    for number in range(1, 101):
        told.begin(number, "new", np.array([number]), np.zeros((1, 2)), np.ones((1, 2)), 0.0)
        if number > 1:
            told.end(number, square, 1.0)
    assert told.holding == [1] and told.looks_of(69) is None and told.looks_of(100)
    assert len(told.kept(0.0)["number"]) == MOST_ALARMS
