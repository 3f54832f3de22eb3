"""What a learner runs on: its arrays, and the order of the kernels that work on them.

An engine keeps the arrays of one or more streams on a device and knows neither where blocks come
from nor how rates fall: that is the learner's (learner.py). This is the only place that picks one.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from statistics import median
from typing import NamedTuple, Protocol

import numpy as np

from edge_rjepa.errors import ConfigError, DeviceError
from edge_rjepa.learner import cells
from edge_rjepa.learner.cells import Cell
from edge_rjepa.learner.config import DEVICES, RJepaConfig
from edge_rjepa.learner.kernels.arrays import MOST_BLOCKS, Adam
from edge_rjepa.learner.network import count_weights

LEAST_DRIVER = (12, 0)  # the oldest CUDA that numba-cuda supports
MEASURED_S, WARMING = 1.0, 3  # of each device that `choose` measures; rounds before that


class Step(NamedTuple):
    """A block of K fixations to learn from, and how; checked by the learner."""

    features: np.ndarray  # (K, f) finite, in the config's dtype and C order
    efference: np.ndarray  # (K, A) the same
    adam: Adam
    adam_encoder: Adam  # for W_x and W_z
    takes_step: bool  # with the gradients of this block and those since the last step


class Learned(NamedTuple):
    """What a block taught."""

    loss: float  # nats, summed over the block
    information: float  # nats, running estimate after the block; NaN once learning diverged
    surprise: np.ndarray  # (K,) nats, on the host, the caller's own


class Seen(NamedTuple):
    """What a block was seen as: on the host, the caller's own."""

    z: np.ndarray  # (K, n_z)
    z_hat: np.ndarray | None  # (K, n_z) where a prediction was asked for
    h: np.ndarray  # (K, n_r)


class Engine(Protocol):
    """`streams` learners side by side, each as if it were alone: bit for bit.

    A new one has weights, moments, traces and past of zeros, and the statistics of
    `PredictiveInformation` as they start. Making one and whatever is asked of it may raise
    DeviceError, in one line with cause and cure, for all that the device can report, too little
    memory too; the engine is then of no more use but to be closed.
    """

    @property
    def device(self) -> str:
        """ "cpu" or "cuda"."""

    @property
    def description(self) -> str:
        """Which one, in words."""

    @property
    def streams(self) -> int:
        """How many there are."""

    def learn(self, steps: Sequence[Step]) -> list[Learned]:
        """One block for each stream, all of the same K: 1 .. config.max_block fixations."""

    def see(
        self, features: Sequence[np.ndarray], efference: Sequence[np.ndarray], predict: bool
    ) -> list[Seen]:
        """See a block for each stream: the state advances, traces are cleared, weights stay.

        features (K, f), efference (K, A): as in `Step`.
        """

    def reset(self) -> None:
        """All its streams forget the past: `past` in `arrays`, and the traces, become zero."""

    def slot(self, i: int) -> Engine:
        """The i-th stream as an engine of one, on the same memory."""

    def fresh(self) -> Engine:
        """A new engine of one stream on the same device, for the same network."""

    def information(self, i: int = 0) -> float:
        """As in `Learned`, of the i-th stream as it stands."""

    def arrays(self, i: int = 0, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """All that changes of the i-th stream, or what `names` names: host arrays to read from.

        weights, adam.m2, gradient (n,) in the order of `Weights`; traces.E (m, G, n_h, n_u),
        traces.e_lam (L, m, n_h); past.x (f+1,), past.hidden (n_e+1,), past.z (n_z,),
        past.y (m, n_h);
        statistics.fixations (1,) int64, .mu (n_z,), .S_z, .S_e, .factor_z, .factor_e (n_z, n_z)
        lower Cholesky factors, what is above their diagonal says nothing, .moved (1,) float64. In
        this order. Copies or views, as is cheaper: valid until the next call.
        """

    def set(self, tensors: Mapping[str, np.ndarray], i: int = 0) -> None:
        """The reverse: names as in `arrays`, of the right shapes; what is not named stays."""

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays of all streams, on the device and for the way there; all were made
        at the start.
        """

    def close(self) -> None:
        """Free the device's memory, of all slots too; a second time does nothing."""


class Choice(NamedTuple):
    """A device, and in one sentence why it."""

    device: str
    reason: str


def open_engine(config: RJepaConfig, cell: Cell, streams: int = 1, device: str = "cpu") -> Engine:
    """A new engine on `device`, one of DEVICES; for "auto" blocks of max_block are measured.

    Raises DeviceError where that device cannot be had, ConfigError for another name.
    """
    if device == "auto":
        device = choose(config, config.max_block, streams).device
    if device == "cpu":
        from edge_rjepa.learner.engines.cpu import CpuEngine, Stream

        return CpuEngine([Stream(config, cell) for _ in range(streams)])
    if device == "cuda":
        require_gpu()
        from edge_rjepa.learner.engines.cuda import CudaEngine

        return CudaEngine(config, cell, streams)
    raise ConfigError(f"device '{device}' is unknown: choose one of {', '.join(DEVICES)}")


def choose(config: RJepaConfig, fixations: int, streams: int = 1) -> Choice:
    """CPU or GPU, whichever learns faster from blocks of so many fixations.

    Both are measured for a second each, compilation aside; where no GPU can be had neither is.
    """
    cell = cells.find(config.cell)
    try:
        gpu_s = _block_s(open_engine(config, cell, streams, "cuda"), config, cell, fixations)
    except DeviceError as error:
        return Choice("cpu", f"learning on the CPU: {error}")
    cpu_s = _block_s(open_engine(config, cell, streams, "cpu"), config, cell, fixations)
    chosen, device = ("cuda", "GPU") if gpu_s < cpu_s else ("cpu", "CPU")
    return Choice(
        chosen,
        f"learning on the {device}: a block of {fixations} fixations takes {1e3 * cpu_s:.2f} ms on "
        f"the CPU and {1e3 * gpu_s:.2f} ms on the GPU",
    )


def require_gpu() -> None:
    """Raises DeviceError where CUDA cannot be used here, with the first thing that is missing."""
    if find_spec("numba_cuda") is None:
        raise DeviceError("no numba-cuda for the GPU: pip install 'edge-rjepa[cuda]'")
    from numba import cuda

    if not cuda.is_available():
        reason = " ".join(str(cuda.cuda_error() or "there is none").split()).rstrip(".")
        raise DeviceError(f"no GPU can be used ({reason}): see edge-rjepa doctor, or use the CPU")
    driver = cuda.cudadrv.driver
    version = driver.get_version() if hasattr(driver, "get_version") else LEAST_DRIVER  # simulator
    if version < LEAST_DRIVER:
        has, needs = (".".join(map(str, each)) for each in (version, LEAST_DRIVER))
        raise DeviceError(f"the GPU's driver is for CUDA {has}, {needs} is needed: update it")


def _block_s(engine: Engine, config: RJepaConfig, cell: Cell, fixations: int) -> float:
    """Median time of learning a block, its share of a step included; closes the engine."""
    rng, number = np.random.default_rng(0), np.dtype(config.dtype).type

    def normal(*shape):
        return rng.normal(size=shape).astype(config.dtype)

    weights = normal(count_weights(config, cell)) / math.sqrt(config.n_hidden)
    still = Adam(*map(number, (0.0, 1e-3, 1.0, 1e-8)))
    block = normal(fixations, config.n_features), normal(fixations, config.n_efference)
    blocks = min(config.update_every, MOST_BLOCKS)  # of a round, which ends with a step
    in_turn = [
        [Step(*block, still, still, i == blocks)] * engine.streams for i in range(1, blocks + 1)
    ]
    with contextlib.closing(engine):
        for i in range(engine.streams):
            engine.set({"weights": weights}, i)
        for steps in in_turn * WARMING:
            engine.learn(steps)
        started = before = time.perf_counter()
        taken_s = []
        while before - started < MEASURED_S:
            for steps in in_turn:
                engine.learn(steps)
            now = time.perf_counter()
            taken_s.append((now - before) / blocks)
            before = now
    return median(taken_s)
