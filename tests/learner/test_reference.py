"""The plain NumPy model against finite differences, and that it leans on nothing of the package."""

import ast
import cmath
import math
from pathlib import Path

import numpy as np
import pytest

from edge_rjepa.learner import reference
from edge_rjepa.learner.reference import CELLS, NaiveModel

N_FEATURES, N_EFFERENCE, N_E, N_Z, N_H, N_P, N_G = 3, 2, 2, 3, 2, 3, 2
PROJECTIONS_AND_LOCALS = {
    "gated": (2, 2),
    "leaky": (1, 1),
    "lstm": (2, 2),
    "rgc": (1, 4),
    "rtu": (2, 2),
}
INPUTS = ("embedding", "features")
every_network = pytest.mark.parametrize(
    ("cell", "memory_input"), [(c, i) for c in PROJECTIONS_AND_LOCALS for i in INPUTS]
)
every_encoder = pytest.mark.parametrize("n_e", [0, N_E], ids=["shallow", "deep"])


def random_parameters(cell, memory_input, rng, n_e=0):
    G, L = PROJECTIONS_AND_LOCALS[cell]
    n_r = N_H * len(CELLS[cell][2])
    n_u = (N_Z if memory_input == "embedding" else N_FEATURES) + N_EFFERENCE + 1
    shapes = {
        "W_x": (n_e, N_FEATURES + 1),
        "W_z": (N_Z, (n_e or N_FEATURES) + 1),
        "W": (G, N_H, n_u),
        "lam": (L, N_H),
        "G_a": (N_G, N_EFFERENCE + 1),
        "G_b": (N_P, N_G + 1),
        "V_1": (N_P, n_r + N_Z + N_EFFERENCE + 1),
        "V_2": (N_P, N_P + 1),
        "V_3": (N_Z, N_P + 1),
    }
    return {name: rng.normal(scale=0.7, size=shape) for name, shape in shapes.items()}


def random_blocks(rng, sizes=(4, 1, 3, 2), resets=(False, False, True, False)):
    return [
        (rng.normal(size=(K, N_FEATURES)), rng.normal(size=(K, N_EFFERENCE)), reset)
        for K, reset in zip(sizes, resets, strict=True)
    ]


def naive(parameters, cell, memory_input, eps=0.5, tau=6.0):
    return NaiveModel(parameters, cell, memory_input, eps, tau)


def summed_loss(parameters, cell, memory_input, blocks, still):
    """Sum of the block losses at `parameters`, spelled out one fixation at a time.

    still: what a run found at the parameters that do not move. The statistics are of that, and so
    is the z that u sees where the gradient is stopped: what the derivative holds fixed, this
    function really holds fixed.
    """
    moved = naive(parameters, cell, memory_input)
    mu, S_z, S_e, n = np.zeros(N_Z), np.zeros((N_Z, N_Z)), np.zeros((N_Z, N_Z)), 0
    total = 0.0
    y, z = np.zeros((1, moved.state_components, N_H)), np.zeros((1, N_Z))
    for (features, efference, reset), there in zip(blocks, still, strict=True):
        if reset:
            y, z = 0 * y, 0 * z
        P_z, P_e = (np.linalg.inv(S + 0.5 * np.eye(N_Z)) for S in (S_z, S_e))
        for t, (x, a) in enumerate(zip(features, efference, strict=True)):
            e = -moved._predict(moved.parameters, moved._read(y), z, a)[0]
            encoded = np.append(x, 1.0)
            if len(parameters["W_x"]):
                encoded = np.append(np.tanh(parameters["W_x"] @ encoded), 1.0)
            z = np.tanh(parameters["W_z"] @ encoded)[None]
            e, d = e + z[0], z[0] - mu
            total += (e @ P_e @ e - d @ P_z @ d) / 2
            y = moved._remember(moved.parameters, y, there.z[t][None], x, a)
        K, D, E = len(there.z), there.z - mu, there.z - there.z_hat
        r = max(1 - np.exp(-K / 6.0), K / (n + K))
        S_z = (1 - r) * S_z + r * D.T @ D / K - r**2 * np.outer(D.mean(0), D.mean(0))
        S_e = (1 - r) * S_e + r * E.T @ E / K
        mu, n = mu + r * D.mean(0), n + K
    return total


@pytest.mark.slow
@every_network
@every_encoder
def test_gradient_is_the_central_difference_of_the_loss(cell, memory_input, n_e):
    """Of some entries of each array, drawn at random: each takes two runs of the network."""
    rng = np.random.default_rng(1)
    parameters, blocks = random_parameters(cell, memory_input, rng, n_e), random_blocks(rng)
    model = naive(parameters, cell, memory_input)
    gradient, still = model.gradient(blocks), model.run(blocks)
    step = 1e-5
    for name, array in parameters.items():
        assert gradient[name].shape == array.shape
        if not array.size:
            assert name == "W_x" and n_e == 0
            continue
        assert np.abs(gradient[name]).max() > 1e-4, f"{name} has no gradient: nothing is tested"
        for i in rng.permutation(list(np.ndindex(array.shape)))[:8]:
            up, down = array.copy(), array.copy()
            up[tuple(i)] += step
            down[tuple(i)] -= step
            slope = (
                summed_loss({**parameters, name: up}, cell, memory_input, blocks, still)
                - summed_loss({**parameters, name: down}, cell, memory_input, blocks, still)
            ) / (2 * step)
            found = gradient[name][tuple(i)]
            np.testing.assert_allclose(found, slope, rtol=1e-6, atol=1e-8, err_msg=name)


@every_network
@every_encoder
def test_loss_of_the_run_is_the_loss_that_is_differentiated(cell, memory_input, n_e):
    rng = np.random.default_rng(2)
    parameters, blocks = random_parameters(cell, memory_input, rng, n_e), random_blocks(rng)
    results = naive(parameters, cell, memory_input).run(blocks)
    losses = [result.loss for result in results]
    expected = summed_loss(parameters, cell, memory_input, blocks, results)
    assert sum(losses) == pytest.approx(expected, rel=1e-12)


@every_encoder
def test_gated_network_matches_two_fixations_by_hand(n_e):
    rng = np.random.default_rng(3)
    p = random_parameters("gated", "embedding", rng, n_e)
    features, efference, _ = random_blocks(rng, (2,), (False,))[0]
    result = naive(p, "gated", "embedding").run([(features, efference, False)])[0]

    def affine(M, v):
        return M[:, :-1] @ v + M[:, -1]

    def predict(h, z, a):
        gain = 1 / (1 + np.exp(-affine(p["G_b"], np.tanh(affine(p["G_a"], a)))))
        p1 = np.tanh(affine(p["V_1"], np.concatenate([h, z, a]))) * gain
        return affine(p["V_3"], np.tanh(affine(p["V_2"], p1)))

    h, z, loss = np.zeros(N_H), np.zeros(N_Z), 0.0
    for t in range(2):
        z_hat = predict(h, z, efference[t])
        encoded = np.tanh(affine(p["W_x"], features[t])) if n_e else features[t]
        z = np.tanh(affine(p["W_z"], encoded))
        loss += np.sum((z - z_hat) ** 2 - z**2) / (2 * 0.5)  # empty statistics: P = I / eps
        u = np.concatenate([z, efference[t]])
        candidate = np.tanh(affine(p["W"][0], u) + p["lam"][0] * h)
        k = 1 / (1 + np.exp(-(affine(p["W"][1], u) + p["lam"][1] * h)))
        h = (1 - k) * h + k * candidate
        np.testing.assert_allclose(result.z_hat[t], z_hat, rtol=1e-13)
        np.testing.assert_allclose(result.z[t], z, rtol=1e-13)
        np.testing.assert_allclose(result.h[t], h, rtol=1e-13)
    assert result.loss == pytest.approx(loss, rel=1e-13)


def test_cells_match_scalar_arithmetic():
    rng = np.random.default_rng(10)

    def sigma(v):
        return 1 / (1 + math.exp(-v))

    def leaky(y, s, lam):
        return [y[0] + (1 - sigma(lam[0])) * (math.tanh(s[0]) - y[0])]

    def lstm(y, s, lam):
        forget = sigma(s[0] + lam[0] * y[0])
        return [forget * y[0] + sigma(-s[0] - lam[0] * y[0]) * math.tanh(s[1] + lam[1] * y[0])]

    def rgc(y, s, lam):
        h, c = y
        return [
            math.tanh(s[0] * sigma(-lam[0] * c) + h * sigma(-lam[1] * h)),
            math.tanh(s[0] * sigma(-lam[2] * h) + c * sigma(-lam[3] * c)),
        ]

    def rtu(y, s, lam):
        turned = sigma(lam[0]) * cmath.exp(1j * lam[1]) * complex(*y) + complex(*s)
        return [turned.real, turned.imag]

    for by_hand in (leaky, lstm, rgc, rtu):
        function, m, _ = CELLS[by_hand.__name__]
        G, L = PROJECTIONS_AND_LOCALS[by_hand.__name__]
        y, s, lam = (rng.normal(size=size) for size in (m, G, L))
        np.testing.assert_allclose(function(y, s, lam), by_hand(y, s, lam), rtol=1e-13)


@every_network
def test_reset_cuts_the_past_and_its_gradient(cell, memory_input):
    rng = np.random.default_rng(4)
    parameters = random_parameters(cell, memory_input, rng)
    early, middle, late = random_blocks(rng, (3, 2, 3), (False, False, False))
    changed = (early[0] + 1.0, early[1], False)

    def last_block(first, reset):
        """Tiny tau: the statistics of the last block come from the middle one alone."""
        blocks = [first, (*middle[:2], reset), late]
        model = naive(parameters, cell, memory_input, tau=1e-3)
        return model.run(blocks)[-1].z_hat, model.gradients_by_block(blocks)[-1]

    z_hat, gradient = last_block(early, reset=True)
    z_hat_changed, gradient_changed = last_block(changed, reset=True)
    np.testing.assert_array_equal(z_hat, z_hat_changed)
    for name in parameters:
        np.testing.assert_allclose(gradient[name], gradient_changed[name], rtol=1e-9, atol=1e-12)

    z_hat_joined, gradient_joined = last_block(early, reset=False)
    z_hat_other, _ = last_block(changed, reset=False)
    assert np.abs(z_hat_joined - z_hat_other).max() > 1e-4
    assert max(np.abs(gradient_joined[k] - gradient[k]).max(initial=0) for k in parameters) > 1e-4


@every_network
def test_gradient_reaches_across_the_border_of_blocks(cell, memory_input):
    """One fixation a block, then one more: its loss must still move with the past's input."""
    rng = np.random.default_rng(5)
    parameters = random_parameters(cell, memory_input, rng)
    blocks = random_blocks(rng, (1, 1), (False, False))
    joined = naive(parameters, cell, memory_input).gradients_by_block(blocks)[-1]["W"]
    assert np.abs(joined).max() > 1e-3
    cut = [blocks[0], (*blocks[1][:2], True)]
    assert not naive(parameters, cell, memory_input).gradients_by_block(cut)[-1]["W"].any()


def test_gradient_is_the_sum_over_blocks():
    rng = np.random.default_rng(6)
    parameters, blocks = random_parameters("rgc", "features", rng), random_blocks(rng)
    model = naive(parameters, "rgc", "features")
    whole, parts = model.gradient(blocks), model.gradients_by_block(blocks)
    assert len(parts) == len(blocks)
    for name in parameters:
        assert whole[name].shape == parameters[name].shape
        np.testing.assert_allclose(whole[name], sum(part[name] for part in parts), rtol=1e-13)


def test_many_copies_at_once_do_not_matter(monkeypatch):
    rng = np.random.default_rng(7)
    parameters, blocks = random_parameters("rtu", "embedding", rng), random_blocks(rng)
    together = naive(parameters, "rtu", "embedding").gradient(blocks)
    monkeypatch.setattr(reference, "COPIES_AT_ONCE", 5)
    few = naive(parameters, "rtu", "embedding").gradient(blocks)
    for name in parameters:
        np.testing.assert_allclose(few[name], together[name], rtol=1e-10, atol=1e-13)


def test_stopped_gradient_differs_from_the_full_one():
    """Moving W_z for real also moves what the recurrent layer sees: a different number."""
    rng = np.random.default_rng(8)
    parameters, blocks = random_parameters("gated", "embedding", rng), random_blocks(rng)
    step, full = 1e-6, np.empty_like(parameters["W_z"])
    for i in np.ndindex(full.shape):
        losses = []
        for sign in (1, -1):
            moved = parameters["W_z"].copy()
            moved[i] += sign * step
            moved = {**parameters, "W_z": moved}
            losses.append(naive(moved, "gated", "embedding").run(blocks[:1])[0].loss)
        full[i] = (losses[0] - losses[1]) / (2 * step)
    stopped = naive(parameters, "gated", "embedding").gradients_by_block(blocks)[0]["W_z"]
    assert np.abs(stopped - full).max() > 1e-3


def test_unknown_names_are_refused():
    parameters = random_parameters("gated", "embedding", np.random.default_rng(9))
    with pytest.raises(ValueError, match="unknown cell 'dense'"):
        naive(parameters, "dense", "embedding")
    with pytest.raises(ValueError, match="unknown memory_input 'pixels'"):
        naive(parameters, "gated", "pixels")


def test_reference_imports_nothing_but_numpy():
    tree = ast.parse(Path(reference.__file__).read_text(encoding="utf-8"))
    modules = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import would share code with the package"
            modules.add(node.module)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "__import__"
    assert modules == {"numpy", "typing"}
