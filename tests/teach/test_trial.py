"""What looks say of each other."""

import numpy as np
import pytest

from edge_rjepa.encoder.naming import Odds, TaughtNames, evidence
from edge_rjepa.teach.likeness import directions, likeness
from edge_rjepa.teach.trial import PRIOR_MEAN, attempt


def clouds(names: int, looks: int, spread: float, seed: int = 0) -> dict[str, np.ndarray]:
    """Looks (N, 5, 48) of names, about a middle each."""
    rng = np.random.default_rng(seed)
    middles = rng.standard_normal((names, 1, 1, 48))
    rows = directions(middles + spread * rng.standard_normal((names, looks, 5, 48)))
    return {f"name {n}": each for n, each in enumerate(rows)}


def visits(looks: dict[str, np.ndarray], each: int = 2) -> dict[str, np.ndarray]:
    return {name: np.arange(len(rows)) // each for name, rows in looks.items()}


def test_names_that_differ_are_told_and_nothing_is_asked_for():
    looks = clouds(6, 6, 0.2)
    trial = attempt(looks, visits(looks))
    assert not trial.confused
    assert sum(trial.tried.values()) == 36
    assert trial.advice(dict.fromkeys(looks, 6)) == []


def test_two_names_for_one_place_are_told_and_spoil_nothing_else():
    looks = clouds(6, 6, 0.2)
    alone = attempt(looks, visits(looks))
    rng = np.random.default_rng(5)
    both = np.concatenate([looks["name 0"], looks["name 0"]])[rng.permutation(12)]
    looks = {"again": both[:6], **looks, "name 0": both[6:]}
    trial = attempt(looks, visits(looks))
    assert trial.twins == [("again", "name 0")]
    assert trial.odds.threshold < alone.odds.threshold + 0.1
    assert not any(trial.wrong(f"name {n}") for n in range(1, 6))
    said = trial.advice(dict.fromkeys(looks, 6))
    assert said == [
        "again and name 0 look the same: forget one, or take looks in which they differ"
    ]


def test_few_looks_are_asked_for_by_number():
    looks = clouds(3, 2, 0.2)
    said = attempt(looks, visits(looks)).advice(dict.fromkeys(looks, 2))
    assert said[0] == "3 more looks at name 0 would help: it has 2"


def test_no_look_is_judged_by_its_own_visit():
    """Looks of one visit are the same, those of two visits are not alike at all."""
    rng = np.random.default_rng(2)
    two = [directions(rng.standard_normal((2, 5, 48))) for _ in range(4)]
    looks = {f"name {n}": np.repeat(each, 4, axis=0) for n, each in enumerate(two)}
    by_visit = attempt(looks, {name: np.repeat([0, 1], 4) for name in looks})
    assert sum(by_visit.confused.values()) > 16
    as_one = attempt(looks, {name: np.zeros(8, int) for name in looks})
    assert sum(as_one.confused.values()) < 8


@pytest.mark.parametrize("allowed", [0.02, 0.2])
def test_strangers_pass_about_as_often_as_is_stated(allowed):
    passed, stated = [], []
    for seed in range(6):
        names = clouds(60, 6, 0.9, seed)
        known = dict(list(names.items())[:30])
        trial = attempt(known, visits(known), allowed)
        windows = np.concatenate([rows.reshape(-1, rows.shape[-1]) for rows in known.values()])
        starts = np.arange(30) * 30
        strangers = [look for looks in list(names.values())[30:] for look in looks]
        answers = [trial.answer(likeness(look, windows, starts)).name for look in strangers]
        passed.append(np.mean([name is not None for name in answers]))
        stated.append(trial.named / trial.strangers)
    assert abs(np.mean(passed) - allowed) < 0.5 * allowed + 0.02
    assert abs(np.mean(stated) - np.mean(passed)) < 0.06


def test_what_is_told_of_a_name_does_not_rest_on_its_own_looks(monkeypatch):
    """The odds that answer a fold are made without it."""
    from edge_rjepa.teach import trial as module

    looks, made = clouds(5, 4, 0.2), []
    usual = module._odds

    def noted(asked, twins, allowed):
        made.append({each.name for each in asked})
        return usual(asked, twins, allowed)

    monkeypatch.setattr(module, "_odds", noted)
    attempt(looks, visits(looks))
    assert made == [set(range(5)), *(set(range(5)) - {n} for n in range(5))]


def test_one_name_alone_is_judged_by_the_prior():
    looks = clouds(1, 4, 0.2)
    trial = attempt(looks, visits(looks))
    assert trial.strangers == 0
    assert trial.odds.threshold > PRIOR_MEAN
    assert trial.expected == pytest.approx(0.05)
    assert trial.answer(np.array([0.95])).name == "name 0"
    assert trial.answer(np.array([0.3])).name is None


def test_probabilities_are_some():
    odds = Odds(0.5, 20.0, 30.0)
    scores = odds.scores(np.array([0.6, 0.3, 0.59]))
    assert scores.sum() == pytest.approx(1.0)
    assert (scores >= 0.0).all()
    named = TaughtNames(["a", "b", "c"], odds)
    assert named.answer(np.array([0.9, 0.3, 0.2])).name == "a"
    assert named.answer(np.array([0.45, 0.45, 0.45])).name is None


def test_evidence_is_the_likeness_and_its_lead():
    assert evidence(np.array([0.2, 0.7, 0.5])) == pytest.approx(0.9)
    assert evidence(np.array([0.7])) == pytest.approx(1.0)
