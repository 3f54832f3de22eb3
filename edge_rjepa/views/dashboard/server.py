"""The page's server: aiohttp in a thread of its own, which learning and watching never wait for.

A viewer is a web socket that is sent the newest of everything at its own pace; what it is too slow
for is never queued, and one that takes nothing for SLOW_S is dropped.

Who may look: on loopback everybody on this machine; on any other address who has the token. Either
way the Host must be ours (a name that was rebound to us is refused), and buttons and sockets are
for pages that came from here. Names beside that of the address, such as a reverse proxy's, are ours
only if they are named. Connections are counted before all of this (connections.py).
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import secrets
import socket
import threading
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial
from importlib.resources import files
from typing import Any
from urllib.parse import quote, unquote

from aiohttp import WSMsgType, web

from edge_rjepa.errors import ConfigError
from edge_rjepa.views.address import is_loopback, parse_address
from edge_rjepa.views.dashboard.connections import Connections, OneLineAMinute, listen
from edge_rjepa.views.dashboard.subject import Picture, Refused, Subject
from safe_files.errors import why
from safe_files.reading import parse_json

MOST_VIEWERS = 8
PICTURE_S, STATE_S, MAP_S = 0.1, 0.5, 2.0  # between two sendings
SLOW_S = 5.0
GOODBYE_S = 1.0  # for a viewer to say it, too
REPLACED = 4000  # code of a web socket that made room for a newer one: the page does not come back
PRESS_S = 10.0  # until a button must have been obeyed
READ_S = 5.0  # until what a button is must have come
MOST_BYTES = 1 << 20  # of that: masks are the longest
GUESS_S = 0.25  # between two answers to a wrong token, whoever asks
COOKIE = "edge_rjepa_token"  # and the port: a browser sends a host's cookies to all of its ports
STARTED_S = 10.0
HEADERS = {  # of every answer: nobody keeps it, guesses what it is, or shows it elsewhere
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Dashboard:
    """Serves the page from construction to `close`; a context manager.

    address: HOST:PORT; port 0 takes a free one. subject: what the page is about. token: what
    viewers need; None for none on loopback, and for one that is made up elsewhere. names: hosts
    under which the page is asked for beside its address, such as a reverse proxy's. Raises
    ConfigError where the address cannot be served.
    """

    def __init__(
        self,
        address: str,
        subject: Subject,
        token: str | None = None,
        names: Collection[str] = (),
    ) -> None:
        host, port = parse_address(address)
        self._subject = subject
        self._is_loopback = is_loopback(host)
        self.token = token or (None if self._is_loopback else secrets.token_urlsafe(16))
        self._names = {name.lower() for name in names}
        self._host, self._port = host, port
        self._viewers: list[web.WebSocketResponse] = []  # who came last is last
        self._made: dict[str, tuple[object, asyncio.Future]] = {}  # what several viewers are sent
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._guessing = asyncio.Lock()
        self._logger = logging.Logger(__name__, logging.WARNING)
        self._logger.addFilter(OneLineAMinute())
        self._ready = threading.Event()
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._run, name="dashboard", daemon=True)
        self._thread.start()
        if not self._ready.wait(STARTED_S):
            raise ConfigError(f"the page cannot be served on {address}: its name is not found")
        if self._error is not None:
            self._thread.join()
            raise ConfigError(
                f"the page cannot be served on {address}: {why(self._error)}; or name another port"
            )

    @property
    def url(self) -> str:
        """Where to look, the token included."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        key = f"?token={quote(self.token, safe='')}" if self.token else ""
        return f"http://{host}:{self._port}/{key}"

    @property
    def _cookie(self) -> str:
        return f"{COOKIE}_{self._port}"

    def close(self) -> None:
        """Say goodbye to all viewers and free the port."""
        with suppress(RuntimeError):  # its thread has ended
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def __enter__(self) -> Dashboard:
        return self

    def __exit__(self, kind, error, trace) -> None:
        self.close()

    # -- the thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        except OSError as error:
            self._error = error
        finally:
            self._ready.set()
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()

    async def _serve(self) -> None:
        with listen(self._host, self._port) as listener:
            self._port = listener.getsockname()[1]
            self._loop.set_exception_handler(self._complain)
            app = web.Application(middlewares=[self._guard], client_max_size=MOST_BYTES)
            app.router.add_get("/", self._page)
            app.router.add_get("/history", self._history)
            app.router.add_get("/live", self._stream)
            app.router.add_get("/metrics", self._metrics)
            app.router.add_get("/pictures", self._pictures_kept)
            app.router.add_get(r"/alarm-{number:\d{1,9}}.jpg", self._alarm)
            for name, cure in self._subject.files.items():
                app.router.add_get(f"/{name}", partial(self._file, name, cure))
            app.router.add_post("/press", self._press)
            app.on_response_prepare.append(_add_headers)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0, logger=self._logger)
            await runner.setup()
            assert runner.server is not None  # there is one after setup()
            self._connections = Connections(runner.server, self._logger)
            await self._serve_until_stopped(runner, listener)

    async def _serve_until_stopped(self, runner: web.AppRunner, listener: socket.socket) -> None:
        jobs = self._connections.take(listener), self._connections.sweep(), self._remember()
        tasks = [asyncio.ensure_future(job) for job in jobs]
        for task in tasks:
            task.add_done_callback(self._tell_of_failure)
        self._ready.set()
        try:
            await self._stop.wait()
            for task in tasks:
                task.cancel()
            for viewer in list(self._viewers):
                await viewer.close(code=1001, message=b"the run has ended")
        finally:
            await runner.cleanup()

    def _tell_of_failure(self, task: asyncio.Task) -> None:
        if not task.cancelled() and task.exception() is not None:
            self._logger.error("the page stands still", exc_info=task.exception())

    def _complain(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._logger.error(context["message"], exc_info=context.get("exception"))

    # -- who may ----------------------------------------------------------------------------------

    @web.middleware
    async def _guard(self, request: web.Request, handler) -> web.StreamResponse:
        with self._connections.answering(request):
            refusal = await self._refusal(request)
            return await handler(request) if refusal is None else refusal

    async def _refusal(self, request: web.Request) -> web.StreamResponse | None:
        """Why the request is not answered; None if it is."""
        if not self._host_is_ours(request.headers.get("Host", "")):
            cure = "start it with --host-name and the name that the browser shows"
            return web.Response(status=403, text=f"403: not by this name; {cure}")
        if self.token is not None:
            given = request.query.get("token") or _bearer(request)
            if given is None:
                given = unquote(request.cookies.get(self._cookie, ""))
            if not hmac.compare_digest(_as_bytes(given), _as_bytes(self.token)):
                if given:
                    async with self._guessing:
                        await asyncio.sleep(GUESS_S)
                return web.Response(status=401, text="401: the token is wrong or missing")
            if "token" in request.query:
                there = web.Response(status=302, headers={"Location": "./"})
                value = quote(self.token, safe="")
                there.set_cookie(self._cookie, value, httponly=True, samesite="Strict")
                return there
        if (request.method != "GET" or request.path == "/live") and not self._is_from_here(request):
            return web.Response(status=403, text="403: not from another site")
        return None

    def _host_is_ours(self, host: str) -> bool:
        """On loopback only its own names and those named; elsewhere the token decides who may."""
        name = _without_port(host)
        return not self._is_loopback or is_loopback(name) or name in self._names

    def _is_from_here(self, request: web.Request) -> bool:
        """Whether a page of this server asks; one that has a name of its own may be under TLS."""
        schemes = ("http", "https") if _without_port(request.host) in self._names else ("http",)
        origin = request.headers.get("Origin")
        site = request.headers.get("Sec-Fetch-Site", "same-origin")
        ours = {f"{scheme}://{request.host}".lower() for scheme in schemes}
        return site in ("same-origin", "none") and (origin is None or origin.lower() in ours)

    # -- answers ----------------------------------------------------------------------------------

    async def _page(self, request: web.Request) -> web.Response:
        nonce = secrets.token_urlsafe(12)
        text = files(__package__).joinpath("page.html").read_text("utf-8")
        policy = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; "
            "img-src 'self' data: blob:; connect-src 'self'; frame-ancestors 'none'; "
            "base-uri 'none'; form-action 'none'"
        )
        return web.Response(
            text=text.replace("NONCE", nonce),
            content_type="text/html",
            headers={"Content-Security-Policy": policy},
        )

    async def _history(self, request: web.Request) -> web.Response:
        return web.json_response(await self._loop.run_in_executor(None, self._subject.overview))

    async def _metrics(self, request: web.Request) -> web.Response:
        try:
            from edge_rjepa.views.dashboard.prometheus import exposition
        except ConfigError as error:
            return web.Response(status=501, text=f"501: {error}")
        measures = await self._loop.run_in_executor(None, self._subject.measures)
        if not measures:
            text = "404: nothing is learned or watched here: ask the process that does"
            return web.Response(status=404, text=text)
        accept = request.headers.get("Accept", "")
        body, kind = await self._loop.run_in_executor(None, exposition, measures, accept)
        return web.Response(body=body, headers={"Content-Type": kind})

    async def _pictures_kept(self, request: web.Request) -> web.Response:
        found = await self._loop.run_in_executor(None, self._subject.pictures_kept)
        return web.json_response(found)

    async def _alarm(self, request: web.Request) -> web.Response:
        number = int(request.match_info["number"])
        jpeg = await self._loop.run_in_executor(None, self._subject.alarm_jpeg, number)
        if jpeg is None:
            return web.Response(status=404, text="404: this alarm's picture is not kept")
        return web.Response(body=jpeg, content_type="image/jpeg")

    async def _file(self, name: str, cure: str, request: web.Request) -> web.StreamResponse:
        path = self._subject.folder / name
        if path.is_symlink() or not path.is_file():  # a link may lead anywhere
            return web.Response(status=404, text=f"404: no {name} in this run yet: {cure}")
        return web.FileResponse(path)

    async def _press(self, request: web.Request) -> web.Response:
        if (request.charset or "utf-8").lower() != "utf-8":
            return web.Response(status=400, text="400: JSON is UTF-8")
        try:
            asked = parse_json(await asyncio.wait_for(request.read(), READ_S))
            name, value = str(asked["button"]), asked.get("value")
        except (ValueError, TypeError, LookupError, AttributeError):
            return web.Response(status=400, text='400: {"button": ..} is needed')
        except web.RequestPayloadError:
            return web.Response(status=400, text="400: the body does not unpack: send it as it is")
        try:
            pressed = self._subject.press(name, value)
            done = await asyncio.wait_for(asyncio.wrap_future(pressed), PRESS_S)
        except Refused as error:
            return web.json_response({"refused": str(error)})
        except (asyncio.TimeoutError, asyncio.CancelledError):
            return web.json_response({"refused": "it does not answer: does it still go on?"})
        return web.json_response({"done": done})

    # -- viewers ----------------------------------------------------------------------------------

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        viewer = web.WebSocketResponse(heartbeat=SLOW_S, max_msg_size=1024, timeout=GOODBYE_S)
        await viewer.prepare(request)
        self._connections.keep(request)
        self._viewers.append(viewer)
        if len(self._viewers) > MOST_VIEWERS:  # whoever looks now is here; the first may have left
            await self._viewers.pop(0).close(code=REPLACED, message=b"a newer viewer came")
        sending = asyncio.ensure_future(self._send(viewer))
        try:
            async for message in viewer:  # a viewer has nothing to say
                if message.type != WSMsgType.TEXT:
                    break
        finally:
            sending.cancel()
            with suppress(ValueError):  # it was replaced
                self._viewers.remove(viewer)
        return viewer

    async def _send(self, viewer: web.WebSocketResponse) -> None:
        """The newest of everything, again and again, until it goes or is too slow."""
        subject = self._subject
        _, seen = subject.news()  # the overview has the rest
        picture, state_due = -1, self._loop.time()
        map_due = state_due
        try:
            while not viewer.closed:
                now = self._loop.time()
                if subject.pictures not in (0, picture):
                    picture = subject.pictures
                    await self._send_picture(viewer, picture)
                if now >= state_due:
                    state_due = now + STATE_S
                    news, seen = subject.news(seen)
                    await self._say(
                        viewer, subject.state() | news | {"viewers": len(self._viewers)}
                    )
                if now >= map_due:
                    map_due = now + MAP_S
                    await self._say(viewer, await self._once("maps", picture, subject.maps))
                await asyncio.sleep(PICTURE_S)
        except (asyncio.TimeoutError, ConnectionError):
            await viewer.close(code=1013, message=b"too slow")
        except Exception as error:  # it comes back, and may find it mended
            self._logger.error("a viewer was left: %s", error)
            await viewer.close(code=1011, message=b"the page failed")

    async def _send_picture(self, viewer: web.WebSocketResponse, number: int) -> None:
        """What is laid over it goes ahead of it."""
        picture: Picture | None = await self._once("picture", number, self._subject.picture)
        if picture is not None:
            await self._say(viewer, {"over": picture.overlay})
            await asyncio.wait_for(viewer.send_bytes(picture.jpeg), SLOW_S)

    async def _say(self, viewer: web.WebSocketResponse, values: dict) -> None:
        await asyncio.wait_for(viewer.send_str(json.dumps(values)), SLOW_S)

    async def _once(self, what: str, number: object, make: Callable[[], Any]) -> Any:
        """What several viewers are sent, made once."""
        held = self._made.get(what)
        if held is None or held[0] != number:
            task = self._loop.run_in_executor(None, make)
            self._made[what] = held = number, task
        try:
            return await asyncio.shield(held[1])  # a viewer that goes takes it from no other
        except Exception:
            self._made.pop(what, None)  # the next one tries again
            raise

    async def _remember(self) -> None:
        """Keep a patch now and then, whoever watches."""
        while True:
            with suppress(RuntimeError):  # no thread can be started now
                await self._loop.run_in_executor(None, self._subject.remember)
            await asyncio.sleep(STATE_S)


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(HEADERS)


def _bearer(request: web.Request) -> str | None:
    """The token that programs send in a header, as Prometheus does."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _as_bytes(text: str) -> bytes:
    """Whatever bytes a browser sent: those that are no UTF-8 are lone surrogates in the text."""
    return text.encode("utf-8", "surrogatepass")


def _without_port(host: str) -> str:
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    return name.strip("[]").lower()
