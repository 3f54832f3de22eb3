"""How well simulated heads of which everything is known are calibrated.

    python -m benchmarks.calibration [--heads 200] [--rendered 20] [--first SEED] [--processes N]

Each head is drawn at random (benchmarks/simulated_rig.py): gain off by up to 20 %, either way
round, axes askew by up to 10 degrees, backlash up to 2 degrees, shafts that never stop twice at the
same place, delay of 30 to 250 ms, distortion, a camera calibrated not quite right, and 20 % of the
picture moving by itself. --rendered of them are calibrated from rendered pictures; the others from
corners that are simulated without pictures, which is ten times as fast: all but finding corners is
the same.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time

for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(name, "1")  # heads run side by side

import cv2  # noqa: E402
import numpy as np  # noqa: E402

from benchmarks.simulated_rig import Judged, calibrated, judged  # noqa: E402
from calibration.errors import CalibrationError  # noqa: E402


def one_head(task: tuple[int, bool]) -> Judged | str:
    """Calibrates a head and compares it with what it is; or why that was refused."""
    seed, rendered = task
    cv2.setNumThreads(1)
    try:
        rig, result = calibrated(seed, rendered)
    except CalibrationError as error:
        return f"head {seed}: {error}"
    return judged(rig, result)


def summary(heads: list[Judged]) -> dict:
    """The figures of a table row."""
    gaze = np.concatenate([np.degrees(head.gaze_rad) for head in heads])
    by_head = [np.degrees(np.median(head.gaze_rad)) for head in heads]
    centre_px = np.concatenate([head.centre_px for head in heads])
    steady_px = np.concatenate([head.steady_px for head in heads])
    delay_ms = np.abs([1e3 * head.delay_off_s for head in heads])
    backlash = np.abs(np.degrees([head.backlash_off_rad for head in heads]))
    held = {name: np.mean([head.held[name] for head in heads]) for name in heads[0].held}
    return {
        "heads": len(heads),
        "gaze_median_deg": float(np.median(gaze)),
        "gaze_p95_deg": float(np.percentile(gaze, 95)),
        "gaze_worst_head_median_deg": float(np.max(by_head)),
        "centred_median_px": float(np.median(centre_px)),
        "centred_p95_px": float(np.percentile(centre_px, 95)),
        "centred_within_2_px": float(np.mean(centre_px <= 2.0)),
        "steady_p95_px": float(np.percentile(steady_px, 95)),
        "steady_worst_px": float(steady_px.max()),
        "steady_within_2_px": float(np.mean(steady_px <= 2.0)),
        "delay_median_ms": float(np.median(delay_ms)),
        "delay_worst_ms": float(delay_ms.max()),
        "backlash_median_deg": float(np.median(backlash)),
        "backlash_worst_deg": float(backlash.max()),
        "focal_median_share": float(np.median([abs(head.focal_off) for head in heads])),
        "focal_worst_share": float(np.max([abs(head.focal_off) for head in heads])),
        "intervals_hold": float(np.mean([list(head.held.values()) for head in heads])),
        "intervals_hold_by_name": {name: round(float(share), 3) for name, share in held.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--heads", type=int, default=200, help="how many, all together")
    parser.add_argument("--rendered", type=int, default=20, help="how many of them with pictures")
    parser.add_argument("--first", type=int, default=0, help="seed of the first")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    tasks = [(options.first + k, k < options.rendered) for k in range(options.heads)]
    started_s = time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        found = []
        for each in pool.imap(one_head, tasks):
            found.append(each)
            if isinstance(each, str):
                print(each, flush=True)
            elif (worst := np.degrees(np.abs(each.backlash_off_rad).max())) > 0.2:
                seed = tasks[len(found) - 1][0]
                print(f"head {seed}: backlash off by {worst:.2f} degrees", flush=True)
            elif len(found) % 10 == 0:
                print(f"{len(found)} heads, {time.perf_counter() - started_s:.0f} s", flush=True)
    for name, rendered in (("rendered pictures", True), ("simulated corners", False)):
        heads = [
            each
            for each, task in zip(found, tasks, strict=True)
            if task[1] == rendered and not isinstance(each, str)
        ]
        if heads:
            print(name, json.dumps(summary(heads), indent=1))
    refused = sum(isinstance(each, str) for each in found)
    print(f"{refused} of {len(found)} refused, {time.perf_counter() - started_s:.0f} s")


if __name__ == "__main__":
    main()
