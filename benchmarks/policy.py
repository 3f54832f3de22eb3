"""Whether a linear policy does better with the column that `embed` writes than with pixels.

A head with a camera is in a few rooms (photographs), and what it is to do is known:

    pan      tell its own pan from the picture: rooms it was trained in, at other moments
    target   turn towards a yellow ball: rooms it was not trained in

Each is a LeRobot dataset; its light, its tilt and its noise change from episode to episode. An
encoder learns from the training episodes, without answers, as `learn --source lerobot:DIR` does.
Then a ridge regression goes from a frame's features to the answer, its strength chosen on training
episodes left out; judged on whole episodes that neither saw.

    python -m benchmarks.policy [FIXATIONS [TASK ..]]
"""

from __future__ import annotations

import sys
import tempfile
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.lerobot_datasets import FRONT, write_dataset
from edge_rjepa.encoder.dataset_column import write_with_column
from edge_rjepa.encoder.describe import learner_describer
from edge_rjepa.eye.retina import Retina
from edge_rjepa.learner.rjepa import RJepa
from edge_rjepa.run.config import RunConfig
from edge_rjepa.run.run import Run
from edge_rjepa.sources import open_source
from edge_rjepa.sources.lerobot_dataset import Dataset
from edge_rjepa.sources.scene import (
    CAMERA,
    LIMITS_RAD,
    Scene,
    load_texture,
    render,
    skimage_photographs,
)

FIXATIONS = 30_000
EPISODES, FRAMES = 24, 25
TRAINED = 18  # of the episodes
SEEDS = 2
ROOMS = 4  # of the task `pan`
STRENGTHS = np.logspace(-2, 6, 17)
PIXELS = {"pixels 16x12": (16, 12), "pixels 32x24": (32, 24)}
BALL_PX = 14


class Task:
    """Pictures and answers of each episode and frame, by a seed."""

    def __init__(self, name: str, seed: int) -> None:
        self.name = name
        self._paths = skimage_photographs()
        self._seed = seed
        self._texture: tuple[int, np.ndarray] | None = None

    def answer(self, episode: int, frame: int) -> float:
        """What the policy is to say, in rad."""
        pan, _, ball = self._moment(episode, frame)
        return pan if self.name == "pan" else ball

    @lru_cache(maxsize=EPISODES * FRAMES)  # noqa: B019 - a task lives as long as the program
    def picture(self, episode: int, frame: int, size: tuple[int, int]) -> np.ndarray:
        """What the camera sees, (h, w, 3) uint8 BGR."""
        pan, tilt, ball = self._moment(episode, frame)
        view = render(self._room(episode), (pan, tilt)).astype(np.float32)
        if self.name == "target":
            x, y = CAMERA.pixels_of_angles(np.array([[ball, 0.1 * np.sin(episode)]]), (0.0, 0.0))[0]
            cv2.circle(view, (round(float(x)), round(float(y))), BALL_PX, (40, 220, 240), -1)
        rng = np.random.default_rng([self._seed, 2, episode, frame])
        light = np.random.default_rng([self._seed, 3, episode]).uniform(0.6, 1.3, 3)
        view = view * light + rng.normal(0.0, 4.0, view.shape)
        return cv2.resize(view.clip(0, 255).astype(np.uint8), size, interpolation=cv2.INTER_AREA)

    def _room(self, episode: int) -> np.ndarray:
        room = episode % (ROOMS if self.name == "pan" else len(self._paths))
        if self.name == "target" and episode >= TRAINED:
            room = len(self._paths) - 1 - episode % 3  # these three are kept for it
        elif self.name == "target":
            room = episode % (len(self._paths) - 3)
        if self._texture is None or self._texture[0] != room:
            scene = Scene(room, 0.0, 0.0, 1.0, False)
            self._texture = room, load_texture(self._paths[room], scene)
        return self._texture[1]

    def _moment(self, episode: int, frame: int) -> tuple[float, float, float]:
        """(pan, tilt) of the head and azimuth of the ball, rad: they swing."""
        rng = np.random.default_rng([self._seed, 1, episode])
        phase, speed, ball_phase, ball_speed = rng.uniform(0.0, 2.0 * np.pi, 4)
        turn = frame / FRAMES * 2.0 * np.pi
        (_, pan_limit), (_, tilt_limit) = LIMITS_RAD
        pan = pan_limit * np.sin(phase + turn * (0.5 + 0.2 * speed))
        tilt = 0.3 * tilt_limit * np.sin(ball_phase + turn)
        return pan, tilt, 0.4 * np.sin(ball_phase + turn * (0.5 + 0.2 * ball_speed))


def learned(dataset: Path, folder: Path, fixations: int) -> RJepa:
    """What learned from the dataset; it had no answers."""
    config = RunConfig(source=f"lerobot:{dataset}#{FRONT}")
    with open_source(config.source) as source:
        run = Run.start(folder, config, source)
        run.learn(lambda run: run.learner.fixations < fixations, lambda progress: None)
        return run.learner


def column(dataset: Path, learner: RJepa, folder: Path, by_place: bool = False) -> np.ndarray:
    """What `embed` writes of each frame, read back."""
    describer = learner_describer(learner, Retina(RunConfig().retina))
    describe = describer.by_place if by_place else describer
    write_with_column(Dataset(dataset), FRONT, "seen", describe, folder)
    paths = sorted((folder / "data").rglob("*.parquet"))
    return np.array([row for path in paths for row in pq.read_table(path)["seen"].to_pylist()])


def error_rad(features: np.ndarray, answers: np.ndarray, episodes: np.ndarray) -> float:
    """Root mean square error of the best linear policy on the episodes left for it."""
    trained = episodes < TRAINED
    folds = GroupKFold(5).split(features[trained], groups=episodes[trained])
    policy = make_pipeline(StandardScaler(), RidgeCV(STRENGTHS, cv=list(folds)))
    policy.fit(features[trained], answers[trained])
    off = policy.predict(features[~trained]) - answers[~trained]
    return float(np.sqrt(np.mean(off**2)))


def judge(name: str, seed: int, fixations: int, folder: Path) -> dict[str, float]:
    """The error of each kind of features in a task, rad."""
    task = Task(name, seed)
    dataset, lengths = folder / "dataset", (FRAMES,) * EPISODES
    write_dataset(dataset, lengths, size=(320, 240), shown=task.picture)
    trained = folder / "trained"
    write_dataset(trained, lengths[:TRAINED], size=(320, 240), shown=task.picture)

    episodes = np.repeat(np.arange(EPISODES), FRAMES)
    answers = np.array([task.answer(e, i) for e in range(EPISODES) for i in range(FRAMES)])
    with open_source(f"lerobot:{dataset}#{FRONT}", once=True) as source:
        pictures = [source.read_next(0).image for _ in answers]
    level = answers[episodes < TRAINED].mean()
    rows = {"the mean answer": float(np.sqrt(np.mean((answers[episodes >= TRAINED] - level) ** 2)))}
    for kind, size in PIXELS.items():
        small = [cv2.resize(each, size, interpolation=cv2.INTER_AREA).ravel() for each in pictures]
        rows[kind] = error_rad(np.array(small, np.float64), answers, episodes)
    fresh = RJepa(RunConfig().network, seed=seed)
    learner = learned(trained, folder / "run", fixations)
    for kind, each, by_place in (
        ("column, not learned", fresh, False),
        ("column", learner, False),
        ("by place, not learned", fresh, True),
        ("by place", learner, True),
    ):
        values = column(dataset, each, folder / kind.replace(" ", "_"), by_place)
        rows[kind] = error_rad(values, answers, episodes)
    return rows


def main() -> None:
    fixations = int(sys.argv[1]) if len(sys.argv) > 1 else FIXATIONS
    for name in sys.argv[2:] or ("pan", "target"):
        found: dict[str, list[float]] = {}
        for seed in range(SEEDS):
            with tempfile.TemporaryDirectory() as folder:
                for kind, error in judge(name, seed, fixations, Path(folder)).items():
                    print(f"# {name} {seed} {kind}: {np.degrees(error):.2f}", flush=True)
                    found.setdefault(kind, []).append(np.degrees(error))
        for kind, errors in found.items():
            each = " ".join(f"{error:6.2f}" for error in errors)
            print(f"{name:7s} {kind:22s} {np.mean(errors):6.2f} degrees   ({each})", flush=True)


if __name__ == "__main__":
    main()
