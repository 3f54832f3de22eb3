"""The learner on a GPU beside the CPU: whether it computes the same, and how fast.

    python -m benchmarks.gpu                     everything, some minutes
    python -m benchmarks.gpu --json FILE         and the figures into a file
    python -m benchmarks.gpu --quick             does it run? its figures are none
    NUMBA_ENABLE_CUDASIM=1 python -m benchmarks.gpu --quick     the same with no GPU

Checks that fail are marked in the table, and make the exit code 1. Times of blocks are of rounds of
many, with their steps and renewals of the statistics, the median round; those of kernels are of
many launches in a row, waited for once. PyTorch is raced where it is installed.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import itertools
import json
import math
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numba
import numpy as np
from numba import cuda

from benchmarks import peers
from benchmarks.gpu_peer import TorchGraphPeer
from benchmarks.tables import Table
from edge_rjepa import RJepa, RJepaConfig
from edge_rjepa.errors import DeviceError
from edge_rjepa.learner.cells import find
from edge_rjepa.learner.engines import cuda as engines_cuda
from edge_rjepa.learner.engines import open_engine
from edge_rjepa.learner.engines.cuda import CudaEngine
from edge_rjepa.learner.kernels import cuda as kernels
from edge_rjepa.learner.kernels.cuda.graphs import LaunchGraphs
from edge_rjepa.learner.network import layers_without_past

SIMULATED = bool(numba.config.ENABLE_CUDASIM)


class Effort(NamedTuple):
    """How much is done; a block has the max_block fixations of its configuration."""

    config: RJepaConfig = RJepaConfig(max_block=16)
    large: RJepaConfig = RJepaConfig(
        n_embedding=2048, n_hidden=4096, n_predictor=1024, max_block=16
    )
    curve_blocks: int = 2000
    seeds: int = 3
    same_blocks: int = 200
    repeats: int = 9
    launches: int = 50  # in a row, of one kernel
    streams: tuple[int, ...] = (1, 4, 16, 64)
    lengths: tuple[int, ...] = (1, 4, 16, 64)  # of blocks
    warming: int = 64  # blocks, after which every graph is recorded
    round: int = 64  # blocks
    copied_bytes: int = 2**30


SHAPES = [
    {"chunk": 16}, {"each": 4}, {"each": 4, "chunk": 16}, {"columns": 2, "chunk": 16},
    {"warps": 8, "each": 1, "chunk": 16},
]  # fmt: skip
WIDE = RJepaConfig(n_embedding=1024, n_hidden=2048, n_predictor=2048)
TINY = {
    "n_embedding": 3, "n_hidden": 4, "n_predictor": 3, "n_features": 3, "n_efference": 2,
    "n_gain": 2, "n_encoder_hidden": 3, "max_block": 3,
}  # fmt: skip
QUICK = Effort(
    RJepaConfig(**TINY), RJepaConfig(**TINY), 3, 1, 2, 2, 2, (1, 2), (3,), 1, 2, 2**10
)  # fmt: skip


class Figure(NamedTuple):
    """One line: a figure, and the bound it must keep where there is one."""

    name: str
    value: float
    unit: str
    bound: str = ""
    ok: bool = True
    note: str = ""


def on_gpu(config: RJepaConfig, seed: int = 0) -> RJepa:
    return RJepa(config, seed, engine=CudaEngine(config, find(config.cell)))


class World:
    """Something to see: features that belong to places, and the eye's random walk over them.

    Blocks of max_block fixations, float32, from a seed. What is at a place is a smooth function of
    it with noise, so that the past tells about what comes, and not everything.
    """

    def __init__(self, config: RJepaConfig, seed: int = 0):
        self._rng = np.random.default_rng(seed)
        self._waves = 2.0 * self._rng.normal(size=(2, 32))
        self._mixed = self._rng.normal(size=(32, config.n_features)) / math.sqrt(32)
        self._place, self._A, self._K = np.zeros(2), config.n_efference, config.max_block

    def block(self) -> tuple[np.ndarray, np.ndarray]:
        K = self._K
        places = np.empty((K + 1, 2))
        places[0] = self._place
        for k, saccade in enumerate(self._rng.normal(size=(K, 2))):
            places[k + 1] = np.clip(places[k] + saccade, -2.0, 2.0)
        self._place = places[-1]
        features = np.sin(places[1:] @ self._waves) @ self._mixed
        features += 0.3 * self._rng.normal(size=features.shape)
        efference = np.zeros((K, self._A))
        known = np.hstack([np.diff(places, axis=0), places[1:]])[:, : self._A]
        efference[:, : known.shape[1]] = known
        return features.astype(np.float32), efference.astype(np.float32)


@contextlib.contextmanager
def counted() -> Iterator[list[str]]:
    """The names of the kernels launched meanwhile."""
    names: list[str] = []
    launch = kernels.Block.launch

    def counting(self, name, *arguments):
        names.append(name)
        launch(self, name, *arguments)

    with mock.patch.object(kernels.Block, "launch", counting):
        yield names


def captured(run: Callable) -> dict[str, Callable]:
    """The launches of `run`, by the kernel's name, to be made again and again; not made now."""
    calls: dict[str, Callable] = {}

    def capture(self, name, grid, threads, *arguments):
        x, y, z = (*grid, 1, 1)[:3]
        configuration = (x, y, z * self.streams), threads, self.queue
        kernel = getattr(self.kernels, name)
        calls[name] = lambda: kernel[configuration](self.first, *arguments)

    with mock.patch.object(kernels.Block, "launch", capture):
        run()
    return calls


def median_s(call: Callable, repeats: int) -> float:
    taken_s = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        taken_s.append(time.perf_counter() - started)
    return statistics.median(taken_s)


def of_rounds_s(call: Callable, effort: Effort) -> float:
    """Seconds a block, of rounds that are waited for at their end."""

    def round_of_blocks():
        for _ in range(effort.round):
            call()
        cuda.synchronize()

    return median_s(round_of_blocks, effort.repeats) / effort.round


def in_a_row_s(call: Callable, launches: int, repeats: int = 5) -> float:
    """Seconds a launch, of many one after another."""

    def row():
        for _ in range(launches):
            call()
        cuda.synchronize()

    row()
    return median_s(row, repeats) / launches


# ------------------------------------------------------------------------------------------------
# The same?


def gradients(effort: Effort) -> Iterator[Figure]:
    """Of a block, after some learning, against the CPU in both precisions."""
    single = RJepa(effort.config)
    double = RJepa(dataclasses.replace(effort.config, dtype="float64"))
    gpu, world = on_gpu(effort.config), World(effort.config)
    for _ in range(effort.same_blocks):
        single.learn_block(*world.block())
    gpu._take_over(single)
    double.engine.set(single.engine.arrays())
    block = world.block()
    found, on_cpu, true = (each.gradients(*block) for each in (gpu, single, double))
    for reference, name in ((on_cpu, "float32"), (true, "float64")):
        error = max(
            np.linalg.norm(np.subtract(found[each], reference[each], dtype=np.float64))
            / max(np.linalg.norm(reference[each]), 1e-30)
            for each in reference
        )
        bound = 1e-5 if name == "float32" else 1e-4
        yield Figure(
            f"gradients of a block, off those of the CPU in {name}", float(error), "",
            f"<= {bound:g}", bool(error <= bound), "the worst matrix, relative",
        )  # fmt: skip
    gpu.engine.close()


def learning_curve(effort: Effort) -> Iterator[Figure]:
    """Information, averaged over all blocks, on both devices from the same start.

    How far rounding alone drives two runs apart is the yardstick: a CPU whose first weights are one
    part in 2^23 larger.
    """
    off, yardstick, ends = [], [], []
    for seed in range(effort.seeds):
        on_cpu, nudged = RJepa(effort.config, seed), RJepa(effort.config, seed)
        weights = nudged.engine.arrays()["weights"]
        nudged.engine.set({"weights": weights * np.float32(1.0 + 2.0**-23)})
        gpu = on_gpu(effort.config, seed)
        curves = np.array([_curve(each, effort, seed) for each in (on_cpu, nudged, gpu)])
        gpu.engine.close()
        mean = curves.mean(axis=1)
        scale = max(abs(mean[0]), 1e-30)
        yardstick.append(abs(mean[1] - mean[0]) / scale)
        off.append(abs(mean[2] - mean[0]) / scale)
        ends.append(curves[0, -1])
    yield Figure("information on the CPU at the end", float(np.mean(ends)), "nats")
    yield Figure(
        f"learning curve of {effort.curve_blocks} blocks, off the CPU's", float(max(off)), "",
        "<= 0.01", bool(max(off) <= 0.01),
        f"the worst of {effort.seeds}; by rounding alone {max(yardstick):.1g}",
    )  # fmt: skip


def _curve(learner: RJepa, effort: Effort, seed: int) -> list[float]:
    world = World(effort.config, seed)
    return [learner.learn_block(*world.block()).information for _ in range(effort.curve_blocks)]


def identity(effort: Effort) -> Iterator[Figure]:
    """Two runs, and streams side by side, to the bit; a checkpoint resumed."""
    digests = []
    for _ in range(2):
        learner, world = on_gpu(effort.config), World(effort.config)
        for _ in range(effort.same_blocks):
            learner.learn_block(*world.block())
        digests.append(learner.digest)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "learner.safetensors"
            learner.save(path)
            resumed = RJepa.load(path)
        learner.engine.close()
    same = digests[0] == digests[1]
    yield Figure("two runs end bit-identical", float(same), "", "= 1", same)
    kept = resumed.digest == digests[1]
    yield Figure("the CPU reads its checkpoint bit by bit", float(kept), "", "= 1", kept)


# ------------------------------------------------------------------------------------------------
# How fast?


def blocks(effort: Effort) -> Iterator[Figure]:
    """Blocks at default size: launches, time by length, floor, and memory that stays."""
    longest = max(*effort.lengths, effort.config.max_block)
    config = dataclasses.replace(effort.config, max_block=longest)
    learner = on_gpu(config)
    with counted() as names:
        learner.learn_block(*World(effort.config).block())
    launches = len(names) - sum(
        names.count(name) for name in ("start_factors", "factor_panel", "take_panel", "invert")
    )
    yield Figure("launches a block", launches, "")
    yield Figure("launches when the statistics are renewed, more", _renewal(config), "")
    learner.engine.close()
    for K in effort.lengths:
        yield from _block_of(dataclasses.replace(effort.config, max_block=K), launches, effort)


def _block_of(config: RJepaConfig, launches: int, effort: Effort) -> Iterator[Figure]:
    K, world, learner = config.max_block, World(config), on_gpu(config)
    for _ in range(effort.warming):
        learner.learn_block(*world.block())
    block, before = world.block(), _free_bytes()
    gpu_s = of_rounds_s(lambda: learner.learn_block(*block), effort)
    kept = _free_bytes() == before
    yield Figure(f"no memory is taken in the loop, blocks of {K}", float(kept), "", "= 1", kept)
    with mock.patch.object(LaunchGraphs, "run", lambda self, key, ask: ask()):
        one_by_one_s = of_rounds_s(lambda: learner.learn_block(*block), effort)
    floor_s = _floor_s(learner.engine, launches, effort)
    learner.engine.close()
    cpu = RJepa(config)
    for _ in range(effort.warming):
        cpu.learn_block(*world.block())
    cpu_s = of_rounds_s(lambda: cpu.learn_block(*block), effort)
    yield Figure(
        f"a block of {K} on the GPU", 1e6 * gpu_s, "us", note=f"{K / gpu_s:.0f} fixations/s"
    )
    yield Figure(f"a block of {K}, launch by launch", 1e6 * one_by_one_s, "us")
    yield Figure(
        f"its floor, blocks of {K}", 1e6 * floor_s, "us",
        note="graphs of as many empty launches, a copy up, one down, waited for",
    )  # fmt: skip
    yield Figure(f"a block of {K} on a core of the CPU", 1e6 * cpu_s, "us")


def _renewal(config: RJepaConfig) -> int:
    panels = kernels.count(config.n_embedding, engines_cuda.TILES.factor)
    return 2 + 2 * panels - 1


def _free_bytes() -> int:
    return 0 if SIMULATED else cuda.current_context().get_memory_info()[0]


@cuda.jit
def _nothing(array):
    """What a launch costs at least."""


def _floor_s(engine: CudaEngine, launches: int, effort: Effort) -> float:
    m = engine._memory
    buffer = next(iter(m.buffers.values()))
    configured = _nothing[(1, 1, 1), 32, m.queue]
    first = launches // 2

    def judge():
        buffer.inbox.copy_to_device(buffer.outgoing, stream=m.queue)
        for _ in range(first):
            configured(m.inbox)
        engine._copy_report()

    def improve():
        for _ in range(launches - first):
            configured(m.inbox)

    def call():
        m.graphs.run("floor, judge", judge)
        m.reported.record(m.queue)
        m.graphs.run("floor, improve", improve)
        engine._wait_for_report()

    for _ in range(3):
        call()
    return of_rounds_s(call, effort)


def streams(effort: Effort) -> Iterator[Figure]:
    """Independent learners in the same launches."""
    config, K = effort.config, effort.config.max_block
    for B in effort.streams:
        engine = CudaEngine(config, find(config.cell), B)
        learners = [RJepa(config, i, engine=engine.slot(i)) for i in range(B)]
        steps = [
            learner._next_step(*learner._check_block(*World(config, i).block()))
            for i, learner in enumerate(learners)
        ]
        turns = itertools.cycle(
            [each._replace(takes_step=k == 0) for each in steps] for k in range(config.update_every)
        )
        for _ in range(effort.warming):
            engine.learn(next(turns))
        seconds = of_rounds_s(lambda: engine.learn(next(turns)), effort)  # noqa: B023
        yield Figure(
            f"{B} learner{'s' * (B > 1)} at once", B * K / seconds, "fixations/s",
            note=f"{1e6 * seconds:.0f} us a block of each, {engine.nbytes / 2**20:.1f} MiB",
        )  # fmt: skip
        engine.close()


def race(effort: Effort) -> Iterator[Figure]:
    """PyTorch, a block in one graph, against edge_rjepa, in turns."""
    if peers.torch is None or SIMULATED or not peers.torch.cuda.is_available():
        return
    for config in (effort.config, WIDE, effort.large):
        for K in (16, 64):
            compile_too = (config, K) == (effort.config, 16)  # it takes most of a minute
            yield from _race(dataclasses.replace(config, max_block=K), effort, compile_too)


def _race(config: RJepaConfig, effort: Effort, compile_too: bool) -> Iterator[Figure]:
    K, world, learner = config.max_block, World(config), on_gpu(config)
    runners = {"edge_rjepa": learner}
    for _ in range(effort.warming):
        learner.learn_block(*world.block())
    for name, compiled in (("PyTorch", False), ("PyTorch, compiled", True))[: 1 + compile_too]:
        peer = TorchGraphPeer(config, learner.parameters(), K, compiled=compiled)
        try:
            for _ in range(effort.warming):
                peer.learn_block(*world.block())
            runners[name] = peer
        except Exception as error:  # whatever its compiler lacks here is told, and no figure
            why = " ".join(f"{type(error).__name__} {error}".split())
            yield Figure(f"{name} cannot run here: {why[:80]}", 0.0, "")
    taken_s: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(effort.repeats):
        for name, runner in runners.items():
            block = world.block()
            cuda.synchronize()
            started = time.perf_counter()
            for _ in range(effort.round):
                runner.learn_block(*block)
            cuda.synchronize()
            taken_s[name].append((time.perf_counter() - started) / effort.round)
    ours_s = statistics.median(taken_s["edge_rjepa"])
    for name, taken in taken_s.items():
        seconds = statistics.median(taken)
        yield Figure(
            f"{config.n_embedding}/{config.n_hidden}, blocks of {K}: {name}", K / seconds,
            "fixations/s",
            note=f"{1e6 * seconds:.0f} us a block, {seconds / ours_s:.2f} times ours",
        )  # fmt: skip
    learner.engine.close()


def bandwidth(effort: Effort) -> Iterator[Figure]:
    """The fused update of a large network beside a copy from device to device."""
    config = effort.large
    engine = CudaEngine(config, find(config.cell))
    learner = RJepa(config, engine=engine)
    block = learner._check_block(*World(config).block())
    copied = 2 * effort.copied_bytes / _copy_s(effort)
    yield Figure("copy from device to device", copied / 1e9, "GB/s", note="read and written")
    yield from _updates(engine, learner, block, effort, copied)
    step = learner._next_step(*block)._replace(takes_step=False)
    block_s = median_s(lambda: (engine.learn([step]), cuda.synchronize()), effort.launches)
    yield Figure("a block of that network", 1e6 * block_s, "us", note="to the end of its update")
    for name in ("project", "gate", "back_to_past"):
        yield _product(name, engine, engine._block(config.max_block), effort, copied)
    engine.close()


def _updates(
    engine: CudaEngine, learner: RJepa, block: tuple, effort: Effort, copied: float, which: str = ""
) -> Iterator[Figure]:
    """The kernels that move the weights, in bytes that must be read and written."""
    m, at = engine._memory, engine._block(effort.large.max_block)
    number, W, E = m.dtype.itemsize, m.weights.W.size, m.traces.E.size
    rest = sum(getattr(m.weights, layer.matrix).size for layer in layers_without_past(m.config))
    for takes_step in (True, False):
        engine.learn([learner._next_step(*block)._replace(takes_step=takes_step)])
        cuda.synchronize()
        calls = captured(lambda: kernels.update(m.workspace, m.traces, m.descent, at))
        # gradients' sums and, where a step is taken, weights and their moments
        arrays = 3 if takes_step else 1
        for name, moved in (("recur", arrays * W + E), ("descend", arrays * rest)):
            seconds = in_a_row_s(calls[name], effort.launches)
            rate = 2 * number * moved / seconds
            judged = not (SIMULATED or which)
            yield Figure(
                f"{name}, {'with' if takes_step else 'without'} a step{which}", rate / 1e9, "GB/s",
                ">= 70% of the copy" if judged else "", not judged or rate >= 0.7 * copied,
                f"{100 * rate / copied:.0f}% of the copy, {1e6 * seconds:.0f} us",
            )  # fmt: skip


def shapes(effort: Effort) -> Iterator[Figure]:
    """What other tiles would do for the update of a large network."""
    config, copied = effort.large, 2 * effort.copied_bytes / _copy_s(effort)
    true = None
    for changes in ({}, *SHAPES) if not SIMULATED else ():
        tiles = engines_cuda.TILES._replace(**changes)
        with mock.patch.object(engines_cuda, "TILES", tiles):
            engine = CudaEngine(config, find(config.cell))
        learner = RJepa(config, engine=engine)
        block = learner._check_block(*World(config).block())
        which = ", " + (" ".join(f"{name}={value}" for name, value in changes.items()) or "as is")
        for _ in range(config.update_every):
            learner.learn_block(*block)
        true = true or learner.digest
        same = learner.digest == true
        yield Figure(f"the same bits{which}", float(same), "", "= 1", same)
        yield from _updates(engine, learner, block, effort, copied, which)
        engine.close()


def _product(name: str, engine: CudaEngine, at, effort: Effort, copied: float) -> Figure:
    """A product's rate: its weights are read once."""
    m = engine._memory

    def products():
        kernels.forward(m.weights, m.workspace, m.inbox, False, at)
        kernels.predict(m.weights, m.workspace, m.statistics.mu, at)
        kernels.predictor_backward(m.weights, m.workspace, at)

    calls = captured(products)
    weights = m.weights.W.size if name == "project" else m.weights.V_1.size + m.weights.G_b.size
    seconds = in_a_row_s(calls[name], effort.launches)
    rate = m.dtype.itemsize * weights / seconds
    return Figure(
        f"{name}: a product of {at.K} rows", rate / 1e9, "GB/s",
        note=f"{100 * rate / copied:.0f}% of the copy, {1e6 * seconds:.0f} us",
    )  # fmt: skip


def _copy_s(effort: Effort) -> float:
    source, target = (cuda.device_array(effort.copied_bytes // 4, np.float32) for _ in range(2))
    return in_a_row_s(lambda: target.copy_to_device(source), effort.launches)


SECTIONS = {
    "gradients": gradients, "curve": learning_curve, "identity": identity, "blocks": blocks,
    "streams": streams, "race": race, "bandwidth": bandwidth, "shapes": shapes,
}  # fmt: skip


def _told(figure: Figure) -> tuple[str, str, str, str]:
    missed = "" if figure.ok else " MISSED"
    measured = f"{figure.value:.4g} {figure.unit}".strip()
    return figure.name, measured, figure.bound + missed, figure.note


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="The learner on a GPU beside the CPU.")
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--quick", action="store_true", help="does it run? its figures are none")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args(arguments)
    unknown = set(options.sections) - SECTIONS.keys()
    if unknown:
        parser.error(
            f"unknown section {', '.join(sorted(unknown))}: known are {', '.join(SECTIONS)}"
        )
    effort = QUICK if options.quick else Effort()
    try:
        if not SIMULATED:
            open_engine(QUICK.config, find(QUICK.config.cell), 1, "cuda").close()
    except DeviceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    engine = CudaEngine(QUICK.config, find(QUICK.config.cell))
    machine = {
        "gpu": engine.description, "cpu": platform.processor() or platform.machine(),
        "date": datetime.date.today().isoformat(), "numba": numba.__version__,
        "simulated": SIMULATED, "quick": options.quick, "tiles": str(engines_cuda.TILES),
    }  # fmt: skip
    engine.close()
    print(", ".join(f"{name}: {value}" for name, value in machine.items()), flush=True)
    figures = []
    for name in options.sections or SECTIONS:
        for figure in SECTIONS[name](effort):
            figures.append(figure)
            print(_told(figure)[:2], file=sys.stderr, flush=True)
    print(Table(("what", "measured", "bound", ""), [_told(each) for each in figures]))
    if options.json:
        told = {"machine": machine, "figures": [each._asdict() for each in figures]}
        options.json.write_text(json.dumps(told, indent=2) + "\n")
    return int(any(not each.ok for each in figures))


if __name__ == "__main__":
    sys.exit(main())
