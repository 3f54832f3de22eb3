"""Sizes and rates of the network; docs/theory.md has the symbols."""

from __future__ import annotations

from dataclasses import dataclass

from edge_rjepa.base.checks import check_choice, check_number, check_whole
from edge_rjepa.errors import ConfigError
from edge_rjepa.learner import cells

MOST_UNITS, MOST_BLOCK = 1 << 20, 4096  # far beyond what this machine learns with
DEVICES = ("cpu", "cuda", "auto")  # where to learn; "auto" measures both and takes the faster one


@dataclass(frozen=True)
class RJepaConfig:
    """The network and its learning rule; docs/theory.md has the symbols."""

    n_features: int = 316  # f: what the retina gives
    n_efference: int = 4  # A: saccade and gaze
    cell: str = "gated"
    memory_input: str = "embedding"  # the recurrent layer reads the embedding, or the features
    n_encoder_hidden: int = 0  # n_e: tanh units between features and embedding; 0: none
    n_embedding: int = 256  # n_z
    n_hidden: int = 256  # n_h
    n_predictor: int = 256  # n_p
    n_gain: int = 32  # hidden units of the gain field
    noise_floor: float = 0.3  # eps of the objective, in squared units of the embedding
    statistics_fixations: float = 2500.0  # time constant of mu, S_z, S_e
    learning_rate: float = 2e-3  # Adam, at the start
    anneal_fixations: float = 50_000.0  # experience after which the rate has fallen by sqrt(2)
    anneal_floor: float = 0.1  # share of learning_rate that always stays
    encoder_rate: float = 1.0  # the encoder's rate in units of learning_rate
    update_every: int = 8  # blocks whose gradients are summed before a step
    max_block: int = 64  # longest block, in fixations: buffers are made for it
    dtype: str = "float32"

    def __post_init__(self) -> None:
        cells.find(self.cell)
        for name in ("n_features", "n_efference", "n_hidden", "n_predictor", "n_gain"):
            check_whole(self, name, 1, MOST_UNITS)
        check_whole(self, "n_encoder_hidden", 0, MOST_UNITS)
        check_whole(self, "n_embedding", 2, MOST_UNITS)
        check_whole(self, "update_every", 1)
        check_whole(self, "max_block", 1, MOST_BLOCK)
        for name in ("noise_floor", "statistics_fixations", "anneal_fixations"):
            check_number(self, name, above=0.0)
        for name in ("learning_rate", "encoder_rate", "anneal_floor"):
            check_number(self, name, at_least=0.0)
        if self.anneal_floor > 1.0:
            raise ConfigError(f"anneal_floor = {self.anneal_floor}: must be at most 1")
        check_choice(self, "memory_input", ("embedding", "features"))
        check_choice(self, "dtype", ("float32", "float64"))

    @property
    def n_memory_input(self) -> int:
        """Length of the recurrent layer's input without its constant 1."""
        memory = self.n_embedding if self.memory_input == "embedding" else self.n_features
        return memory + self.n_efference
