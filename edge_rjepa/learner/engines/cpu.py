"""The learner's arrays in the computer's own memory, stream by stream."""

from __future__ import annotations

import functools
import platform
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import threadpoolctl

from edge_rjepa.learner.cells import Cell
from edge_rjepa.learner.config import RJepaConfig
from edge_rjepa.learner.engines import Learned, Seen, Step
from edge_rjepa.learner.engines.statistics import PredictiveInformation
from edge_rjepa.learner.kernels import arrays
from edge_rjepa.learner.kernels import cpu as kernels
from edge_rjepa.learner.network import layers_without_past

# What takes in the blocks that are kept.
TAKEN_IN = frozenset(("gradient", "traces.E"))
TAKEN_IN_BY_STATISTICS = frozenset(("statistics.S_z", "statistics.S_e"))
MOST_VIEWS = 64  # workspaces of views: blocks of one length have one more than a step has blocks
NOTHING = arrays.Kept(0, 0)


class CpuEngine:
    """Streams one after the other on one core; see `Engine` for what its methods promise.

    BLAS is set to one thread for the process: its threads slow factors this small.
    """

    device = "cpu"

    def __init__(self, streams: Sequence[Stream]):
        _one_blas_thread()
        self._streams = list(streams)

    @property
    def description(self) -> str:
        """The processor's kind, in words."""
        return platform.processor() or platform.machine()

    @property
    def streams(self) -> int:
        """How many there are."""
        return len(self._streams)

    def learn(self, steps: Sequence[Step]) -> list[Learned]:
        """One block for each stream."""
        return [stream.learn(step) for stream, step in zip(self._streams, steps, strict=True)]

    def see(
        self, features: Sequence[np.ndarray], efference: Sequence[np.ndarray], predict: bool
    ) -> list[Seen]:
        """See a block for each stream."""
        blocks = zip(self._streams, features, efference, strict=True)
        return [stream.see(x, a, predict) for stream, x, a in blocks]

    def reset(self) -> None:
        """All streams forget the past."""
        for stream in self._streams:
            stream.reset()

    def slot(self, i: int) -> CpuEngine:
        """The i-th stream as an engine of one, on the same memory."""
        return CpuEngine([self._streams[i]])

    def fresh(self) -> CpuEngine:
        """A new engine of one stream for the same network."""
        stream = self._streams[0]
        return CpuEngine([type(stream)(stream.config, stream.cell)])

    def information(self, i: int = 0) -> float:
        """Running estimate of the i-th stream, in nats."""
        return self._streams[i].statistics.information

    def arrays(self, i: int = 0, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """What changes of the i-th stream: copies of what there is for every weight, and views."""
        stream = self._streams[i]
        if names is None or not TAKEN_IN.isdisjoint(names):
            stream.settle()
        if names is None or not TAKEN_IN_BY_STATISTICS.isdisjoint(names):
            stream.statistics.settle()
        weights, views = stream.for_every_weight(), stream.views()
        return {
            name: arrays.packed(weights[name], stream.config, stream.cell)
            if name in weights
            else views[name]
            for name in ((*weights, *views) if names is None else names)
        }

    def set(self, tensors: Mapping[str, np.ndarray], i: int = 0) -> None:
        """Copy these into the i-th stream."""
        stream = self._streams[i]
        stream.settle()
        if not TAKEN_IN_BY_STATISTICS.isdisjoint(tensors):
            stream.statistics.settle()
        weights, views = stream.for_every_weight(), stream.views()
        for name, tensor in tensors.items():
            if name in weights:
                arrays.unpack(tensor, weights[name], stream.config, stream.cell)
            else:
                views[name][...] = tensor
            if name == "traces.E":
                stream.traces.E[..., views[name].shape[-1] :] = 0  # as in `unpack`
        if any(name.startswith("statistics.factor") for name in tensors):
            stream.statistics.follow_factors()

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays of all streams; all were made at the start."""
        return sum(stream.nbytes for stream in self._streams)

    def close(self) -> None:
        """Nothing to do: the memory goes with the engine."""


class Stream:
    """One stream: its arrays, and the order in which the kernels work on them.

    Between two steps weights stand still, and gradients and traces are sums. So blocks are kept,
    and large arrays take in several at once. When they do makes no difference, to the bit: each
    number is summed in the order of the fixations.
    """

    def __init__(self, config: RJepaConfig, cell: Cell):
        self.config, self.cell = config, cell
        weights = (arrays.zero_weights(config, cell, i) for i in range(3))
        self.weights, self.gradient, self.m2 = weights
        self.traces = arrays.zero_traces(config, cell)
        self.workspace = arrays.zero_workspace(config, cell)
        self.statistics = PredictiveInformation(
            config.n_embedding,
            config.noise_floor,
            config.statistics_fixations,
            arrays.room(config),
            config.dtype,
        )
        self._forward = kernels.forward(cell)
        self._layers = layers_without_past(config)
        self._room, self._kept = arrays.room(config), NOTHING
        self._views: dict[tuple, arrays.Workspace] = {}

    def learn(self, step: Step) -> Learned:
        """Forward, loss, backward, statistics; and the step, where there is one."""
        ws = self.take(step.features, step.efference)
        self.forward(ws)
        kernels.predict(self.weights, ws)
        loss = self.objective(ws)
        kernels.predictor_backward(self.weights, ws)
        self.assign_credit(ws)
        self._keep(ws)
        self._carry(ws)
        if step.takes_step:
            self.settle(step)
        self.statistics.observe(ws.centred, ws.e)
        return Learned(loss, self.statistics.information, ws.surprise.copy())

    def see(self, features: np.ndarray, efference: np.ndarray, predict: bool) -> Seen:
        """The block's embedding and memory, and its prediction where that is asked for."""
        ws = self.take(features, efference)
        self.forward(ws)
        if predict:
            kernels.predict(self.weights, ws)
        h = ws.y[1:, ws.reads].reshape(len(ws.a), -1)
        self._carry(ws)
        self._forget_traces()
        return Seen(ws.z[1:].copy(), ws.zhat.copy() if predict else None, h)

    def reset(self) -> None:
        """Forget the past."""
        self._forget_traces()  # after which the fixation before is in row 0, where no other comes
        for row in self.rows_before():
            row[:] = 0

    def take(self, features: np.ndarray, efference: np.ndarray) -> arrays.Workspace:
        """Copy a block into the workspace, after those that are kept; the views of its rows."""
        K, most = len(features), self._room
        if self._kept.fixations + K > most.fixations or self._kept.blocks == most.blocks:
            self.settle()
        ws = self._rows(K)
        ws.x[1:, : features.shape[1]] = features
        ws.a[:, :-1] = efference
        return ws

    def _rows(self, K: int) -> arrays.Workspace:
        """The views of the next K fixations."""
        return self._seen_as(arrays.rows, K, self._kept)

    def _seen_as(self, make: Callable, *place) -> arrays.Workspace:
        """make(workspace, *place), views that are made once."""
        key = make, *place
        if key not in self._views:
            if len(self._views) == MOST_VIEWS:
                self._views.clear()
            self._views[key] = make(self.workspace, *place)
        return self._views[key]

    def forward(self, ws: arrays.Workspace) -> None:
        """Embeddings and the recurrent layer."""
        remembered = ws.x if self.config.memory_input == "features" else ws.z
        n_remembered = self.config.n_memory_input - self.config.n_efference
        self._forward(self.weights, ws, remembered[1:], n_remembered)

    def objective(self, ws: arrays.Workspace) -> float:
        """The block's summed loss, and its gradients in ws.d_z and ws.d_zhat."""
        ws.d_z[0] = 0
        return self.statistics.loss(ws.z[1:], ws.e, ws.centred, ws.d_z[1:], ws.d_zhat, ws.surprise)

    def assign_credit(self, ws: arrays.Workspace) -> None:
        """RFP: what the block's losses ask of the recurrent layer."""
        kernels.assign_credit(self.cell, ws, self.traces, self.gradient)

    def _keep(self, ws: arrays.Workspace) -> None:
        """The block is one of those that gradients and traces have yet to take in."""
        fixations, blocks = self._kept
        self._kept = arrays.Kept(fixations + len(ws.a), blocks + 1)
        self.workspace.ends[blocks] = self._kept.fixations

    def settle(self, step: Step | None = None) -> None:
        """Gradients and traces take in the blocks that are kept; then this step, if any."""
        if not self._kept.blocks:
            return
        kept, descent = self._seen_as(arrays.kept_rows, self._kept), None
        if step is not None:
            descent = arrays.Descent(self.weights, self.m2, step.adam, step.adam_encoder)
        kernels.settle(self._layers, kept, self.traces, self.gradient, descent)
        before, self._kept = self.rows_before(), NOTHING
        for row, old in zip(self.rows_before(), before, strict=True):
            row[:] = old

    def _carry(self, ws: arrays.Workspace) -> None:
        """The block's last fixation becomes the one before the next block."""
        block = ws.x, ws.hidden, ws.z, ws.y
        for row, rows in zip(self.rows_before(), block, strict=True):
            row[:] = rows[-1]

    def rows_before(self) -> tuple[np.ndarray, ...]:
        """Of x, hidden, z and y: views of the fixation before the next block."""
        ws, at = self.workspace, sum(self._kept)
        return ws.x[at], ws.hidden[at], ws.z[0], ws.y[0]

    def _forget_traces(self) -> None:
        self.settle()
        for trace in self.traces:
            trace[:] = 0

    def for_every_weight(self) -> dict[str, arrays.Weights]:
        """What holds a number for every weight, by the engine's name for it."""
        return {"weights": self.weights, "adam.m2": self.m2, "gradient": self.gradient}

    def views(self) -> dict[str, np.ndarray]:
        """All else that changes, by name, without the zeros at the ends of rows."""
        config = self.config
        x, hidden, z, y = self.rows_before()
        return {
            "traces.E": self.traces.E[..., : config.n_memory_input + 1],
            "traces.e_lam": self.traces.e_lam,
            "past.x": x[: config.n_features + 1],
            "past.hidden": hidden[: config.n_encoder_hidden + 1],
            "past.z": z,
            "past.y": y,
            **{f"statistics.{k}": v for k, v in self.statistics.arrays().items()},
        }

    @property
    def nbytes(self) -> int:
        """Bytes of every array."""
        groups = (
            [each.flat for each in self.for_every_weight().values()],
            self.traces,
            vars(self.workspace).values(),
            self.statistics.buffers(),
        )
        return sum(array.nbytes for group in groups for array in group)


@functools.cache
def _one_blas_thread() -> None:
    threadpoolctl.threadpool_limits(1, user_api="blas")
