"""The process beside a robot: a Flower node that runs our ClientApp and nothing else.

`flower-supernode` would run whatever app its server sends, as the robot's user, and needs three
Python processes for it. This one speaks Flower's Fleet API itself and never asks for an app: what
the server can make a robot do is to adopt a lesson and to hand out one.

    python -m edge_rjepa.fleet.node DESCRIPTOR    of the socket to the learning process
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Context, Error, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.clientapp import ClientApp
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
    RegisterNodeFleetRequest,
    UnregisterNodeFleetRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.error import FlowerError
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_confirm_message_received_fn_protobuf,
    make_pull_object_fn_protobuf,
    make_push_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    ObjectPushError,
    pull_and_inflate_object_from_tree,
    push_objects,
)
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import generate_key_pairs, public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from edge_rjepa.errors import InputError
from edge_rjepa.fleet.child import Settings
from edge_rjepa.fleet.keys import private_key
from edge_rjepa.fleet.parcel import Parcel
from edge_rjepa.fleet.records import client_app
from edge_rjepa.fleet.wire import Frame, Wire
from safe_files.plain import rebuilt

POLL_S = 1.0  # how often it asks for a task
ALIVE_S = 10.0  # how often it says that it is there; the server believes it for twice as long
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
NO_CONNECTION = httpx.HTTPError, httpx.InvalidURL
NICENESS = 5  # learning comes first


class Keys(NamedTuple):
    """What a robot is known by."""

    private: ec.EllipticCurvePrivateKey
    public: ec.EllipticCurvePublicKey


class Robot:
    """The learning process, at the other end of the wire. Every call may raise EOFError: it ended.

    settings: what it said first.
    """

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._frames: list[Frame] = []
        self._said = ""
        self.settings = rebuilt(Settings, self._next("settings").facts, "settings")

    def tell(self, event: str) -> None:
        """In one line, and not again while it is still so."""
        if event != self._said:
            self._wire.send("event", {"text": event})
            self._said = event

    def is_connected(self) -> None:
        """To the server."""
        self.tell(f"connected to {self.settings.address}")
        self._wire.send("connected")

    def rest(self, seconds: float) -> None:
        """Do nothing for so long; the robot hears that this process lives."""
        end_s = time.monotonic() + seconds
        self._wire.send("alive")
        while (left_s := end_s - time.monotonic()) > 0.0:
            self._frames += self._wire.wait(left_s)

    def learn(self, task: Parcel) -> Parcel:
        """The robot's answer to a task, once it has learned for it."""
        self._wire.send("task", task.facts, task.arrays)
        while True:
            answer = self._next("answer")
            if answer.facts.get("round") == task.facts.get("round"):
                return Parcel(answer.facts, answer.arrays)

    def _next(self, what: str) -> Frame:
        while True:
            while self._frames:
                frame = self._frames.pop(0)
                if frame.what == what:
                    return frame
            self._wire.send("alive")
            self._frames += self._wire.wait(POLL_S)


def main(descriptor: int) -> None:
    """Serve the robot until it ends."""
    os.nice(NICENESS)
    logging.getLogger("flwr").setLevel(logging.CRITICAL)  # what there is to say goes to the robot
    with suppress(EOFError):
        robot = Robot(Wire(socket.socket(fileno=descriptor)))
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                for _ in connected(robot):
                    pause_s = FIRST_PAUSE_S
            except (*NO_CONNECTION, OSError, ValueError, RuntimeError) as error:
                robot.tell(f"{_in_words(error, robot.settings)}; learning goes on, it tries again")
            robot.rest(pause_s)
            pause_s = min(2.0 * pause_s, LONGEST_PAUSE_S)


def connected(robot: Robot) -> Iterator[None]:
    """Take part until the connection fails; yields whenever the server has answered."""
    settings = robot.settings
    keys = _keys(settings.key)
    with FleetHttpClient.from_server_address(
        settings.address,
        not settings.certificate,
        settings.certificate or None,
        interceptors=[
            RuntimeVersionHttpInterceptor(component_name="SuperNode"),
            NodeAuthHttpInterceptor(*keys),
        ],
    ) as client:
        app = client_app(robot.learn)
        with _registered(client, keys, bool(settings.key)) as node, _heartbeats(client, node):
            robot.is_connected()
            while True:
                try:
                    _take_part(client, node, app)
                except (ObjectPullError, ObjectPushError):  # the server has deleted its parts
                    robot.tell(
                        "a round was over before all of it had gone over the line; if that happens "
                        "often, let the server's rounds last longer (--every)"
                    )
                yield
                robot.rest(POLL_S)


@contextmanager
def _registered(client: FleetHttpClient, keys: Keys, known: bool) -> Iterator[Node]:
    """Known to the server, which knows the keys of some before they come."""
    public = public_key_to_bytes(keys.public)
    if not known:
        client.RegisterNode(RegisterNodeFleetRequest(public_key=public))
    activated = client.ActivateNode(
        ActivateNodeRequest(public_key=public, heartbeat_interval=ALIVE_S)
    )
    try:
        yield Node(node_id=activated.node_id)
    finally:
        with suppress(httpx.HTTPError, ValueError):
            client.DeactivateNode(DeactivateNodeRequest(node_id=activated.node_id))
            if not known:
                client.UnregisterNode(UnregisterNodeFleetRequest(node_id=activated.node_id))


@contextmanager
def _heartbeats(client: FleetHttpClient, node: Node) -> Iterator[None]:
    """The server hears from this node, also while the robot learns."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(ALIVE_S):
            # Where the server is gone, the next call of the main thread finds that out, too.
            with suppress(httpx.HTTPError, ValueError):
                client.SendNodeHeartbeat(
                    SendNodeHeartbeatRequest(node=node, heartbeat_interval=ALIVE_S)
                )

    thread = threading.Thread(target=beat, name="heartbeats", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()


def _take_part(client: FleetHttpClient, node: Node, app: ClientApp) -> None:
    """Do a task, if there is one."""
    pulled = client.PullMessages(PullMessagesRequest(node=node))
    for tree in pulled.message_object_trees:
        run_id = pulled.messages_list[0].metadata.run_id
        message = pull_and_inflate_object_from_tree(
            tree,
            make_pull_object_fn_protobuf(client.PullObject, node, run_id),
            make_confirm_message_received_fn_protobuf(client.ConfirmMessageReceived, node, run_id),
            return_type=Message,
        )
        message.metadata.__dict__["_message_id"] = tree.object_id  # as Flower's own nodes do
        try:
            context = Context(run_id, node.node_id, {}, RecordDict(), {})
            reply = app(message, context)
        except InputError as error:
            reply = Message(Error(code=0, reason=str(error)), reply_to=message)
        _push(client, node, run_id, reply)


def _push(client: FleetHttpClient, node: Node, run_id: int, reply: Message) -> None:
    """Send an answer: what it is first, then the objects that the server lacks."""
    reply.metadata.__dict__["_message_id"] = reply.object_id
    with no_object_id_recompute():
        pushed = client.PushMessages(
            PushMessagesRequest(
                node=node,
                messages_list=[message_to_proto(remove_content_from_message(reply))],
                message_object_trees=[get_object_tree(reply)],
                clientapp_runtime_list=[0.0],
            )
        )
        push_objects(
            get_all_nested_objects(reply),
            make_push_object_fn_protobuf(client.PushObject, node, run_id, pushed.session_id),
            object_ids_to_push=set(pushed.objects_to_push),
        )


def _keys(path: str) -> Keys:
    """Those of the file, or new ones where there is none."""
    if not path:
        return Keys(*generate_key_pairs())
    private = private_key(path)
    return Keys(private, private.public_key())


def _in_words(error: Exception, settings: Settings) -> str:
    """What went wrong, and what to do about it, in one line."""
    if isinstance(error, httpx.HTTPStatusError):
        told = FlowerError.from_json(error.response.text)
        reason = told.message if told else f"HTTP {error.response.status_code}"
        return f"{settings.address} takes this robot not in ({reason})"
    if isinstance(error, NO_CONNECTION):
        return f"no connection to {settings.address} ({error or type(error).__name__})"
    if isinstance(error, OSError):
        return f"the certificate {settings.certificate} cannot be used ({error.strerror})"
    return " ".join(str(error).split())


if __name__ == "__main__":
    main(int(sys.argv[1]))
