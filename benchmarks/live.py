"""What learning from a live camera costs: share of one core, and time from capture to learned.

    python -m benchmarks.live [--seconds 60]

A camera of 640x480 at 30 frames a second (Motion JPEG over loopback) runs in a process of its own;
`edge-rjepa learn` learns from it with its defaults, 16 fixations a frame, as a user starts it. Its
CPU time is read from the system, capture and decoding included, start-up left out. Capture alone is
measured beside it, so that one sees what learning adds.
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
from pathlib import Path

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


def learning(url: str, seconds: float, folder: Path) -> tuple[float, list[dict]]:
    """Share of a core of `edge-rjepa learn`, and its lines of metrics."""
    command = [sys.executable, "-m", "edge_rjepa", "learn", "--source", url, "--out", folder]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        while not lines_of(folder):
            if process.poll() is not None:
                raise SystemExit(f"edge-rjepa learn ended with code {process.returncode}")
            time.sleep(0.1)
        time.sleep(SETTLE_S)
        first = len(lines_of(folder))
        share = share_of_core(process.pid, seconds)
        process.terminate()
    return share, lines_of(folder)[first:]


def lines_of(folder: Path) -> list[dict]:
    try:
        return [line for line in journal.read(folder / METRICS) if "fixations" in line]
    except OSError:
        return []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    camera = context.Process(target=serve, args=(there,))
    camera.start()
    try:
        url = here.recv()
        capture = capture_alone(url, 0.5 * options.seconds)
        with tempfile.TemporaryDirectory() as folder:
            share, lines = learning(url, options.seconds, Path(folder) / "run")
    finally:
        here.send("end")
        camera.join()
    last = lines[-1]
    result = {
        "machine": platform.processor() or platform.machine(),
        "share_of_core": share,
        "of_that_capture": capture,
        "fixations_per_s": last["fixations_per_s"],
        "fixations_per_frame": last["fixations_per_frame"],
        "latency_median_ms": last["latency_median_ms"],
        "latency_p95_ms": last["latency_p95_ms"],
    }
    if options.json:
        print(json.dumps(result))
        return
    print(
        f"{result['machine']}, {os.cpu_count()} cores; 640x480 at 30 frames a second, "
        f"{last['fixations_per_frame']:.1f} fixations a frame, {last['fixations_per_s']:.0f}/s\n"
        f"CPU: {100 * share:.1f} % of one core, of that capture {100 * capture:.1f} %\n"
        f"from capture to learned: median {last['latency_median_ms']:.1f} ms, "
        f"95% {last['latency_p95_ms']:.1f} ms"
    )


if __name__ == "__main__":
    main()
