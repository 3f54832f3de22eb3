"""The learner's arrays in the memory of a GPU, all streams in the same launches.

Everything lives there from start to end. A block's features and efference copies go up with a few
numbers in one copy, its surprise, loss and information come down in one, both through pinned memory
in one queue; the host waits for the report only, so that the backward pass and the update of a
block run while the host prepares the next.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numba import cuda

from edge_rjepa.errors import DeviceError
from edge_rjepa.learner.cells import Cell
from edge_rjepa.learner.config import RJepaConfig
from edge_rjepa.learner.engines import Learned, Seen, Step
from edge_rjepa.learner.kernels import cuda as kernels
from edge_rjepa.learner.kernels.arrays import Adam
from edge_rjepa.learner.kernels.cuda import arrays
from edge_rjepa.learner.kernels.cuda.graphs import LaunchGraphs
from edge_rjepa.learner.kernels.cuda.tiles import TILES
from edge_rjepa.learner.network import WEIGHTS, Weights, count_weights, weight_shapes
from edge_rjepa.learner.objective import RENEW_AFTER, blend_rate

STILL = Adam(*(np.float32(0.0),) * 4)

NAMES = (  # of `Engine.arrays`, in its order
    "weights", "adam.m2", "gradient", "traces.E", "traces.e_lam",
    "past.x", "past.hidden", "past.z", "past.y",
    "statistics.fixations", "statistics.mu", "statistics.S_z", "statistics.S_e",
    "statistics.factor_z", "statistics.factor_e", "statistics.moved",
)  # fmt: skip
KNOWN_TO_THE_HOST = {
    "statistics.fixations": ("fixations", np.int64),
    "statistics.moved": ("moved", np.float64),
}


def _raise_device_errors(method: Callable) -> Callable:
    """Whatever CUDA, its driver or its compiler reports becomes a DeviceError."""

    @functools.wraps(method)
    def guarded(self, *arguments, **named):
        try:
            return method(self, *arguments, **named)
        except Exception as error:
            if not _of_cuda(error):
                raise
            raise DeviceError(_in_words(error)) from error

    return guarded


def _of_cuda(error: Exception) -> bool:
    """Numba, cuda.core and cuda.bindings have a dozen classes of errors and no common one."""
    return type(error).__module__.partition(".")[0] in ("numba", "numba_cuda", "cuda")


def _in_words(error: Exception) -> str:
    said = " ".join(str(error).split()) or type(error).__name__
    if "OUT_OF_MEMORY" in said:
        return f"the GPU is out of memory ({said}): a smaller network, fewer streams, or the CPU"
    return f"the GPU failed ({said}): go on on the CPU, from what was saved"


@dataclasses.dataclass
class Past:
    """What the host knows of a stream, so that it need not ask."""

    last: int = 0  # row of x, hidden, z and y that holds the last fixation
    fixations: int = 0  # in the statistics
    moved: float = 0.0  # of the statistics since they were factored, as a share
    information: float = 0.0

    def move(self, K: int, time_constant: float) -> tuple[float, bool]:
        """The rate at which a block moves the statistics, and whether they are renewed after it."""
        rate = blend_rate(K, self.fixations, time_constant)
        self.fixations += K
        self.moved += rate
        renewed = self.moved >= RENEW_AFTER
        if renewed:
            self.moved = 0.0
        return rate, renewed


class Memory:
    """All arrays of all streams, on the GPU and on the way there; made once."""

    def __init__(self, config: RJepaConfig, cell: Cell, streams: int):
        self.config, self.cell, self.streams = config, cell, streams
        self.dtype = np.dtype(config.dtype)
        self.tiles = TILES.fitting(cell.n_state, config.dtype)
        self.kernels = kernels.compiled(cell, config.dtype, self.tiles)
        self.queue = cuda.stream()
        self.graphs = LaunchGraphs(self.queue)
        self.reported = cuda.event()
        self.nbytes = 0
        self.weights, self.total, self.m2 = (
            arrays.weights(config, cell, streams, self._zeros) for _ in range(3)
        )
        self.traces = arrays.traces(config, cell, streams, self._zeros)
        self.workspace = arrays.workspace(config, cell, streams, self._zeros)
        self.statistics = arrays.statistics(config, streams, self._zeros)
        table = arrays.descent_table(config, self.weights, self.workspace, self.tiles)
        self.descent = kernels.Descent(
            self.weights, self.total, self.m2, cuda.to_device(table), int(table[-1, 0])
        )
        row = arrays.NUMBERS + config.max_block * (config.n_features + config.n_efference)
        self.inbox = self._zeros((streams * row,), self.dtype)
        self.outgoing = cuda.pinned_array(streams * row, self.dtype)
        report = self.statistics.report
        self.incoming = cuda.pinned_array(report.shape, report.dtype)
        self.nbytes += table.nbytes + self.outgoing.nbytes + self.incoming.nbytes
        self.past = [Past() for _ in range(streams)]
        # Views, by what they are for: making one takes as long as a launch.
        self.buffers: dict[tuple[int, int], TransferBuffer] = {}
        self.reports: dict[tuple[int, int], tuple[Any, np.ndarray]] = {}
        for name, array in arrays.constant_ones(self.workspace).items():
            getattr(self.workspace, name).copy_to_device(array)

    def _zeros(self, shape: tuple[int, ...], dtype: np.dtype):
        array = cuda.to_device(np.zeros(shape, dtype))
        self.nbytes += array.nbytes
        return array


class TransferBuffer(NamedTuple):
    """Of blocks of one length from the host to the GPU: recurrent.take says how they lie."""

    numbers: list[np.ndarray]  # of each stream: arrays.NUMBERS numbers,
    features: list[np.ndarray]  # (K, f)
    efference: list[np.ndarray]  # and (K, A); views of
    outgoing: np.ndarray  # pinned memory, all of it
    inbox: Any  # as long a piece of the GPU's


def _transfer_buffer(m: Memory, streams: int, K: int) -> TransferBuffer:
    f, A = m.config.n_features, m.config.n_efference
    row = arrays.NUMBERS + K * (f + A)
    used = slice(0, streams * row)
    cuts = arrays.NUMBERS, arrays.NUMBERS + K * f
    pieces = [np.split(each, cuts) for each in m.outgoing[used].reshape(streams, row)]
    return TransferBuffer(
        [numbers for numbers, _, _ in pieces],
        [features.reshape(K, f) for _, features, _ in pieces],
        [efference.reshape(K, A) for _, _, efference in pieces],
        m.outgoing[used],
        m.inbox[used],
    )


class CudaEngine:
    """Streams side by side on one GPU; see `Engine` for what its methods promise."""

    device = "cuda"

    @_raise_device_errors
    def __init__(self, config: RJepaConfig, cell: Cell, streams: int = 1):
        self._cover(Memory(config, cell, streams), 0, streams)
        m = self._memory
        for i in range(streams):
            self._flag_renewal(i)
        kernels.renew(m.workspace, m.statistics, self._noise_floor, self._block(1))
        self._ask_for_report()
        self._wait_for_report()

    def _cover(self, memory: Memory, first: int, streams: int) -> None:
        """Be the engine of these streams of the memory."""
        self._memory, self._first, self.streams = memory, first, streams
        mine = slice(first, first + streams)
        memory.reports[first, streams] = memory.statistics.report[mine], memory.incoming[mine]

    @property
    @_raise_device_errors
    def description(self) -> str:
        """The GPU's name."""
        name = getattr(cuda.current_context().device, "name", b"simulated GPU")
        return name.decode() if isinstance(name, bytes) else name

    # -- blocks -----------------------------------------------------------------------------------

    @_raise_device_errors
    def learn(self, steps: Sequence[Step]) -> list[Learned]:
        """One block for each stream; returns while the weights still take their step."""
        m, K = self._memory, len(steps[0].features)
        renewed = self._pack(K, steps, learning=True)
        streams = self._first, self.streams
        m.graphs.run(("judge", streams, K, renewed), lambda: self._judge(K, renewed))
        m.reported.record(m.queue)
        m.graphs.run(("improve", streams, K), lambda: self._improve(K))
        self._wait_for_report()
        return [self._learned(i, K) for i in range(self.streams)]

    def _judge(self, K: int, renewed: bool) -> None:
        """What is packed goes up, its loss and report come down."""
        m, at = self._memory, self._block(K)
        self._look(K, True)
        kernels.loss(m.workspace, m.statistics, at)
        kernels.observe(m.workspace, m.statistics, at)
        if renewed:
            kernels.renew(m.workspace, m.statistics, self._noise_floor, at)
        self._copy_report()

    def _improve(self, K: int) -> None:
        m, at = self._memory, self._block(K)
        kernels.predictor_backward(m.weights, m.workspace, at)
        kernels.update(m.workspace, m.traces, m.descent, at)

    def _look(self, K: int, predict: bool) -> None:
        """What is packed goes up, is embedded and, if asked for, predicted."""
        m, at, buffer = self._memory, self._block(K), self._buffer(K)
        buffer.inbox.copy_to_device(buffer.outgoing, stream=m.queue)
        kernels.forward(m.weights, m.workspace, m.inbox, self._remember_features, at)
        if predict:
            kernels.predict(m.weights, m.workspace, m.statistics.mu, at)

    @_raise_device_errors
    def see(
        self, features: Sequence[np.ndarray], efference: Sequence[np.ndarray], predict: bool
    ) -> list[Seen]:
        """See a block for each stream."""
        m, K = self._memory, len(features[0])
        steps = [Step(x, a, STILL, STILL, False) for x, a in zip(features, efference, strict=True)]
        self._pack(K, steps, learning=False)
        streams = self._first, self.streams
        m.graphs.run(("see", streams, K, predict), lambda: self._look(K, predict))
        kernels.forget(m.workspace, m.traces, False, self._block(K))
        return [self._seen(self._first + i, K, predict) for i in range(self.streams)]

    @_raise_device_errors
    def reset(self) -> None:
        """All streams forget the past."""
        m = self._memory
        kernels.forget(m.workspace, m.traces, True, self._block(1))
        for past in self._pasts:
            past.last = 0

    # -- streams ----------------------------------------------------------------------------------

    def slot(self, i: int) -> CudaEngine:
        """The i-th stream as an engine of one, on the same memory."""
        if not 0 <= i < self.streams:
            raise IndexError(f"stream {i}: there are {self.streams}")
        one = object.__new__(type(self))
        one._cover(self._memory, self._first + i, 1)
        return one

    def fresh(self) -> CudaEngine:
        """A new engine of one stream for the same network."""
        return type(self)(self._memory.config, self._memory.cell)

    def information(self, i: int = 0) -> float:
        """Running estimate of the i-th stream, in nats."""
        return self._pasts[i].information

    # -- keeping ----------------------------------------------------------------------------------

    @_raise_device_errors
    def arrays(self, i: int = 0, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Host copies of what changes of the i-th stream."""
        past, places = self._pasts[i], self._places(i)
        found = {}
        for name in NAMES if names is None else names:
            if name in KNOWN_TO_THE_HOST:
                attribute, dtype = KNOWN_TO_THE_HOST[name]
                found[name] = np.array([getattr(past, attribute)], dtype)
            else:
                found[name] = self._down(*places[name])
        return found

    @_raise_device_errors
    def set(self, tensors: Mapping[str, np.ndarray], i: int = 0) -> None:
        """Copy these into the i-th stream."""
        past, places = self._pasts[i], self._places(i)
        for name, tensor in tensors.items():
            if name in KNOWN_TO_THE_HOST:
                attribute, _ = KNOWN_TO_THE_HOST[name]
                setattr(past, attribute, np.asarray(tensor).item())
            else:
                self._up(np.asarray(tensor), *places[name])
        if any(name.startswith("statistics.factor") for name in tensors):
            m, one = self._memory, self.slot(i)
            one._flag_renewal(0)
            kernels.invert(m.workspace, m.statistics, one._block(1))
            one._ask_for_report()
            one._wait_for_report()

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays of all streams, pinned memory included."""
        return self._memory.nbytes

    def close(self) -> None:
        """Free the GPU's memory, once what is under way has ended."""
        queue = self._memory.__dict__.pop("queue", None)
        if queue is None:
            return
        try:
            queue.synchronize()
        except Exception as error:  # of a GPU that has failed nothing more is wanted
            if not _of_cuda(error):
                raise
        finally:
            self._memory.__dict__.clear()

    # -- inside -----------------------------------------------------------------------------------

    @property
    def _pasts(self) -> list[Past]:
        return self._memory.past[self._first : self._first + self.streams]

    @property
    def _remember_features(self) -> bool:
        return self._memory.config.memory_input == "features"

    @property
    def _noise_floor(self) -> np.floating:
        return self._memory.dtype.type(self._memory.config.noise_floor)

    def _block(self, K: int) -> kernels.Block:
        m = self._memory
        return kernels.Block(m.kernels, m.tiles, self._first, self.streams, K, m.queue)

    def _buffer(self, K: int) -> TransferBuffer:
        m = self._memory
        if (self.streams, K) not in m.buffers:
            m.buffers[self.streams, K] = _transfer_buffer(m, self.streams, K)
        return m.buffers[self.streams, K]

    def _pack(self, K: int, steps: Sequence[Step], learning: bool) -> bool:
        """A block for every stream, to go up; whether statistics are to be renewed after it."""
        m, buffer = self._memory, self._buffer(K)
        any_renewed = False
        for i, (step, past) in enumerate(zip(steps, self._pasts, strict=True)):
            rate, renewed = (
                past.move(K, m.config.statistics_fixations) if learning else (0.0, False)
            )
            numbers = buffer.numbers[i]
            numbers[arrays.ADAM : arrays.ADAM_ENCODER] = step.adam
            numbers[arrays.ADAM_ENCODER : arrays.TAKES_STEP] = step.adam_encoder
            numbers[arrays.TAKES_STEP :] = (
                step.takes_step, past.last, rate, 1.0 - rate, rate / K, rate * rate, renewed
            )  # fmt: skip
            buffer.features[i][...] = step.features
            buffer.efference[i][...] = step.efference
            past.last = K
            any_renewed |= renewed
        return any_renewed

    def _flag_renewal(self, i: int) -> None:
        """Have `renew` and `invert` take the i-th stream."""
        numbers = np.zeros(arrays.NUMBERS, self._memory.dtype)
        numbers[arrays.RENEW] = 1
        self._up(numbers, [self._memory.workspace.numbers[self._first + i]], numbers.shape)

    def _ask_for_report(self) -> None:
        self._copy_report()
        self._memory.reported.record(self._memory.queue)

    def _copy_report(self) -> None:
        m = self._memory
        report, incoming = m.reports[self._first, self.streams]
        report.copy_to_host(incoming, stream=m.queue)

    def _wait_for_report(self) -> None:
        """Wait for what was asked for last, and take the information out of it."""
        self._memory.reported.synchronize()
        _, incoming = self._memory.reports[self._first, self.streams]
        for report, past in zip(incoming, self._pasts, strict=True):
            past.information = float(report[0] - report[1])

    def _learned(self, i: int, K: int) -> Learned:
        shares = self._memory.incoming[self._first + i, 2 : 2 + 2 * K].reshape(K, 2)
        surprise = shares[:, 0].astype(self._memory.dtype)
        return Learned(float(shares.sum()), self.information(i), surprise)

    def _seen(self, b: int, K: int, predict: bool) -> Seen:
        m, rows = self._memory, slice(1, K + 1)
        ws, n_h = m.workspace, m.config.n_hidden
        z = self._down([ws.z[b, rows]], (K, m.config.n_embedding))
        y = self._down([ws.y[b, rows]], (K, m.cell.n_state, n_h))
        z_hat = self._down([ws.zhat[b, :K]], z.shape) if predict else None
        return Seen(z, z_hat, y[:, list(m.cell.reads)].reshape(K, -1))

    def _places(self, i: int) -> dict[str, tuple[list, tuple[int, ...]]]:
        """Where on the GPU the arrays of the i-th stream are, part by part, and their shapes."""
        m, b, last = self._memory, self._first + i, self._pasts[i].last
        ws, known = m.workspace, m.statistics
        n_weights, of_W = count_weights(m.config, m.cell), weight_shapes(m.config, m.cell)["W"]
        groups = {"weights": m.weights, "adam.m2": m.m2, "gradient": m.total}
        one = {
            "past.x": ws.x[b, last], "past.hidden": ws.hidden[b, last],
            "past.z": ws.z[b, last], "past.y": ws.y[b, last],
            "statistics.mu": known.mu[b],
            "statistics.S_z": known.S[b, 0], "statistics.S_e": known.S[b, 1],
            "statistics.factor_z": known.factor[b, 0], "statistics.factor_e": known.factor[b, 1],
            "traces.e_lam": m.traces.e_lam[b],
        }  # fmt: skip
        return {
            **{name: (_of_stream(group, b), (n_weights,)) for name, group in groups.items()},
            **{name: ([array], array.shape) for name, array in one.items()},
            "traces.E": ([m.traces.E[b]], (m.cell.n_state, *of_W)),
        }

    def _down(self, parts: list, shape: tuple[int, ...]) -> np.ndarray:
        """The parts, end to end, as a new array on the host."""
        host = np.empty(shape, self._memory.dtype)
        for part, place in _cut(host, parts):
            part.copy_to_host(place, stream=self._memory.queue)
        self._memory.queue.synchronize()
        return host

    def _up(self, host: np.ndarray, parts: list, shape: tuple[int, ...]) -> None:
        """The reverse."""
        host = np.ascontiguousarray(np.broadcast_to(host, shape), self._memory.dtype)
        for part, place in _cut(host, parts):
            part.copy_to_device(place, stream=self._memory.queue)
        self._memory.queue.synchronize()


def _of_stream(group: Weights, b: int) -> list:
    """A stream's part of each array in it; there is none of a layer that the network lacks."""
    arrays = (getattr(group, name) for name in WEIGHTS)
    return [array[b] for array in arrays if array is not None]


def _cut(host: np.ndarray, parts: list):
    """Each part with its piece of the host's array, in the part's shape."""
    flat, at = host.reshape(-1), 0
    for part in parts:
        yield part, flat[at : at + part.size].reshape(part.shape)
        at += part.size
