"""What a run that learns recognises, beside its learning."""

import time

import numpy as np
import pytest

from edge_rjepa.teach import seen_now as module
from edge_rjepa.teach.looks import path_beside
from edge_rjepa.teach.recogniser import Recogniser
from edge_rjepa.teach.seen_now import NamesKept, SeenNow, seen_now
from tests.teach.rooms import RETINA, look, looks, opened, small_learner


@pytest.fixture
def learner():
    return small_learner()


def teach(folder, learner, *numbers: int) -> None:
    recogniser = Recogniser(opened(learner))
    for number in numbers:
        recogniser.teach(f"room {number}", looks(number, range(8)))
    recogniser.save(path_beside(folder))


def test_nothing_is_said_before_anything_is_taught(tmp_path, learner):
    seen = SeenNow(tmp_path, lambda: learner, RETINA)
    seen.observe(look(0, 90))
    seen.look()
    assert seen() == {}


def test_what_is_taught_meanwhile_is_recognised(tmp_path, learner):
    seen = SeenNow(tmp_path, lambda: learner, RETINA)
    seen.observe(look(0, 90))
    teach(tmp_path, learner, 0, 1)
    seen.observe(look(0, 90))
    seen.look()
    assert seen()["taught"] == [{"name": f"room {n}", "looks": 8} for n in (0, 1)]
    assert seen()["recognised"]["name"] == "room 0"
    assert 0.5 <= seen()["recognised"]["probability"] <= 1.0
    teach(tmp_path, learner, 2)
    seen.observe(look(1, 90))
    seen.look()
    assert seen()["recognised"]["name"] is None
    path_beside(tmp_path).write_bytes(b"damaged")
    seen.look()
    assert seen() == {}


def test_it_looks_with_a_copy_that_is_renewed(tmp_path, learner, monkeypatch):
    teach(tmp_path, learner, 0)
    seen = SeenNow(tmp_path, lambda: learner, RETINA)
    seen.observe(look(0, 90))
    copied = seen._encoder.model.digest
    learner.learn_block(np.ones((8, RETINA.n_features), np.float32), np.zeros((8, 4), np.float32))
    seen.observe(look(0, 90))
    assert seen._encoder.model.digest == copied
    monkeypatch.setattr(module, "RENEW_EVERY_S", 0.0)
    seen.observe(look(0, 90))
    assert seen._encoder.model.digest == learner.digest != copied


def test_a_thread_looks_until_it_is_closed(tmp_path, learner, monkeypatch):
    monkeypatch.setattr(module, "LOOK_EVERY_S", 0.01)
    teach(tmp_path, learner, 0)
    with seen_now(tmp_path, lambda: learner, RETINA) as seen:
        seen.observe(look(0, 90))
        until_s = time.monotonic() + 20.0
        while not seen() and time.monotonic() < until_s:
            time.sleep(0.01)
    assert seen()["recognised"]["name"] == "room 0"


def test_the_names_of_a_run_that_ended_are_read_once(tmp_path, learner):
    kept = NamesKept(tmp_path)
    assert kept() == {}
    teach(tmp_path, learner, 0, 1)
    assert [each["name"] for each in kept()["taught"]] == ["room 0", "room 1"]
    assert kept() is kept()
    path_beside(tmp_path).unlink()
    assert kept() == {}
