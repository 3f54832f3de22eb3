"""How many instructions the inner loops take, counted by an emulated processor.

    python -m benchmarks.instructions             a table; a minute or two
    python -m benchmarks.instructions --cache     also misses of emulated caches
    python -m benchmarks.instructions --write     keep the counts that tests compare with

Valgrind's callgrind runs the program instruction by instruction, so the counts are the same however
busy the machine is. It knows no AVX-512: kernels are compiled for one fixed processor (TARGET),
which also makes counts comparable between machines. They still depend on the versions of Python,
NumPy, Numba and SciPy, which are kept beside the counts. x86-64 only.

tests/benchmarks/test_instructions.py fails if a count grows by more than SLACK.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import math
import mmap
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks import ceilings
from benchmarks.tables import Table
from edge_rjepa import RJepa, RJepaConfig
from edge_rjepa.eye.config import GazeConfig
from edge_rjepa.eye.gaze import Gaze
from edge_rjepa.eye.retina import Retina
from edge_rjepa.optics.camera import Pinhole

KEPT = Path(__file__).with_suffix(".json")
SLACK = 0.03
TARGET = {
    "NUMBA_CPU_NAME": "haswell",
    "NUMBA_CPU_FEATURES": "+avx,+avx2,+bmi,+bmi2,+f16c,+fma,+lzcnt,+movbe,+popcnt",
}
FIXATIONS = 16
EVENTS = {
    "Ir": "instructions",
    "DRef": "reads and writes",
    "D1m": "misses of 32 KiB",
    "DLm": "misses of 8 MiB",
}
CACHES = ("--cache-sim=yes", "--D1=32768,8,64", "--LL=8388608,16,64")

# ------------------------------------------------------------------------------------------------
# What is counted


class Task(NamedTuple):
    """What is counted, and a call that compiles all that it uses, in less time."""

    call: Callable[[], object]
    compile: Callable[[], object]


def tasks() -> dict[str, Task]:
    """Name -> what a robot does with every picture, at the default sizes."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (480, 640, 3), np.uint8)
    camera = Pinhole(640, 480, 1.0)
    pixels = rng.uniform((40.0, 40.0), (600.0, 440.0), (FIXATIONS, 2))
    retina, gaze = Retina(), Gaze(GazeConfig(), seed=0)
    # Blocks that renew the metric or take a step cost more: whole rounds of both are counted, late
    # in life, when the statistics move slowly.
    config = RJepaConfig()
    learner, seer = RJepa(config), RJepa(config)
    small = RJepa(replace(config, n_embedding=16, n_hidden=16, n_predictor=16))
    learner.set_learned({"statistics.fixations": np.array([1_000_000])})
    blocks = math.lcm(config.update_every, round(1 / ceilings.renewals_a_block(config, FIXATIONS)))
    features = rng.normal(size=(FIXATIONS, config.n_features)).astype(np.float32)
    efference = rng.normal(size=(FIXATIONS, config.n_efference)).astype(np.float32)

    def learn(learner: RJepa) -> None:
        for _ in range(blocks):
            learner.learn_block(features, efference)

    def predict() -> None:
        seer.predict(features, efference)

    def see() -> None:
        retina(image, pixels)

    def plan() -> None:
        gaze.plan(camera, image, (0.0, 0.0), FIXATIONS)

    return {
        f"learn {blocks} blocks of {FIXATIONS}": Task(
            partial(learn, learner), partial(learn, small)
        ),
        f"predict a block of {FIXATIONS}": Task(predict, predict),
        f"see {FIXATIONS} fixations": Task(see, see),
        f"plan {FIXATIONS} fixations": Task(plan, plan),
    }


def run(only_compile: bool) -> None:
    """Inside of callgrind: count each task on its own."""
    gc.disable()  # it would come in any task, and in another after any change
    for name, task in tasks().items():
        task.compile()
        if only_compile:
            continue
        request(START)
        task.call()
        request(DUMP, name.encode())
        request(STOP)


# Callgrind's client requests (its manual has them) are an instruction sequence that does nothing on
# a processor, and that callgrind knows: rol rdi by 3, 13, 61 and 51 bits, then xchg rbx, rbx. The
# request's address is in rax, the answer in rdx.
BASE = (ord("C") << 24) | (ord("T") << 16)
DUMP, START, STOP = BASE + 3, BASE + 4, BASE + 5
REQUEST = bytes.fromhex("4889f8 31d2 48c1c703 48c1c70d 48c1c73d 48c1c733 4887db 4889d0 c3")


def request(code: int, text: bytes = b"") -> None:
    """Tell callgrind to start, stop or write down its counts."""
    with mmap.mmap(
        -1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
    ) as page:
        page.write(REQUEST)
        start = ctypes.c_char.from_buffer(page)
        held = ctypes.create_string_buffer(text)
        words = (ctypes.c_uint64 * 6)(code, ctypes.addressof(held))
        ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p)(ctypes.addressof(start))(words)
        del start  # or the page could not be closed


# ------------------------------------------------------------------------------------------------
# Counting


def versions() -> dict[str, str]:
    """What counts depend on."""
    packages = ("numpy", "numba", "llvmlite", "scipy")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


def why_not() -> str:
    """Why nothing can be counted here; empty if it can."""
    if platform.machine() != "x86_64":
        return "counts are those of an x86-64 processor"
    return "" if shutil.which("valgrind") else "no valgrind: apt-get install valgrind"


def count(caches: bool = False) -> dict[str, dict[str, int]]:
    """Task -> event -> count. Takes minutes."""
    options = CACHES if caches else ()
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **os.environ, **TARGET, "PYTHONHASHSEED": "0", "NUMBA_CACHE_DIR": f"{folder}/kernels",
            "OPENBLAS_CORETYPE": "Haswell", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        program = [sys.executable, "-m", "benchmarks.instructions"]
        subprocess.run([*program, "--only-compile"], env=environment, check=True)
        valgrind = [
            "valgrind", "--quiet", "--tool=callgrind", "--instr-atstart=no", *options,
            f"--callgrind-out-file={folder}/counts",
        ]  # fmt: skip
        subprocess.run(
            [*valgrind, *program, "--counted"], env=environment, check=True,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        found = [read(path) for path in sorted(Path(folder).glob("counts.*"))]
    return dict(each for each in found if each)


def read(path: Path) -> tuple[str, dict[str, int]] | None:
    """Task and counts of a file that callgrind wrote; None where it ended and nothing was asked."""
    text = path.read_text()
    task = re.search(r"^desc: Trigger: Client Request: (.*)$", text, re.MULTILINE)
    if task is None:
        return None
    events = re.search(r"^events: (.*)$", text, re.MULTILINE)[1].split()
    totals = re.search(r"^totals: (.*)$", text, re.MULTILINE)[1].split()
    counts = dict(zip(events, map(int, totals), strict=False))
    counts |= {
        "DRef": counts.get("Dr", 0) + counts.get("Dw", 0),
        "D1m": counts.get("D1mr", 0) + counts.get("D1mw", 0),
        "DLm": counts.get("DLmr", 0) + counts.get("DLmw", 0),
    }
    return task[1], {event: counts[event] for event in EVENTS if counts[event]}


def table(counts: dict[str, dict[str, int]]) -> Table:
    """Thousands of each event, by task."""
    events = [event for event in EVENTS if any(event in each for each in counts.values())]
    rows = [
        (task, *(f"{each.get(event, 0) / 1000:,.0f}" for event in events))
        for task, each in counts.items()
    ]
    return Table(("thousands of", *(EVENTS[event] for event in events)), rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cache", action="store_true", help="emulate caches, too")
    parser.add_argument("--write", action="store_true", help=f"keep them in {KEPT.name}")
    parser.add_argument("--counted", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--only-compile", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.counted or options.only_compile:
        run(options.only_compile)
        return
    if why_not():
        sys.exit(f"error: {why_not()}")
    counts = count(options.cache)
    print(table(counts))
    if options.write:
        kept = {"versions": versions(), "instructions": {t: c["Ir"] for t, c in counts.items()}}
        KEPT.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
