"""Patches as a robot sees them: what an encoder is proven and calibrated on."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from edge_rjepa.config import RunConfig
from edge_rjepa.errors import SourceError
from edge_rjepa.gaze import Gaze
from edge_rjepa.retina import Retina
from edge_rjepa.sources import open_source

FRAMES, FIXATIONS = 16, 64  # as many fixations of as many frames
FRAMES_APART = 20  # a simulated head then stands before another picture


class Patches(NamedTuple):
    """Fixations in the order they were made."""

    windows: np.ndarray  # (N, side, side, 3) uint8 BGR
    efference: np.ndarray  # (N, A) float32
    frame: np.ndarray  # (N,) which frame each is from: 0, 1, 2 ..


def recorded_patches(config: RunConfig, frames: int = FRAMES) -> Patches:
    """FIXATIONS looks at each of `frames` frames that the run's source holds out from learning.

    Gaze is random whatever the run's is, and the same each time. Raises SourceError when the source
    cannot be opened or holds nothing out, as a live camera.
    """
    with open_source(config.source, config.seed, config.camera) as source:
        held_out = source.held_out(frames * FRAMES_APART)
        camera = source.camera
    if not held_out:
        raise SourceError(f"{config.source} holds no frames out: hand in patches of your own")
    held_out = held_out[:: max(1, len(held_out) // frames)][:frames]
    retina = Retina(config.retina)
    gaze = Gaze(replace(config.gaze, policy="random"), config.seed + 2)
    plans = [gaze.plan(camera, frame.image, frame.head, FIXATIONS) for frame in held_out]
    seen = zip(held_out, plans, strict=True)
    return Patches(
        np.concatenate([retina.windows(frame.image, plan.pixels) for frame, plan in seen]),
        np.concatenate([plan.efference for plan in plans]),
        np.repeat(np.arange(len(plans)), FIXATIONS),
    )
