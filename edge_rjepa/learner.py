"""The learner: a recurrent joint embedding predictive network that learns as it sees.

    z_t    = tanh(W_z [x_t; 1])                        embedding of fixation t
    u_t    = [z_t; a_t; 1]                             (or [x_t; a_t; 1], `memory_input`)
    y_t    = F(y_{t-1}; W u_t; lambda)                 recurrent circuits, unit by unit (cells.py)
    zhat_t = P([h_{t-1}; z_{t-1}], a_t)                prediction from the past and the saccade
    loss   = predictive information (objective.py), exact gradients by RFP (kernels), Adam

docs/theory.md derives every line.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import threadpoolctl

from edge_rjepa import cells, checkpoint
from edge_rjepa.config import RJepaConfig
from edge_rjepa.errors import CheckpointError, ConfigError, InputError
from edge_rjepa.kernels import arrays, backend
from edge_rjepa.objective import PredictiveInformation

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8  # Adam (Kingma & Ba, 2015)
ENCODER_GAIN = 0.3
CHECKPOINT_KIND = "learner"


class BlockReport(NamedTuple):
    """What a block of K fixations taught."""

    loss: float  # nats, mean over the block
    information: float  # nats, running estimate after the block
    surprise: np.ndarray  # (K,) nats, 1/2 e' P_e e of each fixation


class Prediction(NamedTuple):
    """What K fixations were seen as, and what had been expected of them."""

    z: np.ndarray  # (K, n_z) embedding
    z_hat: np.ndarray  # (K, n_z) its prediction
    h: np.ndarray  # (K, n_r) what the predictor reads of the memory


class Adam(NamedTuple):
    """Adam's numbers for one step, in the dtype of the weights."""

    rate: np.floating
    blend1: np.floating
    blend2: np.floating
    correction2: np.floating
    epsilon: np.floating


class RJepa:
    """A network that learns from fixations, one block at a time, in fixed memory.

    config: sizes, cell and rates. seed: of the initial weights; nothing else is random.

    Features are (K, n_features) and efference copies (K, n_efference) floating arrays of K = 1 ..
    config.max_block fixations in the order seen. Anything else raises InputError and changes
    nothing. BLAS is set to one thread for the process: its threads slow products this small.
    """

    def __init__(self, config: RJepaConfig | None = None, seed: int = 0):
        self.config = config or RJepaConfig()
        self.cell = cells.find(self.config.cell)
        _one_blas_thread()
        weights = (arrays.zero_weights(self.config, self.cell, i) for i in range(4))
        self._weights, self._total, self._m1, self._m2 = weights
        self._gradient = arrays.shared_weights(self.config, self.cell, 4)
        self._traces = arrays.zero_traces(self.config, self.cell)
        self._workspace = arrays.zero_workspace(self.config, self.cell)
        self._rows: dict[int, arrays.Workspace] = {}
        self._counts = np.zeros(3, np.int64)  # fixations, Adam steps, blocks since the last step
        self._statistics = PredictiveInformation(
            self.config.n_embedding,
            self.config.noise_floor,
            self.config.statistics_fixations,
            self.config.dtype,
        )
        self._learning_rate = self.config.learning_rate
        self._initialise(np.random.default_rng(seed))

    def _initialise(self, rng: np.random.Generator) -> None:
        """Unit-variance pre-activations, less in the encoder, a wide gain field, and V_3 = 0.

        With V_3 = 0 the first predictor is about the mean, never worse: information starts near 0.
        An encoder that starts small grows along what can be foreseen; one that starts at unit
        variance is half full of what can not (docs/learning.md).
        """
        p = self._weights
        for matrix in (p.W, p.W_z, p.V_1, p.V_2):
            fan_in = matrix.shape[-1] - 1
            matrix[..., :-1] = rng.normal(size=(*matrix.shape[:-1], fan_in)) / math.sqrt(fan_in)
        place = slice(-1 - self.config.n_efference, -1)
        p.W[..., place] = rng.normal(size=p.W[..., place].shape)
        p.W[..., place] *= np.reshape(self.cell.initial_place_std, (-1, 1, 1))
        p.W_z[:] *= ENCODER_GAIN
        p.W[..., -1] = self.cell.initial_drive_bias(rng, self.config.n_hidden)
        p.lam[:] = self.cell.initial_parameters(rng, self.config.n_hidden)
        p.G_a[:] = rng.normal(size=p.G_a.shape)
        p.G_b[:] = 2.0 * rng.normal(size=p.G_b.shape) / math.sqrt(p.G_b.shape[1])

    # -- learning ---------------------------------------------------------------------------------

    def learn_block(self, features: np.ndarray, efference: np.ndarray) -> BlockReport:
        """Learn from K fixations: features (K, f), efference (K, A). Raises InputError."""
        ws = self._take(features, efference)
        self._counts[2] += 1
        loss = self._learn(ws, step=self._counts[2] >= self.config.update_every)
        self._counts[0] += len(ws.a)
        return BlockReport(loss / len(ws.a), self.information, ws.surprise.copy())

    def learn_one(self, features: np.ndarray, efference: np.ndarray) -> BlockReport:
        """Learn from one fixation: features (f,), efference (A,). Raises InputError."""
        return self.learn_block(np.asarray(features)[None], np.asarray(efference)[None])

    def gradients(self, features: np.ndarray, efference: np.ndarray) -> dict[str, np.ndarray]:
        """Exact gradient of the block's summed loss over the whole past; nothing changes.

        Name -> array, as in `parameters()`. The statistics of the objective count as constants.
        """
        twin = self.copy()
        twin._total.flat[:] = 0
        twin._learn(twin._take(features, efference), step=False)
        return _by_name(twin._total)

    def _learn(self, ws: arrays.Workspace, step: bool) -> float:
        """Forward, loss, backward, update, statistics; returns the block's summed loss."""
        self._perceive(ws)
        backend.predict(self._weights, ws)
        loss = self._objective(ws)
        descent = self._descent(step)
        backend.predictor_backward(self._weights, ws, descent)
        self._update(ws, descent)
        self._statistics.observe(ws.centred, ws.e)
        self._carry(ws)
        return loss

    def _perceive(self, ws: arrays.Workspace) -> None:
        backend.perceive(self.cell)(self._weights, ws, self.config.memory_input == "features")

    def _objective(self, ws: arrays.Workspace) -> float:
        ws.d_z[0] = 0
        return self._statistics.loss(ws.z[1:], ws.e, ws.centred, ws.d_z[1:], ws.d_zhat, ws.surprise)

    def _update(self, ws: arrays.Workspace, descent: arrays.Descent) -> None:
        backend.update(ws, self._traces, descent)

    def _descent(self, step: bool) -> arrays.Descent:
        """How the weights take this block's gradient; `step`: it is time for a step of Adam."""
        if step:
            self._counts[1] += 1
            self._counts[2] = 0
        if self.config.update_every == 1 and step:
            mode = arrays.STEP
        else:
            mode = arrays.STEP_GATHERED if step else arrays.GATHER
        rate = self._annealed_rate()
        return arrays.Descent(
            self._gradient, self._weights, self._total, self._m1, self._m2,
            self._adam(rate), self._adam(rate * self.config.encoder_rate), mode,
        )  # fmt: skip

    def _annealed_rate(self) -> float:
        """The rate falls with the root of experience, down to a floor: it never stops learning."""
        annealed = (1.0 + self.fixations / self.config.anneal_fixations) ** -0.5
        return self._learning_rate * max(self.config.anneal_floor, annealed)

    def _adam(self, learning_rate: float) -> Adam:
        number = np.dtype(self.config.dtype).type
        steps = max(1, int(self._counts[1]))
        return Adam(
            number(learning_rate / (1.0 - BETA1**steps)),
            number(1.0 - BETA1),
            number(1.0 - BETA2),
            number(1.0 / (1.0 - BETA2**steps)),
            number(EPSILON),
        )

    def warm_up(self) -> None:
        """Compile, or load from the cache, all that learning runs; nothing changes."""
        zeros = np.zeros((1, self.config.n_features)), np.zeros((1, self.config.n_efference))
        self.copy().learn_block(*zeros)

    # -- seeing without learning ------------------------------------------------------------------

    def embed(self, features: np.ndarray, efference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Embeddings z (K, n_z) and memory h (K, n_r); the state advances, the weights do not.

        Learning that follows takes the state it finds as given: its gradients reach back to here.
        """
        ws = self._take(features, efference)
        self._perceive(ws)
        return self._see(ws)

    def predict(self, features: np.ndarray, efference: np.ndarray) -> Prediction:
        """As `embed`, with the prediction of every embedding from what came before it."""
        ws = self._take(features, efference)
        self._perceive(ws)
        backend.predict(self._weights, ws)
        z, h = self._see(ws)
        return Prediction(z, ws.zhat.copy(), h)

    def surprise(self, z: np.ndarray, z_hat: np.ndarray) -> np.ndarray:
        """How unusual errors z - z_hat (N, n_z) are: 1/2 e' P_e e, (N,) float64 in nats."""
        return self._statistics.surprise(np.subtract(z, z_hat, dtype=np.float64))

    def _see(self, ws: arrays.Workspace) -> tuple[np.ndarray, np.ndarray]:
        h = ws.y[1:, ws.reads].reshape(len(ws.a), -1)
        self._carry(ws)
        for trace in self._traces:
            trace[:] = 0
        return ws.z[1:].copy(), h

    def reset(self) -> None:
        """Forget the past, keep the weights and what was learned of the statistics."""
        for rows in (self._workspace.x, self._workspace.z, self._workspace.y):
            rows[0] = 0
        for trace in self._traces:
            trace[:] = 0

    # -- looking inside ---------------------------------------------------------------------------

    @property
    def information(self) -> float:
        """Running estimate of the predictive information, in nats; NaN once learning diverged."""
        return self._statistics.information

    @property
    def embedding_covariance(self) -> np.ndarray:
        """Running estimate of cov(z), (n_z, n_z), a copy."""
        return self._statistics.S_z.copy()

    @property
    def error_covariance(self) -> np.ndarray:
        """Running estimate of E[e e'], (n_z, n_z), a copy."""
        return self._statistics.S_e.copy()

    @property
    def error_precision(self) -> np.ndarray:
        """P_e, by which errors are measured: surprise is 1/2 e' P_e e. (n_z, n_z) float64."""
        return self._statistics.precision_e

    @property
    def state(self) -> np.ndarray:
        """State of the recurrent circuits after the last fixation, (m, n_h), a copy."""
        return self._workspace.y[0].copy()

    @property
    def fixations(self) -> int:
        """Fixations learned from so far."""
        return int(self._counts[0])

    @property
    def nbytes(self) -> int:
        """Bytes of every array the learner holds; all were made at the start."""
        groups = (
            [w.flat for w in (self._weights, self._gradient, self._total, self._m1, self._m2)],
            self._traces,
            self._workspace,
            self._statistics.buffers(),
        )
        return sum(array.nbytes for group in groups for array in group)

    @property
    def learning_rate(self) -> float:
        """Adam's rate at the start; the rate used falls from it with experience. Can be set."""
        return self._learning_rate

    @learning_rate.setter
    def learning_rate(self, rate: float) -> None:
        dataclasses.replace(self.config, learning_rate=rate)  # refuses what is no rate
        self._learning_rate = float(rate)

    @property
    def digest(self) -> str:
        """SHA-256 of all that `save` keeps of the learner: equal to the bit if equal."""
        digest = hashlib.sha256(np.float64(self._learning_rate).tobytes())
        for name, array in self._arrays().items():
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array))
        return digest.hexdigest()

    def parameters(self) -> dict[str, np.ndarray]:
        """Every learned array by name (copies)."""
        return _by_name(self._weights)

    # -- keeping ----------------------------------------------------------------------------------

    def copy(self) -> RJepa:
        """An independent learner in the same state."""
        twin = type(self)(self.config)
        twin.learning_rate = self._learning_rate
        twin._set(self._arrays(), "this learner")
        return twin

    def save(self, path: str | Path, notes: dict | None = None, keep: int = 1) -> None:
        """Write everything needed to go on bit for bit: atomic, safetensors.

        notes: whatever else JSON can hold that belongs to this moment, for `load_newest`. keep: how
        many versions stay, as in checkpoint.py. Raises CheckpointError when the file cannot be
        written; an older one is then still there.
        """
        metadata = {
            "kind": CHECKPOINT_KIND,
            "config": dataclasses.asdict(self.config),
            "learning_rate": self._learning_rate,
            "notes": notes or {},
        }
        checkpoint.save(path, self._arrays(), metadata, keep)

    @classmethod
    def load(cls, path: str | Path) -> RJepa:
        """The learner that `save` wrote. Raises CheckpointError for any other file."""
        return cls._of(*checkpoint.load(path), path)[0]

    @classmethod
    def load_newest(cls, path: str | Path) -> tuple[RJepa, dict, list[str]]:
        """The newest undamaged learner that `save` kept at `path`: (learner, its notes, problems).

        problems: why a newer one could not be read, a line each. Raises CheckpointError.
        """
        tensors, metadata, version, problems = checkpoint.load_newest(path)
        return *cls._of(tensors, metadata, version), problems

    @classmethod
    def _of(cls, tensors: dict, metadata: dict, path: str | Path) -> tuple[RJepa, dict]:
        """The learner and the notes that a file at `path` held. Raises CheckpointError."""
        if metadata.get("kind") != CHECKPOINT_KIND:
            raise CheckpointError(f"{path} holds no learner: name the checkpoint of a run")
        try:
            learner = cls(RJepaConfig(**metadata["config"]))
            learner.learning_rate = metadata["learning_rate"]
            notes = metadata["notes"]
        except (KeyError, TypeError, ConfigError) as error:
            raise CheckpointError(f"{path} is of another version of edge_rjepa: {error}") from error
        learner._set(tensors, path)
        return learner, notes

    def _arrays(self) -> dict[str, np.ndarray]:
        """Views of all that changes, by name."""
        ws = self._workspace
        return {
            "weights": self._weights.flat,
            "adam.m1": self._m1.flat,
            "adam.m2": self._m2.flat,
            "gradient": self._total.flat,
            "traces.E": self._traces.E,
            "traces.e_lam": self._traces.e_lam,
            "past.x": ws.x[0],
            "past.z": ws.z[0],
            "past.y": ws.y[0],
            "counts": self._counts,
            **{f"statistics.{k}": v for k, v in self._statistics.arrays().items()},
        }

    def _set(self, tensors: dict[str, np.ndarray], origin: object) -> None:
        own = self._arrays()
        for name, array in own.items():
            if name not in tensors or tensors[name].shape != array.shape:
                raise CheckpointError(f"{origin} lacks a fitting tensor '{name}': use another copy")
        for name, array in own.items():
            array[...] = tensors[name]

    # -- the door ---------------------------------------------------------------------------------

    def _take(self, features: np.ndarray, efference: np.ndarray) -> arrays.Workspace:
        """Check a block and copy it into the workspace; the views of its rows."""
        features = _checked("features", features, self.config.n_features, self.config)
        efference = _checked("efference", efference, self.config.n_efference, self.config)
        K = len(features)
        if len(efference) != K:
            raise InputError(
                f"features has {K} fixations, efference {len(efference)}: give one each"
            )
        if K not in self._rows:
            self._rows[K] = arrays.rows(self._workspace, K)
        ws = self._rows[K]
        ws.x[1:, :-1] = features
        ws.a[:, :-1] = efference
        return ws

    def _carry(self, ws: arrays.Workspace) -> None:
        """The block's last fixation becomes the one before the next block."""
        ws.x[0] = ws.x[-1]
        ws.z[0] = ws.z[-1]
        ws.y[0] = ws.y[-1]


@functools.cache
def _one_blas_thread() -> None:
    threadpoolctl.threadpool_limits(1, user_api="blas")


def _by_name(weights: arrays.Weights) -> dict[str, np.ndarray]:
    return {name: array.copy() for name, array in weights._asdict().items() if name != "flat"}


def _checked(name: str, array: np.ndarray, width: int, config: RJepaConfig) -> np.ndarray:
    try:
        array = np.asarray(array)
    except ValueError:
        raise InputError(f"{name} is ragged: give one row of {width} numbers a fixation") from None
    if not np.issubdtype(array.dtype, np.floating):
        raise InputError(f"{name} has dtype {array.dtype}: give floating point numbers")
    if array.ndim != 2 or array.shape[1] != width:
        raise InputError(f"{name} has shape {array.shape}: expected (K, {width})")
    if not 1 <= len(array) <= config.max_block:
        raise InputError(
            f"{name} has {len(array)} fixations: a block holds 1 to max_block = {config.max_block}"
        )
    with np.errstate(over="ignore"):  # too large for float32 is infinite, and refused as such
        array = array.astype(config.dtype, copy=False)
    if not np.isfinite(array).all():
        raise InputError(f"{name} holds NaN or infinity: skip this block")
    return array
