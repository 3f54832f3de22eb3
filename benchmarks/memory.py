"""Is memory what the formula says, and does it stay so over a million fixations?

python -m benchmarks.memory [FIXATIONS]
python -m benchmarks.memory --looks 1000000     of a process that recognises pictures
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import math
import multiprocessing
import os
import sys
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from benchmarks import photographs
from edge_rjepa import RJepa, RJepaConfig
from edge_rjepa.encoder.opener import OpenedEncoder
from edge_rjepa.eye.config import RetinaConfig
from edge_rjepa.eye.retina import Retina
from edge_rjepa.learner import network
from edge_rjepa.learner.cells import find
from edge_rjepa.learner.engines.cpu import CpuEngine, Stream
from edge_rjepa.learner.kernels import arrays
from edge_rjepa.teach.recogniser import Recogniser

BLOCK = 16


def held(config: RJepaConfig) -> int:
    """Bytes of all arrays of a learner, added up in the table of network.py.

    docs/performance.md has it as a formula; tests/benchmarks/test_speed.py works that out as it
    stands there.
    """
    cell = find(config.cell)
    matrices, traces, workspace = (
        [math.prod(shape) for shape in arrays.shapes(group, config, cell).values()]
        for group in (network.Weights, network.Traces, arrays.Workspace)
    )
    each = sum(arrays.whole_lines(size, config) for size in matrices)
    weights = 3 * each  # and gradients, Adam's squares
    n_z, most, n = config.n_embedding, arrays.room(config), network.sizes(config, cell)
    rows = most.fixations + most.blocks
    highest = max((1 + n.m) * n.G * n.n_h, n.n_p, n_z, n.n_e, n.n_g)
    columns = highest * arrays.whole_lines(rows, config)
    statistics = 6 * n_z**2 + n_z + 5 * rows * n_z + most.blocks
    numbers = weights + sum(traces) + sum(workspace) + columns + statistics
    return np.dtype(config.dtype).itemsize * numbers + 8 * (len(cell.reads) + 2 + 2 * most.blocks)


class Held(NamedTuple):
    """Bytes of one learner: by the formula, by its own count, and seen from outside."""

    config: RJepaConfig
    formula: int
    counted: int
    grown: int  # of the process, between before the learner and after its first blocks


def measured(config: RJepaConfig) -> Held:
    """Make a learner in a process of its own, and see by how much that grows."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        counted, grown = pool.apply(_grow, (config,))
    return Held(config, held(config), counted, grown)


def _grow(config: RJepaConfig) -> tuple[int, int]:
    """(nbytes of a learner, by how much it makes the process grow), beside one like it."""
    first = RJepa(config)
    _learn(first)  # kernels, and what BLAS wants for itself
    before = _resident_in_use()
    second = RJepa(config)
    _learn(second)
    return first.nbytes, _resident_in_use() - before


def _resident_in_use() -> int:
    """Resident bytes without what malloc keeps of memory that was freed, as first weights were."""
    with contextlib.suppress(AttributeError):  # glibc has it
        ctypes.CDLL(None).malloc_trim(0)
    return resident_bytes()


def _learn(learner: RJepa) -> None:
    """From blocks of the greatest length and two steps, so that every page is written to."""
    config, rng = learner.config, np.random.default_rng(0)
    for _ in range(2 * config.update_every):
        learner.learn_block(
            rng.normal(size=(config.max_block, config.n_features)),
            rng.normal(size=(config.max_block, config.n_efference)),
        )


def resident_bytes() -> int:
    """Memory of this process that is in RAM (Linux)."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def recognise_looks(looks: int, taught: int = 18) -> bool:
    """Recognise views of paintings one after another; whether the process did not grow by it."""
    retina = Retina(RetinaConfig())
    learner = RJepa(RJepaConfig(n_features=retina.n_features))
    recogniser = Recogniser(OpenedEncoder(Path("benchmark"), learner, retina, learner.config, None))
    pictures = [cv2.resize(each, (320, 240)) for each in photographs.load("paintings")]
    for i, picture in enumerate(pictures[:taught]):
        recogniser.teach(f"place {i}", picture)

    def ask(count: int) -> None:
        for i in range(count):
            recogniser.recognise(pictures[i % len(pictures)])

    ask(10_000)  # compiled, and malloc has what it keeps
    taught_bytes, sizes = recogniser.nbytes, [resident_bytes()]
    for part in tqdm(np.array_split(range(looks), 100), unit="part"):
        ask(len(part))
        sizes.append(resident_bytes())
    start, most, end = (size / 2**20 for size in (sizes[0], max(sizes), sizes[-1]))
    print(f"{10_000 + looks:,} looks: resident {start:.2f} MiB after 10,000,")
    print(f"{most:.2f} at most, {end:.2f} at the end; what was taught takes {taught_bytes:,} bytes")
    return taught_bytes == recogniser.nbytes and sizes[-1] - sizes[0] <= 2**20


def learn_fixations(fixations: int) -> bool:
    """Learn from noise; whether formula, count and process agree, and nothing grew or moved."""
    config = RJepaConfig()
    found = measured(config)
    print(f"formula {found.formula:,} bytes, RJepa.nbytes {found.counted:,}, ", end="")
    print(f"the process grew by {found.grown:,} ({found.grown / found.formula:.3f} of the formula)")
    stream = Stream(config, find(config.cell))
    model = RJepa(config, engine=CpuEngine([stream]))
    rng = np.random.default_rng(0)
    features = rng.normal(size=(64, BLOCK, config.n_features)).astype("f4")
    efference = rng.normal(size=(64, BLOCK, config.n_efference)).astype("f4")

    def learn(count: int) -> None:
        for i in range(count // BLOCK):
            model.learn_block(features[i % 64], efference[i % 64])

    learn(100_000)  # compiled, every lazily made view is there, and pools of small objects are full

    def addresses() -> list[int]:
        stream.settle()  # the fixation before the next block has no place of its own until then
        weights = (group.flat for group in stream.for_every_weight().values())
        return [array.ctypes.data for array in (*weights, *stream.views().values())]

    before = addresses()
    sizes = [resident_bytes()]
    for _ in tqdm(range(20), unit="part"):
        learn(fixations // 20)
        sizes.append(resident_bytes())
    same = before == addresses()
    start, least, most, end = (
        size / 2**20 for size in (sizes[0], min(sizes), max(sizes), sizes[-1])
    )
    print(f"{model.fixations:,} fixations: resident {start:.2f} MiB at the start,")
    print(f"{least:.2f} to {most:.2f} MiB on the way, {end:.2f} at the end")
    print(f"every buffer at its address: {same}; learner holds {model.nbytes / 2**20:.2f} MiB")
    return same and sizes[-1] - sizes[0] <= 2**20 and found.counted == found.formula


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("fixations", nargs="?", type=int, default=1_000_000)
    parser.add_argument("--looks", type=int, help="recognise so many pictures; learn none")
    options = parser.parse_args()
    if options.looks is None:
        steady = learn_fixations(options.fixations)
    else:
        steady = recognise_looks(options.looks)
    sys.exit(not steady)


if __name__ == "__main__":
    main()
