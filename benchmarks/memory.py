"""Does memory stay the same over a million fixations?

python -m benchmarks.memory [FIXATIONS]
"""

from __future__ import annotations

import os
import sys

import numpy as np
from tqdm import tqdm

from edge_rjepa import RJepa, RJepaConfig

BLOCK = 16


def resident_bytes() -> int:
    """Memory of this process that is in RAM (Linux)."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    fixations = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    config = RJepaConfig()
    model = RJepa(config)
    rng = np.random.default_rng(0)
    features = rng.normal(size=(64, BLOCK, config.n_features)).astype("f4")
    efference = rng.normal(size=(64, BLOCK, config.n_efference)).astype("f4")

    def learn(count: int) -> None:
        for i in range(count // BLOCK):
            model.learn_block(features[i % 64], efference[i % 64])

    learn(20_000)  # compiled, and every lazily made view is there
    addresses = [array.ctypes.data for array in model._arrays().values()]
    sizes = [resident_bytes()]
    for _ in tqdm(range(20), unit="part"):
        learn(fixations // 20)
        sizes.append(resident_bytes())
    same = addresses == [array.ctypes.data for array in model._arrays().values()]
    start, least, most, end = (
        size / 2**20 for size in (sizes[0], min(sizes), max(sizes), sizes[-1])
    )
    print(f"{model.fixations:,} fixations: resident {start:.2f} MiB at the start,")
    print(f"{least:.2f} to {most:.2f} MiB on the way, {end:.2f} at the end")
    print(f"every buffer at its address: {same}; learner holds {model.nbytes / 2**20:.2f} MiB")
    sys.exit(not same or sizes[-1] - sizes[0] > 2**20)


if __name__ == "__main__":
    main()
