"""Learning through a robot's live paths for long: time from publisher to learned, and no growth.

    python -m benchmarks.robots [--path ros2] [--minutes 10] [--by rclpy|cyclonedds]

A camera of 1280x720 at 30 frames a second in a process of its own stamps each picture when it is
made. `edge-rjepa learn` learns from it as a user starts it. Latency is from that stamp to the
weights that learned from the picture; memory, threads and files are read from the system.
--by: who publishes: rclpy with Fast DDS where it is installed, else Cyclone DDS. What reads is as
ROS2_LINK says.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks.live import cpu_s
from edge_rjepa.base import journal
from edge_rjepa.run.run import METRICS

ROOT = Path(__file__).parents[1]
SIZE, RATE_HZ = "1280x720", 30
SETTLE_S = 60.0  # kernels are compiled, and buffers filled
EVERY_S = 5.0
A_MINUTE = 12  # samples
MB = 1e6


class Sample(NamedTuple):
    """What a process holds."""

    t_s: float
    resident_bytes: int
    threads: int
    files: int


@contextmanager
def ros2(by: str) -> Iterator[str]:
    """A robot's camera; the source that it is."""
    topic = "/bench/image_raw"
    flags = ["--size", SIZE, "--rate", str(RATE_HZ), "--best-effort", "--depth", "1"]
    command = [sys.executable, str(ROOT / "tests/ros2_link/peer.py"), by, "camera", topic, *flags]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ROS2_LINK": by}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as peer:
        try:
            yield f"ros2:{topic}"
        finally:
            peer.kill()


PATHS = {"ros2": ros2}


def sample_of(pid: int) -> Sample:
    """What the process holds now."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    values = dict(line.split(":", 1) for line in status.splitlines())
    resident_bytes = 1024 * int(values["VmRSS"].split()[0])
    files = len(os.listdir(f"/proc/{pid}/fd"))
    return Sample(time.monotonic(), resident_bytes, int(values["Threads"]), files)


def watched(process: subprocess.Popen, seconds: float) -> tuple[list[Sample], float]:
    """Samples of the process while it runs, at most so long, and its share of a core."""
    samples, until_s = [], time.monotonic() + seconds
    begun = cpu_s(process.pid), time.monotonic()
    while time.monotonic() < until_s and process.poll() is None:
        samples.append(sample_of(process.pid))
        time.sleep(EVERY_S)
    return samples, (cpu_s(process.pid) - begun[0]) / (time.monotonic() - begun[1])


def report(folder: Path, samples: list[Sample], share_of_core: float, begun_s: float) -> dict:
    """What came of it, as values of JSON."""
    steady = [sample for sample in samples if sample.t_s - begun_s >= SETTLE_S] or samples
    lines = journal.read(folder / METRICS)
    latencies = [line for line in lines if line.get("latency_median_ms") is not None]
    last = latencies[-1] if latencies else {}
    minutes = (steady[-1].t_s - steady[0].t_s) / 60.0
    return {
        "minutes": round(minutes, 1),
        "frames": last.get("frames"),
        "frames_per_s": round(last["frames"] / last["seconds"], 1) if last else None,
        "latency_median_ms": _median(line["latency_median_ms"] for line in latencies),
        "latency_p95_ms": _median(line["latency_p95_ms"] for line in latencies),
        "load_average": os.getloadavg()[1],
        "resident_mb_each_minute": [
            round(each.resident_bytes / MB, 1) for each in steady[::A_MINUTE]
        ],
        "threads": [steady[0].threads, steady[-1].threads],
        "files": [steady[0].files, steady[-1].files],
        "share_of_core": round(share_of_core, 2),
        "faults": last.get("faults"),
    }


def _median(values: Iterable[float]) -> float | None:
    """Of what each line of metrics says of its last frames; None for none."""
    values = list(values)
    return round(statistics.median(values), 1) if values else None


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--path", choices=PATHS, default="ros2")
    parser.add_argument("--minutes", type=float, default=10.0)
    with_rclpy = importlib.util.find_spec("rclpy") is not None
    parser.add_argument("--by", default="rclpy" if with_rclpy else "cyclonedds")
    options = parser.parse_args()
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    seconds = SETTLE_S + 60.0 * options.minutes
    with tempfile.TemporaryDirectory() as temporary, PATHS[options.path](options.by) as source:
        folder = Path(temporary, "run")
        command = [sys.executable, "-m", "edge_rjepa", "learn", "--source", source]
        command += ["--out", str(folder), "--seconds", str(seconds)]
        begun_s = time.monotonic()
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            samples, share = watched(process, seconds)
            process.terminate()
            said = process.communicate()[1]
        if not samples or not (folder / METRICS).exists():
            sys.exit(said)
        found = report(folder, samples, share, begun_s)
    found |= {"path": options.path, "by": options.by, "machine": platform.machine()}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
