"""Tell digits apart, from ten examples of each: a classifier on the frozen embedding.

    pip install scikit-learn
    edge-rjepa export runs/demo -o encoder.onnx
    python examples/ten_examples.py encoder.onnx

The digits come with scikit-learn; the encoder has never seen one.
"""

import sys

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from edge_rjepa import FrozenEncoder
from edge_rjepa.eye.scan import scan

EXAMPLES, ASKED = 10, 30  # of each digit


def embed(encoder: FrozenEncoder, picture: np.ndarray) -> np.ndarray:
    """A row for a picture: the mean embedding and the mean memory of 16 fixations on it."""
    scanned = scan(picture, fixations=16)
    windows = encoder.retina.windows(scanned.image, scanned.pixels)
    encoder.reset()
    z, h = encoder.embed(windows, scanned.efference)
    return np.concatenate([z.mean(axis=0), h.mean(axis=0)])


def main() -> None:
    encoder = FrozenEncoder(sys.argv[1])
    digits = load_digits()
    rng = np.random.default_rng(0)
    chosen = [rng.permutation(np.flatnonzero(digits.target == d)) for d in range(10)]
    fit = np.concatenate([places[:EXAMPLES] for places in chosen])
    ask = np.concatenate([places[EXAMPLES : EXAMPLES + ASKED] for places in chosen])

    pictures = np.uint8(255 / 16 * digits.images)[..., None].repeat(3, axis=3)  # grey as BGR
    rows = {
        "frozen embedding": {i: embed(encoder, pictures[i]) for i in (*fit, *ask)},
        "raw pixels": digits.data,
    }
    print(f"{len(fit)} digits to learn from, {len(ask)} to tell apart; chance 0.10")
    for name, row in rows.items():
        classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
        classifier.fit([row[i] for i in fit], digits.target[fit])
        score = classifier.score([row[i] for i in ask], digits.target[ask])
        print(f"{name:<17} {score:.2f}")


if __name__ == "__main__":
    main()
