"""A fleet of real processes on the loopback: a server, and robots that tests drive step by step."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

from edge_rjepa.fleet import node
from edge_rjepa.fleet.child import Settings
from edge_rjepa.fleet.member import Member
from edge_rjepa.learner.merge import lesson_of
from edge_rjepa.run.config import RunConfig
from edge_rjepa.run.run import Run, load_run
from edge_rjepa.sources import open_source

PATIENCE_S = 180.0  # on a busy machine Python takes long to start
ROOT = Path(__file__).parents[2]


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(true, *robots) -> None:
    """Go on, without learning, until this is true."""
    end_s = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end_s, "it did not happen"
        for robot in robots:
            robot.attend()
        time.sleep(0.02)


class Command:
    """A command of edge-rjepa in a process of its own, and what it says."""

    def __init__(self, *arguments: object) -> None:
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "edge_rjepa", *map(str, arguments)],
            stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, cwd=ROOT,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def said(self, words: str) -> bool:
        """Whether one of its lines has these words."""
        return any(words in line for line in list(self.lines))

    def end(self, number: int = signal.SIGINT) -> int:
        """Send it this signal; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(PATIENCE_S)
        self._reader.join(10.0)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))


class Robot:
    """A run in this process, with its own process beside it, that a test drives."""

    def __init__(self, folder: Path, config: RunConfig, settings: Settings, seed: int = 0) -> None:
        source = open_source(config.source, seed)
        self.run = (
            Run.resume(folder, source) if folder.exists() else Run.start(folder, config, source)
        )
        self.events: list[str] = []
        self.member = Member(self.run, settings, self.events.append)

    def attend(self) -> None:
        """What is done between two steps."""
        self.member.attend(self.run)

    def learn(self, frames: int) -> None:
        """Learn from so many frames."""
        end = self.run.frames + frames
        while self.run.frames < end:
            self.attend()
            self.run.loop.step()
        self.attend()

    @property
    def weights(self) -> np.ndarray:
        """As they are."""
        return lesson_of(self.run.learner).weights

    def said(self, words: str) -> bool:
        """Whether an event has these words."""
        return any(words in event for event in self.events)

    def close(self) -> None:
        """Leave the fleet; the run is kept, as `Run.learn` keeps it, and let go."""
        if self.run is not None:
            self.run.keep()
            self.member.close()
            self.run = None


class Hostile(threading.Thread):
    """A Flower node that answers what `attack` makes of a task; joins again whenever it is lost."""

    def __init__(self, settings: Settings, attack) -> None:
        super().__init__(daemon=True)
        self.settings = settings
        self.rounds, self.joined = 0, 0
        self.events: list[str] = []
        self._attack = attack
        self._ended = threading.Event()
        self.start()

    def run(self) -> None:
        """As node.main does."""
        while not self._ended.is_set():
            try:
                for _ in node.connected(self):
                    pass
            except Exception:  # whatever happens to it is its own affair
                self._ended.wait(1.0)

    def is_connected(self) -> None:
        """Once more."""
        self.joined += 1

    def tell(self, event: str) -> None:
        """What node.py says of the connection."""
        self.events.append(event)

    def rest(self, seconds: float) -> None:
        """Until the next task."""
        if self._ended.wait(seconds):
            raise EOFError

    def learn(self, task):
        """The answer."""
        self.rounds += 1
        return self._attack(task)

    def close(self) -> None:
        """Leave."""
        self._ended.set()
        self.join(PATIENCE_S)


def kept_weights(folder: Path) -> np.ndarray:
    """Of a run's or a fleet's newest checkpoint."""
    return lesson_of(load_run(folder).learner).weights


def kill(pid: int | None) -> None:
    """As power cuts do."""
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
