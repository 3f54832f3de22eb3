"""What is asked of a live camera, and what no picture tells about itself."""

from __future__ import annotations

import math
from dataclasses import dataclass

from edge_rjepa.base.checks import check_number, check_whole
from edge_rjepa.errors import ConfigError

MOST_PX = 65_535
LONGEST_S = 604_800.0  # a week without a picture: drivers count milliseconds in 31 bits


@dataclass(frozen=True)
class CameraConfig:
    """What is asked of a live camera, and what no picture tells about itself."""

    width_px: int = 640  # a camera may deliver another size; what it delivers counts
    height_px: int = 480
    frames_per_s: float = 30.0
    first_picture_s: float = 10.0  # how long the first one may take
    field_of_view_rad: float = math.radians(60.0)  # horizontal; that of a usual webcam

    def __post_init__(self) -> None:
        check_whole(self, "width_px", 1, MOST_PX)
        check_whole(self, "height_px", 1, MOST_PX)
        check_number(self, "frames_per_s", above=0.0)
        check_number(self, "first_picture_s", above=0.0)
        if self.first_picture_s > LONGEST_S:
            raise ConfigError(f"first_picture_s = {self.first_picture_s:g}: must be a week at most")
        if 1.0 / self.frames_per_s > LONGEST_S:
            raise ConfigError(f"frames_per_s = {self.frames_per_s:g}: must be one a week at least")
        check_number(self, "field_of_view_rad", above=0.0)
        if self.field_of_view_rad >= math.pi:
            raise ConfigError(
                f"field_of_view_rad = {self.field_of_view_rad}: must be below pi; it is in radians"
            )
