"""What the live page costs, and how soon it shows a day.

    python -m benchmarks.dashboard [--seconds 20] [--pairs 3]

Cost: CPU time of the process with one viewer, a real Chromium, less without one, as paired runs in
which pictures of 640x480 with 16 fixations come 30 times a second and nothing else is done. Day:
86,400 lines of metrics, one a second, from asking for the page until its curves are drawn.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.browser import browser
from benchmarks.faulty_camera import view
from edge_rjepa.base import journal
from edge_rjepa.learner.config import RJepaConfig
from edge_rjepa.learner.rjepa import RJepa
from edge_rjepa.optics.camera import Pinhole
from edge_rjepa.run.loop import FixationBatch
from edge_rjepa.sources import Frame
from edge_rjepa.views.dashboard.buttons import Buttons
from edge_rjepa.views.dashboard.kept import KeptRun
from edge_rjepa.views.dashboard.learning import LearningRun
from edge_rjepa.views.dashboard.live import LiveState
from edge_rjepa.views.dashboard.server import Dashboard

FRAMES_A_SECOND, FIXATIONS, FEATURES, EMBEDDING = 30.0, 16, 316, 128
DAY = 86_400
CAMERA = Pinhole(640, 480, math.radians(60.0))


def fed(live: LiveState, pictures, seconds: float) -> float:
    """CPU seconds of this process a second while pictures come."""
    rng = np.random.default_rng(0)
    started_s, cpu_s = time.monotonic(), time.process_time()
    for k in range(int(seconds * FRAMES_A_SECOND)):
        frame = Frame(pictures[k % len(pictures)], time.monotonic(), (0.0, 0.0), k)
        pixels = rng.uniform(40, 440, (FIXATIONS, 2))
        features = rng.normal(size=(FIXATIONS, FEATURES)).astype(np.float32)
        live.observe(FixationBatch(frame, pixels, pixels / 1000.0, features, rng.random(FIXATIONS)))
        time.sleep(max(0.0, started_s + (k + 1) / FRAMES_A_SECOND - time.monotonic()))
    return (time.process_time() - cpu_s) / (time.monotonic() - started_s)


def cost(folder: Path, seconds: float, pairs: int) -> list[float]:
    """Share of a core that one viewer takes, of each pair."""
    pictures = [view((640, 480), k) for k in range(60)]
    learner = RJepa(RJepaConfig(n_features=FEATURES, n_embedding=EMBEDDING))
    shares = []
    for _ in range(pairs):
        live = LiveState(learner.patch_encoder, lambda: CAMERA)
        run = LearningRun(folder, live, Buttons(lambda learner, path: None, live.on_event))
        with Dashboard("127.0.0.1:0", run) as server:
            without = fed(live, pictures, seconds)
            with browser() as driver:
                driver.get(server.url)
                fed(live, pictures, 2.0)
                watched = fed(live, pictures, seconds)
                count = int(driver.find_element("id", "eye").get_attribute("data-count"))
        shares.append(watched - without)
        print(
            f"without {100 * without:.1f} %, watched {100 * watched:.1f} % of a core, "
            f"{count / (seconds + 2.0):.1f} pictures a second",
            flush=True,
        )
    return shares


def a_day(folder: Path) -> None:
    kept = journal.Journal(folder / "metrics.jsonl", max_bytes=1 << 30)
    lines = [
        {
            "frames": 30 * k, "fixations": 480 * k, "time_unix_s": 1e9 + k,
            "information": 3.0 + 0.1 * np.sin(k / 500.0), "effective_rank": 8.0,
            "embedding_std": 0.8, "surprise": 5.0, "fixations_per_s": 480.0,
            "latency_median_ms": 4.5, "latency_p95_ms": 6.6, "skipped": {}, "faults": {},
            "seconds": 1.0 * k, "loss": 0.1, "rollbacks": 0, "fixations_per_frame": 16.0,
        }
        for k in range(DAY)
    ]  # fmt: skip
    for line in lines:
        kept.append(line)


def load(folder: Path) -> float:
    """Seconds from asking for the page until its curves are drawn."""
    with Dashboard("127.0.0.1:0", KeptRun(folder)) as server, browser() as driver:
        started_s = time.monotonic()
        driver.get(server.url)
        while driver.find_element("id", "count").text == "":
            time.sleep(0.01)
        return time.monotonic() - started_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="of each run of a pair")
    parser.add_argument("--pairs", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "metrics.jsonl").write_bytes(b"")
        shares = cost(folder, options.seconds, options.pairs)
        print(f"one viewer: {100 * statistics.median(shares):.1f} % of a core (median)")
        a_day(folder)
        print("a day of metrics is shown after", ", ".join(f"{load(folder):.2f} s" for _ in "123"))


if __name__ == "__main__":
    main()
