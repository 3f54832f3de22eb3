"""Who is connected to the page: a few at a time, and nobody who asks for nothing.

This comes before the token: a run must not lose its last free descriptor, and with it the power to
save, to sockets that anybody in the network can open. When all places are taken, the newest comes
in and the one that has done nothing for longest goes, so that idle sockets lock nobody out.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from aiohttp import web

from safe_files.errors import why

MOST = 32
IDLE_S = 5.0  # without a whole request
SWEEP_S = 0.5
BACKLOG = 16  # connections that the system keeps until they are taken
AGAIN_S = 1.0  # after none could be taken
COMPLAIN_EVERY_S = 60.0


@dataclass
class _Connection:
    transport: asyncio.Transport
    idle_since_s: float  # on the loop's clock
    busy: bool = False  # a request is being answered
    stays: bool = False  # a viewer looks through it


class Connections:
    """Takes the connections of a listening socket and hands them to the server of aiohttp."""

    def __init__(self, server: web.Server, complain: logging.Logger) -> None:
        self._server = server
        self._logger = complain
        self._loop = asyncio.get_running_loop()
        self._open: dict[asyncio.BaseProtocol | None, _Connection] = {}

    async def take(self, listener: socket.socket) -> None:
        """For ever: take the next connection, if need be in place of another one."""
        while True:
            try:
                taken, _ = await self._loop.sock_accept(listener)
            except OSError as error:
                self._logger.error("no connection to the page can be taken: %s", why(error))
                await asyncio.sleep(AGAIN_S)
                continue
            if not self._has_room():
                taken.close()
                continue
            transport, protocol = await self._loop.connect_accepted_socket(self._server, taken)
            self._open[protocol] = _Connection(transport, self._loop.time())

    async def sweep(self) -> None:
        """For ever: drop those that have been idle for too long."""
        while True:
            await asyncio.sleep(SWEEP_S)
            self._forget_closed()
            for each in self._open.values():
                if not each.busy and self._loop.time() - each.idle_since_s > IDLE_S:
                    each.transport.abort()

    @contextmanager
    def answering(self, request: web.Request) -> Iterator[None]:
        """While a request is answered, its connection is not idle."""
        connection = self._open.get(request.protocol)
        if connection is None:  # it is new: what it asked for was there at once
            yield
            return
        connection.busy = True
        try:
            yield
        finally:
            connection.busy, connection.idle_since_s = False, self._loop.time()

    def keep(self, request: web.Request) -> None:
        """A viewer looks through the connection of this request: it does not make room."""
        if request.protocol in self._open:  # else it has gone meanwhile
            self._open[request.protocol].stays = True

    def _has_room(self) -> bool:
        """Whether one more can be taken; the one that has been of no use for longest goes."""
        self._forget_closed()
        if len(self._open) < MOST:
            return True
        going = [each for each in self._open.values() if not each.stays]
        if going:
            min(going, key=lambda each: (each.busy, each.idle_since_s)).transport.abort()
        return bool(going)

    def _forget_closed(self) -> None:
        self._open = {
            protocol: each
            for protocol, each in self._open.items()
            if not each.transport.is_closing()
        }


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises OSError."""
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except UnicodeError:
        raise OSError(f"{host} is no name of a computer") from None
    listener = socket.create_server(address[:2], family=family, backlog=BACKLOG)
    listener.setblocking(False)
    return listener


class OneLineAMinute(logging.Filter):
    """What goes wrong in answering is told in a line, and at most once a minute.

    Else whoever sends nonsense writes a log that fills the disk.
    """

    def __init__(self) -> None:
        super().__init__()
        self._next_s = -float("inf")

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it is told; its traceback becomes a word."""
        now_s = time.monotonic()
        if now_s < self._next_s:
            return False
        self._next_s = now_s + COMPLAIN_EVERY_S
        words = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            words += f": {record.exc_info[1]!r}"
        record.msg, record.args = f"page: {' '.join(words.split())}", None
        record.exc_info = record.exc_text = None
        return True
