"""The whole network in plain NumPy, slow on purpose: what the learner is checked against.

It is written from the equations of docs/theory.md alone and shares no code with the learner. It
keeps no sensitivities: its gradients are complex-step derivatives. One entry of one parameter array
gets an imaginary step of 1e-30, the network runs forward over all fixations, and the imaginary part
of the loss divided by the step is the derivative, exact to rounding. Many such copies of the
network run side by side along a leading axis.

Sizes: f features, A efference, n_e hidden units of the encoder (0: none), n_x = n_e (f where there
are none), n_z embedding, n_h units, n_r = n_h values read of each state, n_p predictor, n_g gain, m
state components, G input projections, L local parameters a unit.
"""

from typing import NamedTuple

import numpy as np

STEP = 1e-30  # its square vanishes beside 1, so no rounding error depends on it
RENEW_AFTER = 0.1  # P_z and P_e are renewed when the statistics have moved by this share
COPIES_AT_ONCE = 256  # keeps the working set in the cache


class BlockResult(NamedTuple):
    """What one block of K fixations gave; every array is float64."""

    loss: float  # sum over the block, mu and P as they were before it
    surprise: np.ndarray  # (K,) nats, P as it was before the block
    information: float  # nats, as P is after the block
    z: np.ndarray  # (K, n_z)
    z_hat: np.ndarray  # (K, n_z)
    h: np.ndarray  # (K, n_r)


class NaiveModel:
    """The network at fixed weights, with its own running statistics.

    parameters: real arrays W_x (n_e, f+1), W_z (n_z, n_x+1), W (G, n_h, n_u), lam (L, n_h),
        G_a (n_g, A+1), G_b (n_p, n_g+1), V_1 (n_p, n_r+n_z+A+1), V_2 (n_p, n_p+1),
        V_3 (n_z, n_p+1).
    cell: "gated", "leaky", "lstm", "rgc" or "rtu".
    memory_input: "embedding" (no gradient flows from the recurrent layer into z) or "features".
    noise_floor: eps of the objective.
    statistics_fixations: time constant tau of the running statistics, in fixations.

    Raises ValueError for an unknown cell or memory input.
    """

    def __init__(self, parameters, cell, memory_input, noise_floor, statistics_fixations):
        if cell not in CELLS:
            raise ValueError(f"unknown cell {cell!r}: choose one of {', '.join(CELLS)}")
        if memory_input not in ("embedding", "features"):
            raise ValueError(f"unknown memory_input {memory_input!r}: embedding or features")
        self.parameters = {k: np.array(v, dtype=np.float64) for k, v in parameters.items()}
        self.cell, self.state_components, self.reads = CELLS[cell]
        self.memory_input = memory_input
        self.noise_floor = noise_floor
        self.statistics_fixations = statistics_fixations

    def run(self, blocks):
        """Run over `blocks` from an empty past and empty statistics: a list of BlockResult.

        blocks: a sequence of (features (K, f), efference (K, A), reset_before: bool).
        """
        return [result for _, result in self._blocks(self.parameters, 1, blocks)]

    def gradients_by_block(self, blocks):
        """For every block a dict of arrays: the gradient of that block's loss alone.

        It reaches through all the past since the last reset, whatever block that lies in. The
        statistics (mu, P_z, P_e) of a block count as constants.
        """
        gradients = [{k: np.empty_like(v) for k, v in self.parameters.items()} for _ in blocks]
        for name, array in self.parameters.items():
            for first in range(0, array.size, COPIES_AT_ONCE):
                entries = np.arange(first, min(first + COPIES_AT_ONCE, array.size))
                copies = np.tile(array.astype(complex), (len(entries),) + (1,) * array.ndim)
                copies.reshape(len(entries), -1)[np.arange(len(entries)), entries] += 1j * STEP
                perturbed = {**self.parameters, name: copies}
                runs = self._blocks(perturbed, len(entries), blocks)
                for gradient, (losses, _) in zip(gradients, runs, strict=True):
                    gradient[name].flat[entries] = losses.imag / STEP
        return gradients

    def gradient(self, blocks):
        """The gradient of the summed loss of all blocks: a dict of arrays like `parameters`."""
        by_block = self.gradients_by_block(blocks)
        return {name: sum(g[name] for g in by_block) for name in self.parameters}

    def _blocks(self, parameters, copies, blocks):
        """Yield (losses (copies,), BlockResult of the first copy) for every block."""
        n_z, n_h = parameters["W_z"].shape[-2], parameters["lam"].shape[-1]
        mu, S_z, S_e, n = np.zeros(n_z), np.zeros((n_z, n_z)), np.zeros((n_z, n_z)), 0
        moved = np.inf  # of the statistics since P was renewed
        eps_I = self.noise_floor * np.eye(n_z)
        y = np.zeros((copies, self.state_components, n_h))
        z = np.zeros((copies, n_z))

        for features, efference, reset_before in blocks:
            if reset_before:
                y, z = np.zeros_like(y), np.zeros_like(z)
            if moved >= RENEW_AFTER:
                P_z, P_e = np.linalg.inv(S_z + eps_I), np.linalg.inv(S_e + eps_I)
                moved = 0.0
            losses = np.zeros(copies)
            z_seen, z_hat_seen, h_seen, surprise = [], [], [], []

            for x, a in zip(features, efference, strict=True):
                z_hat = self._predict(parameters, self._read(y), z, a)
                z = self._embed(parameters, x)
                y = self._remember(parameters, y, z, x, a)
                e, d = z - z_hat, z - mu
                half_e_P_e = quadratic(P_e, e) / 2
                losses = losses + half_e_P_e - quadratic(P_z, d) / 2
                z_seen.append(z[0].real)
                z_hat_seen.append(z_hat[0].real)
                h_seen.append(self._read(y)[0].real)
                surprise.append(half_e_P_e[0].real)

            Z, Z_hat = np.array(z_seen), np.array(z_hat_seen)
            D, E, K = Z - mu, Z - Z_hat, len(Z)
            r = max(1 - np.exp(-K / self.statistics_fixations), K / (n + K))
            d_bar = D.mean(axis=0)
            S_z = (1 - r) * S_z + r * D.T @ D / K - r**2 * np.outer(d_bar, d_bar)
            S_e = (1 - r) * S_e + r * E.T @ E / K
            mu, n, moved = mu + r * d_bar, n + K, moved + r
            if moved >= RENEW_AFTER:
                information = float(log_det(S_z + eps_I) - log_det(S_e + eps_I)) / 2
            yield (
                losses,
                BlockResult(
                    loss=float(losses[0].real),
                    surprise=np.array(surprise),
                    information=information,
                    z=Z,
                    z_hat=Z_hat,
                    h=np.array(h_seen),
                ),
            )

    def _embed(self, parameters, x):
        """z_t (copies, n_z) from x_t, by way of the hidden layer if there is one."""
        if parameters["W_x"].size:
            x = np.tanh(affine(parameters["W_x"], x))
        return np.tanh(affine(parameters["W_z"], x))

    def _predict(self, parameters, h, z, a):
        """zhat_t (copies, n_z) from h_{t-1}, z_{t-1} and the coming saccade a_t."""
        q = affine(parameters["V_1"], h, z, a)
        gain = sigmoid(affine(parameters["G_b"], np.tanh(affine(parameters["G_a"], a))))
        p1 = np.tanh(q) * gain
        p2 = np.tanh(affine(parameters["V_2"], p1))
        return affine(parameters["V_3"], p2)

    def _remember(self, parameters, y, z, x, a):
        """y_t (copies, m, n_h) from y_{t-1}; the real part of z carries no derivative."""
        seen = z.real if self.memory_input == "embedding" else x
        W = parameters["W"]
        projections = [affine(W[..., i, :, :], seen, a) for i in range(W.shape[-3])]
        state = [y[:, i] for i in range(self.state_components)]
        local = [parameters["lam"][..., i, :] for i in range(parameters["lam"].shape[-2])]
        return np.stack(self.cell(state, projections, local), axis=1)

    def _read(self, y):
        """h (copies, n_r): the components the predictor may see, one after another."""
        return np.concatenate([y[:, i] for i in self.reads], axis=-1)


def sigmoid(v):
    return 1 / (1 + np.exp(-v))


def affine(M, *parts):
    """M [parts; 1] for every copy. M (rows, columns) or (copies, rows, columns)."""
    rows = [part if part.ndim == 2 else part[None] for part in parts]
    copies, width = max([len(row) for row in rows]), sum([row.shape[1] for row in rows])
    v = np.empty((copies, width + 1), np.result_type(float, *rows))
    end = 0
    for row in rows:
        first, end = end, end + row.shape[1]
        v[:, first:end] = row
    v[:, end] = 1
    return v @ M.T if M.ndim == 2 else (M @ v[..., None])[..., 0]


def quadratic(P, v):
    """v' P v for every copy, without conjugation."""
    return np.sum((v @ P) * v, axis=-1)


def log_det(S):
    return np.linalg.slogdet(S)[1]


# Cells: lists of state components, projections and local parameters to the list of new components.


def gated(state, projections, local):
    (y,), (s1, s2), (l1, l2) = state, projections, local
    c, k = np.tanh(s1 + l1 * y), sigmoid(s2 + l2 * y)
    return [(1 - k) * y + k * c]


def leaky(state, projections, local):
    (y,), (s1,), (l1,) = state, projections, local
    a = sigmoid(l1)
    return [a * y + (1 - a) * np.tanh(s1)]


def lstm(state, projections, local):
    (y,), (s1, s2), (l1, l2) = state, projections, local
    f, c = sigmoid(s1 + l1 * y), np.tanh(s2 + l2 * y)
    return [f * y + (1 - f) * c]


def rgc(state, projections, local):
    (h, c), (s,), (l1, l2, l3, l4) = state, projections, local
    h_new = np.tanh((1 - sigmoid(l1 * c)) * s + (1 - sigmoid(l2 * h)) * h)
    c_new = np.tanh((1 - sigmoid(l3 * h)) * s + (1 - sigmoid(l4 * c)) * c)
    return [h_new, c_new]


def rtu(state, projections, local):
    (y1, y2), (s1, s2), (l1, theta) = state, projections, local
    r, cos, sin = sigmoid(l1), np.cos(theta), np.sin(theta)
    return [r * (cos * y1 - sin * y2) + s1, r * (sin * y1 + cos * y2) + s2]


CELLS = {  # name: (function, state components m, components the predictor reads)
    "gated": (gated, 1, (0,)),
    "leaky": (leaky, 1, (0,)),
    "lstm": (lstm, 1, (0,)),
    "rgc": (rgc, 2, (0,)),
    "rtu": (rtu, 2, (0, 1)),
}
