"""How fast it learns and sees, beside PyTorch, dense RTRL and what this core can do at best.

    python -m benchmarks.speed                    everything, about a quarter of an hour
    python -m benchmarks.speed --quick            does it run? its figures are none
    python -m benchmarks.speed sizes flat         these sections alone
    python -m benchmarks.speed --docs             everything, into docs/performance.md and its plot

One process, one thread. Contenders take turns (benchmarks/timing.py), ratios are of one turn, and
the tables give the median and the quartiles over turns. Without PyTorch its columns stay empty.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import NamedTuple
from unittest import mock

import numba
import numpy as np
import scipy
import threadpoolctl

from benchmarks import ceilings, memory, peers
from benchmarks.tables import Table, microseconds, plain, put
from benchmarks.timing import Contender, Spread, Turns, spread, take_turns
from edge_rjepa import RJepa, RJepaConfig
from edge_rjepa.learner.cells import find
from edge_rjepa.learner.engines import cpu
from edge_rjepa.learner.kernels.microkernels import VECTOR_BYTES

DEFAULT = (256, 256)  # n_embedding, n_hidden = n_predictor
SIZES = ((128, 256), DEFAULT, (256, 512), (512, 1024), (1024, 2048))
BLOCKS = (1, 4, 16, 64)
BLOCK = 16  # what `edge-rjepa learn` takes of a frame
RTRL_SIZES = ((32, 32), DEFAULT)
FIXATIONS, SPAN = 1_000_000, 10_000  # of the flat cost, and how many are compared at either end
STARTS = 5
FRAMES_PER_S = 30  # of a camera
DOCS = Path(__file__).parent.parent / "docs" / "performance.md"
NONE = "–"


WINDOWS = (  # name, stepwise, whole_window: PyTorch at every fixation, through the last WINDOW
    ("window", False, False),
    ("window stepwise", True, False),
    ("whole window", False, True),
    ("whole window stepwise", True, True),
)


class Effort(NamedTuple):
    """How much time goes into what."""

    turns_s: float = 14.0  # for each set of contenders
    at_least: int = 5  # turns
    fixations: int = FIXATIONS
    starts: int = STARTS
    sizes: tuple = SIZES
    blocks: tuple = BLOCKS
    compiled: bool = shutil.which("g++") is not None  # PyTorch, for blocks of 16 at default size


QUICK = Effort(
    turns_s=0.2,
    compiled=False,
    at_least=2,
    fixations=30_000,
    starts=1,
    sizes=(DEFAULT,),
    blocks=(1, BLOCK),
)


def config_of(size: tuple[int, int]) -> RJepaConfig:
    n_embedding, n_hidden = size
    return RJepaConfig(n_embedding=n_embedding, n_hidden=n_hidden, n_predictor=n_hidden)


def seconds_of(call: Callable) -> float:
    started = perf_counter()
    call()
    return perf_counter() - started


def named(size: tuple[int, int]) -> str:
    return f"{size[0]}/{size[1]}"


class Stream:
    """Blocks of random fixations, one after the other, over and over."""

    def __init__(self, config: RJepaConfig, K: int, blocks: int = 64):
        rng = np.random.default_rng(0)
        self._features = rng.normal(size=(blocks, K, config.n_features)).astype("f4")
        self._efference = rng.normal(size=(blocks, K, config.n_efference)).astype("f4")
        self._next = 0

    def into(self, call: Callable, blocks: int = 1) -> Contender:
        """`call` on the next blocks, one after the other."""

        def turn():
            for _ in range(blocks):
                i = self._next = (self._next + 1) % len(self._features)
                call(self._features[i], self._efference[i])

        return Contender(turn, blocks * self._features.shape[1])


def products_of(config: RJepaConfig, K: int) -> Contender:
    """The products of learning alone, in blocks of K."""
    operands = ceilings.Operands(config, K)
    return Contender(operands.multiply, K * operands.blocks)


ROUND = 16  # blocks of 16 in which Adam takes two steps and the metric is renewed once
RIPE = 1_000_000  # fixations; the statistics of a young learner move faster, and cost more


def ripe(learner: RJepa | peers.TorchPeer) -> RJepa | peers.TorchPeer:
    """As it is late in life."""
    if isinstance(learner, RJepa):
        learner.set_learned({"statistics.fixations": np.array([RIPE])})
    else:
        learner.statistics.fixations = RIPE
    return learner


# ------------------------------------------------------------------------------------------------
# Sections: each measures, and returns what was measured; `tables` makes text of it


def measure_sizes(effort: Effort) -> dict[tuple, Turns]:
    """Blocks of every length at every size: learning, seeing, PyTorch, products."""
    measured = {}
    for size in effort.sizes:
        for K in effort.blocks:
            say(f"sizes: {named(size)}, blocks of {K}")
            config = config_of(size)
            stream = Stream(config, K)
            learner, seer = ripe(RJepa(config)), RJepa(config)
            contenders = {
                "learn": stream.into(learner.learn_block, ROUND),
                "predict": stream.into(seer.predict),
                "embed": stream.into(seer.embed),
                "products": products_of(config, K),
            }
            for name, stepwise in (("torch", False), ("torch stepwise", True)) * has_torch():
                peer = ripe(peers.TorchPeer(config, learner.parameters(), stepwise))
                # Stepwise a round would take a minute, and it is the same for every block but for
                # a few passes over the weights.
                contenders[name] = stream.into(peer.learn_block, 1 if stepwise else ROUND)
            if (size, K) == (DEFAULT, BLOCK) and effort.compiled and has_torch():
                peer = ripe(peers.TorchPeer(config, learner.parameters(), compiled=True))
                contenders["torch compiled"] = stream.into(peer.learn_block, ROUND)
            measured[size, K] = take_turns(contenders, effort.turns_s, effort.at_least)
    return measured


def tables_of_sizes(measured: dict[tuple, Turns]) -> list[Table]:
    rates = Table(
        ("size", "block", "embedded/s", "predicted/s", "learned/s", "PyTorch/s",
         "PyTorch, stepwise/s"),
        [
            (named(size), str(K), *(
                rate(turns, name)
                for name in ("embed", "predict", "learn", "torch", "torch stepwise")
            ))
            for (size, K), turns in measured.items()
        ],
    )  # fmt: skip
    ratios = Table(
        ("size", "block", "learning ÷ predicting", "learning ÷ its products",
         "PyTorch ÷ learning", "PyTorch, stepwise ÷ learning"),
        [
            (named(size), str(K), ratio(turns, "learn", "predict"),
             ratio(turns, "learn", "products"), ratio(turns, "torch", "learn"),
             ratio(turns, "torch stepwise", "learn"))
            for (size, K), turns in measured.items()
        ],
    )  # fmt: skip
    return [rates, ratios]


def measure_online(effort: Effort) -> dict[tuple, Turns]:
    """Peers that learn at every fixation, beside blocks of 1 and of 16."""
    measured = {}
    for size in sorted({*effort.sizes, *RTRL_SIZES[: len(effort.sizes)]}):
        say(f"online: {named(size)}")
        config = config_of(size)
        learners = {K: ripe(RJepa(config)) for K in (1, BLOCK)}
        one = Stream(config, 1)
        contenders = {
            "learn 1": one.into(learners[1].learn_block, ROUND),
            "learn 16": Stream(config, BLOCK).into(learners[BLOCK].learn_block, ROUND),
        }
        for name, stepwise, whole in WINDOWS * has_torch():
            peer = peers.TorchPeer(config, learners[1].parameters(), stepwise)
            contenders[name] = one.into(partial(peer.learn_one, whole_window=whole))
            for _ in range(peers.WINDOW):
                contenders[name].call()
        if size in RTRL_SIZES:
            peer = peers.RtrlPeer(config, learners[1].parameters())
            contenders["RTRL"] = one.into(peer.learn_block)
        measured[size] = take_turns(contenders, effort.turns_s, effort.at_least)
    return measured


ONLINE = {
    "learn 1": "edge_rjepa, blocks of 1",
    "learn 16": "edge_rjepa, blocks of 16",
    "window": "PyTorch, newest loss",
    "window stepwise": "PyTorch, stepwise, newest loss",
    "whole window": "PyTorch, loss of the window",
    "whole window stepwise": "PyTorch, stepwise, loss of the window",
    "RTRL": "dense RTRL, NumPy",
}


def tables_of_online(measured: dict[tuple, Turns]) -> list[Table]:
    rows = [
        (named(size), ONLINE[name], microseconds(turns.time(name)),
         ratio(turns, name, "learn 1"), ratio(turns, name, "learn 16"))
        for size, turns in measured.items()
        for name in turns.seconds
    ]  # fmt: skip
    heading = (
        "size",
        "learns at every fixation",
        "µs a fixation",
        "÷ blocks of 1",
        "÷ blocks of 16",
    )
    return [Table(heading, rows)]


class Profile(NamedTuple):
    """Seconds of the default size: a block by part of learning and in all, by product alone."""

    parts: dict[str, Spread]
    products: list[tuple[ceilings.Product, Spread]]
    whole: Spread


def measure_profile(effort: Effort) -> Profile:
    say("profile")
    config = RJepaConfig()
    stream = cpu.Stream(config, find(config.cell))
    learner = ripe(RJepa(config, engine=cpu.CpuEngine([stream])))
    operands = ceilings.Operands(config, BLOCK)
    spent: Counter[str] = Counter()
    in_rounds: dict[str, list[float]] = {}

    def timed(part: str, call: Callable) -> Callable:
        def timed_call(*args):
            started = perf_counter()
            result = call(*args)
            spent[part] += perf_counter() - started
            return result

        return timed_call

    def round_of_blocks() -> None:
        spent.clear()
        of_round.call()
        for part, seconds in spent.items():
            in_rounds.setdefault(part, []).append(seconds / ROUND)

    stream.forward = timed("forward", stream.forward)
    stream.objective = timed("objective", stream.objective)
    stream.assign_credit = timed("credit", stream.assign_credit)
    stream.settle = timed("settle", stream.settle)
    stream.statistics.observe = timed("statistics", stream.statistics.observe)
    of_round = Stream(config, BLOCK).into(learner.learn_block, ROUND)
    contenders = {"learn": Contender(round_of_blocks, ROUND)}
    for i in range(len(operands.products)):
        contenders[i] = Contender(lambda i=i: operands.repeat(i, 100), 100)
    with mock.patch.multiple(
        cpu.kernels,
        predict=timed("predict", cpu.kernels.predict),
        predictor_backward=timed("backward", cpu.kernels.predictor_backward),
    ):
        turns = take_turns(contenders, 1.5 * effort.turns_s, effort.at_least)
    return Profile(
        {part: spread(times) for part, times in in_rounds.items()},
        [(product, turns.time(i)) for i, product in enumerate(operands.products)],
        turns.time("learn"),
    )


def tables_of_profile(profile: Profile) -> list[Table]:
    alone = dict.fromkeys(profile.parts, 0.0)
    for product, time in profile.products:
        alone[product.part] += time.median / product.blocks
    rows = [
        (part, microseconds(time), f"{1e6 * alone[part]:.0f}", share(time, profile.whole))
        for part, time in profile.parts.items()
    ]
    rest = profile.whole.median - sum(time.median for time in profile.parts.values())
    rows.append(
        ("the rest", f"{1e6 * rest:.0f}", "0", f"{100 * rest / profile.whole.median:.0f} %")
    )
    rows.append(
        ("a block", microseconds(profile.whole), f"{1e6 * sum(alone.values()):.0f}", "100 %")
    )
    parts = Table(("part", "µs a block", "its products alone", "share"), rows)
    products = Table(
        ("part", "product", "of", "(m, k) (k, n)", "µs", "Gflop/s"),
        [
            (p.part, p.kind, p.matrix, " x ".join(map(str, p.shape)), f"{1e6 * time.median:.1f}",
             f"{2e-9 * p.multiply_adds / time.median:.0f}")
            for p, time in profile.products
        ],
    )  # fmt: skip
    return [parts, products]


class Counts(NamedTuple):
    """Ceilings of the core; and blocks of 16 beside their products and a copy of their bytes."""

    product_flops: float  # operations a second
    copied: dict[int, float]  # bytes a second, read and written, by how many are copied
    learning: dict[tuple, Turns]


COPIES = (1 << 20, 8 << 20, 256 << 20)  # bytes: in a cache of the core, of the machine, in memory


def measure_counts(effort: Effort) -> Counts:
    say("ceilings")
    turns = take_turns(
        {
            "product": Contender(ceilings.large_product()),
            **{n_bytes: Contender(ceilings.copying(n_bytes)) for n_bytes in COPIES},
        },
        0.5 * effort.turns_s,
        effort.at_least,
    )
    learning = {}
    for size in effort.sizes:
        config = config_of(size)
        moved = int(BLOCK * ceilings.learning_bytes(config, BLOCK))
        learning[size] = take_turns(
            {
                "learn": Stream(config, BLOCK).into(ripe(RJepa(config)).learn_block, ROUND),
                "products": products_of(config, BLOCK),
                "copy": Contender(ceilings.copying(moved // 2), BLOCK),
                "peak": Contender(ceilings.large_product()),
            },
            0.5 * effort.turns_s,
            effort.at_least,
        )
    return Counts(
        ceilings.LARGE_OPERATIONS / turns.time("product").median,
        {n_bytes: 2 * n_bytes / turns.time(n_bytes).median for n_bytes in COPIES},
        learning,
    )


def tables_of_counts(counts: Counts) -> list[Table]:
    rows = [("product of 1024 x 1024 float32", f"{1e-9 * counts.product_flops:.0f} Gflop/s")]
    for n_bytes, rate in counts.copied.items():
        rows.append((f"copy of {n_bytes >> 20} MiB", f"{1e-9 * rate:.0f} GB/s read and written"))
    machine = Table(("ceiling of one core", ""), rows)
    rows = []
    for size in counts.learning:
        config = config_of(size)
        rows.append(
            (named(size), f"{ceilings.weights(config):,}", f"{memory.held(config) / 2**20:.1f}",
             f"{1e-6 * ceilings.inference_operations(config, BLOCK):.2f}",
             f"{1e-6 * ceilings.learning_operations(config, BLOCK):.2f}",
             f"{1e-3 * ceilings.learning_bytes(config, BLOCK):,.0f}")
        )  # fmt: skip
    heading = (
        "size", "weights", "MiB held", "Mflop a fixation predicted", "Mflop learned",
        "kB moved learned",
    )  # fmt: skip
    needs = Table(heading, rows)
    rows = [
        (named(size), *(microseconds(turns.time(name)) for name in ("learn", "products")),
         microseconds(spread(at_peak(size, turns))), microseconds(turns.time("copy")),
         plain(limit_ratio(size, counts)))
        for size, turns in counts.learning.items()
    ]  # fmt: skip
    heading = (
        "size", "µs a fixation learned", "its products alone", "its operations at peak",
        "a copy of as many bytes", "learning ÷ limit",
    )  # fmt: skip
    return [machine, needs, Table(heading, rows), table_of_small_machines(counts)]


def table_of_small_machines(counts: Counts) -> Table:
    """An estimate: as far from their limit as this machine is from its own."""
    config, far = RJepaConfig(), limit_ratio(DEFAULT, counts).median
    rows = []
    for name, core in ceilings.PUBLISHED.items():
        limit_s = ceilings.limit_s(config, BLOCK, core)
        learned_s = far * limit_s
        share = 100 * learned_s * BLOCK * FRAMES_PER_S
        rows.append((name, f"{1e6 * limit_s:.0f}", f"{1e6 * learned_s:.0f}", f"{share:.0f} %"))
    heading = (
        "one core, estimated", "µs a fixation at its limit", "µs a fixation learned",
        f"share of it at {BLOCK} fixations of {FRAMES_PER_S} pictures a second",
    )  # fmt: skip
    return Table(heading, rows)


def at_peak(size: tuple[int, int], turns: Turns) -> np.ndarray:
    """Seconds a fixation of its operations, each as fast as in a large product; by turn."""
    share = ceilings.learning_operations(config_of(size), BLOCK) / ceilings.LARGE_OPERATIONS
    return turns.seconds["peak"] * share


def limit_ratio(size: tuple[int, int], counts: Counts) -> Spread:
    """Learning ÷ the larger of operations at peak and bytes copied: one overlaps the other."""
    turns = counts.learning[size]
    limit = np.maximum(at_peak(size, turns), turns.seconds["copy"])
    return spread(turns.seconds["learn"] / limit)


class Flat(NamedTuple):
    """Seconds a fixation along a long life."""

    fixations: np.ndarray  # where
    along: np.ndarray  # median of the blocks of each SPAN up to there
    young: np.ndarray  # of the first SPAN after warming up, and of the last, in turns
    old: np.ndarray


def measure_flat(effort: Effort) -> Flat:
    """One learner lives long; a copy of its young self then learns beside it, in turns."""
    say(f"flat: {effort.fixations:,} fixations")
    config = RJepaConfig()
    old = RJepa(config)
    learn, fixations_of_round = Stream(config, BLOCK).into(old.learn_block, ROUND)
    rounds = SPAN // fixations_of_round

    def live() -> float:
        return float(np.median([seconds_of(learn) for _ in range(rounds)])) / fixations_of_round

    live()
    young = old.copy()
    fixations, along = [], []
    while old.fixations < effort.fixations - SPAN:
        along.append(live())
        fixations.append(old.fixations)
    pair = [Stream(config, BLOCK).into(each.learn_block, ROUND).call for each in (young, old)]
    times = np.array([[seconds_of(call) for call in pair] for _ in range(4 * rounds)])
    times /= fixations_of_round
    return Flat(np.array(fixations), np.array(along), times[:, 0], times[:, 1])


def tables_of_flat(flat: Flat) -> list[Table]:
    last = int(flat.fixations[-1])
    rows = [
        (f"the first {SPAN:,} after warming up", microseconds(spread(flat.young))),
        (f"the last {SPAN:,}, after {last:,}", microseconds(spread(flat.old))),
        ("last ÷ first, 16 blocks by 16 blocks in turns", plain(spread(flat.old / flat.young))),
    ]
    return [Table(("fixations", "µs a fixation"), rows)]


START = """
import json, time
started = time.perf_counter()
import edge_rjepa
imported = time.perf_counter()
import numpy as np
learner = edge_rjepa.RJepa()
rng = np.random.default_rng(0)
learner.learn_block(rng.normal(size=(16, 316)), rng.normal(size=(16, 4)))
print(json.dumps([imported - started, time.perf_counter() - imported]))
"""


def measure_starts(effort: Effort) -> dict[str, tuple[Spread, Spread]]:
    """Import and first block in fresh processes: with an empty folder of kernels, then with it."""
    say("start-up")
    seconds = {"cold": [], "warm": []}
    for _ in range(effort.starts):
        with tempfile.TemporaryDirectory() as folder:
            for times in seconds.values():
                output = subprocess.check_output(
                    [sys.executable, "-c", START],
                    env={**os.environ, "NUMBA_CACHE_DIR": folder},
                    cwd=DOCS.parent.parent,
                )
                times.append(json.loads(output))
    return {
        name: tuple(spread(column) for column in np.transpose(times))
        for name, times in seconds.items()
    }


def tables_of_starts(starts: dict[str, tuple[Spread, Spread]]) -> list[Table]:
    rows = [
        ("`import edge_rjepa`", plain(starts["warm"][0])),
        ("first learner and block, no kernel compiled yet", plain(starts["cold"][1])),
        ("first learner and block, kernels kept from before", plain(starts["warm"][1])),
    ]
    return [Table(("start of a process", "seconds"), rows)]


def measure_memory(effort: Effort) -> list[memory.Held]:
    say("memory")
    return [memory.measured(config_of(size)) for size in effort.sizes]


def tables_of_memory(measured: list[memory.Held]) -> list[Table]:
    rows = [
        (f"{held.config.n_embedding}/{held.config.n_hidden}", f"{held.formula:,}",
         f"{held.counted:,}", f"{held.grown:,}", f"{held.grown / held.formula:.3f}")
        for held in measured
    ]  # fmt: skip
    heading = ("size", "bytes by the formula", "RJepa.nbytes", "the process grew by", "÷ formula")
    return [Table(heading, rows)]


PEERS = {
    "torch stepwise": "PyTorch, stepwise, block",
    "torch": "PyTorch, products of the whole block",
    "torch compiled": "PyTorch, the same compiled",
}


def table_of_aims(measured: dict) -> Table:
    """What was aimed at, and what came of it, at the default size."""
    block = measured["sizes"][DEFAULT, BLOCK]
    online, flat, starts = measured["online"][DEFAULT], measured["flat"], measured["starts"]
    young_to_old = spread(flat.old / flat.young)
    one = measured["online"][DEFAULT].ratio("learn 1", "learn 16")
    rows = [
        aim("learning ÷ limit", at_most(1.2), limit_ratio(DEFAULT, measured["counts"])),
        aim("learning ÷ predicting", at_most(3.3), block.ratio("learn", "predict")),
        aim("blocks of 1 ÷ blocks of 16", at_most(4.0), one),
        aim("cost of the last fixations of a million ÷ the first", at_most(1.05), young_to_old),
        aim("`import edge_rjepa`, s", at_most(0.3), starts["warm"][0]),
        aim("first block, nothing compiled, s", at_most(3.0), starts["cold"][1]),
        aim("first block, kernels kept, s", at_most(0.25), starts["warm"][1]),
    ]
    if has_torch():
        rows[3:3] = [
            aim(f"{name} ÷ learning", at_least(3.0), block.ratio(contender, "learn"))
            for contender, name in PEERS.items()
            if contender in block.seconds
        ]
        rows += [
            aim(f"{ONLINE[name]}, at every fixation ÷ learning", at_least(200.0),
                online.ratio(name, "learn 16"))
            for name, _, _ in reversed(WINDOWS)
        ]  # fmt: skip
    return Table((f"default size, blocks of {BLOCK}", "aim", "measured", "met"), rows)


class Bound(NamedTuple):
    text: str
    holds: Callable[[float], bool]


def at_most(bound: float) -> Bound:
    return Bound(f"at most {bound:g}", lambda value: value <= bound)


def at_least(bound: float) -> Bound:
    return Bound(f"at least {bound:g}", lambda value: value >= bound)


def aim(what: str, bound: Bound, value: Spread) -> tuple[str, ...]:
    return what, bound.text, plain(value), "yes" if bound.holds(value.median) else "**no**"


SECTIONS = {
    "sizes": (measure_sizes, tables_of_sizes),
    "online": (measure_online, tables_of_online),
    "profile": (measure_profile, tables_of_profile),
    "counts": (measure_counts, tables_of_counts),
    "flat": (measure_flat, tables_of_flat),
    "starts": (measure_starts, tables_of_starts),
    "memory": (measure_memory, tables_of_memory),
}
OF_AIMS = {"sizes", "online", "flat", "starts"}
PLOTTED = {"sizes", "online", "flat"}


# ------------------------------------------------------------------------------------------------
# Text


def rate(turns: Turns, name: str) -> str:
    return plain(turns.rate(name)) if name in turns.seconds else NONE


def ratio(turns: Turns, name: str, to: str) -> str:
    return plain(turns.ratio(name, to)) if name in turns.seconds else NONE


def share(part: Spread, whole: Spread) -> str:
    return f"{100 * part.median / whole.median:.0f} %"


def has_torch() -> bool:
    return peers.torch is not None


def machine() -> str:
    """Processor and versions, one line."""
    versions = {
        "Python": platform.python_version(),
        "NumPy": np.__version__,
        "SciPy": scipy.__version__,
        "Numba": numba.__version__,
    }
    if has_torch():
        versions["PyTorch"] = peers.torch.__version__
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"{processor()}, vectors of {8 * VECTOR_BYTES} bits, one thread; {listed}"


def processor() -> str:
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found.group(1) if found else platform.processor() or platform.machine()


def say(what: str) -> None:
    print(f"measuring {what}", file=sys.stderr, flush=True)


# ------------------------------------------------------------------------------------------------
# The plot


def draw(measured: dict, path: Path) -> None:
    """Cost of a fixation by block length, by size, and along a life."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, (by_block, by_size, by_age) = pyplot.subplots(1, 3, figsize=(15, 5.2))
    draw_blocks(by_block, measured["sizes"], measured["online"])
    draw_sizes(by_size, measured["sizes"])
    draw_flat(by_age, measured["flat"])
    for axes in (by_block, by_size, by_age):
        axes.set_ylabel("µs a fixation")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(
        *by_block.get_legend_handles_labels(),
        loc="lower center",
        ncols=4,
        frameon=False,
        fontsize=9,
    )
    figure.tight_layout(rect=(0, 0.13, 1, 1))
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


LINES = {  # colour, style, label
    "torch stepwise": ("tab:red", "o:", "PyTorch learns, stepwise"),
    "torch": ("tab:red", "o-", "PyTorch learns, products of the block at once"),
    "learn": ("tab:blue", "o-", "edge_rjepa learns"),
    "products": ("black", "o:", "its matrix products alone"),
    "predict": ("tab:green", "o-", "edge_rjepa predicts"),
    "embed": ("tab:green", "o:", "edge_rjepa embeds"),
}
POINTS = {
    "RTRL": ("tab:purple", "dense RTRL"),
    "whole window stepwise": ("tab:orange", "PyTorch at every fixation, stepwise, window's loss"),
    "window": ("tab:brown", "PyTorch at every fixation, newest loss"),
}


def draw_blocks(axes, sizes: dict[tuple, Turns], online: dict[tuple, Turns]) -> None:
    lengths = [K for size, K in sizes if size == DEFAULT]
    for name, (colour, label) in POINTS.items():
        if name in online[DEFAULT].seconds:
            median = 1e6 * online[DEFAULT].time(name).median
            axes.plot([1], [median], "D", color=colour, label=label)
    draw_lines(axes, lengths, [sizes[DEFAULT, K] for K in lengths])
    axes.set(xscale="log", yscale="log", title=f"size {named(DEFAULT)}", xlabel="fixations a block")
    axes.set_xticks(lengths, map(str, lengths), minor=False)
    axes.minorticks_off()


def draw_sizes(axes, sizes: dict[tuple, Turns]) -> None:
    widths = [size for size, K in sizes if K == BLOCK]
    draw_lines(axes, range(len(widths)), [sizes[size, BLOCK] for size in widths])
    axes.set(yscale="log", title=f"blocks of {BLOCK}", xlabel="size: embedding/hidden")
    axes.set_xticks(range(len(widths)), [named(size) for size in widths])


def draw_lines(axes, places, turns: list[Turns]) -> None:
    for name, (colour, style, label) in LINES.items():
        if name in turns[0].seconds:
            median, low, high = 1e6 * np.transpose([each.time(name) for each in turns])
            axes.plot(places, median, style, color=colour, label=label, markersize=4)
            axes.fill_between(places, low, high, color=colour, alpha=0.15, linewidth=0)


def draw_flat(axes, flat: Flat) -> None:
    axes.plot(1e-6 * flat.fixations, 1e6 * flat.along, color="tab:blue", linewidth=1)
    axes.set_title(f"size {named(DEFAULT)}, blocks of {BLOCK}, one life")
    axes.set(xlabel="million fixations learned from")
    axes.set_ylim(0, 1.5e6 * np.quantile(flat.along, 0.9))


# ------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "section", nargs="*", help=f"of {', '.join(SECTIONS)}; all if none is named"
    )
    parser.add_argument("--quick", action="store_true", help="does it run? its figures are none")
    parser.add_argument("--docs", nargs="?", const=DOCS, type=Path, metavar="PAGE",
                        help="put tables and plot into the page, docs/performance.md")  # fmt: skip
    options = parser.parse_args()
    names = options.section or list(SECTIONS)
    for name in set(names) - SECTIONS.keys():
        parser.error(f"unknown section {name}: choose of {', '.join(SECTIONS)}")
    if options.quick and options.docs == DOCS:
        parser.error("a quick run measures nothing: name another page, --docs PAGE")

    threadpoolctl.threadpool_limits(1)
    effort = QUICK if options.quick else Effort()
    print(machine())
    if not has_torch():
        print(peers.NO_TORCH)
    measured, text = {}, {"machine": machine()}
    for name in names:
        measure, tables = SECTIONS[name]
        measured[name] = measure(effort)
        for i, table in enumerate(tables(measured[name]), 1):
            text[f"{name} {i}"] = str(table)
            print(f"\n{name}\n{table}", flush=True)
    if OF_AIMS <= measured.keys():
        text["aims"] = str(table_of_aims(measured))
        print(f"\naims\n{text['aims']}")
    if options.docs:
        for name, each in text.items():
            put(options.docs, name, each)
        if PLOTTED <= measured.keys():
            draw(measured, options.docs.with_suffix(".png"))


if __name__ == "__main__":
    main()
