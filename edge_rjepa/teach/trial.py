"""What the looks say of each other: how far an answer can be trusted, and what would help.

Every look is asked about as if its own visit had not been taught; where a name has one visit only,
as if the look and those right before and after it had not. So no look is judged by what was fitted
to it. Asked once more without its own name, it is a stranger. The threshold is the evidence
(encoder/naming.py) that FALSE_ACCEPTANCE of strangers pass, taken to be normally distributed. Few
strangers tell little, so a prior counts as PRIOR_LOOKS of them: it was measured on drawings,
paintings and photographs of things that no benchmark here is judged by. The threshold is never so
high that it refuses more than MOST_REFUSED of the looks themselves: two names for one place make
strangers that look like friends, and would make all else unknown.
"""

from __future__ import annotations

import math
from collections import Counter
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from edge_rjepa.encoder.naming import Answer, Odds, TaughtNames, evidence
from edge_rjepa.teach.likeness import best_windows, of_names

FALSE_ACCEPTANCE = 0.05  # of looks at what was never taught, that get a name
PRIOR_LOOKS = 4
PRIOR_MEAN, PRIOR_STD = 0.6, 0.2  # of a stranger's evidence
MOST_TRIED = 256  # looks; of more, as many that are evenly spread
SHARPNESSES = 1.0 / np.geomspace(0.003, 0.3, 20)
USUAL_SHARPNESS = 1.0 / 0.03
ENOUGH_KNOWN, MOST_REFUSED = 10, 0.3  # looks at known names; the share of them called unknown
FEW_LOOKS = 5  # below so many of a name, more of them help whatever it is
MOST_WRONG = 0.1  # of a name's looks, before more of them are asked for


class Trial(NamedTuple):
    """How the looks of one kind, places or things, are told apart.

    names: M. tried: looks asked about, of each name. confused: (name, taken for) -> looks; taken
    for None where the answer was unknown. strangers: how many the threshold was learned from.
    accepted: the share of them that get a name all the same.
    """

    names: list[str]
    odds: Odds
    tried: Counter[str]
    confused: Counter[tuple[str, str | None]]
    strangers: int
    accepted: float

    def answer(self, likeness: np.ndarray) -> Answer:
        """What the likeness (M,) to each name comes to."""
        return TaughtNames(self.names, self.odds).answer(likeness)

    def wrong(self, name: str) -> int:
        """How many looks of a name got another answer."""
        return sum(count for (own, _), count in self.confused.items() if own == name)

    def advice(self, looks: dict[str, int]) -> list[str]:
        """What would help, in sentences; none where it knows enough. looks: of each name."""
        said = [
            f"{FEW_LOOKS - count} more looks at {name} would help: it has {count}"
            for name, count in looks.items()
            if count < FEW_LOOKS
        ]
        for (name, other), count in self.confused.most_common():
            if count > max(1.0, MOST_WRONG * self.tried[name]) and looks[name] >= FEW_LOOKS:
                taken = f"taken for {other}" if other else "not known again"
                said.append(
                    f"more looks at {name} would help, from where it looks different: it is "
                    f"{taken} in {count} of {self.tried[name]}"
                )
        return said


def attempt(
    looks: dict[str, np.ndarray],
    visits: dict[str, np.ndarray],
    false_acceptance: float = FALSE_ACCEPTANCE,
) -> Trial:
    """Ask about the looks (N, K, n_z) of each name, windows of length 1; visits: (N,) of each."""
    names = list(looks)
    asked = _ask_all(looks, visits)
    strangers = np.array([evidence(likeness) for likeness in asked.without_own])
    known = np.array([evidence(likeness) for likeness in asked.likeness])
    threshold = _threshold(strangers, known, false_acceptance)
    trial = Trial(
        names,
        Odds(threshold, _sharpness(asked), _certainty(known - threshold, strangers - threshold)),
        Counter(names[own] for own in asked.own),
        Counter(),
        len(strangers),
        float((strangers > threshold).mean()) if len(strangers) else false_acceptance,
    )
    for own, likeness in zip(asked.own, asked.likeness, strict=True):
        said = trial.answer(likeness).name
        if said != names[own]:
            trial.confused[names[own], said] += 1
    return trial


class _Asked(NamedTuple):
    """What came of asking about looks."""

    own: list[int]  # which name each is of: those that have other looks left
    likeness: list[np.ndarray]  # (M,) to all names, of the same
    without_own: list[np.ndarray]  # (M - 1,) to all names but its own, of all looks asked about


def _ask_all(looks: dict[str, np.ndarray], visits: dict[str, np.ndarray]) -> _Asked:
    known = np.concatenate(list(looks.values()))
    of_name = np.repeat(np.arange(len(looks)), [len(rows) for rows in looks.values()])
    of_visit = np.concatenate(list(visits.values()))
    starts = np.searchsorted(of_name, np.arange(len(looks)))
    asked = _Asked([], [], [])
    for look in np.unique(np.linspace(0, len(known) - 1, min(len(known), MOST_TRIED)).astype(int)):
        best = best_windows(known[look], known)
        name = int(of_name[look])
        same_name = np.flatnonzero(of_name == name)
        left_out = _left_out(look, same_name, of_visit)
        best[:, left_out] = -1.0
        likeness = of_names(best, starts)
        if len(looks) > 2:  # with one other name there is no next one
            asked.without_own.append(np.delete(likeness, name))
        if len(left_out) < len(same_name):
            asked.own.append(name)
            asked.likeness.append(likeness)
    return asked


def _left_out(look: int, same_name: np.ndarray, of_visit: np.ndarray) -> np.ndarray:
    """The looks of the same name that look is not to be judged by."""
    same_visit = of_visit[same_name] == of_visit[look]
    if not same_visit.all():
        return same_name[same_visit]
    return same_name[abs(same_name - look) <= 1]


def _threshold(strangers: np.ndarray, known: np.ndarray, false_acceptance: float) -> float:
    count = len(strangers)
    mean = (PRIOR_LOOKS * PRIOR_MEAN + strangers.sum()) / (PRIOR_LOOKS + count)
    squares = PRIOR_LOOKS * (PRIOR_STD**2 + (PRIOR_MEAN - mean) ** 2)
    squares += np.square(strangers - mean).sum()
    std = math.sqrt(squares / (PRIOR_LOOKS + count))
    threshold = mean + NormalDist().inv_cdf(1.0 - false_acceptance) * std
    if len(known) >= ENOUGH_KNOWN:
        threshold = min(threshold, np.quantile(known, MOST_REFUSED))
    return float(threshold)


def _sharpness(asked: _Asked) -> float:
    """Under which the right names are likeliest."""
    if not asked.own or len(asked.likeness[0]) < 2:
        return USUAL_SHARPNESS
    likeness = np.array(asked.likeness)
    behind = likeness - likeness[np.arange(len(likeness)), asked.own][:, None]

    def log_likelihood(sharpness: float) -> float:
        return -float(_log_sum_exp(sharpness * behind).sum())

    return float(max(SHARPNESSES, key=log_likelihood))


def _certainty(known: np.ndarray, strangers: np.ndarray) -> float:
    """Under which looks at a name, above the threshold by `known`, and strangers are likeliest."""
    if not len(known) or not len(strangers):
        return USUAL_SHARPNESS

    def log_likelihood(certainty: float) -> float:
        both = -np.logaddexp(0.0, -certainty * known).mean()
        return float(both - np.logaddexp(0.0, certainty * strangers).mean())

    return float(max(SHARPNESSES, key=log_likelihood))


def _log_sum_exp(rows: np.ndarray) -> np.ndarray:
    most = rows.max(axis=1)
    return most + np.log(np.exp(rows - most[:, None]).sum(axis=1))
