"""A node of ROS 2 on Cyclone DDS, for where there is no ROS. Needs the extra `ros2`."""

from __future__ import annotations

import ctypes
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from ros2_link.errors import GraphError, MissingError
from ros2_link.link import (
    INSTALL,
    Publish,
    Qos,
    full_name,
    qos_does_not_fit,
    this_machine_only,
    type_does_not_fit,
)

try:
    from cyclonedds.builtin import (
        BuiltinDataReader,
        BuiltinTopicDcpsPublication,
        BuiltinTopicDcpsSubscription,
    )
    from cyclonedds.core import (
        DDSException,
        InstanceState,
        ReadCondition,
        SampleState,
        ViewState,
        WaitSet,
    )
    from cyclonedds.domain import Domain, DomainParticipant
    from cyclonedds.internal import DDS, InvalidSample
    from cyclonedds.pub import DataWriter
    from cyclonedds.qos import Policy
    from cyclonedds.qos import Qos as DdsQos
    from cyclonedds.sub import DataReader
    from cyclonedds.topic import Topic

    from ros2_link.cyclone_types import sample_type
except ModuleNotFoundError as error:
    raise MissingError(f"ROS 2 needs {error.name}: {INSTALL}") from error

ANY = SampleState.Any | ViewState.Any | InstanceState.Any
TYPES = 24  # the policy of them
POLICIES = {
    2: "durability", 4: "deadline", 6: "ownership", 8: "liveliness", 11: "reliability",
    TYPES: "definition of its type",
}  # fmt: skip
MOST_TAKEN = 256  # descriptions of publishers or subscribers at once
FATAL_OR_ERROR = 3  # of its log: it warns of each message that is damaged
BLOCK_NS = 100_000_000  # for which a reader that is too slow may hold up a reliable writer
BUFFER = "16MB"  # of a socket, as far as the system allows: a picture comes in a burst
# What Fast DDS 3 (vendor 1.15) tells of the structure of types Cyclone DDS refuses: it is not to
# look, and so matches types by their names, as ROS 2 itself does.
USUAL_CONFIG = (
    "<CycloneDDS><Domain>"
    "<Compatibility><IgnoreTypeInformation>1.15</IgnoreTypeInformation></Compatibility>"
    "<Internal>"
    f'<SocketReceiveBufferSize min="default" max="{BUFFER}"/>'
    "</Internal></Domain></CycloneDDS>"
)
# Without multicast peers are sought at the ports of so many participants.
THIS_MACHINE_CONFIG = (
    '<CycloneDDS><Domain><General><Interfaces><NetworkInterface address="127.0.0.1"/></Interfaces>'
    "<AllowMulticast>false</AllowMulticast></General>"
    "<Discovery><ParticipantIndex>auto</ParticipantIndex>"
    "<MaxAutoParticipantIndex>32</MaxAutoParticipantIndex>"
    '<Peers><Peer address="127.0.0.1"/></Peers></Discovery></Domain></CycloneDDS>'
)


class CycloneLink:
    """A Link by Cyclone DDS.

    It publishes and reads topics as a node does; it does not stand in the list of nodes, which is
    ROS 2's own above DDS.
    """

    def __init__(self, node: str, namespace: str, domain: int) -> None:
        self._name = full_name(node, namespace)
        try:
            self._domain = _Domain(domain)
            try:
                self._join(domain)
            except BaseException:
                self._leave()
                raise
        except DDSException as error:
            raise GraphError(
                f"Cyclone DDS cannot begin in domain {domain} ({_what(error)}): check the network "
                "and CYCLONEDDS_URI"
            ) from error
        self._readers: list[_Reader] = []
        self._writers: dict[str, DataWriter] = {}
        self._type_misfits: set[tuple[str, str]] = set()  # what was reported, of each end
        self._misfits: dict[tuple[str, str], int] = {}  # how many were reported, of each end
        self._events: deque[str] = deque(maxlen=100)
        self._closed = False

    def _join(self, domain: int) -> None:
        self._participant = DomainParticipant(domain, DdsQos(Policy.EntityName(self._name)))
        self._waiting = WaitSet(self._participant)
        self._publishers = _Ends(self._participant, BuiltinTopicDcpsPublication)
        self._subscribers = _Ends(self._participant, BuiltinTopicDcpsSubscription)

    def _leave(self) -> None:
        """Undo `_join`, however far it came."""
        for name in ("_publishers", "_subscribers", "_waiting", "_participant"):
            vars(self).pop(name, None)  # the binding lets go of what nobody refers to any more
        self._domain.release()

    def subscribe(
        self, topic: str, type_name: str, qos: Qos, on_message: Callable[[bytes], None]
    ) -> None:
        """As Link has it."""
        wanted = self._topic(topic, type_name)
        reader = DataReader(self._participant, wanted, _dds_qos(qos))
        self._readers.append(_Reader(topic, reader, qos.depth, on_message))
        self._waiting.attach(self._readers[-1].condition)

    def advertise(self, topic: str, type_name: str, qos: Qos) -> Publish:
        """As Link has it."""
        wanted = self._topic(topic, type_name)
        self._writers[topic] = DataWriter(self._participant, wanted, _dds_qos(qos))

        def publish(cdr: bytes) -> None:
            writer = self._writers.get(topic)
            if writer is None:
                raise GraphError(f"{topic}: the link is closed")
            try:
                writer.write(wanted.data_type(cdr))
            except DDSException as error:
                raise GraphError(f"{topic} cannot be published: {_what(error)}") from error

        return publish

    def listeners(self, topic: str) -> int:
        """As Link has it."""
        return len(self._writers[topic].get_matched_subscriptions())

    def topics(self) -> Mapping[str, set[str]]:
        """As Link has it."""
        return self._publishers.types()

    def spin(self, timeout_s: float) -> None:
        """As Link has it."""
        if not self._readers:  # where nothing is waited for, waiting returns at once
            time.sleep(timeout_s)
        elif self._waiting.wait(math.ceil(1e9 * timeout_s)):
            for reader in self._readers:
                reader.hand_out()

    def drain_events(self) -> list[str]:
        """As Link has it."""
        published, read = self._publishers.types(), self._subscribers.types()
        for reader in self._readers:
            self._note_type(reader.topic, "publisher", reader.reader, published)
            status = reader.reader.get_requested_incompatible_qos_status()
            self._note_misfit(reader.topic, "publisher", status)
        for topic, writer in self._writers.items():
            self._note_type(topic, "subscriber", writer, read)
            status = writer.get_offered_incompatible_qos_status()
            self._note_misfit(topic, "subscriber", status)
        events = list(self._events)
        self._events.clear()
        return events

    def close(self) -> None:
        """As Link has it."""
        if self._closed:
            return
        self._closed = True
        self._writers.clear()
        for reader in self._readers:
            self._waiting.detach(reader.condition)
        self._readers.clear()
        self._leave()

    def __enter__(self) -> CycloneLink:
        return self

    def __exit__(self, kind, error, trace) -> None:
        self.close()

    def _topic(self, topic: str, type_name: str) -> Topic:
        return Topic(self._participant, f"rt{full_name(topic)}", sample_type(type_name))

    def _note_type(
        self, topic: str, other: str, end: DataReader | DataWriter, types: Mapping[str, set[str]]
    ) -> None:
        topic, needed = full_name(topic), _ros_type(end.topic.typename)
        found = types.get(topic, set())
        if found and needed not in found and (topic, other) not in self._type_misfits:
            self._type_misfits.add((topic, other))
            self._events.append(type_does_not_fit(topic, other, found, needed))

    def _note_misfit(self, topic: str, other: str, status: ctypes.Structure) -> None:
        if status.total_count > self._misfits.get((topic, other), 0):
            self._misfits[topic, other] = status.total_count
            if status.last_policy_id == TYPES and (full_name(topic), other) in self._type_misfits:
                return  # it was told so
            policy = POLICIES.get(status.last_policy_id, f"policy {status.last_policy_id}")
            self._events.append(qos_does_not_fit(topic, other, policy))


class _Ends:
    """Who publishes, or who subscribes, as far as known by now."""

    def __init__(self, participant: DomainParticipant, builtin: Any) -> None:
        self._news = BuiltinDataReader(participant, builtin)
        self._known: dict[object, tuple[str, str]] = {}  # topic and type by each one's key

    def types(self) -> dict[str, set[str]]:
        """Topic -> the types that they have."""
        self._look_around()
        found: dict[str, set[str]] = {}
        for topic, type_name in self._known.values():
            found.setdefault(topic, set()).add(type_name)
        return found

    def _look_around(self) -> None:
        """Take in who has come and gone."""
        while found := self._news.take(MOST_TAKEN):
            for each in found:
                if each.sample_info.instance_state != InstanceState.Alive or not each.topic_name:
                    self._known.pop(each.key, None)
                elif each.topic_name.startswith("rt/"):
                    topic = each.topic_name.removeprefix("rt")
                    self._known[each.key] = topic, _ros_type(each.type_name)


class _Reader:
    """A topic that is read, and whom its messages are for."""

    def __init__(
        self, topic: str, reader: DataReader, depth: int, on_message: Callable[[bytes], None]
    ) -> None:
        self.topic, self.reader = topic, reader
        self.condition = ReadCondition(reader, ANY)
        self._depth, self._on_message = depth, on_message

    def hand_out(self) -> None:
        """Hand out what has come."""
        for sample in self.reader.take(self._depth):
            if not isinstance(sample, InvalidSample):  # as one is that tells of a writer's end
                self._on_message(sample.cdr)


class _Domain:
    """A domain of DDS with this process's settings, for as long as somebody holds it."""

    _held: dict[int, tuple[Domain, int]] = {}  # noqa: RUF012 - shared by all: one of a number
    _lock = threading.Lock()

    def __init__(self, number: int) -> None:
        self._number = number
        with self._lock:
            domain, holders = self._held.get(number, (None, 0))
            DDS._dll_handle.dds_set_log_mask(FATAL_OR_ERROR)
            domain = domain or Domain(number, _config())
            self._held[number] = domain, holders + 1

    def release(self) -> None:
        """It is needed no longer."""
        with self._lock:
            domain, holders = self._held.pop(self._number)
            if holders > 1:
                self._held[self._number] = domain, holders - 1
            del domain  # ended while the lock is held: there cannot be two of one number


def _config() -> str:
    """What Cyclone DDS is to do; what a person set in CYCLONEDDS_URI comes last, and so it wins."""
    configs = [USUAL_CONFIG]
    if this_machine_only():
        configs.append(THIS_MACHINE_CONFIG)
    return ",".join(configs + list(filter(None, [os.environ.get("CYCLONEDDS_URI")])))


def _dds_qos(qos: Qos) -> DdsQos:
    history = Policy.History.KeepLast(qos.depth)
    policies = [
        Policy.Reliability.Reliable(BLOCK_NS) if qos.reliable else Policy.Reliability.BestEffort,
        Policy.Durability.TransientLocal if qos.latched else Policy.Durability.Volatile,
        history,
        Policy.DataRepresentation(use_cdrv0_representation=True),  # as ROS 2 has it
        Policy.WriterDataLifecycle(autodispose=False),
    ]
    if qos.latched:  # what those who come late are told
        policies.append(Policy.DurabilityService(0, history, -1, -1, -1))
    return DdsQos(*policies)


def _ros_type(dds_type: str) -> str:
    """sensor_msgs/msg/Image of sensor_msgs::msg::dds_::Image_."""
    return dds_type.replace("::dds_::", "::").removesuffix("_").replace("::", "/")


def _what(error: DDSException) -> str:
    """What went wrong, in a line."""
    return " ".join(str(error).split())
