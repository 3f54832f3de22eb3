"""edge_rjepa: an embedded runtime that learns to see from its own camera, without labels."""

from edge_rjepa.config import RJepaConfig, RunConfig
from edge_rjepa.errors import RJepaError

__version__ = "0.1.0"
__all__ = [
    "BlockReport", "Prediction", "RJepa", "RJepaBatch", "RJepaConfig", "RJepaError", "RunConfig",
]  # fmt: skip

_LEARNER = ("BlockReport", "Prediction", "RJepa")


def __getattr__(name: str):
    # The learner brings Numba and SciPy: only those who use it wait for them.
    if name in _LEARNER:
        from edge_rjepa.learner import rjepa as learner

        return getattr(learner, name)
    if name == "RJepaBatch":
        from edge_rjepa.learner.batch import RJepaBatch

        return RJepaBatch
    raise AttributeError(f"module 'edge_rjepa' has no attribute '{name}'")
