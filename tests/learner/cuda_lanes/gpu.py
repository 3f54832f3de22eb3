# ruff: noqa: I001
"""Every check of engines on the real GPU, at sizes that fill it, beside the CPU's."""

from functools import partial

import lane  # first: it says where the others are

import engine_checks

from edge_rjepa import RJepaConfig
from edge_rjepa.learner.cells import CELLS
from edge_rjepa.learner.engines import open_engine
from edge_rjepa.errors import DeviceError

LARGER = {
    "n_embedding": 70, "n_hidden": 130, "n_predictor": 150, "n_encoder_hidden": 90, "max_block": 33,
}  # fmt: skip
SIZES = {"": {}, ", no hidden layer": {"n_encoder_hidden": 0}, ", larger": LARGER}


def make(device, config, streams):
    from edge_rjepa.learner.cells import find

    return open_engine(config, find(config.cell), streams, device)


def main() -> None:
    try:
        engine = make("cuda", RJepaConfig(), 1)
    except DeviceError as error:
        lane.cannot_run(str(error))
    lane.say(f"on {engine.description}")
    engine.close()
    checks, on_gpu, on_cpu = {}, partial(make, "cuda"), partial(make, "cpu")
    for cell in (*CELLS, lane.register_wheel()):
        for memory_input in ("embedding", "features"):
            for what, sizes in SIZES.items():
                name = f"{cell}, {memory_input}{what}"
                single, double = (
                    engine_checks.network(cell, memory_input=memory_input, dtype=dtype, **sizes)
                    for dtype in ("float32", "float64")
                )
                for check in engine_checks.CHECKS:
                    checks[f"{check.__name__}: {name}"] = partial(check, on_gpu, single)
                # The CPU's own single precision is off by 4e-5 with 130 units that turn.
                tolerance = 1e-4 if (cell, what) == ("rtu", ", larger") else 2e-5
                checks[f"agrees: {name}"] = partial(
                    engine_checks.agrees, on_gpu, on_cpu, single, double, tolerance
                )
                checks[f"agrees in double precision: {name}"] = partial(
                    engine_checks.agrees, on_gpu, on_cpu, double, double, 1e-11
                )
    lane.run(checks)


if __name__ == "__main__":
    main()
