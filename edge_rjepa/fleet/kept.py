"""What a fleet has learned, and its folder: `export` and the other commands take it as a run's.

config.toml              the network; everything else is as `learn` has it by default
checkpoint.safetensors   the encoder, and where the fleet stands; the versions before it
"""

from __future__ import annotations

import secrets
from collections import deque
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

from edge_rjepa.errors import CheckpointError, ConfigError
from edge_rjepa.fleet.parcel import digest
from edge_rjepa.learner.merge import Lesson, adopt, lesson_of
from edge_rjepa.learner.rjepa import RJepa
from edge_rjepa.run.config import RunConfig
from edge_rjepa.run.run import CHECKPOINT, CONFIG, load_run
from safe_files.errors import FileError
from safe_files.plain import plain, rebuilt
from safe_files.writing import make_private_folder, newest, write_atomic

REMEMBERED = 256  # lessons: a robot that comes back learns whether its last one was merged
ROOM_BYTES = 1 << 20  # beside a lesson
VERSIONS = 3  # of the checkpoint that stay


class Standing(NamedTuple):
    """Where a fleet stands."""

    fleet: str  # drawn at random when it began
    round: int  # the one that is next
    learned: int  # fixations that its lesson is of
    taken: list[str]  # digests of the lessons that were merged last


class Fleet:
    """The fleet's encoder with its standing, in a folder."""

    def __init__(self, folder: Path, config: RunConfig, learner: RJepa, standing: Standing) -> None:
        self.folder = folder
        self.config = config
        self._learner = learner
        self.standing = standing

    @classmethod
    def opened(cls, folder: Path, config: RunConfig | None, start: Path | None) -> Fleet:
        """The fleet that the folder holds; a new one, kept there, if it is empty.

        config: of a new fleet's network. start: a run whose encoder a new fleet begins with. Raises
        ConfigError where the folder holds a fleet and one of these is given, or something else.
        """
        if newest(folder / CHECKPOINT):
            if config is not None or start is not None:
                raise ConfigError(
                    f"{folder} holds a fleet, which goes on as it began: leave --config and "
                    "--start out, or name another folder"
                )
            return cls._loaded(folder)
        if start is not None:
            kept = load_run(start)
            config, learner = kept.config, kept.learner.to("cpu")
        else:
            config = config or RunConfig()
            learner = RJepa(config.network, config.seed)
        # Of a robot's run nothing stays but the network: neither its camera nor its place.
        config = replace(
            RunConfig(), network=config.network, retina=config.retina, gaze=config.gaze,
            monitor=config.monitor, seed=config.seed,
        )  # fmt: skip
        standing = Standing(secrets.token_hex(4), 1, learner.fixations, [])
        fleet = cls(folder, config, learner, standing)
        make_private_folder(folder)
        write_atomic(folder / CONFIG, config.to_toml().encode())
        fleet.save()
        return fleet

    @classmethod
    def _loaded(cls, folder: Path) -> Fleet:
        kept = load_run(folder)
        try:
            standing = rebuilt(Standing, kept.notes.get("fleet"), "fleet")
        except FileError as error:
            raise CheckpointError(
                f"{folder} holds a run and no fleet: name another folder, and begin the fleet "
                f"with --start {folder}"
            ) from error
        return cls(folder, kept.config, kept.learner, standing)

    @property
    def lesson(self) -> Lesson:
        """What is handed out to robots: copies."""
        return lesson_of(self._learner)

    @property
    def lesson_bytes(self) -> int:
        """Of the arrays of a lesson."""
        return sum(array.nbytes for array in self.lesson.arrays())

    @property
    def most_bytes(self) -> int:
        """Of what a robot sends at once: room for its lesson."""
        return self.lesson_bytes + ROOM_BYTES

    def learn(self, lesson: Lesson, since: int, taken: list[Lesson]) -> None:
        """Go on from what was merged of `taken`, and keep it. Raises CheckpointError."""
        adopt(self._learner, lesson)
        standing = self.standing
        known = deque([*standing.taken, *map(digest, taken)], maxlen=REMEMBERED)
        self.standing = standing._replace(
            round=standing.round + 1, learned=standing.learned + since, taken=list(known)
        )
        self.save()

    def save(self) -> None:
        """Write the checkpoint, whole or not at all. Raises CheckpointError."""
        notes = {"config": asdict(self.config), "fleet": plain(self.standing)}
        self._learner.save(self.folder / CHECKPOINT, notes, keep=VERSIONS)
