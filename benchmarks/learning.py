"""Does it learn? The protocols `places`, `glimpses` and `recall` against their controls, as tables.

    python -m benchmarks.learning                     all protocols, two seeds: about an hour
    python -m benchmarks.learning glimpses --seeds 3
    python -m benchmarks.learning places --seeds 3 --budgets 0,0.4M,10M --learner RFP
    python -m benchmarks.learning places --elsewhere --visits 20:500 --out rows.jsonl
    python -m benchmarks.learning places --set n_embedding=256 --set update_every=8
    python -m benchmarks.learning places --retina orientation_scales=0
    python -m benchmarks.learning places --peers      what else tells places apart, at what cost
    python -m benchmarks.learning cells               every cell on glimpses and recall
    python -m benchmarks.learning --quick             a twentieth of everything: does it run?

Rows are printed as JSON as they come, the tables last.

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
import dataclasses
import json
import math
import multiprocessing
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import threadpoolctl

from benchmarks import photographs, places_peers
from benchmarks.places import Places
from benchmarks.protocols import FEW_LABELS, Glimpses, Recall
from benchmarks.tables import mean_and_range
from edge_rjepa import RJepa, RJepaConfig
from edge_rjepa.eye.config import RetinaConfig
from edge_rjepa.learner.cells import CELLS, find
from edge_rjepa.learner.engines.cpu import CpuEngine, Stream

COLUMNS = (  # of a table; a row has more. Information in nats, rank of n_z
    "z ridge", "z neighbours", "z and spread ridge", "all ridge", "all neighbours",
    "accuracy", f"ridge, {FEW_LABELS}", f"neighbours, {FEW_LABELS}", "recall", "late recall",
    "information", "rank", "std", "saturation",
)  # fmt: skip
PROTOCOLS = {"places": Places, "glimpses": Glimpses, "recall": Recall}
BUDGETS = {
    "places": (100_000, 400_000, 1_600_000),
    "glimpses": (144_000, 288_000, 480_000),
    "recall": (288_000, 576_000, 1_152_000),
}


@dataclass(frozen=True)
class Job:
    """One learner on one protocol: a row for each budget, in fixations."""

    protocol: str
    learner: str
    cell: str
    seed: int
    budgets: tuple[int, ...]
    options: tuple[tuple[str, object], ...] = ()  # of the protocol
    network: tuple[tuple[str, object], ...] = ()  # of RJepaConfig, in place of its defaults


@cache
def protocol_named(name: str, options: tuple[tuple[str, object], ...] = ()):
    """One of PROTOCOLS, made once a process."""
    return PROTOCOLS[name](**dict(options))


class MeanSquaredError(Stream):
    """1/2 |z - zhat|^2 as the whole objective, both sides trained."""

    def objective(self, ws):
        loss = super().objective(ws)
        np.negative(ws.e, out=ws.d_zhat)
        np.copyto(ws.d_z[1:], ws.e)
        return loss


class ZeroTrace(Stream):
    """Sensitivities that forget at once: no credit for what was written into memory earlier."""

    def assign_credit(self, ws):
        ws.J[:] = 0
        super().assign_credit(ws)


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


def learn(job: Job, out: Path | None = None) -> list[dict]:
    """Run a job; print each row as it comes, and append it to `out`."""
    protocol = protocol_named(job.protocol, job.options)
    config = RJepaConfig(
        **{"n_features": protocol.n_features, "n_efference": protocol.n_efference}
        | {"cell": job.cell, **dict(job.network)}
    )
    model = learner_named(job.learner, config, job.seed)
    blocks = protocol.blocks(np.random.default_rng([job.seed, 1]))
    rows, seconds = [], 0.0
    for budget in job.budgets:
        started = time.perf_counter()
        while model.fixations < budget:
            features, efference, reset_before = next(blocks)
            if reset_before:
                model.reset()
            model.learn_block(features, efference)
        seconds += time.perf_counter() - started
        row = {"protocol": job.protocol, "learner": job.learner, "cell": job.cell}
        row |= {"seed": job.seed, **{n: v for n, v in job.options if v and n != "folder"}}
        row |= {**dict(job.network), "fixations": budget, "seconds": round(seconds, 1)}
        rows.append(row | protocol.score(model))
        line = json.dumps(rows[-1])
        print(line, flush=True)
        if out:
            with out.open("a") as file:
                file.write(line + "\n")
    return rows


def tables(jobs: list[Job], processes: int, out: Path | None) -> None:
    """Run the jobs side by side, then print a table a protocol."""
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        results = [pool.apply_async(learn, (job, out)) for job in jobs]
        rows = [row for result in results for row in result.get()]
    for name in PROTOCOLS:
        mine = [row for row in rows if row["protocol"] == name]
        if mine:
            print(f"\n{name}: mean over seeds (lowest .. highest)\n{_table(mine)}")
    if any(row["protocol"] == "glimpses" for row in rows):
        told = (f"{name} {share:.3f}" for name, share in Glimpses().raw_accuracy().items())
        print(f"\nglimpses, all raw pixels of the image: {'; '.join(told)}")


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
        columns = [mean_and_range([r[column] for r in group]) for column in scores]
        lines.append(f"| {learner} | {cell} | {fixations:,} | {' | '.join(columns)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", nargs="?", choices=(*PROTOCOLS, "cells", "all"), default="all")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--budgets", type=budgets_of, help="fixations, such as 0,0.1M,400000")
    parser.add_argument(
        "--learner", action="append", choices=LEARNERS, help="only this one; can be repeated"
    )
    parser.add_argument(
        "--set", action="append", type=setting_of(RJepaConfig), default=[], metavar="NAME=VALUE",
        help="of RJepaConfig, the value as JSON; can be repeated",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, help="append the rows to this file, too")
    places = parser.add_argument_group("places")
    places.add_argument("--pictures", type=Path, help="folder of photographs; fetched if it lacks")
    places.add_argument(
        "--elsewhere", action="store_true", help="learn from paintings and drawings only"
    )
    places.add_argument(
        "--visits", type=visits, metavar="FEWEST:MOST", help="frames of a visit, log-uniform"
    )
    places.add_argument(
        "--retina", action="append", type=setting_of(RetinaConfig), default=[],
        metavar="NAME=VALUE", help="of RetinaConfig, as --set",
    )  # fmt: skip
    places.add_argument("--peers", action="store_true", help="what else tells places apart")
    places.add_argument("--efficientnet", type=Path, help="folder of its environment")
    options = parser.parse_args()
    if options.peers:
        threadpoolctl.threadpool_limits(1)  # as the learner
        print(places_peers.table(Places(options.pictures), options.efficientnet))
        return
    jobs = jobs_of(options)
    if any(job.protocol == "places" for job in jobs):
        photographs.require(options.pictures)  # before processes fetch them side by side
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores", flush=True)
    tables(jobs, options.processes, options.out)


def jobs_of(options: argparse.Namespace) -> list[Job]:
    """What the command line asks for."""
    jobs: list[Job] = []
    for name in PROTOCOLS:
        of_protocol: tuple = ()
        if name == "places":
            of_protocol = (("folder", options.pictures), ("elsewhere", options.elsewhere))
            if options.retina:
                of_protocol += (("retina", tuple(options.retina)),)
            if options.visits:
                of_protocol += (("visit_frames", options.visits),)
        budgets = options.budgets or BUDGETS[name]
        if options.quick:
            budgets = tuple(budget // 20 for budget in budgets)

        def add(learner, cell, budgets, seed, name=name, of_protocol=of_protocol):
            wanted = not options.learner or learner in options.learner
            if wanted and budgets:
                network = tuple(options.set)
                jobs.append(Job(name, learner, cell, seed, budgets, of_protocol, network))

        for seed in range(options.seeds):
            if options.what in (name, "all"):
                learned = tuple(budget for budget in budgets if budget)
                # Collapse shows early; all that was asked for by name is run.
                few = learned if options.learner or options.budgets else learned[:1]
                add("untrained", "gated", (0,), seed)
                add("RFP", "gated", learned, seed)
                add("zero trace", "gated", learned, seed)
                add("mse", "gated", few, seed)
                if name == "recall":
                    add("RFP, plain gates", "gated", learned[:2], seed)
                    add("zero trace, plain gates", "gated", learned[:2], seed)
            if options.what == "cells" and name != "places":
                for cell in CELLS:
                    add("RFP", cell, budgets[1:2], seed)
    return jobs


def budgets_of(text: str) -> tuple[int, ...]:
    """'0,0.1M,400000' as numbers of fixations, fewest first."""
    numbers = (
        float(part.removesuffix("M")) * (1e6 if part.endswith("M") else 1)
        for part in text.split(",")
    )
    return tuple(sorted(round(number) for number in numbers))


def visits(text: str) -> tuple[int, int]:
    """'20:500' as fewest and most frames."""
    fewest, most = map(int, text.split(":"))
    if not 0 < fewest <= most:
        raise ValueError(text)
    return fewest, most


def setting_of(config: type) -> Callable[[str], tuple[str, object]]:
    """What reads NAME=VALUE of that configuration, the value as JSON; what is no JSON is text."""
    names = [field.name for field in dataclasses.fields(config)]

    def setting(text: str) -> tuple[str, object]:
        name, _, value = text.partition("=")
        if name not in names:
            raise argparse.ArgumentTypeError(f"{config.__name__} has no {name}")
        try:
            return name, json.loads(value)
        except json.JSONDecodeError:
            return name, value

    return setting


if __name__ == "__main__":
    main()
