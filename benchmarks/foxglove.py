"""What Foxglove costs: python -m benchmarks.foxglove

The live view without and with a client, as milliseconds of a processor a frame, and both
forms of recordings, as bytes a minute and memory over many frames. Pictures are a photograph of
640x480 with the noise of a camera. Needs the extras foxglove and dashboard.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from edge_rjepa import RJepa
from edge_rjepa.eye.eye import Eye
from edge_rjepa.eye.gaze import Gaze
from edge_rjepa.eye.retina import Retina
from edge_rjepa.optics.camera import Pinhole
from edge_rjepa.run.config import RunConfig
from edge_rjepa.run.loop import FixationBatch
from edge_rjepa.sources import Frame
from edge_rjepa.sources.recording import Recorder
from edge_rjepa.sources.scene import skimage_photographs
from edge_rjepa.views.foxglove import FoxgloveView

FRAMES_PER_S, FIXATIONS = 30.0, 16
CAMERA = Pinhole(640, 480, 1.0)
NOISE_STD = 2.0  # grey levels
PICTURES = 30


def pictures() -> list[np.ndarray]:
    """A photograph, each time with other noise."""
    photograph = cv2.resize(cv2.imread(str(skimage_photographs()[0])), (640, 480))
    rng = np.random.default_rng(0)
    return [
        np.clip(photograph + rng.normal(0.0, NOISE_STD, photograph.shape), 0, 255).astype(np.uint8)
        for _ in range(PICTURES)
    ]


class Learning:
    """What the learning thread does with a frame."""

    def __init__(self) -> None:
        config = RunConfig()
        self._eye = Eye(Gaze(config.gaze, 0), Retina(config.retina))
        self._learner = RJepa(config.network, 0)
        self._eye.warm_up()
        self._learner.warm_up()
        self._images = pictures()
        self._count = 0

    def frame(self) -> FixationBatch:
        """Look at the next picture and learn from it."""
        image = self._images[self._count % PICTURES]
        frame = Frame(image, time.monotonic(), (0.0, 0.0), self._count)
        self._count += 1
        plan, features = self._eye.look(CAMERA, image, frame.head_rad, FIXATIONS)
        surprise = self._learner.learn_block(features, plan.efference).surprise
        return FixationBatch(frame, plan.pixels, plan.gaze_rad, features, surprise)


class Cost(NamedTuple):
    """Milliseconds a frame."""

    thread: float  # of a processor, by the thread that learns
    process: float  # .. by all threads
    hand_over: float  # median, by the clock: how long `observe` held it up


def cost(learning: Learning, view: FoxgloveView | None, seconds: float) -> Cost:
    """Of frames that come FRAMES_PER_S times a second."""
    frames = round(seconds * FRAMES_PER_S)
    thread_s, process_s, held_s = time.thread_time(), time.process_time(), []
    for _ in range(frames):
        started = time.perf_counter()
        batch = learning.frame()
        handed = time.perf_counter()
        if view is not None:
            view.observe(batch)
        held_s.append(time.perf_counter() - handed)
        time.sleep(max(0.0, started + 1.0 / FRAMES_PER_S - time.perf_counter()))
    spent = time.thread_time() - thread_s, time.process_time() - process_s
    return Cost(*(1e3 * each / frames for each in spent), 1e3 * float(np.median(held_s)))


async def _subscribe(url: str) -> None:
    import aiohttp

    counts: dict[str, int] = {}
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(url, protocols=["foxglove.sdk.v1"], max_msg_size=0) as socket,
    ):
        async for message in socket:
            if message.type == aiohttp.WSMsgType.BINARY:
                counts["messages"] = counts.get("messages", 0) + 1
            elif (said := json.loads(message.data))["op"] == "advertise":
                ids = [{"id": each["id"], "channelId": each["id"]} for each in said["channels"]]
                await socket.send_json({"op": "subscribe", "subscriptions": ids})


def live(seconds: float, rounds: int) -> None:
    """Print what a frame costs in each case, the cases in turn."""
    learning = Learning()
    cost(learning, None, 3.0)
    found: dict[str, list[Cost]] = {"no view": [], "no client": [], "one client": []}
    for _ in range(rounds):
        for case, costs in found.items():
            served = (
                nullcontext()
                if case == "no view"
                else FoxgloveView("127.0.0.1:0", CAMERA, live=True, turns=False)
            )
            with served as view:
                command = [sys.executable, "-m", "benchmarks.foxglove", "--client"]
                client = (
                    subprocess.Popen([*command, view.url])
                    if view is not None and case == "one client"
                    else None
                )
                if view is not None and client is not None:
                    while not view.is_watched:
                        time.sleep(0.05)
                costs.append(cost(learning, view, seconds))
                if client is not None:
                    client.kill()
                    client.wait()
    for case, costs in found.items():
        thread, process, hand_over = np.median(costs, axis=0)
        print(
            f"{case:12} {thread:.2f} ms of the learning thread, {process:.2f} ms of all threads, "
            f"{hand_over:.4f} ms held up a frame",
            flush=True,
        )


def recordings(frames: int, many: int) -> None:
    """Print bytes a minute of each form, and how memory grows over many frames."""
    images = pictures()
    gaze_rad = np.random.default_rng(1).normal(size=(FIXATIONS, 2))
    pixels = np.random.default_rng(2).uniform(0, 480, (FIXATIONS, 2))
    features, surprise = np.empty((FIXATIONS, 0), np.float32), np.ones(FIXATIONS)
    for name, lossless, count in (
        ("walk", True, frames), ("walk.mcap", True, frames),
        ("walk", False, frames), ("walk.mcap", False, frames), ("walk.mcap", False, many),
    ):  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, name)
            with Recorder(path, CAMERA, {}, lossless=lossless) as recorder:
                before = _resident_bytes()
                started = time.process_time()
                for i in range(count):
                    frame = Frame(images[i % PICTURES], i / FRAMES_PER_S, (0.0, 0.0), i)
                    if recorder.channels is not None:
                        recorder.channels.observe(
                            FixationBatch(frame, pixels, gaze_rad, features, surprise)
                        )
                    recorder.add(frame, gaze_rad, FIXATIONS)
                    if i == min(count, 500) - 1:
                        before = _resident_bytes()
                took = time.process_time() - started
                grown = _resident_bytes() - before
            files = [path] if path.is_file() else path.rglob("*")
            size = sum(file.stat().st_size for file in files if file.is_file())
        print(
            f"{name:10} {'lossless' if lossless else 'mjpg':9} {count} frames: "
            f"{60 * FRAMES_PER_S * size / count / 1e6:,.0f} MB a minute, "
            f"{1e3 * took / count:.2f} ms of a processor a frame, memory grew by "
            f"{grown / 1e6:.1f} MB after the first 500",
            flush=True,
        )


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--client", help="be a client of this address, until killed")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each case (10)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--frames", type=int, default=300, help="of each recording (300)")
    parser.add_argument("--only", choices=("live", "recordings"), help="one part")
    parser.add_argument("--many", type=int, default=10_000, help="of the one for memory (10000)")
    options = parser.parse_args()
    if options.client:
        asyncio.run(_subscribe(options.client))
        return
    print(f"{os.cpu_count()} processors; {len(os.sched_getaffinity(0))} to be used")
    if options.only != "recordings":
        live(options.seconds, options.rounds)
    if options.only != "live":
        recordings(options.frames, options.many)


if __name__ == "__main__":
    main()
