"""Several learners made into one: exact moments, averaged weights, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest

from edge_rjepa.errors import InputError
from edge_rjepa.learner.config import RJepaConfig
from edge_rjepa.learner.merge import Lesson, adopt, checked, lesson_of, merged
from edge_rjepa.learner.rjepa import RJepa

CONFIG = RJepaConfig(
    n_features=12, n_embedding=6, n_hidden=8, n_predictor=8, n_gain=3, max_block=8,
    learning_rate=1e-12,  # weights stand still, so that the moments are of one and the same network
    statistics_fixations=1e9, dtype="float64",
)  # fmt: skip


def blocks(seed, count):
    """So many blocks of 8 fixations, from places that differ from seed to seed."""
    rng = np.random.default_rng(seed)
    place = rng.normal(size=12)
    return [(place + rng.normal(size=(8, 12)), rng.normal(size=(8, 4))) for _ in range(count)]


def learned(config=CONFIG, seed=1, count=10):
    """A learner that has seen one place."""
    learner = RJepa(config, seed=0)
    for block in blocks(seed, count):
        learner.learn_block(*block)
    return learner


def test_the_moments_are_those_of_one_sample():
    parts = [learned(seed=seed, count=count) for seed, count in ((1, 4), (2, 10), (3, 1))]
    merging = merged([lesson_of(part) for part in parts])
    z = np.concatenate(
        [
            RJepa(CONFIG, seed=0).embed(*block)[0]
            for seed, count in ((1, 4), (2, 10), (3, 1))
            for block in blocks(seed, count)
        ]
    )
    assert np.allclose(merging.mean, z.mean(axis=0), atol=1e-9)
    assert np.allclose(merging.covariance, np.cov(z, rowvar=False, bias=True), atol=1e-9)
    assert merging.sample == merging.fixations == 8 * 15
    # Far from what averaging the covariances alone gives: the places differ.
    between = merging.covariance - np.mean([lesson_of(p).covariance for p in parts], axis=0)
    assert np.abs(between).max() > 0.01


def test_errors_are_about_zero():
    parts = [lesson_of(learned(seed=seed)) for seed in (1, 2)]
    expected = 0.5 * (parts[0].error_covariance + parts[1].error_covariance)
    assert np.allclose(merged(parts).error_covariance, expected, atol=1e-12)


def test_weights_are_averaged_by_what_each_has_seen():
    one, other = learned(count=3), learned(seed=2, count=3)
    one.set_parameters({"W_z": np.zeros((6, 13))})
    other.set_parameters({"W_z": np.full((6, 13), 4.0)})
    lessons = [lesson_of(one), lesson_of(other)]
    result = learned()
    adopt(result, merged(lessons, counts=[300, 100]))
    assert np.array_equal(result.parameters()["W_z"], np.ones((6, 13)))
    adopt(result, merged(lessons))
    assert np.array_equal(result.parameters()["W_z"], np.full((6, 13), 2.0))
    adopt(result, merged(lessons, counts=[0, 0]))
    assert np.array_equal(result.parameters()["W_z"], np.full((6, 13), 2.0))


def test_a_merge_of_one_is_the_one():
    learner = learned(CONFIG, seed=3)
    before = learner.parameters()
    other = RJepa(CONFIG, seed=5)
    adopt(other, merged([lesson_of(learner)]))
    assert all(np.array_equal(before[name], array) for name, array in other.parameters().items())
    assert np.array_equal(other.embedding_covariance, learner.embedding_covariance)


def test_a_learner_goes_on_with_its_own_past_optimiser_and_count():
    learner = learned()
    own = learner.tensors()
    kept = {
        name: own[name].copy()
        for name in own
        if name.startswith(("past", "traces", "adam", "gradient", "counts"))
    }
    adopt(learner, merged([lesson_of(learned(seed=2)), lesson_of(learned(seed=3))]))
    after = learner.tensors()
    assert all(np.array_equal(after[name], array) for name, array in kept.items())
    report = learner.learn_block(*blocks(4, 1)[0])
    assert np.isfinite(report.loss) and np.isfinite(report.information)


def test_information_is_that_of_the_merged_moments():
    learner = learned()
    merging = merged([lesson_of(learned(seed=2)), lesson_of(learned(seed=3))])
    adopt(learner, merging)
    eps = CONFIG.noise_floor * np.eye(6)
    expected = 0.5 * (
        np.linalg.slogdet(merging.covariance + eps)[1]
        - np.linalg.slogdet(merging.error_covariance + eps)[1]
    )
    assert learner.information == pytest.approx(expected, abs=1e-9)


def test_a_lesson_that_was_sent_is_the_same():
    lesson = lesson_of(learned())
    again = checked(lesson.arrays(), CONFIG)
    assert all(np.array_equal(one, other) for one, other in zip(lesson, again, strict=True))


def damaged(**changes):
    """A lesson's arrays with some of them changed."""
    return lesson_of(learned())._replace(**changes).arrays()


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        (lambda: damaged()[:-1], "5 arrays"),
        (lambda: damaged(weights=np.zeros(3)), "another network"),
        (lambda: damaged(mean=np.full(6, np.nan)), "mean is not all finite"),
        (lambda: damaged(mean=np.full(6, "a")), "mean is not all finite"),
        (lambda: damaged(mean=np.full(6, 7.0)), "beyond"),
        (lambda: damaged(covariance=np.full((6, 6), 1e30)), "beyond"),
        (lambda: damaged(error_covariance=-np.eye(6)), "negative"),
        (lambda: damaged(covariance=np.eye(6)[::-1]), "negative"),
        (lambda: damaged(covariance=np.tri(6)), "symmetric"),
        (lambda: damaged(error_covariance=np.full((6, 6), 5.0)), "beyond"),
        (lambda: damaged(mean=np.full(6, 0.9), covariance=0.5 * np.eye(6)), "beyond"),
        (lambda: damaged(mean=np.full(6, -128, np.int8)), "its numbers are int8"),
        (lambda: damaged(sample=-1.0), "cannot be"),
        (lambda: damaged(fixations=1e300), "cannot be"),
        (lambda: lesson_of(learned(RJepaConfig(n_features=12, n_embedding=5))).arrays(), "another"),
    ],
)
def test_what_is_no_lesson_is_refused_in_words(arrays, says):
    with pytest.raises(InputError, match=says):
        checked(arrays(), CONFIG)


@pytest.mark.parametrize("name", ["weights", "mean", "covariance", "error_covariance"])
def test_numbers_that_would_be_infinite_are_refused(name):
    """What is finite in float64 may be none of float32."""
    config = replace(CONFIG, dtype="float32")
    lesson = lesson_of(learned(config))
    large = np.full(getattr(lesson, name).shape, 1e300)
    with pytest.raises(InputError, match="float64, and some are none of float32"):
        checked(lesson._replace(**{name: large}).arrays(), config)


def test_an_embedding_at_its_bounds_is_one():
    """Every value 1 or -1: the mean square is 1, up to rounding."""
    mean = np.array([1.0, -1.0, 0.6, -0.6, 0.1, 0.99])
    covariance = np.diag(1.0 - mean**2 + 1e-6)
    checked(damaged(mean=mean, covariance=covariance), CONFIG)


def test_nothing_is_not_merged():
    with pytest.raises(InputError):
        merged([])
    strange = Lesson(np.zeros(3), np.zeros(1), np.eye(1), np.eye(1), 1.0, 1)
    with pytest.raises(InputError):
        merged([strange, lesson_of(learned())])
