"""Patches as a robot sees them: what an encoder is proven and calibrated on."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from edge_rjepa.errors import SourceError
from edge_rjepa.eye.gaze import Gaze
from edge_rjepa.eye.retina import Retina
from edge_rjepa.run.config import RunConfig
from edge_rjepa.sources import Frame, Source, SourceEnded, open_source, redacted

FRAMES, FIXATIONS = 16, 64  # as many fixations of as many frames
FRAMES_APART = 20  # a simulated head then stands before another picture
LONGEST_WAIT_MS = 2000.0  # for a camera


class Patches(NamedTuple):
    """Fixations in the order they were made."""

    windows: np.ndarray  # (N, side, side, 3) uint8 BGR
    efference: np.ndarray  # (N, A) float32
    frame: np.ndarray  # (N,) which frame each is from: 0, 1, 2 ..


def recorded_patches(config: RunConfig, frames: int = FRAMES) -> Patches:
    """FIXATIONS looks at each of `frames` frames that the run's source holds out from learning.

    Of a camera, or a recording of one, which holds none out: of its next frames, some time apart.
    Gaze is random whatever the run's is, and the same each time. Raises SourceError when the source
    cannot be opened or shows nothing.
    """
    with open_source(config.source, config.seed, config.camera) as source:
        camera = source.camera
        held_out = source.held_out(frames * FRAMES_APART) or _next(source, frames * FRAMES_APART)
    if not held_out:
        raise SourceError(f"{redacted(config.source)} shows no frame to take patches from")
    held_out = held_out[:: max(1, len(held_out) // frames)][:frames]
    retina = Retina(config.retina)
    gaze = Gaze(replace(config.gaze, policy="random"), config.seed + 2)
    plans = [gaze.plan(camera, frame.image, frame.head_rad, FIXATIONS) for frame in held_out]
    seen = zip(held_out, plans, strict=True)
    return Patches(
        np.concatenate([retina.windows(frame.image, plan.pixels) for frame, plan in seen]),
        np.concatenate([plan.efference for plan in plans]),
        np.repeat(np.arange(len(plans)), FIXATIONS),
    )


def _next(source: Source, count: int) -> list[Frame]:
    """One of FRAMES_APART of the next `count` frames, or of all there are if fewer."""
    frames = []
    for i in range(count):
        try:
            frame = source.read_next(LONGEST_WAIT_MS)
        except SourceEnded:
            break
        if frame is None:
            break
        if i % FRAMES_APART == 0:
            frames.append(frame)
    return frames
