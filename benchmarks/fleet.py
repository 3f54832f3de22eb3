"""What do robots learn together? Each sees its own places; the fleet is asked about all of them.

    python -m benchmarks.fleet                             fleets of 2, 4 and 8, and their bounds
    python -m benchmarks.fleet --robots 4 --merge bounded,mean,weights --seeds 1
    python -m benchmarks.fleet --robots 4 --noise 1e-4,1e-3 --seeds 1 --fleets-only
    python -m benchmarks.fleet --engine flower --robots 2      is it the same by Flower's engine?

The protocol `places` (docs/learning.md), of which robot i of N visits every N-th place from the
i-th on. All start from the same weights. After every so many fixations a robot, what each has
learned since is made into one, and all go on from that; optimiser and past stay each robot's own.
Beside it, at as many fixations a robot: one that visits all places (the most that a fleet could
have), and each robot alone (the least). --merge:

    bounded   as `edge-rjepa fleet serve` does it (edge_rjepa/fleet/bounded.py)
    mean      all weights and moments averaged (edge_rjepa/learner/merge.py)
    weights   as mean, and moments stay each robot's own

--noise: each robot shortens its update to --clip and adds Gaussian noise to each weight, of this
standard deviation as a share of --clip, before it hands the update out.

Rows go into --out as they come; the same command goes on where it was stopped. --docs puts the
tables of all of them into docs/fleet.md.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import photographs
from benchmarks.learning import budgets_of
from benchmarks.places import FIXATIONS, Places
from benchmarks.protocols import Block
from benchmarks.sweep import kept_in
from benchmarks.tables import Table, mean_and_range, put
from edge_rjepa import RJepa, RJepaConfig
from edge_rjepa.fleet.bounded import merge_bounded
from edge_rjepa.learner.merge import Lesson, adopt, lesson_of, merged

PAGE = Path(__file__).parent.parent / "docs" / "fleet.md"
SCORES = ("all ridge", "all neighbours", "information", "rank")

NETWORK = RJepaConfig()

# Of lessons, the weights they began with, and the fixations of each since then.
Merge = Callable[[list[Lesson], np.ndarray, list[float]], Lesson]
MERGES: dict[str, Merge] = {
    "bounded": lambda lessons, base, since: (
        merge_bounded(lessons, base, since, NETWORK.statistics_fixations).lesson
    ),
    "mean": lambda lessons, base, since: merged(lessons, since),
    "weights": lambda lessons, base, since: merged(lessons, since),
}

Row = dict[str, Any]


class Plan(NamedTuple):
    """What is run, and what tells its row from others."""

    who: str  # of LEARNED
    robots: int
    every: int  # fixations a robot between two rounds; 0 for those that do not exchange
    merge: str  # of MERGES
    noise: float  # standard deviation of a weight, in units of `clip`
    clip: float  # the longest update that a robot hands out, where there is noise
    seed: int
    fixations: int  # of each robot

    @property
    def ends_of_rounds(self) -> list[int]:
        """How many fixations each robot has seen by then."""
        return [*range(self.every, self.fixations, self.every), self.fixations]

    def sight_of(self, number: int) -> Sight:
        """Of its robots."""
        return Sight(self.seed, self.robots, number, self.fixations)


class Sight(NamedTuple):
    """What a robot sees: every `robots`-th place from `number` on."""

    seed: int
    robots: int
    number: int
    fixations: int


@functools.lru_cache(maxsize=8)  # the same robots alone and in fleets, one after another
def before(protocol: Places, sight: Sight) -> list[Block]:
    """What a robot sees, from its first fixation on."""
    rng = np.random.default_rng([sight.seed, 1, sight.number])
    own = protocol.visited[sight.number :: sight.robots]
    return list(itertools.islice(protocol.blocks_of(own, rng), sight.fixations // FIXATIONS))


def learn(learner: RJepa, blocks: list[Block], fixations: int) -> None:
    """Go on until the learner has seen so many."""
    for block in blocks[learner.fixations // FIXATIONS : fixations // FIXATIONS]:
        if block.reset_before:
            learner.reset()
        learner.learn_block(block.features, block.efference)


def alone(protocol: Places, plan: Plan) -> list[RJepa]:
    """Robots that know nothing of each other."""
    learners = [RJepa(NETWORK, plan.seed) for _ in range(plan.robots)]
    for number, learner in enumerate(learners):
        learn(learner, before(protocol, plan.sight_of(number)), plan.fixations)
    return learners


def fleet(protocol: Places, plan: Plan) -> list[RJepa]:
    """Robots that exchange what they have learned: what the server has in the end."""
    together, *learners = (RJepa(NETWORK, plan.seed) for _ in range(1 + plan.robots))
    for end in plan.ends_of_rounds:
        begun = lesson_of(together)
        lessons = [
            learned_in_round(protocol, learner, begun, plan, number, end)
            for number, learner in enumerate(learners)
        ]
        since = [float(plan.every)] * plan.robots
        adopt(together, MERGES[plan.merge](lessons, begun.weights, since))
    return [together]


def learned_in_round(
    protocol: Places, learner: RJepa, begun: Lesson, plan: Plan, number: int, end: int
) -> Lesson:
    """What a robot hands out that has adopted what all begin with."""
    own = lesson_of(learner)._replace(weights=begun.weights)
    adopt(learner, own if plan.merge == "weights" else begun)
    learn(learner, before(protocol, plan.sight_of(number)), end)
    return noisy(lesson_of(learner), begun, plan, number)


def noisy(lesson: Lesson, begun: Lesson, plan: Plan, number: int) -> Lesson:
    """What a robot hands out: with noise, if there is to be any, before it leaves."""
    if plan.noise == 0.0:
        return lesson
    rng = np.random.default_rng([plan.seed, 2, number, lesson.fixations])
    update = lesson.weights.astype(np.float64) - begun.weights
    update *= min(1.0, plan.clip / np.linalg.norm(update))
    update += rng.normal(0.0, plan.noise * plan.clip, update.size)
    return lesson._replace(weights=(begun.weights + update).astype(lesson.weights.dtype))


# Who learns how. One that sees all is a robot alone before every place.
LEARNED = {"untrained": alone, "one that sees all": alone, "each alone": alone, "a fleet": fleet}


def row_of(protocol: Places, plan: Plan) -> Row:
    """How it did: means over the learners that came of it, and what it took."""
    begun_s = time.process_time()
    learners = LEARNED[plan.who](protocol, plan)
    learned_s = time.process_time()
    found = [protocol.score(learner) for learner in learners]
    rounds = len(plan.ends_of_rounds) if plan.every else 0
    arrays = lesson_of(learners[0]).arrays()[: 1 if plan.merge == "weights" else None]
    return {
        **plan._asdict(),
        "rounds": rounds,
        "megabytes": 2e-6 * rounds * sum(array.nbytes for array in arrays),  # to a robot and back
        "learn_s": round(learned_s - begun_s, 1),
        "score_s": round(time.process_time() - learned_s, 1),
        "digest": learners[0].digest,
        "each": [[each[name] for name in SCORES] for each in found],
        **{name: float(np.mean([each[name] for each in found])) for name in found[0]},
    }


def plans(options: argparse.Namespace) -> Iterator[Plan]:
    """Seed by seed, and size by size: first each alone, then fleets of the same robots."""
    for seed in range(options.seeds):
        usual = Plan("", 1, 0, "", 0.0, 0.0, seed, options.fixations)
        if not options.fleets_only:
            yield usual._replace(who="untrained", fixations=0)
            yield usual._replace(who="one that sees all")
        for robots in options.robots:
            if not options.fleets_only:
                yield usual._replace(who="each alone", robots=robots)
            for merge, noise, every in itertools.product(
                options.merge, options.noise, options.every
            ):
                yield Plan(
                    "a fleet", robots, every, merge, noise, options.clip if noise else 0.0,
                    seed, options.fixations,
                )  # fmt: skip


def is_of(row: Row, plan: Plan) -> bool:
    """Whether a row is of this plan."""
    return plan._asdict().items() <= row.items()


def tables(rows: list[Row]) -> dict[str, str]:
    """By name: all without noise; and with noise, beside the same fleets without it."""
    noisy_fleets = {_fleet(row) for row in rows if row["noise"]}
    return {
        "fleet": table([row for row in rows if not row["noise"]]),
        "noise": table([row for row in rows if _fleet(row) in noisy_fleets]),
    }


def table(rows: list[Row]) -> str:
    """Means over seeds (lowest .. highest), as Markdown."""
    heading = (
        "who", "robots", "fixations each", "every", "merge", "noise", "rounds", "MB a robot",
        "seeds", *SCORES,
    )  # fmt: skip
    lines = []
    for kind in sorted({_kind(row) for row in rows}):
        same = [row for row in rows if _kind(row) == kind]
        row = same[0]
        lines.append(
            (
                row["who"], str(row["robots"]), f"{row['fixations']:,}",
                f"{row['every']:,}" if row["every"] else "",
                row["merge"], f"{row['noise']:g}" if row["noise"] else "",
                str(row["rounds"] or ""), f"{row['megabytes']:.0f}" if row["rounds"] else "",
                str(len(same)), *(of_seeds([each[name] for each in same]) for name in SCORES),
            )
        )  # fmt: skip
    used = [i for i in range(len(heading)) if any(line[i] for line in lines)]
    heading, *lines = (tuple(line[i] for i in used) for line in (heading, *lines))
    return str(Table(heading, lines))


def of_seeds(values: list[float]) -> str:
    """As a cell."""
    return mean_and_range(values) if len(values) > 1 else f"{values[0]:.3f}"


def _fleet(row: Row) -> tuple[object, ...]:
    """What a fleet with noise has in common with one without."""
    return tuple(row[name] for name in Plan._fields if name not in ("noise", "clip"))


def _kind(row: Row) -> tuple[object, ...]:
    """What rows of several seeds have in common, in the order of the table."""
    rest = (row[name] for name in Plan._fields if name not in ("who", "seed"))
    return (list(LEARNED).index(row["who"]), *rest)


def numbers(kind: type) -> Callable[[str], list[Any]]:
    """What reads NUMBER,NUMBER.."""
    return lambda text: [kind(part) for part in text.split(",")]


def merges(text: str) -> list[str]:
    """NAME,NAME.. of MERGES."""
    names = text.split(",")
    if not MERGES.keys() >= set(names):
        raise ValueError(text)
    return names


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--robots", type=numbers(int), default=[2, 4, 8], help="of fleets (2,4,8)")
    parser.add_argument(
        "--every", type=budgets_of, default=(1280, 10_240), help="fixations a round (1280,10240)"
    )
    parser.add_argument("--fixations", type=int, default=61_440, help="of each robot (61440)")
    parser.add_argument("--merge", type=merges, default=["bounded"], help="names (bounded)")
    parser.add_argument("--noise", type=numbers(float), default=[0.0], help="shares of --clip (0)")
    parser.add_argument("--clip", type=float, default=10.0, help="longest update with noise (10)")
    parser.add_argument("--seeds", type=int, default=3, help="how many (3)")
    parser.add_argument("--fleets-only", action="store_true", help="without the bounds")
    parser.add_argument(
        "--engine", choices=("here", "flower"), default="here",
        help="flower: by Flower's simulation as well, compared, and not scored",
    )  # fmt: skip
    parser.add_argument("--pictures", type=Path, help="folder of photographs; fetched if it lacks")
    parser.add_argument("--out", type=Path, default=Path("fleet.jsonl"))
    parser.add_argument("--docs", action="store_true", help="put the table into docs/fleet.md")
    options = parser.parse_args()
    if options.engine == "flower":
        compare(options)
    else:
        measure(options)


def compare(options: argparse.Namespace) -> None:
    """Of every fleet that the options ask for: whether Flower's engine gives the same."""
    from benchmarks.fleet_flower import compared

    for plan in plans(options):
        if plan.who == "a fleet":
            print(compared(photographs.require(options.pictures), plan), flush=True)


def measure(options: argparse.Namespace) -> None:
    """Run what is left, and print the table."""
    left = [
        plan for plan in plans(options) if not any(is_of(r, plan) for r in kept_in(options.out))
    ]
    if left:
        photographs.require(options.pictures)
        protocol = Places(options.pictures, few_labels=(), poolings=("all",))
        print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores", flush=True)
    for plan in left:
        line = json.dumps(row_of(protocol, plan))
        print(line, flush=True)
        with options.out.open("a") as file:
            file.write(line + "\n")
    for name, text in tables(kept_in(options.out)).items():
        print(f"\n{name}\n{text}")
        if options.docs:
            put(PAGE, name, text)


if __name__ == "__main__":
    main()
