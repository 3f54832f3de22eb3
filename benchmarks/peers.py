"""The default network learning by other rules: what benchmarks/speed.py compares edge_rjepa with.

    TorchPeer   PyTorch: backpropagation through time, over the block or over a window
    RtrlPeer    NumPy: real-time recurrent learning, the recurrent layer taken for a dense one

Weights, objective, running statistics, Adam and the falling rate are those of RJepa with the
`gated` cell and memory_input = "embedding"; tests/benchmarks/test_peers.py compares them. The
statistics are the same NumPy code in both, so that what differs is the network and how it learns.
"""

from __future__ import annotations

import math
from collections import deque

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from edge_rjepa import RJepaConfig
from edge_rjepa.learner.objective import RENEW_AFTER

try:
    import torch
except ImportError:  # it is no dependency: without it its rows stay empty
    torch = None

NO_TORCH = "PyTorch is not installed: pip install torch"
BETA1, BETA2, EPSILON = 0.0, 0.999, 1e-8
WINDOW = 32  # fixations through which `TorchPeer.learn_one` goes back
ENCODER = ("W_x", "W_z")  # affine maps, the bias in the last column; W_x may be empty ..
LAYERS = (*ENCODER, "W", "G_a", "G_b", "V_1", "V_2", "V_3")  # .. and all of them


class Statistics:
    """Running mean and covariances of z and e, and the objective's gradient (docs/theory.md)."""

    def __init__(self, config: RJepaConfig):
        n_z = config.n_embedding
        self.floor = config.noise_floor * np.eye(n_z, dtype=config.dtype)
        self.time_constant = config.statistics_fixations
        self.mu = np.zeros(n_z, config.dtype)
        self.S_z, self.S_e = np.zeros_like(self.floor), np.zeros_like(self.floor)
        self.fixations = 0
        self._factorise()

    def gradients(self, z: np.ndarray, z_hat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """dl/dz and dl/dzhat, (K, n_z) each, of embeddings and predictions (K, n_z)."""
        weighed = cho_solve(self._factor_e, (z - z_hat).T, check_finite=False).T
        spread = cho_solve(self._factor_z, (z - self.mu).T, check_finite=False).T
        return weighed - spread, -weighed

    def observe(self, z: np.ndarray, z_hat: np.ndarray) -> None:
        """Move the statistics by a block of embeddings and predictions (K, n_z)."""
        K, d, e = len(z), z - self.mu, z - z_hat
        rate = max(1 - math.exp(-K / self.time_constant), K / (self.fixations + K))
        mean = d.mean(axis=0)
        self.S_z *= 1 - rate
        self.S_z += (rate / K) * (d.T @ d) - rate**2 * np.outer(mean, mean)
        self.S_e *= 1 - rate
        self.S_e += (rate / K) * (e.T @ e)
        self.mu += rate * mean
        self.fixations += K
        self._moved += rate
        if self._moved >= RENEW_AFTER:
            self._factorise()

    def _factorise(self) -> None:
        self._moved = 0.0
        self._factor_z, self._factor_e = (
            cho_factor(S + self.floor, lower=True, overwrite_a=True, check_finite=False)
            for S in (self.S_z, self.S_e)
        )


def annealed_rate(config: RJepaConfig, fixations: int) -> float:
    """Adam's rate after so many fixations."""
    annealed = (1 + fixations / config.anneal_fixations) ** -0.5
    return config.learning_rate * max(config.anneal_floor, annealed)


class TorchPeer:
    """The network in PyTorch, on one thread.

    weights: as `RJepa.parameters()` gives them. stepwise: go through a block one fixation at a
    time, as recurrent code is mostly written. Else every product is done for the whole block at
    once, and only the recurrent layer, which cannot otherwise, goes step by step. compiled: by
    torch.compile, which takes most of a minute at the first block and asks for a C++ compiler.

    Raises ImportError where PyTorch is not installed.
    """

    def __init__(
        self, config: RJepaConfig, weights: dict, stepwise: bool = False, compiled: bool = False
    ):
        if torch is None:
            raise ImportError(NO_TORCH)
        torch.set_num_threads(1)
        self.config = config
        self.stepwise = stepwise
        self._layers = {name: _linear(weights[name]) for name in LAYERS if weights[name].size}
        self._empty = {name: w for name, w in weights.items() if not w.size}
        self._lam = torch.tensor(weights["lam"], requires_grad=True)
        encoder, others = [], []
        for name, layer in self._layers.items():
            (encoder if name in ENCODER else others).extend(layer.parameters())
        self._adam = torch.optim.Adam(
            [{"params": others + [self._lam]}, {"params": encoder}],
            betas=(BETA1, BETA2), eps=EPSILON, fused=True,
        )  # fmt: skip
        if compiled:
            self._forward = torch.compile(self._forward)
        self.statistics = Statistics(config)
        self.reset()

    def reset(self) -> None:
        """Forget the past, keep weights and statistics."""
        zeros = np.zeros((1, self.config.n_embedding + self.config.n_hidden), self.config.dtype)
        self._z, self._y = torch.from_numpy(zeros).split(
            (self.config.n_embedding, self.config.n_hidden), dim=1
        )
        self._window: deque = deque()

    def parameters(self) -> dict[str, np.ndarray]:
        """Every learned array by name (copies), shaped as those of RJepa."""
        return self._named(lambda tensor: tensor.detach())

    def predict(self, features: np.ndarray, efference: np.ndarray) -> tuple:
        """(z, z_hat, h) of K fixations, (K, ..) arrays; the state goes on."""
        with torch.no_grad():
            z, z_hat, y = self._forward(*self._tensors(features, efference))
        self._z, self._y = z[-1:], y[-1:]
        return z.numpy(), z_hat.numpy(), y.numpy()

    def last_gradients(self) -> dict[str, np.ndarray]:
        """Gradient of the loss learned from last, by name, shaped as those of RJepa."""
        return self._named(lambda tensor: tensor.grad)

    def learn_block(self, features: np.ndarray, efference: np.ndarray) -> None:
        """One Adam step on K fixations; the state is carried on without its past."""
        z, z_hat, y = self._forward(*self._tensors(features, efference))
        self._z, self._y = z[-1:].detach(), y[-1:].detach()
        self._learn(z, z_hat, new=len(z))

    def learn_one(
        self, features: np.ndarray, efference: np.ndarray, whole_window: bool = False
    ) -> None:
        """One Adam step on one fixation (1, ..), backpropagated through the last WINDOW of them.

        Weights have moved since, so the window is run through anew from the state before it.
        The loss is that of the newest fixation alone, the others having been learned from, so only
        that one is predicted; or, dearer, that of the `whole_window`.
        """
        if len(self._window) == WINDOW:
            self._window.popleft()
            self._z, self._y = self._after_first
        self._window.append(self._tensors(features, efference))
        x, a = (torch.cat(rows) for rows in zip(*self._window, strict=True))
        if whole_window:
            z, z_hat, y = self._forward(x, a)
        else:
            z, y = self._encode_all(x, a, self._y)
            z_before, y_before = torch.cat([self._z, z])[-2:-1], torch.cat([self._y, y])[-2:-1]
            z_hat = self._predict(y_before, z_before, a[-1:])
        self._after_first = z[:1].detach(), y[:1].detach()
        self._learn(z[-len(z_hat) :], z_hat, new=1)

    # -- forward ----------------------------------------------------------------------------------

    def _forward(self, x, a):
        """z, z_hat, y (K, ..) of fixations x (K, f), a (K, A) after the state that is kept."""
        if not self.stepwise:
            z, y = self._encode(x, a, self._y)
            h, z_before = torch.cat([self._y, y[:-1]]), torch.cat([self._z, z[:-1]])
            return z, self._predict(h, z_before, a), y
        rows, y, z = [], self._y, self._z
        for k in range(len(x)):
            z_hat = self._predict(y, z, a[k : k + 1])
            z, y = self._encode(x[k : k + 1], a[k : k + 1], y)
            rows.append((z, z_hat, y))
        return tuple(torch.cat(parts) for parts in zip(*rows, strict=True))

    def _encode_all(self, x, a, y):
        """Embeddings and states (K, ..), by `stepwise` one by one or all products at once."""
        if not self.stepwise:
            return self._encode(x, a, y)
        rows = []
        for k in range(len(x)):
            z, y = self._encode(x[k : k + 1], a[k : k + 1], y)
            rows.append((z, y))
        return tuple(torch.cat(parts) for parts in zip(*rows, strict=True))

    def _encode(self, x, a, y):
        """Embeddings z (K, n_z) and recurrent states (K, n_h), from the state y (1, n_h)."""
        z = x
        for name in ENCODER:
            if name in self._layers:
                z = torch.tanh(self._layers[name](z))
        projections = self._layers["W"](torch.cat([z.detach(), a], dim=1))
        l1, l2 = self._lam
        states = []
        for s1, s2 in zip(*(part.split(1) for part in projections.chunk(2, dim=1)), strict=True):
            c = torch.tanh(torch.addcmul(s1, l1, y))
            k = torch.sigmoid(torch.addcmul(s2, l2, y))
            y = torch.lerp(y, c, k)
            states.append(y)
        return z, torch.cat(states)

    def _predict(self, h, z, a):
        """Predictions (K, n_z) from the fixations before and the saccades to come."""
        layers = self._layers
        q = torch.tanh(layers["V_1"](torch.cat([h, z, a], dim=1)))
        gain = torch.sigmoid(layers["G_b"](torch.tanh(layers["G_a"](a))))
        return layers["V_3"](torch.tanh(layers["V_2"](q * gain)))

    # -- learning ---------------------------------------------------------------------------------

    def _learn(self, z, z_hat, new: int) -> None:
        """Back from the loss of embeddings and predictions (K, n_z), the last of which are new."""
        seen = z.detach().numpy(), z_hat.detach().numpy()
        self._adam.zero_grad()
        d_z, d_z_hat = self.statistics.gradients(*seen)
        torch.autograd.backward((z, z_hat), (torch.from_numpy(d_z), torch.from_numpy(d_z_hat)))
        rate = annealed_rate(self.config, self.statistics.fixations)
        all_but_encoder, encoder = self._adam.param_groups
        all_but_encoder["lr"], encoder["lr"] = rate, rate * self.config.encoder_rate
        self._adam.step()
        self.statistics.observe(*(rows[-new:] for rows in seen))

    # -- in and out -------------------------------------------------------------------------------

    def _tensors(self, features, efference):
        return tuple(
            torch.from_numpy(np.asarray(rows, self.config.dtype)) for rows in (features, efference)
        )

    def _named(self, look) -> dict[str, np.ndarray]:
        """`look` of every parameter, joined into the arrays of RJepa."""
        named = {
            name: np.column_stack([look(layer.weight), look(layer.bias)])
            for name, layer in self._layers.items()
        }
        named["W"] = named["W"].reshape(2, self.config.n_hidden, -1)
        return {**self._empty, **named, "lam": look(self._lam).numpy().copy()}


def _linear(matrix: np.ndarray):
    """The affine map of an array (.., rows, columns) whose last column is the bias."""
    matrix = torch.tensor(matrix.reshape(-1, matrix.shape[-1]))
    layer = torch.nn.Linear(matrix.shape[1] - 1, matrix.shape[0], dtype=matrix.dtype)
    with torch.no_grad():
        layer.weight.copy_(matrix[:, :-1])
        layer.bias.copy_(matrix[:, -1])
    return layer


class RtrlPeer:
    """The network in NumPy, its recurrent layer learning by RTRL as a dense recurrent network must.

    weights: as `RJepa.parameters()` gives them. The sensitivity of all n_h states to all N weights
    of the recurrent layer is kept, n_h N numbers, and moved by a full n_h x n_h Jacobian: n_h^2 N
    multiply-adds a fixation. RFP is what is left where that Jacobian is known to be diagonal.
    """

    def __init__(self, config: RJepaConfig, weights: dict):
        self.config = config
        self._p = {name: array.astype(config.dtype) for name, array in weights.items()}
        self._m2 = {name: np.zeros_like(array) for name, array in self._p.items()}
        self._steps = 0
        self.statistics = Statistics(config)
        n_weights = self._p["W"].size + self._p["lam"].size
        self._sensitivity = np.zeros((config.n_hidden, n_weights), config.dtype)
        self._moved = np.zeros_like(self._sensitivity)
        self._x = np.zeros(config.n_features + 1, config.dtype)  # not even a bias: no fixation
        self._hidden = np.zeros(config.n_encoder_hidden + 1, config.dtype)
        self._z = np.zeros(config.n_embedding, config.dtype)
        self._y = np.zeros(config.n_hidden, config.dtype)

    def learn_block(self, features: np.ndarray, efference: np.ndarray) -> None:
        """One Adam step on K fixations; RTRL proper is K = 1."""
        total, seen = {}, []
        for x, a in zip(features, efference, strict=True):
            gradients, *z_and_z_hat = self._fixate(
                np.append(x, 1).astype(self.config.dtype), np.append(a, 1).astype(self.config.dtype)
            )
            total = {name: g + total.get(name, 0) for name, g in gradients.items()}
            seen.append(z_and_z_hat)
        self._gradients = total
        rate = annealed_rate(self.config, self.statistics.fixations)
        self._steps += 1
        for name, g in total.items():
            self._adam(name, g, rate * (self.config.encoder_rate if name in ENCODER else 1.0))
        self.statistics.observe(*(np.array(rows) for rows in zip(*seen, strict=True)))

    def last_gradients(self) -> dict[str, np.ndarray]:
        """Gradient of the loss learned from last, over the whole past, by name."""
        return self._gradients

    def parameters(self) -> dict[str, np.ndarray]:
        """Every learned array by name (copies)."""
        return {name: array.copy() for name, array in self._p.items()}

    def _fixate(self, x, a):
        """Gradients, z (n_z,) and z_hat (n_z,) of fixation x (f+1,), a (A+1,); then go on."""
        p, n_h = self._p, self.config.n_hidden
        context = np.concatenate([self._y, self._z, a])
        gain_hidden = with_one(np.tanh(p["G_a"] @ a))
        gain = sigmoid(p["G_b"] @ gain_hidden)
        q = np.tanh(p["V_1"] @ context)
        p1 = with_one(q * gain)
        p2 = with_one(np.tanh(p["V_2"] @ p1))
        hidden = with_one(np.tanh(p["W_x"] @ x))
        encoded, encoded_before = (hidden, self._hidden) if p["W_x"].size else (x, self._x)
        z_hat, z = p["V_3"] @ p2, np.tanh(p["W_z"] @ encoded)

        d_z, d_z_hat = (row[0] for row in self.statistics.gradients(z[None], z_hat[None]))
        d_p2 = (d_z_hat @ p["V_3"])[:-1] * (1 - p2[:-1] ** 2)
        d_p1 = (d_p2 @ p["V_2"])[:-1]
        d_q = d_p1 * gain * (1 - q**2)
        d_gain = d_p1 * q * gain * (1 - gain)
        d_hidden = (d_gain @ p["G_b"])[:-1] * (1 - gain_hidden[:-1] ** 2)
        d_context = d_q @ p["V_1"]
        d_before = d_context[n_h : n_h + len(z)] * (1 - self._z**2)
        d_pre = d_z * (1 - z**2)
        d_recurrent = d_context[:n_h] @ self._sensitivity
        gradients = {
            "W_x": np.outer(self._to_hidden(d_pre, hidden), x)
            + np.outer(self._to_hidden(d_before, self._hidden), self._x),
            "W_z": np.outer(d_pre, encoded) + np.outer(d_before, encoded_before),
            "W": d_recurrent[: p["W"].size].reshape(p["W"].shape),
            "lam": d_recurrent[p["W"].size :].reshape(p["lam"].shape),
            "G_a": np.outer(d_hidden, a),
            "G_b": np.outer(d_gain, gain_hidden),
            "V_1": np.outer(d_q, context),
            "V_2": np.outer(d_p2, p1),
            "V_3": np.outer(d_z_hat, p2),
        }
        self._remember(np.concatenate([z, a]))
        self._x, self._hidden, self._z = x, hidden, z
        return gradients, z, z_hat

    def _to_hidden(self, d_pre, hidden) -> np.ndarray:
        """Back to the argument of the encoder's hidden layer, of which there may be none."""
        if hidden.size == 1:
            return np.empty(0, self.config.dtype)
        return (d_pre @ self._p["W_z"])[:-1] * (1 - hidden[:-1] ** 2)

    def _remember(self, u) -> None:
        """The next recurrent state for the input u (n_u,), and its sensitivity to the weights."""
        W, (l1, l2), y, n_h = self._p["W"], self._p["lam"], self._y, self.config.n_hidden
        s1, s2 = W @ u
        c, k = np.tanh(s1 + l1 * y), sigmoid(s2 + l2 * y)
        by_projection = np.stack([k * (1 - c**2), k * (1 - k) * (c - y)])  # dy/ds (2, n_h)
        jacobian = np.diag(1 - k + by_projection[0] * l1 + by_projection[1] * l2)
        np.dot(jacobian, self._sensitivity, out=self._moved)
        to_W = self._moved[:, : W.size].reshape(n_h, *W.shape)
        to_lam = self._moved[:, W.size :].reshape(n_h, 2, n_h)
        unit = np.arange(n_h)
        to_W[unit, :, unit] += by_projection.T[:, :, None] * u
        to_lam[unit, :, unit] += by_projection.T * y[:, None]
        self._sensitivity, self._moved = self._moved, self._sensitivity
        self._y = y + k * (c - y)

    def _adam(self, name, g, rate) -> None:
        m2 = self._m2[name]
        m2 += (1 - BETA2) * (g * g - m2)
        scale = np.sqrt(m2 / (1 - BETA2**self._steps)) + EPSILON
        self._p[name] -= rate * g / scale


def with_one(v: np.ndarray) -> np.ndarray:
    """[v; 1], for an affine map whose bias is its last column."""
    return np.append(v, v.dtype.type(1))


def sigmoid(v: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-v))
