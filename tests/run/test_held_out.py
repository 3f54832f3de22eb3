"""What is kept of the frames a run is judged on, for its picture."""

import numpy as np
import pytest

from edge_rjepa.learner.config import RJepaConfig
from edge_rjepa.learner.rjepa import RJepa
from edge_rjepa.optics.camera import Pinhole
from edge_rjepa.run.config import RunConfig
from edge_rjepa.run.held_out import SHOWN, HeldOut, HeldOutFrame, _right
from edge_rjepa.sources import Frame

CAMERA = Pinhole(96, 64, 1.0)
CONFIG = RunConfig(
    held_out_frames=20,
    fixations_per_frame=8,
    network=RJepaConfig(n_embedding=8, n_hidden=16, n_predictor=16, n_gain=4),
)


def frames(count):
    """Frames that tell their number by their first pixel."""
    noise = np.random.default_rng(0).integers(0, 256, (count, 64, 96, 3), dtype=np.uint8)
    noise[:, 0, 0, 0] = np.arange(count)
    return [Frame(image, 0.04 * i, (0.0, 0.0), i) for i, image in enumerate(noise)]


def sample(count):
    held_out = HeldOut(CONFIG)
    held_out.add(CAMERA, frames(count))
    return held_out.sample(RJepa(CONFIG.network))


@pytest.mark.parametrize(
    ("count", "shown"),
    [(1, [0]), (5, [0]), (6, [0, 5]), (20, [5, 10, 15]), (23, [10, 15, 20]), (60, [45, 50, 55])],
)
def test_the_frames_of_a_sample_lie_apart_and_are_among_those_judged_on(count, shown):
    kept = sample(count)
    assert kept["image"][:, 0, 0, 0].tolist() == shown and len(shown) <= SHOWN
    assert kept["image"].shape[1:] == (64, 96, 3)
    assert kept["pixels"].shape == (len(shown), 8, 2)
    assert kept["surprise"].shape == (len(shown), 8)


def test_surprise_is_that_of_the_frames_shown():
    held_out, learner = HeldOut(CONFIG), RJepa(CONFIG.network)
    held_out.add(CAMERA, frames(20))
    z, z_hat = held_out._seen(learner)
    wanted = learner.surprise(z, z_hat).reshape(20, 8)[[5, 10, 15]]
    np.testing.assert_array_equal(held_out.sample(learner)["surprise"], wanted)


def test_few_pictures_are_held():
    held_out = HeldOut(CONFIG)
    for frame in frames(100):
        held_out.add(CAMERA, [frame])
        assert sum(look.image is not None for look in held_out._looks) <= SHOWN + 2


def seen_as(held_out, features):
    """Have it hold these looks: features (N, K, f)."""
    for each in features:
        held_out._looks.append(HeldOutFrame(each, np.zeros((8, 4)), np.zeros((8, 2)), None))


def test_views_that_differ_are_known_again_and_views_that_do_not_are_not():
    learner, rng = RJepa(CONFIG.network), np.random.default_rng(0)
    shape = (20, 8, CONFIG.network.n_features)
    apart, alike = HeldOut(CONFIG), HeldOut(CONFIG)
    noise = rng.normal(0.0, 0.1, shape)
    seen_as(apart, rng.normal(0.0, 1.0, (20, 1, shape[2])) + noise)
    seen_as(alike, noise)
    assert apart.known_again(learner) > 0.9
    assert alike.known_again(learner) < 0.3  # chance is 0.05
    assert apart.judge(learner).known_again == apart.known_again(learner)


def test_views_are_judged_where_the_run_looks_once_at_each():
    config = RunConfig(fixations_per_frame=1)
    held_out = HeldOut(config)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 60, 80, 3), np.uint8)
    camera = Pinhole(80, 60, 1.0)
    held_out.add(camera, [Frame(image, k / 10, (0.0, 0.0), k) for k, image in enumerate(images)])
    assert np.isfinite(held_out.known_again(RJepa(config.network)))


def test_a_view_is_known_again_if_its_halves_find_each_other():
    one = np.eye(3)
    assert _right(np.stack([one, one], axis=1)).tolist() == [True] * 6
    assert _right(np.stack([one, one[[1, 0, 2]]], axis=1)).tolist() == [False, False, True] * 2


def test_a_learner_that_diverged_knows_nothing_again():
    held_out, learner = HeldOut(CONFIG), RJepa(CONFIG.network)
    held_out.add(CAMERA, frames(5))
    learner.set_parameters({"W_z": np.full_like(learner.parameters()["W_z"], np.nan)})
    assert np.isnan(held_out.known_again(learner))
