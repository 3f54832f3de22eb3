"""What the looks say of each other: how far an answer can be trusted, and what would help.

Every look is asked about as if its own visit had not been taught; where a name has one visit only,
as if the look and those beside it had not. Asked once more without its own name, it is a stranger.
The threshold is the evidence (encoder/naming.py) that FALSE_ACCEPTANCE of strangers pass, taken to
be normally distributed. Few strangers tell little, so a prior counts as PRIOR_LOOKS of them: it was
measured on drawings, paintings and photographs of things that no benchmark here is judged by.

Two names for one place would make strangers that look like friends. So a name that is often taken
for another is a twin of it, and its looks are strangers only without the twin, too.

What is told of right and wrong answers is judged fold by fold: names are divided into FOLDS, and
the looks of a fold are answered with the odds that follow from the other folds.
"""

from __future__ import annotations

import math
from collections import Counter
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from edge_rjepa.encoder.naming import Answer, Odds, TaughtNames, evidence

FALSE_ACCEPTANCE = 0.05  # of looks at what was never taught, that get a name
PRIOR_LOOKS = 4
PRIOR_MEAN, PRIOR_STD = 0.6, 0.2  # of a stranger's evidence
MOST_TRIED = 192  # looks; of more, as many that are evenly spread
SHARPNESSES = 1.0 / np.geomspace(0.003, 0.3, 20)
USUAL_SHARPNESS, SPREAD = 1.0 / 0.03, 0.7  # and how far from it is likely, in its logarithm
FOLDS = 5
TWINS = 0.25  # of the looks at two names, that are taken for the other
FEW_LOOKS = 5  # below so many of a name, more of them help whatever it is
MOST_WRONG = 0.1  # of a name's looks, before more of them are asked for


class Trial(NamedTuple):
    """How the looks of one kind, places or things, are told apart.

    names: M. tried: looks asked about, of each name. confused: (name, taken for) -> looks; taken
    for None where the answer was unknown. twins: pairs of names that look the same. strangers: how
    many there were; named: how many of them got a name. expected: the share of strangers that get
    one, where there were too few to count.
    """

    names: list[str]
    odds: Odds
    tried: Counter[str]
    confused: Counter[tuple[str, str | None]]
    twins: list[tuple[str, str]]
    strangers: int
    named: int
    expected: float

    def answer(self, likeness: np.ndarray) -> Answer:
        """What the likeness (M,) to each name comes to."""
        return TaughtNames(self.names, self.odds).answer(likeness)

    def wrong(self, name: str) -> int:
        """How many looks of a name got another answer."""
        return sum(count for (own, _), count in self.confused.items() if own == name)

    def advice(self, looks: dict[str, int]) -> list[str]:
        """What would help, in sentences; none where it knows enough. looks: of each name."""
        said = [
            f"{one} and {other} look the same: forget one, or take looks in which they differ"
            for one, other in self.twins
        ]
        same = {name for pair in self.twins for name in pair}
        for name, count in looks.items():
            if count < FEW_LOOKS:
                more = FEW_LOOKS - count
                said.append(
                    f"{more} more look{'s' * (more > 1)} at {name} would help: it has {count}"
                )
        for (name, other), count in self.confused.most_common():
            often = count > max(1.0, MOST_WRONG * self.tried[name])
            if often and looks[name] >= FEW_LOOKS and name not in same:
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
    names, asked = list(looks), _ask_all(looks, visits)
    twins = _twins(asked)
    odds = _odds(asked, twins, false_acceptance)
    confused: Counter[tuple[str, str | None]] = Counter()
    passed: list[bool] = []
    folds = min(FOLDS, len(names))
    for fold in range(folds):
        others = [each for each in asked if each.name % folds != fold]
        of_others = _odds(others, twins, false_acceptance) if folds > 2 else odds
        for each in (each for each in asked if each.name % folds == fold):
            stranger = each.as_stranger(twins)
            if stranger is not None:
                passed.append(evidence(stranger) > of_others.threshold)
            said = TaughtNames(names, of_others).answer(each.likeness).name
            if each.judged and said != names[each.name]:
                confused[names[each.name], said] += 1
    return Trial(
        names,
        odds,
        tried=Counter(names[each.name] for each in asked if each.judged),
        confused=confused,
        twins=[(names[a], names[b]) for a, b in sorted(twins) if a < b],
        strangers=len(passed),
        named=sum(passed),
        expected=1.0 - NormalDist(PRIOR_MEAN, PRIOR_STD).cdf(odds.threshold),
    )


class _Asked(NamedTuple):
    """A look that was asked about."""

    name: int  # of its own
    likeness: np.ndarray  # (M,) to all names
    judged: bool  # whether its name had other looks left

    def as_stranger(self, twins: set[tuple[int, int]]) -> np.ndarray | None:
        """Its likeness to all names but its own and its twins; None where fewer than two remain."""
        gone = [self.name, *(b for a, b in twins if a == self.name)]
        others = np.delete(self.likeness, gone)
        return others if len(others) > 1 else None


def _ask_all(looks: dict[str, np.ndarray], visits: dict[str, np.ndarray]) -> list[_Asked]:
    known = np.concatenate(list(looks.values()))
    count, windows = known.shape[:2]
    flat = known.reshape(count * windows, -1)
    of_name = np.repeat(np.arange(len(looks)), [len(rows) for rows in looks.values()])
    of_visit = np.concatenate(list(visits.values()))
    starts = np.searchsorted(of_name, np.arange(len(looks)))
    asked = []
    for look in np.unique(np.linspace(0, count - 1, min(count, MOST_TRIED)).astype(int)):
        best = (flat @ known[look].T).reshape(count, windows, -1).max(axis=1)  # (N, K)
        name = int(of_name[look])
        same_name = np.flatnonzero(of_name == name)
        left_out = _left_out(look, same_name, of_visit)
        best[left_out] = -1.0
        likeness = np.maximum.reduceat(best, starts, axis=0).mean(axis=1)
        asked.append(_Asked(name, likeness, len(left_out) < len(same_name)))
    return asked


def _left_out(look: int, same_name: np.ndarray, of_visit: np.ndarray) -> np.ndarray:
    """The looks of the same name that look is not to be judged by."""
    same_visit = of_visit[same_name] == of_visit[look]
    if not same_visit.all():
        return same_name[same_visit]
    return same_name[abs(same_name - look) <= 1]


def _twins(asked: list[_Asked]) -> set[tuple[int, int]]:
    """Pairs of names, both ways round, of whose looks many are more like the other name."""
    judged = [each for each in asked if each.judged]
    tried = Counter(each.name for each in judged)
    taken = Counter((each.name, int(each.likeness.argmax())) for each in judged)
    return {
        pair
        for (a, b), count in taken.items()
        if a != b and count + taken[b, a] > max(1.0, TWINS * (tried[a] + tried[b]))
        for pair in ((a, b), (b, a))
    }


def _odds(asked: list[_Asked], twins: set[tuple[int, int]], false_acceptance: float) -> Odds:
    found = [each.as_stranger(twins) for each in asked]
    strangers = np.array([evidence(each) for each in found if each is not None])
    judged = [each for each in asked if each.judged]
    known = np.array([evidence(each.likeness) for each in judged])
    threshold = _threshold(strangers, false_acceptance)
    sharpness = _sharpness([each for each in judged if len(each.likeness) > 1])
    return Odds(threshold, sharpness, _certainty(known - threshold, strangers - threshold))


def _threshold(strangers: np.ndarray, false_acceptance: float) -> float:
    count = len(strangers)
    mean = (PRIOR_LOOKS * PRIOR_MEAN + strangers.sum()) / (PRIOR_LOOKS + count)
    squares = PRIOR_LOOKS * (PRIOR_STD**2 + (PRIOR_MEAN - mean) ** 2)
    squares += np.square(strangers - mean).sum()
    std = math.sqrt(squares / (PRIOR_LOOKS + count))
    return float(mean + NormalDist().inv_cdf(1.0 - false_acceptance) * std)


def _sharpness(judged: list[_Asked]) -> float:
    """Under which the right names are likeliest."""
    if not judged:
        return USUAL_SHARPNESS
    likeness = np.array([each.likeness for each in judged])
    own = [each.name for each in judged]
    behind = likeness - likeness[np.arange(len(own)), own][:, None]

    def log_likelihood(sharpness: float) -> float:
        most = sharpness * behind.max(axis=1)
        shares = np.exp(sharpness * behind - most[:, None]).sum(axis=1)
        return _prior(sharpness) - float((most + np.log(shares)).sum())

    return float(max(SHARPNESSES, key=log_likelihood))


def _certainty(known: np.ndarray, strangers: np.ndarray) -> float:
    """Under which looks at a name, above the threshold by `known`, and strangers are likeliest."""

    def log_likelihood(certainty: float) -> float:
        told = np.logaddexp(0.0, -certainty * known).sum()
        return _prior(certainty) - float(told + np.logaddexp(0.0, certainty * strangers).sum())

    return float(max(SHARPNESSES, key=log_likelihood))


def _prior(sharpness: float) -> float:
    return -0.5 * (math.log(sharpness / USUAL_SHARPNESS) / SPREAD) ** 2
