"""Frames over a socket: whole, in order, and refused where they are none."""

import socket

import numpy as np
import pytest

from edge_rjepa.errors import InputError
from edge_rjepa.fleet.wire import LENGTHS, MOST_BYTES, Wire


@pytest.fixture
def ends():
    """Two wires, one to the other."""
    one, other = socket.socketpair()
    wires = Wire(one), Wire(other)
    yield wires
    for wire in wires:
        wire.close()


def received(sender, receiver, count):
    """So many frames that were sent."""
    frames = []
    while len(frames) < count:
        sender.pump()
        frames += receiver.pump()
    return frames


def test_frames_arrive_whole_and_in_order(ends):
    one, other = ends
    large = np.random.default_rng(0).normal(size=3_000_000)  # more than a socket holds
    arrays = [large, np.arange(3, dtype=np.int64), np.float32(2.5), np.zeros((0, 2), np.float32)]
    one.send("task", {"round": 7, "taken": ["a"], "text": "grün"}, arrays)
    one.send("alive")
    first, second = received(one, other, 2)
    assert first.what == "task" and first.facts == {"round": 7, "taken": ["a"], "text": "grün"}
    assert all(np.array_equal(a, b) and a.dtype == b.dtype
               for a, b in zip(first.arrays, arrays, strict=True))  # fmt: skip
    assert (second.what, second.facts, second.arrays) == ("alive", {}, [])


def test_nothing_waits(ends):
    one, _ = ends
    one.send("task", {}, [np.zeros(5_000_000)])  # nobody reads it
    for _ in range(10):
        assert one.pump() == []


def test_an_end_is_noticed(ends):
    one, other = ends
    other.close()
    with pytest.raises(EOFError):
        for _ in range(3):
            one.send("alive")
            one.pump()


@pytest.mark.parametrize(
    "content",
    [
        LENGTHS.pack(0, 0, MOST_BYTES + 1),
        LENGTHS.pack(1, 1, 0) + b"a{",
        LENGTHS.pack(1, 2, 3) + b"a{}xyz",
        LENGTHS.pack(2, 2, 0) + b"\xff\xff{}",
        LENGTHS.pack(1, 2, 0) + b"a[]",
    ],
)
def test_what_is_no_frame_is_refused(content):
    one, other = socket.socketpair()
    with other:
        other.sendall(content)
        wire = Wire(one)
        with pytest.raises(InputError):
            wire.wait(1.0)
        wire.close()
