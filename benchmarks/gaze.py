"""What the gaze policies find, cover and teach, at equal fixations on the same streams.

    python -m benchmarks.gaze [--quick] [--seeds N] [--fixations N] [--policies P ..] [--stream S]
    python -m benchmarks.gaze --picture docs/gaze.jpg

Streams: `photographs`, of scikit-image before a simulated pan-tilt head, and `video`, people in the
vtest.avi of opencv-doc, without a head. Patterned cards appear at random times and places.
docs/gaze.md says what the columns are.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from edge_rjepa.eye.config import GazePolicy
from edge_rjepa.eye.eye import Eye
from edge_rjepa.eye.gaze import Gaze, GazePlan
from edge_rjepa.eye.retina import Retina
from edge_rjepa.learner.rjepa import RJepa
from edge_rjepa.optics.camera import Pinhole
from edge_rjepa.run.config import RunConfig
from edge_rjepa.run.held_out import HeldOut
from edge_rjepa.sources import Frame, Source, SourceEnded, open_source, scene
from edge_rjepa.sources.scene import SceneSource

VIDEO = Path("/usr/share/doc/opencv-doc/examples/data/vtest.avi")
POLICIES = [policy.value for policy in GazePolicy]
K = 16  # fixations a frame

CARD_RAD = np.radians(7.0)  # side: 34 px of the simulated camera's picture, 1.8% of its area
LEARNING_FRAMES, FINDING_FRAMES = 20, 90  # of a scene
APPEARS = {LEARNING_FRAMES: (4, 12), FINDING_FRAMES: (20, 30)}  # frame in the scene
COVERED_RAD = np.radians(5.0)  # side of the cells that count as covered when fixated

PROBE_LOOKS = 12  # fixations of a sequence that is to be told what it was of
PROBE_FIT, PROBE_ASK = 80, 80  # sequences of each photograph


class Card(NamedTuple):
    """A patterned square, upright in azimuth and elevation."""

    picture: np.ndarray  # (28, 28, 3) uint8
    angles_rad: np.ndarray  # (2,) of its middle

    def corners_rad(self) -> np.ndarray:
        """(4, 2) clockwise from the top left."""
        return self.angles_rad + 0.5 * CARD_RAD * np.array([(-1, 1), (1, 1), (1, -1), (-1, -1)])

    def is_at(self, gaze_rad: np.ndarray) -> np.ndarray:
        """Whether gaze (K, 2) lands on it, (K,) bool."""
        return (np.abs(gaze_rad - self.angles_rad) <= 0.5 * CARD_RAD).all(axis=1)


def card_picture(rng: np.random.Generator) -> np.ndarray:
    """Blocks at random in two colours, (28, 28, 3) uint8."""
    paper, ink = rng.uniform(0.0, 255.0, (2, 3))
    blocks = rng.random((7, 7, 1)) < 0.3
    return np.where(blocks, ink, paper).astype(np.uint8).repeat(4, axis=0).repeat(4, axis=1)


def drawn(image: np.ndarray, camera: Pinhole, head, card: Card) -> np.ndarray:
    """The picture with the card in it, where the card can be seen."""
    corners = camera.pixels_of_angles(card.corners_rad(), head)
    size = camera.width_px, camera.height_px
    if (
        not np.isfinite(corners).all()
        or (corners.max(0) < 0).any()
        or (corners.min(0) > size).any()
    ):
        return image
    from_px = np.array([(-0.5, -0.5), (27.5, -0.5), (27.5, 27.5), (-0.5, 27.5)], np.float32)
    warp = cv2.getPerspectiveTransform(from_px, corners.astype(np.float32))
    inside = cv2.fillConvexPoly(
        np.zeros(image.shape[:2], np.uint8), np.rint(corners).astype(int), 1
    )
    card_px = cv2.warpPerspective(card.picture, warp, size, borderMode=cv2.BORDER_REPLICATE)
    return np.where(inside[..., None] > 0, card_px, image)


class Stream:
    """Frames of a source, with cards: one in each scene of `frames_a_scene`, till its end.

    The cards' looks and times depend on the seed alone, and so do those of their places that are
    anywhere in reach; a place in view depends on where the head is.
    """

    def __init__(self, name: str, seed: int, frames_a_scene: int) -> None:
        self.frames_a_scene = frames_a_scene
        self.source = opened(name, seed, frames_a_scene)
        self.card: Card | None = None
        self.is_new = False  # whether the card is on this frame for the first time
        self.in_view = False  # whether it was put where it could be seen at once
        self._seed = seed
        self._frames = 0
        self._appears = 0

    def read(self) -> Frame:
        within, number = self._frames % self.frames_a_scene, self._frames // self.frames_a_scene
        frame = next_of(self.source)
        if within == 0:
            self.card = None
            self._rng = np.random.default_rng([self._seed, self.frames_a_scene, number])
            self._appears = self._rng.integers(*APPEARS[self.frames_a_scene])
        self.is_new = within == self._appears
        if self.is_new:
            self.in_view = number % 2 == 0 or self.source.head is None
            self.card = Card(card_picture(self._rng), self._place(frame))
        self._frames += 1
        if self.card is None:
            return frame
        return frame._replace(
            image=drawn(frame.image, self.source.camera, frame.head_rad, self.card)
        )

    def _place(self, frame: Frame) -> np.ndarray:
        camera = self.source.camera
        edge_px = 0.7 * CARD_RAD * camera.focal_px
        low, high = edge_px, np.array([camera.width_px, camera.height_px]) - 1.0 - edge_px
        pixel = self._rng.uniform(low, high)
        if self.in_view:
            return camera.angles_of_pixels(pixel, frame.head_rad)
        # Uniform over all that the head can bring into view.
        while True:
            angles_rad = self._rng.uniform((-0.8, -0.6), (0.8, 0.6))
            pose = np.clip(angles_rad, *np.transpose(self.source.head.limits_rad))
            pixel = camera.pixels_of_angles(angles_rad, pose)
            if (pixel >= low).all() and (pixel <= high).all():
                return angles_rad


def opened(name: str, seed: int, frames_a_scene: int) -> Source:
    if name == "video":
        return open_source(str(VIDEO))
    return SceneSource(scene.skimage_photographs(), seed, frames_a_scene)


def next_of(source: Source) -> Frame:
    frame = source.read_next(0.0)
    if frame is None:
        raise SourceEnded
    return frame


class Looker:
    """One policy and the learner it feeds, on one kind of stream."""

    def __init__(self, name: str, config: RunConfig) -> None:
        self.name, self.config = name, config
        self.eye = Eye(Gaze(config.gaze, config.seed), Retina(config.retina))
        self.learner = RJepa(config.network, config.seed)

    def look(self, camera: Pinhole, frame: Frame) -> GazePlan:
        """Look at the frame and learn from it."""
        plan, features = self.eye.look(camera, frame.image, frame.head_rad, K)
        report = self.learner.learn_block(features, plan.efference)
        self.eye.gaze.learned(report.surprise)
        return plan

    def looks(self, frames_a_scene: int, frames: int) -> Iterator[tuple[Stream, np.ndarray | None]]:
        """After each frame of a stream the stream, and where gaze was (K, 2) rad or None."""
        stream = Stream(self.name, self.config.seed, frames_a_scene)
        head = stream.source.head
        for _ in range(frames):
            frame = stream.read()
            if head is not None and head.at(frame.t_capture_s).moving:
                yield stream, None  # saccadic suppression
                continue
            plan = self.look(stream.source.camera, frame)
            aim = head and self.eye.gaze.aim(head.limits_rad)
            if aim:
                head.move(*aim)
            yield stream, plan.gaze_rad

    def learn(self, fixations: int) -> float:
        """Learn from so many fixations; the mean share of cells covered in a scene."""
        covered, shares = set(), []
        looks = self.looks(LEARNING_FRAMES, 100 * fixations)
        for i, (stream, gaze_rad) in enumerate(looks, 1):
            if gaze_rad is not None:
                covered |= set(map(tuple, np.floor(gaze_rad / COVERED_RAD).astype(int).tolist()))
            if i % LEARNING_FRAMES == 0:
                shares.append(len(covered) / cells_in_reach(stream.source))
                covered.clear()
                if self.learner.fixations >= fixations:
                    return float(np.mean(shares))

    def find(self, scenes: int) -> dict[str, list[float]]:
        """Fixations until a new card is first looked at: `in view` and `anywhere`, a row a card.

        Frames lost to moves of the head count like others. Infinite for a card that was not looked
        at as long as it was there, 60 frames at least.
        """
        times: dict[str, list[float]] = {"in view": [], "anywhere": []}
        waited = None
        for stream, gaze_rad in self.looks(FINDING_FRAMES, scenes * FINDING_FRAMES):
            if stream.is_new:
                waited = 0
            if stream.card is None or waited is None:
                continue
            found = np.zeros(K, bool) if gaze_rad is None else stream.card.is_at(gaze_rad)
            if stream.is_new:
                found_times = times["in view" if stream.in_view else "anywhere"]
                found_times.append(np.inf)
            if found.any():
                found_times[-1] = waited + int(found.argmax()) + 1
                waited = None
            else:
                waited += K
        return times


@cache
def cells_in_reach_of(camera: Pinhole, limits_rad) -> int:
    """Cells of COVERED_RAD that some head angles bring into the picture."""
    azimuth, elevation = np.meshgrid(*(np.arange(-36, 36) * COVERED_RAD + 0.5 * COVERED_RAD,) * 2)
    angles_rad = np.stack([azimuth.ravel(), elevation.ravel()], axis=1)
    count = 0
    for angle in angles_rad[np.abs(angles_rad[:, 1]) < 1.5]:
        pixel = camera.pixels_of_angles(angle, np.clip(angle, *np.transpose(limits_rad)))
        count += (pixel >= 0).all() and (pixel <= (camera.width_px, camera.height_px)).all()
    return int(count)


def cells_in_reach(source: Source) -> int:
    return cells_in_reach_of(
        source.camera, source.head.limits_rad if source.head else ((0, 0),) * 2
    )


# -- probes ---------------------------------------------------------------------------------------


class Probe(NamedTuple):
    """Sequences of looks with a random gaze, and what they were of."""

    features: np.ndarray  # (N, PROBE_LOOKS, f)
    efference: np.ndarray  # (N, PROBE_LOOKS, 4)
    labels: np.ndarray  # (N,)
    n_fit: int  # the first so many are to fit to

    def score(self, learner: RJepa) -> float:
        """Share of the others that a ridge classifier on [mean z, last h, mean h] gets right."""
        learner = learner.copy()
        rows = []
        for features, efference in zip(self.features, self.efference, strict=True):
            learner.reset()
            seen = learner.predict(features, efference)
            rows.append(np.concatenate([seen.z.mean(0), seen.h[-1], seen.h.mean(0)]))
        return ridge_accuracy(np.array(rows, np.float64), self.labels, self.n_fit)


def ridge_accuracy(rows: np.ndarray, labels: np.ndarray, n_fit: int) -> float:
    """Accuracy on rows[n_fit:]; the penalty is picked on the last fifth of those before."""
    rows = (rows - rows[:n_fit].mean(axis=0)) / (rows[:n_fit].std(axis=0) + 1e-6)
    rows = np.column_stack([rows, np.ones(len(rows))])
    targets = np.eye(labels.max() + 1)[labels]

    def accuracy(penalty, fit, ask):
        gram = rows[fit].T @ rows[fit] + penalty * np.eye(rows.shape[1])
        weights = np.linalg.solve(gram, rows[fit].T @ targets[fit])
        return float(((rows[ask] @ weights).argmax(axis=1) == labels[ask]).mean())

    most = n_fit - n_fit // 5
    penalties = 10.0 ** np.arange(0, 5)
    best = max(penalties, key=lambda p: accuracy(p, slice(most), slice(most, n_fit)))
    return accuracy(best, slice(n_fit), slice(n_fit, None))


def probe_of(
    views: list[tuple[Pinhole, np.ndarray]], labels, n_fit: int, config: RunConfig
) -> Probe:
    """Look at each picture with the random gaze."""
    random = replace(config.gaze, policy="random")
    retina, features, efference = Retina(config.retina), [], []
    for i, (camera, image) in enumerate(views):
        plan = Gaze(random, seed=i).plan(camera, image, (0.0, 0.0), PROBE_LOOKS)
        features.append(retina(image, plan.pixels))
        efference.append(plan.efference)
    return Probe(np.array(features), np.array(efference), np.asarray(labels), n_fit)


@cache
def photograph_probe() -> Probe:
    """Which of all photographs is it? Fitted to parts of the left halves, asked about the right."""
    config, photographs, rng = RunConfig(), scene.skimage_photographs(), np.random.default_rng(5)
    views, labels = [], []
    for left, count in ((0.0, PROBE_FIT), (0.5, PROBE_ASK)):
        for label in rng.permutation(np.repeat(np.arange(len(photographs)), count)):
            top, more_left = rng.uniform(0.0, 0.55), rng.uniform(0.0, 0.05)
            part = scene.Scene(0, left + more_left, top, 0.45, bool(rng.random() < 0.5))
            texture = scene.load_texture(photographs[label], part)
            views.append((scene.CAMERA, scene.render(texture, (0.0, 0.0))))
            labels.append(label)
    return probe_of(views, labels, len(photographs) * PROBE_FIT, config)


# -- runs -----------------------------------------------------------------------------------------


class Job(NamedTuple):
    stream: str
    policy: str
    seed: int
    fixations: int
    scenes: int  # with a card to be found
    changes: dict  # fields of GazeConfig other than the defaults


def run(job: Job) -> dict:
    """One policy on one stream: a row of measures."""
    cv2.setNumThreads(1)
    started = time.perf_counter()
    config = RunConfig(seed=job.seed)
    config = replace(config, gaze=replace(config.gaze, policy=job.policy, **job.changes))
    row = job._asdict()
    looker = Looker(job.stream, config)
    if job.fixations:
        row["covered"] = looker.learn(job.fixations)
        held_out = HeldOut(config)
        with opened(job.stream, job.seed, LEARNING_FRAMES) as source:
            held_out.add(source.camera, source.held_out(config.held_out_frames))
        row["information"] = held_out.judge(looker.learner).information
        row["photographs told"] = photograph_probe().score(looker.learner)
    row |= looker.find(job.scenes)
    return row | {"seconds": time.perf_counter() - started}


MEASURES = ("information", "photographs told", "covered")


def table(rows: list[dict]) -> str:
    """Means over seeds (lowest .. highest); medians (quartiles) of all cards' times to be found.

    Seeds differ in which photographs are held out, so information is also compared seed by seed.
    """
    lines = [
        "| policy | information | against random's | photographs told | covered "
        "| found in view after | found anywhere after |",
        f"|{'---|' * 7}",
    ]
    of_random = {row["seed"]: row for row in rows if row["policy"] == "random"}
    for policy in POLICIES:
        mine = [row for row in rows if row["policy"] == policy]
        if mine:
            information, told, covered = (_spread(_values(mine, name)) for name in MEASURES)
            pairs = [(row, of_random[row["seed"]]) for row in mine if row["seed"] in of_random]
            more = [a["information"] - b["information"] for a, b in pairs if "information" in a]
            found = [
                _quartiles(np.concatenate([row[name] for row in mine]))
                for name in ("in view", "anywhere")
            ]
            cells = (information, _spread(more, "+.3f"), told, covered, *found)
            lines.append(f"| {policy} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _values(rows: list[dict], name: str) -> list[float]:
    return [row[name] for row in rows if name in row]


def _spread(values: list[float], form: str = ".3f") -> str:
    if not values:
        return ""
    return f"{np.mean(values):{form}} ({min(values):{form}} .. {max(values):{form}})"


def _quartiles(times: np.ndarray) -> str:
    if not len(times):
        return ""
    low, middle, high = np.quantile(times, [0.25, 0.5, 0.75], method="inverted_cdf")
    return f"{middle:.0f} ({low:.0f} .. {high:.0f}), {np.isfinite(times).mean():.0%} found"


# -- the picture ----------------------------------------------------------------------------------


def draw_picture(path: Path, seed: int = 4, before: int = 40, after: int = 3) -> None:
    """Where each policy looks in the frames after a card has appeared before a head at rest."""
    from matplotlib import pyplot as plt

    photographs = scene.skimage_photographs()
    coffee = next(photo for photo in photographs if photo.stem == "coffee")
    texture = scene.load_texture(coffee, scene.Scene(0, 0.0, 0.0, 1.0, False))
    image, camera, here = scene.render(texture, (0.0, 0.0)), scene.CAMERA, (0.0, 0.0)
    rng = np.random.default_rng(seed)
    card = Card(card_picture(rng), np.array([0.3, 0.2]))
    with_card = drawn(image, camera, here, card)
    figure, panels = plt.subplots(2, 2, figsize=(9.0, 7.2), layout="constrained")
    for panel, policy in zip(panels.flat, POLICIES, strict=True):
        config = RunConfig(seed=seed)
        config = replace(config, gaze=replace(config.gaze, policy=policy))
        looker, looks = Looker("photographs", config), []
        for i in range(before + after):
            frame = Frame(image if i < before else with_card, i / 30.0, here, i)
            looks.append(looker.look(camera, frame))
        pixels = np.concatenate([plan.pixels for plan in looks[before:]])
        on_card = card.is_at(np.concatenate([plan.gaze_rad for plan in looks[before:]]))
        panel.imshow(with_card[..., ::-1])
        panel.plot(*pixels.T, color="white", linewidth=0.8, alpha=0.7)
        order = np.arange(1, len(pixels) + 1)
        panel.scatter(*pixels.T, c=order, cmap="plasma", s=26, edgecolors="white", linewidths=0.6)
        found = f"card at fixation {on_card.argmax() + 1}" if on_card.any() else "card not yet"
        panel.set_title(f"{policy}: {found}", fontsize=11)
        panel.set_axis_off()
    figure.suptitle(f"The first {after * K} fixations since the card appeared, dark ones first")
    figure.savefig(path, dpi=80, pil_kwargs={"quality": 85})
    print(f"drawn: {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a few minutes, rough figures")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--fixations", type=int, default=160_000, help="each learner learns from")
    parser.add_argument("--scenes", type=int, default=40, help="with a card to be found")
    parser.add_argument("--policies", nargs="+", choices=POLICIES, default=POLICIES)
    parser.add_argument("--stream", choices=("photographs", "video"), help="only this one")
    parser.add_argument("--set", default="{}", help="JSON: other fields of GazeConfig")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--picture", type=Path, help="draw where each policy looks, and end")
    options = parser.parse_args()
    if options.picture:
        return draw_picture(options.picture)
    fixations, scenes = options.fixations, options.scenes
    if options.quick:
        fixations, scenes = fixations // 16, scenes // 2
    streams = [options.stream] if options.stream else ["photographs", "video"]
    if "video" in streams and not VIDEO.exists():
        print(f"{VIDEO} is missing: apt-get install opencv-doc; going on without the video")
        streams.remove("video")
    jobs = [
        Job(stream, policy, seed, fixations, scenes, json.loads(options.set))
        for stream in streams
        for seed in range(options.seeds)
        for policy in options.policies
    ]
    print(
        f"{platform.processor() or platform.machine()}, {options.processes} processes", flush=True
    )
    rows = []
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        for done, row in enumerate(pool.imap_unordered(run, jobs), 1):
            rows.append(row)
            measured = {name: row[name] for name in MEASURES if name in row}
            told = ", ".join(f"{name} {value:.3f}" for name, value in measured.items())
            found = ", ".join(
                f"{n} {_quartiles(np.array(row[n]))}" for n in ("in view", "anywhere")
            )
            print(
                f"[{done}/{len(jobs)}] {row['stream']} {row['policy']} seed {row['seed']}: "
                f"{told}; {found}; {row['seconds']:.0f} s",
                flush=True,
            )
    for stream in streams:
        print(f"\n{stream}, {fixations:,} fixations a learner, {options.seeds} seeds")
        print(table([row for row in rows if row["stream"] == stream]))


if __name__ == "__main__":
    main()
