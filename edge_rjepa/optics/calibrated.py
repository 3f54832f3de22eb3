"""What a calibration file means to a run: the lens of its camera, the aim and pace of its head."""

from __future__ import annotations

from calibration.aim import CalibratedAim
from calibration.errors import CalibrationError
from calibration.head_model import HeadCamera
from calibration.io import Calibration, load, warnings
from edge_rjepa.optics.camera import Lens

__all__ = ["check_unit", "head_options", "image_delay_s", "lens_of", "load", "warnings_of"]


def lens_of(found: Calibration, on_head: bool) -> Lens | None:
    """The calibrated camera at any resolution of the same shape; None if there is none.

    on_head: whether it sits on the calibrated head: the picture is then turned as that turns it.
    The lens raises CalibrationError for pictures of another shape.
    """
    if found.head and on_head:
        result = found.head.result
        return lambda *size: HeadCamera(result.camera.resized(*size), result.model)
    return found.camera.result.model.resized if found.camera else None


def head_options(found: Calibration) -> dict:
    """What the head is opened with, beside its name: see firmware_bridge.open_head."""
    if found.head is None:
        return {}
    timing = found.head.result.timing
    settle = {} if timing is None else {"settle_s": max(0.0, timing.settling_s - timing.lag_s)}
    return {"aim": CalibratedAim(found.head.result.model), **settle}


def check_unit(found: Calibration, unit: str) -> None:
    """Raises CalibrationError if the calibrated head is not commanded in this unit."""
    if found.head and found.head.result.unit != unit:
        raise CalibrationError(
            f"the head is commanded in {unit}, the calibration is of {found.head.device} in "
            f"{found.head.result.unit}: run calibrate head for this one, into another file"
        )


def image_delay_s(found: Calibration) -> float:
    """How much later a picture shows what was commanded; 0 if that was not measured."""
    timing = found.head and found.head.result.timing
    return timing.delay_s + timing.lag_s if timing else 0.0


def warnings_of(
    found: Calibration, camera_name: str, size_px: tuple[int, int], head_name: str | None
) -> list[str]:
    """What speaks against using a calibration with this camera and head, in words."""
    lines = warnings(found.camera, camera_name, size_px) if found.camera else []
    if found.head and head_name is not None:
        lines += warnings(found.head, head_name)
    return lines
