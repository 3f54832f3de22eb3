"""What do robots learn together? Each sees its own places; the fleet is asked about all of them.

    python -m benchmarks.fleet                                fleets of 1, 2, 4 and 8, one seed
    python -m benchmarks.fleet --robots 4 --every 1280,10240,40960 --seeds 3
    python -m benchmarks.fleet --robots 4 --exchange weights  moments stay each robot's own

The protocol `places` (docs/learning.md), of which robot i of N visits every N-th place from the
i-th on. All start from the same weights. After every so many fixations a robot, what each has
learned since is made into one (edge_rjepa/learner/merge.py), and all go on from that; optimiser and
past stay each robot's own. Beside it, at as many fixations a robot: one that visits all places (the
most that a fleet could have), and each robot alone (the least): their mean, lowest and highest.

Rows are printed as JSON as they come, the table last.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks import photographs
from benchmarks.learning import budgets_of
from benchmarks.places import Places
from edge_rjepa import RJepa, RJepaConfig
from edge_rjepa.learner.merge import Lesson, adopt, lesson_of, merged

SCORES = ("all ridge", "z and spread ridge", "z neighbours", "information", "rank")
EXCHANGES = ("lessons", "weights")


class Robot:
    """A learner before its own places, and the blocks that it learns from."""

    def __init__(self, protocol: Places, config: RJepaConfig, seed: int, own: slice, walk: int):
        self.learner = RJepa(config, seed)
        rng = np.random.default_rng([seed, 1, walk])
        self._blocks = protocol.blocks_of(protocol.visited[own], rng)

    def learn_until(self, fixations: int) -> None:
        """Go on until the learner has seen so many."""
        while self.learner.fixations < fixations:
            features, efference, reset_before = next(self._blocks)
            if reset_before:
                self.learner.reset()
            self.learner.learn_block(features, efference)


class Row(NamedTuple):
    """How a fleet, or one of its bounds, did."""

    who: str
    robots: int
    every: int  # fixations a robot between two rounds; 0 for those that do not exchange
    exchange: str
    seed: int
    fixations: int  # a robot
    rounds: int
    megabytes: float  # sent by a robot and to it, in all
    scores: dict[str, float]


def fleet(protocol: Places, config: RJepaConfig, plan: Plan, seed: int) -> Row:
    """Robots that exchange what they have learned."""
    robots = [
        Robot(protocol, config, seed, slice(i, None, plan.robots), i) for i in range(plan.robots)
    ]
    rounds, sent = 0, 0
    while robots[0].learner.fixations < plan.fixations:
        rounds += 1
        for robot in robots:
            robot.learn_until(min(rounds * plan.every, plan.fixations))
        lessons = [lesson_of(robot.learner) for robot in robots]
        together = merged(lessons, counts=[1.0] * len(lessons))  # as many since the last round
        sent += 2 * _bytes(together, plan.exchange)
        for robot, own in zip(robots, lessons, strict=True):
            adopt(robot.learner, _taken(together, own, plan.exchange))
    scores = protocol.score(robots[0].learner)
    return Row(
        "fleet", plan.robots, plan.every, plan.exchange, seed, plan.fixations, rounds,
        sent / 1e6, scores,
    )  # fmt: skip


def _taken(together: Lesson, own: Lesson, exchange: str) -> Lesson:
    """What a robot goes on from; of moments it keeps a sample as large as its own was."""
    if exchange == "weights":
        return own._replace(weights=together.weights)
    return together._replace(sample=own.sample)


def _bytes(lesson: Lesson, exchange: str) -> int:
    arrays = lesson.arrays() if exchange == "lessons" else [lesson.weights]
    return sum(array.nbytes for array in arrays)


def alone(protocol: Places, config: RJepaConfig, plan: Plan, seed: int) -> Row:
    """The same robots without each other: means over them."""
    found = []
    for i in range(plan.robots):
        robot = Robot(protocol, config, seed, slice(i, None, plan.robots), i)
        robot.learn_until(plan.fixations)
        found.append(protocol.score(robot.learner))
    scores = {name: float(np.mean([each[name] for each in found])) for name in found[0]}
    ridges = [each["all ridge"] for each in found]
    scores |= {"all ridge, lowest": min(ridges), "all ridge, highest": max(ridges)}
    return Row("each alone", plan.robots, 0, "", seed, plan.fixations, 0, 0.0, scores)


def sees_all(protocol: Places, config: RJepaConfig, plan: Plan, seed: int) -> Row:
    """One robot before all places."""
    robot = Robot(protocol, config, seed, slice(None), 0)
    robot.learn_until(plan.fixations)
    scores = protocol.score(robot.learner)
    return Row("one that sees all", 1, 0, "", seed, plan.fixations, 0, 0.0, scores)


class Plan(NamedTuple):
    """What a fleet does."""

    robots: int
    every: int
    fixations: int
    exchange: str


def table(rows: list[Row]) -> str:
    """Means over seeds, as Markdown."""
    columns = ["who", "robots", "every", "exchange", "rounds", "MB a robot", *SCORES]
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    keys = dict.fromkeys((row.who, row.robots, row.every, row.exchange) for row in rows)
    for key in keys:
        same = [row for row in rows if (row.who, row.robots, row.every, row.exchange) == key]
        cells = [*map(str, key), str(same[0].rounds), f"{same[0].megabytes:.0f}"]
        cells += [f"{np.mean([row.scores[name] for row in same]):.3f}" for name in SCORES]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--robots", default="1,2,4,8", help="sizes of the fleets (1,2,4,8)")
    parser.add_argument("--every", type=budgets_of, default=(10_240,), help="fixations a round")
    parser.add_argument("--fixations", type=budgets_of, default=(400_000,), help="of each robot")
    parser.add_argument("--exchange", choices=EXCHANGES, default="lessons")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--pictures", type=Path, help="folder of photographs; fetched if it lacks")
    parser.add_argument("--fleets-only", action="store_true", help="without the bounds")
    options = parser.parse_args()
    photographs.require(options.pictures)
    protocol = Places(options.pictures)
    config = RJepaConfig(n_features=protocol.n_features, n_efference=protocol.n_efference)
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores", flush=True)
    rows = []

    def run(what, plan, seed):
        rows.append(what(protocol, config, plan, seed))
        print(json.dumps(rows[-1]._asdict()), flush=True)

    for seed in range(options.seeds):
        for fixations in options.fixations:
            if not options.fleets_only:
                run(sees_all, Plan(1, 0, fixations, ""), seed)
            for robots in map(int, options.robots.split(",")):
                if robots > 1 and not options.fleets_only:
                    run(alone, Plan(robots, 0, fixations, ""), seed)
                for every in options.every if robots > 1 else ():
                    run(fleet, Plan(robots, every, fixations, options.exchange), seed)
    print(table(rows))


if __name__ == "__main__":
    main()
