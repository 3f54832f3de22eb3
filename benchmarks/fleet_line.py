"""A fleet of real processes over bad lines: each robot in a network namespace of its own. As root.

    python -m benchmarks.fleet_line                                  100 ms each way, 1 % lost
    python -m benchmarks.fleet_line --delay-ms 300 --loss 0.03 --seconds 1200

`edge-rjepa fleet serve` and `edge-rjepa learn --fleet` with the default network, as a person starts
them; beside them a run that learns alone. Halfway the line of the first robot is cut for --cut
seconds. Told are the server's lines with their times, what went over each line, and how much of
its time each learner slept: the kernel counts for how long its main thread ran, and for how long it
waited for a core; in what is left of the time it waited for something else.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import IO, NamedTuple

from benchmarks.bad_line import End, Line, namespaces, within
from benchmarks.tables import Table

ROOT = Path(__file__).parent.parent
SERVER, ROBOT = "fleet-server", "fleet-robot-{}"  # namespaces
PORT = 9092
BEGIN_S, END_S = 600.0, 60.0  # to start learning, and to end


class Process:
    """A command of edge-rjepa in a namespace, and what it says with the time."""

    def __init__(self, namespace: str, folder: Path, *arguments: object) -> None:
        self.said: list[tuple[float, str]] = []
        command = [sys.executable, "-m", "edge_rjepa", *map(str, arguments)]
        self._process = subprocess.Popen(
            within(namespace, command),
            stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, cwd=ROOT,
        )  # fmt: skip
        assert self._process.stderr is not None
        self._reader = threading.Thread(target=self._read, args=(self._process.stderr,))
        self._reader.start()
        self.folder = folder

    @property
    def pid(self) -> int:
        """`ip netns exec` becomes the command."""
        return self._process.pid

    def end(self) -> None:
        """It saves, and ends at once."""
        self._process.terminate()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._reader.join()

    def _read(self, lines: IO[str]) -> None:
        for line in lines:
            self.said.append((time.monotonic(), line.rstrip("\n")))


class Slept(NamedTuple):
    """Of a process's main thread, since it began."""

    at_s: float
    busy_s: float  # it ran, or waited for a core

    @classmethod
    def of(cls, pid: int) -> Slept:
        """Until now."""
        ran, waited, _ = Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()
        return cls(time.monotonic(), 1e-9 * (int(ran) + int(waited)))

    def share_until(self, later: Slept) -> float:
        """Of the time from here until then that it slept."""
        return 1.0 - (later.busy_s - self.busy_s) / (later.at_s - self.at_s)


def learns(process: Process) -> bool:
    """Whether its first steps are behind it: it has measured."""
    return (process.folder / "metrics.jsonl").exists()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--robots", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=600.0, help="once all learn (600)")
    parser.add_argument("--delay-ms", type=float, default=100.0, help="each way (100)")
    parser.add_argument("--loss", type=float, default=0.01, help="of packets, 0 .. 1 (0.01)")
    parser.add_argument("--cut", type=float, default=40.0, help="seconds (40)")
    parser.add_argument("--every", type=float, default=30.0, help="seconds a round (30)")
    parser.add_argument("--source", default="scene:", help="of all robots (scene:)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as opened:
        measure(options, Path(temporary), opened)


def measure(options: argparse.Namespace, folder: Path, opened: ExitStack) -> None:
    """Start, wait, end, tell."""
    places = [ROBOT.format(i) for i in range(options.robots)]
    opened.enter_context(namespaces(SERVER, *places))
    lines = []
    for i, place in enumerate(places):
        ends = End(SERVER, f"to-{i}", f"10.77.{i}.1"), End(place, f"from-{i}", f"10.77.{i}.2")
        lines.append(Line(ends, 1e-3 * options.delay_ms, options.loss, seed=i))
        opened.callback(lines[-1].close)
    server = Process(
        SERVER, folder / "fleet", "fleet", "serve", "--out", folder / "fleet", "--address",
        f"0.0.0.0:{PORT}", "--every", options.every,
    )  # fmt: skip
    opened.callback(server.end)
    learners = {"alone": learner(options, SERVER, folder / "alone", opened)}
    for i, place in enumerate(places):
        fleet = ("--fleet", f"10.77.{i}.1:{PORT}", "--seed", i)
        learners[f"robot {i}"] = learner(options, place, folder / str(i), opened, *fleet)
    wait_until_all_learn(list(learners.values()))

    begun_s = time.monotonic()
    begun = {name: Slept.of(process.pid) for name, process in learners.items()}
    print(f"all learn; {options.seconds:.0f} s from now on", flush=True)
    time.sleep(options.seconds / 2)
    lines[0].loss = 1.0
    time.sleep(options.cut)
    lines[0].loss = options.loss
    time.sleep(max(0.0, options.seconds / 2 - options.cut))
    slept = {name: begun[name].share_until(Slept.of(p.pid)) for name, p in learners.items()}

    for name, process in {"server": server, **learners}.items():
        for at_s, text in process.said:
            if "round" in text or "fleet" in text:
                print(f"{at_s - begun_s:7.1f} s  {name}: {text}")
    rows = [("alone", "", "", "", f"{slept['alone']:.2%}")]
    for i, line in enumerate(lines):
        to_robot, to_server = (f"{1e-6 * count:.1f}" for count in line.carried_bytes)
        lost = f"{line.lost:,} of {line.lost + line.carried:,}"
        rows.append((f"robot {i}", to_robot, to_server, lost, f"{slept[f'robot {i}']:.2%}"))
    print(Table(("", "MB to it", "MB from it", "packets lost", "time slept"), rows))


def learner(
    options: argparse.Namespace, place: str, folder: Path, opened: ExitStack, *more: object
) -> Process:
    """A run that learns."""
    process = Process(
        place, folder, "learn", "--source", options.source, "--out", folder, *more
    )  # fmt: skip
    opened.callback(process.end)
    return process


def wait_until_all_learn(processes: list[Process]) -> None:
    """SystemExit with what they said if that takes too long."""
    end_s = time.monotonic() + BEGIN_S
    while not all(map(learns, processes)):
        if time.monotonic() > end_s:
            raise SystemExit("\n".join(text for each in processes for _, text in each.said))
        time.sleep(1.0)


if __name__ == "__main__":
    main()
