"""The page's server: aiohttp in a thread of its own, which the thread that learns never waits for.

A viewer is a web socket that is sent the newest of everything at its own pace; what it is too slow
for is never queued, and one that takes nothing for SLOW_S is dropped.

Who may look: on loopback everybody on this machine; on any other address who has the token. Either
way the Host must be ours (a name that was rebound to us is refused), and buttons and sockets are
for pages that came from here.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from aiohttp import WSMsgType, web

from edge_rjepa.errors import ConfigError
from edge_rjepa.views.dashboard.buttons import Buttons, Refused
from edge_rjepa.views.dashboard.history import history
from edge_rjepa.views.dashboard.live import LiveState

MOST_VIEWERS = 8
PICTURE_S, STATE_S, MAP_S = 0.1, 0.5, 2.0  # between two sendings
SLOW_S = 5.0
PRESS_S = 10.0  # until a button must have been obeyed
COOKIE = "edge_rjepa_token"  # and the port: a browser sends a host's cookies to all of its ports
STARTED_S = 10.0


class Dashboard:
    """Serves the page from construction to `close`; a context manager.

    address: HOST:PORT; port 0 takes a free one. folder: of the run. live, buttons: of a run that
    learns; None for one that is only looked at. devices: camera and head as plain JSON values.
    token: what viewers need; None for none on loopback, and for one that is made up elsewhere.
    Raises ConfigError where the address cannot be served.
    """

    def __init__(
        self,
        address: str,
        folder: Path,
        live: LiveState | None = None,
        buttons: Buttons | None = None,
        devices: Callable[[], dict] = dict,
        token: str | None = None,
    ) -> None:
        host, port = parse_address(address)
        self._folder, self._live, self._buttons = folder, live, buttons
        self._devices = devices
        self._is_loopback = is_loopback(host)
        self.token = token or (None if self._is_loopback else secrets.token_urlsafe(16))
        self._host, self._port = host, port
        self._viewers: set[web.WebSocketResponse] = set()
        self._made: dict[str, tuple[object, asyncio.Future]] = {}  # what several viewers are sent
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._ready = threading.Event()
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._run, name="dashboard", daemon=True)
        self._thread.start()
        self._ready.wait(STARTED_S)
        if self._error is not None:
            self._thread.join()
            why = self._error.strerror or self._error
            raise ConfigError(f"the page cannot be served on {address}: {why}; name another port")

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
        app = web.Application(middlewares=[self._guard])
        app.router.add_get("/", self._page)
        app.router.add_get("/history", self._history)
        app.router.add_get("/live", self._stream)
        app.router.add_get("/encoder.onnx", self._encoder)
        app.router.add_get("/report.png", self._report)
        app.router.add_post("/press", self._press)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        try:
            site = web.TCPSite(runner, self._host, self._port)
            await site.start()
            self._port = runner.addresses[0][1]
            self._ready.set()
            remembering = asyncio.ensure_future(self._remember())
            await self._stop.wait()
            remembering.cancel()
            for viewer in list(self._viewers):
                await viewer.close(code=1001, message=b"the run has ended")
        finally:
            await runner.cleanup()

    # -- who may ----------------------------------------------------------------------------------

    @web.middleware
    async def _guard(self, request: web.Request, handler) -> web.StreamResponse:
        if not self._host_is_ours(request.host):
            return web.Response(status=403, text="403: not by this name")
        if self.token is not None:
            given = request.query.get("token")
            if given is None:
                given = unquote(request.cookies.get(self._cookie, ""))
            if not hmac.compare_digest(given.encode(), self.token.encode()):
                return web.Response(status=401, text="401: the token is wrong or missing")
            if "token" in request.query:
                there = web.HTTPFound("/")
                value = quote(self.token, safe="")
                there.set_cookie(self._cookie, value, httponly=True, samesite="Strict")
                raise there
        if (request.method != "GET" or request.path == "/live") and not self._is_from_here(request):
            return web.Response(status=403, text="403: not from another site")
        return await handler(request)

    def _host_is_ours(self, host: str) -> bool:
        """On loopback only its own names; elsewhere the token decides who may."""
        name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
        return not self._is_loopback or is_loopback(name.strip("[]"))

    def _is_from_here(self, request: web.Request) -> bool:
        origin = request.headers.get("Origin")
        site = request.headers.get("Sec-Fetch-Site", "same-origin")
        return site in ("same-origin", "none") and origin in (None, f"http://{request.host}")

    # -- answers ----------------------------------------------------------------------------------

    async def _page(self, request: web.Request) -> web.Response:
        nonce = secrets.token_urlsafe(12)
        text = files(__package__).joinpath("page.html").read_text("utf-8")
        policy = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; "
            "img-src 'self' data: blob:; connect-src 'self'; frame-ancestors 'none'"
        )
        return web.Response(
            text=text.replace("NONCE", nonce),
            content_type="text/html",
            headers={
                "Content-Security-Policy": policy,
                "Cache-Control": "no-store",
                "X-Content-Type-Options": "nosniff",
                "Referrer-Policy": "no-referrer",
            },
        )

    async def _history(self, request: web.Request) -> web.Response:
        path = self._folder / "metrics.jsonl"
        found = await self._loop.run_in_executor(None, history, path)
        found["name"], found["learns"] = self._folder.resolve().name, self._live is not None
        found["buttons"] = self._buttons is not None
        return web.json_response(found)

    async def _encoder(self, request: web.Request) -> web.StreamResponse:
        return self._file("encoder.onnx", "export it first")

    async def _report(self, request: web.Request) -> web.StreamResponse:
        return self._file("report.png", "edge-rjepa report draws it")

    def _file(self, name: str, cure: str) -> web.StreamResponse:
        path = self._folder / name
        if path.is_symlink() or not path.is_file():  # a link may lead anywhere
            return web.Response(status=404, text=f"404: no {name} in this run yet: {cure}")
        return web.FileResponse(path, headers={"Cache-Control": "no-store"})

    async def _press(self, request: web.Request) -> web.Response:
        try:
            name = (await request.json())["button"]
        except (ValueError, TypeError, KeyError):
            return web.Response(status=400, text='400: {"button": ..} is needed')
        if self._buttons is None:
            return web.json_response({"refused": "this run is only looked at"})
        pressed = self._buttons.press(str(name))
        try:
            done = await asyncio.wait_for(asyncio.wrap_future(pressed), PRESS_S)
        except Refused as error:
            return web.json_response({"refused": str(error)})
        except (asyncio.TimeoutError, asyncio.CancelledError):
            return web.json_response({"refused": "the run does not answer: is it still learning?"})
        return web.json_response({"done": done})

    # -- viewers ----------------------------------------------------------------------------------

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        if len(self._viewers) >= MOST_VIEWERS:
            return web.Response(status=503, text=f"503: {MOST_VIEWERS} viewers are the most")
        viewer = web.WebSocketResponse(heartbeat=SLOW_S, max_msg_size=1024)
        await viewer.prepare(request)
        self._viewers.add(viewer)
        sending = asyncio.ensure_future(self._send(viewer))
        try:
            async for message in viewer:  # a viewer has nothing to say
                if message.type != WSMsgType.TEXT:
                    break
        finally:
            sending.cancel()
            self._viewers.discard(viewer)
        return viewer

    async def _send(self, viewer: web.WebSocketResponse) -> None:
        """The newest of everything, again and again, until it goes or is too slow."""
        last = _Sent(*(self._live.newest() if self._live else ()))  # the history has the rest
        state_due = map_due = self._loop.time()
        try:
            while not viewer.closed:
                now = self._loop.time()
                if self._live is not None:
                    await self._send_picture(viewer, self._live, last)
                    if now >= map_due:
                        map_due = now + MAP_S
                        maps = partial(_maps, self._live)
                        await self._say(viewer, await self._once("maps", last.batch, maps))
                if now >= state_due:
                    state_due = now + STATE_S
                    await self._say(viewer, self._state() | self._news(last))
                await asyncio.sleep(PICTURE_S)
        except (asyncio.TimeoutError, ConnectionError):
            await viewer.close(code=1013, message=b"too slow")

    async def _send_picture(
        self, viewer: web.WebSocketResponse, live: LiveState, last: _Sent
    ) -> None:
        if live.batches == last.batch:
            return
        last.batch = live.batches
        picture = await self._once("picture", last.batch, live.picture)
        if picture:
            await asyncio.wait_for(viewer.send_bytes(picture), SLOW_S)

    def _news(self, last: _Sent) -> dict:
        """Measures and events that the viewer does not have yet."""
        found: dict = {}
        if self._live is None:
            return found
        measures = self._live.measures()
        if measures and measures["frames"] != last.measures:
            last.measures = measures["frames"]
            found["measures"] = measures
        events = self._live.events(last.event)
        if events:
            last.event = events[-1][0]
            found["events"] = [text for _, text in events]
        return found

    async def _say(self, viewer: web.WebSocketResponse, values: dict) -> None:
        await asyncio.wait_for(viewer.send_str(json.dumps(values)), SLOW_S)

    async def _once(self, what: str, number: object, make: Callable[[], Any]) -> Any:
        """What several viewers are sent, made once."""
        held = self._made.get(what)
        if held is None or held[0] != number:
            task = self._loop.run_in_executor(None, make)
            self._made[what] = held = number, task
        return await held[1]

    def _state(self) -> dict:
        paused = self._buttons is not None and self._buttons.paused
        return {"devices": self._devices(), "paused": paused, "viewers": len(self._viewers)}

    async def _remember(self) -> None:
        """Keep a patch now and then, whoever watches."""
        while self._live is not None:
            await self._loop.run_in_executor(None, self._live.remember)
            await asyncio.sleep(STATE_S)


@dataclass
class _Sent:
    """What a viewer has been sent last."""

    measures: int | None = None  # their frame
    event: int = 0
    batch: int = -1


def _maps(live: LiveState) -> dict:
    return {
        "surprise_map": live.surprise_map(),
        "neighbours": live.neighbours(),
        "embedding_map": live.embedding_map(),
    }


def parse_address(address: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT`, `:PORT` or `PORT`. Raises ConfigError."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]") or "127.0.0.1"
    if not (port.isdigit() and int(port) < 65536):
        raise ConfigError(f"dashboard address {address!r}: use HOST:PORT, such as 127.0.0.1:8000")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine can be meant."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
