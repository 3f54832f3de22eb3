"""What every source must do, whatever it shows.

Each of CHECKS takes `make() -> Source`, which opens the same source anew at each call, and asserts.
A newcomer is tested by one more line in test_source_checks.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np

from edge_rjepa.optics.camera import as_values, camera_of
from edge_rjepa.sources import Frame, Source, SourceEnded

Make = Callable[[], Source]
WAIT_MS = 5000.0


def read(source: Source, count: int) -> list[Frame]:
    """Its next frames, `count` of them or all there are."""
    frames = []
    try:
        while len(frames) < count:
            frame = source.read_next(WAIT_MS)
            assert frame is not None, "no frame came in time"
            frames.append(frame)
    except SourceEnded:
        pass
    return frames


def assert_same(some: list[Frame], others: list[Frame]) -> None:
    """The same frames to the last bit."""
    assert [frame[1:] for frame in some] == [frame[1:] for frame in others]
    for one, other in zip(some, others, strict=True):
        np.testing.assert_array_equal(one.image, other.image)


def frames_are_as_the_camera_says(make: Make) -> None:
    with make() as source:
        for frame in read(source, 4):
            assert frame.image.shape == (source.camera.height_px, source.camera.width_px, 3)
            assert frame.image.dtype == np.uint8
            assert np.isfinite(frame.head_rad).all() and len(frame.head_rad) == 2
        assert camera_of(json.loads(json.dumps(as_values(source.camera)))) == source.camera


def time_and_number_go_on(make: Make) -> None:
    with make() as source:
        frames = read(source, 6)
    assert frames and frames[0].sequence >= 0
    assert np.all(np.diff([frame.sequence for frame in frames]) >= 1)
    assert np.all(np.diff([frame.t_capture_s for frame in frames]) > 0.0)


def events_are_told_once(make: Make) -> None:
    with make() as source:
        read(source, 2)
        assert all(isinstance(event, str) for event in source.drain_events())
        assert source.live or source.drain_events() == []


def a_source_that_is_not_live_is_the_same_each_time(make: Make) -> None:
    with make() as one, make() as other:
        if not one.live:
            assert_same(read(one, 8), read(other, 8))


def it_goes_on_from_its_state(make: Make) -> None:
    with make() as source:
        read(source, 3)
        state = json.loads(json.dumps(source.state()))
        head = source.head.at(0.0) if source.head else None
        expected = read(source, 5)
    with make() as again:
        again.restore(state)
        assert (again.head.at(0.0) if again.head else None) == head
        if not again.live:
            assert_same(read(again, 5), expected)


def what_is_held_out_is_never_shown(make: Make) -> None:
    with make() as source:
        held = source.held_out(3)
        assert len(held) <= 3 and [frame.sequence for frame in held] == list(range(len(held)))
        shown = read(source, 8)
        assert_same(source.held_out(3), held)
    for frame in held:
        assert not any(np.array_equal(frame.image, other.image) for other in shown)


def closing_twice_does_nothing(make: Make) -> None:
    with make() as source:
        read(source, 1)
        source.close()


CHECKS = [
    frames_are_as_the_camera_says,
    time_and_number_go_on,
    events_are_told_once,
    a_source_that_is_not_live_is_the_same_each_time,
    it_goes_on_from_its_state,
    what_is_held_out_is_never_shown,
    closing_twice_does_nothing,
]
