"""Peers on this machine's loopback: what speaks ROS 2 here, and programs that play a robot.

`make test` has Cyclone DDS at both ends, in two processes. `make robots` installs rclpy with Fast
DDS beside it: then each of both speaks with each of both.
"""

import importlib.util
import itertools
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ros2_link import link as links

pytest.importorskip("cyclonedds", reason="no cyclonedds, as on Arm: peers speak by it")

ROOT = Path(__file__).parents[2]
PEER = Path(__file__).with_name("peer.py")
WITHIN_S = 60.0

needs_rclpy = pytest.mark.skipif(
    importlib.util.find_spec("rclpy") is None, reason="no rclpy: make robots installs it"
)
BY = ["cyclonedds", pytest.param("rclpy", marks=needs_rclpy)]

_numbers = itertools.count()


def fresh_name(name):
    """A topic that no other test, here or in another process, uses."""
    return f"/t{os.getpid()}_{next(_numbers)}{name}"


# Fixtures; a module takes them by giving them their names: `ours = robots.ours`.


@pytest.fixture(autouse=True)
def this_machine(monkeypatch):
    """What ROS 2 reads in the environment, for this process and its peers."""
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    monkeypatch.setenv("ROS_DOMAIN_ID", str(60 + os.getpid() % 40))
    monkeypatch.delenv("CYCLONEDDS_URI", raising=False)


@pytest.fixture(params=BY)
def ours(request, monkeypatch):
    """What our end is carried by."""
    monkeypatch.setenv(links.BY, request.param)
    return request.param


@pytest.fixture(params=BY)
def theirs(request):
    """What the peer's is."""
    return request.param


def wait_for(condition, what="it", meanwhile=lambda: time.sleep(0.01)):
    """What `condition` gives as soon as it is true."""
    end_s = time.monotonic() + WITHIN_S
    while not (found := condition()):
        assert time.monotonic() < end_s, f"{what} did not come within {WITHIN_S:.0f} s"
        meanwhile()
    return found


class Peer:
    """peer.py as a process; a context manager that ends it."""

    def __init__(self, by, work, topic, *flags, domain=None):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        if domain is not None:
            environment["ROS_DOMAIN_ID"] = str(domain)
        environment["ROS2_LINK"] = by
        command = [sys.executable, str(PEER), by, work, topic, *map(str, flags)]
        self._process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        self._lines = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            assert self.line() == {"ready": True}
        except BaseException:
            self.kill()
            raise

    def _read(self):
        for line in self._process.stdout:
            self._lines.put(json.loads(line))

    def line(self):
        """The next line it prints."""
        return self._lines.get(timeout=WITHIN_S)

    def lines(self):
        """All that it printed since."""
        return [self._lines.get() for _ in range(self._lines.qsize())]

    def kill(self):
        """As a crash does it: it tells nobody."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._reader.join()
        self._process.stdout.close()

    def stop(self):
        """It hangs, and neither speaks nor leaves."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self):
        """It hangs no longer."""
        self._process.send_signal(signal.SIGCONT)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._process.poll() is None:
            self.kill()
