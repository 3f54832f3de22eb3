"""A run: the loop with a folder of its own, so that it can be stopped and gone on with.

A run folder holds

    config.toml                everything the run depends on
    checkpoint.safetensors     the latest state of learner, gaze, source and monitor, and before it
    checkpoint.1.safetensors   .. the one a minute older, and so on
    good.safetensors           the last state that nothing was wrong with: to roll back to
    metrics.jsonl              a line of measures every `metrics_every_frames`, and a line an event;
    metrics.1.jsonl            .. the older ones
    summary.json               held-out measures before and after
    sample.npz                 held-out frames with their fixations, for the report
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edge_rjepa.base.journal import Journal
from edge_rjepa.errors import (
    CheckpointError,
    CollapseError,
    ConfigError,
    DeviceError,
    RJepaError,
)
from edge_rjepa.eye.eye import Eye
from edge_rjepa.eye.gaze import Gaze
from edge_rjepa.eye.head import Head
from edge_rjepa.eye.retina import Retina
from edge_rjepa.learner.rjepa import RJepa
from edge_rjepa.run.config import RunConfig
from edge_rjepa.run.held_out import HeldOut
from edge_rjepa.run.loop import Learning, Loop, Recorder, learn_alone
from edge_rjepa.run.monitor import Health, Monitor, health_of
from edge_rjepa.run.warm_up import warm_up
from edge_rjepa.sources import Source, SourceEnded
from safe_files.errors import FileError, why
from safe_files.plain import finite, rebuilt
from safe_files.writing import make_private_folder, newest, write_atomic

CONFIG, CHECKPOINT, METRICS = "config.toml", "checkpoint.safetensors", "metrics.jsonl"
GOOD, SUMMARY, SAMPLE = "good.safetensors", "summary.json", "sample.npz"

MEASURED_AT_LEAST_EVERY_S = 10.0  # for who watches a slow camera

# While it learns it is judged on held-out fixations when it has had so many, and each time that
# they have doubled since: more often would say little more.
JUDGED_FROM = 30_000

# What config.toml may change in a run that goes on.
NO_MATTER = ("checkpoint_every_s", "checkpoints_kept", "held_out_frames")


class Progress(NamedTuple):
    """Where a run stands; handed to `on_progress` with every line of metrics."""

    frames: int
    fixations: int
    seconds: float  # spent learning, over all of the run
    fixations_per_s: float
    fixations_per_frame: float  # of the frames learned from since the last line
    health: Health
    surprise: float  # nats, mean since the last line
    loss: float  # nats, mean since the last line
    latency_median_ms: float | None  # from capture to weight update; of live sources only
    latency_p95_ms: float | None
    skipped: dict[str, int]  # frames of the whole run, by the reason
    faults: dict[str, int]  # of the source, since this process began
    rollbacks: int
    held_out: dict[str, float]  # measures on held-out fixations, where it was judged just now

    def as_line(self) -> dict[str, Any]:
        """As a line of metrics, but for the time."""
        line = self._asdict() | self.health._asdict() | self.held_out
        del line["health"], line["held_out"]
        return line

    def in_units(self) -> dict[str, float]:
        """The same as numbers by names that have their units, as channels.METRIC_NAMES has them."""
        measures = {
            "frames": self.frames,
            "fixations": self.fixations,
            "fixations_per_s": self.fixations_per_s,
            "fixations_per_frame": self.fixations_per_frame,
            "information_nats": self.health.information,
            "effective_rank": self.health.effective_rank,
            "embedding_std": self.health.embedding_std,
            "surprise_nats": self.surprise,
            "loss_nats": self.loss,
            "skipped": sum(self.skipped.values()),
            "faults": sum(self.faults.values()),
            "rollbacks": self.rollbacks,
        }
        if self.latency_median_ms is not None and self.latency_p95_ms is not None:
            measures["latency_median_s"] = 1e-3 * self.latency_median_ms
            measures["latency_p95_s"] = 1e-3 * self.latency_p95_ms
        return measures


class _LoopNotes(NamedTuple):
    """What Loop.state gives."""

    frames: int
    skipped: dict[str, int]
    gaze: dict[str, object]
    source: dict[str, object]


class _Notes(NamedTuple):
    """What stands beside the learner in a run's checkpoint."""

    config: dict[str, object]
    loop: _LoopNotes
    monitor: dict[str, float]
    rollbacks: int
    learning_s: float


class LoadedRun(NamedTuple):
    """What a run folder holds."""

    learner: RJepa
    config: RunConfig
    notes: dict
    problems: list[str]  # why an older checkpoint than the latest had to do, in words


def load_run(folder: str | os.PathLike) -> LoadedRun:
    """The newest checkpoint in a run folder that is not damaged; the last good state if all are.

    config.toml may be changed in what does not bear on learning (NO_MATTER). Raises CheckpointError
    where nothing is kept, ConfigError where anything else was changed: a run goes on as it was
    begun.
    """
    folder = Path(folder)
    path = folder / CHECKPOINT
    try:
        learner, notes, problems = RJepa.load_newest(path)
    except CheckpointError as error:
        if not (folder / GOOD).exists():
            raise
        learner, notes, problems = RJepa.load_newest(folder / GOOD)
        problems = [str(error), f"goes on from {folder / GOOD}, which is older"]
    if "config" not in notes:
        raise CheckpointError(
            f"{path} holds a learner but no run, or a run of another version: see RJepa.load"
        )
    config = _config_of(learner, notes, path)
    if (folder / CONFIG).exists():
        now = RunConfig.from_toml(folder / CONFIG, follow_links=False)
        begun = replace(config, **{name: getattr(now, name) for name in NO_MATTER})
        if now != begun:
            raise ConfigError(
                f"{folder / CONFIG} was changed after the run began: undo that, or start a new run "
                f"with --config {folder / CONFIG}"
            )
        config = now
    return LoadedRun(learner, config, notes, problems)


def _config_of(learner: RJepa, notes: dict, path: Path) -> RunConfig:
    """The run's configuration in a checkpoint, of the learner beside it. Raises CheckpointError."""
    try:
        config = RunConfig.from_dict(notes["config"])
        if config.network != learner.config:
            raise ConfigError("the run's network is not the learner's")
    except (ConfigError, FileError) as error:
        raise CheckpointError(f"{path} is of another version of edge_rjepa: {error}") from error
    return config


@contextmanager
def alone_in(folder: Path, new: bool = True):
    """Holds a folder against a second process; that of a new run, or watch, is made if need be.

    Freed however this one ends. Raises ConfigError where another process holds it, CheckpointError
    where a run that is not new has none.
    """
    if not (new or folder.is_dir()):
        raise CheckpointError(f"{folder} is no folder of a run: name one that `learn` made")
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is no folder, but a file: name another")
    make_private_folder(folder)
    held = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"another process is at work in {folder}: stop it first, or name another folder"
            ) from None
        yield
    finally:
        os.close(held)


class Run:
    """Learning kept in a folder. Make one with `Run.start` or `Run.resume`, then `learn`."""

    def __init__(
        self,
        folder: Path,
        config: RunConfig,
        source: Source,
        learner: RJepa,
        head: Head | None = None,
        recorder: Recorder | None = None,
    ):
        self.folder = folder
        self.config = config
        self.held_out = HeldOut(config)
        eye = Eye(Gaze(config.gaze, config.seed), Retina(config.retina))
        self.loop = Loop(config, source, eye, learner, self.held_out, head, recorder)
        self.monitor = Monitor(config.monitor)
        self.rollbacks = 0
        self.frames_kept = 0  # when the newest checkpoint was written
        self.ended = False  # whether the source has no more
        self.frames_lost = 0  # at least so many came after the checkpoint this run goes on from
        self.on_event: Callable[[str], None] = lambda event: None
        self._journal = Journal(folder / METRICS)
        self._learning_s = 0.0
        self._judge_at = JUDGED_FROM  # fixations
        self._saved_s = self._watched_s = time.monotonic()
        self._saving_fails = False
        self._journal_fails = False
        self._spare = SpareDescriptor()
        warm_up(learner, eye)

    @classmethod
    def start(
        cls, folder: Path, config: RunConfig, source: Source, device: str = "cpu", **handed_in
    ) -> Run:
        """A new run in a new or empty folder, or one that its start did not get beyond.

        device: where it learns, one of engines.DEVICES; a run may go on on another. Raises
        ConfigError for any other folder, DeviceError where that device cannot be had.
        """
        free = not folder.exists() or _is_free(folder, config)
        if newest(folder / CHECKPOINT) and not (free and _only_begun(folder)):
            raise ConfigError(
                f"{folder} holds a run: go on with --resume {folder}, or name another"
            )
        if not free:
            left = f", with what is left of a run in {GOOD}" if (folder / GOOD).exists() else ""
            raise ConfigError(f"{folder} is not an empty folder{left}: name a new one")
        learner = RJepa(config.network, config.seed, device)
        run = cls(folder, config, source, learner, **handed_in)
        make_private_folder(folder)
        write_atomic(folder / CONFIG, config.to_toml().encode(errors="surrogateescape"))
        write_atomic(folder / METRICS, b"")
        run._save(GOOD)
        run._save(CHECKPOINT)
        return run

    @classmethod
    def resume(
        cls,
        folder: Path,
        source: Source,
        kept: LoadedRun | None = None,
        device: str = "cpu",
        **handed_in,
    ) -> Run:
        """The run that the folder holds, from its last checkpoint on: bit for bit on its device.

        kept: what `load_run` found while this process was `alone_in` the folder; looked for now if
        None. Raises what `load_run` raises, and DeviceError.
        """
        kept = kept or load_run(folder)
        run = cls(folder, kept.config, source, kept.learner.to(device), **handed_in)
        try:
            notes = rebuilt(_Notes, kept.notes, "notes")
            run.loop.restore(notes.loop._asdict())
            run.monitor.restore(notes.monitor)
        except (LookupError, TypeError, ValueError, OverflowError, zlib.error) as error:
            said = " ".join(str(error).split())[:200]
            raise CheckpointError(
                f"{folder / CHECKPOINT} holds a state of the run that does not fit ({said}): use "
                "an earlier copy, or start a new run"
            ) from error
        run.rollbacks, run._learning_s = notes.rollbacks, notes.learning_s
        run.frames_lost = run._journal.forget(run.frames)
        run.frames_kept = run.frames
        return run

    @property
    def learner(self) -> RJepa:
        """What learns."""
        return self.loop.learner

    @property
    def frames(self) -> int:
        """Frames used so far."""
        return self.loop.frames

    def learn(
        self,
        go_on: Callable[[Run], bool],
        on_progress: Callable[[Progress], None],
        on_event: Callable[[str], None] = lambda event: None,
    ) -> None:
        """Learn frame by frame until `go_on(run)` says no or the source ends, and keep it.

        It is also kept when the source fails (SourceError) or anything else does. A disk that is
        full or read-only stops learning only here at the end: until then it is an event. So is a
        GPU that fails: learning goes on on the CPU, from what was kept last. Raises CollapseError
        when rolling back does not help; the last good state stays in GOOD.
        """
        learn_alone(self.learning(go_on, on_progress, on_event), lambda: self.learner)

    def learning(
        self,
        go_on: Callable[[Run], bool],
        on_progress: Callable[[Progress], None],
        on_event: Callable[[str], None] = lambda event: None,
    ) -> Learning[None]:
        """What `learn` does, for whoever learns from its blocks."""
        self.on_event = on_event
        try:
            yield from self._learn_frames(go_on, on_progress)
        except SourceEnded:
            self.ended = True
        finally:
            self._keep_at_the_end()
        self._report_events()
        if 0 < self.frames < self.config.metrics_every_frames:  # a short run has a report, too
            self._measure(on_progress)
        if self.ended:
            self.report("the source has ended")

    def _learn_frames(self, go_on, on_progress) -> Learning[None]:
        started = self._watched_s = time.monotonic()
        before_s = self._learning_s
        while go_on(self):
            try:
                used = yield from self.loop.stepping()
                self._learning_s = before_s + time.monotonic() - started
                self._report_events()
                self._look_after(used, on_progress)
                if not used:
                    yield None
            except DeviceError as error:
                self._leave_device(error)

    def _look_after(self, used: bool, on_progress) -> None:
        """Measure and keep, when it is time to; `used`: whether there was a frame to learn from."""
        if used and self.frames % self.config.metrics_every_frames == 0:
            self._watch(on_progress)
        elif used and time.monotonic() - self._watched_s >= MEASURED_AT_LEAST_EVERY_S:
            self._measure(on_progress)
        if used and self.frames % self.config.rollback_every_frames == 0:
            self._mark_good()
        elif time.monotonic() - self._saved_s >= self.config.checkpoint_every_s:
            if self.frames != self.frames_kept:  # else the versions before are worth more
                self.keep()

    def _watch(self, on_progress) -> None:
        """Measure, and roll back what has collapsed: counted in frames, so it is repeatable."""
        collapse = self.monitor.collapse(health_of(self.learner))
        self._measure(on_progress, rolled_back=bool(collapse))
        if collapse:
            self._roll_back(collapse)

    def _measure(self, on_progress, rolled_back: bool = False) -> None:
        """Write a line of metrics."""
        now = time.monotonic()
        seconds, self._watched_s = now - self._watched_s, now
        health = health_of(self.learner)
        measures, latency = self.loop.measures(), self.loop.latency
        progress = Progress(
            frames=self.frames,
            fixations=self.learner.fixations,
            seconds=self._learning_s,
            fixations_per_s=measures.fixations / seconds,
            fixations_per_frame=measures.fixations / max(1, measures.frames),
            health=health,
            surprise=measures.surprise,
            loss=measures.loss,
            latency_median_ms=latency.percentile_ms(50.0),
            latency_p95_ms=latency.percentile_ms(95.0),
            skipped=dict(self.loop.skipped),
            faults=self.loop.faults,
            rollbacks=self.rollbacks + rolled_back,
            held_out=self._judge() if self.learner.fixations >= self._judge_at else {},
        )
        self._note(progress.as_line() | {"time_unix_s": time.time()})
        on_progress(progress)

    def _judge(self) -> dict[str, float]:
        """Its measures on held-out fixations, for a line of metrics; none if there are too few."""
        if not self.loop.source.live:
            self._fill_held_out()
        if not self.held_out.enough:
            return {}
        self._judge_at = 2 * self.learner.fixations
        judged = self.held_out.judge(self.learner)._asdict()
        return {f"held_out_{name}": value for name, value in judged.items()}

    def _fill_held_out(self) -> None:
        if not self.held_out.enough:
            source = self.loop.source
            self.held_out.fill(source.camera, source.held_out(self.config.held_out_frames))

    def _roll_back(self, collapse: str) -> None:
        """Back to the last good weights at a lower rate; the stream goes on from where it is."""
        self.rollbacks += 1
        if self.rollbacks > self.config.monitor.max_rollbacks:
            raise CollapseError(
                f"collapsed {self.rollbacks} times, at last because {collapse}; the last good "
                f"state is in {self.folder / GOOD}: lower network.learning_rate"
            )
        rate = self.learner.learning_rate * self.config.monitor.rate_after_collapse
        with self._spare.lent():
            self.loop.learner = RJepa.load(self.folder / GOOD, self.learner.device)
        self.learner.learning_rate = rate
        self.learner.reset()
        self.report(
            f"COLLAPSE: {collapse}. Rolled back to the last good state, "
            f"learning rate lowered to {rate:.2g}"
        )
        self.keep()

    def _leave_device(self, error: DeviceError) -> None:
        """Go on on the CPU, with what was kept last; the stream goes on from where it is."""
        with self._spare.lent():
            kept = load_run(self.folder)
        self.loop.learner = kept.learner
        self.learner.reset()
        self.loop.torn = False
        frames = kept.notes["loop"]["frames"]
        self.report(
            f"DEVICE: {error}. Now on the CPU, with what was kept at frame {frames:,}: what was "
            f"learned from the {self.frames - frames:,} frames since then is lost"
        )

    def _report_events(self) -> None:
        for event in self.loop.drain_events():
            self.report(event)

    def report(self, event: str) -> None:
        """An event, to whoever watches and into the journal."""
        self.on_event(event)
        self._note({"frames": self.frames, "time_unix_s": time.time(), "event": event})

    def _note(self, line: dict) -> None:
        """A line of the journal; what cannot be written is reported once, and learning goes on."""
        try:
            self._journal.append(line)
            self._journal_fails = False
        except OSError as error:
            if not self._journal_fails:
                self.on_event(f"cannot write {self.folder / METRICS}: {why(error)}; goes on")
            self._journal_fails = True

    def _mark_good(self) -> None:
        """Keep this state to roll back to, if nothing is wrong with it.

        Counted in frames and not in seconds, so that a rollback is the same each time; and with a
        checkpoint, so that who goes on from there has the same state to roll back to.
        """
        good = self.monitor.is_good(health_of(self.learner))
        self.keep(*[GOOD] if good else [])

    def keep(self, *more: str) -> str | None:
        """Write the checkpoint, and `more`, unless the learner is beyond doubt broken.

        Returns why not all of it was kept, or None. That it failed is an event.
        """
        self._saved_s = time.monotonic()
        broken = self._broken()
        if broken:
            return broken
        try:
            for name in (*more, CHECKPOINT):
                self._save(name)
        except CheckpointError as error:
            again_s = self.config.checkpoint_every_s
            self.report(f"{error}; learning goes on, the next try is in {again_s:.0f} s")
            self._saving_fails = True
            return str(error)
        if self._saving_fails:
            self.report(f"saved again: {self.folder / CHECKPOINT}")
        self._saving_fails = False
        return None

    def _broken(self) -> str | None:
        """What is wrong beyond doubt; one that has learned nothing yet only lacks statistics."""
        return self.monitor.broken(health_of(self.learner)) if self.learner.fixations else None

    def _keep_at_the_end(self) -> None:
        """Half a step is no state to go on from: then the last checkpoint is."""
        try:
            if not (self.loop.torn or self._broken()):
                self._save(CHECKPOINT)
        except DeviceError as error:
            self._leave_device(error)

    def _save(self, name: str) -> None:
        notes = {
            "config": asdict(self.config),
            "loop": self.loop.state(),
            "monitor": self.monitor.state(),
            "rollbacks": self.rollbacks,
            "learning_s": self._learning_s,
        }
        keep = self.config.checkpoints_kept if name == CHECKPOINT else 1
        with self._spare.lent():
            self.learner.save(self.folder / name, notes, keep=keep)
        if name == CHECKPOINT:
            self.frames_kept = self.frames

    def finish(self) -> dict:
        """Judge what the run has kept on held-out fixations; writes and returns the summary."""
        self._spare.give_up()
        learner = load_run(self.folder).learner
        self._fill_held_out()
        before = after = None
        if self.held_out.enough:
            before = self.held_out.judge(RJepa(self.config.network, self.config.seed))
            after = self.held_out.judge(learner)
            sample = io.BytesIO()
            np.savez_compressed(sample, **self.held_out.sample(learner))
            write_atomic(self.folder / SAMPLE, sample.getvalue())
        summary = {
            "fixations": learner.fixations,
            "frames": self.frames,
            "rollbacks": self.rollbacks,
            "before": before and finite(before._asdict()),
            "after": after and finite(after._asdict()),
        }
        write_atomic(self.folder / SUMMARY, json.dumps(summary, indent=2).encode())
        return summary


class SpareDescriptor:
    """A file descriptor kept for saving, which needs one at a time: others may use up the rest."""

    def __init__(self) -> None:
        self._held: int | None = None
        self._take()

    @contextmanager
    def lent(self) -> Iterator[None]:
        """While it is free for whoever opens a file."""
        self.give_up()
        try:
            yield
        finally:
            self._take()

    def give_up(self) -> None:
        """It is free for whoever opens a file."""
        if self._held is not None:
            os.close(self._held)
            self._held = None

    def _take(self) -> None:
        with suppress(OSError):  # none is left: then there is nothing to keep
            self._held = os.open(os.devnull, os.O_RDONLY)

    def __del__(self) -> None:
        self.give_up()


def _only_begun(folder: Path) -> bool:
    """Whether the run there was killed before it learned: one of several, while others began."""
    try:
        return load_run(folder).notes["loop"]["frames"] == 0
    except (RJepaError, LookupError, TypeError):
        return False


def _is_free(folder: Path, config: RunConfig) -> bool:
    """Whether there is nothing in it, or only what a start of the same run left when killed."""
    if not folder.is_dir():
        return False
    names = {path.name for path in folder.iterdir() if not path.match(".*.tmp")}
    ours = CONFIG not in names or _is_config_of(config, folder / CONFIG)
    # Of a run that got further there are measures.
    begun = METRICS in names and (folder / METRICS).stat().st_size > 0
    return names <= {CONFIG, METRICS, GOOD, CHECKPOINT} and ours and not begun


def _is_config_of(config: RunConfig, path: Path) -> bool:
    """Whether a file says just that; many programs have a config.toml."""
    try:
        return RunConfig.from_toml(path, follow_links=False) == config
    except ConfigError:
        return False
