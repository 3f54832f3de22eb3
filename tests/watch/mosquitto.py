"""A real broker, Debian's mosquitto, with a password and TLS; and somebody who listens."""

import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

PROGRAM = shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
USER, PASSWORD = "porch", "a pass/word@#?"
WITHIN_S = 60.0

needs_broker = pytest.mark.skipif(
    PROGRAM is None or shutil.which("openssl") is None,
    reason="needs a broker: apt-get install mosquitto openssl",
)


def wait_for(condition, what="it"):
    end_s = time.monotonic() + WITHIN_S
    while not (found := condition()):
        assert time.monotonic() < end_s, f"{what} did not come within {WITHIN_S:.0f} s"
        time.sleep(0.02)
    return found


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def make_certificates(folder: Path):
    """An authority `ca.pem`, and signed by it `broker.pem` and `watch.pem`, each with its key."""

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    new = ("req", "-newkey", "rsa:2048", "-nodes", "-keyout")
    openssl(*new, "ca.key", "-x509", "-out", "ca.pem", "-days", "3", "-subj", "/CN=authority",
            "-addext", "keyUsage=critical,keyCertSign")  # fmt: skip
    for name in ("broker", "watch"):
        openssl(*new, f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-days",
                "3", "-CAcreateserial", "-out", f"{name}.crt", "-extfile", "names")  # fmt: skip
        both = (folder / f"{name}.crt").read_text() + (folder / f"{name}.key").read_text()
        (folder / f"{name}.pem").write_text(both)


class Mosquitto:
    """A broker on ports of its own; what it retains is lost when it stops."""

    def __init__(self, folder: Path, *more: str) -> None:
        self.port, self.tls_port = free_port(), free_port()
        passwords = folder / "passwords"
        for person in (USER, "phone"):
            make = ["mosquitto_passwd", "-b", *([] if passwords.exists() else ["-c"])]
            subprocess.run([*make, passwords, person, PASSWORD], check=True, capture_output=True)
        passwords.chmod(0o644)
        self._configuration = folder / "mosquitto.conf"
        self._configuration.write_text(
            f"per_listener_settings false\nallow_anonymous false\npassword_file {passwords}\n"
            f"user root\nlistener {self.port} 127.0.0.1\nlistener {self.tls_port} 127.0.0.1\n"
            f"certfile {folder}/broker.crt\nkeyfile {folder}/broker.key\ncafile {folder}/ca.pem\n"
            + "\n".join(more)
        )
        self._process = None

    def start(self):
        self._process = subprocess.Popen(
            [PROGRAM, "-c", self._configuration], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        wait_for(self._answers, "the broker")

    def _answers(self):
        assert self._process.poll() is None, self._process.stderr.read()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self):
        if self._process:
            self._process.kill()
            self._process.communicate()
            self._process = None


class Phone:
    """Remembers all that is published, oldest first, and may say something."""

    def __init__(self, broker: Mosquitto) -> None:
        from paho.mqtt import client as paho

        self.heard: list[tuple[str, bytes, bool]] = []
        self._ready = threading.Event()
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2)
        self._client.username_pw_set("phone", PASSWORD)
        self._client.on_connect = lambda *_: self._client.subscribe("#", 1)
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.on_message = lambda _, __, m: self.heard.append((m.topic, m.payload, m.retain))
        self._client.reconnect_delay_set(1, 1)
        self._client.connect("127.0.0.1", broker.port)
        self._client.loop_start()
        assert self._ready.wait(WITHIN_S)

    def said(self, topic):
        return [payload for heard, payload, _ in self.heard if heard == topic]

    def wait(self, topic, payload):
        wait_for(lambda: payload in self.said(topic), f"{payload!r} at {topic}")

    def say(self, topic, payload, retain=False):
        self._client.publish(topic, payload, qos=1, retain=retain).wait_for_publish(WITHIN_S)

    def close(self):
        self._client.disconnect()
        self._client.loop_stop()
