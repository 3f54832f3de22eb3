"""An encoder that embeds windows, of a run folder or of an ONNX file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edge_rjepa.encoder.frozen import FrozenEncoder
from edge_rjepa.errors import ConfigError
from edge_rjepa.eye.retina import Retina
from edge_rjepa.learner.rjepa import RJepa
from edge_rjepa.run.config import RunConfig
from edge_rjepa.run.run import load_run

Encode = Callable[[np.ndarray], np.ndarray]


def embedder(learner: RJepa, retina: Retina) -> Encode:
    """What embeds windows with a learner, whose weights stay."""
    block = learner.config.max_block
    efference = np.zeros((block, learner.config.n_efference), np.float32)

    def embed(windows: np.ndarray) -> np.ndarray:
        count, side = windows.shape[:2]
        middles = np.column_stack([np.full(count, side / 2), side * (np.arange(count) + 0.5)])
        # A column of windows is a picture, too, and the retina is fastest on pictures.
        seen = retina(windows.reshape(-1, side, 3), middles)
        parts = (seen[i : i + block] for i in range(0, count, block))
        return np.concatenate([learner.embed(part, efference[: len(part)])[0] for part in parts])

    return embed


class Encoder(NamedTuple):
    """What embeds windows."""

    embed: Encode
    window_px: int  # their side
    config: RunConfig | None  # of the run it is from; an ONNX file tells none


def encoder_of(path: Path) -> Encoder:
    """The encoder of a run folder or of an ONNX file.

    Raises what `load_run` and FrozenEncoder raise, and ConfigError for a file that takes features,
    or several fixations at a time.
    """
    if path.is_dir():
        kept = load_run(path)
        retina = Retina(kept.config.retina)
        return Encoder(embedder(kept.learner, retina), retina.config.window_px, kept.config)
    encoder = FrozenEncoder(path)
    if encoder.retina is None or encoder.fixations != 1:
        raise ConfigError(
            f"{path} takes features, or {encoder.fixations} fixations at a time: export the form "
            "patches or step, with its retina"
        )
    width = encoder.metadata["config"]["n_efference"]

    def embed(windows: np.ndarray) -> np.ndarray:
        return encoder.embed(windows, np.zeros((len(windows), width), np.float32))[0]

    return Encoder(embed, encoder.retina.config.window_px, None)
