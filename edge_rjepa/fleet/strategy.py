"""The strategy: what the server asks of robots in a round, and what it makes of their answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from edge_rjepa.errors import CheckpointError, InputError
from edge_rjepa.fleet.bounded import merge_bounded
from edge_rjepa.fleet.kept import Fleet
from edge_rjepa.fleet.parcel import (
    VERSION,
    Answer,
    Parcel,
    Task,
    as_text,
    check_kind,
    digest,
    kind_of,
    understood,
)
from edge_rjepa.fleet.records import LESSON, parcel_of, record_of
from edge_rjepa.learner.merge import Lesson, checked
from edge_rjepa.learner.objective import information_of
from edge_rjepa.run.monitor import Monitor, health

SLOWEST_BYTES_S = 50_000  # of a line to a robot: TCP over 100 ms each way and 1 % lost has 80,000
LATE_S = 60.0  # after a round has ended, what is left of it is deleted at the latest
NOTED_SHORTENED = 0.5  # who is shortened to less than this is told of


class Pace(NamedTuple):
    """When a round ends."""

    after_fixations: int  # of each robot ..
    after_s: float  # .. or after so long, whichever is first
    min_robots: int  # fewer lessons are not merged


class _Accepted(NamedTuple):
    """What is merged of a robot."""

    lesson: Lesson
    since: int


class Lessons(Strategy):
    """Merges lessons, whatever some robots send. say: is told what happened, a line each.

    name_of: what a node is called in these lines.
    """

    def __init__(
        self,
        fleet: Fleet,
        pace: Pace,
        say: Callable[[str], None],
        name_of: Callable[[int], str] = "robot {:x}".format,
    ) -> None:
        self.fleet = fleet
        self.pace = pace
        self._say = say
        self._name_of = name_of
        self._monitor = Monitor(fleet.config.monitor)
        self._few = False  # robots in the last round

    @property
    def patience_s(self) -> float:
        """How long the server waits for answers: a lesson also has to go to a robot and back."""
        travel_s = 2.0 * self.fleet.lesson_bytes / SLOWEST_BYTES_S
        return 2.0 * self.pace.after_s + travel_s + 5.0

    def arrays(self) -> ArrayRecord:
        """The fleet's lesson, for `start`."""
        return record_of(Parcel({}, self.fleet.lesson.arrays()))[LESSON]

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """A Task for every robot that is there."""
        standing = self.fleet.standing
        task = Task(
            version=VERSION,
            fleet=standing.fleet,
            round=standing.round,
            learned=standing.learned,
            after_fixations=self.pace.after_fixations,
            after_s=self.pace.after_s,
            taken=standing.taken,
            kind=kind_of(self.fleet.config),
        )
        record = record_of(Parcel(task._asdict(), self.fleet.lesson.arrays()))
        return [
            Message(record, node, MessageType.TRAIN, ttl=self.patience_s + LATE_S)
            for node in grid.get_node_ids()
        ]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Merge the answers that are sound, and keep that; a line says who was left out, and why.

        The robots' own words are shortened and shown as text.
        """
        accepted: dict[int, _Accepted] = {}
        for reply in replies:
            node = reply.metadata.src_node_id
            try:
                accepted[node] = self._accepted(reply, accepted)
            except InputError as error:
                self._say(
                    f"{self._name_of(node)} is left out of round "
                    f"{self.fleet.standing.round:,}: {as_text(error)}"
                )
        # Who has looked at nothing is no judge of how far a usual update goes.
        accepted = {node: one for node, one in accepted.items() if one.since > 0}
        few = len(accepted) < self.pace.min_robots
        if few and not self._few:
            self._say(
                f"{len(accepted)} of {self.pace.min_robots} robots have learned: nothing is merged"
            )
        self._few = few
        return (None, None) if few else self._merge(accepted)

    def _accepted(self, reply: Message, accepted: dict[int, _Accepted]) -> _Accepted:
        if reply.has_error():
            raise InputError(reply.error.reason)
        parcel = parcel_of(reply.content)
        answer = understood(Answer, parcel.facts)
        standing = self.fleet.standing
        if answer.refusal:
            raise InputError(answer.refusal)
        check_kind(answer.kind, kind_of(self.fleet.config), "this robot")
        if (answer.fleet, answer.round) != (standing.fleet, standing.round):
            raise InputError(f"its answer is of round {answer.round:,}, which is over")
        lesson = checked(parcel.arrays, self.fleet.config.network)
        known = {*standing.taken, *(digest(other.lesson) for other in accepted.values())}
        if answer.since > 0 and digest(lesson) in known:
            raise InputError("it sent a lesson that was merged before")
        broken = answer.since > 0 and self._broken(lesson)
        if broken:
            raise InputError(f"its encoder has collapsed: {broken}")
        return _Accepted(lesson, max(0, answer.since))

    def _merge(
        self, accepted: dict[int, _Accepted]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        fleet = self.fleet
        lessons = [one.lesson for one in accepted.values()]
        since = [one.since for one in accepted.values()]
        bounded = merge_bounded(
            lessons, fleet.lesson.weights, since, fleet.config.network.statistics_fixations
        )
        broken = self._broken(bounded.lesson)
        if broken:
            self._say(f"round {fleet.standing.round:,} is not merged: {broken}")
            return None, None
        for node, share in zip(accepted, bounded.shortened, strict=True):
            if share < NOTED_SHORTENED:
                name = self._name_of(node)
                self._say(f"{name} moved its weights far: {share:.0%} of that is taken")
        try:
            fleet.learn(bounded.lesson, bounded.fixations, lessons)
        except CheckpointError as error:
            self._say(f"{error}; the fleet goes on, and the next round is kept if it can be")
        self._say(
            f"round {fleet.standing.round - 1:,}: {len(lessons)} robots, "
            f"{fleet.standing.learned:,} fixations in all"
        )
        metrics = MetricRecord({"robots": len(lessons), "fixations": fleet.standing.learned})
        return self.arrays(), metrics

    def _broken(self, lesson: Lesson) -> str | None:
        """What is wrong with its encoder beyond doubt, as a run's own monitor sees it."""
        return self._monitor.broken(
            health(
                information_of(
                    lesson.covariance,
                    lesson.error_covariance,
                    self.fleet.config.network.noise_floor,
                ),
                lesson.covariance,
            )
        )

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """Nothing: robots judge themselves, on pictures that stay with them."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> None:
        """Nothing."""

    def summary(self) -> None:
        """Nothing: `say` is told what happens."""
