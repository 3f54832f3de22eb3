"""What one hostile robot of four does to a fleet, by the rule that merges: docs/fleet.md's table.

Four learners, each before eight photographs of its own, learn for 15 rounds of 1008 fixations from
the same start. The fourth sends what is made to harm. The fleet's lesson is then judged at all
places, on fixations that nobody learned from: by predictive information, in nats.

    python -m benchmarks.fleet_attacks [--rounds N]
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np

from benchmarks import photographs
from benchmarks.tables import Table
from edge_rjepa.errors import InputError
from edge_rjepa.eye.config import GazePolicy
from edge_rjepa.eye.eye import Eye
from edge_rjepa.eye.gaze import Gaze
from edge_rjepa.eye.retina import Retina
from edge_rjepa.fleet.bounded import merge_bounded
from edge_rjepa.learner.config import RJepaConfig
from edge_rjepa.learner.merge import Lesson, adopt, lesson_of, merged
from edge_rjepa.learner.objective import information
from edge_rjepa.learner.rjepa import RJepa
from edge_rjepa.run.config import RunConfig
from edge_rjepa.sources import open_source

ROBOTS, PICTURES = 4, 8
FRAMES, FIXATIONS = 63, 16  # of a round, of a frame
JUDGED_FRAMES, JUDGED_SEED = 80, 100
NETWORK = RJepaConfig(n_embedding=64, n_hidden=64, n_predictor=64, n_gain=16, max_block=16)

Block = tuple[np.ndarray, np.ndarray]  # features (K, f), efference (K, A)
Attack = Callable[[Lesson, np.ndarray, np.ndarray, np.random.Generator], Lesson]


def along(own: Lesson, base: np.ndarray, update: np.ndarray) -> Lesson:
    """A lesson with this update."""
    return own._replace(weights=(base + update).astype(np.float32))


def as_long(update: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The first update, as long as the other is."""
    return update * np.linalg.norm(other) / np.linalg.norm(update)


# Of the hostile robot's own lesson, the weights it began with, the mean of the others' updates.
ATTACKS: dict[str, Attack] = {
    "a usual length, at random": lambda own, base, mean, rng: along(
        own, base, as_long(rng.normal(size=base.size), own.weights - base)
    ),
    "a usual length, against the others": lambda own, base, mean, rng: along(
        own, base, as_long(-mean, own.weights - base)
    ),
    "ten times the others, against them": lambda own, base, mean, rng: along(own, base, -10 * mean),
    "all weights 0": lambda own, base, mean, rng: along(own, base, -base),
    "huge weights": lambda own, base, mean, rng: along(own, base, 1e3 * rng.normal(size=base.size)),
    "wrong moments": lambda own, base, mean, rng: own._replace(
        mean=np.ones_like(own.mean),
        covariance=1e-6 * np.eye(len(own.mean), dtype=np.float32),
        error_covariance=4.0 * np.eye(len(own.mean), dtype=np.float32),
    ),
}


def trimmed(lessons: list[Lesson]) -> Lesson:
    """The mean without the largest and the smallest of each weight: of four, the median, too."""
    weights = np.sort([lesson.weights for lesson in lessons], axis=0)[1:-1].mean(axis=0)
    return merged(lessons)._replace(weights=weights.astype(np.float32))


def krum(lessons: list[Lesson]) -> Lesson:
    """The lesson that is nearest to its nearest neighbour (Blanchard et al., 2017, one hostile)."""
    weights = np.stack([lesson.weights.astype(np.float64) for lesson in lessons])
    apart = np.square(weights[:, None] - weights[None]).sum(axis=-1)
    return lessons[int(np.argmin(np.sort(apart, axis=1)[:, 1]))]


RULES: dict[str, Callable[[list[Lesson], np.ndarray], Lesson]] = {
    "mean": lambda lessons, base: merged(lessons),
    "trimmed mean": lambda lessons, base: trimmed(lessons),
    "Krum": lambda lessons, base: krum(lessons),
    "shortened and trimmed (ours)": lambda lessons, base: (
        merge_bounded(
            lessons, base, [FRAMES * FIXATIONS] * len(lessons), NETWORK.statistics_fixations
        ).lesson
    ),
}


def blocks(folder: Path, seed: int) -> Iterator[Block]:
    """What a robot sees, frame by frame, at a place of these pictures."""
    config = RunConfig(source=f"scene:{folder}", network=NETWORK)
    source = open_source(config.source, seed)
    gaze = replace(config.gaze, policy=GazePolicy.RANDOM.value)
    eye = Eye(Gaze(gaze, seed), Retina(config.retina))
    while True:
        frame = source.read_next(100.0)
        plan, features = eye.look(source.camera, frame.image, frame.head_rad, FIXATIONS)
        yield features, plan.efference


def judged(lesson: Lesson, unseen: list[list[Block]]) -> float:
    """Predictive information, mean over the places."""
    learner = RJepa(NETWORK, 0)
    adopt(learner, lesson)
    found = []
    for place in unseen:
        learner.reset()
        seen = [learner.predict(*block) for block in place]
        z, z_hat = (np.concatenate([getattr(one, name) for one in seen]) for name in ("z", "z_hat"))
        found.append(information(z, z_hat, NETWORK.noise_floor))
    return float(np.mean(found))


def learned(rule: str, attack: Attack | None, robots: int, places: list[list[Block]]) -> Lesson:
    """What a fleet of so many robots has learned in the end."""
    learners = [RJepa(NETWORK, 0) for _ in range(robots)]
    fleet, rng = lesson_of(learners[0]), np.random.default_rng(0)
    for begin in range(0, len(places[0]), FRAMES):
        for learner, place in zip(learners, places, strict=False):
            for block in place[begin : begin + FRAMES]:
                learner.learn_block(*block)
        lessons = [lesson_of(learner) for learner in learners]
        if attack is not None:
            base = fleet.weights.astype(np.float64)
            mean = np.mean([lesson.weights - base for lesson in lessons[:-1]], axis=0)
            lessons[-1] = attack(lessons[-1], base, mean, rng)
        fleet = RULES[rule](lessons, fleet.weights)
        for learner in learners:
            adopt(learner, fleet)
    return fleet


def cell(rule: str, attack: Attack | None, robots: int, places, unseen) -> str:
    """Of the table."""
    try:
        return f"{judged(learned(rule, attack, robots, places), unseen):.2f}"
    except InputError as error:
        return f"ends: {error}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    pictures = sorted((photographs.require() / "monuments").iterdir())
    with tempfile.TemporaryDirectory() as temporary:
        folders = [Path(temporary) / str(i) for i in range(ROBOTS)]
        for i, folder in enumerate(folders):
            folder.mkdir()
            for picture in pictures[i::ROBOTS][:PICTURES]:
                shutil.copy(picture, folder)
        places = [
            list(islice(blocks(folder, i), rounds * FRAMES)) for i, folder in enumerate(folders)
        ]
        unseen = [
            list(islice(blocks(folder, JUDGED_SEED + i), JUDGED_FRAMES))
            for i, folder in enumerate(folders)
        ]
    cases: list[tuple[str, Attack | None, int]] = [
        ("four honest robots", None, ROBOTS),
        ("three honest robots, no fourth", None, ROBOTS - 1),
        *((name, attack, ROBOTS) for name, attack in ATTACKS.items()),
    ]
    rows = [
        (name, *(cell(rule, attack, robots, places, unseen) for rule in RULES))
        for name, attack, robots in cases
    ]
    print(Table(("the fourth robot sends", *RULES), rows))


if __name__ == "__main__":
    main()
