"""Pictures, and a network so small that tests learn with it in no time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import cv2
import numpy as np

CONFIG = """
[network]
n_embedding = 16
n_hidden = 24
n_predictor = 16
n_gain = 4
[monitor]  # so small a network on noise comes near collapse, and a rollback would undo fixations
min_std = 0.0
min_rank = 0.0
patience = 1000000
"""


def smooth_pictures(count: int) -> Iterator[np.ndarray]:
    """Random ones (200, 300, 3) uint8, always the same."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        noise = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
        yield cv2.resize(noise, (300, 200), interpolation=cv2.INTER_CUBIC)


def write_pictures(folder: Path, count: int = 4) -> Path:
    """So many of them as 0.png, 1.png ..; returns the folder."""
    for i, picture in enumerate(smooth_pictures(count)):
        cv2.imwrite(str(folder / f"{i}.png"), picture)
    return folder


@contextmanager
def undrawn() -> Iterator[None]:
    """`learn` draws no report in this process: it takes longer than so short a run.

    For tests that do not look at it; tests/cli/test_cli.py does.
    """
    with mock.patch("edge_rjepa.cli.learn._draw"):
        yield
