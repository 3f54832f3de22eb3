"""The learner's arrays in the computer's own memory, stream by stream."""

from __future__ import annotations

import functools
import platform
from collections.abc import Mapping, Sequence

import numpy as np
import threadpoolctl

from edge_rjepa.learner.cells import Cell
from edge_rjepa.learner.config import RJepaConfig
from edge_rjepa.learner.engines import Learned, Seen, Step
from edge_rjepa.learner.engines.statistics import PredictiveInformation
from edge_rjepa.learner.kernels import arrays
from edge_rjepa.learner.kernels import cpu as kernels


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
    """One stream: its arrays, and the order in which the kernels work on them."""

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
            config.max_block,
            config.dtype,
        )
        self._rows: dict[int, arrays.Workspace] = {}

    def learn(self, step: Step) -> Learned:
        """Forward, loss, backward, update, statistics."""
        ws = self.take(step.features, step.efference)
        self.forward(ws)
        kernels.predict(self.weights, ws)
        loss = self.objective(ws)
        descent = self.descent(step)
        kernels.predictor_backward(self.weights, ws, descent)
        self.update(ws, descent)
        self.statistics.observe(ws.centred, ws.e)
        self._carry(ws)
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
        for rows in self._rows_before(self.workspace):
            rows[0] = 0
        self._forget_traces()

    def take(self, features: np.ndarray, efference: np.ndarray) -> arrays.Workspace:
        """Copy a block into the workspace; the views of its rows."""
        K = len(features)
        if K not in self._rows:
            self._rows[K] = arrays.rows(self.workspace, self.config, self.cell, K)
        ws = self._rows[K]
        ws.x[1:, : self.config.n_features] = features
        ws.a[:, :-1] = efference
        return ws

    def forward(self, ws: arrays.Workspace) -> None:
        """Embeddings and the recurrent layer."""
        by_features = self.config.memory_input == "features"
        remembered = ws.x[1:, : self.config.n_features] if by_features else ws.z[1:]
        kernels.forward(self.cell)(self.weights, ws, remembered)

    def objective(self, ws: arrays.Workspace) -> float:
        """The block's summed loss, and its gradients in ws.d_z and ws.d_zhat."""
        ws.d_z[0] = 0
        return self.statistics.loss(ws.z[1:], ws.e, ws.centred, ws.d_z[1:], ws.d_zhat, ws.surprise)

    def descent(self, step: Step) -> arrays.Descent:
        """The weights and what goes with them, for a block."""
        return arrays.Descent(
            self.weights, self.gradient, self.m2, step.adam, step.adam_encoder, step.takes_step
        )

    def update(self, ws: arrays.Workspace, descent: arrays.Descent) -> None:
        """RFP: the recurrent layer's gradients, the traces, and Adam."""
        kernels.update(self.cell, ws, self.traces, descent)

    def _carry(self, ws: arrays.Workspace) -> None:
        """The block's last fixation becomes the one before the next block."""
        for rows in self._rows_before(ws):
            rows[0] = rows[-1]

    @staticmethod
    def _rows_before(ws: arrays.Workspace) -> tuple[np.ndarray, ...]:
        """The arrays whose row 0 is of the fixation before the block."""
        return ws.x, ws.hidden, ws.z, ws.y

    def _forget_traces(self) -> None:
        for trace in self.traces:
            trace[:] = 0

    def for_every_weight(self) -> dict[str, arrays.Weights]:
        """What holds a number for every weight, by the engine's name for it."""
        return {"weights": self.weights, "adam.m2": self.m2, "gradient": self.gradient}

    def views(self) -> dict[str, np.ndarray]:
        """All else that changes, by name, without the zeros at the ends of rows."""
        ws, config = self.workspace, self.config
        return {
            "traces.E": self.traces.E[..., : config.n_memory_input + 1],
            "traces.e_lam": self.traces.e_lam,
            "past.x": ws.x[0, : config.n_features + 1],
            "past.hidden": ws.hidden[0, : config.n_encoder_hidden + 1],
            "past.z": ws.z[0],
            "past.y": ws.y[0],
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
