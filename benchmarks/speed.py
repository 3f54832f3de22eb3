"""How many fixations a second one core learns and sees, at default size.

    python -m benchmarks.speed

Learning and seeing take turns, block by block, so that a busy machine slows both alike.
"""

from __future__ import annotations

import platform
import time

import numpy as np

from edge_rjepa import RJepa, RJepaConfig

BLOCK, ROUNDS = 16, 3000


def main() -> None:
    config = RJepaConfig()
    learner, seer = RJepa(config), RJepa(config)
    learner.warm_up()
    rng = np.random.default_rng(0)
    features = rng.normal(size=(BLOCK, config.n_features)).astype("f4")
    efference = rng.normal(size=(BLOCK, config.n_efference)).astype("f4")
    calls = {"learn_block": learner.learn_block, "predict": seer.predict, "embed": seer.embed}
    seconds = {name: np.empty(ROUNDS) for name in calls}
    for i in range(ROUNDS):
        for name, call in calls.items():
            started = time.perf_counter()
            call(features, efference)
            seconds[name][i] = time.perf_counter() - started
    print(f"{platform.processor() or platform.machine()}, one core, blocks of {BLOCK} fixations")
    print(f"n_z {config.n_embedding}, n_h {config.n_hidden}, n_p {config.n_predictor}")
    print(f"{'':12} {'median us':>10} {'p95 us':>8} {'fixations/s':>12}")
    for name, times in seconds.items():
        median, p95 = np.quantile(times, [0.5, 0.95]) * 1e6
        print(f"{name:12} {median:10.0f} {p95:8.0f} {BLOCK / median * 1e6:12,.0f}")
    ratio = np.median(seconds["learn_block"] / seconds["predict"])
    print(f"learning costs {ratio:.1f} times seeing with prediction (median of pairs)")


if __name__ == "__main__":
    main()
