"""The peers that benchmarks/speed.py times are the same network: forward, gradients, learning."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks import peers
from benchmarks.gpu_peer import TorchGraphPeer
from edge_rjepa import RJepa, RJepaConfig

SIZES = {
    "n_features": 6,
    "n_efference": 2,
    "n_embedding": 5,
    "n_hidden": 7,
    "n_predictor": 8,
    "n_gain": 4,
    "noise_floor": 0.5,
    "statistics_fixations": 400.0,
    "dtype": "float64",
}
SHALLOW = RJepaConfig(**SIZES, learning_rate=0.0, n_encoder_hidden=0, update_every=1)
DEEP = replace(SHALLOW, n_encoder_hidden=4)
LEARNING = {"learning_rate": 1e-2, "encoder_rate": 0.3, "anneal_fixations": 50.0}

every_encoder = pytest.mark.parametrize("still", [SHALLOW, DEEP], ids=["shallow", "deep"])

needs_torch = pytest.mark.skipif(peers.torch is None, reason=peers.NO_TORCH)
both_ways = pytest.mark.parametrize("stepwise", [False, True], ids=["blockwise", "stepwise"])


def stream(sizes=(40, 4, 1, 1, 9, 3)):
    """Blocks of the given lengths. After the first, one of 1 is too short to renew P."""
    rng = np.random.default_rng(0)
    return [(rng.normal(size=(K, 6)), rng.normal(size=(K, 2))) for K in sizes]


def learner_of(config) -> RJepa:
    """A learner whose weights are all random: at its start V_3 = 0 would hide half the network."""
    learner, rng = RJepa(config), np.random.default_rng(1)
    weights = learner.tensors()["weights"]
    learner.engine.set({"weights": 0.5 * rng.normal(size=weights.size)})
    return learner


def torch_peer(learner, stepwise=False):
    return peers.TorchPeer(learner.config, learner.parameters(), stepwise)


def assert_same(found, true):
    assert found.keys() == true.keys()
    for name, array in true.items():
        if name == "W_x" and not array.size:
            assert found[name].shape == array.shape
            continue
        assert np.abs(array).max() > 0, f"{name} is not put to the test"
        error = np.linalg.norm(found[name] - array) / np.linalg.norm(array)
        assert error < 1e-10, f"{name} is off by {error:.1e}"


@needs_torch
@both_ways
@every_encoder
def test_torch_encodes_and_predicts_the_same(still, stepwise):
    learner = learner_of(still)
    peer = torch_peer(learner, stepwise)
    for block in stream():
        for found, true in zip(peer.predict(*block), learner.predict(*block), strict=True):
            np.testing.assert_allclose(found, true, rtol=1e-10, atol=1e-10)


@needs_torch
@both_ways
@every_encoder
def test_backpropagation_from_a_reset_is_the_gradient(still, stepwise):
    """Through statistics that both have gathered themselves from what came before."""
    learner = learner_of(still)
    peer = torch_peer(learner, stepwise)
    for block in stream():
        learner.reset()
        peer.reset()
        true = learner.gradients(*block)
        peer.learn_block(*block)
        learner.learn_block(*block)
        if len(block[0]) > 1:  # one fixation from a reset does not use the memory
            assert_same(peer.last_gradients(), true)


@needs_torch
@both_ways
@every_encoder
def test_torch_learns_the_same_from_blocks_after_a_reset(still, stepwise):
    learner = learner_of(replace(still, **LEARNING))
    peer = torch_peer(learner, stepwise)
    for block in stream((6,) * 10):
        learner.reset()
        peer.reset()
        learner.learn_block(*block)
        peer.learn_block(*block)
    assert_same(peer.parameters(), learner.parameters())


@needs_torch
@both_ways
@every_encoder
def test_torch_cuts_the_past_off_at_the_border_of_a_block(still, stepwise):
    """Which is why it cannot be compared later on: there RFP knows more."""
    learner = learner_of(still)
    peer = torch_peer(learner, stepwise)
    first, second = stream((6, 6))
    learner.learn_block(*first)
    peer.learn_block(*first)
    true = learner.gradients(*second)
    peer.learn_block(*second)
    found = peer.last_gradients()
    for name in ("W", "lam", *(peers.ENCODER if still is DEEP else ("W_z",))):
        assert np.linalg.norm(found[name] - true[name]) > 1e-3 * np.linalg.norm(true[name])
    for name in ("G_a", "G_b", "V_1", "V_2", "V_3"):
        np.testing.assert_allclose(found[name], true[name], rtol=1e-10, atol=1e-10)


@needs_torch
@both_ways
@every_encoder
def test_a_window_that_holds_all_of_the_past_learns_as_rtrl_does(still, stepwise):
    learner = learner_of(still)
    peer, rtrl = torch_peer(learner, stepwise), peers.RtrlPeer(still, learner.parameters())
    features, efference = stream((peers.WINDOW,))[0]
    for k in range(peers.WINDOW):
        fixation = features[k : k + 1], efference[k : k + 1]
        rtrl.learn_block(*fixation)
        peer.learn_one(*fixation)
    assert_same(peer.last_gradients(), rtrl.last_gradients())


@needs_torch
@both_ways
@every_encoder
def test_the_loss_of_the_whole_window_has_the_gradient_of_a_block(still, stepwise):
    learner = learner_of(still)
    peer = torch_peer(learner, stepwise)
    features, efference = stream((peers.WINDOW,))[0]
    for k in range(peers.WINDOW):
        fixation = features[k : k + 1], efference[k : k + 1]
        peer.learn_one(*fixation, whole_window=True)
        if k < peers.WINDOW - 1:  # the last one is learned from before the statistics know it
            learner.learn_block(*fixation)
    learner.reset()
    assert_same(peer.last_gradients(), learner.gradients(features, efference))


@needs_torch
@both_ways
@every_encoder
def test_a_window_begins_with_the_state_that_was_left_there(still, stepwise):
    learner = learner_of(still)
    peer = torch_peer(learner, stepwise)
    features, efference = stream((2 * peers.WINDOW,))[0]
    for k in range(2 * peers.WINDOW):
        peer.learn_one(features[k : k + 1], efference[k : k + 1])
    before = learner.predict(features[: peers.WINDOW], efference[: peers.WINDOW])
    assert len(peer._window) == peers.WINDOW
    np.testing.assert_allclose(peer._y[0], before.h[-1], rtol=1e-10)
    np.testing.assert_allclose(peer._z[0], before.z[-1], rtol=1e-10)


@pytest.mark.slow
@every_encoder
def test_rtrl_is_the_gradient_over_the_whole_past(still):
    learner = learner_of(still)
    peer = peers.RtrlPeer(still, learner.parameters())
    for block in stream():
        true = learner.gradients(*block)
        learner.learn_block(*block)
        peer.learn_block(*block)
        assert_same(peer.last_gradients(), true)


@every_encoder
def test_rtrl_learns_the_same_fixation_by_fixation(still):
    learner = learner_of(replace(still, **LEARNING))
    peer = peers.RtrlPeer(learner.config, learner.parameters())
    for block in stream((40,) + (1,) * 20):
        learner.learn_block(*block)
        peer.learn_block(*block)
    assert_same(peer.parameters(), learner.parameters())


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(peers, "torch", None)
    with pytest.raises(ImportError, match="pip install torch"):
        torch_peer(learner_of(SHALLOW))


@needs_torch
@every_encoder
@pytest.mark.parametrize("update_every", [1, 3])
def test_the_peer_of_the_gpu_learns_the_same(still, update_every):
    learner = learner_of(replace(still, **LEARNING, update_every=update_every))
    peer = TorchGraphPeer(learner.config, learner.parameters(), K=6, device="cpu")
    for block in stream((6,) * 12):
        learner.reset()
        peer.forget()
        learner.learn_block(*block)
        peer.learn_block(*block)
    assert_same(peer.parameters(), learner.parameters())
