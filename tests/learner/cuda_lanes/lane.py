"""What the lanes share: running checks, telling how they went, a made-up cell as large as allowed.

A lane is a program of its own: what Numba compiles for is settled when it is first imported. It
writes a line of JSON for each check, {"check", "seconds", "error"}, and lines {"said"} for the
report; {"cannot"} where it cannot run here, with the reason.
"""

import json
import sys
import time
import traceback
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[3])]

from edge_rjepa.learner import cells  # noqa: E402
from edge_rjepa.learner.cells import like, one_minus, tanh  # noqa: E402


def write(**what) -> None:
    print(json.dumps(what), flush=True)


def cannot_run(reason: str) -> None:
    write(cannot=" ".join(reason.split()))
    sys.exit(0)


def say(line: str) -> None:
    write(said=line)


def run(checks: dict) -> None:
    """Run every check, whatever comes of the others."""
    for name, check in checks.items():
        started = time.monotonic()
        error = None
        try:
            check()
        except Exception:
            error = traceback.format_exc(limit=-6)
        write(check=name, seconds=round(time.monotonic() - started, 2), error=error)


def wheel(y, s, l):  # noqa: E741
    """Made up: four states, projections and parameters, the most there may be."""
    a, b, c, d = y
    zero = like(a, 0.0)
    new_a, new_b = tanh(s[0] + l[0] * b), tanh(s[1] + l[1] * c)
    new_c, new_d = tanh(s[2] + l[2] * d), tanh(s[3] + l[3] * a)
    da, db = one_minus(new_a * new_a), one_minus(new_b * new_b)
    dc, dd = one_minus(new_c * new_c), one_minus(new_d * new_d)
    return (
        (new_a, new_b, new_c, new_d),
        (
            (zero, da * l[0], zero, zero),
            (zero, zero, db * l[1], zero),
            (zero, zero, zero, dc * l[2]),
            (dd * l[3], zero, zero, zero),
        ),
        (
            (da, zero, zero, zero),
            (zero, db, zero, zero),
            (zero, zero, dc, zero),
            (zero, zero, zero, dd),
        ),
        (
            (da * b, zero, zero, zero),
            (zero, db * c, zero, zero),
            (zero, zero, dc * d, zero),
            (zero, zero, zero, dd * a),
        ),
    )


def register_wheel() -> str:
    """The made-up cell's name."""
    cells.register(
        cells.Cell(
            "wheel", wheel, 4, 4, 4, (3, 1),
            initial_parameters=lambda rng, n: rng.normal(size=(4, n)),
            initial_projection_bias=lambda rng, n: rng.normal(size=(4, n)),
            initial_place_std=(1.0,) * 4,
        )
    )  # fmt: skip
    return "wheel"
