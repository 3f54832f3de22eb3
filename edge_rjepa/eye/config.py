"""Retina, gaze and the head they sit on: frozen dataclasses, checked when they are made."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

from edge_rjepa.base.checks import check_choice, check_number, check_text, check_whole
from edge_rjepa.errors import ConfigError

MOST_COLOUR_CODES = 96  # colour_codes.py lists so many
MOST_ORIENTATION_SCALES = 4
MOST_WINDOW_PX = 1024  # the tables of its coefficients grow with the third power of it
MOST_FEATURES = 1 << 16
ORIENTATIONS = 8


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
    colour_codes: int = 96  # colours whose share of the window is told; 0: none
    orientation_scales: int = 3  # at which edges are measured, 1, 2, 4, .. px; 0: none
    orientation_parts: int = 2  # side of the grid of parts of the window, each measured by itself

    def __post_init__(self) -> None:
        for name in ("window_px", "fovea_px", "surround_cells", "colour_cells"):
            check_whole(self, name, 2, MOST_WINDOW_PX)
        for name in ("fovea_degree", "surround_degree", "colour_degree"):
            check_whole(self, name, 1)
        check_number(self, "contrast_floor", above=0.0)
        check_whole(self, "colour_codes", 0)
        check_whole(self, "orientation_scales", 0)
        check_whole(self, "orientation_parts", 1)
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
        self._check_codes()
        if self.n_features > MOST_FEATURES:
            raise ConfigError(
                f"degrees that give {self.n_features} features: must be at most {MOST_FEATURES}"
            )

    def _check_codes(self) -> None:
        for name, most in (
            ("colour_codes", MOST_COLOUR_CODES),
            ("orientation_scales", MOST_ORIENTATION_SCALES),
        ):
            if getattr(self, name) > most:
                raise ConfigError(f"{name} = {getattr(self, name)}: must be at most {most}")
        for scale in range(self.orientation_scales):
            cells, rest = divmod(self.window_px, 2**scale)
            inner = cells - 2
            if rest or inner < self.orientation_parts or inner % self.orientation_parts:
                raise ConfigError(
                    f"orientation_scales = {self.orientation_scales}: {cells} x {cells} "
                    f"cells of {2**scale} px, without those at its edge, must come in "
                    f"{self.orientation_parts} x {self.orientation_parts} equal parts"
                )

    @property
    def n_features(self) -> int:
        """f: kept coefficients of the four groups, level and contrast of each, and the codes."""
        degrees = (self.fovea_degree, self.surround_degree, self.colour_degree, self.colour_degree)
        patterns = sum((d + 1) * (d + 2) // 2 - 1 for d in degrees)
        edges = self.orientation_scales * ORIENTATIONS * self.orientation_parts**2
        return patterns + 2 * len(degrees) + self.colour_codes + edges


class GazePolicy(str, Enum):
    """Which terms say where to look; gaze.py tells what they are."""

    RANDOM = "random"  # none: saccade length and inhibition of return alone
    SALIENCE = "salience"  # what is in the picture: salience and change
    SURPRISE = "surprise"  # what the learner reports: surprise and progress
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
    surprise_frames: float = 900.0  # how slowly the surprise at a place is forgotten
    neglect_frames: float = 60.0  # how soon a place looked at is due again

    dwell_frames: int = 4  # the head stays for so many frames after a move was commanded
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
class HeadConfig:
    """The pan-tilt head a camera sits on, and how the two go together."""

    device: str = ""  # serial:PORT, feetech:PORT; empty: no head of its own
    pan_limit_rad: float = 0.5 * math.pi  # gaze turns the head no further to either side ..
    tilt_limit_rad: float = 0.5 * math.pi  # .. up or down; nor beyond what the head itself allows
    while_moving: str = "skip"  # such frames, or "correct" them by the angle at capture
    image_delay_s: float = 0.0  # how much older the picture is than its time stamp

    def __post_init__(self) -> None:
        check_text(self, "device", "such as serial:")
        for name in ("pan_limit_rad", "tilt_limit_rad"):
            check_number(self, name, at_least=0.0)
        check_choice(self, "while_moving", ("skip", "correct"))
        check_number(self, "image_delay_s", at_least=0.0)
