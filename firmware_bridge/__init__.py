"""A pan-tilt head: its protocol, its firmware, and the host's side. Works without edge_rjepa.

from firmware_bridge import open_head
with open_head("serial:") as head:
    head.move_and_wait(0.3, -0.1)
"""

from __future__ import annotations

from firmware_bridge.aim import Aim, Axis, StraightAim
from firmware_bridge.errors import HeadError, HeadMismatch, LinkError
from firmware_bridge.head import HeadStatus, PanTiltHead
from firmware_bridge.kinds import driver_of, kind_of, supported
from firmware_bridge.track import Pose

__all__ = [
    "Aim",
    "Axis",
    "HeadError",
    "HeadMismatch",
    "HeadStatus",
    "LinkError",
    "PanTiltHead",
    "Pose",
    "StraightAim",
    "driver_of",
    "kind_of",
    "open_head",
    "supported",
]


def open_head(spec: str, aim: Aim | None = None, **options) -> PanTiltHead:
    """The connected head that `spec` names: see driver_of. Options: those of PanTiltHead.

    Raises HeadError when nothing fit answers.
    """
    return PanTiltHead(driver_of(spec), aim, **options)
