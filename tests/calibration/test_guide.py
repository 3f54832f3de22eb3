"""The guide, fed with pictures of a board held by somebody who does as told."""

import math

import cv2
import numpy as np
import pytest

from calibration.board import Board, Sighting
from calibration.camera import calibrate_camera
from calibration.errors import CalibrationError
from calibration.guide import ENOUGH_VIEWS, MOST_VIEWS, Guide

SIZE = 640, 480
FOCAL_PX = 560.0
BOARD = Board("charuco", 9, 6, 0.025)
BLACK = np.zeros((480, 640), np.uint8)


class Eyes:
    """A board whose sightings are laid out beforehand: what the guide makes of them is tested."""

    def __init__(self, board):
        self.next, self.why = None, ""
        self.points, self.square_m, self.columns = board.points, board.square_m, board.columns

    def find(self, image, quick=False):
        return self.next

    def trouble(self, image):
        return self.why


class Holder:
    """Holds a board before a camera: where in the picture, how near, tilted how."""

    def __init__(self):
        self.eyes = Eyes(BOARD)
        self.guide = Guide(self.eyes)
        self.t_s = 0.0

    def show(self, x=0.5, y=0.5, z_m=0.5, right=0.0, down=0.0, edge_px=2.2, shift_px=0.0):
        """Advice after one frame; right, down: radians, the left or the upper side away."""
        points = BOARD.points - BOARD.points.mean(axis=0)
        turn = cv2.Rodrigues(np.array([-down, right, 0.0]))[0]
        middle = np.array([(x - 0.5) * 640 / FOCAL_PX, (y - 0.5) * 480 / FOCAL_PX, 1.0]) * z_m
        px, py, pz = (points @ turn.T + middle).T
        pixels = np.stack([px / pz, py / pz], axis=-1) * FOCAL_PX + [319.5 + shift_px, 239.5]
        seen = ((pixels > 1.0) & (pixels < [638.0, 478.0])).all(axis=1)
        ids = np.flatnonzero(seen)
        self.eyes.next = Sighting(ids, pixels[ids], edge_px) if len(ids) >= 8 else None
        self.t_s += 0.1
        return self.guide.offer(BLACK, self.t_s)

    def hold(self, **how):
        """Advice after two frames without a move."""
        self.show(**how)
        return self.show(**how)


def test_a_view_is_kept_once_it_is_still():
    holder = Holder()
    assert holder.show().text == "hold still" and not holder.guide.sightings
    assert holder.show().kept and len(holder.guide.sightings) == 1
    advice = holder.show()
    assert not advice.kept and not advice.done and len(holder.guide.sightings) == 1


def test_a_board_that_moves_or_is_blurred_is_not_kept():
    holder = Holder()
    for shift_px in (0.0, 5.0, 10.0, 15.0):
        assert holder.show(shift_px=shift_px).text == "hold still"
    assert holder.show(shift_px=15.0).kept
    holder.show(x=0.8, edge_px=6.0)
    advice = holder.show(x=0.8, edge_px=6.0)
    assert not advice.kept and advice.text.startswith("blurred")


def test_frames_far_apart_say_nothing_of_stillness():
    holder = Holder()
    holder.show()
    holder.t_s += 10.0
    assert holder.show().text == "hold still"


def test_no_board_no_view():
    holder = Holder()
    advice = holder.show(x=5.0)
    assert advice.sighting is None and not advice.kept and "show the board" in advice.text
    assert advice.progress == 0.0


def test_why_no_board_is_seen_is_told_now_and_then():
    holder = Holder()
    holder.eyes.why = "the picture is mirrored"
    assert holder.show(x=5.0).text == holder.guide.trouble == "the picture is mirrored"
    holder.eyes.why = ""
    assert holder.show(x=5.0).text == "the picture is mirrored"
    while holder.t_s < 4.0:
        advice = holder.show(x=5.0)
    assert "show the board" in advice.text and holder.guide.trouble == ""


PLACES = {
    "upper left corner": (0.25, 0.25),
    "upper right corner": (0.75, 0.25),
    "lower left corner": (0.25, 0.75),
    "lower right corner": (0.75, 0.75),
    "left side": (0.2, 0.5),
    "right side": (0.8, 0.5),
    "top": (0.5, 0.25),
    "bottom": (0.5, 0.75),
    "middle": (0.5, 0.5),
}
TILTS = {
    "left side away": (0.5, 0.0),
    "right side away": (-0.5, 0.0),
    "upper side away": (0.0, 0.5),
    "lower side away": (0.0, -0.5),
}


def obey(advice, rng):
    """How somebody holds the board who was told so: roughly right."""
    x, y = 0.5, 0.5
    right, down = rng.normal(0.0, 0.1, 2)
    z_m = 0.45
    for words, (x_, y_) in PLACES.items():
        if f"the {words} of the picture" in advice:
            x, y = x_, y_
    for words, (right_, down_) in TILTS.items():
        if words in advice:
            right, down = right_, down_
    z_m = 0.7 if "farther" in advice else 0.33 if "nearer" in advice else z_m
    if "another way" in advice:
        right, down = rng.uniform(-0.6, 0.6, 2)
        x, y = rng.uniform(0.3, 0.7, 2)
    x, y = np.array([x, y]) + rng.normal(0.0, 0.04, 2)
    return dict(x=x, y=y, right=right, down=down, z_m=z_m * rng.uniform(0.9, 1.1))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_who_does_as_told_is_soon_done_and_the_views_determine_a_camera(seed):
    holder, rng = Holder(), np.random.default_rng(seed)
    advice, progress, asked = holder.hold(), [], set()
    while not advice.done:
        progress.append(advice.progress)
        asked.add(advice.text)
        assert len(progress) < 120, advice.text
        advice = holder.hold(**obey(advice.text, rng))
    guide = holder.guide
    assert ENOUGH_VIEWS <= len(guide.sightings) <= MOST_VIEWS and not guide.missing()
    assert progress == sorted(progress) and 0.0 < progress[0] < progress[-1] < 1.0
    assert any("move the board" in text for text in asked)
    assert any("tilt the board" in text for text in asked)

    noise = np.random.default_rng(seed)
    views = [
        s._replace(pixels=s.pixels + noise.normal(0, 0.1, s.pixels.shape)) for s in guide.sightings
    ]
    calibration = calibrate_camera(BOARD, views, guide.size, lens="pinhole")
    assert calibration.model.focal_x_px == pytest.approx(FOCAL_PX, rel=0.005)


@pytest.mark.parametrize(("words", "tilt"), TILTS.items())
def test_the_side_asked_for_is_the_one_that_is_missing(words, tilt):
    holder = Holder()
    for other, (right, down) in TILTS.items():
        if other != words:
            assert holder.hold(right=right, down=down).kept
    assert any(words in wish for wish in holder.guide.missing())
    right, down = tilt
    assert holder.hold(right=right, down=down).kept
    assert not any("tilt" in wish for wish in holder.guide.missing())


def test_the_far_side_is_called_away():
    holder = Holder()
    holder.hold(right=math.radians(40.0))
    pixels = holder.guide.sightings[0].pixels.reshape(6, 9, 2)
    heights = pixels[-1, :, 1] - pixels[0, :, 1]
    assert heights[0] < heights[-1]  # the left side looks smaller: it is away ..
    assert not any("left side away" in wish for wish in holder.guide.missing())  # .. and done


def test_views_are_not_piled_up():
    holder = Holder()
    for _ in range(30):
        holder.hold()
    assert len(holder.guide.sightings) == 1


def test_another_size_is_refused_and_nothing_lost():
    holder = Holder()
    holder.hold()
    with pytest.raises(CalibrationError, match="one resolution"):
        holder.guide.offer(np.zeros((240, 320), np.uint8), 9.0)
    assert len(holder.guide.sightings) == 1 and holder.guide.size == SIZE


def test_pictures_go_in():
    guide = Guide(BOARD)
    drawn = cv2.GaussianBlur(BOARD.draw(2000.0), (0, 0), 1.0)
    assert guide.offer(drawn, 0.0).sighting is not None
    assert guide.offer(drawn, 0.1).kept
    with pytest.raises(CalibrationError, match="a picture"):
        guide.offer(np.zeros((4, 4)), 0.2)
