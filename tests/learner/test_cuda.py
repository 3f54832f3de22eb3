"""The kernels of the GPU in three lanes: simulated, compiled for Jetsons, and on a GPU.

Each is a program of tests/learner/cuda_lanes/. A lane that cannot run here says why, and the
summary at the end of the tests has a line for each (conftest.py).
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.cuda

LANES = Path(__file__).parent / "cuda_lanes"
LIMIT_S = 1200  # of a lane; each takes a minute or two of a free core


@pytest.mark.parametrize(
    "lane", ["simulator", pytest.param("compiler", marks=pytest.mark.long), "gpu"]
)
def test_lane(lane, record_property):
    env = {**os.environ, "PYTHONWARNINGS": "ignore"}
    env.pop("NUMBA_ENABLE_CUDASIM", None)
    done = subprocess.run(
        [sys.executable, LANES / f"{lane}.py"], timeout=LIMIT_S,
        env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    for reason in (line["cannot"] for line in lines if "cannot" in line):
        record_property("CUDA lane", f"{lane}: did not run: {reason}")
        pytest.skip(reason)
    checks = [line for line in lines if "check" in line]
    failed = [line for line in checks if line["error"]]
    seconds = sum(line["seconds"] for line in checks)
    record_property(
        "CUDA lane", f"{lane}: {len(checks) - len(failed)} of {len(checks)} checks, {seconds:.0f} s"
    )
    for line in lines:
        if "said" in line:
            record_property("CUDA lane", f"{lane}: {line['said']}")
    assert checks and not failed, "\n\n".join(
        f"{line['check']}\n{line['error']}" for line in failed
    )
