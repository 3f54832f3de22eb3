"""The loop: look, learn, watch over it, keep it. And a run: the loop with a folder of its own.

A run folder holds

    config.toml              everything the run depends on
    checkpoint.safetensors   the latest state of learner, gaze, source and monitor: to go on from
    good.safetensors         the last state that nothing was wrong with: to roll back to
    metrics.jsonl            a line of measures every `metrics_every_frames`, and every event
    summary.json             held-out measures before and after, and the verdict in words
    sample.npz               one held-out frame with its fixations, for the report
"""

from __future__ import annotations

import io
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edge_rjepa.checkpoint import write_atomic
from edge_rjepa.config import RunConfig
from edge_rjepa.errors import CheckpointError, CollapseError, ConfigError
from edge_rjepa.gaze import RandomSaccades
from edge_rjepa.learner import RJepa
from edge_rjepa.monitor import NOTABLE_NATS, Health, Monitor, health, health_of
from edge_rjepa.objective import information
from edge_rjepa.retina import Retina
from edge_rjepa.sources import Frame, Source

CONFIG, CHECKPOINT, METRICS = "config.toml", "checkpoint.safetensors", "metrics.jsonl"
GOOD, SUMMARY, SAMPLE = "good.safetensors", "summary.json", "sample.npz"


class Progress(NamedTuple):
    """Where a run stands; handed to `on_progress` with every line of metrics."""

    fixations: int
    seconds: float  # spent learning, over all of the run
    fixations_per_s: float
    health: Health
    surprise: float  # nats, mean since the last line
    loss: float  # nats, mean since the last line
    event: str | None  # what happened, in words


class Eye:
    """Where the eye looks in a frame and what it sees there: gaze, then retina."""

    def __init__(self, source: Source, gaze: RandomSaccades, retina: Retina):
        self.camera = source.camera
        self.gaze = gaze
        self.retina = retina

    def look(self, frame: Frame, fixations: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """features (K, f), efference (K, A), pixels (K, 2) of the next K fixations of a frame."""
        plan = self.gaze.plan(self.camera, frame.head, fixations)
        return self.retina(frame.image, plan.pixels), plan.efference, plan.pixels


class HeldOut:
    """Fixations on frames that learning never sees: what learners are judged on.

    They are the same for every learner and every time.
    """

    def __init__(self, source: Source, config: RunConfig):
        eye = Eye(source, RandomSaccades(config.gaze, config.seed + 1), Retina(config.retina))
        frames = source.held_out(config.held_out_frames)
        self.noise_floor = config.network.noise_floor
        self.looks = [eye.look(frame, config.fixations_per_frame) for frame in frames]
        self.last_image = frames[-1].image

    def judge(self, learner: RJepa) -> Health:
        """Information, effective rank and std on them; the learner stays as it was."""
        z, z_hat = self._seen(learner)
        finite = np.isfinite(z).all() and np.isfinite(z_hat).all()
        gained = information(z, z_hat, self.noise_floor) if finite else math.nan
        return health(gained, np.cov(z, rowvar=False))

    def sample(self, learner: RJepa) -> dict[str, np.ndarray]:
        """The last frame: image, its fixations' pixels (K, 2) and surprise (K,) in nats."""
        z, z_hat = self._seen(learner)
        pixels = self.looks[-1][2]
        last = slice(-len(pixels), None)
        surprise = learner.surprise(z[last], z_hat[last])
        return {"image": self.last_image, "pixels": pixels, "surprise": surprise}

    def _seen(self, learner: RJepa) -> tuple[np.ndarray, np.ndarray]:
        learner = learner.copy()
        learner.reset()
        seen = [learner.predict(features, efference) for features, efference, _ in self.looks]
        return np.concatenate([s.z for s in seen]), np.concatenate([s.z_hat for s in seen])


def kept_run(folder: Path) -> tuple[RJepa, RunConfig, dict]:
    """The learner, configuration and notes of the checkpoint in a run folder.

    Raises CheckpointError for a missing or damaged one, ConfigError where config.toml has been
    changed since: a run goes on as it was begun.
    """
    path = folder / CHECKPOINT
    learner, notes = RJepa.load_with_notes(path)
    if "config" not in notes:
        raise CheckpointError(
            f"{path} holds a learner but no run, or a run of another version: see RJepa.load"
        )
    config = RunConfig.from_dict(notes["config"])
    if (folder / CONFIG).exists() and RunConfig.from_toml(folder / CONFIG) != config:
        raise ConfigError(
            f"{folder / CONFIG} was changed after the run began: undo that, or start a new run "
            f"with --config {folder / CONFIG}"
        )
    return learner, config, notes


class Run:
    """Learning from a source, kept in a folder so that it can be stopped and gone on with.

    Make one with `Run.start` or `Run.resume`, then `learn`, then `finish`.
    """

    def __init__(self, folder: Path, config: RunConfig, source: Source, learner: RJepa):
        self.folder = folder
        self.config = config
        self.source = source
        self.learner = learner
        self.eye = Eye(source, RandomSaccades(config.gaze, config.seed), Retina(config.retina))
        self.monitor = Monitor(config.monitor)
        self.held_out = HeldOut(source, config)
        self.before: Health | None = None
        self.frames = 0
        self.rollbacks = 0
        self._learning_s = 0.0
        self._losses: list[float] = []
        self._surprises: list[float] = []

    @classmethod
    def start(cls, folder: Path, config: RunConfig, source: Source) -> Run:
        """A new run in a new or empty folder. Raises ConfigError for any other."""
        if (folder / CHECKPOINT).exists():
            raise ConfigError(
                f"{folder} holds a run: go on with --resume {folder}, or name another"
            )
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(f"{folder} is not an empty folder: name a new one")
        run = cls(folder, config, source, RJepa(config.network, config.seed))
        run.before = run.held_out.judge(run.learner)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / CONFIG, config.to_toml().encode())
        write_atomic(folder / METRICS, b"")
        run._save(CHECKPOINT, GOOD)
        return run

    @classmethod
    def resume(cls, folder: Path, source: Source) -> Run:
        """The run that the folder holds, from its last checkpoint on, bit for bit."""
        learner, config, notes = kept_run(folder)
        run = cls(folder, config, source, learner)
        run.before = Health(**notes["before"])
        run.eye.gaze.restore(notes["gaze"])
        run.source.restore(notes["source"])
        run.monitor.restore(notes["monitor"])
        run.frames = notes["frames"]
        run.rollbacks = notes["rollbacks"]
        run._learning_s = notes["learning_s"]
        run._forget_metrics_after_checkpoint()
        return run

    def learn(self, go_on: Callable[[Run], bool], on_progress: Callable[[Progress], None]) -> None:
        """Learn frame by frame until `go_on(run)` says no or the source ends, and keep it.

        It is also kept when the source fails (SourceError) or anything else does. Raises
        CollapseError when rolling back does not help; the last good state stays in GOOD.
        """
        self.learner.warm_up()
        try:
            self._learn_frames(go_on, on_progress)
        finally:
            self._keep()

    def _learn_frames(self, go_on, on_progress) -> None:
        started = line = time.perf_counter()
        before_s, frames = self._learning_s, self.frames
        while go_on(self) and self._learn_frame():
            self._learning_s = before_s + time.perf_counter() - started
            if self.frames % self.config.metrics_every_frames == 0:
                now = time.perf_counter()
                seen = (self.frames - frames) * self.config.fixations_per_frame
                on_progress(self._watch(seen / (now - line)))
                line, frames = now, self.frames
            if self.frames % self.config.checkpoint_every_frames == 0:
                self._keep()

    def _learn_frame(self) -> bool:
        frame = self.source.read()
        if frame is None:
            return False
        features, efference, _ = self.eye.look(frame, self.config.fixations_per_frame)
        report = self.learner.learn_block(features, efference)
        self._losses.append(report.loss)
        self._surprises.append(float(report.surprise.mean()))
        self.frames += 1
        return True

    def _watch(self, fixations_per_s: float) -> Progress:
        """Measure, write a line of metrics, and roll back what has collapsed."""
        health = health_of(self.learner)
        collapse = self.monitor.collapse(health)
        progress = Progress(
            self.learner.fixations, self._learning_s, fixations_per_s, health,
            float(np.mean(self._surprises)), float(np.mean(self._losses)), collapse,
        )  # fmt: skip
        self._losses.clear()
        self._surprises.clear()
        self._write_metrics(progress)
        if collapse:
            self._roll_back(collapse)
        return progress

    def _roll_back(self, collapse: str) -> None:
        """Back to the last good weights at a lower rate; the stream goes on from where it is."""
        self.rollbacks += 1
        if self.rollbacks > self.config.monitor.max_rollbacks:
            raise CollapseError(
                f"collapsed {self.rollbacks} times, at last because {collapse}; the last good "
                f"state is in {self.folder / GOOD}: lower network.learning_rate"
            )
        rate = self.learner.learning_rate * self.config.monitor.rate_after_collapse
        self.learner = RJepa.load(self.folder / GOOD)
        self.learner.learning_rate = rate
        self.learner.reset()
        self._save(CHECKPOINT)

    def _write_metrics(self, progress: Progress) -> None:
        line = {"frames": self.frames} | progress._asdict() | progress.health._asdict()
        del line["health"]
        with open(self.folder / METRICS, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _forget_metrics_after_checkpoint(self) -> None:
        """What was measured after the checkpoint will be measured again."""
        path = self.folder / METRICS
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        kept = [line for line in lines if _frames_of(line) <= self.frames]
        write_atomic(path, "".join(f"{line}\n" for line in kept).encode())

    def _keep(self) -> None:
        """Write the checkpoint, unless the learner is beyond doubt broken; mark good ones."""
        health = health_of(self.learner)
        if self.monitor.is_good(health):
            self._save(CHECKPOINT, GOOD)
        elif not self.monitor.broken(health):
            self._save(CHECKPOINT)

    def _save(self, *names: str) -> None:
        notes = {
            "config": asdict(self.config),
            "before": self.before._asdict(),
            "gaze": self.eye.gaze.state(),
            "source": self.source.state(),
            "monitor": self.monitor.state(),
            "frames": self.frames,
            "rollbacks": self.rollbacks,
            "learning_s": self._learning_s,
        }
        for name in names:
            self.learner.save(self.folder / name, notes)

    def finish(self) -> dict:
        """Judge what the run has kept on held-out fixations; writes and returns the summary."""
        learner = RJepa.load(self.folder / CHECKPOINT)
        after = self.held_out.judge(learner)
        sample = io.BytesIO()
        np.savez_compressed(sample, **self.held_out.sample(learner))
        write_atomic(self.folder / SAMPLE, sample.getvalue())
        summary = {
            "fixations": learner.fixations,
            "rollbacks": self.rollbacks,
            "before": self.before._asdict(),
            "after": after._asdict(),
            "verdict": verdict(self.before, after, Monitor(self.config.monitor)),
        }
        write_atomic(self.folder / SUMMARY, json.dumps(summary, indent=2).encode())
        return summary


def _frames_of(line: str) -> float:
    """The frame count of a line of metrics; beyond all others where it is damaged."""
    try:
        return json.loads(line)["frames"]
    except (ValueError, TypeError, KeyError):
        return math.inf


def verdict(before: Health, after: Health, monitor: Monitor) -> str:
    """Whether it learned, in words."""
    collapse = monitor.collapse(after)
    if collapse:
        return f"It collapsed: {collapse}."
    gained = after.information - before.information
    measured = (
        f"on fixations it never learned from, the past tells {after.information:.2f} nats about "
        f"what comes next ({before.information:.2f} before); the embedding spans "
        f"{after.effective_rank:.1f} directions and has not collapsed "
        f"(std {after.embedding_std:.2f})"
    )
    learned = gained >= NOTABLE_NATS and after.information >= NOTABLE_NATS
    return f"It {'learned' if learned else 'has not learned yet'}: {measured}."
