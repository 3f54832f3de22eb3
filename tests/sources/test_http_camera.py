"""JPEGs by HTTP, from servers of every manner; each serves on this machine only."""

import base64
import contextlib
import itertools
import re
import socket
import socketserver
import threading
import time

import cv2
import numpy as np
import pytest

from edge_rjepa.errors import SourceError
from edge_rjepa.sources import open_source
from edge_rjepa.sources.camera import Stream
from edge_rjepa.sources.config import CameraConfig
from edge_rjepa.sources.decode import MOST_PIXELS, decode
from edge_rjepa.sources.jpeg import TORN, JpegCutter
from tests.sources.test_decode import encoded, jpeg_of_size, smooth_picture

BASE = smooth_picture(0, 240, 320)
HEAD = "HTTP/1.1 200 OK\r\nContent-Type: {}\r\nConnection: close\r\n\r\n"
MULTIPART = "multipart/x-mixed-replace; boundary=frame"


def jpeg(number):
    return encoded("jpg", np.roll(BASE, 3 * number, axis=1))


def part(picture, boundary="--frame", end="\r\n", length=True):
    head = f"{boundary}{end}Content-Type: image/jpeg{end}"
    head += f"Content-Length: {len(picture)}{end}" if length else ""
    return f"{head}{end}".encode() + picture + end.encode()


def stream(each=part, kind=MULTIPART):
    """A server that sends pictures for ever, as `each` makes parts of them."""

    def answer(request, send):
        send(HEAD.format(kind).encode())
        for number in itertools.count():
            send(each(jpeg(number)))
            time.sleep(0.01)

    return answer


def chunked(request, send):
    send(
        HEAD.format(MULTIPART)
        .replace("\r\n\r\n", "\r\nTransfer-Encoding: chunked\r\n\r\n")
        .encode()
    )
    for number in itertools.count():
        piece = part(jpeg(number))
        send(b"%x\r\n" % len(piece) + piece + b"\r\n")
        time.sleep(0.01)


def without_first_boundary(request, send):
    send(HEAD.format(MULTIPART).encode() + part(jpeg(-1)).removeprefix(b"--frame\r\n"))
    stream()(request, lambda piece: send(piece.removeprefix(HEAD.format(MULTIPART).encode())))


ASKED = itertools.count()


def snapshot(request, send):
    send(HEAD.format("image/jpeg").encode() + jpeg(next(ASKED)))


def reply(status, body=b"hello", kind="text/html", extra=""):
    def answer(request, send):
        head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        send(f"{head}{extra}Connection: close\r\n\r\n".encode() + body)

    return answer


def after(seconds, head_first=False):
    def answer(request, send):
        if head_first:
            send(HEAD.format(MULTIPART).encode())
        time.sleep(seconds)
        skipped = HEAD.format(MULTIPART).encode() if head_first else b""
        stream()(request, lambda piece: send(piece.removeprefix(skipped) or b"\r\n"))

    return answer


def basic(request, send):
    wanted = base64.b64encode(b"user:p@s/s #?\xc3\xa9").decode()
    if f"Authorization: Basic {wanted}" in request:
        return stream()(request, send)
    return reply("401 Unauthorized", extra='WWW-Authenticate: Basic realm="cam"\r\n')(request, send)


def digest(request, send):
    if 'Authorization: Digest username="user", realm="cam"' in request:
        return stream()(request, send)
    challenge = 'WWW-Authenticate: Digest realm="cam", nonce="abc", qop="auth"\r\n'
    return reply("401 Unauthorized", extra=challenge)(request, send)


@contextlib.contextmanager
def serving(answer):
    """The address (host, port) of a server whose connections `answer(request, send)` serves."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            request = ""
            while (line := self.rfile.readline().decode("latin-1")).strip():
                request += line
            with contextlib.suppress(OSError):
                answer(request, self.wfile.write)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def seen(answer, count=5, user="", path="/s", **config):
    """`count` pictures of such a server, and what was told of it."""
    with serving(answer) as place:
        url = f"http://{user}{place}{path}"
        with open_source(url, camera=CameraConfig(**config)) as source:
            frames = [source.read_next(5000) for _ in range(count)]
            return frames, source.drain_events()


def refusal(answer, scheme="http", user="", **config):
    """The line that such a server is refused with."""
    with serving(answer) as place, pytest.raises(SourceError) as caught:
        open_source(f"{scheme}://{user}{place}/s", camera=CameraConfig(**config)).close()
    assert "\n" not in str(caught.value)
    return str(caught.value)


STYLES = {
    "as most": stream(),
    "no length": stream(lambda p: part(p, length=False)),
    "a wrong length": stream(lambda p: part(p).replace(b"Length: ", b"Length: 9")),
    "line feeds": stream(lambda p: part(p, end="\n")),
    "another boundary": stream(lambda p: part(p, boundary="--other")),
    "no type": stream(kind=""),
    "a type of bytes": stream(kind="application/octet-stream"),
    "a type in capitals": stream(kind="Multipart/X-Mixed-Replace; Boundary=frame"),
    "a type with more to it": stream(kind=MULTIPART + "; charset=utf-8"),
    "raw": stream(lambda p: p, kind="image/jpeg"),
    "raw video": stream(lambda p: p, kind="video/x-motion-jpeg"),
    "no first boundary": without_first_boundary,
    "chunked": chunked,
    "a picture an answer": snapshot,
    "torn pictures between": stream(lambda p: part(p[: len(p) // 2]) + part(p)),
    "bombs between": stream(lambda p: part(jpeg_of_size(30_000, 30_000)) + part(p)),
    "a slow answer": after(0.5),
    "a slow first picture": after(0.5, head_first=True),
}  # fmt: skip
STYLES |= {
    f"{n} zeros after each": stream(lambda p, n=n: part(p + bytes(n)))
    for n in (1, 61, 63, 64, 96, 513, 100_000)
}


@pytest.mark.slow
@pytest.mark.parametrize("style", STYLES)
def test_pictures_come_however_they_are_sent(style):
    frames, told = seen(STYLES[style])
    assert {frame.image.shape for frame in frames} == {(240, 320, 3)}
    assert len({frame.image.tobytes() for frame in frames}) == len(frames) and told == []


@pytest.mark.slow
def test_pictures_are_those_that_were_sent():
    frames, _ = seen(snapshot, count=8)
    sent = {cv2.imdecode(np.frombuffer(jpeg(i), np.uint8), 1).tobytes() for i in range(100)}
    assert all(frame.image.tobytes() in sent for frame in frames)


@pytest.mark.parametrize(
    ("answer", "password"), [(basic, "p%40s%2Fs%20%23%3F%C3%A9"), (digest, "p%40s")]
)
def test_a_password_is_given_where_it_is_asked_for(answer, password):
    frames, _ = seen(answer, user=f"user:{password}@")
    assert len(frames) == 5


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (reply("401 No"), r"the answer is 401 No; give the user and the password"),
        (basic, r"the answer is 401 Unauthorized; give the user and the password"),
        (reply("403 No"), r"403 No; .* forbidden"),
        (reply("404 Not Found"), r"404 Not Found; there is nothing at this address"),
        (reply("500 Oops"), r"500 Oops; the camera fails"),
        (reply("503 Busy"), r"503 Busy; the camera fails"),
        (reply("302 Found", extra="Location: /s\r\n"), r"leads on without end \(302\)"),
        (reply("302 Found", extra="Location: file:///etc/passwd\r\n"), r"302"),
        (reply("200 OK"), r"a web page is there and no pictures; give the address"),
        (reply("200 OK", b"hello" * 30_000, "image/png"), "no JPEG pictures"),
        (reply("200 OK", b"hello" * 30_000, "multipart/x-mixed-replace"), "no JPEG pictures"),
        (reply("200 OK", b"hello", "multipart/x-mixed-replace"), "reading failed"),
        (reply("200 OK", bytes(5000), "video/mp4"), r"it sends video/mp4: give the address"),
        (reply("200 OK", b"hello", "text/plain"), r"it sends text/plain: give"),
        (lambda request, send: send(b"SSH-2.0-OpenSSH\r\n"), "SSH-2.0"),
        (lambda request, send: None, "Remote end closed connection"),
        (lambda request, send: send(b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 500), "100 headers"),
    ],
    ids=range(17),
)  # fmt: skip
def test_what_is_answered_instead_is_told_with_the_cure(answer, says):
    assert re.search(says, refusal(answer))


def test_an_answer_that_leads_on_is_not_read_to_its_end():
    sent = []

    def endless(request, send):
        send(b"HTTP/1.1 302 Found\r\nLocation: /s\r\n\r\n")
        for _ in range(1000):
            send(bytes(100_000))
            sent.append(100_000)

    assert "leads on without end (302)" in refusal(endless)
    assert sum(sent) < 50_000_000  # of a gigabyte that it would have sent


@pytest.mark.parametrize("answer", [basic, digest])
def test_a_wrong_password_is_told_and_not_shown(answer):
    line = refusal(basic, user="user:wrong@")
    assert "401" in line and "user or password is wrong" in line and ":wrong" not in line


@pytest.mark.parametrize("says", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""])
def test_https_where_no_tls_is_spoken_names_http(says):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer():
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(says)
                with contextlib.suppress(OSError):
                    connection.recv(4096)

        threading.Thread(target=answer, daemon=True).start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/s"
        with pytest.raises(SourceError, match="no TLS is spoken .* try http:// in place"):
            open_source(url, camera=CameraConfig(first_picture_s=0.3))


def test_what_a_server_writes_cannot_write_on_the_terminal():
    line = refusal(reply("503 \x1b[31m" + 200 * "x"))
    assert "\x1b" not in line and 81 * "x" not in line


@pytest.mark.slow
def test_the_first_picture_is_waited_for_as_long_as_asked():
    assert "first_picture_s" in refusal(after(5.0), first_picture_s=0.3)
    assert "first_picture_s" in refusal(after(5.0, head_first=True), first_picture_s=0.3)


def test_bytes_that_trickle_are_no_pictures():
    """A server that sends a byte now and then holds no reader longer than a picture may take."""

    def answer(request, send):
        send(HEAD.format(MULTIPART).encode())
        for byte in itertools.cycle(jpeg(0)[:-2]):
            send(bytes([byte]))
            time.sleep(0.01)

    line = refusal(answer, first_picture_s=0.3)
    assert "sends no pictures in time" in line


@pytest.mark.parametrize(
    "url",
    [
        "rtsp://user:sec#ret@host/s",
        "rtsp://user:12#4@host/s",
        "rtsp://user:sec/ret@host/s",
        "http://user:sec?ret@host/s",
        "http://host:99999/s",
        "http://[::1/s",
        "http:///s",
    ],
)
def test_an_address_whose_host_cannot_be_told_says_how_to_write_it(url):
    with pytest.raises(SourceError, match="%40 %2F %23 %3F") as caught:
        Stream(url, CameraConfig())
    assert "ret@" not in str(caught.value) and "12#4" not in str(caught.value)


# --- the cutter ----------------------------------------------------------------------------------


@pytest.mark.parametrize("piece_bytes", [1, 2, 7, 1000, 10**9])
def test_pictures_are_cut_out_wherever_pieces_end(piece_bytes):
    pictures = [jpeg(0), encoded("jpg", smooth_picture(1)), jpeg(2)]
    exif = b"\xff\xe1" + (2 + len(pictures[1])).to_bytes(2, "big") + pictures[1]
    pictures[0] = pictures[0][:2] + exif + pictures[0][2:]  # a small picture within
    content = b"\xff\xd8 no" + b"--frame\r\n".join(p + bytes(99) for p in pictures) + b"\xff"
    cutter, cut = JpegCutter(MOST_PIXELS), []
    for start in range(0, len(content), piece_bytes):
        cutter.feed(content[start : start + piece_bytes])
        while (picture := cutter.next()) is not None:
            cut.append(picture)
    assert cut == pictures


def test_a_torn_picture_is_never_made_whole_by_the_next():
    whole = jpeg(0)
    for end in [*range(3, 700), *range(700, len(whole), 131)]:
        cutter = JpegCutter(MOST_PIXELS)
        cutter.feed(whole[:end] + b"\r\n--frame\r\n" + whole + whole)
        cut = list(iter(cutter.next, None))
        assert cut[-1] == whole and len(cut) in (2, 3)
        # Breaking off in a header of free content, it may take the next one with it.
        assert cut[0] is TORN or decode(cut[0]) is None or end < 20


def test_what_is_never_a_picture_is_not_kept():
    cutter, noise = JpegCutter(MOST_PIXELS), np.random.default_rng(0)
    for _ in range(100):
        cutter.feed(noise.bytes(10_000))
        assert cutter.next() in (None, TORN)
    assert cutter.stray_bytes > 900_000 and len(cutter._bytes) < 10


@pytest.mark.slow
def test_a_thousand_mutated_streams_end_in_pictures_or_none():
    """Bytes changed, left out, doubled and put elsewhere: whatever is cut out is bounded."""
    rng = np.random.default_rng(0)
    content = b"".join(part(encoded("jpg", smooth_picture(i))) for i in range(3))
    after = content * (1 + 2**17 // len(content))  # more than a length that is wrong can swallow
    for _ in range(1000):
        mutated = bytearray(content)
        for _ in range(rng.integers(1, 6)):
            start, length = rng.integers(len(mutated)), rng.integers(1, 40)
            piece = mutated[start : start + length]
            how = rng.integers(4)
            if how == 0:
                piece = rng.bytes(len(piece))
            elif how == 1:
                piece = b""
            elif how == 2:
                piece = piece * 2
            else:
                piece = b"\xff" + rng.bytes(1)
            mutated[start : start + length] = piece
        cutter, cut = JpegCutter(MOST_PIXELS), []
        cutter.feed(bytes(mutated) + after)
        while (picture := cutter.next()) is not None:
            cut.append(picture)
        assert len(cut) <= 3 * (1 + len(after) // len(content)) + 6
        images = [decode(picture) for picture in [*cut[:4], cut[-1]] if picture is not TORN]
        assert all(image is None or image.size <= 3 * MOST_PIXELS for image in images)
        assert images[-1] is not None  # what was not touched is read
