"""The loop: what it uses of the frames it is handed, and what it tells."""

import math
import time
from dataclasses import replace

import numpy as np
import pytest

from edge_rjepa.errors import SourceError
from edge_rjepa.eye.config import HeadConfig
from edge_rjepa.eye.eye import Eye
from edge_rjepa.eye.gaze import Gaze
from edge_rjepa.eye.retina import Retina
from edge_rjepa.learner.config import RJepaConfig
from edge_rjepa.learner.rjepa import RJepa
from edge_rjepa.optics.camera import Pinhole
from edge_rjepa.run.config import RunConfig
from edge_rjepa.run.held_out import FEWEST_A_DIMENSION, HeldOut, SetAside
from edge_rjepa.run.loop import MOST_UNUSABLE, Loop
from edge_rjepa.sources import Frame, FrameUse, SourceEnded
from firmware_bridge.track import Pose

CONFIG = RunConfig(
    network=RJepaConfig(n_embedding=8, n_hidden=12, n_predictor=8, n_gain=4, max_block=16),
    fixations_per_frame=4,
)
CAMERA = Pinhole(160, 120, 1.0)
PICTURE = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
BLACK = np.full_like(PICTURE, 3)
BLANK = np.full_like(PICTURE, (0, 135, 0))


class Film:
    """A source of given frames; None where none comes in time."""

    camera = CAMERA

    def __init__(self, frames, live=False, head=None):
        self.frames = iter(frames)
        self.live = live
        self.head = head
        self.told = []

    def read_next(self, timeout_ms):
        try:
            return next(self.frames)
        except StopIteration:
            raise SourceEnded from None

    def drain_events(self):
        told, self.told = self.told, []
        return told

    def state(self):
        return {}

    def restore(self, state):
        pass


class Turntable:
    """A head that turns steadily for a second, then stays; and remembers where it was sent."""

    limits_rad = ((-1.0, 1.0), (-0.5, 0.5))

    def __init__(self):
        self.sent = []

    def at(self, t_s):
        return Pose(0.3 * min(t_s, 1.0), -0.1, t_s < 1.0)

    def move(self, pan_rad, tilt_rad):
        self.sent.append((pan_rad, tilt_rad))
        return pan_rad, tilt_rad

    def drain_events(self):
        return []


class Notebook:
    """A recorder that keeps all in memory."""

    def __init__(self):
        self.lines = []

    def add(self, frame, gaze_rad, fixations):
        self.lines.append((frame, gaze_rad, fixations))


def frame(sequence, image=PICTURE, t_s=None, head=(0.0, 0.0), fixations=None):
    """A frame; with `fixations` as a recording has it, where 0 were set aside."""
    t_s = sequence / 10.0 if t_s is None else t_s
    if fixations is None:
        return Frame(image, t_s, head, sequence)
    use = FrameUse.LEARN if fixations else FrameUse.SET_ASIDE
    return Frame(image, t_s, head, sequence, use, fixations)


def loop_of(source, config=CONFIG, **handed_in):
    learner = RJepa(config.network, config.seed)
    return Loop(
        config,
        source,
        Eye(Gaze(config.gaze, config.seed), Retina(config.retina)),
        learner,
        HeldOut(config),
        **handed_in,
    )


def run(loop):
    used = []
    with pytest.raises(SourceEnded):
        while True:
            used.append(loop.step())
    return used


def test_black_blank_and_unplaced_frames_are_counted_and_skipped():
    nan = float("nan")
    film = [
        frame(0), frame(1, BLACK), frame(2, BLACK), frame(3), frame(4, BLANK),
        frame(5, head=(nan, 0.0)), frame(6, t_s=nan), frame(7), None,
    ]  # fmt: skip
    loop = loop_of(Film(film))
    assert run(loop) == [True, False, False, True, False, False, False, True, False]
    assert loop.skipped == {"black": 2, "blank": 1, "unknown head angle": 2}
    assert loop.frames == 3 and loop.learner.fixations == 3 * 4
    assert [("of no use" in event, "again" in event) for event in loop.drain_events()] == [
        (True, False), (False, True), (True, False), (True, False), (False, True),
    ]  # fmt: skip
    assert loop.drain_events() == []


def test_a_dark_room_is_not_black():
    dark = np.where(PICTURE > 250, 20, 0).astype(np.uint8)
    assert run(loop_of(Film([frame(0, dark)]))) == [True]


def test_frames_taken_while_the_head_moves_are_skipped():
    loop = loop_of(Film([frame(t) for t in range(20)], head=Turntable()))
    assert run(loop) == [False] * 10 + [True] * 10
    assert loop.skipped == {"head moving": 10}


def test_or_taken_with_the_angle_at_capture_less_the_measured_delay():
    config = replace(CONFIG, head=HeadConfig(while_moving="correct", image_delay_s=0.2))
    notebook, head = Notebook(), Turntable()
    loop = loop_of(Film([frame(t) for t in range(2, 20)]), config, head=head, recorder=notebook)
    assert all(run(loop))
    for used, _, _ in notebook.lines:
        assert used.head_rad == (head.at(used.t_capture_s - 0.2).pan_rad, -0.1)


def test_the_efference_copy_tells_what_was_really_travelled(monkeypatch):
    """Saccades of the efference copies add up to the way of gaze, head movement included."""
    config = replace(CONFIG, head=HeadConfig(while_moving="correct"))
    notebook = Notebook()
    loop = loop_of(Film([frame(t) for t in range(20)]), config, head=Turntable(), recorder=notebook)
    seen = []
    learn_block = loop.learner.learn_block
    monkeypatch.setattr(
        loop.learner, "learn_block", lambda x, a: seen.append(a) or learn_block(x, a)
    )
    run(loop)
    gaze_rad = np.vstack([gaze for _, gaze, _ in notebook.lines])
    saccades_rad = np.vstack(seen)[:, :2] * config.gaze.saccade_scale_rad
    np.testing.assert_allclose(saccades_rad[1:], np.diff(gaze_rad, axis=0), atol=1e-6)


def test_the_head_is_sent_where_gaze_wants_it_and_within_its_limits():
    head = Turntable()
    run(loop_of(Film([frame(t) for t in range(10, 60)]), head=head))
    assert head.sent
    low, high = np.transpose(head.limits_rad)
    assert np.all(np.array(head.sent) >= low) and np.all(np.array(head.sent) <= high)


def live_frames(count, rate=30.0):
    now_s = time.monotonic()
    return [frame(i, t_s=now_s + i / rate) for i in range(count)]


@pytest.mark.slow
@pytest.mark.parametrize("rate", [30.0, 5.0, 1.0, 0.3])
def test_of_a_live_source_some_frames_are_set_aside_and_never_learned_from(rate):
    """By the clock: half a minute of any camera is enough to judge on."""
    notebook, film = Notebook(), live_frames(1 + math.ceil(30.0 * rate), rate)
    loop = loop_of(Film(film, live=True), recorder=notebook)
    run(loop)
    taken_s = [used.t_capture_s for used, gaze, _ in notebook.lines if gaze is None]
    aside_s = np.array(taken_s) - film[0].t_capture_s
    # In the last half second of ten, or the first frame after that began.
    assert np.all((aside_s + 0.501) % 10.0 < 0.502 + 1.0 / rate)
    assert len(aside_s) < 0.07 * len(film) + 4
    assert loop.learner.fixations == sum(fixations for _, _, fixations in notebook.lines)
    assert loop.held_out.enough


@pytest.mark.parametrize("n_embedding", [8, 64, 256])
@pytest.mark.parametrize("rate", [0.5, 1.0, 2.0, 3.0, 7.0, 15.0, 25.0, 30.0, 60.0, 240.0])
def test_half_a_minute_holds_out_enough_of_any_camera_for_any_network(rate, n_embedding):
    config = replace(CONFIG, network=replace(CONFIG.network, n_embedding=n_embedding))
    aside = SetAside(config)
    looks = sum(aside.looks(1000.0 + i / rate) for i in range(1 + math.ceil(30.0 * rate)))
    assert looks * config.fixations_per_frame >= FEWEST_A_DIMENSION * n_embedding


@pytest.mark.parametrize("live", [False, True])
def test_a_source_that_shows_nothing_ends(live):
    loop = loop_of(Film([frame(i, BLACK) for i in range(MOST_UNUSABLE + 5)], live=live))
    if live:  # somebody may take the cap off the lens
        run(loop)
        assert loop.skipped == {"black": MOST_UNUSABLE + 5}
    else:
        with pytest.raises(SourceError, match="first 10,000 frames are of no use .black."):
            run(loop)


def test_a_recording_is_used_as_it_was_then():
    film = [frame(i, fixations=n) for i, n in enumerate([4, 0, 2, 1, 0, 3])]
    notebook = Notebook()
    loop = loop_of(Film(film), recorder=notebook)
    run(loop)
    assert [fixations for _, _, fixations in notebook.lines] == [4, 0, 2, 1, 0, 3]
    assert loop.learner.fixations == 10 and len(loop.held_out._looks) == 2


@pytest.mark.slow
def test_learning_that_falls_behind_uses_fewer_fixations_and_says_so(monkeypatch):
    """A camera of 1,000 frames a second: no learner keeps up with that."""
    config = replace(CONFIG, fixations_per_frame=16)
    film = Film([frame(i, t_s=i / 1000.0) for i in range(200)], live=True)
    loop = loop_of(film, config)
    spent_s = iter(np.repeat(np.arange(10_000) * 2e-3, 1))  # each look at the clock, 2 ms later
    monkeypatch.setattr("edge_rjepa.run.loop.time.monotonic", lambda: next(spent_s))
    run(loop)
    assert loop.pace.fixations == 1
    news = loop.drain_events()
    assert len(news) == 1 and "cannot keep up with" in news[0]


def test_latency_is_measured_of_live_sources_only():
    film = [frame(i, t_s=time.monotonic() + s, fixations=4) for i, s in enumerate((-10.0, 1000.0))]
    live, not_live = loop_of(Film(film, live=True)), loop_of(Film([frame(0)]))
    run(live), run(not_live)
    # What counts is capture, not when work began.
    assert live.latency.percentile_ms(0.0) < -900e3 and live.latency.percentile_ms(100.0) > 10e3
    assert not_live.latency.percentile_ms(50.0) is None


def test_measures_are_means_over_fixations_since_the_last():
    loop = loop_of(Film([frame(i, fixations=n) for i, n in enumerate([4, 1])]))
    run(loop)
    reports = list(loop._reports)
    measured = loop.measures()
    assert (measured.frames, measured.fixations) == (2, 5)
    assert measured.loss == pytest.approx((4 * reports[0][1] + reports[1][1]) / 5)
    assert measured.surprise == pytest.approx((4 * reports[0][2] + reports[1][2]) / 5)
    assert loop.measures().fixations == 0 and np.isnan(loop.measures().loss)


def test_what_is_broken_off_half_way_is_known_as_torn(monkeypatch):
    loop = loop_of(Film([frame(i) for i in range(3)]))
    assert loop.step() and not loop.torn

    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(loop.eye.gaze, "learned", interrupted)
    with pytest.raises(KeyboardInterrupt):
        loop.step()
    assert loop.torn and loop.frames == 1


def test_news_of_source_and_head_come_along():
    film = Film([frame(0)])
    loop = loop_of(film)
    film.told = ["camera: reopened"]
    assert loop.drain_events() == ["camera: reopened"]
