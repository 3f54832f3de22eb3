"""A watch and its folder: what it tells is kept there, and what is usual, and what the owner says.

usual.safetensors     what is usual (state.py)
alarms.jsonl, *.jpg   what was told (alarms.py)
view.jpg              what was seen when this was kept last
mask.json             where nothing is watched (masks.py)
fine/                 what the owner said is fine, and is not yet taken up (feedback.py)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path

from edge_rjepa.errors import CheckpointError
from edge_rjepa.sources import Frame
from edge_rjepa.watch import state
from edge_rjepa.watch.alarms import AlarmFolder, cut_out, fine_line, gone_line, jpeg_of
from edge_rjepa.watch.feedback import Feedback
from edge_rjepa.watch.masks import Masks, Polygons
from edge_rjepa.watch.novelty import Watch
from safe_files.errors import why
from safe_files.writing import write_atomic

VIEW = "view.jpg"

Tell = Callable[[dict, bytes | None], None]  # a line, and the JPEG of an alarm


class Session:
    """Looks at frames, tells of what is new, and keeps all of it in a folder.

    The folder must be held by this process alone. tell: each is called with every line of kind
    alarm, gone and fine, from the thread that looks; it must return at once and never raise.
    report: takes what happened, in words. mask: in place of the one that is kept.

    feedback: `say` may be called from any thread. masks: and so may `set`.

    Raises ConfigError for a mask that is none.
    """

    def __init__(
        self,
        watch: Watch,
        folder: Path,
        tell: Iterable[Tell],
        report: Callable[[str], None],
        mask: Polygons | None = None,
    ) -> None:
        self.feedback = Feedback(folder)
        self.masks = Masks(folder, mask)
        self._watch, self._folder, self._report = watch, folder, report
        self._tell = list(tell)
        self._alarms = AlarmFolder(folder, report)
        watch.last_number = self._alarms.last_number
        self._saved_s, self._saving_fails = math.nan, False
        self._seen: Frame | None = None  # the newest
        problem = state.load(watch, folder)
        if problem:
            report(problem)

    def look(self, frame: Frame) -> None:
        """Look at a frame, and tell what there is to tell."""
        self._seen = frame
        self._listen()
        for alarm in self._watch.look(frame):
            jpeg = cut_out(alarm)
            self._keep_and_tell(self._alarms.keep_picture(alarm, jpeg), jpeg)
        for gone in self._watch.drain_gone():
            self._keep_and_tell(gone_line(gone))
            if gone.usual:
                self._report(f"alarm {gone.number} is usual from now on")
        self._save_now_and_then(frame.t_capture_s)

    def save(self) -> None:
        """Keep what is usual and what is seen, as far as the disk lets it."""
        try:
            state.save(self._watch, self._folder)
            if self._seen is not None:
                write_atomic(self._folder / VIEW, jpeg_of(self._seen.image))
            self._saving_fails = False
        except (CheckpointError, OSError) as error:
            if not self._saving_fails:
                reason = why(error) if isinstance(error, OSError) else error
                self._report(f"what is usual cannot be kept: {reason}; watching goes on")
            self._saving_fails = True

    def _listen(self) -> None:
        """Do what the owner said, once the place and its alarms are known."""
        polygons = self.masks.take_change()
        if polygons is not None:
            self._watch.mask(polygons)
        said = self.feedback.drain() if self._watch.is_warm else []
        for number in said:
            if self._watch.fine(number):
                self._keep_and_tell(fine_line(number))
            else:
                self._report(f"alarm {number} is not remembered: it cannot be made usual any more")
        if said:
            self.save()

    def _keep_and_tell(self, line: dict, jpeg: bytes | None = None) -> None:
        """Tell it first: whatever keeps it from being written, people are told."""
        for tell in self._tell:
            tell(line, jpeg)
        self._alarms.keep_line(line)

    def _save_now_and_then(self, t_s: float) -> None:
        if math.isnan(self._saved_s):
            self._saved_s = t_s
        if t_s - self._saved_s >= state.SAVE_EVERY_S:
            self._saved_s = t_s
            self.save()
