"""A network camera that fails when told to: Motion JPEG over HTTP, on this machine only.

    with FaultyCamera(size=(640, 480), frames_per_s=30) as camera:
        source = open_source(camera.url)
        camera.fault("stall")
        camera.heal()

Its pictures are crops that wander over photographs. Two rows of black and white fields along the
top edge carry the frame's number, so that whoever holds a picture can ask which one it is and when
it was sent: `camera.age_s(image)`.
"""

from __future__ import annotations

import math
import socket
import struct
import threading
import time
from collections import deque
from functools import lru_cache

import cv2
import numpy as np

from edge_rjepa.sources.scene import skimage_photographs

FAULTS = (
    "stall",  # connections stay open, new ones are taken, nothing is sent
    "die",  # connections are reset, the port is closed
    "garbage",  # random bytes where the pictures were
    "truncate",  # pictures end in the middle
    "freeze",  # one picture, over and over
    "resize",  # pictures of half the size, in the same stream
    "black",  # the lens is covered: darkness and a little noise
)
BITS = 32  # of the number a picture carries
N_PHOTOGRAPHS = 6
FRAMES_A_PHOTOGRAPH = 90
BOUNDARY = "next"
HEADER = (
    "HTTP/1.0 200 OK\r\nCache-Control: no-cache\r\n"
    f"Content-Type: multipart/x-mixed-replace; boundary={BOUNDARY}\r\n\r\n"
).encode()


class FaultyCamera:
    """Serves on loopback from one thread until it is closed; a context manager.

    size: (width, height) of its pictures in pixels. `url` is the same through all faults.
    """

    def __init__(self, size: tuple[int, int] = (640, 480), frames_per_s: float = 30.0) -> None:
        self._size = size
        self._period_s = 1.0 / frames_per_s
        self._rng = np.random.default_rng(0)
        self._clients: list[_Client] = []
        self._number = 0  # of the next frame
        self._sent_s: deque[tuple[int, float]] = deque(maxlen=4096)
        self._frozen = b""
        self._fault: str | None = None
        self._wanted: str | None = None
        self._wake = threading.Event()  # something is wanted
        self._obeyed = threading.Event()
        self._closing = False
        self._listener: socket.socket | None = None
        self._port = 0
        self._listen()
        self.url = f"http://127.0.0.1:{self._port}/stream.mjpg"
        self._thread = threading.Thread(target=self._serve, name="faulty camera", daemon=True)
        self._thread.start()

    def fault(self, kind: str) -> None:
        """Fail like this, one of FAULTS, in place of any other fault; it has begun on return."""
        if kind not in FAULTS:
            raise ValueError(f"unknown fault {kind!r}: use one of {', '.join(FAULTS)}")
        self._want(kind)

    def heal(self) -> None:
        """Work again; on return it does."""
        self._want(None)

    def number_of(self, image: np.ndarray) -> int | None:
        """Which frame a picture (H, W, 3) is, at whatever scale; None if it does not tell."""
        height, width = image.shape[:2]
        x = ((np.arange(BITS) + 0.5) * width / BITS).astype(int)
        y = ((np.arange(2) + 0.5) * height / BITS).astype(int)
        bits, inverse = image[y][:, x].mean(axis=2) > 128
        if np.any(bits == inverse):
            return None
        return int(bits @ (1 << np.arange(BITS, dtype=np.int64)))

    def sent_s(self, number: int) -> float | None:
        """When (time.monotonic()) frame `number` was last sent; None if that is long ago."""
        return next((at_s for sent, at_s in reversed(list(self._sent_s)) if sent == number), None)

    def age_s(self, image: np.ndarray) -> float | None:
        """How long ago the picture was sent; None if it does not tell."""
        number = self.number_of(image)
        sent_s = None if number is None else self.sent_s(number)
        return None if sent_s is None else time.monotonic() - sent_s

    @property
    def clients(self) -> int:
        """How many connections are open."""
        return len(self._clients)

    def close(self) -> None:
        """Close the port and all connections; the thread has ended on return."""
        self._closing = True
        self._wake.set()
        self._thread.join()

    def __enter__(self) -> FaultyCamera:
        return self

    def __exit__(self, kind, error, trace) -> None:
        self.close()

    def _want(self, fault: str | None) -> None:
        self._obeyed.clear()
        self._wanted = fault
        self._wake.set()
        if not self._obeyed.wait(5.0):
            raise RuntimeError("the camera's thread does not answer")

    def _serve(self) -> None:
        due_s = time.monotonic()
        while not self._closing:
            if self._wake.is_set():
                self._wake.clear()
                self._obey()
            self._accept()
            self._send()
            # Late by more than a frame, it skips frames as a camera does.
            due_s = max(due_s + self._period_s, time.monotonic() - self._period_s)
            self._wake.wait(max(0.0, due_s - time.monotonic()))
        self._stop_listening()

    def _obey(self) -> None:
        self._fault = self._wanted
        self._frozen = b""
        if self._fault == "die":
            self._stop_listening()
        elif self._listener is None:
            self._listen()
        self._obeyed.set()

    def _listen(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self._port))
        self._listener.setblocking(False)
        self._port = self._listener.getsockname()[1]

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for client in self._clients:
            client.reset()
        self._clients.clear()

    def _accept(self) -> None:
        while self._listener is not None:
            try:
                self._clients.append(_Client(self._listener.accept()[0]))
            except BlockingIOError:
                return

    def _send(self) -> None:
        if self._fault in ("stall", "die"):
            part = b""
        elif self._fault == "garbage":
            part = self._rng.bytes(20_000)
        else:
            part = self._part()
        self._clients = [client for client in self._clients if client.send(part)]

    def _part(self) -> bytes:
        """The next picture as a part of the stream."""
        if not self._frozen:
            number = self._number
            self._number += 1
            picture = self._encoded(number)
            if self._fault == "truncate":
                picture = picture[: len(picture) // 2]
            if self._fault == "freeze":
                self._frozen = picture
            # Sent from here on: what encoding takes is no fault of the reader's.
            self._sent_s.append((number, time.monotonic()))
        else:
            picture = self._frozen
            self._sent_s.append((self._number - 1, time.monotonic()))
        head = f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n\r\n"
        return head.encode() + picture + b"\r\n"

    def _encoded(self, number: int) -> bytes:
        width, height = self._size
        if self._fault == "black":
            image = self._rng.integers(0, 12, (height, width, 3), np.uint8)
        else:
            image = marked(view(self._size, number), number)
        if self._fault == "resize":
            image = cv2.resize(image, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
        return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()


class _Client:
    """A connection that is sent whole parts, or none of one when it reads too slowly."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._connection.setblocking(False)
        self._pending = b""
        self._greeted = False

    def send(self, part: bytes) -> bool:
        """Send what is left of the last part, or this one; whether the connection lives."""
        if part and not self._pending:
            self._pending = part if self._greeted else HEADER + part
            self._greeted = True
        try:
            if self._pending:
                self._pending = self._pending[self._connection.send(self._pending) :]
            return self._hears()
        except BlockingIOError:
            return True
        except OSError:
            self._connection.close()
            return False

    def _hears(self) -> bool:
        """Whether the other side is still there; its request is read and not looked at."""
        if self._connection.recv(65536):
            return True
        self._connection.close()
        return False

    def reset(self) -> None:
        """Break the connection off as a power cut does: without goodbye."""
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._connection.close()


def view(size: tuple[int, int], number: int) -> np.ndarray:
    """What the camera sees at frame `number`: (height, width, 3) uint8 BGR."""
    width, height = size
    photographs = _photographs(size)
    photograph = photographs[number // FRAMES_A_PHOTOGRAPH % len(photographs)]
    room_y, room_x = photograph.shape[0] - height, photograph.shape[1] - width
    x = round(0.5 * room_x * (1.0 + math.sin(0.071 * number)))
    y = round(0.5 * room_y * (1.0 + math.cos(0.053 * number)))
    return photograph[y : y + height, x : x + width]


def marked(image: np.ndarray, number: int) -> np.ndarray:
    """A copy with the number's bits, and below them their inverse, along the top edge."""
    height, width = image.shape[:2]
    bits = (number >> np.arange(BITS)) & 1
    fields = np.array([bits, 1 - bits], np.uint8) * 255
    # A field is as high as a 32nd of the picture, so that it is found at every scale.
    size = width, round(2 * height / BITS)
    copy = image.copy()
    copy[: size[1]] = cv2.resize(fields, size, interpolation=cv2.INTER_NEAREST)[..., None]
    return copy


@lru_cache(maxsize=2)
def _photographs(size: tuple[int, int]) -> list[np.ndarray]:
    """Photographs a third larger than the picture."""
    wanted = 4 * size[0] // 3, 4 * size[1] // 3
    paths = skimage_photographs()[:N_PHOTOGRAPHS]
    return [cv2.resize(cv2.imread(str(path)), wanted) for path in paths]
