"""The kernels as plain Python, NUMBA_DISABLE_JIT=1: to step through, and to measure coverage.

This file is the program, too: it writes what a few blocks taught to the file it is given.
"""

import os
import subprocess
import sys
from pathlib import Path
from types import FunctionType

import numpy as np
import pytest

from edge_rjepa import RJepa, RJepaConfig
from edge_rjepa.learner.cells import CELLS
from edge_rjepa.learner.check_gradients import check_gradients
from edge_rjepa.learner.kernels import cpu as kernels

ROOT = Path(__file__).parents[2]
HIDDEN = (0, 6)  # units of the encoder's hidden layer
TOLERANCE = {"float32": 1e-4, "float64": 1e-12}  # of the norm, after three steps of Adam


def learned(cell: str, dtype: str, n_encoder_hidden: int) -> dict[str, np.ndarray]:
    """All that changed of a tiny network in some blocks, and what it predicts after them."""
    sizes = {"n_features": 5, "n_embedding": 4, "n_hidden": 3, "n_predictor": 5, "n_gain": 2}
    rates = {"learning_rate": 1e-3, "update_every": 2, "statistics_fixations": 50.0}
    config = RJepaConfig(
        **sizes, **rates, cell=cell, dtype=dtype, n_encoder_hidden=n_encoder_hidden
    )
    learner = RJepa(config, seed=1)
    rng = np.random.default_rng(2)
    for K in (5, 1, 3, 4, 2, 1, 3):  # three steps of Adam, and a gradient that waits for the next
        learner.learn_block(rng.normal(size=(K, 5)), rng.normal(size=(K, 4)))
    tensors = {name: np.tril(a) if "factor" in name else a for name, a in learner.tensors().items()}
    _, z_hat, h = learner.predict(rng.normal(size=(4, 5)), rng.normal(size=(4, 4)))
    return {name: array.copy() for name, array in {**tensors, "z_hat": z_hat, "h": h}.items()}


def main(path: str) -> None:
    assert isinstance(kernels.descend, FunctionType), "compiled after all"
    found = {
        f"{cell} {dtype} {hidden} {name}": array
        for cell in CELLS
        for dtype in TOLERANCE
        for hidden in HIDDEN
        for name, array in learned(cell, dtype, hidden).items()
    }
    np.savez(path, **found)
    rows = check_gradients(["leaky"], memory_inputs=["embedding"])
    assert all(row.ok for row in rows), [row for row in rows if not row.ok]


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> dict[str, np.ndarray]:
    """What a process without compiled code learned; its gradients agree with the reference."""
    path = tmp_path_factory.mktemp("plain") / "learned.npz"
    path_of_modules = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "NUMBA_DISABLE_JIT": "1", "PYTHONPATH": path_of_modules}
    command = [sys.executable, "-W", "error", __file__, path]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return dict(np.load(path))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize("cell", list(CELLS))
def test_plain_python_learns_what_compiled_code_learns(plain, cell, dtype, hidden):
    for name, array in learned(cell, dtype, hidden).items():
        found = plain[f"{cell} {dtype} {hidden} {name}"]
        assert found.dtype == array.dtype and found.shape == array.shape, name
        error = np.linalg.norm(np.subtract(found, array, dtype=np.float64))
        assert error <= TOLERANCE[dtype] * np.linalg.norm(array), (name, error)


if __name__ == "__main__":
    main(sys.argv[1])
