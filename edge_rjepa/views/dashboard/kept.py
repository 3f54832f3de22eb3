"""A run or a watch that has ended, or that another process goes on with: what its folder says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edge_rjepa.views.dashboard.history import record_at, summed_up
from edge_rjepa.views.dashboard.live import data_url, fixations_over, jpeg_of, scale_of
from edge_rjepa.views.dashboard.subject import Refused, Subject
from edge_rjepa.views.dashboard.watching import Polygon, checked_polygons, kept_alarms, kept_jpeg
from edge_rjepa.views.report import ReportError, is_outdated, read_sample, read_summary
from safe_files.errors import FileError
from safe_files.reading import read_json

MOST_MASK_BYTES = 1 << 20
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
        record = record_at(self.folder / "metrics.jsonl")
        summary = self._summary()
        if is_outdated(summary, record.measures):
            summary = None
        return super().overview() | summed_up(record, summary=summary)

    def _summary(self) -> dict | None:
        """How it was judged; None also where that is damaged: the rest stands without."""
        try:
            return read_summary(self.folder)
        except ReportError:
            return None

    def state(self) -> dict:
        """What it was taught."""
        return self._taught()

    def pictures_kept(self) -> list[dict]:
        """Pictures that it never learned from, with what surprised it there."""
        if is_outdated(self._summary(), record_at(self.folder / "metrics.jsonl").measures):
            return []
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


class KeptWatch(Subject):
    """The folder of a watch: what it told, what its owner said of that, and its masks."""

    kind = "watched"

    @staticmethod
    def is_in(folder: Path) -> bool:
        """Whether a watch kept something in this folder."""
        return any((folder / name).is_file() for name in ("view.jpg", "alarms.jsonl"))

    def overview(self) -> dict:
        """Alarms and masks; nothing can be pressed."""
        alarms = kept_alarms(self.folder)
        for alarm in alarms:  # said to be fine, and not yet taken up by a watch
            alarm["fine"] |= (self.folder / "fine" / str(alarm["number"])).is_file()
        return super().overview() | {
            "alarms": alarms,
            "masks": _masks(self.folder),
            "can": {"fine": False, "mask": False},
            "verdict": {"sentence": _told(alarms), "stage": "ended"},
        }

    def alarm_jpeg(self, number: int) -> bytes | None:
        """Its cut-out."""
        return kept_jpeg(self.folder, f"alarm-{number:06d}.jpg")

    def pictures_kept(self) -> list[dict]:
        """The view, as it was when what is usual was kept last."""
        view = kept_jpeg(self.folder, "view.jpg")
        return [] if view is None else [{"image": data_url(view, "jpeg")}]


def _masks(folder: Path) -> list[Polygon]:
    """Those of a watch; none where the file holds none."""
    try:
        return checked_polygons(read_json(folder / "mask.json", MOST_MASK_BYTES)["polygons"])
    except (OSError, FileError, TypeError, LookupError, Refused):
        return []


def _told(alarms: list[dict]) -> str:
    """In a sentence, what became of the alarms."""
    if not alarms:
        return "It told of nothing so far."
    fine = sum(alarm["fine"] for alarm in alarms)
    over = sum(alarm["gone_after_s"] is not None and not alarm["fine"] for alarm in alarms)
    held = len(alarms) - fine - over
    counts = {"not over": held, "over": over, "usual": fine}
    parts = [f"{count} {what}" for what, count in counts.items() if count]
    return f"It told of {len(alarms)} change{'' if len(alarms) == 1 else 's'}: {', '.join(parts)}."
