"""The page's doors: sockets that ask for nothing, bytes that mean nothing, buttons that wait."""

import asyncio
import gzip
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError
from types import SimpleNamespace

import aiohttp
import pytest

from edge_rjepa.views.dashboard import buttons as buttons_room
from edge_rjepa.views.dashboard import connections
from edge_rjepa.views.dashboard import server as server_room
from edge_rjepa.views.dashboard.buttons import Buttons
from edge_rjepa.views.dashboard.kept import KeptRun
from edge_rjepa.views.dashboard.server import Dashboard
from edge_rjepa.views.dashboard.subject import Refused, Subject

PATIENCE_S = 90.0
TOKEN = "open sesame"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(b"")
    return tmp_path


def raw(port, data, wait_s=PATIENCE_S):
    """All that is answered to these bytes, until the server closes, as it does with idle ones."""
    with socket.create_connection(("127.0.0.1", port), wait_s) as asking:
        asking.sendall(data)
        answer = b""
        while part := asking.recv(65536):
            answer += part
        return answer


def status_of(port, path="/", method="GET", body=None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        connection.request(
            method, path, body, {name.replace("_", "-"): value for name, value in headers.items()}
        )
        return connection.getresponse().status
    finally:
        connection.close()


def is_closed(idle):
    """Whether the other side has closed it; what it sent before is passed over."""
    try:
        while idle.recv(4096):
            pass
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def wait_for(true, what):
    end_s = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end_s, f"not within {PATIENCE_S} s: {what}"
        time.sleep(0.02)


# -- sockets -------------------------------------------------------------------------------------


@pytest.mark.attack
@pytest.mark.parametrize("token", [None, TOKEN])
def test_a_thousand_sockets_take_few_descriptors_and_lock_nobody_out(folder, token):
    command = [sys.executable, "-m", "edge_rjepa", "dashboard", str(folder)]
    command += ["--address", "127.0.0.1:0", *(["--token", token] if token else [])]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as served:
        port = int(re.search(r"http://[\d.]+:(\d+)/", served.stderr.readline())[1])
        fds = f"/proc/{served.pid}/fd"
        cookie = {"Cookie": "edge_rjepa_token=x"} if token else {}
        allowed = 401 if token else 200
        assert status_of(port, **cookie) == allowed
        before, most = len(os.listdir(fds)), 0
        opened = []
        for k in range(1000):
            one = socket.create_connection(("127.0.0.1", port), PATIENCE_S)
            if k % 2:
                one.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-a: ")  # and never the rest
            opened.append(one)
            if k % 100 == 99:
                most = max(most, len(os.listdir(fds)))
                assert status_of(port, **cookie) == allowed
        assert most <= before + connections.MOST + 4
        for one in opened:
            one.close()
        served.send_signal(signal.SIGTERM)
        said = served.stderr.read()
        assert served.wait(PATIENCE_S) == 0
    assert len(said.splitlines()) <= 3, said


@pytest.mark.slow
def test_who_asks_for_nothing_is_dropped(folder, monkeypatch):
    monkeypatch.setattr(connections, "IDLE_S", 0.5)
    with Dashboard("127.0.0.1:0", KeptRun(folder)) as server:
        silent, slow, asked = (
            socket.create_connection(("127.0.0.1", server._port), PATIENCE_S) for _ in range(3)
        )
        asked.sendall(b"GET /history HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert asked.recv(12) == b"HTTP/1.1 200"
        for each in (silent, slow, asked):
            each.setblocking(False)

        def all_closed():
            if not is_closed(slow):
                slow.send(b"a")  # a byte now and then is no request
            return all(is_closed(each) for each in (silent, slow, asked))

        slow.send(b"GET / HTTP/1.1\r\nX: ")
        wait_for(all_closed, "they are dropped")
        for each in (silent, slow, asked):
            each.close()


def test_a_press_whose_body_never_comes_is_answered(folder, monkeypatch):
    monkeypatch.setattr(server_room, "READ_S", 0.2)
    head = b"POST /press HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 30\r\n\r\n{"
    with Dashboard("127.0.0.1:0", KeptRun(folder)) as server:
        with socket.create_connection(("127.0.0.1", server._port), PATIENCE_S) as asking:
            asking.sendall(head)
            assert asking.recv(12) in (b"HTTP/1.1 504", b"HTTP/1.1 400")


# -- bytes ---------------------------------------------------------------------------------------

HOST = b"Host: 127.0.0.1\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST


def press(body, kind=b"application/json"):
    return (
        b"POST /press HTTP/1.1\r\n" + HOST + b"Content-Type: " + kind
        + b"\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body
    )  # fmt: skip


def packed(body, coding=b"gzip"):
    """A press whose body is said to be packed."""
    return press(body).replace(b"\r\n\r\n", b"\r\nContent-Encoding: %b\r\n\r\n" % coding, 1)


PACKED = gzip.compress(b'{"button": "pause"}')
NO_PACKED = {  # the coding it is said to have, and the body
    "not packed": (b"gzip", b'{"button": "pause"}'),
    "packed otherwise": (b"deflate", b"\xff" * 30),
    "a byte other": (b"gzip", PACKED[:15] + bytes([PACKED[15] ^ 0xFF]) + PACKED[16:]),
    "a wrong sum": (b"gzip", PACKED[:-8] + bytes(4) + PACKED[-4:]),
}

NONSENSE = {
    "cookie no UTF-8": GET + b"Cookie: edge_rjepa_token=\xff\xfe\r\nConnection: close\r\n\r\n",
    "raw UTF-8 token": "GET /?token=Ä€ HTTP/1.1\r\n".encode() + HOST + b"\r\n",
    "percent token": b"GET /?token=%ff%fe HTTP/1.1\r\n" + HOST + b"\r\n",
    "surrogate token": b"GET /?token=%ed%a0%80 HTTP/1.1\r\n" + HOST + b"\r\n",
    "host no UTF-8": b"GET / HTTP/1.1\r\nHost: \xff\r\n\r\n",
    "host half an address": b"GET / HTTP/1.1\r\nHost: [\r\n\r\n",
    "origin no UTF-8": press(b"{}").replace(b"\r\n\r\n", b"\r\nOrigin: \xff\r\n\r\n", 1),
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),
    "HTTP 2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "long header": GET + b"X: " + b"a" * 100_000 + b"\r\n\r\n",
    "long path": b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    "deep": press(b"[" * 4000),
    "deep button": press(b'{"button": ' + b"[" * 2000 + b"]" * 2000 + b"}"),
    "charset nope": press(b'{"button": "pause"}', b"application/json; charset=nope"),
    "charset rot13": press(b'{"button": "pause"}', b"application/json; charset=rot13"),
    "charset zlib": press(b'{"button": "pause"}', b"application/json; charset=zlib"),
    "charset idna": press(b"\xff" * 100, b"application/json; charset=idna"),
    "a list": press(b"[]"),
    "null": press(b"null"),
    "half a surrogate": press(b'{"button": "\\ud800"}'),
    "5,000 digits": press(b'{"button": ' + b"1" * 3900 + b"}"),
    "long body": press(b'{"button": "' + b"a" * 2_000_000 + b'"}'),
    "gzip that is none": packed(b"x"),
    "web socket key": GET.replace(b"/ ", b"/live ") + b"Upgrade: websocket\r\n"
    b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x\r\n\r\n",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("token", [None, TOKEN])
def test_no_bytes_make_a_traceback(folder, token, capfd, monkeypatch):
    monkeypatch.setattr(connections, "IDLE_S", 0.2)
    monkeypatch.setattr(connections, "SWEEP_S", 0.05)
    with Dashboard("127.0.0.1:0", KeptRun(folder), token=token) as server:
        answered = 0
        for name, data in NONSENSE.items():
            try:
                answer = raw(server._port, data)
            except ConnectionError:  # it was not read to its end
                continue
            assert not answer or re.match(rb"HTTP/1.. (?!500)", answer), (name, answer)
            answered += bool(answer)
        assert answered > 0.7 * len(NONSENSE)
        assert status_of(server._port) == (401 if token else 200)
    said = capfd.readouterr().err
    assert "Traceback" not in said and len(said.splitlines()) <= 1, said


@pytest.mark.parametrize("damage", NO_PACKED)
def test_a_packed_body_that_does_not_unpack_is_told(folder, damage, capfd):
    coding, body = NO_PACKED[damage]
    with Dashboard("127.0.0.1:0", KeptRun(folder)) as server:
        assert raw(server._port, packed(PACKED)).startswith(b"HTTP/1.1 200")
        answer = raw(server._port, packed(body, coding))
    assert answer.startswith(b"HTTP/1.1 400") and b"the body does not unpack: send it" in answer
    assert "Traceback" not in capfd.readouterr().err


def test_who_names_no_host_is_refused(folder):
    with Dashboard("127.0.0.1:0", KeptRun(folder)) as server:
        assert raw(server._port, b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 403")


def test_every_answer_says_that_it_is_for_this_page_alone(folder):
    (folder / "report.png").write_bytes(b"a picture")
    with Dashboard("127.0.0.1:0", KeptRun(folder)) as server:
        for path in ("/", "/history", "/report.png", "/nowhere"):
            connection = http.client.HTTPConnection("127.0.0.1", server._port, timeout=PATIENCE_S)
            connection.request("GET", path)
            answer = connection.getresponse()
            answer.read()
            connection.close()
            assert answer.getheader("Cross-Origin-Resource-Policy") == "same-origin", path
            assert answer.getheader("X-Content-Type-Options") == "nosniff", path
            assert answer.getheader("Cache-Control") == "no-store", path
            policy = answer.getheader("Content-Security-Policy")
            if path == "/":
                assert "base-uri 'none'; form-action 'none'" in policy


# -- names and tokens ----------------------------------------------------------------------------


def test_a_name_is_ours_only_if_it_was_named(folder):
    host, button = "robot.example:8181", '{"button": "pause"}'
    with Dashboard("127.0.0.1:0", KeptRun(folder)) as server:
        assert status_of(server._port, Host=host) == 403
    with Dashboard("127.0.0.1:0", KeptRun(folder), names=["Robot.example"]) as server:

        def pressed(**headers):
            return status_of(server._port, "/press", "POST", button, **headers)

        assert status_of(server._port, Host=host) == 200
        assert status_of(server._port, Host="other.example") == 403
        assert pressed(Host=host, Origin=f"https://{host}", Sec_Fetch_Site="same-origin") == 200
        assert pressed(Host=host, Origin=f"http://{host}") == 200
        for origin in ("https://robot.example", "https://evil.example:8181", "null"):
            assert pressed(Host=host, Origin=origin) == 403, origin
        assert pressed(Host=host, Origin=f"https://{host}", Sec_Fetch_Site="cross-site") == 403
        here = f"127.0.0.1:{server._port}"
        assert (
            pressed(Host=here, Origin=f"https://{here}") == 403
        )  # there is no TLS without a proxy


@pytest.mark.slow
def test_guesses_wait_for_each_other_and_hold_up_nobody_else(folder, monkeypatch):
    monkeypatch.setattr(server_room, "GUESS_S", 1e6)
    with Dashboard("127.0.0.1:0", KeptRun(folder), token=TOKEN) as server:
        with socket.create_connection(("127.0.0.1", server._port), PATIENCE_S) as guess:
            guess.sendall(b"GET /?token=wrong HTTP/1.1\r\n" + HOST + b"\r\n")
            wait_for(server._guessing.locked, "the guess has come")
            assert status_of(server._port, "/?token=open%20sesame") == 302
            assert status_of(server._port) == 401  # who has none does not guess
            guess.setblocking(False)
            with pytest.raises(BlockingIOError):
                guess.recv(1)


# -- viewers -------------------------------------------------------------------------------------


class SlowMaps(Subject):
    """Its maps take as long as a test wants."""

    def __init__(self, folder):
        super().__init__(folder)
        self.drawn = threading.Event()

    def maps(self):
        assert self.drawn.wait(PATIENCE_S)
        return {"verdict": "drawn"}


def test_a_viewer_that_goes_leaves_the_others_what_they_wait_for(tmp_path):
    """They wait for one and the same map."""
    subject = SlowMaps(tmp_path)

    async def look(server):
        async with aiohttp.ClientSession() as session:
            going, staying = [await session.ws_connect(f"{server.url}live") for _ in range(2)]
            await going.receive(PATIENCE_S)  # the state, ahead of the map
            await staying.receive(PATIENCE_S)
            await going.close()
            subject.drawn.set()
            while "verdict" not in await staying.receive_json(timeout=PATIENCE_S):
                pass

    with Dashboard("127.0.0.1:0", subject) as server:
        asyncio.run(look(server))


# -- buttons -------------------------------------------------------------------------------------


class FakeRun(SimpleNamespace):
    """As much of a run as the buttons need."""

    def __init__(self, **more):
        super().__init__(frames=10, frames_kept=0, kept=0, why_not=None, **more)

    def keep(self):
        if self.why_not:
            return self.why_not
        self.kept += 1
        self.frames_kept = self.frames
        return None


def test_an_end_while_a_button_waits_refuses_it_and_no_more():
    buttons = Buttons(lambda learner, path: None, print)
    waiting, given_up = buttons.press("checkpoint"), buttons.press("checkpoint")
    assert given_up.cancel()  # its viewer waited for too long
    buttons.close()
    with pytest.raises(Refused, match="has ended"):
        waiting.result(PATIENCE_S)
    with pytest.raises(CancelledError):
        given_up.result(PATIENCE_S)


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), MemoryError()])
def test_a_button_that_lacks_a_thread_or_memory_ends_no_run(error):
    class Learner:
        def copy(self):
            raise error

    buttons = Buttons(lambda learner, path: None, print)
    done = buttons.press("export")
    buttons.obey(FakeRun(learner=Learner()))
    with pytest.raises(Refused, match=r"start new thread|MemoryError"):
        done.result(PATIENCE_S)
    buttons.close()


def test_checkpoints_are_not_kept_faster_than_they_are_worth(monkeypatch):
    now_s = [100.0]
    monkeypatch.setattr(buttons_room.time, "monotonic", lambda: now_s[0])
    buttons, run = Buttons(lambda learner, path: None, print), FakeRun()

    def press():
        done = buttons.press("checkpoint")
        buttons.obey(run)
        return done

    assert press().result() == "kept at frame 10"
    with pytest.raises(Refused, match="press again in 10 s"):
        press().result()
    now_s[0] += buttons_room.PACE_S
    assert press().result() == "kept at frame 10" and run.kept == 1  # the same moment: once
    now_s[0] += buttons_room.PACE_S
    run.frames = 11
    assert press().result() == "kept at frame 11" and run.kept == 2


def test_what_is_not_kept_is_not_said_to_be():
    buttons, run = Buttons(lambda learner, path: None, print), FakeRun()
    run.why_not = "the effective rank is 1, below 1.5"
    done = buttons.press("checkpoint")
    buttons.obey(run)
    with pytest.raises(Refused, match="not kept: the effective rank is 1"):
        done.result()
    done = buttons.press("checkpoint")
    buttons.obey(run)
    with pytest.raises(Refused, match="asked for just now"):
        done.result()
