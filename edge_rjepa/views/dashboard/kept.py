"""A run that has ended, or that another process learns: what its folder says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edge_rjepa.views.dashboard.history import history
from edge_rjepa.views.dashboard.live import data_url, fixations_over, jpeg_of, scale_of
from edge_rjepa.views.dashboard.subject import Subject
from edge_rjepa.views.report import ReportError, read_sample, read_summary

FILES = {"encoder.onnx": "export it first", "report.png": "edge-rjepa report draws it"}


class KeptRun(Subject):
    """The folder of a run. taught: as in LearningRun."""

    def __init__(self, folder: Path, taught: Callable[[], dict] = dict) -> None:
        super().__init__(folder)
        self._taught = taught

    @property
    def files(self) -> dict[str, str]:
        """Its encoder and its report."""
        return FILES

    def overview(self) -> dict:
        """Its curves, events and verdict."""
        try:
            summary = read_summary(self.folder)
        except ReportError:  # damaged: the rest of the page stands without
            summary = None
        return super().overview() | history(self.folder / "metrics.jsonl", summary=summary)

    def state(self) -> dict:
        """What it was taught."""
        return self._taught()

    def pictures_kept(self) -> list[dict]:
        """Pictures that it never learned from, with what surprised it there."""
        try:
            sample = read_sample(self.folder)
        except ReportError:  # damaged: the rest of the page stands without
            return []
        if sample is None:
            return []
        scale = scale_of(sample["surprise"])
        return [
            {
                "image": data_url(jpeg_of(image), "jpeg"),
                "fixations": fixations_over(image, pixels, surprise),
                "scale": scale,
            }
            for image, pixels, surprise in zip(
                sample["image"], sample["pixels"], sample["surprise"], strict=True
            )
        ]
