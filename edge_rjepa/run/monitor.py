"""Is the representation well? Its measures, and the alarm when it collapses."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from edge_rjepa.learner.objective import effective_rank
from edge_rjepa.learner.rjepa import RJepa
from edge_rjepa.run.config import MonitorConfig

NOTABLE_NATS = 0.3  # less can be chance
HARMFUL_NATS = -1.0  # a predictor so much worse than the mean pulls the embedding together


class Health(NamedTuple):
    """How rich the embedding is, and how well it is predicted."""

    information: float  # nats, predictive information
    effective_rank: float  # 1 .. n_z
    embedding_std: float  # root mean variance of the embedding's values, 0 .. 1


def health_of(learner: RJepa) -> Health:
    """The running estimates of a learner."""
    return health(learner.information, learner.embedding_covariance)


def health(information: float, covariance: np.ndarray) -> Health:
    """Of an embedding with this information (nats) and cov(z); all NaN if one is not finite."""
    if not (math.isfinite(information) and np.isfinite(covariance).all()):
        return Health(math.nan, math.nan, math.nan)
    std = math.sqrt(max(0.0, float(np.trace(covariance)) / len(covariance)))
    return Health(information, effective_rank(covariance), std)


class Monitor:
    """Watches a learner's health and tells when it has collapsed.

    The representation has collapsed when a value is not finite, when the embedding hardly varies,
    when it varies along one direction only, or when the information stays far below the best of the
    run. `state` and `restore` carry what is remembered over to another process.
    """

    def __init__(self, config: MonitorConfig | None = None):
        self.config = config or MonitorConfig()
        self.best_information = 0.0
        self.poor_measures = 0  # on end, with too little information

    def collapse(self, health: Health) -> str | None:
        """Why this measure, after those before it, is a collapse, in words, or None."""
        broken = self.broken(health)
        if broken:
            return broken
        self.best_information = max(self.best_information, health.information)
        uninformed = self._uninformed(health)
        self.poor_measures = self.poor_measures + 1 if uninformed else 0
        if self.poor_measures < self.config.patience:
            return None
        self.poor_measures = 0
        return uninformed

    def is_good(self, health: Health) -> bool:
        """Whether this is a state to go back to: nothing is wrong with it, even for a moment."""
        return not (self.broken(health) or self._uninformed(health))

    def broken(self, health: Health) -> str | None:
        """What is wrong beyond doubt, in words, or None."""
        config = self.config
        if not all(map(math.isfinite, health)):
            return "the network is no longer finite"
        if health.embedding_std < config.min_std:
            return f"the embedding's std is {health.embedding_std:.3g}, below {config.min_std:g}"
        if health.effective_rank < config.min_rank:
            return f"the effective rank is {health.effective_rank:.3g}, below {config.min_rank:g}"
        return None

    def _uninformed(self, health: Health) -> str | None:
        floor = HARMFUL_NATS
        if self.best_information >= NOTABLE_NATS:
            floor = self.config.min_information_share * self.best_information
        if health.information < floor:
            return (
                f"the information is {health.information:.3g} nats, below {floor:.3g}; "
                f"its best was {self.best_information:.3g}"
            )
        return None

    def state(self) -> dict:
        """What is remembered, as plain JSON values."""
        return {"best_information": self.best_information, "poor_measures": self.poor_measures}

    def restore(self, state: dict) -> None:
        """Go on from state()."""
        self.best_information = float(state["best_information"])
        self.poor_measures = int(state["poor_measures"])
