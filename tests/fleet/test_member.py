"""A robot of a fleet, with a real run and a real wire: what it adopts, hands out and keeps."""

import os
import signal
import socket
from dataclasses import replace

import numpy as np
import pytest

from edge_rjepa.fleet.child import Settings
from edge_rjepa.fleet.member import ALONE, MEMBERSHIP, MUCH, Member
from edge_rjepa.fleet.parcel import VERSION, Answer, Task, digest, kind_of, understood
from edge_rjepa.fleet.wire import Wire
from edge_rjepa.learner.config import RJepaConfig
from edge_rjepa.learner.merge import lesson_of
from edge_rjepa.learner.rjepa import RJepa
from edge_rjepa.run.config import MonitorConfig, RunConfig
from edge_rjepa.run.run import CHECKPOINT, Run
from edge_rjepa.sources import open_source
from tests import small_runs

NETWORK = RJepaConfig(
    n_embedding=16, n_hidden=24, n_predictor=16, n_gain=4, max_block=16, update_every=1
)
LARGER = kind_of(RunConfig(network=replace(NETWORK, n_embedding=32)))
QUOTA = 64  # fixations of a round: four frames


class Neighbour:
    """Stands where the process beside the robot does, at the other end of a wire."""

    def __init__(self):
        ours, theirs = socket.socketpair()
        self.wire, self._theirs = Wire(ours), Wire(theirs)

    def close(self):
        """Both ends."""
        self.wire.close()
        self._theirs.close()

    def tend(self):
        """What Child does, but that it starts no process."""
        return self.wire.pump()

    def send(self, *frame):
        """To the server."""
        self.wire.send(*frame)

    def answer(self):
        """What the server has got since: an Answer with its arrays, or None."""
        self.wire.pump()
        frames = self._theirs.pump()
        return (understood(Answer, frames[-1].facts), frames[-1].arrays) if frames else None

    def ask(self, task, lesson):
        """What the server sends."""
        self._theirs.send("task", task, lesson.arrays())
        self._theirs.pump()


@pytest.fixture
def run(tmp_path):
    """A run that looks at pictures."""
    (tmp_path / "pictures").mkdir()
    pictures = small_runs.write_pictures(tmp_path / "pictures")
    monitor = MonitorConfig(min_std=0.0, min_rank=0.0, patience=1_000_000)
    config = RunConfig(
        source=f"scene:{pictures}", held_out_frames=4, network=NETWORK, monitor=monitor
    )
    return Run.start(tmp_path / "run", config, open_source(config.source, 0))


@pytest.fixture
def robot(run):
    """The run as a member of a fleet, with its neighbour and what was told of it."""
    events = []
    member = Member(run, Settings("127.0.0.1:1"), events.append)
    member._child = Neighbour()
    yield member, member._child, events
    member.close()


def fleet_lesson(seed=9):
    """What a fleet has learned, which is nobody's else."""
    return lesson_of(RJepa(NETWORK, seed))


def task(run, number=1, **changes):
    """What the server asks in this round."""
    asked = Task(VERSION, "f1ee7", number, 0, QUOTA, 1e6, [], kind_of(run.config))
    return asked._replace(**changes)


def weights(run):
    return run.learner.tensors()["weights"].copy()


def learn(run, member, frames):
    """Learn from so many frames, as `Run.learn` does; the member is asked between any two."""
    end = run.frames + frames
    while run.frames < end:
        member.attend(run)
        run.loop.step()
    member.attend(run)


def test_a_robot_that_joins_goes_on_from_the_fleet_and_keeps_its_own(run, robot):
    member, server, events = robot
    learn(run, member, 2)
    own = weights(run)
    server.ask(task(run), fleet_lesson())
    member.attend(run)
    assert np.array_equal(weights(run), fleet_lesson().weights)
    assert np.array_equal(RJepa.load(run.folder / ALONE).tensors()["weights"], own)
    assert np.array_equal(RJepa.load(run.folder / CHECKPOINT).tensors()["weights"], weights(run))
    assert (run.folder / MEMBERSHIP).exists() and "joined" in events[-1]


def test_what_it_learned_alone_and_cannot_keep_it_does_not_give_up(run, robot, monkeypatch):
    member, server, _ = robot
    learn(run, member, 2)
    own = weights(run)
    monkeypatch.setattr(run, "keep", lambda *more: "disk full")
    server.ask(task(run), fleet_lesson())
    member.attend(run)
    answer, _ = server.answer()
    assert "learned alone cannot be kept: disk full" in answer.refusal
    assert np.array_equal(weights(run), own) and not (run.folder / MEMBERSHIP).exists()


def test_it_is_noted_as_a_member_once_a_checkpoint_is_the_fleets(run, robot, monkeypatch):
    member, server, _ = robot
    with monkeypatch.context() as full:
        full.setattr(run, "keep", lambda *more: "disk full")
        a_round(run, member, server, 1, fleet_lesson())
        assert not (run.folder / MEMBERSHIP).exists()
    a_round(run, member, server, 2, fleet_lesson())
    assert (run.folder / MEMBERSHIP).exists()
    assert RJepa.load(run.folder / CHECKPOINT).fixations > 0


def test_it_hands_out_its_lesson_after_so_many_fixations(run, robot):
    member, server, _ = robot
    server.ask(task(run), fleet_lesson())
    learn(run, member, 3)
    assert server.answer() is None
    learn(run, member, 1)
    answer, arrays = server.answer()
    assert (answer.round, answer.since, answer.refusal) == (1, QUOTA, "")
    assert np.array_equal(arrays[0], weights(run))
    assert server.answer() is None


def test_it_hands_out_after_so_long_where_there_is_nothing_to_see(run, robot):
    member, server, _ = robot
    server.ask(task(run, after_s=0.0), fleet_lesson())
    member.attend(run)
    answer, _ = server.answer()
    assert answer.since == 0


def a_round(run, member, server, number, lesson, taken=()):
    """Adopt, learn and hand out; the digest of what was handed out."""
    server.ask(task(run, number, taken=list(taken)), lesson)
    learn(run, member, QUOTA // 16)
    return digest(lesson_of(run.learner))


def test_what_is_learned_while_the_server_merges_is_added_to_what_it_merged(run, robot):
    member, server, _ = robot
    handed = a_round(run, member, server, 1, fleet_lesson())
    before = weights(run)
    learn(run, member, 3)
    since = weights(run) - before
    merged = fleet_lesson(seed=4)
    server.ask(task(run, 2, taken=[handed]), merged)
    member.attend(run)
    assert since.any() and np.allclose(weights(run), merged.weights + since, atol=1e-6)


def test_what_did_not_arrive_is_not_lost(run, robot):
    member, server, _ = robot
    a_round(run, member, server, 1, fleet_lesson())
    learned = weights(run) - fleet_lesson().weights
    merged = fleet_lesson(seed=4)
    server.ask(task(run, 2), merged)  # without the lesson, which got lost
    member.attend(run)
    assert learned.any() and np.allclose(weights(run), merged.weights + learned, atol=1e-6)


def test_whoever_comes_back_with_much_hands_it_out_first(run, robot):
    member, server, _ = robot
    handed = a_round(run, member, server, 1, fleet_lesson())
    learn(run, member, 13)  # more than three rounds, while the server is away
    own = weights(run)
    server.answer()
    server.ask(task(run, 8, taken=[handed]), fleet_lesson(seed=4))
    member.attend(run)
    answer, arrays = server.answer()
    assert np.array_equal(weights(run), own) and np.array_equal(arrays[0], own)
    assert answer.since == 13 * 16
    server.ask(task(run, 9, taken=[digest(lesson_of(run.learner))]), fleet_lesson(seed=5))
    member.attend(run)
    assert np.allclose(weights(run), fleet_lesson(seed=5).weights)


def test_a_robot_that_was_started_again_loses_nothing(run, robot):
    member, server, events = robot
    a_round(run, member, server, 1, fleet_lesson())
    again = Member(run, Settings("127.0.0.1:1"), events.append)
    again._child = Neighbour()
    learn(run, again, 1)
    own = weights(run)
    again._child.ask(task(run, 5), fleet_lesson(seed=4))
    again.attend(run)
    _, arrays = again._child.answer()
    assert np.array_equal(arrays[0], own) and np.array_equal(weights(run), own)
    again.close()


def test_a_robot_that_knows_much_does_not_give_that_up_for_a_young_fleet(run, robot):
    member, server, events = robot
    run.learner._counts[0] = MUCH + 16
    own = weights(run)
    server.ask(task(run), fleet_lesson())
    member.attend(run)
    answer, arrays = server.answer()
    assert "--start" in answer.refusal and answer.refusal in events[-1] and not arrays
    assert np.array_equal(weights(run), own)
    server.ask(task(run, learned=MUCH), fleet_lesson())
    member.attend(run)
    assert np.array_equal(weights(run), fleet_lesson().weights)


@pytest.mark.parametrize(
    ("changes", "lesson", "says"),
    [
        ({"version": 2}, {}, "version 2"),
        ({"kind": LARGER}, {}, "network.n_embedding is 16 here and 32 of the fleet"),
        ({}, {"weights": np.full(7492, np.nan, np.float32)}, "not all finite"),
        ({}, {"weights": np.full(7492, 1e300)}, "float64, and some are none of float32"),
        ({}, {"mean": np.full(16, -128, np.int8)}, "its numbers are int8"),
        ({}, {"weights": np.zeros(3, np.float32)}, "another network"),
        ({}, {"covariance": -np.eye(16, dtype=np.float32)}, "negative"),
        ({"round": "one"}, {}, "facts.round"),
    ],
)
def test_what_is_no_task_changes_nothing_and_is_answered_in_words(
    run, robot, changes, lesson, says
):
    member, server, events = robot
    own = weights(run)
    for _ in range(2):
        server.ask(task(run, **changes), fleet_lesson()._replace(**lesson))
        member.attend(run)
    answer, _ = server.answer()
    assert says in answer.refusal
    assert len(events) == 1 and "takes no part" in events[0]  # said once
    assert np.array_equal(weights(run), own)


def test_a_roll_back_is_not_added_to_the_fleet(run, robot):
    member, server, _ = robot
    handed = a_round(run, member, server, 1, fleet_lesson())
    run.keep("good.safetensors")
    learn(run, member, 2)
    run._roll_back("a test")
    own = weights(run)
    server.answer()
    server.ask(task(run, 2, taken=[handed]), fleet_lesson(seed=4))
    member.attend(run)
    assert np.array_equal(weights(run), own)  # handed out first
    assert np.array_equal(server.answer()[1][0], own)


@pytest.fixture
def silent_process(tmp_path, monkeypatch):
    """What is started beside the robot says nothing and does not end, be flwr there or not."""
    program = tmp_path / "silent"
    program.write_text("#!/bin/sh\nexec sleep 600\n")
    program.chmod(0o755)
    monkeypatch.setattr("edge_rjepa.fleet.child.sys.executable", str(program))


@pytest.mark.slow
def test_a_process_that_dies_costs_nothing_and_is_started_again(run, silent_process, monkeypatch):
    events = []
    member = Member(run, Settings("127.0.0.1:1"), events.append)
    monkeypatch.setattr("edge_rjepa.fleet.child.FIRST_PAUSE_S", 0.0)
    member._child._pause_s = 0.0
    member.attend(run)
    first = member.pid
    os.kill(first, signal.SIGKILL)
    while member.pid == first or member.pid is None:
        member.attend(run)
    member.close()
    assert "ended (exit code -9)" in events[0] and len(events) == 1


def test_a_process_that_hangs_is_ended_and_started_again(run, silent_process, monkeypatch):
    events = []
    member = Member(run, Settings("127.0.0.1:1"), events.append)
    member.attend(run)
    first = member.pid
    os.kill(first, signal.SIGSTOP)
    monkeypatch.setattr("edge_rjepa.fleet.child.SILENT_S", 0.0)
    while not events:
        member.attend(run)
    member.close()
    assert "hangs (exit code -9)" in events[0] and "started again in 1 s" in events[0]


def test_a_server_cannot_write_to_the_terminal(run, robot):
    member, server, events = robot
    server.ask(task(run, kind={"\x1b[2J\n": 1, **kind_of(run.config)}), fleet_lesson())
    member.attend(run)
    assert len(events) == 1 and events[0].isprintable()
