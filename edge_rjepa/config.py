"""Configuration: frozen dataclasses, checked when they are made."""

from __future__ import annotations

import math
import sys
from dataclasses import MISSING, asdict, dataclass, field, fields
from difflib import get_close_matches
from enum import Enum
from pathlib import Path

import numpy as np
import tomli_w

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from edge_rjepa.errors import ConfigError
from edge_rjepa.learner import cells


@dataclass(frozen=True)
class RJepaConfig:
    """The network and its learning rule; docs/theory.md has the symbols."""

    n_features: int = 124  # f: what the retina gives
    n_efference: int = 4  # A: saccade and gaze
    cell: str = "gated"
    memory_input: str = "embedding"  # the circuits read the embedding, or the features
    n_embedding: int = 128  # n_z
    n_hidden: int = 256  # n_h
    n_predictor: int = 256  # n_p
    n_gain: int = 32  # hidden units of the gain field
    noise_floor: float = 1.0  # eps of the objective, in squared units of the embedding
    statistics_fixations: float = 2500.0  # time constant of mu, S_z, S_e
    learning_rate: float = 1e-3  # Adam, at the start
    anneal_fixations: float = 50_000.0  # experience after which the rate has fallen by sqrt(2)
    anneal_floor: float = 0.1  # share of learning_rate that always stays
    encoder_rate: float = 1.0  # the encoder's rate in units of learning_rate
    update_every: int = 1  # blocks whose gradients are summed before a step
    max_block: int = 64  # longest block, in fixations: buffers are made for it
    dtype: str = "float32"

    def __post_init__(self) -> None:
        cells.find(self.cell)
        for name in (
            "n_features", "n_efference", "n_hidden", "n_predictor", "n_gain", "update_every",
            "max_block",
        ):  # fmt: skip
            check_whole(self, name, 1)
        check_whole(self, "n_embedding", 2)
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
        """Length of the circuits' input without its constant 1."""
        memory = self.n_embedding if self.memory_input == "embedding" else self.n_features
        return memory + self.n_efference


@dataclass(frozen=True)
class RetinaConfig:
    """Geometry of the fixed retina; see retina.py for what each group sees.

    A degree keeps the DCT coefficients whose two orders add up to it at most, without the constant
    one: (degree + 1)(degree + 2) / 2 - 1 of them.
    """

    window_px: int = 64  # side of the whole window
    fovea_px: int = 16  # side of its middle, seen at full resolution
    surround_cells: int = 16  # side of the window's luminance after area averaging
    colour_cells: int = 8  # side of the window's colour opponents after area averaging
    fovea_degree: int = 8
    surround_degree: int = 8
    colour_degree: int = 4
    contrast_floor: float = 4.0  # grey levels: below it a pattern counts as noise

    def __post_init__(self) -> None:
        check_whole(self, "window_px", 2)
        check_whole(self, "fovea_px", 2)
        for name in ("surround_cells", "colour_cells"):
            check_whole(self, name, 2)
        for name in ("fovea_degree", "surround_degree", "colour_degree"):
            check_whole(self, name, 1)
        check_number(self, "contrast_floor", above=0.0)
        for name, parts in (
            ("window_px", 2),
            ("fovea_px", 2),
            ("window_px", self.surround_cells),
            ("surround_cells", self.colour_cells),
        ):
            if getattr(self, name) % parts:
                raise ConfigError(f"{name} = {getattr(self, name)}: must be divisible by {parts}")
        for name, below in (
            ("fovea_px", self.window_px + 1),
            ("fovea_degree", self.fovea_px),
            ("surround_degree", self.surround_cells),
            ("colour_degree", self.colour_cells),
        ):
            if getattr(self, name) >= below:
                raise ConfigError(f"{name} = {getattr(self, name)}: must be below {below}")

    @property
    def n_features(self) -> int:
        """f: kept coefficients of the four groups, and level and contrast of each."""
        degrees = (self.fovea_degree, self.surround_degree, self.colour_degree, self.colour_degree)
        return sum((d + 1) * (d + 2) // 2 - 1 for d in degrees) + 2 * len(degrees)


class GazePolicy(str, Enum):
    """Which terms say where to look; gaze.py tells what they are."""

    RANDOM = "random"  # none: saccade length and inhibition of return alone
    SALIENCE = "salience"  # what is in the picture: salience and change
    SURPRISE = "surprise"  # what the learner told: surprise and progress
    MIXED = "mixed"  # all of them, and neglect


@dataclass(frozen=True)
class GazeConfig:
    """Where to look; see gaze.py.

    With the defaults and a camera of 320 px and 60 degrees half of all random saccades are shorter
    than 30 px, so the 64 px windows of neighbouring fixations mostly overlap.
    """

    saccade_median_rad: float = math.radians(6.0)  # log-normal amplitude, as human saccades have
    saccade_log_std: float = 0.7  # spread of the amplitude's logarithm
    margin_px: float = 16.0  # fixations keep this far from the picture's edges
    inhibition_strength: float = 0.9  # chance that a saccade back to the last place is refused
    inhibition_radius_rad: float = math.radians(5.0)  # places further away than this are free
    inhibition_decay: float = 0.8  # the strength's factor a fixation
    inhibition_memory: int = 12  # fixations remembered
    saccade_scale_rad: float = 0.1  # efference: saccades in units of this
    gaze_scale_rad: float = 0.25  # efference: gaze angles in units of this

    policy: str = GazePolicy.MIXED.value
    # A place is exp(weight / temperature) times as likely for a term of 1 as for one of 0.
    temperature: float = 1.0
    free_share: float = 0.5  # of fixations that no term draws: what is seen stays like what is
    salience_weight: float = 0.5
    change_weight: float = 8.0
    surprise_weight: float = 0.5
    progress_weight: float = 0.5
    neglect_weight: float = 1.0

    cell_rad: float = math.radians(3.0)  # side of a cell of the map that remembers by angle
    change_frames: float = 30.0  # how slowly the memory of what was seen follows what is seen
    habit_frames: float = 300.0  # how slowly change at a place becomes usual
    surprise_frames: float = 900.0  # how slowly what the learner told of a place is forgotten
    neglect_frames: float = 60.0  # how soon a place looked at is due again

    dwell_frames: int = 4  # the head stays for so many frames after a move was told
    head_step_rad: float = math.radians(10.0)  # longest move of the head
    central_share: float = 0.5  # of width and height: what lies there needs no move of the head

    def __post_init__(self) -> None:
        for name in (
            "saccade_median_rad", "saccade_log_std", "inhibition_radius_rad",
            "saccade_scale_rad", "gaze_scale_rad", "temperature", "head_step_rad",
        ):  # fmt: skip
            check_number(self, name, above=0.0)
        for name in (
            "margin_px", "inhibition_strength", "inhibition_decay", "salience_weight",
            "change_weight", "surprise_weight", "progress_weight", "neglect_weight",
            "central_share", "free_share",
        ):  # fmt: skip
            check_number(self, name, at_least=0.0)
        for name in ("change_frames", "habit_frames", "surprise_frames", "neglect_frames"):
            check_number(self, name, at_least=1.0)
        check_choice(self, "policy", tuple(policy.value for policy in GazePolicy))
        check_number(self, "cell_rad", at_least=math.radians(1.0))
        check_whole(self, "inhibition_memory", 1)
        check_whole(self, "dwell_frames", 1)
        # Strength 1 would forbid a place outright: no revisit, nothing for memory to predict.
        if self.inhibition_strength >= 1.0:
            raise ConfigError(f"inhibition_strength = {self.inhibition_strength}: must be below 1")
        if self.inhibition_decay > 1.0:
            raise ConfigError(f"inhibition_decay = {self.inhibition_decay}: must be at most 1")
        if self.central_share >= 1.0:
            raise ConfigError(f"central_share = {self.central_share}: must be below 1")
        if self.free_share > 1.0:
            raise ConfigError(f"free_share = {self.free_share}: must be at most 1")
        if self.cell_rad > math.radians(30.0):
            raise ConfigError(f"cell_rad = {self.cell_rad}: must be at most {math.radians(30.0)}")


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
class CameraConfig:
    """What is asked of a live camera, and what no picture tells about itself."""

    width_px: int = 640  # a camera may deliver another size; what it delivers counts
    height_px: int = 480
    frames_per_s: float = 30.0
    field_of_view_rad: float = math.radians(60.0)  # horizontal; that of a usual webcam

    def __post_init__(self) -> None:
        check_whole(self, "width_px", 1)
        check_whole(self, "height_px", 1)
        check_number(self, "frames_per_s", above=0.0)
        check_number(self, "field_of_view_rad", above=0.0)
        if self.field_of_view_rad >= math.pi:
            raise ConfigError(
                f"field_of_view_rad = {self.field_of_view_rad}: must be below pi; it is in radians"
            )


@dataclass(frozen=True)
class HeadConfig:
    """The pan-tilt head a camera sits on, and how the two go together."""

    device: str = ""  # serial:PORT, feetech:PORT; empty: no head of its own
    pan_limit_rad: float = 0.5 * math.pi  # gaze turns the head no further to either side ..
    tilt_limit_rad: float = 0.5 * math.pi  # .. up or down; nor beyond what the head itself allows
    while_moving: str = "skip"  # such frames, or "correct" them by the angle at capture
    image_delay_s: float = 0.0  # how much older the picture is than its time stamp

    def __post_init__(self) -> None:
        if not isinstance(self.device, str):
            raise ConfigError(f"device = {self.device!r}: must be text, such as serial:")
        for name in ("pan_limit_rad", "tilt_limit_rad"):
            check_number(self, name, at_least=0.0)
        check_choice(self, "while_moving", ("skip", "correct"))
        check_number(self, "image_delay_s", at_least=0.0)


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
        if not isinstance(self.source, str):
            raise ConfigError(f"source = {self.source!r}: must be text, such as scene:")
        if not isinstance(self.calibration, str):
            raise ConfigError(f"calibration = {self.calibration!r}: must be text, a file's name")
        check_whole(self, "seed", 0)
        for name in (
            "fixations_per_frame", "metrics_every_frames", "rollback_every_frames",
            "checkpoints_kept",
        ):  # fmt: skip
            check_whole(self, name, 1)
        check_number(self, "checkpoint_every_s", at_least=0.0)
        check_whole(self, "held_out_frames", 2)
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
        return _from_table(cls, table, "")

    @classmethod
    def from_toml(cls, path: str | Path) -> RunConfig:
        """Read a configuration file; what it does not say has its default. Raises ConfigError."""
        try:
            with open(path, "rb") as file:
                return cls.from_dict(tomllib.load(file))
        except OSError as error:
            raise ConfigError(f"cannot read config {path}: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not TOML: {error}") from error
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error

    def to_toml(self) -> str:
        """The whole configuration as TOML, defaults included."""
        return tomli_w.dumps(asdict(self))


def _from_table(cls: type, table: dict, prefix: str):
    """Make the dataclass from a TOML table, whose sub-tables are its dataclass fields."""
    known = {field.name: field for field in fields(cls)}
    values = {}
    for key, value in table.items():
        if key not in known:
            near = get_close_matches(key, known, 1)
            hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(known)}"
            raise ConfigError(f"unknown key '{prefix}{key}': {hint}")
        section = known[key].default_factory
        if section is not MISSING:
            if not isinstance(value, dict):
                raise ConfigError(f"'{prefix}{key}' must be a table: [{prefix}{key}]")
            value = _from_table(section, value, f"{prefix}{key}.")
        values[key] = value
    return cls(**values)


def check_whole(config: object, name: str, at_least: int) -> None:
    """Raise ConfigError unless the field is a whole number of at least that."""
    value = getattr(config, name)
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < at_least:
        raise ConfigError(f"{name} = {value!r}: must be a whole number of at least {at_least}")
    object.__setattr__(config, name, int(value))  # NumPy's numbers do not go into a file


def check_number(
    config: object, name: str, *, above: float = -math.inf, at_least: float = -math.inf
) -> None:
    """Raise ConfigError unless the field is a finite number within the bound."""
    value = getattr(config, name)
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not (value > above and value >= at_least):
        bound = f"above {above:g}" if above > at_least else f"at least {at_least:g}"
        raise ConfigError(f"{name} = {value!r}: must be a finite number {bound}")
    object.__setattr__(config, name, float(value))


def check_choice(config: object, name: str, choices: tuple[str, ...]) -> None:
    """Raise ConfigError unless the field is one of the choices."""
    value = getattr(config, name)
    if value not in choices:
        raise ConfigError(f"{name} = {value!r}: must be one of {', '.join(choices)}")
