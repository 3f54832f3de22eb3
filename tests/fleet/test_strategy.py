"""The server's side of a round, with Flower's own messages: who is merged, and who is left out."""

import io
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("flwr", reason="needs Flower: make fleet")

from flwr.app import Array, ConfigRecord, Error, Message
from flwr.supercore.task_identity import TaskIdentity

from edge_rjepa.errors import CheckpointError, ConfigError
from edge_rjepa.fleet.bounded import merge_bounded
from edge_rjepa.fleet.kept import Fleet
from edge_rjepa.fleet.parcel import VERSION, Answer, Parcel, Task, kind_of, understood
from edge_rjepa.fleet.records import parcel_of, record_of
from edge_rjepa.fleet.strategy import Lessons, Pace
from edge_rjepa.learner.config import RJepaConfig
from edge_rjepa.learner.merge import adopt, checked, lesson_of
from edge_rjepa.learner.rjepa import RJepa
from edge_rjepa.run.config import RunConfig
from edge_rjepa.run.run import CHECKPOINT, load_run

NETWORK = RJepaConfig(
    n_embedding=8, n_hidden=8, n_predictor=8, n_gain=3, max_block=16, update_every=1
)
CONFIG = RunConfig(network=NETWORK)
NODES = [11, 12, 13, 14]


@pytest.fixture
def lines():
    """What was told."""
    return []


@pytest.fixture
def strategy(tmp_path, lines):
    """Of a new fleet."""
    return Lessons(
        Fleet.opened(tmp_path / "fleet", CONFIG, None), Pace(100, 5.0, 2), lines.append, str
    )


@pytest.fixture(autouse=True)
def identity(monkeypatch):
    """Messages are of a server."""
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


def test_a_round_has_time_for_a_lesson_to_go_and_come_back(strategy, tmp_path):
    """Over a line with 100 ms each way and 1 % lost, of which a small network notices nothing."""
    assert 2.0 * 5.0 + 5.0 < strategy.patience_s < 16.0
    large = Fleet.opened(tmp_path / "large", RunConfig(), None)
    assert Lessons(large, Pace(100, 5.0, 2), print).patience_s > 15.0 + 2 * 32.0


def tasks(strategy, nodes=NODES):
    grid = SimpleNamespace(get_node_ids=lambda: nodes)
    messages = strategy.configure_train(0, strategy.arrays(), ConfigRecord(), grid)
    for number, message in enumerate(messages):
        message.metadata.__dict__["_message_id"] = f"m{number}"
    return messages


def learned(message, seed, blocks=40):
    """The lesson of a robot that went on from what it was sent."""
    learner = RJepa(NETWORK, 0)
    adopt(learner, checked(parcel_of(message.content).arrays, NETWORK))
    rng = np.random.default_rng(seed)
    place = rng.normal(size=NETWORK.n_features)
    for _ in range(blocks):
        learner.learn_block(place + rng.normal(size=(16, NETWORK.n_features)),
                            rng.normal(size=(16, 4)))  # fmt: skip
    return lesson_of(learner)


def answer(message, lesson, **changes):
    """What a robot answers."""
    task = understood(Task, parcel_of(message.content).facts)
    facts = Answer(VERSION, task.fleet, task.round, 640, kind_of(CONFIG), "")
    record = record_of(Parcel(facts._replace(**changes)._asdict(), lesson.arrays()))
    return Message(record, reply_to=message)


def test_a_round_is_merged_and_kept(strategy, lines):
    messages = tasks(strategy, NODES[:3])
    lessons = [learned(message, seed) for seed, message in enumerate(messages)]
    _, metrics = strategy.aggregate_train(
        0, [answer(*pair) for pair in zip(messages, lessons, strict=True)]
    )
    assert metrics["robots"] == 3 and "round 1: 3 robots, 1,920 fixations" in lines[-1]
    kept = load_run(strategy.fleet.folder)
    sent = parcel_of(tasks(strategy)[0].content)
    assert np.array_equal(kept.learner.tensors()["weights"], sent.arrays[0])
    assert sent.facts["round"] == 2 and len(sent.facts["taken"]) == 3
    base = parcel_of(messages[0].content).arrays[0]
    bounded = merge_bounded(lessons, base, [640] * 3, NETWORK.statistics_fixations)
    assert np.array_equal(sent.arrays[0], bounded.lesson.weights)


def test_a_fleet_goes_on_after_a_restart(strategy, lines):
    for _ in range(2):
        messages = tasks(strategy, NODES[:2])
        strategy.aggregate_train(0, [answer(m, learned(m, s)) for s, m in enumerate(messages)])
    again = Fleet.opened(strategy.fleet.folder, None, None)
    assert again.standing == strategy.fleet.standing and again.standing.round == 3
    assert all(map(np.array_equal, again.lesson, strategy.fleet.lesson))


def broken(lesson, **changes):
    return lesson._replace(**changes)


def damaged_header(record):
    """The header of an array claims more than there is."""
    good = record["lesson"]["0"]
    claim = re.sub(rb"'shape': \((\d+),\), ", rb"'shape': (9\1,),", good.data)
    assert claim != good.data and len(claim) == len(good.data)
    record["lesson"]["0"] = Array(good.dtype, good.shape, good.stype, claim)


def objects(record):
    """Pickled objects run code where they are read."""
    file = io.BytesIO()
    np.save(file, np.array([{}], dtype=object), allow_pickle=True)
    record["lesson"]["1"] = Array("float32", (8,), "numpy.ndarray", file.getvalue())


def text(record):
    record["facts"]["json"] = "{" * 100_000


def nothing(record):
    del record["facts"]


HOSTILE = {
    "NaN": (lambda m, good: answer(m, broken(good, weights=good.weights * np.nan)),
            "not all finite"),
    "shape": (lambda m, good: answer(m, broken(good, weights=np.zeros(3))), "another network"),
    "too large for float32": (
        lambda m, good: answer(m, broken(good, weights=np.full(good.weights.shape, 1e300))),
        "its numbers are float64, and some are none of float32"),
    "the least of integers": (
        lambda m, good: answer(m, broken(good, mean=np.full(8, -128, np.int8))),
        "its numbers are int8"),
    "moments": (lambda m, good: answer(m, broken(good, covariance=-good.covariance)), "variance"),
    "collapsed": (lambda m, good: answer(m, broken(good, covariance=1e-9 * good.covariance)),
                  "collapsed: the embedding's std"),
    "an old round": (lambda m, good: answer(m, good, round=0), "round 0, which is over"),
    "another fleet": (lambda m, good: answer(m, good, fleet="x"), "which is over"),
    "a version": (lambda m, good: answer(m, good, version=9), "version 9"),
    "a size": (lambda m, good: answer(m, good, kind=kind_of(RunConfig())),
               "network.n_embedding is 8 here and 256 of this robot"),
    "a refusal": (lambda m, good: answer(m, good, refusal="no\n\x1b[2Jthanks"), "no  [2Jthanks"),
    "an error": (lambda m, good: Message(Error(1, "it fell"), reply_to=m), "it fell"),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_one_of_four_that_is_unsound_is_left_out_with_the_reason(strategy, lines, kind):
    messages = tasks(strategy)
    make, says = HOSTILE[kind]
    sound = [answer(m, learned(m, s)) for s, m in enumerate(messages[:3])]
    strategy.aggregate_train(0, [make(messages[3], learned(messages[3], 3)), *sound])
    assert lines[0].startswith("14 is left out of round 1: ") and says in lines[0]
    assert lines[1].startswith("round 1: 3 robots")


@pytest.mark.parametrize("spoil", [damaged_header, objects, text, nothing])
def test_a_record_that_is_none_is_left_out(strategy, lines, spoil):
    messages = tasks(strategy)
    sound = [answer(m, learned(m, s)) for s, m in enumerate(messages[:3])]
    content = answer(messages[3], learned(messages[3], 3)).content
    spoil(content)
    strategy.aggregate_train(0, [Message(content, reply_to=messages[3]), *sound])
    assert lines[0].startswith("14 is left out") and lines[1].startswith("round 1: 3 robots")


def test_a_lesson_is_not_merged_twice(strategy, lines):
    messages = tasks(strategy)
    lessons = [learned(m, s) for s, m in enumerate(messages)]
    strategy.aggregate_train(0, list(map(answer, messages, lessons)))
    messages = tasks(strategy)
    fresh = [answer(m, learned(m, 10 + s)) for s, m in enumerate(messages[:3])]
    strategy.aggregate_train(0, [*fresh, answer(messages[3], lessons[3])])
    assert any("14 is left out of round 2: it sent a lesson that was merged" in x for x in lines)


def test_huge_weights_move_the_fleet_no_further_than_the_others(strategy, lines):
    messages = tasks(strategy)
    base = parcel_of(messages[0].content).arrays[0]
    lessons = [learned(m, s) for s, m in enumerate(messages)]
    lessons[3] = lessons[3]._replace(weights=np.full_like(base, 1e30))
    strategy.aggregate_train(0, list(map(answer, messages, lessons)))
    moved = np.linalg.norm(strategy.fleet.lesson.weights - base)
    assert moved <= max(np.linalg.norm(lesson.weights - base) for lesson in lessons[:3])
    assert any("14 moved its weights far: 0% of that is taken" in line for line in lines)


def test_too_few_are_not_merged(strategy, lines):
    (message,) = tasks(strategy, [11])
    assert strategy.aggregate_train(0, [answer(message, learned(message, 0))]) == (None, None)
    assert lines == ["1 of 2 robots have learned: nothing is merged"]
    assert strategy.fleet.standing.round == 1


def test_among_robots_that_looked_at_nothing_a_hostile_one_is_not_merged(strategy, lines):
    for _ in range(2):
        messages = tasks(strategy)
        before = strategy.fleet.lesson.weights
        asleep = [answer(m, strategy.fleet.lesson, since=0) for m in messages[:3]]
        far = learned(messages[3], 0)
        far = far._replace(weights=far.weights - 50.0)
        strategy.aggregate_train(0, [*asleep, answer(messages[3], far)])
        assert np.array_equal(strategy.fleet.lesson.weights, before)
    assert lines == ["1 of 2 robots have learned: nothing is merged"]  # said once


def test_what_was_kept_holds_nothing_of_a_robots_run(tmp_path, strategy):
    config = RunConfig(network=NETWORK, source="rtsp://me:secret@camera/", calibration="x.json")
    fleet = Fleet.opened(tmp_path / "other", config, None)
    assert "camera" not in (fleet.folder / "config.toml").read_text().replace("[camera]", "")
    assert b"secret" not in (fleet.folder / CHECKPOINT).read_bytes()


def test_a_full_disk_ends_no_fleet(strategy, lines, monkeypatch):
    def full(*_, **__):
        raise CheckpointError("the disk is full")

    monkeypatch.setattr(RJepa, "save", full)
    messages = tasks(strategy, NODES[:2])
    strategy.aggregate_train(0, [answer(m, learned(m, s)) for s, m in enumerate(messages)])
    assert "the disk is full" in lines[0] and strategy.fleet.standing.round == 2


def test_a_folder_of_something_else_is_refused(tmp_path, strategy):
    with pytest.raises(ConfigError, match="holds a fleet"):
        Fleet.opened(strategy.fleet.folder, CONFIG, None)
    folder = tmp_path / "run"
    folder.mkdir()
    RJepa(NETWORK, 0).save(folder / CHECKPOINT, {"config": json.loads(json.dumps({}))})
    with pytest.raises(CheckpointError):
        Fleet.opened(folder, None, None)
