"""What is kept of the frames a run is judged on, for its picture."""

import numpy as np
import pytest

from edge_rjepa.learner.config import RJepaConfig
from edge_rjepa.learner.rjepa import RJepa
from edge_rjepa.optics.camera import Pinhole
from edge_rjepa.run.config import RunConfig
from edge_rjepa.run.held_out import SHOWN, HeldOut
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
