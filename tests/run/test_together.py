"""Several runs in one thread: each is to the bit what it is alone, or all share an encoder."""

from dataclasses import replace

import numpy as np
import pytest

from edge_rjepa.base import journal
from edge_rjepa.errors import SourceError
from edge_rjepa.learner.config import RJepaConfig
from edge_rjepa.learner.rjepa import RJepa
from edge_rjepa.run.config import MonitorConfig, RunConfig
from edge_rjepa.run.run import METRICS, Run, load_run
from edge_rjepa.run.together import learn_together
from edge_rjepa.sources import SourceEnded, open_source
from tests import small_runs

NETWORK = RJepaConfig(n_embedding=16, n_hidden=24, n_predictor=16, n_gain=4, max_block=16)
FRAMES = 12


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of four smooth random pictures."""
    return small_runs.write_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def started(pictures, tmp_path):
    """Starts runs that differ in their seeds, each in a folder of its own."""

    def start(count, folder="together", **changes):
        config = RunConfig(
            source=f"scene:{pictures}", metrics_every_frames=5, held_out_frames=4,
            network=NETWORK, **changes,
        )  # fmt: skip
        return [
            Run.start(
                tmp_path / folder / str(seed),
                replace(config, seed=seed),
                open_source(config.source, seed),
            )
            for seed in range(count)
        ]

    return start


def learn(runs, share=False, frames=FRAMES, events=None):
    """Learn until each has seen so many frames; what ended each."""

    def until(run):
        return run.frames < frames

    def note(event):
        (events if events is not None else []).append(event)

    learnings = [run.learning(until, lambda progress: None, note) for run in runs]
    return learn_together(runs, learnings, share)


class Failing:
    """A source that fails with `error` once it has handed out so many frames."""

    def __init__(self, source, frames, error):
        self._source, self._left, self._error = source, frames, error

    def __getattr__(self, name):
        return getattr(self._source, name)

    def read_next(self, timeout_ms):
        """The next frame, while there is one."""
        if self._left == 0:
            raise self._error
        self._left -= 1
        return self._source.read_next(timeout_ms)


class Sluggish(Failing):
    """A source that has a frame only every third time it is asked."""

    def __init__(self, source):
        super().__init__(source, -1, None)
        self._asked = 0

    def read_next(self, timeout_ms):
        """A frame, or None."""
        assert timeout_ms == 0.0  # it must not hold up the others
        self._asked += 1
        return self._source.read_next(timeout_ms) if self._asked % 3 == 0 else None


@pytest.mark.slow
def test_each_learns_what_it_would_learn_alone(started):
    alone = started(3, "alone")
    for run in alone:
        run.learn(lambda run: run.frames < FRAMES, lambda progress: None)
    together = started(3)
    assert learn(together) == [None, None, None]
    assert [run.learner.digest for run in together] == [run.learner.digest for run in alone]
    assert len({run.learner.digest for run in together}) == 3
    kept = [load_run(run.folder).learner.digest for run in together]
    assert kept == [run.learner.digest for run in together]


def test_they_are_one_batch(started):
    runs = started(2)
    before = [run.learner for run in runs]
    learn(runs)
    assert all(run.learner is not learner for run, learner in zip(runs, before, strict=True))


def test_a_camera_that_gives_few_pictures_holds_nobody_up(started):
    alone, *_ = started(1, "alone")
    alone.learn(lambda run: run.frames < FRAMES, lambda progress: None)
    runs = started(2)
    runs[1].loop.source = runs[1].loop.placed.source = Sluggish(runs[1].loop.source)
    assert learn(runs) == [None, None]
    assert runs[0].learner.digest == alone.learner.digest
    assert runs[1].frames == FRAMES


@pytest.mark.parametrize("share", [False, True])
def test_one_that_fails_leaves_the_others_be(started, share):
    runs = started(3)
    failure = SourceError("the camera burned down")
    runs[1].loop.placed.source = Failing(runs[1].loop.source, 4, failure)
    assert learn(runs, share) == [None, failure, None]
    assert [run.frames for run in runs] == [FRAMES, 4, FRAMES]
    assert load_run(runs[1].folder).notes["loop"]["frames"] == 4


def test_one_that_ends_leaves_the_others_be(started):
    runs, events = started(2), []
    runs[0].loop.placed.source = Failing(runs[0].loop.source, 3, SourceEnded())
    assert learn(runs, events=events) == [None, None]
    assert [run.frames for run in runs] == [3, FRAMES]
    assert "the source has ended" in events


def test_a_second_interrupt_ends_all_as_it_ends_one(started):
    runs = started(2)
    runs[1].loop.placed.source = Failing(runs[1].loop.source, 4, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        learn(runs)
    assert load_run(runs[1].folder).notes["loop"]["frames"] == 4
    # The other was in the middle of a step: its last checkpoint is what there is to go on from.
    assert runs[0].loop.torn and load_run(runs[0].folder).notes["loop"]["frames"] == 0


def test_one_encoder_for_all(started):
    runs = started(2)
    assert learn(runs, share=True) == [None, None]
    assert runs[0].learner is runs[1].learner
    assert runs[0].learner.fixations == 2 * FRAMES * 16
    one, other = (load_run(run.folder).learner for run in runs)
    assert all(np.array_equal(one.parameters()[name], array)
               for name, array in other.parameters().items())  # fmt: skip
    assert not np.array_equal(one.state, other.state)  # each with its own past


def test_one_encoder_learns_what_it_would_learn_with_its_pasts_exchanged(started, monkeypatch):
    learned, blocks = RJepa.learn_block, []
    runs = started(2)

    def note(learner, features, efference):
        state = learner.state
        blocks.append((features.copy(), efference.copy(), state))
        return learned(learner, features, efference)

    monkeypatch.setattr(RJepa, "learn_block", note)
    learn(runs, share=True)
    monkeypatch.undo()
    learner = RJepa(NETWORK, seed=0)
    pasts = [learner.past()]
    for features, efference, state in blocks:
        past = next((p for p in pasts if np.array_equal(p["past.y"], state)), None)
        assert past is not None  # each block found the past of one of the two cameras
        learner.set_past(past)
        learner.learn_block(features, efference)
        pasts.append(learner.past())
    shared = runs[0].learner.parameters()
    assert all(np.array_equal(shared[name], v) for name, v in learner.parameters().items())
    assert len(blocks) == 2 * FRAMES


def test_a_rollback_of_a_shared_encoder_is_everyones(started):
    runs, events = started(2, monitor=MonitorConfig(min_std=10.0, patience=1)), []
    learn(runs, share=True, frames=7, events=events)
    assert sum(run.rollbacks for run in runs) >= 1
    assert any("COLLAPSE" in event for event in events)
    assert runs[0].learner is runs[1].learner
    assert runs[0].learner.learning_rate < NETWORK.learning_rate


def test_a_shared_run_goes_on_with_what_has_seen_most(started):
    first, second = started(2)
    learn([first], frames=4)
    learn([second], frames=9)
    best = second.learner.digest
    learn([first, second], share=True, frames=0)
    assert first.learner is second.learner and first.learner.digest == best


def test_each_keeps_its_own_measures(started):
    runs = started(2)
    learn(runs, frames=10)
    lines = [list(journal.read(run.folder / METRICS)) for run in runs]
    assert [line["frames"] for line in lines[0] if "fixations" in line] == [5, 10]
    assert lines[0] != lines[1]
