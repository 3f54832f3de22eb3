"""The live view for Foxglove: what is seen and learned, on the web socket of Foxglove's own server.

Who learns or watches hands over references and never waits: a thread of its own compresses the
newest picture and sends what somebody has subscribed to. The server has no password: it answers
whoever reaches its address. Needs the extra `foxglove`.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import cv2
import numpy as np

from edge_rjepa.errors import ConfigError
from edge_rjepa.optics.camera import Camera
from edge_rjepa.sources import channels  # ahead of foxglove: it says what to install
from edge_rjepa.sources.channels import Fixated, Message, Messages
from edge_rjepa.sources.recording import Taken
from edge_rjepa.views.address import is_loopback, parse_address

import foxglove  # isort: skip
from foxglove import channels as fox_channels  # isort: skip
from foxglove.websocket import ServerListener  # isort: skip

MOST_WAITING = 64  # messages for one slow client; then the oldest go
MOST_WORDS = 100  # events, alarms and measures that wait for the thread
PICTURE_S = 1 / 15  # between two pictures
JPEG = [cv2.IMWRITE_JPEG_QUALITY, 80]
# It logs each client that goes or talks nonsense: whoever does that a lot would fill the log.
logging.getLogger("foxglove.websocket").setLevel(logging.CRITICAL)
AGAIN = (channels.CALIBRATION, channels.METRICS, channels.ALARM_BOXES)  # to who comes late


class _Shown(NamedTuple):
    """A frame, and what makes what is laid over it."""

    frame: Taken
    over: Callable[[], Iterable[Message]]


class FoxgloveView:
    """Serves from construction to `close`; a context manager.

    address: HOST:PORT; port 0 takes a free one. camera, live, turns: as in Messages. Raises
    ConfigError where the address cannot be served.
    """

    def __init__(self, address: str, camera: Camera, live: bool, turns: bool) -> None:
        self.host, port = parse_address(address)
        self._context = context = foxglove.Context()  # its channels end with it
        self._messages = Messages(camera, live, turns)
        self._channels = {topic: _channel(topic, context) for topic in channels.TOPICS}
        self._newest: _Shown | None = None
        self._words: deque[Message | str] = deque(maxlen=MOST_WORDS)  # str: a topic's last, again
        self._last: dict[str, Message] = {}  # of topics that who comes late is sent at once
        self._wake, self._ended = threading.Event(), threading.Event()
        self._complained = False
        try:
            self._server = foxglove.start_server(
                name="edge_rjepa", host=self.host, port=port, context=context,
                message_backlog_size=MOST_WAITING, server_listener=_Latecomers(self._send_again),
            )  # fmt: skip
        except RuntimeError as error:
            why = str(error).removeprefix("FoxgloveError: ")
            raise ConfigError(
                f"Foxglove's view cannot be served on {address}: {why}; or name another port"
            ) from None
        self._thread = threading.Thread(target=self._run, name="foxglove", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where Foxglove finds it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"ws://{host}:{self._server.port}"

    @property
    def warning(self) -> str | None:
        """What speaks against this address, in words."""
        if is_loopback(self.host):
            return None
        return (
            f"{self.url} has no password: whoever reaches this address sees what the camera "
            "sees; on loopback, ssh -L brings it to another machine"
        )

    # -- who learns or watches --------------------------------------------------------------------

    def observe(self, fixated: Fixated) -> None:
        """The newest frame with its fixations."""
        self._show(fixated.frame, lambda: self._messages.of_fixations(fixated))

    def look(self, frame: Taken, pixels: np.ndarray, shares: np.ndarray) -> None:
        """The newest frame of a watch, with pixels (K, 2) and shares (K,) of its threshold."""
        self._show(frame, lambda: [self._messages.of_shares(frame, pixels, shares)])

    def on_metrics(self, values: Mapping[str, float]) -> None:
        """The newest measures, by names of channels.METRIC_NAMES."""
        self._tell([self._messages.of_metrics(values)])

    def on_event(self, text: str) -> None:
        """Something happened."""
        self._tell([self._messages.of_event(text)])

    def tell(self, line: dict, _jpeg: bytes | None = None) -> None:
        """A watch's line of kind alarm, gone or fine."""
        self._tell(self._messages.of_alarm(line))

    def close(self) -> None:
        """Leave the clients and free the port."""
        self._ended.set()
        self._wake.set()
        self._thread.join()
        self._server.stop()

    def __enter__(self) -> FoxgloveView:
        return self

    def __exit__(self, kind, error, trace) -> None:
        self.close()

    # -- the thread -------------------------------------------------------------------------------

    @property
    def is_watched(self) -> bool:
        """Whether anybody has subscribed to anything."""
        return any(channel.has_sinks() for channel in self._channels.values())

    def _show(self, frame: Taken, over: Callable[[], Iterable[Message]]) -> None:
        if self.is_watched:
            self._newest = _Shown(frame, over)
            self._wake.set()

    def _tell(self, words: Iterable[Message | str]) -> None:
        self._words.extend(words)
        self._wake.set()

    def _run(self) -> None:
        while not self._ended.is_set():
            self._wake.wait()
            self._wake.clear()
            try:
                self._send_newest()
            except Exception as error:  # one picture less is no reason to show nothing any more
                self._complain(error)

    def _send_newest(self) -> None:
        while self._words:
            word = self._words.popleft()
            self._send(self._last[word] if isinstance(word, str) else word)
        shown, self._newest = self._newest, None
        if shown is not None:
            self._send_frame(shown)
            self._ended.wait(PICTURE_S)

    def _complain(self, error: Exception) -> None:
        if not self._complained:
            self._complained = True
            said = " ".join(str(error).split())
            logging.getLogger(__name__).error("Foxglove's view lacks something: %s", said)

    def _send_frame(self, shown: _Shown) -> None:
        for message in (*self._messages.of_place(shown.frame), *shown.over()):
            self._send(message)
        if channels.CALIBRATION not in self._last:
            self._send(self._messages.of_camera())
        if self._channels[channels.PICTURE].has_sinks():
            jpeg = cv2.imencode(".jpg", shown.frame.image, JPEG)[1].tobytes()
            self._send(self._messages.of_picture(shown.frame, jpeg, "jpeg"))

    def _send(self, message: Message) -> None:
        if message.topic in AGAIN:
            self._last[message.topic] = message
        self._channels[message.topic].log(message.content, log_time=message.time_ns)

    def _send_again(self, topic: str) -> None:
        """To who has just subscribed; others are sent it once more."""
        if topic in self._last:
            self._tell([topic])


class _Latecomers(ServerListener):
    """Hears what clients subscribe to."""

    def __init__(self, on_subscribe: Callable[[str], None]) -> None:
        self._on_subscribe = on_subscribe

    def on_subscribe(self, client: object, channel: Any) -> None:
        """Of a topic."""
        self._on_subscribe(channel.topic)


def _channel(topic: str, context: foxglove.Context) -> Any:
    kind = channels.TOPICS[topic]
    if isinstance(kind, dict):
        return foxglove.Channel(topic, schema=kind, context=context)
    return getattr(fox_channels, f"{kind.__name__}Channel")(topic, context=context)
