"""A sweep of settings over the learning protocols, by Ray: on this machine or on a cluster.

    pip install ".[sweep]"
    python -m benchmarks.sweep places --set n_hidden=128,256 --set update_every=8,16 --seeds 2
    python -m benchmarks.sweep glimpses --set learning_rate=1e-3,3e-3 --out rates.jsonl
    python -m benchmarks.sweep places --set n_embedding=128,256 --address auto      on a Ray cluster

Every combination of the values is learned with every seed, each on one core: a job. The rows of a
job, as benchmarks/learning.py makes them, go into --out when it has ended. The same command goes on
where it was stopped: jobs whose rows are there are not run again. A job that fails is told and left
out, and run again the next time. On a cluster the code is sent along; photographs and digits must
be there.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.learning import BUDGETS, COLUMNS, PROTOCOLS, Job, budgets_of, learn, setting_of
from benchmarks.tables import mean_and_range
from edge_rjepa import RJepaConfig

ROOT = Path(__file__).parent.parent
SENT_ALONG = {"working_dir": str(ROOT), "excludes": [".git", ".venv", "docs", "runs", "tests"]}

Row = dict[str, Any]


def values_of(text: str) -> tuple[str, list[object]]:
    """NAME=VALUE,VALUE.. of RJepaConfig: the name and its values, as JSON."""
    name, _, values = text.partition("=")
    setting = setting_of(RJepaConfig)
    return name, [setting(f"{name}={value}")[1] for value in values.split(",")]


def jobs_of(options: argparse.Namespace) -> list[Job]:
    """Every combination of the values, with every seed."""
    names = [name for name, _ in options.set]
    budgets = options.budgets or BUDGETS[options.protocol]
    if options.quick:
        budgets = tuple(budget // 20 for budget in budgets)
    of_protocol = (("folder", options.pictures),) if options.protocol == "places" else ()
    return [
        Job(
            options.protocol, options.learner, "gated", seed, budgets, of_protocol,
            tuple(zip(names, values, strict=True)),
        )
        for values in itertools.product(*(values for _, values in options.set))
        for seed in range(options.seeds)
    ]  # fmt: skip


def is_of(row: Row, job: Job) -> bool:
    """Whether a row is of this job."""
    wanted = {"protocol": job.protocol, "learner": job.learner, "cell": job.cell, "seed": job.seed}
    return (wanted | dict(job.network)).items() <= row.items() and row["fixations"] in job.budgets


def is_done(job: Job, rows: Iterable[Row]) -> bool:
    """Whether its last row is among these."""
    return any(is_of(row, job) and row["fixations"] == job.budgets[-1] for row in rows)


def kept_in(out: Path) -> list[Row]:
    """The rows of a file; a last line that broke off is left out."""
    rows = []
    for line in out.read_text().splitlines() if out.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            print(f"{out}: a line that broke off is left out")
    return rows


def run(jobs: list[Job], out: Path, address: str | None, keep: Callable[[list[Row]], None]) -> None:
    """Run the jobs that are not done, as many at once as there are cores, and keep their rows."""
    import ray

    left = [job for job in jobs if not is_done(job, kept_in(out))]
    print(f"{len(jobs)} jobs, {len(jobs) - len(left)} of them done before", flush=True)
    if not left:
        return
    ray.init(address=address, runtime_env=SENT_ALONG if address else None, log_to_driver=False)
    learned = ray.remote(num_cpus=1)(learn)
    waiting = {learned.remote(job): job for job in left}
    while waiting:
        (ready,), _ = ray.wait(list(waiting), num_returns=1)
        job = waiting.pop(ready)
        told = ", ".join(f"{name}={value}" for name, value in job.network)
        try:
            keep(ray.get(ready))
            print(f"{told}, seed {job.seed}: done, {len(waiting)} left", flush=True)
        except ray.exceptions.RayError as error:
            print(f"{told}, seed {job.seed}: {str(error).splitlines()[-1]}", flush=True)
    ray.shutdown()


def table(jobs: list[Job], rows: list[Row]) -> str:
    """Means over seeds (lowest .. highest), a line for each combination and budget, as Markdown."""
    names = [name for name, _ in jobs[0].network]
    scores = [column for column in COLUMNS if all(column in row for row in rows)]
    lines = [
        f"| {' | '.join([*names, 'fixations', 'seeds', *scores])} |",
        f"|{'---|' * (len(names) + 2 + len(scores))}",
    ]
    for network in dict.fromkeys(job.network for job in jobs):
        for fixations in jobs[0].budgets:
            wanted = {**dict(network), "fixations": fixations}.items()
            same = [row for row in rows if wanted <= row.items()]
            if same:
                values = [*(str(value) for _, value in network), f"{fixations:,}", str(len(same))]
                cells = [
                    *values,
                    *(mean_and_range([row[score] for row in same]) for score in scores),
                ]
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("protocol", choices=PROTOCOLS)
    parser.add_argument(
        "--set", action="append", type=values_of, required=True, metavar="NAME=V,V",
        help="a key of RJepaConfig and its values; can be repeated",
    )  # fmt: skip
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--budgets", type=budgets_of, help="fixations, such as 0.1M,0.4M")
    parser.add_argument("--learner", default="RFP")
    parser.add_argument("--quick", action="store_true", help="a twentieth of the fixations")
    parser.add_argument("--pictures", type=Path, help="folder of photographs, for places")
    parser.add_argument("--out", type=Path, default=Path("sweep.jsonl"))
    parser.add_argument("--address", help="of a Ray cluster; this machine without it")
    options = parser.parse_args()
    jobs = jobs_of(options)

    def keep(rows: list[Row]) -> None:
        with options.out.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)

    run(jobs, options.out, options.address, keep)
    done = [row for row in kept_in(options.out) if any(is_of(row, job) for job in jobs)]
    if done:
        print(table(jobs, done))


if __name__ == "__main__":
    main()
