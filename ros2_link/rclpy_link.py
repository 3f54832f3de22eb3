"""A node of ROS 2 by rclpy: where a ROS is installed, with the middleware that it is set up for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from ros2_link.errors import GraphError, MissingError
from ros2_link.link import (
    INSTALL,
    Publish,
    Qos,
    full_name,
    qos_does_not_fit,
    type_does_not_fit,
)

try:
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.qos import (
        DurabilityPolicy,
        HistoryPolicy,
        QoSProfile,
        ReliabilityPolicy,
        qos_policy_name_from_kind,
    )
    from rclpy.signals import SignalHandlerOptions

    try:
        from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
    except ImportError:  # before Iron
        from rclpy.qos_event import PublisherEventCallbacks, SubscriptionEventCallbacks
except ImportError as error:
    raise MissingError(f"ROS 2 needs rclpy, which does not load ({error}): {INSTALL}") from error

MOST_AT_ONCE = 200  # messages of one spin


class RclpyLink:
    """A Link by rclpy, with a context of its own: other nodes of this process are left alone."""

    def __init__(self, node: str, namespace: str, domain: int) -> None:
        full_name(node, namespace)
        self._context = rclpy.Context()
        try:
            rclpy.init(
                args=[],
                context=self._context,
                domain_id=domain,
                signal_handler_options=SignalHandlerOptions.NO,  # whoever uses this has its own
            )
            self._node = rclpy.create_node(
                node,
                context=self._context,
                namespace=namespace,
                use_global_arguments=False,
                enable_rosout=False,
                start_parameter_services=False,
            )
        except Exception as error:  # rclpy raises what its C code says, as RuntimeErrors and others
            raise GraphError(f"rclpy cannot begin ({_line(error)})") from error
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._handed_out = False
        self._publishers: dict[str, Any] = {}
        self._needed: dict[tuple[str, str], str] = {}  # type of a topic's other end, until it came
        self._events: deque[str] = deque(maxlen=100)
        self._closed = False

    def subscribe(
        self, topic: str, type_name: str, qos: Qos, on_message: Callable[[bytes], None]
    ) -> None:
        """As Link has it."""
        misfit = self._on_misfit(topic, "publisher")

        def hand_out(cdr: bytes) -> None:
            self._handed_out = True
            on_message(cdr)

        self._node.create_subscription(
            _message_type(topic, type_name),
            full_name(topic),
            hand_out,
            _profile(qos),
            event_callbacks=SubscriptionEventCallbacks(incompatible_qos=misfit),
            raw=True,
        )
        self._needed[full_name(topic), "publisher"] = type_name

    def advertise(self, topic: str, type_name: str, qos: Qos) -> Publish:
        """As Link has it."""
        misfit = self._on_misfit(topic, "subscriber")
        publisher = self._publishers[topic] = self._node.create_publisher(
            _message_type(topic, type_name),
            full_name(topic),
            _profile(qos),
            event_callbacks=PublisherEventCallbacks(incompatible_qos=misfit),
        )
        self._needed[full_name(topic), "subscriber"] = type_name

        def publish(cdr: bytes) -> None:
            try:
                publisher.publish(cdr)
            except Exception as error:  # what its C code says; also that it was closed
                raise GraphError(f"{topic} cannot be published: {_line(error)}") from error

        return publish

    def listeners(self, topic: str) -> int:
        """As Link has it."""
        return self._publishers[topic].get_subscription_count()

    def topics(self) -> Mapping[str, set[str]]:
        """As Link has it."""
        return {
            topic: set(types)
            for topic, types in self._node.get_topic_names_and_types()
            if self._node.count_publishers(topic)
        }

    def spin(self, timeout_s: float) -> None:
        """As Link has it."""
        self._executor.spin_once(timeout_s)
        for _ in range(MOST_AT_ONCE):  # it hands out one message at a time, and does not say so
            if not self._handed_out:
                return
            self._handed_out = False
            self._executor.spin_once(0.0)

    def drain_events(self) -> list[str]:
        """As Link has it."""
        self._look_at_types()
        events = list(self._events)
        self._events.clear()
        return events

    def close(self) -> None:
        """As Link has it."""
        if self._closed:
            return
        self._closed = True
        self._executor.shutdown(0.0)
        self._node.destroy_node()
        self._context.try_shutdown()

    def __enter__(self) -> RclpyLink:
        return self

    def __exit__(self, kind, error, trace) -> None:
        self.close()

    def _look_at_types(self) -> None:
        """Look who is at the other ends; once somebody is, this end's type was right or wrong."""
        for (topic, other), needed in list(self._needed.items()):
            if other == "publisher":
                ends = self._node.get_publishers_info_by_topic(topic)
            else:
                ends = self._node.get_subscriptions_info_by_topic(topic)
            found = {end.topic_type for end in ends}
            if found:
                del self._needed[topic, other]
            if found and needed not in found:
                self._events.append(type_does_not_fit(topic, other, found, needed))

    def _on_misfit(self, topic: str, other: str) -> Callable[[Any], None]:
        def note(status: Any) -> None:
            policy = qos_policy_name_from_kind(status.last_policy_kind)
            self._events.append(qos_does_not_fit(topic, other, policy))

        return note


def _message_type(topic: str, type_name: str) -> Any:
    """The class of `sensor_msgs/msg/Image`, say: rclpy needs it even for bytes."""
    package, _, name = type_name.partition("/msg/")
    try:
        return getattr(import_module(f"{package}.msg"), name)
    except (ImportError, AttributeError) as error:
        raise GraphError(
            f"{topic}: this ROS has no {type_name} ({_line(error)}): install the package "
            f"ros-$ROS_DISTRO-{package.replace('_', '-')}"
        ) from error


def _profile(qos: Qos) -> QoSProfile:
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=qos.depth,
        reliability=ReliabilityPolicy.RELIABLE if qos.reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if qos.latched else DurabilityPolicy.VOLATILE,
    )


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or repr(error)
