"""The learner: a recurrent joint embedding predictive network that learns as it sees.

    z_t    = tanh(W_z [x_t; 1])                        embedding of fixation t; with a hidden layer
                                                       tanh(W_x [x_t; 1]) takes the place of x_t
    u_t    = [z_t; a_t; 1]                             (or [x_t; a_t; 1], `memory_input`)
    y_t    = F(y_{t-1}; W u_t; lambda)                 recurrent layer, unit by unit (cells.py)
    zhat_t = P([h_{t-1}; z_{t-1}], a_t)                prediction from the past and the saccade
    loss   = predictive information (objective.py), exact gradients by RFP (kernels), Adam

docs/theory.md derives every line.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.linalg import solve_triangular

from edge_rjepa.base import checkpoint
from edge_rjepa.base.checkpoint import Layout
from edge_rjepa.base.checks import from_table
from edge_rjepa.errors import CheckpointError, ConfigError, InputError
from edge_rjepa.learner import cells, network
from edge_rjepa.learner.config import RJepaConfig
from edge_rjepa.learner.engines import Engine, Learned, Step, open_engine
from edge_rjepa.learner.kernels import arrays
from edge_rjepa.learner.objective import precision, surprise
from safe_files.errors import FileError
from safe_files.plain import rebuilt

BETA2, EPSILON = 0.999, 1e-8  # Adam (Kingma & Ba, 2015) with beta_1 = 0: no first moment
CHECKPOINT_KIND = "learner"
NONE = Layout(np.dtype(bool), ())
MOST_COUNTED = 2**62  # fixations and steps: a thousand a second for a hundred million years
PAST = ("traces.E", "traces.e_lam", "past.x", "past.hidden", "past.z", "past.y")
NETWORK_VERSION = 2  # of what a checkpoint goes on with: weights, optimiser, what features mean


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


class RJepa:
    """A network that learns from fixations, one block at a time, in fixed memory.

    config: sizes, cell and rates. seed: of the initial weights; nothing else is random. device:
    one of engines.DEVICES. engine: of one stream, in place of a new one on `device`.

    Features are (K, n_features) and efference copies (K, n_efference) floating arrays of K = 1 ..
    config.max_block fixations in the order seen. Anything else raises InputError and changes
    nothing. DeviceError, from whatever method, says that the device cannot be had or has failed: go
    on from a checkpoint.

    One thread at a time calls it, to read, too: what is read takes in what was kept until then.
    """

    def __init__(
        self,
        config: RJepaConfig | None = None,
        seed: int = 0,
        device: str = "cpu",
        *,
        engine: Engine | None = None,
    ):
        self.config = config or RJepaConfig()
        self.cell = cells.find(self.config.cell)
        self.engine = engine or open_engine(self.config, self.cell, 1, device)
        self._dtype = np.dtype(self.config.dtype)
        self._largest = float(np.finfo(self.config.dtype).max)
        self._counts = np.zeros(3, np.int64)  # fixations, Adam steps, blocks since the last step
        self._learning_rate = self.config.learning_rate
        rng = np.random.default_rng(seed)
        self.engine.set({"weights": network.initial_weights(self.config, self.cell, rng)})

    # -- learning ---------------------------------------------------------------------------------

    def learn_block(self, features: np.ndarray, efference: np.ndarray) -> BlockReport:
        """Learn from K fixations: features (K, f), efference (K, A). Raises InputError."""
        step = self._next_step(*self._check_block(features, efference))
        (learned,) = self.engine.learn([step])
        return self._report(learned)

    def learn_one(self, features: np.ndarray, efference: np.ndarray) -> BlockReport:
        """Learn from one fixation: features (f,), efference (A,). Raises InputError."""
        return self.learn_block(np.asarray(features)[None], np.asarray(efference)[None])

    def gradients(self, features: np.ndarray, efference: np.ndarray) -> dict[str, np.ndarray]:
        """Exact gradient of the block's summed loss over the whole past; nothing changes.

        Name -> array, as in `parameters()`. The statistics of the objective count as constants.
        """
        block = self._check_block(features, efference)
        with self._twin() as twin:
            twin.engine.set({"gradient": np.zeros_like(twin._array("gradient"))})
            twin.engine.learn([Step(*block, *twin._adam(0.0), takes_step=False)])
            return twin.gradient_sums()

    def gradient_sums(self) -> dict[str, np.ndarray]:
        """Gradients of the blocks since the last step, summed, by name (copies)."""
        return self._by_name("gradient")

    def _check_block(
        self, features: np.ndarray, efference: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """A block as `_next_step` takes it. Raises InputError."""
        config, dtype = self.config, self._dtype
        features = _check_rows("features", features, config.n_features, config.max_block, dtype)
        efference = _check_rows("efference", efference, config.n_efference, config.max_block, dtype)
        if len(efference) != len(features):
            raise InputError(
                f"features has {len(features)} fixations, efference {len(efference)}: give one each"
            )
        return features, efference

    def _next_step(self, features: np.ndarray, efference: np.ndarray) -> Step:
        """What the engine is to do with a block that `_check_block` gave: counted as done."""
        self._counts[2] += 1
        takes_step = bool(self._counts[2] >= self.config.update_every)
        if takes_step:
            self._counts[1] += 1
            self._counts[2] = 0
        return Step(features, efference, *self._adam(self._annealed_rate()), takes_step)

    def _report(self, learned: Learned) -> BlockReport:
        """Count what the engine has learned from, and report it."""
        K = len(learned.surprise)
        self._counts[0] += K
        return BlockReport(learned.loss / K, learned.information, learned.surprise)

    def _annealed_rate(self) -> float:
        """The rate falls with the root of experience, down to a floor: it never stops learning."""
        annealed = (1.0 + self.fixations / self.config.anneal_fixations) ** -0.5
        return self._learning_rate * max(self.config.anneal_floor, annealed)

    def _adam(self, rate: float) -> tuple[arrays.Adam, arrays.Adam]:
        """Adam's numbers for all weights but the encoder's, and for those."""
        number, largest, steps = self._dtype.type, self._largest, max(1, int(self._counts[1]))
        rest = number(1.0 - BETA2), number(1.0 / (1.0 - BETA2**steps)), number(EPSILON)
        return (
            arrays.Adam(number(min(rate, largest)), *rest),
            arrays.Adam(number(min(rate * self.config.encoder_rate, largest)), *rest),
        )

    def warm_up(self) -> None:
        """Compile, or load from the cache, all that learning runs; nothing changes.

        On a GPU blocks of each length have launch graphs of their own; the CPU's kernels serve all.
        Not every block takes a step. Statistics take in what they keep once in many blocks: here at
        the end.
        """
        with self._twin() as twin:
            for fixations in sorted({1, min(2, self.config.max_block), self.config.max_block}):
                features = np.zeros((fixations, self.config.n_features))
                efference = np.zeros((fixations, self.config.n_efference))
                block = twin._check_block(features, efference)
                for takes_step in (False, True):
                    twin.engine.learn([Step(*block, *twin._adam(0.0), takes_step)])
                twin.predict(features, efference)
            twin.tensors()

    # -- seeing without learning ------------------------------------------------------------------

    def embed(self, features: np.ndarray, efference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Embeddings z (K, n_z) and memory h (K, n_r); the state advances, the weights do not.

        Learning that follows takes the state it finds as given: its gradients reach back to here.
        """
        features, efference = self._check_block(features, efference)
        (seen,) = self.engine.see([features], [efference], predict=False)
        return seen.z, seen.h

    def predict(self, features: np.ndarray, efference: np.ndarray) -> Prediction:
        """As `embed`, with the prediction of every embedding from what came before it."""
        features, efference = self._check_block(features, efference)
        (seen,) = self.engine.see([features], [efference], predict=True)
        return Prediction._make(seen)

    def patch_encoder(self) -> Callable[[np.ndarray], np.ndarray]:
        """What embeds features (.., f) as z (.., n_z) with the weights of now: a snapshot.

        An embedding needs no past, so any thread may call it, whatever the learner does.
        """
        weights = self.parameters()
        layers = [weights[name] for name in ("W_x", "W_z") if weights[name].size]

        def encode(features: np.ndarray) -> np.ndarray:
            for matrix in layers:
                features = np.tanh(features @ matrix[:, :-1].T + matrix[:, -1])
            return features

        return encode

    def whitening(self) -> tuple[np.ndarray, np.ndarray]:
        """What makes embeddings comparable: (n_z, n_z) and (n_z,), of white = matrix (z - mean).

        mean and covariance are the running ones that learning keeps, the matrix is the inverse of
        the lower Cholesky factor of S_z + eps 1, so matrix (S_z + eps 1) matrix' = 1: what varies
        much in the world counts no more than what varies little, and what varies less than the
        objective's noise counts less. float64; NaN once learning diverged.
        """
        one = np.eye(self.config.n_embedding)
        covariance = self.embedding_covariance + self.config.noise_floor * one
        if np.isfinite(covariance).all():
            factor = np.linalg.cholesky(covariance)
            matrix = solve_triangular(factor, one, lower=True)
        else:
            matrix = np.full_like(one, np.nan)
        return matrix, self._array("statistics.mu").astype(np.float64)

    def surprise(self, z: np.ndarray, z_hat: np.ndarray) -> np.ndarray:
        """How unusual errors z - z_hat (N, n_z) are: 1/2 e' P_e e, (N,) float64 in nats."""
        errors = np.subtract(z, z_hat, dtype=np.float64)
        return surprise(errors, self._array("statistics.factor_e"))

    def reset(self) -> None:
        """Forget the past, keep the weights and what was learned of the statistics."""
        self.engine.reset()

    def past(self) -> dict[str, np.ndarray]:
        """What it remembers of the past, without what it learned: copies, for `set_past`."""
        return {name: array.copy() for name, array in self.engine.arrays(names=PAST).items()}

    def set_past(self, past: Mapping[str, np.ndarray]) -> None:
        """Go on as if it had seen another past: one that `past` gave, of the same network."""
        self.engine.set(past)

    def set_learned(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Replace weights and statistics, named as in `tensors`; what is not named stays."""
        self.engine.set(tensors)

    # -- looking inside ---------------------------------------------------------------------------

    @property
    def device(self) -> str:
        """Where it learns: "cpu" or "cuda"."""
        return self.engine.device

    @property
    def information(self) -> float:
        """Running estimate of the predictive information, in nats; NaN once learning diverged."""
        return self.engine.information()

    @property
    def embedding_covariance(self) -> np.ndarray:
        """Running estimate of cov(z), (n_z, n_z), a copy."""
        return self._array("statistics.S_z").copy()

    @property
    def error_covariance(self) -> np.ndarray:
        """Running estimate of E[e e'], (n_z, n_z), a copy."""
        return self._array("statistics.S_e").copy()

    @property
    def error_precision(self) -> np.ndarray:
        """P_e, by which errors are measured: surprise is 1/2 e' P_e e. (n_z, n_z) float64."""
        return precision(self._array("statistics.factor_e"))

    @property
    def state(self) -> np.ndarray:
        """State of the recurrent layer after the last fixation, (m, n_h), a copy."""
        return self._array("past.y").copy()

    @property
    def fixations(self) -> int:
        """Fixations learned from so far; the rate falls by them. Can be set, after a merge."""
        return int(self._counts[0])

    @fixations.setter
    def fixations(self, fixations: int) -> None:
        self._counts[0] = min(fixations, MOST_COUNTED)

    @property
    def nbytes(self) -> int:
        """Bytes of every array the learner holds; all were made at the start."""
        return self.engine.nbytes

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
        for name, array in self.tensors().items():
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def parameters(self) -> dict[str, np.ndarray]:
        """Every learned array by name (copies)."""
        return self._by_name("weights")

    def set_parameters(self, parameters: Mapping[str, np.ndarray]) -> None:
        """Replace learned arrays by name; those not named stay. Raises InputError."""
        flat = self._array("weights").copy()
        own = network.weights_in(flat, self.config, self.cell)
        for name, array in parameters.items():
            if name not in own or np.shape(array) != own[name].shape:
                fit = ", ".join(f"{name} {array.shape}" for name, array in own.items())
                raise InputError(
                    f"parameter {name} {np.shape(array)} does not fit: there are {fit}"
                )
            own[name][...] = array
        self.engine.set({"weights": flat})

    def tensors(self) -> dict[str, np.ndarray]:
        """All that changes, by name, as a checkpoint holds it: to read from until the next call."""
        held = self.engine.arrays()
        statistics = {name: held.pop(name) for name in list(held) if name.startswith("statistics.")}
        return {
            **held,
            "counts": self._counts,
            **statistics,
        }  # recordings have digests in this order

    def _array(self, name: str) -> np.ndarray:
        return self.engine.arrays(names=(name,))[name]

    def _by_name(self, name: str) -> dict[str, np.ndarray]:
        """Copies of the parts of an array that holds a number for every weight."""
        found = network.weights_in(self._array(name), self.config, self.cell)
        return {part: array.copy() for part, array in found.items()}

    # -- keeping ----------------------------------------------------------------------------------

    def copy(self) -> RJepa:
        """An independent learner in the same state, on the same device."""
        twin = copy.copy(self)  # as it is: a new one would draw weights for nothing
        twin.engine, twin._counts = self.engine.fresh(), self._counts.copy()
        twin._set(self.tensors())
        return twin

    def to(self, device: str) -> RJepa:
        """A learner in the same state on `device`; this one where it is there already."""
        if device == self.device:
            return self
        moved = type(self)(self.config, device=device)
        moved._take_over(self)
        return moved

    def _take_over(self, other: RJepa) -> None:
        """Become like another learner of the same configuration, whatever the devices."""
        self.learning_rate = other.learning_rate
        self._set(other.tensors())

    @contextlib.contextmanager
    def _twin(self) -> Iterator[RJepa]:
        """A copy for a moment."""
        twin = self.copy()
        try:
            yield twin
        finally:
            twin.engine.close()

    def save(self, path: str | Path, notes: dict | None = None, keep: int = 1) -> None:
        """Write everything needed to go on bit for bit: atomic, safetensors.

        notes: whatever else JSON can hold that belongs to this moment, for `load_newest`. keep: how
        many versions stay, as in checkpoint.py. Raises CheckpointError when the file cannot be
        written; an older one is then still there.
        """
        metadata = {
            "kind": CHECKPOINT_KIND,
            "network": NETWORK_VERSION,
            "config": dataclasses.asdict(self.config),
            "learning_rate": self._learning_rate,
            "notes": notes or {},
        }
        checkpoint.save(path, self.tensors(), metadata, keep)

    @classmethod
    def load(cls, path: str | Path, device: str = "cpu") -> RJepa:
        """The learner that `save` wrote on whatever device. Raises CheckpointError, DeviceError."""
        return cls._stored(device, True, path)[0]

    @classmethod
    def load_newest(cls, path: str | Path, device: str = "cpu") -> tuple[RJepa, dict, list[str]]:
        """The newest undamaged learner that `save` kept at `path`: (learner, its notes, problems).

        Links are not followed, as such a folder may be somebody's. problems: why a newer one could
        not be read, a line each. Raises CheckpointError, DeviceError.
        """
        read = functools.partial(cls._stored, device, False)
        learner, notes, _, problems = checkpoint.load_newest(path, read)
        return learner, notes, problems

    @classmethod
    def _stored(cls, device: str, follow_links: bool, path: str | Path) -> tuple[RJepa, dict]:
        """The learner and the notes in a file. Its header is believed once all of it fits."""
        with checkpoint.opened(path, follow_links) as stored:
            described = _described(stored)
            config = described.config
            n_weights = network.count_weights(config, cells.find(config.cell))
            if stored.layout.get("weights", NONE).shape != (n_weights,):
                raise CheckpointError(f"{path} lacks the weights it tells of: use another copy")
            learner = cls(config, device=device)
            learner.learning_rate = described.learning_rate
            layout = {name: Layout(a.dtype, a.shape) for name, a in learner.tensors().items()}
            if stored.layout != layout:
                strange = sorted(dict(stored.layout.items() ^ layout.items()))
                raise CheckpointError(
                    f"{path} lacks a fitting tensor '{strange[0]}': use another copy"
                )
            tensors = stored.tensors()
        _check_values(tensors, path)
        learner._set(tensors)
        return learner, described.notes

    def _set(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Become what these say, which have the names, dtypes and shapes of `tensors()`."""
        self._counts[...] = tensors["counts"]
        self.engine.set({name: array for name, array in tensors.items() if name != "counts"})


class _Described(NamedTuple):
    """What a checkpoint says of itself."""

    config: RJepaConfig
    learning_rate: float
    notes: dict


def _described(stored: checkpoint.Stored) -> _Described:
    """What it says, if a learner of this version is in it. Raises CheckpointError."""
    path, metadata = stored.path, stored.metadata
    if metadata.get("kind") != CHECKPOINT_KIND:
        raise CheckpointError(f"{path} holds no learner: name the checkpoint of a run")
    _check_network_version(metadata.get("network", 1), path)
    try:
        config = from_table(RJepaConfig, metadata.get("config"))
        rate = rebuilt(float, metadata.get("learning_rate"), "learning_rate")
        dataclasses.replace(config, learning_rate=rate)
        notes = rebuilt(dict[str, object], metadata.get("notes"), "notes")
    except (ConfigError, FileError) as error:
        raise CheckpointError(f"{path} is of another version of edge_rjepa: {error}") from error
    return _Described(config, rate, notes)


def _check_values(tensors: Mapping[str, np.ndarray], path: str | Path) -> None:
    """Raise CheckpointError for what no learner comes to: no number, or less than none counted."""
    for name, array in tensors.items():
        counts = np.issubdtype(array.dtype, np.integer)
        good = (0 <= array) & (array <= MOST_COUNTED) if counts else np.isfinite(array)
        if not good.all():
            what = "a count beyond all learning" if counts else "NaN or infinity"
            raise CheckpointError(f"{path} holds {what} in '{name}': use an earlier copy")


def _check_network_version(version: object, path: str | Path) -> None:
    """Refuse a checkpoint of another network. Files before version 2 do not name theirs."""
    if version == NETWORK_VERSION:
        return
    if isinstance(version, int) and version > NETWORK_VERSION:
        raise CheckpointError(f"{path} was learned by a later version of edge_rjepa: upgrade it")
    raise CheckpointError(
        f"{path} was learned by an earlier version of edge_rjepa, whose network had another "
        "optimiser and retina: learn anew, or keep that version"
    )


def _check_rows(name: str, array: np.ndarray, width: int, most: int, dtype: np.dtype) -> np.ndarray:
    try:
        array = np.asarray(array)
    except ValueError:
        raise InputError(f"{name} is ragged: give one row of {width} numbers a fixation") from None
    if array.dtype.kind != "f":
        raise InputError(f"{name} has dtype {array.dtype}: give floating point numbers")
    if array.ndim != 2 or array.shape[1] != width:
        raise InputError(f"{name} has shape {array.shape}: expected (K, {width})")
    if not 1 <= len(array) <= most:
        raise InputError(
            f"{name} has {len(array)} fixations: a block holds 1 to max_block = {most}"
        )
    if array.dtype != dtype:
        with np.errstate(over="ignore"):  # too large for float32 is infinite, and refused as such
            array = array.astype(dtype)
    if not np.isfinite(array).all():
        raise InputError(f"{name} holds NaN or infinity: skip this block")
    return np.ascontiguousarray(array)
