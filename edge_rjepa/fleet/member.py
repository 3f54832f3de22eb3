"""A robot of a fleet: it adopts the fleet's lesson and hands out its own, and learns all the while.

`attend` is called between two steps of learning. A round, as the robot sees it:

    task      adopt the fleet's weights, and on top of them what this robot has learned since it
              last handed out its own:   w <- w_fleet + (w - w_handed_out)
    learn     so many fixations, or for so long
    answer    hand out the lesson

What was handed out and did not arrive counts as not handed out: the task names the lessons that
were merged. So nothing that a robot has learned is lost, however often the server or the process
beside the robot dies.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edge_rjepa.errors import CheckpointError, InputError, RJepaError
from edge_rjepa.fleet.child import Child, Settings
from edge_rjepa.fleet.parcel import (
    VERSION,
    Answer,
    Task,
    as_text,
    check_kind,
    digest,
    kind_of,
    understood,
)
from edge_rjepa.fleet.wire import Frame
from edge_rjepa.learner.merge import Lesson, adopt, checked, lesson_of
from edge_rjepa.run.run import Run
from safe_files.errors import FileError, why
from safe_files.plain import rebuilt
from safe_files.reading import read_json
from safe_files.writing import write_atomic

MEMBERSHIP, ALONE = "fleet.json", "alone.safetensors"  # in the run's folder
MOST_BYTES = 4096

# Who has learned so much does not give it up for a fleet that has learned less than half of it.
MUCH = 100_000  # fixations

# Who comes back with as much as so many rounds first hands out what it has learned, so that the
# fleet's lesson holds it, and adopts in the next round. Less is added on top of the fleet's.
ALONE_ROUNDS = 3


class Membership(NamedTuple):
    """The fleet whose lesson this run's learner goes on from."""

    fleet: str


class _Assignment(NamedTuple):
    """A task that the robot is learning for."""

    task: Task
    due_fixations: int
    due_s: float


class _Left(NamedTuple):
    """Weights at a moment, and how much had been learned by then."""

    weights: np.ndarray
    fixations: int
    digest: str


class Member:
    """A run that learns in a fleet. on_event: is told what happens, in one line each."""

    def __init__(self, run: Run, settings: Settings, on_event: Callable[[str], None]) -> None:
        self._on_event = on_event
        self._child = Child(settings, on_event)
        self._membership = _read(run.folder)
        self._is_noted = self._membership is not None
        self._assignment: _Assignment | None = None
        self._adopted: _Left | None = None  # when the fleet's lesson was adopted
        self._handed: _Left | None = None  # when the last lesson was handed out
        self._was_far = False  # when the last task came
        self._rollbacks = run.rollbacks
        self._said = ""  # the last reason for taking no part

    @property
    def pid(self) -> int | None:
        """Of the process beside the robot, while there is one."""
        return self._child.pid

    def attend(self, run: Run) -> None:
        """Do what is due; takes no time where nothing is."""
        for frame in self._child.tend():
            self._obey(frame, run)
        assignment = self._assignment
        if assignment and (
            run.learner.fixations >= assignment.due_fixations
            or time.monotonic() >= assignment.due_s
        ):
            self._assignment = None
            self._hand_out(assignment.task, run)

    def close(self) -> None:
        """Leave the fleet."""
        self._child.close()

    def _obey(self, frame: Frame, run: Run) -> None:
        if frame.what == "event":
            self._on_event(f"fleet: {as_text(frame.facts.get('text'))}")
        elif frame.what == "task":
            try:
                task = understood(Task, frame.facts)
                self._begin(task, frame.arrays, run)
                self._said = ""
            except RJepaError as error:
                self._take_no_part(frame, as_text(error), run)

    def _begin(self, task: Task, arrays: list[np.ndarray], run: Run) -> None:
        """Adopt the fleet's lesson, and learn for a while before handing out its own."""
        check_kind(task.kind, kind_of(run.config), "the fleet")
        lesson = checked(arrays, run.config.network)
        if run.rollbacks != self._rollbacks:  # what was learned since then has been undone
            self._rollbacks, self._adopted, self._handed = run.rollbacks, None, None
        if self._membership is None or self._membership.fleet != task.fleet:
            self._join(task, lesson, run)
        elif self._is_far(task, run):
            self._was_far = True
            self._assignment = _Assignment(task, run.learner.fixations, time.monotonic())
            return
        else:
            self._adopt(task, lesson, run)
            self._note(run)
        self._assignment = _Assignment(
            task, run.learner.fixations + task.after_fixations, time.monotonic() + task.after_s
        )

    def _join(self, task: Task, lesson: Lesson, run: Run) -> None:
        """Become a member: the fleet's encoder takes the place of the robot's own."""
        own = run.learner.fixations
        if own > MUCH and task.learned < own / 2:
            raise InputError(
                f"this robot has learned from {own:,} fixations and the fleet from "
                f"{task.learned:,}: begin the fleet with this run (edge-rjepa fleet serve "
                "--start), or start a new run"
            )
        why_not = own and run.keep(ALONE)
        if why_not:
            raise CheckpointError(f"what this robot learned alone cannot be kept: {why_not}")
        self._adopted = self._handed = None
        self._adopt(task, lesson, run)
        kept = f"; what it learned alone is in {run.folder / ALONE}" if own else ""
        self._on_event(f"fleet: joined {task.fleet} in round {task.round:,}{kept}")
        self._membership, self._is_noted = Membership(task.fleet), False
        self._note(run)

    def _is_far(self, task: Task, run: Run) -> bool:
        """Whether it has learned so much alone that the fleet is to have that first."""
        base = self._base(task)
        if base is None:  # it was started again: nobody knows what it has learned since
            return True
        if self._was_far and base is self._handed:  # the fleet has it now
            return False
        return run.learner.fixations - base.fixations >= ALONE_ROUNDS * task.after_fixations

    def _base(self, task: Task) -> _Left | None:
        """From where on the fleet does not have what this robot has learned, if that is known."""
        if self._handed is not None and self._handed.digest in task.taken:
            return self._handed
        return self._adopted

    def _adopt(self, task: Task, lesson: Lesson, run: Run) -> None:
        learner, base = run.learner, self._base(task)
        if base is not None:
            own = learner.tensors()["weights"] - base.weights
            lesson = lesson._replace(weights=lesson.weights + own)
        adopt(learner, lesson)
        self._adopted, self._handed = _Left(lesson.weights, learner.fixations, ""), None
        self._was_far = False

    def _hand_out(self, task: Task, run: Run) -> None:
        lesson, base, own = lesson_of(run.learner), self._base(task), run.learner.fixations
        since = own - base.fixations if base else task.after_fixations
        self._handed = _Left(lesson.weights, own, digest(lesson))
        answer = Answer(VERSION, task.fleet, task.round, since, kind_of(run.config), "")
        self._child.send("answer", answer, lesson.arrays())

    def _take_no_part(self, frame: Frame, reason: str, run: Run) -> None:
        """Say why, here and there, and learn on alone."""
        if reason != self._said:
            self._on_event(f"fleet: takes no part: {reason}")
            self._said = reason
        fleet, number = frame.facts.get("fleet"), frame.facts.get("round")
        self._child.send(
            "answer",
            Answer(
                VERSION,
                fleet if isinstance(fleet, str) else "",
                number if isinstance(number, int) else 0,
                0,
                kind_of(run.config),
                reason,
            ),
        )

    def _note(self, run: Run) -> None:
        """Write down that it is a member, as soon as a checkpoint is the fleet's.

        Else, started again, it would hand out what it learned before as learned from the fleet's.
        """
        if self._is_noted or self._membership is None or run.keep():
            return
        path = run.folder / MEMBERSHIP
        try:
            write_atomic(path, json.dumps(self._membership._asdict()).encode())
            self._is_noted = True
        except OSError as error:
            self._on_event(f"fleet: cannot write {path}: {why(error)}; goes on")


def _read(folder: Path) -> Membership | None:
    """Of the run; None if it is of none, or if that cannot be read: then it joins anew."""
    try:
        return rebuilt(Membership, read_json(folder / MEMBERSHIP, MOST_BYTES), MEMBERSHIP)
    except (OSError, FileError):
        return None
