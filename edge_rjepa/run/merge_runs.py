"""Runs that learned apart made into one, by hand: what a fleet does, once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edge_rjepa.errors import ConfigError
from edge_rjepa.learner.merge import Lesson, adopt, lesson_of, merged
from edge_rjepa.run.monitor import Monitor, health_of
from edge_rjepa.run.run import CHECKPOINT, CONFIG, GOOD, METRICS, LoadedRun, load_run
from safe_files.writing import make_private_folder, write_atomic


class Made(NamedTuple):
    """What a run was made of."""

    fixations: int  # of all runs
    problems: list[str]  # why an older checkpoint than the latest had to do, in words


def merge_runs(folders: Sequence[Path], out: Path) -> Made:
    """Write into `out` a run that has learned what all of these have.

    It goes on where the first one stands: its source, gaze and optimiser. Each run weighs as many
    fixations as it has seen, and it counts those of all. Raises ConfigError for runs that cannot be
    averaged: of different networks, begun with different seeds, collapsed, or one named twice; and
    for an `out` that is not empty.
    """
    if len(folders) < 2:
        raise ConfigError("name two runs, or more")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} is not an empty folder: name a new one")
    runs = [load_run(folder) for folder in folders]
    for folder, run in zip(folders, runs, strict=True):
        _check_fits(folder, run, folders[0], runs[0])
    lessons = [lesson_of(run.learner) for run in runs]
    _check_all_differ(folders, lessons)
    first = runs[0]
    together = merged(lessons)
    adopt(first.learner, together)
    first.learner.fixations = together.fixations  # else a later merge weighs it as the first alone
    first.learner.reset()  # the past was another network's
    make_private_folder(out)
    write_atomic(out / CONFIG, first.config.to_toml().encode(errors="surrogateescape"))
    write_atomic(out / METRICS, b"")  # as every run has them, by which the page knows one
    for name in (GOOD, CHECKPOINT):
        first.learner.save(out / name, first.notes)
    return Made(together.fixations, [problem for run in runs for problem in run.problems])


def _check_all_differ(folders: Sequence[Path], lessons: Sequence[Lesson]) -> None:
    """Raises ConfigError where one run is there twice: by a link, or as a copy, too."""
    for (one, lesson), (other, again) in combinations(zip(folders, lessons, strict=True), 2):
        alike = all(map(np.array_equal, lesson.arrays(), again.arrays()))
        if one.samefile(other) or (alike and lesson.fixations > 0):
            raise ConfigError(
                f"{one} and {other} are the same run, which would count twice: name it once"
            )


def _check_fits(folder: Path, run: LoadedRun, first_folder: Path, first: LoadedRun) -> None:
    """Raises ConfigError where a run cannot be averaged with the first one."""
    same = replace(run.config.network, learning_rate=first.config.network.learning_rate)
    if same != first.config.network or run.config.retina != first.config.retina:
        raise ConfigError(
            f"{folder} has another network or retina than {first_folder}: merge runs of one "
            "configuration"
        )
    if run.config.seed != first.config.seed:
        raise ConfigError(
            f"{folder} was begun with seed {run.config.seed}, {first_folder} with "
            f"{first.config.seed}: their units stand in another order, and a mean of them is "
            "neither; begin runs that are to be merged with the same seed"
        )
    broken = Monitor(run.config.monitor).broken(health_of(run.learner))
    if broken and run.learner.fixations:
        raise ConfigError(f"{folder} has collapsed ({broken}): leave it out")
