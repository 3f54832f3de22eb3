"""Does it live through what robots live through? The whole loop on a camera that keeps failing.

    python -m benchmarks.soak [--fixations 1000000] [--faults 100] [--seed 0] [--sockets 1000]
        [--width 640] [--frames-per-s 120]

A network camera on this machine is read, looked at and learned from, as `edge-rjepa learn` does it,
as fast as it goes. Again and again the camera fails, each time in another way, and some time after
that was noticed it works again. Then learning must go on, from fresh pictures; and over the whole
run neither memory nor threads, open files nor Python objects may grow. With --sockets it serves its
page meanwhile, to another process that holds so many sockets to it and never asks for anything.
With smaller pictures, or fewer a second, there is time for more fixations of each, and as many are
over sooner. Prints a line a fault, and a verdict; the exit code is 1 if something did not hold.
"""

from __future__ import annotations

import argparse
import gc
import math
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np

from benchmarks.faulty_camera import FAULTS, FaultyCamera
from benchmarks.memory import resident_bytes
from edge_rjepa.run.config import RunConfig
from edge_rjepa.run.monitor import NOTABLE_NATS
from edge_rjepa.run.run import METRICS, Run
from edge_rjepa.sources import Frame, open_source
from edge_rjepa.views import metrics
from edge_rjepa.views.dashboard import connections, page_of
from edge_rjepa.views.verdict import verdict

WIDTH_PX = 640  # of pictures that are four to three
FRAMES_PER_S = 120.0  # as fast as two cores encode, decode and learn

NOTICED_S = 2.0  # from the fault to the first word about it ..
LATE_S = 0.5  # .. and what a busy machine may add
LASTS_S = 1.0  # at most, after it was noticed
RESUMED_S = 15.0  # from the camera's return to learning: the longest pause, and opening it
STALE_S = 1.0  # no picture that is learned from may be older
GIVE_UP_S = 60.0
FRESH_FRAMES = 10  # learned from, and the loop is back

# Held-out frames are judged after so many fixations: after 20,000 on a camera that fails, 2 of 10
# runs told less than NOTABLE_NATS. Shorter runs must tell that of the frames they learn from.
JUDGED_FIXATIONS = 200_000

# Held-out frames are kept as they come; the notes of 60 faults are 120 objects.
MOST_GROWTH_MIB, MOST_GROWTH_OBJECTS = 12.0, 500


class Sample(NamedTuple):
    """What the process holds at some moment of quiet."""

    resident_mib: float
    threads: int
    files: int
    objects: int


class Outage(NamedTuple):
    """One fault of the camera, lived through."""

    kind: str
    noticed_s: float  # after it began; infinite if never
    resumed_s: float  # after it was over
    information: float  # nats, then
    sample: Sample


def sample() -> Sample:
    """Of this process, now."""
    gc.collect()
    threads, files = (len(os.listdir(f"/proc/self/{kind}")) for kind in ("task", "fd"))
    return Sample(resident_bytes() / 2**20, threads, files, len(gc.get_objects()))


class Soak:
    """Breaks the camera and mends it while a run learns from it, and takes notes.

    Its parts are called by the run: go_on after every step, add with every frame used, hear with
    every event.
    """

    def __init__(self, camera: FaultyCamera, fixations: int, faults: int, seed: int):
        self.outages: list[Outage] = []
        self.oldest_s = 0.0  # of all pictures learned from, while the camera worked
        self.given_up = ""
        self._camera = camera
        self._fixations = fixations
        self._faults = faults
        self._rng = np.random.default_rng(seed)
        self.information = math.nan  # nats, of what is learned from, at the last measure
        self._fresh = 0  # frames since the camera works again
        self._doing = self._wait_for_fixations
        self._began_s = self._noticed_s = self._ends_s = self._healed_s = 0.0
        self._skipped = 0

    # What the run calls.

    def go_on(self, run: Run) -> bool:
        """One step of the play; False when it is over."""
        self._doing(run)
        over = len(self.outages) == self._faults and run.learner.fixations >= self._fixations
        return not over and not self.given_up

    def add(self, frame: Frame, gaze_rad: np.ndarray | None, fixations: int) -> None:
        """A frame that was used."""
        self._fresh += 1
        if self._doing == self._wait_for_fixations:
            self.oldest_s = max(self.oldest_s, self._camera.age_s(frame.image) or 0.0)

    def hear(self, event: str) -> None:
        """An event of the run."""
        if self._doing == self._wait_for_notice and event.endswith("reopening"):
            self._notice()

    def watch(self, progress) -> None:
        """A line of measures."""
        self.information = progress.health.information

    # What is being waited for.

    def _wait_for_fixations(self, run: Run) -> None:
        number = len(self.outages)
        share = (number + 1) / (self._faults + 1)
        if number == self._faults or run.learner.fixations < share * self._fixations:
            return
        self._skipped = run.loop.skipped.total()
        self._camera.fault(FAULTS[number % len(FAULTS)])
        self._began_s = time.monotonic()
        self._noticed_s = math.inf
        self._doing = self._wait_for_notice

    def _wait_for_notice(self, run: Run) -> None:
        if run.loop.skipped.total() > self._skipped:  # black
            self._notice()
        elif time.monotonic() > self._began_s + NOTICED_S + LATE_S:
            self._ends_s = time.monotonic()
            self._doing = self._wait_for_end

    def _notice(self) -> None:
        self._noticed_s = time.monotonic() - self._began_s
        self._ends_s = time.monotonic() + self._rng.uniform(0.0, LASTS_S)
        self._doing = self._wait_for_end

    def _wait_for_end(self, run: Run) -> None:
        if time.monotonic() >= self._ends_s:
            self._camera.heal()
            self._healed_s = time.monotonic()
            self._fresh = 0
            self._doing = self._wait_for_learning

    def _wait_for_learning(self, run: Run) -> None:
        resumed_s = time.monotonic() - self._healed_s
        kind = FAULTS[len(self.outages) % len(FAULTS)]
        if self._fresh >= FRESH_FRAMES:
            outage = Outage(kind, self._noticed_s, resumed_s, self.information, sample())
            self.outages.append(outage)
            number = f"{len(self.outages):4}/{self._faults}"
            print(f"{number} {in_words(outage)} {run.learner.fixations:>10,} fixations", flush=True)
            self._doing = self._wait_for_fixations
        elif resumed_s > GIVE_UP_S:
            self.given_up = f"no learning for {GIVE_UP_S:.0f} s after {kind}"


def in_words(outage: Outage) -> str:
    """One line."""
    held = outage.sample
    return (
        f"{outage.kind:8} noticed {outage.noticed_s:4.2f} s, resumed {outage.resumed_s:4.2f} s; "
        f"{outage.information:5.2f} nats; {held.resident_mib:6.1f} MiB, {held.threads} threads, "
        f"{held.files} files, {held.objects} objects;"
    )


def growth(values: list[float]) -> float:
    """How much more it is in the last fifth than in the second: what comes first is warming up.

    0 for fewer than five values, which tell nothing.
    """
    if len(values) < 5:
        return 0.0
    fifth = len(values) // 5
    return median(values[-fifth:]) - median(values[fifth : 2 * fifth])


def violations(
    outages: list[Outage], oldest_s: float, learned: bool, connected: int = 0
) -> list[str]:
    """What did not hold, in words. connected: files that a page under siege may hold at times."""
    wrong = []
    for number, outage in enumerate(outages, 1):
        if outage.noticed_s > NOTICED_S + LATE_S:
            wrong.append(f"fault {number}, {outage.kind}: not noticed in {NOTICED_S:g} s")
        if outage.resumed_s > RESUMED_S:
            wrong.append(f"fault {number}, {outage.kind}: resumed after {outage.resumed_s:.1f} s")
    limits = Sample(MOST_GROWTH_MIB, 0, connected, MOST_GROWTH_OBJECTS)
    for name, limit in limits._asdict().items():
        grown = growth([getattr(outage.sample, name) for outage in outages])
        if grown > limit:
            wrong.append(f"{name} grew by {grown:.1f}")
    if oldest_s > STALE_S:
        wrong.append(f"learned from a picture {oldest_s:.1f} s old")
    if not learned:
        wrong.append("it did not learn")
    return wrong


@contextmanager
def besieged(run: Run, sockets: int) -> Iterator[None]:
    """The run's page is served, and another process holds so many sockets to it."""
    with page_of(run, "127.0.0.1:0", None) as page:
        port = int(page.server.url.rpartition(":")[2].strip("/"))
        program = f"from benchmarks.soak import besiege; besiege({port}, {sockets})"
        with subprocess.Popen([sys.executable, "-c", program]) as process:
            try:
                yield
            finally:
                process.kill()


def besiege(port: int, sockets: int) -> None:
    """For ever: open one socket more, in place of the oldest; half of them begin to ask."""
    held: deque[socket.socket] = deque()
    while True:
        with suppress(OSError):
            held.append(socket.create_connection(("127.0.0.1", port), 1.0))
            if len(held) % 2:
                held[-1].sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-a: ")
        if len(held) >= sockets:
            held.popleft().close()
        time.sleep(0.005)


def soak(
    folder: Path,
    fixations: int,
    faults: int,
    seed: int,
    sockets: int = 0,
    width_px: int = WIDTH_PX,
    frames_per_s: float = FRAMES_PER_S,
) -> list[str]:
    """Live through it, and print how that went; what did not hold, in words."""
    threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
    with FaultyCamera((width_px, 3 * width_px // 4), frames_per_s) as camera:
        play = Soak(camera, fixations, faults, seed)
        config = RunConfig(source=camera.url, seed=seed)
        with open_source(config.source, config.seed, config.camera) as source:
            run = Run.start(folder / "run", config, source, recorder=play)
            with besieged(run, sockets) if sockets else nullcontext():
                run.learn(play.go_on, play.watch, play.hear)
            summary = run.finish()
    print(verdict(metrics.read(run.folder / METRICS).measures, summary).sentence)
    print(f"rolled back {run.rollbacks} times; oldest picture learned from {play.oldest_s:.2f} s")
    if fixations >= JUDGED_FIXATIONS:
        before, after = (summary[when]["information"] for when in ("before", "after"))
        learned = min(after, after - before) >= NOTABLE_NATS
    else:
        learned = play.information >= NOTABLE_NATS
        print(f"too short to be judged on held-out frames: {play.information:.2f} nats on its own")
    if run.rollbacks:
        learned = False
    wrong = [play.given_up] if play.given_up else []
    wrong += violations(play.outages, play.oldest_s, learned, connections.MOST if sockets else 0)
    if threading.active_count() > threads:
        wrong.append(f"threads left: {', '.join(thread.name for thread in threading.enumerate())}")
    if len(os.listdir("/proc/self/fd")) > files:
        wrong.append("files left open")
    return wrong


def main(arguments: list[str] | None = None) -> int:
    """Run it; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fixations", type=int, default=1_000_000)
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sockets", type=int, default=0, help="held to its page meanwhile")
    parser.add_argument("--width", type=int, default=WIDTH_PX, help="of its pictures, in pixels")
    parser.add_argument("--frames-per-s", type=float, default=FRAMES_PER_S)
    options = parser.parse_args(arguments)
    started_s = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        wrong = soak(Path(folder), *vars(options).values())
    for line in wrong:
        print(f"VIOLATED: {line}")
    print(
        f"{'failed' if wrong else 'held'} after {(time.monotonic() - started_s) / 60:.1f} minutes"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
