"""From likeness to names: the arithmetic that the recogniser and an exported file share.

How like a picture is to each of M names is a likeness; teach/likeness.py says which. How clearly it
shows any of them is its

    evidence = likeness of the first name + (likeness of the first - likeness of the second)

since a stranger is like many names, a little. The logarithm of the odds of "some name" against
"unknown" is certainty (evidence - threshold), that of one name against another sharpness times the
difference of their likeness.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from edge_rjepa.encoder.onnx_graph import Tensor, columns, concat, linear, node, reshape, sigmoid
from edge_rjepa.errors import InputError

USUAL_SECOND = 0.4  # likeness of a second name, at least: where it is less, or there is none
FAR_BELOW = 10.0  # more than any two likenesses differ by
MOST_LETTERS = 100  # of a name
UNKNOWN = "unknown"  # what is said in place of a name
JOINERS = "\u200c\u200d"  # in Persian words and in emoji


class Answer(NamedTuple):
    """What a picture shows.

    name: None for nothing that was taught. probability: of that answer.
    """

    name: str | None
    probability: float


class Odds(NamedTuple):
    """What turns likeness into probabilities; see the top of this file."""

    threshold: float
    sharpness: float
    certainty: float

    def scores(self, likeness: np.ndarray) -> np.ndarray:
        """Probabilities (M + 1,) of each name and last of none, from the likeness (M,)."""
        known = 1.0 / (1.0 + np.exp(self.certainty * (self.threshold - evidence(likeness))))
        shares = np.exp(self.sharpness * (likeness - likeness.max()))
        return np.append(known * shares / shares.sum(), 1.0 - known)


class TaughtNames(NamedTuple):
    """M names, and what turns the likeness to them into an answer."""

    names: list[str]
    odds: Odds

    def answer(self, likeness: np.ndarray) -> Answer:
        """What the likeness (M,) to each name comes to."""
        scores = self.odds.scores(likeness)
        if scores[-1] > 0.5:
            return Answer(None, float(scores[-1]))
        best = int(scores[:-1].argmax())
        return Answer(self.names[best], float(scores[best]))


class Taught(NamedTuple):
    """What a file is to know by name.

    names: M. windows: (J, n_z) of each, whitened and of length 1. likeness: what the learner says
    of a picture, (M,), for the parity check.
    """

    names: list[str]
    windows: list[np.ndarray]
    odds: Odds
    likeness: Callable[[np.ndarray], np.ndarray]


def evidence(likeness: np.ndarray) -> float:
    """How clearly a picture shows the first of M names, from its likeness (M,) to each."""
    ordered = np.sort(likeness)
    second = float(ordered[-2]) if len(ordered) > 1 else USUAL_SECOND
    return 2.0 * float(ordered[-1]) - max(second, USUAL_SECOND)


def checked_name(name: str) -> str:
    """The name as it is kept: normalised, without blanks around it. Raises InputError."""
    if not isinstance(name, str):
        raise InputError(f"{name!r:.60} is no name: give text")
    name = unicodedata.normalize("NFC", name).strip()
    kinds = [unicodedata.category(letter) for letter in name if letter not in JOINERS]
    hidden = any(kind in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp") for kind in kinds)
    seen = any(kind[0] in "LNS" for kind in kinds)
    if hidden or not seen or len(name) > MOST_LETTERS:
        raise InputError(
            f"{name!r:.60} is no name: give 1 to {MOST_LETTERS} letters of any script, on one line"
        )
    if name.casefold() == UNKNOWN:
        raise InputError(f"'{name}' is what is said where no name fits: give another")
    return name


def likeness_graph(taught: Taught, white: Tensor, windows: int) -> Tensor:
    """Likeness (N, M) of whitened embeddings (N windows, n_z)."""
    n_z = taught.windows[0].shape[1]
    length = node("Sqrt", node("Clip", linear(white * white, np.ones((1, n_z))), 1e-24, 1e24))
    products = linear(white / length, np.concatenate(taught.windows))
    ends = np.cumsum([len(own) for own in taught.windows]).tolist()
    best = [
        node("ReduceMax", columns(products, start, end), axes=[1], keepdims=1)
        for start, end in zip([0, *ends[:-1]], ends, strict=True)
    ]
    by_window = reshape(concat(*best), -1, windows, len(best))
    return node("ReduceMean", by_window, axes=[1], keepdims=0)


def scores_graph(taught: Taught, likeness: Tensor) -> Tensor:
    """Odds.scores of likeness (N, M): (N, M + 1)."""
    threshold, sharpness, certainty = taught.odds
    first = node("ReduceMax", likeness, axes=[1], keepdims=1)
    clearly = first * 2.0 - USUAL_SECOND
    if len(taught.names) > 1:
        # The largest without one name, for each name: the least of those is the second largest.
        count = len(taught.names)
        others = reshape(likeness, -1, 1, count) - FAR_BELOW * np.eye(count)
        largest = node("ReduceMax", others, axes=[2], keepdims=0)
        second = -node("ReduceMax", -largest, axes=[1], keepdims=1)
        clearly = first * 2.0 - node("Clip", second, USUAL_SECOND, 1.0)
    known = sigmoid((clearly - threshold) * certainty)
    shares = node("Softmax", (likeness - first) * sharpness, axis=1)
    return concat(known * shares, 1.0 - known)
