"""The threads that keep a camera's newest picture, on a camera that does what it is told."""

import itertools
import queue
import threading
import time

import numpy as np
import pytest

from edge_rjepa.errors import SourceError
from edge_rjepa.sources import grabber
from edge_rjepa.sources.grabber import Grabber, Stillness
from tests.tools import unhindered_s

pytestmark = pytest.mark.slow  # threads wait in real time

BREAK = object()  # what a connection is given to break off


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Faults are noticed, and cameras reopened, in a tenth of the time."""
    monkeypatch.setattr(grabber, "STALL_S", 0.16)
    monkeypatch.setattr(grabber, "OPEN_S", 0.3)
    monkeypatch.setattr(grabber, "FROZEN_S", 0.05)
    monkeypatch.setattr(grabber, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(grabber, "LONGEST_PAUSE_S", 0.05)


class Connection:
    """A capture that gives what is put into it, and hangs while there is nothing."""

    def __init__(self, where):
        self.where = where
        self.items = queue.Queue()
        self.released = threading.Event()
        self.item = None

    def grab(self):
        self.item = self.items.get()
        if isinstance(self.item, Exception):
            raise self.item
        return self.item is not BREAK

    def retrieve(self):
        return self.item

    def captured_s(self, grabbed_s):
        return grabbed_s

    def release(self):
        self.released.set()


class Camera:
    """Opens connections and keeps them; the first ones are given `waiting` items each."""

    def __init__(self, *waiting):
        self.waiting = list(waiting)
        self.connections = []
        self.opened_s = []
        self.refuses = False
        self.where = "/dev/video0"

    def open(self):
        self.opened_s.append(time.monotonic())
        if self.refuses:
            raise SourceError("cannot be opened")
        connection = Connection(self.where)
        for item in self.waiting.pop(0) if self.waiting else []:
            connection.items.put(item)
        self.connections.append(connection)
        return connection

    def give(self, *items):
        for item in items:
            self.connections[-1].items.put(item)

    def let_go(self):
        for connection in self.connections:
            connection.items.put(BREAK)


@pytest.fixture
def grab():
    """Grab(camera) makes a grabber; all is closed at the end, and no thread of it is left."""
    made = []

    def make(camera, **options):
        made.append((Grabber("camera", camera.open, **options), camera))
        return made[-1][0]

    yield make
    for held, camera in made:
        camera.refuses = True
        camera.let_go()
        held.close()
    until(lambda: not threads())


def threads():
    return [t for t in threading.enumerate() if t.name.startswith("camera: ")]


def until(condition, within_s=30.0):
    """Wait until it holds."""
    end_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end_s, "it never came to hold"
        threading.Event().wait(0.002)


def picture(number, height=48, width=64):
    return np.random.default_rng(number).integers(0, 255, (height, width, 3), np.uint8)


def test_only_the_newest_picture_is_kept(grab):
    camera = Camera([picture(i) for i in range(5)])
    held = grab(camera)
    newest = held.newer_than(3, 5.0)
    assert newest.sequence == 4 and held.newest() is newest
    np.testing.assert_array_equal(newest.image, picture(4))


def test_a_newer_picture_is_waited_for_and_no_longer_than_told(grab):
    camera = Camera([picture(0)])
    held = grab(camera, slowest_s=60.0)
    started_s = time.monotonic()
    assert held.newer_than(0, 0.05) is None
    assert time.monotonic() - started_s >= 0.05
    threading.Timer(0.02, camera.give, [picture(1)]).start()
    assert held.newer_than(0, 5.0).sequence == 1


def test_closing_wakes_who_waits_and_takes_half_a_second_at_most(grab):
    held = grab(Camera([picture(0)]), slowest_s=60.0)
    answers = queue.Queue()
    waiting = threading.Thread(target=lambda: answers.put(held.newer_than(0, 60.0)))
    waiting.start()
    started_s = unhindered_s()
    held.close()  # its reader hangs
    assert unhindered_s() - started_s < 0.5
    assert answers.get(timeout=30.0) is None
    held.close()


def test_a_stall_is_answered_by_another_connection(grab):
    camera = Camera([picture(0)], [picture(1)])
    held = grab(camera)
    assert held.newer_than(0, 5.0).sequence == 1
    assert held.faults == {"stalled": 1, "died": 0, "frozen": 0, "resized": 0, "reopened": 1}
    stalled, back = held.drain_events()
    assert stalled == "camera: no picture for 0.2 s; reopening"
    assert back.startswith("camera: back after 0.") and back.endswith("(attempt 1)")
    assert held.drain_events() == []


def test_what_a_hanging_read_brings_too_late_does_not_count(grab):
    camera = Camera([picture(0)], [picture(1)])
    held = grab(camera)
    held.newer_than(0, 5.0)
    late = camera.connections[0]
    late.items.put(picture(7))
    assert late.released.wait(5.0)
    assert held.newest().sequence == 1
    np.testing.assert_array_equal(held.newest().image, picture(1))


def test_no_more_than_a_few_threads_ever_hang(grab):
    camera = Camera([picture(0)])
    held = grab(camera)
    until(lambda: len(camera.connections) == grabber.MOST_ABANDONED)
    assert held.newer_than(0, 0.5) is None  # time for more, were it allowed
    assert len(camera.connections) == grabber.MOST_ABANDONED
    camera.waiting = [[picture(1)]]
    camera.connections[0].items.put(BREAK)
    assert held.newer_than(0, 5.0).sequence == 1


@pytest.mark.parametrize("end", [BREAK, RuntimeError("driver\nfell over")])
def test_a_death_is_noticed_at_once_and_pictures_are_counted_on(grab, end):
    camera = Camera([picture(0), picture(1), end], [picture(2)])
    held = grab(camera, slowest_s=60.0)
    assert held.newer_than(1, 5.0).sequence == 2
    assert held.faults["died"] == held.faults["reopened"] == 1
    assert all("\n" not in line for line in held.drain_events())
    assert camera.connections[0].released.wait(5.0)


def test_pictures_that_cannot_be_decoded_are_skipped_and_at_last_a_death(grab):
    camera = Camera([picture(0), None, np.zeros((4, 4), np.float64), picture(1)], [picture(2)])
    held = grab(camera)
    assert held.newer_than(0, 5.0).sequence == 1
    camera.give(*[None] * 5)
    assert held.newer_than(1, 5.0).sequence == 2
    assert held.faults["died"] == 1 and held.faults["stalled"] == 0
    assert held.drain_events()[0] == "camera: 5 pictures on end cannot be decoded; reopening"


def test_grey_pictures_are_handed_out_in_colour(grab):
    held = grab(Camera([picture(0)[..., 0]]))
    assert held.newest().image.shape == (48, 64, 3)


def test_one_picture_over_and_over_is_answered_by_reopening(grab):
    frozen = [picture(0)] * 5
    camera = Camera([*frozen], [picture(1)])
    held = grab(camera, slowest_s=60.0)
    held.newer_than(3, 5.0)
    threading.Event().wait(0.06)
    camera.give(picture(0))
    until(lambda: held.faults["reopened"])
    assert held.faults["frozen"] == 1 and held.faults["died"] == 0
    np.testing.assert_array_equal(held.newest().image, picture(1))


def test_patience_with_a_still_picture_doubles_until_it_changes():
    """A camera before a test picture is not reopened over and over."""
    stillness, opened_at_s, now_s = Stillness(), [], 0.0
    while now_s < 10.0:
        now_s += 0.01
        if stillness.lasts(picture(0), now_s):
            opened_at_s.append(now_s)
            stillness.restart()
    waits_s = np.diff(opened_at_s)
    assert len(opened_at_s) > 4
    np.testing.assert_allclose(waits_s[1:] / waits_s[:-1], 2.0, rtol=0.2)
    assert not stillness.lasts(picture(1), 11.0)
    quick = [stillness.lasts(picture(1), 11.0 + 0.01 * i) for i in range(1, 10)]
    assert any(quick)


def test_few_pictures_a_second_are_not_called_still():
    stillness = Stillness()
    assert not any(stillness.lasts(picture(0), 10.0 * i) for i in range(grabber.FROZEN_FRAMES))


def test_another_size_is_reopened_and_then_fitted(grab):
    small, large = picture(1, 24, 32), picture(2)
    camera = Camera([picture(0), small], [small, large], [large])
    held = grab(camera, slowest_s=60.0)
    assert held.newer_than(0, 5.0).image.shape == (48, 64, 3)
    until(lambda: held.newest().sequence == 2)
    np.testing.assert_array_equal(held.newest().image, large)
    assert held.faults["resized"] == 2 and held.faults["reopened"] == 2
    assert held.drain_events()[0] == "camera: pictures are 32x24 px now; reopening"


def test_another_size_after_reopening_is_fitted_and_told(grab):
    camera = Camera([picture(0), BREAK], [picture(1, 24, 32), picture(2, 24, 32)])
    held = grab(camera, slowest_s=60.0)
    assert held.newer_than(1, 5.0).image.shape == (48, 64, 3)
    assert held.faults["resized"] == 1 and len(camera.connections) == 2
    assert "camera: pictures are 32x24 px now; cut and scaled to 64x48" in held.drain_events()


def test_pauses_between_attempts_double_up_to_the_longest(grab):
    camera = Camera([picture(0), BREAK])
    held = grab(camera, slowest_s=60.0)
    camera.refuses = True
    until(lambda: len(camera.opened_s) >= 7)
    assert held._attempts > 0
    camera.waiting = [[picture(1)]]
    camera.refuses = False
    assert held.newer_than(0, 5.0).sequence == 1
    pauses_s = np.diff(camera.opened_s)[1:6]
    assert np.all(pauses_s >= [0.02, 0.04, 0.05, 0.05, 0.05])
    assert len(held.drain_events()) == 2  # attempts that fail are not told one by one
    assert held._attempts == 0


def test_being_found_elsewhere_is_told(grab):
    camera = Camera([picture(0)], [picture(1)])
    held = grab(camera)
    camera.where = "/dev/video2"
    held.newer_than(0, 5.0)
    assert "back as /dev/video2 after" in held.drain_events()[-1]


def test_a_camera_that_never_gives_a_picture_is_refused():
    refusing = Camera()
    refusing.refuses = True
    with pytest.raises(SourceError, match="cannot be opened"):
        Grabber("camera", refusing.open)
    silent = Camera()
    with pytest.raises(SourceError, match=r"no picture for 0\.3 s"):
        Grabber("camera", silent.open)
    silent.let_go()
    until(lambda: not threads())
    assert silent.connections[0].released.is_set()


def without_threads(monkeypatch, allowed, refused):
    """Let `allowed` threads of the grabber start, refuse so many, and let all others start."""
    count, start = iter(range(1000)), threading.Thread.start

    def start_or_not(thread):
        if thread.name.startswith("camera: ") and allowed <= next(count) < allowed + refused:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_or_not)


@pytest.mark.parametrize("refused", [1, 5])
def test_a_reader_that_cannot_be_started_is_tried_again(grab, monkeypatch, refused):
    camera = Camera([picture(0), BREAK], [picture(1)])
    without_threads(monkeypatch, 2, refused)
    held = grab(camera, slowest_s=60.0)
    assert held.newer_than(0, 5.0).sequence == 1
    assert held.faults["died"] == held.faults["reopened"] == 1


@pytest.mark.parametrize("allowed", [0, 1])
def test_a_camera_for_which_there_is_no_thread_is_refused(monkeypatch, allowed):
    camera = Camera([picture(0)])
    without_threads(monkeypatch, allowed, 1)
    with pytest.raises(SourceError, match=r"can't start new thread: .* more processes"):
        Grabber("camera", camera.open)
    camera.let_go()
    until(lambda: not threads())


def test_a_slow_camera_is_no_stalled_one(grab):
    """One picture in 0.4 s, where 0.16 s count as a stall: after a few openings it is known."""
    held = grab(SlowCamera(0.4))

    def nothing_happens():
        held.drain_events()
        sequence = held.newest().sequence
        until(lambda: held.newest().sequence > sequence + 4)
        return held.drain_events() == []

    # A busy machine may make it slower still, and stall it once more.
    assert any(nothing_happens() for _ in range(8))
    assert 1 <= held.faults["stalled"] < held.newest().sequence / 2 and held.faults["died"] == 0


class SlowCamera(Camera):
    """Its connections give the first picture at once and each next one after a while."""

    def __init__(self, interval_s):
        super().__init__()
        self.interval_s = interval_s
        self.numbers = itertools.count()

    def open(self):
        connection = super().open()
        connection.items.put(picture(next(self.numbers)))

        def grab():
            grabbed = Connection.grab(connection)
            threading.Timer(self.interval_s, lambda: self.give(picture(next(self.numbers)))).start()
            return grabbed

        connection.grab = grab
        return connection
