"""Several learners at once: cameras, robots, seeds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from edge_rjepa.errors import ConfigError, InputError
from edge_rjepa.learner import cells
from edge_rjepa.learner.config import RJepaConfig
from edge_rjepa.learner.engines import open_engine
from edge_rjepa.learner.rjepa import BlockReport, RJepa


class RJepaBatch:
    """B independent learners of one network that step together: `batch[i]` is the i-th, an RJepa.

    config: of every one. seeds: of their initial weights, one each. device: one of engines.DEVICES.

    A learner of a batch may also be used alone (`save`, `embed`, `reset`, `learn_block`, its
    learning rate ..), and is, to the bit, what it would be if it always had been on that device.
    Raises ConfigError for no seeds, DeviceError as RJepa does.
    """

    def __init__(
        self,
        config: RJepaConfig | None = None,
        seeds: Sequence[int] = (0,),
        device: str = "cpu",
    ):
        self.config = config or RJepaConfig()
        if not len(seeds):
            raise ConfigError("a batch of no learners: give a seed for each")
        cell = cells.find(self.config.cell)
        self.engine = open_engine(self.config, cell, len(seeds), device)
        self._learners = [
            RJepa(self.config, seed, engine=self.engine.slot(i)) for i, seed in enumerate(seeds)
        ]

    @classmethod
    def of(cls, learners: Iterable[RJepa], device: str = "cpu") -> RJepaBatch:
        """A batch that goes on from where these learners are; they stay as they are.

        Raises ConfigError where they are not all of the same configuration.
        """
        learners = list(learners)
        if len({learner.config for learner in learners}) > 1:
            raise ConfigError("learners of different configurations: a batch has one")
        batch = cls(learners[0].config if learners else None, [0] * len(learners), device)
        for slot, learner in zip(batch, learners, strict=True):
            slot._take_over(learner)
        return batch

    def __len__(self) -> int:
        return len(self._learners)

    def __getitem__(self, i: int) -> RJepa:
        return self._learners[i]

    def __iter__(self) -> Iterator[RJepa]:
        return iter(self._learners)

    @property
    def device(self) -> str:
        """Where they learn: "cpu" or "cuda"."""
        return self.engine.device

    @property
    def nbytes(self) -> int:
        """Bytes of every array of all learners; all were made at the start."""
        return self.engine.nbytes

    def learn_blocks(
        self, features: Sequence[np.ndarray], efference: Sequence[np.ndarray]
    ) -> list[BlockReport]:
        """A block for each learner: features (B, K, f), efference (B, K, A), one K for all.

        Raises InputError, with nothing learned by any, where one block is not what RJepa takes.
        """
        B = len(self)
        if not (len(features) == len(efference) == B):
            raise InputError(
                f"features of {len(features)} learners, efference of {len(efference)}: "
                f"this batch has {B}"
            )
        blocks = [
            learner._check_block(*block)
            for learner, *block in zip(self._learners, features, efference, strict=True)
        ]
        lengths = {len(features) for features, _ in blocks}
        if len(lengths) > 1:
            raise InputError(f"blocks of {sorted(lengths)} fixations: give every learner as many")
        steps = [
            learner._next_step(*block)
            for learner, block in zip(self._learners, blocks, strict=True)
        ]
        learned = self.engine.learn(steps)
        return [
            learner._report(each) for learner, each in zip(self._learners, learned, strict=True)
        ]

    def reset(self) -> None:
        """All forget the past; their weights stay."""
        self.engine.reset()
