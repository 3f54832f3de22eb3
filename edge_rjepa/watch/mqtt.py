"""Tells of alarms by MQTT, and listens whether they are fine; home_assistant.py has what is said.

One thread has the connection. It comes and goes: what there is to tell waits in a queue, of which
the oldest is dropped when it is full. An alarm leaves the queue once the broker has said that it
has it, so none is lost when the broker starts again; at worst it is told twice.
"""

from __future__ import annotations

import importlib.util
import json
import math
import re
import secrets
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import numpy as np

from edge_rjepa.errors import ConfigError
from edge_rjepa.sources import redacted
from edge_rjepa.watch.alarms import jpeg_of
from edge_rjepa.watch.home_assistant import (
    KINDS,
    OFF,
    OFFLINE,
    ON,
    ONLINE,
    PRESS,
    STATUS,
    Message,
    discovery,
    message,
)
from safe_files.errors import why

PORTS = {"mqtt": 1883, "mqtts": 8883}
KEEPALIVE_S = 20
ANSWER_S = 10.0  # for a broker to greet, once it has accepted the connection
CLOSE_S = 3.0  # to tell what waits, at the end
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0  # until it is tried again
LOOP_S = 0.1  # how long what is to be told may wait
MOST_WAITING = 50  # alarms and ends of alarms, each with its two pictures
MOST_OPEN = 1000  # alarms that have not ended
WORDS_A_MINUTE = 20  # that are listened to
LONGEST_NUMBER = 10  # digits of an alarm's
LONGEST_PREFIX = 200
REFUSALS = {  # what to do, by what paho calls the refusals of MQTT 3.1.1
    "Bad user name or password": "check the user in --mqtt and the password",
    "Not authorized": "check the user in --mqtt and the password",
    "Client identifier not valid": "name another prefix",
}


class Address(NamedTuple):
    """Which broker, as whom, and below which topic."""

    host: str
    port: int
    tls: bool
    user: str | None
    prefix: str

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"mqtt{'s' * self.tls}://{host}:{self.port}/{self.prefix}"


def address_of(url: str) -> Address:
    """The address that a person wrote: mqtt[s]://[USER@]HOST[:PORT]/PREFIX. Raises ConfigError."""
    shown = redacted(url)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"--mqtt {shown}: {error}") from error
    if parts.scheme not in PORTS or not parts.hostname or parts.query or parts.fragment:
        raise ConfigError(f"--mqtt {shown}: write it as mqtt[s]://[USER@]HOST[:PORT]/PREFIX")
    if parts.password is not None:
        raise ConfigError(
            f"--mqtt {shown}: everybody on this machine can read a password there; change it, and "
            "give the new one by --mqtt-password-file or the environment"
        )
    prefix = unquote(parts.path).strip("/")
    if not re.fullmatch(r"[^\x00-\x1f\x7f+#$]+", prefix) or len(prefix.encode()) > LONGEST_PREFIX:
        raise ConfigError(
            f"--mqtt {shown}: name a prefix for the topics, without + # $, as in "
            "mqtt://broker/house/porch"
        )
    user = unquote(parts.username) if parts.username else None
    port = PORTS[parts.scheme] if port is None else port
    return Address(parts.hostname, port, parts.scheme == "mqtts", user, prefix)


def tls_context(ca: Path | None, certificate: Path | None) -> ssl.SSLContext:
    """What proves that the broker is the right one, and to it who asks. Raises ConfigError.

    ca: certificates (PEM) that the broker's is signed by; the system's if None. certificate: one's
    own and its key, in one PEM file.
    """
    try:
        context = ssl.create_default_context(cafile=ca)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--mqtt-ca {ca}: {_what(error)}") from error
    try:
        if certificate is not None:  # a key with a passphrase is refused: nobody is there to type
            context.load_cert_chain(certificate, password="")
    except (OSError, ValueError) as error:
        raise ConfigError(f"--mqtt-certificate {certificate}: {_what(error)}") from error
    context.sslsocket_class = _Socket
    return context


class _Socket(ssl.SSLSocket):
    """Is closed when the handshake fails: paho would leave it open."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except (OSError, ValueError):
            self.close()
            raise


class Mqtt:
    """Tells of alarms at a broker, from when it is entered until it is left.

    fine: is called with the number of an alarm that somebody says is fine, from a thread of its
    own. report: takes what went wrong or right, in words. context: for mqtts, as `tls_context`
    makes it. Raises ConfigError where paho-mqtt is not installed.
    """

    def __init__(
        self,
        address: Address,
        fine: Callable[[int], None],
        report: Callable[[str], None],
        password: str | None = None,
        context: ssl.SSLContext | None = None,
    ) -> None:
        if importlib.util.find_spec("paho") is None:
            raise ConfigError(
                'MQTT needs paho-mqtt: pip install "edge-rjepa[mqtt]", or pip install paho-mqtt'
            )
        self._address, self._fine, self._report = address, fine, report
        self._password = password
        self._context = context or (tls_context(None, None) if address.tls else None)
        self._identity = f"edge-rjepa-{secrets.token_hex(4)}"  # two of a name push each other out

        self._lock = threading.Lock()  # guards the three below
        self._waiting: deque[list[Message]] = deque()
        self._dropped = 0
        self._open: dict[int, str] = {}  # number of an alarm that has not ended: what it is
        self._frame: np.ndarray | None = None

        off = [message(address.prefix, what, OFF) for what in KINDS]
        self._values = {each.topic: each for each in off}  # the latest of each topic
        self._sending: list[Message] = []  # taken from what waits, and not known to have arrived
        self._up = self._told_down = False
        self._refusal = ""
        self._heard_s: deque[float] = deque(maxlen=WORDS_A_MINUTE)
        self._closing = threading.Event()
        self._until_s = math.inf  # when closing has to be done
        self._thread = threading.Thread(target=self._work, name="mqtt", daemon=True)

    def __enter__(self) -> Mqtt:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Tell what waits, as far as the broker takes it within CLOSE_S, and end."""
        self._until_s = time.monotonic() + CLOSE_S
        self._closing.set()
        self._thread.join(2.0 * CLOSE_S)  # it may hang in a name server, or in a handshake

    # -- the watching thread ----------------------------------------------------------------------

    def see(self, image: np.ndarray) -> None:
        """The frame (H, W, 3) uint8 BGR that is about to be looked at: told with its alarms."""
        self._frame = image

    def tell(self, line: dict, jpeg: bytes | None) -> None:
        """A line of kind alarm, gone or fine, and the cut-out of an alarm; returns at once."""
        with self._lock:
            self._keep_account(line)
            self._waiting.append(self._messages(line, jpeg))
            full = len(self._waiting) > MOST_WAITING
            if full:
                self._waiting.popleft()
                self._dropped += 1
            first = full and self._dropped == 1
        if first:
            self._report(f"mqtt: {MOST_WAITING} alarms wait; from now on the oldest are dropped")

    def _keep_account(self, line: dict) -> None:
        """Which alarms have not ended."""
        number = line["number"]
        self._open.pop(number, None)
        if line["kind"] == "alarm":
            self._open[number] = line.get("what", "new")
            if len(self._open) > MOST_OPEN:
                del self._open[next(iter(self._open))]

    def _messages(self, line: dict, jpeg: bytes | None) -> list[Message]:
        there = set(self._open.values())
        values: dict[str, str | bytes] = {"alarm": json.dumps(line)}
        values |= {what: ON if what in there else OFF for what in KINDS}
        if line["kind"] == "alarm":
            values["surprise"] = str(line["surprise_nats"])
            if jpeg is not None:
                values["cutout"] = jpeg
            if self._frame is not None:
                values["frame"] = jpeg_of(self._frame)
        return [message(self._address.prefix, name, value) for name, value in values.items()]

    # -- the thread that has the connection --------------------------------------------------------

    def _work(self) -> None:
        pause_s = FIRST_PAUSE_S
        while not self._is_done():
            try:
                why_not = self._stay_connected()
            except Exception as error:  # whatever a broker sends, alarms must reach it again
                why_not = _what(error)
            if not self._closing.is_set():
                self._report_down(why_not)
            pause_s = FIRST_PAUSE_S if self._up else min(2.0 * pause_s, LONGEST_PAUSE_S)
            if self._closing.wait(pause_s):
                time.sleep(LOOP_S)

    def _report_down(self, why_not: str) -> None:
        """Once, until it works again."""
        if not self._told_down:
            self._report(f"mqtt: {self._address}: {why_not}; it is tried again and again")
        self._told_down = True

    def _stay_connected(self) -> str:
        """Connect, tell and listen; at the end, why there is no connection any more, in words."""
        self._up, self._refusal = False, ""
        client = self._new_client()
        answer_by_s = time.monotonic() + ANSWER_S
        client.connect(self._address.host, self._address.port, KEEPALIVE_S)
        sent: list[Any] = []
        while not self._is_done():
            if client.loop(LOOP_S) != 0:
                return self._refusal or "the connection broke"
            if self._up and all(each.is_published() for each in sent):
                if sent:
                    self._sending = []
                sent = self._send_next(client)
                answer_by_s = time.monotonic() + ANSWER_S
            if (sent or not self._up) and time.monotonic() > answer_by_s:
                client.disconnect()
                return f"it does not answer within {ANSWER_S:.0f} s"
        if self._up:
            self._take_leave(client)
        return ""

    def _new_client(self) -> Any:
        """A client without a past, so that nothing piles up in it while the broker is away."""
        from paho.mqtt import client as paho

        client = paho.Client(
            paho.CallbackAPIVersion.VERSION2, self._identity, reconnect_on_failure=False
        )
        client.username_pw_set(self._address.user, self._password)
        if self._context:
            client.tls_set_context(self._context)
        client.will_set(f"{self._address.prefix}/availability", OFFLINE, qos=1, retain=True)
        client.on_connect, client.on_message = self._greeted, self._heard
        client.connect_timeout = ANSWER_S
        return client

    def _is_done(self) -> bool:
        """Whether to end: there is nothing left to tell, or no time."""
        left = self._waiting or self._sending
        return self._closing.is_set() and not (left and time.monotonic() < self._until_s)

    def _send_next(self, client: Any) -> list[Any]:
        """Publish what has not arrived yet, or what waits; what paho says of each message."""
        with self._lock:
            if not self._sending and self._waiting:
                self._sending = self._waiting.popleft()
        self._values |= {each.topic: each for each in self._sending}
        return [_publish(client, each, qos=1) for each in self._sending]

    def _take_leave(self, client: Any) -> None:
        _publish(client, message(self._address.prefix, "availability", OFFLINE))
        client.disconnect()
        while client.loop(LOOP_S) == 0 and time.monotonic() < self._until_s:
            pass

    # -- what the broker says ----------------------------------------------------------------------

    def _greeted(self, client: Any, data: Any, flags: Any, code: Any, properties: Any) -> None:
        """The broker takes this client, or says why it does not."""
        if code.is_failure:
            self._refusal = f"it refuses ({code}): {REFUSALS.get(str(code), 'see its log')}"
            return
        self._up = True
        client.subscribe([(f"{self._address.prefix}/fine", 1), (STATUS, 0)])
        self._introduce(client)
        with self._lock:
            dropped, self._dropped = self._dropped, 0
        lost = f"; {dropped} alarms were dropped meanwhile" if dropped else ""
        self._report(f"mqtt: connected to {self._address}{lost}")
        self._told_down = False

    def _introduce(self, client: Any) -> None:
        """Say all that a broker, or a Home Assistant, that has just started does not know."""
        online = message(self._address.prefix, "availability", ONLINE)
        for each in [*discovery(self._address.prefix), online, *self._values.values()]:
            _publish(client, each)

    def _heard(self, client: Any, data: Any, heard: Any) -> None:
        """Somebody says something: it may be anybody who has an account at that broker.

        What is retained is older than this connection: it would be heard again at each.
        """
        if heard.retain or not self._may_speak():
            return
        if heard.topic != STATUS:
            number = self._number(heard.payload)
            if number is not None:
                self._fine(number)
        elif heard.payload == ONLINE.encode():
            self._introduce(client)

    def _number(self, word: bytes) -> int | None:
        """Which alarm is said to be fine; None for what says nothing of the kind."""
        if word == PRESS.encode():
            with self._lock:
                return next(reversed(self._open), None)
        return int(word) if len(word) < LONGEST_NUMBER and word.isdigit() else None

    def _may_speak(self) -> bool:
        """Whether not too much was said in the last minute."""
        now_s = time.monotonic()
        full = len(self._heard_s) == WORDS_A_MINUTE and now_s < self._heard_s[0] + 60.0
        if not full:
            self._heard_s.append(now_s)
        return not full


def _publish(client: Any, each: Message, qos: int = 0) -> Any:
    return client.publish(each.topic, each.payload, qos=qos, retain=True)


def _what(error: Exception) -> str:
    """What went wrong, in a line."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not to be trusted ({error.verify_message}): see --mqtt-ca"
    if isinstance(error, ssl.SSLError):
        return f"TLS fails ({error.reason or error})"
    if isinstance(error, OSError):
        return why(error)
    return " ".join(str(error).split())
