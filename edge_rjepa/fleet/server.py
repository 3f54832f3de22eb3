"""The server: Flower's SuperLink, the ServerApp and its strategy, in one process.

`flower-superlink` serves three APIs on one port: the robots', the one that starts apps, and the one
that apps talk to. Whoever reaches that port may start an app, which is code that then runs on the
server and on every robot. This server has the robots' API alone, and runs no code but its own.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import uvicorn
from fastapi import FastAPI
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.app.message import make_message, remove_content_from_message
from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID, ErrorCode
from flwr.server.superlink.linkstate import LinkState, LinkStateFactory
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME, NOOP_FEDERATION_ID, TaskType
from flwr.supercore.error import http_error_translator
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.protobuf.translation import ProtobufTranslationMiddleware
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.federation import NoOpFederationManager
from flwr.superlink.grid import InMemoryGrid
from flwr.superlink.routers.fleet.node_auth import NodeAuthMiddleware
from flwr.superlink.routers.fleet.router import router
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from edge_rjepa.errors import ConfigError
from edge_rjepa.fleet.keys import public_key
from edge_rjepa.fleet.strategy import Lessons
from safe_files.errors import why

POLL_S = 0.2  # for answers
IDLE_S = 60  # a connection stays open for; robots close theirs sooner, so that none is cut in use


class Door(NamedTuple):
    """Where the server listens, and whom it lets in."""

    host: str
    port: int
    certificate: str = ""  # file, PEM; without one nothing is encrypted
    certificate_key: str = ""  # file of its private key
    robot_keys: Path | None = None  # folder of the public keys of robots; None lets everybody in


class Server:
    """A SuperLink for robots alone. Use it in a `with`; raises ConfigError where it cannot listen.

    most_bytes: in what a robot sends at once.
    """

    def __init__(self, door: Door, most_bytes: int) -> None:
        logging.getLogger("flwr").setLevel(logging.CRITICAL)  # the strategy says what there is
        self._factory = LinkStateFactory(
            FLWR_IN_MEMORY_DB_NAME, NoOpFederationManager(), ObjectStoreFactory()
        )
        self.state: LinkState = self._factory.state()
        self.grid = FleetGrid(self._factory)
        self._names: dict[int, str] = {}
        if door.robot_keys is not None:
            self._admit(door.robot_keys)
        app = _app(self._factory, door.robot_keys is not None, most_bytes)
        config = uvicorn.Config(
            app, log_level="critical", lifespan="off", timeout_keep_alive=IDLE_S,
            ssl_certfile=door.certificate or None, ssl_keyfile=door.certificate_key or None,
        )  # fmt: skip
        try:
            config.load()
        except OSError as error:  # also what the ssl module raises
            raise ConfigError(
                f"{door.certificate} and {door.certificate_key} are no certificate with its key "
                f"({error.strerror}): docs/fleet.md says how to make them"
            ) from error
        self._listener = _listening(door)
        self._http = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._serve, name="fleet API", daemon=True)

    def name_of(self, node: int) -> str:
        """The file of its key; a part of the number that it was given here, if it has none."""
        return self._names.get(node) or f"robot {node:016x}"[:10]

    def __enter__(self) -> Server:
        self._thread.start()  # until it is ready, who connects waits at the listener
        return self

    def __exit__(self, *_: object) -> None:
        self._http.should_exit = True
        self._thread.join(5.0)

    def _serve(self) -> None:
        with self._listener:
            self._http.run(sockets=[self._listener])

    def _admit(self, folder: Path) -> None:
        """Know the robots whose public keys are in the folder."""
        try:
            paths = sorted(folder.glob("*.pub"))
        except OSError as error:
            raise ConfigError(f"cannot read {folder}: {why(error)}") from error
        if not paths:
            raise ConfigError(f"{folder} holds no public keys (*.pub) of robots: copy them there")
        names: dict[bytes, Path] = {}
        for path in paths:
            key = public_key_to_bytes(public_key(path))
            if key in names:
                raise ConfigError(
                    f"{names[key]} and {path} hold one and the same key: make a key for each robot"
                )
            names[key] = path
            node = self.state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, key, 0, name=path.stem)
            self._names[node] = path.stem


class FleetGrid(InMemoryGrid):
    """The strategy's way to the robots, with objects as they travel over the Fleet API.

    stopped: whether to wait no longer.
    """

    def __init__(self, factory: LinkStateFactory) -> None:
        super().__init__(factory, POLL_S)
        self.stopped: Callable[[], bool] = lambda: False
        self._begin()

    def stay(self) -> bool:
        """Go on with the run, or with a new one where it is over; whether it is the same.

        Flower ends a run that it has not heard of for a minute, by the system's clock: while there
        are too few robots, or where the clock is set. It lets no message of it through then.
        """
        same = self.state.acknowledge_task_heartbeat(self._task)
        if not same:
            self._begin()
        return same

    def _begin(self) -> None:
        run_id = self.state.create_run(
            None, None, None, {}, NOOP_FEDERATION_ID, None, NOOP_FLWR_AID, TaskType.SERVER_APP
        )
        (run,) = self.state.get_run_info(run_ids=[run_id])
        self.set_run(run)
        self._task = run.primary_task_id or 0
        self.state.claim_task(self._task)
        self.state.activate_task(self._task)
        TaskIdentity.run_id, TaskIdentity.task_id = run_id, self._task  # of messages made here
        TaskIdentity.node_id = self.node.node_id

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Put them where robots ask for them; the id of each, empty where the robot has left."""
        with no_object_id_recompute():
            return [self._push(message) for message in messages]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """The answers of all robots that stay online, or those that came in time."""
        end_s = time.monotonic() + (timeout or 0.0)
        sent = list(messages)
        ids = self.push_messages(sent)
        waiting = {
            number: message.metadata.dst_node_id
            for number, message in zip(ids, sent, strict=True)
            if number
        }
        arriving: list[Message] = []
        answers: list[Message] = []
        while waiting and time.monotonic() < end_s and not self.stopped():
            time.sleep(self.pull_interval)
            if not self.stay():
                break
            online = set(self.get_node_ids())
            waiting = {number: node for number, node in waiting.items() if node in online}
            arriving += self.state.get_message_res(set(waiting), self.run.run_id)
            for reply in list(arriving):
                answer = self._complete(reply)
                if answer is not None:
                    arriving.remove(reply)
                    answers.append(answer)
                    waiting.pop(reply.metadata.reply_to_message_id, None)
        self._forget(ids, arriving)
        return answers

    def _push(self, message: Message) -> str:
        run_id = self.run.run_id
        session = self.state.start_session(run_id)  # ends with its last object
        message.metadata.__dict__["_message_id"] = message.object_id  # as Flower's grids do
        stored, missing = self.state.store_message_and_object_tree(
            remove_content_from_message(message), get_object_tree(message), session
        )
        objects = get_all_nested_objects(message)
        for name in missing if stored else ():
            self.state.store_object(run_id, session, name, objects[name].deflate())
        return str(message.metadata.message_id) if stored else ""

    def _complete(self, reply: Message) -> Message | None:
        """The reply with its content, or with an error; None while parts of it are on the way."""
        if reply.has_error():
            return reply
        number = reply.metadata.message_id
        try:
            tree = self.state.object_store.get_object_tree(number)
            names = [part.object_id for part in iterate_object_tree(tree)]
            contents = {name: self.state.get_object(self.run.run_id, name) for name in names}
            if not all(contents.values()):
                return None
            content = inflate_object_from_contents(number, contents).content
        except Exception as error:  # Flower's reading of what a robot made up may raise anything
            said = " ".join(str(error).split())
            damaged = Error(ErrorCode.UNKNOWN, f"its answer cannot be read ({said})")
            return make_message(metadata=reply.metadata, error=damaged)
        self.state.object_store.delete(number)
        # Who sent it is what the server has verified, whatever the content says.
        return make_message(metadata=reply.metadata, content=content)

    def _forget(self, ids: list[str], arriving: list[Message]) -> None:
        """Nothing of a round stays: what comes later is of a round that is over."""
        self.state.delete_messages(set(ids))
        for number in [*ids, *(reply.metadata.message_id for reply in arriving)]:
            self.state.object_store.delete(number)


def server_app(strategy: Lessons, grid: FleetGrid, stopped: Callable[[], bool]) -> ServerApp:
    """The ServerApp that goes from round to round until it is stopped."""
    app = ServerApp()

    @app.main()
    def main(_: Grid, context: Context) -> None:
        while not stopped():
            grid.stay()
            if len(list(grid.get_node_ids())) < strategy.pace.min_robots:
                time.sleep(POLL_S)
                continue
            tasks = strategy.configure_train(0, strategy.arrays(), ConfigRecord(), grid)
            answers = grid.send_and_receive(tasks, timeout=strategy.patience_s)
            strategy.aggregate_train(0, answers)

    return app


def serve(strategy: Lessons, server: Server, stopped: Callable[[], bool]) -> None:
    """Go from round to round until it is stopped."""
    grid = server.grid
    grid.stopped = stopped
    context = Context(grid.run.run_id, grid.node.node_id, {}, RecordDict(), {})
    server_app(strategy, grid, stopped)(grid, context)


def _app(factory: LinkStateFactory, only_known: bool, most_bytes: int) -> FastAPI:
    """The robots' API of a SuperLink, as its own `create_app` puts it together, and no other."""
    app = FastAPI(
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        middleware=[
            Middleware(_Limited, most_bytes=most_bytes),
            Middleware(BaseHTTPMiddleware, dispatch=http_error_translator),
            Middleware(ProtobufTranslationMiddleware),
            Middleware(NodeAuthMiddleware),
        ],
    )
    app.state.linkstate_factory = factory
    app.state.enable_supernode_auth = only_known
    app.include_router(router)
    return app


class _Limited:
    """Refuses what is too long, before it is read."""

    def __init__(self, app: ASGIApp, most_bytes: int) -> None:
        self._app = app
        self._most = str(most_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        length = dict(scope.get("headers", ())).get(b"content-length", b"").decode("latin-1")
        fits = length.isdecimal() and (len(length), length) <= (len(self._most), self._most)
        if scope["type"] == "http" and not fits:
            await PlainTextResponse("too long, or of no length", 413)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _listening(door: Door) -> socket.socket:
    """On the door's address. Raises ConfigError."""
    family = socket.AF_INET6 if ":" in door.host else socket.AF_INET
    try:
        door.host.encode("idna")  # what is no name at all would leave a socket open below
        return socket.create_server((door.host, door.port), family=family)
    except (OSError, UnicodeError) as error:
        reason = why(error) if isinstance(error, OSError) else "no name of a computer"
        raise ConfigError(
            f"cannot listen on {door.host:.80}:{door.port} ({reason}): name another --address"
        ) from error
