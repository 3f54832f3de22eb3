"""Does it learn? The protocols `glimpses` and `recall` against their controls, as tables.

    python -m benchmarks.learning                     both protocols, two seeds: about half an hour
    python -m benchmarks.learning glimpses --seeds 3
    python -m benchmarks.learning cells               every cell on both protocols
    python -m benchmarks.learning --quick             a twentieth of everything: does it run?

Every network has the defaults of RJepaConfig. Learners differ in one thing each:

    untrained    the network as it starts
    mse          squared error alone, on both sides, nothing against collapse
    zero trace   RFP with J = 0: no temporal credit, all else equal
    RFP          the real thing
    .. plain gates   both again with gates that do not know places at the start: what the first
                 weights give to the memory must then be learned (recall only)
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import platform
import time
from functools import cache

import numpy as np

from benchmarks.protocols import Glimpses, Recall
from edge_rjepa import RJepa, RJepaConfig
from edge_rjepa.learner.cells import CELLS, find
from edge_rjepa.learner.engines.cpu import CpuEngine, Stream

COLUMNS = ("accuracy", "recall", "late recall", "information", "rank", "std")  # nats, of n_z
PROTOCOLS = {"glimpses": Glimpses, "recall": Recall}
BUDGETS = {"glimpses": (144_000, 288_000, 480_000), "recall": (288_000, 576_000, 1_152_000)}
protocol_named = cache(lambda name: PROTOCOLS[name]())


class MeanSquaredError(Stream):
    """1/2 |z - zhat|^2 as the whole objective, both sides trained."""

    def objective(self, ws):
        loss = super().objective(ws)
        np.negative(ws.e, out=ws.d_zhat)
        np.copyto(ws.d_z[1:], ws.e)
        return loss


class ZeroTrace(Stream):
    """Sensitivities that forget at once: no credit for what was written into memory earlier."""

    def update(self, ws, descent):
        ws.J[:] = 0
        super().update(ws, descent)


LEARNERS = {  # name: how it learns, and whether with plain gates
    "untrained": (Stream, False),
    "mse": (MeanSquaredError, False),
    "zero trace": (ZeroTrace, False),
    "RFP": (Stream, False),
    "zero trace, plain gates": (ZeroTrace, True),
    "RFP, plain gates": (Stream, True),
}


def learner_named(name: str, config: RJepaConfig, seed: int) -> RJepa:
    """One of LEARNERS."""
    stream, plain_gates = LEARNERS[name]
    model = RJepa(config, seed, engine=CpuEngine([stream(config, find(config.cell))]))
    if plain_gates:  # first weights on the efference copy like all their others
        W = model.parameters()["W"]
        W[1, :, -1 - config.n_efference : -1] /= math.sqrt(W.shape[2] - 1)
        model.set_parameters({"W": W})
    return model


def learn(job: tuple[str, str, str, int, tuple[int, ...]]) -> list[dict]:
    """One learner on one protocol: a row for each budget, in fixations."""
    name, learner, cell, seed, budgets = job
    protocol = protocol_named(name)
    config = RJepaConfig(n_features=protocol.n_features, n_efference=4, cell=cell)
    model = learner_named(learner, config, seed)
    rng = np.random.default_rng([seed, 1])
    rows, started = [], time.perf_counter()
    for budget in budgets:
        while model.fixations < budget:
            model.reset()
            model.learn_block(*protocol.block(rng))
        row = {"protocol": name, "learner": learner, "cell": cell, "seed": seed}
        seconds = time.perf_counter() - started
        rows.append(row | {"fixations": budget, "seconds": seconds, **protocol.score(model)})
    return rows


def tables(jobs: list[tuple], processes: int) -> list[dict]:
    """Run the jobs side by side; print each row as it comes, then a table a protocol."""
    rows = []
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for done, result in enumerate(pool.imap_unordered(learn, jobs), 1):
            rows += result
            for row in result:
                print(f"[{done}/{len(jobs)}] {json.dumps(row)}", flush=True)
    for name in PROTOCOLS:
        mine = [row for row in rows if row["protocol"] == name]
        if mine:
            print(f"\n{name}: mean over seeds (lowest .. highest)\n{_table(mine)}")
    if any(row["protocol"] == "glimpses" for row in rows):
        print(f"\nglimpses, ridge on all raw pixels of the image: {Glimpses().raw_accuracy():.3f}")
    return rows


def _table(rows: list[dict]) -> str:
    scores = [column for column in COLUMNS if column in rows[0]]
    lines = [
        f"| learner | cell | fixations | {' | '.join(scores)} |",
        f"|{'---|' * (3 + len(scores))}",
    ]
    keys = sorted(
        {(r["learner"], r["cell"], r["fixations"]) for r in rows},
        key=lambda key: (list(LEARNERS).index(key[0]), key[1], key[2]),
    )
    for key in keys:
        learner, cell, fixations = key
        group = [r for r in rows if (r["learner"], r["cell"], r["fixations"]) == key]
        columns = [_spread([r[column] for r in group]) for column in scores]
        lines.append(f"| {learner} | {cell} | {fixations:,} | {' | '.join(columns)} |")
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    return f"{np.mean(values):.3f} ({min(values):.3f} .. {max(values):.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", nargs="?", choices=(*PROTOCOLS, "cells", "all"), default="all")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    shrink = 20 if options.quick else 1
    jobs = []
    for name in PROTOCOLS:
        budgets = tuple(budget // shrink for budget in BUDGETS[name])
        for seed in range(options.seeds):
            if options.what in (name, "all"):
                jobs += [(name, "RFP", "gated", seed, budgets)]
                jobs += [(name, "zero trace", "gated", seed, budgets)]
                jobs += [(name, "mse", "gated", seed, budgets[:1])]
                jobs += [(name, "untrained", "gated", seed, (0,))]
            if name == "recall" and options.what in (name, "all"):
                jobs += [(name, "RFP, plain gates", "gated", seed, budgets[:2])]
                jobs += [(name, "zero trace, plain gates", "gated", seed, budgets[:2])]
            if options.what == "cells":
                jobs += [(name, "RFP", cell, seed, budgets[1:2]) for cell in CELLS]
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores", flush=True)
    tables(jobs, options.processes)


if __name__ == "__main__":
    main()
