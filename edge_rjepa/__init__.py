"""edge_rjepa: learn to see from a live camera, continually, without labels, in fixed memory.

The names below are the public ones; each is imported from its room when it is first used, so that
importing the package loads neither Numba nor OpenCV.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING

from edge_rjepa._version import __version__
from edge_rjepa.errors import RJepaError

if TYPE_CHECKING:
    from edge_rjepa.encoder.export import export
    from edge_rjepa.encoder.frozen import FrozenEncoder
    from edge_rjepa.encoder.opener import open_encoder
    from edge_rjepa.eye.config import GazeConfig, HeadConfig, RetinaConfig
    from edge_rjepa.eye.gaze import Gaze
    from edge_rjepa.eye.retina import Retina
    from edge_rjepa.learner import cells
    from edge_rjepa.learner.batch import RJepaBatch
    from edge_rjepa.learner.config import RJepaConfig
    from edge_rjepa.learner.rjepa import BlockReport, Prediction, RJepa
    from edge_rjepa.optics.camera import Pinhole
    from edge_rjepa.run.config import MonitorConfig, RunConfig
    from edge_rjepa.run.run import load_run
    from edge_rjepa.sources import Frame, SourceEnded, open_source
    from edge_rjepa.sources.config import CameraConfig
    from edge_rjepa.teach.recogniser import Recogniser
    from edge_rjepa.watch.novelty import Alarm, Watch

__all__ = [
    "Alarm", "BlockReport", "CameraConfig", "Frame", "FrozenEncoder", "Gaze", "GazeConfig",
    "HeadConfig", "MonitorConfig", "Pinhole", "Prediction", "RJepa", "RJepaBatch",
    "RJepaConfig", "RJepaError", "Recogniser", "Retina", "RetinaConfig", "RunConfig",
    "SourceEnded", "Watch", "__version__", "cells", "export", "load_run", "open_encoder",
    "open_source",
]  # fmt: skip

# OpenCV reads this when it is loaded, and only then: a picture of 1 KB may ask for gigabytes.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(2**25))

_MODULES = {
    "Alarm": "watch.novelty",
    "BlockReport": "learner.rjepa",
    "CameraConfig": "sources.config",
    "Frame": "sources.frame",
    "FrozenEncoder": "encoder.frozen",
    "Gaze": "eye.gaze",
    "GazeConfig": "eye.config",
    "HeadConfig": "eye.config",
    "MonitorConfig": "run.config",
    "Pinhole": "optics.camera",
    "Prediction": "learner.rjepa",
    "RJepa": "learner.rjepa",
    "RJepaBatch": "learner.batch",
    "RJepaConfig": "learner.config",
    "Recogniser": "teach.recogniser",
    "Retina": "eye.retina",
    "RetinaConfig": "eye.config",
    "RunConfig": "run.config",
    "SourceEnded": "sources.frame",
    "Watch": "watch.novelty",
    "export": "encoder.export",
    "load_run": "run.run",
    "open_encoder": "encoder.opener",
    "open_source": "sources",
}


def __getattr__(name: str) -> object:
    if name == "cells":
        return import_module("edge_rjepa.learner.cells")
    if name in _MODULES:
        return getattr(import_module(f"edge_rjepa.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'edge_rjepa' has no attribute '{name}'")
