"""The learner's inner loops. This is the only place that picks a backend."""

from edge_rjepa.kernels import cpu as backend

__all__ = ["backend"]
