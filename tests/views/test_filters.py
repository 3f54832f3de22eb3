"""What units look for, as pictures: shown to the retina, they are what moves those units most."""

import numpy as np
import pytest

from edge_rjepa.eye.config import RetinaConfig
from edge_rjepa.eye.retina import Retina
from edge_rjepa.views.filters import looking_units, mean_colour, preferred_patches, shares

SMALL = RetinaConfig(
    window_px=32, fovea_px=8, surround_cells=8, colour_cells=4,
    fovea_degree=4, surround_degree=4, colour_degree=2,
)  # fmt: skip


@pytest.fixture(params=[RetinaConfig(), SMALL], ids=["default", "small"])
def retina(request):
    return Retina(request.param)


def directions(retina, count=100):
    """Random ways in feature space, of unit length."""
    weights = np.random.default_rng(0).normal(size=(count, retina.n_features))
    weights[:, retina.parts["contrast"].start :] = 0.0  # contrast and codes are no picture
    return weights / np.linalg.norm(weights, axis=1, keepdims=True)


def seen(patches, retina, scale):
    """Features of the patches, made so strong, on a usual background."""
    picture = mean_colour(retina) + scale * (patches.pattern + patches.level[:, None, None])
    return retina.features_of_windows(np.clip(picture.round(), 0, 255).astype(np.uint8))


def test_each_unit_is_moved_most_by_the_patch_it_looks_for(retina):
    weights = directions(retina)
    response = weights @ seen(preferred_patches(weights, retina), retina, 2.0).T
    assert (response.argmax(axis=1) == np.arange(len(weights))).all()
    assert (response.argmax(axis=0) == np.arange(len(weights))).all()


def test_a_pattern_of_one_group_comes_back_as_its_features(retina):
    start = 0
    for bank in retina.banks:
        for _ in range(bank.groups.stop - bank.groups.start):
            part = slice(start, start + len(bank.kept))
            weights = np.zeros((8, retina.n_features))
            weights[:, part] = np.random.default_rng(1).normal(size=(8, len(bank.kept)))
            features = seen(preferred_patches(weights, retina), retina, 1.0)[:, part]
            alike = (features * weights[:, part]).sum(axis=1)
            alike /= np.linalg.norm(features, axis=1) * np.linalg.norm(weights[:, part], axis=1)
            assert alike.min() > 0.98
            start = part.stop
    assert start == retina.parts["pattern"].stop


def test_levels_come_back(retina):
    weights, levels = np.zeros((3, retina.n_features)), retina.parts["level"]
    weights[:, levels][:, 1:] = np.eye(3)  # all but that of the fovea against its surround
    patches = preferred_patches(weights, retina)
    assert not patches.pattern.any()
    features = seen(patches, retina, 1.0)
    # Patches are of whole grey levels.
    np.testing.assert_allclose(features[:, levels], weights[:, levels], atol=0.1)


def test_what_knows_no_colour_is_grey(retina):
    weights = directions(retina)
    colour = retina.banks[-1].pattern
    weights[:, colour] = 0.0
    pattern = preferred_patches(weights, retina).pattern
    np.testing.assert_allclose(pattern, pattern[..., :1].repeat(3, axis=-1), atol=1e-4)
    assert np.abs(pattern).max() > 1.0


def test_shares_add_up_and_tell_the_kinds_apart(retina):
    weights = np.zeros((2, retina.n_features))
    weights[0, 0] = 1.0
    for size, at in enumerate(retina.parts.values(), 1):
        weights[1, at.start] += size
    found = shares(weights, retina)
    assert found.keys() == retina.parts.keys()
    assert list(found.values()) == pytest.approx(np.array([2, 4, 9, 16, 25]) / 56)


def test_without_a_hidden_layer_the_embedding_looks_those_first_that_vary_most():
    W_z = np.random.default_rng(0).normal(size=(4, 6))
    parameters = {"W_x": np.zeros((0, 6)), "W_z": W_z}
    weights, hidden = looking_units(parameters, np.diag([2.0, 9.0, 1.0, 5.0]))
    assert not hidden
    np.testing.assert_array_equal(weights, W_z[[1, 3, 0, 2], :-1])


def test_a_hidden_layer_looks_those_first_that_move_the_embedding_most():
    """Measured: features that are white, and each unit's share of the embedding's arguments."""
    rng = np.random.default_rng(0)
    W_x, W_z = rng.normal(size=(6, 31)), rng.normal(size=(5, 7))
    W_x[:, :-1] *= np.array([1.0, 0.02, 0.5, 0.1, 1.0, 0.3])[:, None] / np.sqrt(30)
    W_x[:, -1] = 0.0
    W_z[:, :-1] *= [0.1, 9.0, 1.0, 1.0, 3.0, 0.2]
    weights, hidden = looking_units({"W_x": W_x, "W_z": W_z}, np.eye(5))
    assert hidden and weights.shape == (6, 30)

    made = np.tanh(rng.normal(size=(20_000, 30)) @ W_x[:, :-1].T)
    moved = made.std(axis=0) * np.linalg.norm(W_z[:, :-1], axis=0)
    order = np.argsort(-moved)
    assert (np.diff(np.log(moved[order])) < -0.1).all()  # no two are so near that chance decides
    np.testing.assert_array_equal(weights, W_x[order, :-1])
    for alone in (
        np.argsort(-np.linalg.norm(W_x, axis=1)),
        np.argsort(-np.linalg.norm(W_z, axis=0)),
    ):
        assert alone[:6].tolist() != order.tolist()
