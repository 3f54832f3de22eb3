"""What learning from a live camera costs: share of one core, and time from capture to learned.

    python -m benchmarks.live [--seconds 60] [--cameras 2 [--share]]

A camera of 640x480 at 30 frames a second (Motion JPEG over loopback) runs in a process of its own;
`edge-rjepa learn` learns from it with its defaults, 16 fixations a frame, as a user starts it. Its
CPU time is read from the system, capture and decoding included, start-up left out. Capture alone is
measured beside it, so that one sees what learning adds. --cameras: so many of them, learned from by
one process, with --share as one encoder.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks.faulty_camera import FaultyCamera
from edge_rjepa.base import journal
from edge_rjepa.run.run import METRICS
from edge_rjepa.sources import open_source
from edge_rjepa.sources.config import CameraConfig

SETTLE_S = 5.0  # after the first line of metrics


def serve(pipe) -> None:
    """A camera, until told to end."""
    with FaultyCamera(size=(640, 480), frames_per_s=30.0) as camera:
        pipe.send(camera.url)
        pipe.recv()


def cpu_s(pid: int) -> float:
    """CPU seconds that a process has used so far, all threads, user and system."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def share_of_core(pid: int, seconds: float) -> float:
    """CPU time over wall time during the next seconds."""
    cpu_before, before = cpu_s(pid), time.monotonic()
    time.sleep(seconds)
    return (cpu_s(pid) - cpu_before) / (time.monotonic() - before)


def capture_alone(url: str, seconds: float) -> float:
    """Share of a core that reading the camera takes in this process."""
    with open_source(url, 0, CameraConfig()) as source:
        until = time.monotonic() + seconds
        cpu_before, before = time.process_time(), time.monotonic()
        while time.monotonic() < until:
            source.read_next(200.0)
        return (time.process_time() - cpu_before) / (time.monotonic() - before)


class Cost(NamedTuple):
    """What `edge-rjepa learn` takes."""

    share_of_core: float
    resident_bytes: int
    lines: list[list[dict]]  # of metrics, of each camera


def learning(urls: list[str], share: bool, seconds: float, folder: Path) -> Cost:
    """What `edge-rjepa learn` takes while it learns from all of these."""
    sources = [argument for url in urls for argument in ("--source", url)]
    command = [sys.executable, "-m", "edge_rjepa", "learn", *sources, "--out", str(folder)]
    folders = [folder / str(i + 1) for i in range(len(urls))] if len(urls) > 1 else [folder]
    with subprocess.Popen(command + ["--share"] * share, stderr=subprocess.DEVNULL) as process:
        while not all(map(lines_of, folders)):
            if process.poll() is not None:
                raise SystemExit(f"edge-rjepa learn ended with code {process.returncode}")
            time.sleep(0.1)
        time.sleep(SETTLE_S)
        first = [len(lines_of(each)) for each in folders]
        share_of_one = share_of_core(process.pid, seconds)
        resident = resident_bytes(process.pid)
        process.terminate()
    lines = [lines_of(each)[begin:] for each, begin in zip(folders, first, strict=True)]
    return Cost(share_of_one, resident, lines)


def resident_bytes(pid: int) -> int:
    """Memory that a process holds."""
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def lines_of(folder: Path) -> list[dict]:
    try:
        return [line for line in journal.read(folder / METRICS) if "fixations" in line]
    except OSError:
        return []


@contextmanager
def cameras(count: int) -> Iterator[list[str]]:
    """The addresses of so many cameras, each in a process of its own."""
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe() for _ in range(count)]
    processes = [context.Process(target=serve, args=(there,)) for _, there in pipes]
    for process in processes:
        process.start()
    try:
        yield [here.recv() for here, _ in pipes]
    finally:
        for here, _ in pipes:
            here.send("end")
        for process in processes:
            process.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--cameras", type=int, default=1)
    parser.add_argument("--share", action="store_true", help="one encoder for all cameras")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    with cameras(options.cameras) as urls, tempfile.TemporaryDirectory() as folder:
        capture = capture_alone(urls[0], 0.5 * options.seconds)
        cost = learning(urls, options.share, options.seconds, Path(folder) / "run")
    last = [lines[-1] for lines in cost.lines]
    result = {
        "machine": platform.processor() or platform.machine(),
        "cameras": options.cameras,
        "share_of_core": cost.share_of_core,
        "of_that_capture_of_one": capture,
        "resident_bytes": cost.resident_bytes,
        **{
            name: [line[name] for line in last]
            for name in (
                *("fixations_per_s", "fixations_per_frame"),
                *("latency_median_ms", "latency_p95_ms"),
            )
        },
    }
    if options.json:
        print(json.dumps(result))
        return
    print(
        f"{result['machine']}, {os.cpu_count()} cores; {options.cameras} of 640x480 at 30 frames a "
        f"second\nCPU: {100 * cost.share_of_core:.1f} % of one core, of that capture "
        f"{100 * capture:.1f} % a camera; {cost.resident_bytes / 2**20:.0f} MiB"
    )
    for line in last:
        print(
            f"{line['fixations_per_frame']:.1f} fixations a frame, "
            f"{line['fixations_per_s']:.0f}/s; from capture to learned: "
            f"median {line['latency_median_ms']:.1f} ms, 95% {line['latency_p95_ms']:.1f} ms"
        )


if __name__ == "__main__":
    main()
