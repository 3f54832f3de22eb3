"""Several runs in one thread: many cameras, each with a run of its own, or one encoder for all.

Every run keeps its own folder, pace, gaze and faults. They take turns: each looks at its newest
frame, if there is one, and then all learn: side by side in one batch, where every one of them has a
block of the same length, else one after the other. A run that fails or ends leaves the others be.
"""

from __future__ import annotations

import operator
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from typing import Protocol

from edge_rjepa.errors import RJepaError
from edge_rjepa.learner.batch import RJepaBatch
from edge_rjepa.learner.rjepa import BlockReport, RJepa
from edge_rjepa.run.loop import Block, Learning, answer
from edge_rjepa.run.run import Run

IDLE_S = 0.002  # until it is looked again whether any camera has a picture

Taught = Mapping[int, BlockReport | RJepaError]  # by the run's number


def learn_together(
    runs: Sequence[Run], learnings: Sequence[Learning[None]], share: bool = False
) -> list[RJepaError | None]:
    """Run each of `Run.learning` to its end; what ended each, None for a run that ended well.

    share: all learn with one learner, that of the run which has seen most. Each run's past stays
    its own: what one camera showed says nothing of what another looks at next.
    """
    for run in runs:
        run.loop.wait_ms = 0.0  # a camera that is away must not hold up the others
    learners: _Learners = _Shared(runs) if share else _Separate(runs)
    ended: list[RJepaError | None] = [None] * len(runs)
    taught: dict[int, BlockReport | RJepaError | None] = dict.fromkeys(range(len(runs)))
    with ExitStack() as opened:
        for learning in learnings:
            opened.enter_context(closing(learning))
        while taught:
            blocks = {}
            for i, lesson in list(taught.items()):
                learners.turn_to(i)
                try:
                    block = answer(learnings[i], lesson)
                except (StopIteration, RJepaError) as end:
                    ended[i] = end if isinstance(end, RJepaError) else None
                    del taught[i]
                    continue
                taught[i] = None
                if block is not None:
                    blocks[i] = block
            taught |= learners.learn(blocks)
            if not blocks:
                time.sleep(IDLE_S)
    return ended


class _Learners(Protocol):
    def turn_to(self, i: int) -> None:
        """Before the i-th run does anything."""

    def learn(self, blocks: Mapping[int, Block]) -> Taught:
        """What these taught, or what went wrong."""


class _Separate:
    """A learner for each run; they step in one batch where they can."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self._runs = runs
        self._batch: RJepaBatch | None = None

    def turn_to(self, i: int) -> None:
        """Nothing to do."""

    def learn(self, blocks: Mapping[int, Block]) -> Taught:
        """All at once, where every run has as many fixations; else one after the other."""
        lengths = {len(block.features) for block in blocks.values()}
        if len(blocks) < len(self._runs) or len(lengths) > 1 or not self._are_alike():
            return {i: _learned(self._runs[i].learner, block) for i, block in blocks.items()}
        try:
            reports = self._all().learn_blocks(*zip(*blocks.values(), strict=True))
        except RJepaError as error:
            return dict.fromkeys(blocks, error)
        return dict(zip(blocks, reports, strict=True))

    def _are_alike(self) -> bool:
        """Whether one batch can hold them: a learner may have left its GPU."""
        kinds = [(run.learner.config, run.learner.device) for run in self._runs]
        return all(kind == kinds[0] for kind in kinds)

    def _all(self) -> RJepaBatch:
        """The batch of the runs' learners, made anew when a rollback has replaced one."""
        learners = [run.learner for run in self._runs]
        if self._batch is None or any(map(operator.is_not, learners, self._batch)):
            self._batch = RJepaBatch.of(learners, learners[0].device)
            for run, slot in zip(self._runs, self._batch, strict=True):
                run.loop.learner = slot
        return self._batch


class _Shared:
    """One learner for all runs, with the past of the one whose turn it is."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self._runs = runs
        self._pasts = [run.learner.past() for run in runs]
        self._current = max(range(len(runs)), key=lambda i: runs[i].learner.fixations)
        self._learner = runs[self._current].learner
        self._hand_out()

    def turn_to(self, i: int) -> None:
        """Put the past of the i-th run in the place of the one before."""
        learner = self._runs[self._current].learner
        if learner is not self._learner:  # rolled back, or come from a GPU: all begin anew with it
            self._learner = learner
            self._pasts = [learner.past() for _ in self._runs]
            self._hand_out()
        if i != self._current:
            self._pasts[self._current] = self._learner.past()
            self._learner.set_past(self._pasts[i])
            self._current = i

    def learn(self, blocks: Mapping[int, Block]) -> Taught:
        """One after the other; first the one whose past is there."""
        taught = {}
        for i in sorted(blocks, key=lambda i: i != self._current):
            self.turn_to(i)
            taught[i] = _learned(self._learner, blocks[i])
        return taught

    def _hand_out(self) -> None:
        for run in self._runs:
            run.loop.learner = self._learner


def _learned(learner: RJepa, block: Block) -> BlockReport | RJepaError:
    try:
        return learner.learn_block(*block)
    except RJepaError as error:
        return error
