"""What a run depends on, read from TOML and written to its config.toml."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

import tomli_w

from edge_rjepa.base.checks import check_number, check_text, check_whole, from_table
from edge_rjepa.errors import ConfigError
from edge_rjepa.eye.config import GazeConfig, HeadConfig, RetinaConfig
from edge_rjepa.learner.config import RJepaConfig
from edge_rjepa.sources.config import CameraConfig
from safe_files.errors import FileError, why
from safe_files.reading import read_toml

MOST_BYTES = 1 << 20  # of a configuration
MOST_KEPT, MOST_HELD_OUT = 1000, 1_000_000


@dataclass(frozen=True)
class MonitorConfig:
    """Floors under which the representation counts as collapsed; see monitor.py."""

    min_std: float = 0.02
    min_rank: float = 1.5
    min_information_share: float = 0.1  # of the best information of the run ..
    patience: int = 5  # .. for this many measures on end: a blank wall tells little, too
    rate_after_collapse: float = 0.5  # factor on the learning rate when rolled back
    max_rollbacks: int = 8  # then the run gives up

    def __post_init__(self) -> None:
        for name in ("min_std", "min_rank", "min_information_share", "rate_after_collapse"):
            check_number(self, name, at_least=0.0)
        check_whole(self, "patience", 1)
        check_whole(self, "max_rollbacks", 0)


@dataclass(frozen=True)
class RunConfig:
    """Everything a run of `edge-rjepa learn` depends on; written to its config.toml."""

    source: str = "scene:"
    calibration: str = ""  # file of the camera's and the head's; empty: the usual is assumed
    seed: int = 0
    fixations_per_frame: int = 16  # fewer where learning would fall behind a live camera
    metrics_every_frames: int = 300
    rollback_every_frames: int = 3000  # a state to roll back to after a collapse is kept so often
    checkpoint_every_s: float = 60.0  # and one to go on from so often
    checkpoints_kept: int = 3  # the newest may be damaged by whatever stopped the process
    held_out_frames: int = 300  # on which the run is judged
    camera: CameraConfig = field(default_factory=CameraConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    network: RJepaConfig = field(default_factory=RJepaConfig)
    retina: RetinaConfig = field(default_factory=RetinaConfig)
    gaze: GazeConfig = field(default_factory=GazeConfig)
    monitor: MonitorConfig = field(default_factory=MonitorConfig)

    def __post_init__(self) -> None:
        check_text(self, "source", "such as scene:")
        check_text(self, "calibration", "a file's name")
        check_whole(self, "seed", 0)
        for name in (
            "fixations_per_frame", "metrics_every_frames", "rollback_every_frames",
        ):  # fmt: skip
            check_whole(self, name, 1)
        check_whole(self, "checkpoints_kept", 1, MOST_KEPT)
        check_number(self, "checkpoint_every_s", at_least=0.0)
        check_whole(self, "held_out_frames", 2, MOST_HELD_OUT)
        if self.network.n_features != self.retina.n_features or self.network.n_efference != 4:
            raise ConfigError(
                f"network.n_features = {self.network.n_features}, network.n_efference = "
                f"{self.network.n_efference}: the retina gives {self.retina.n_features}, the gaze 4"
            )
        if self.fixations_per_frame > self.network.max_block:
            raise ConfigError(
                f"fixations_per_frame = {self.fixations_per_frame}: a block holds at most "
                f"network.max_block = {self.network.max_block}"
            )

    @classmethod
    def from_dict(cls, table: dict) -> RunConfig:
        """The configuration of a table as `dataclasses.asdict` makes it. Raises ConfigError."""
        return from_table(cls, table)

    @classmethod
    def from_toml(cls, path: str | Path, follow_links: bool = True) -> RunConfig:
        """Read a configuration file; what it does not say has its default. Raises ConfigError."""
        try:
            return cls.from_dict(read_toml(path, MOST_BYTES, follow_links))
        except OSError as error:
            raise ConfigError(f"cannot read config {path}: {why(error)}") from error
        except FileError as error:
            raise ConfigError(f"{path} is {error}") from error
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error

    def to_toml(self) -> str:
        """The whole configuration as TOML, defaults included.

        The name of a source may have bytes that are no UTF-8. They are kept as Python keeps them in
        names of files: write the text with errors="surrogateescape".
        """
        return tomli_w.dumps(asdict(self))
