"""A camera that sends JPEG pictures by HTTP: a stream of them (Motion JPEG), or one an answer.

OpenCV could read these, too, and would say neither what the camera answered nor that a picture
breaks off; it wants a boundary before the first picture and decodes pictures of any size.
"""

from __future__ import annotations

import socket
import ssl
import time
import urllib.request
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import numpy as np

from edge_rjepa.errors import SourceError
from edge_rjepa.sources.decode import MOST_PIXELS, decode
from edge_rjepa.sources.jpeg import START, JpegCutter

PIECE_BYTES = 2**16
MOST_STRAY_BYTES = 2**16  # between two pictures, where there should be a boundary and some zeros
ASKED_EVERY_S = 0.1  # for a picture an answer, at most
MOST_LETTERS = 80  # of what the other side wrote, in a message
NO_TLS = "WRONG_VERSION", "handshake operation timed out"  # in what TLS says of a port without it
USER_AGENT = "edge-rjepa"
ESCAPES = "write @ / # ? in a password as %40 %2F %23 %3F"
CURES = {
    401: f"give the user and the password in the address, http://USER:PASSWORD@..; {ESCAPES}",
    403: "this address is forbidden to this user: try another user, or another address",
    404: "there is nothing at this address: look up the path of the stream in the camera's manual",
    407: "a proxy asks for a password: set no_proxy to the camera's name or address",
}


class AnswerError(SourceError):
    """What a camera answered in place of pictures, and what to do."""

    def __init__(self, words: str, cure: str) -> None:
        super().__init__(words)
        self.cure = cure


class OtherMedia(Exception):  # noqa: N818 - no error: OpenCV may read it
    """What a camera sends is of another type than pictures, which is the argument."""


class HttpCamera:
    """The pictures that a camera sends by HTTP, as grabber.py's Capture.

    url: with user and password, if need be. where: in words. first_s: how long the first picture
    may take; slowest_s: how long any other. interval_s: between questions, if it sends one picture
    an answer. Raises AnswerError, and OtherMedia where pictures are not sent as JPEGs.
    """

    def __init__(
        self, url: str, where: str, first_s: float, slowest_s: float, interval_s: float
    ) -> None:
        self.where = where
        self._ask = _Questions(url, first_s)
        self._limit_s = first_s  # until there is a picture
        self._slowest_s = slowest_s
        self._interval_s = max(interval_s, ASKED_EVERY_S)
        self._picture: bytes | None = None
        self._begin()

    def grab(self) -> bool:
        """Wait for the next picture; False when it does not come. Raises SourceError, OSError."""
        due_s = time.monotonic() + self._limit_s
        while (picture := self._cutter.next()) is None:
            if self._cutter.stray_bytes > MOST_STRAY_BYTES:
                raise SourceError("what it sends are no JPEG pictures")
            try:
                piece = self._answer.read1(PIECE_BYTES)
            except TimeoutError:
                return False
            if time.monotonic() > due_s or not (piece or self._ask_again()):
                return False
            self._cutter.feed(piece)
        self._pictures += 1
        self._picture = picture if isinstance(picture, bytes) else None
        if self._limit_s != self._slowest_s:
            self._limit_s = self._slowest_s
            self._ask.limit(self._limit_s)
        return True

    def retrieve(self) -> np.ndarray | None:
        """Decode what was grabbed; None where it breaks off or is no JPEG."""
        return None if self._picture is None else decode(self._picture)

    def captured_s(self, grabbed_s: float) -> float:
        """It tells no time."""
        return grabbed_s

    def release(self) -> None:
        """Let go of the camera."""
        self._answer.close()

    def _begin(self) -> None:
        self._asked_s = time.monotonic()
        self._answer = self._ask()
        self._cutter = JpegCutter(MOST_PIXELS)
        self._pictures = 0  # of this answer
        try:
            self._cutter.feed(_first_piece(self._answer))
        except BaseException:
            self._answer.close()
            raise

    def _ask_again(self) -> bool:
        """Begin the next answer, if each has one picture; False where a stream has ended."""
        one_each = self._answer.headers.get("Content-Type", "").lower().startswith("image/")
        if self._pictures != 1 or not one_each:
            return False
        self._answer.close()
        time.sleep(max(0.0, self._asked_s + self._interval_s - time.monotonic()))
        self._begin()
        return True


def _first_piece(answer: HTTPResponse) -> bytes:
    """Nothing yet where the type is that of pictures; what was read to see that they are."""
    kind = answer.headers.get("Content-Type", "").lower()
    if kind.startswith(("multipart/", "image/")) or "jpeg" in kind:
        return b""
    if kind.startswith("text/html"):
        raise AnswerError(
            "a web page is there and no pictures",
            "give the address of the pictures themselves: look it up in the camera's manual, or in "
            "the page's source",
        )
    if kind and not kind.startswith(("text/", "application/octet-stream")):
        raise OtherMedia(_line(kind))
    piece = answer.read1(PIECE_BYTES)
    if START not in piece and not piece.startswith(b"--"):
        raise OtherMedia(_line(kind) if kind else "something of no type")
    return piece


def _line(words: object) -> str:
    """What somebody else wrote, as a part of one line on a terminal."""
    line = " ".join(str(words).split()) or type(words).__name__
    return "".join(letter for letter in line if letter.isprintable())[:MOST_LETTERS]


class _Questions:
    """Asks for the same address again and again, as whom and with the time limit it is told."""

    def __init__(self, url: str, limit_s: float) -> None:
        parts = urlsplit(url)
        self._limit_s = limit_s
        self._secured = parts.scheme == "https"
        self._sockets: list[socket.socket] = []  # of the answer, and of what led to it
        path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
        query = quote(parts.query, safe="/%:@!$&'()*+,;=~-._?")
        place = parts.netloc.rpartition("@")[2]
        self._url = urlunsplit((parts.scheme, place, path, query, ""))
        self._knows_password = parts.username is not None
        self._open = self._opener(unquote(parts.username or ""), unquote(parts.password or ""))

    def __call__(self) -> HTTPResponse:
        """The answer, its head read. Raises AnswerError."""
        self._sockets.clear()
        try:
            return self._open(self._url, timeout=self._limit_s)
        except HTTPError as error:
            error.close()
            raise AnswerError(*self._words(error)) from error
        except URLError as error:
            if any(sign in str(error.reason) for sign in NO_TLS):
                words = "no TLS is spoken at this port", "try http:// in place of https://"
                raise AnswerError(*words) from error
            raise SourceError(f"cannot be opened ({_line(error.reason)})") from error
        except (HTTPException, ValueError, OSError) as error:  # ValueError: a scheme of urllib's
            raise SourceError(f"cannot be opened ({_line(error)})") from error

    def limit(self, limit_s: float) -> None:
        """How long the answer may be silent from now on, and each next one before it begins."""
        self._limit_s = limit_s
        for each in self._sockets:
            if each.fileno() >= 0:  # one that led on is closed
                each.settimeout(limit_s)

    def _words(self, error: HTTPError) -> tuple[str, str]:
        """What happened, and what to do."""
        status = f"the answer is {error.code} {_line(error.reason)}"
        if 300 <= error.code < 400:
            return f"it leads on without end ({error.code})", "try the address in a browser"
        if error.code == 401 and self._knows_password:
            return status, f"user or password is wrong; {ESCAPES}"
        cure = "the camera fails: try again later, or switch it off and on"
        if error.code < 500:
            cure = CURES.get(error.code, "try the address in a browser")
        return status, cure

    def _opener(self, user: str, password: str) -> Callable[..., Any]:
        passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
        if self._knows_password:
            passwords.add_password(None, self._url, user, password)
        opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler(),
            _Http(self._sockets),
            _Https(self._sockets),
            _Redirects(),
            urllib.request.HTTPBasicAuthHandler(passwords),
            urllib.request.HTTPDigestAuthHandler(passwords),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.HTTPErrorProcessor(),
        ):
            opener.add_handler(handler)
        opener.addheaders = [("User-Agent", USER_AGENT)]
        return opener.open


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Goes where an answer leads on to, without reading the rest of it: that may have no end."""

    def http_error_302(self, request, answer, code, message, headers):
        answer.read = lambda: b""
        return super().http_error_302(request, answer, code, message, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


class _Http(urllib.request.HTTPHandler):
    """Opens connections and notes their sockets, whose time limit can then be changed."""

    def __init__(self, sockets: list[socket.socket]) -> None:
        super().__init__()
        self._sockets = sockets

    def http_open(self, request: urllib.request.Request) -> HTTPResponse:
        return self.do_open(_noting(HTTPConnection, self._sockets), request)


class _Https(urllib.request.HTTPSHandler):
    """The same over TLS. Cameras sign for themselves: whose certificate it is is not asked."""

    def __init__(self, sockets: list[socket.socket]) -> None:
        super().__init__()
        self._sockets = sockets
        self._trust = ssl.create_default_context()
        self._trust.check_hostname, self._trust.verify_mode = False, ssl.CERT_NONE

    def https_open(self, request: urllib.request.Request) -> HTTPResponse:
        kind = _noting(HTTPSConnection, self._sockets)
        return self.do_open(kind, request, context=self._trust)


def _noting(kind: type[HTTPConnection], sockets: list[socket.socket]) -> Any:
    class Noting(kind):  # type: ignore[valid-type, misc]
        def connect(self) -> None:
            super().connect()
            sockets.append(self.sock)

    return Noting
