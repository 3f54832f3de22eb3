"""How a calibrated head is aimed: what firmware_bridge calls an Aim."""

from __future__ import annotations

import numpy as np

from calibration.angles import Limits, Pair
from calibration.errors import CalibrationError
from calibration.head_model import AXES, HeadModel


class CalibratedAim:
    """Curves, axes askew, and backlash by the side the servos come from.

    Angles are pointings (azimuth_rad, elevation_rad), as HeadModel has them.
    """

    def __init__(self, model: HeadModel) -> None:
        self._model = model
        pan, tilt = model.servos
        of_servos = (pan.low, pan.high), (tilt.low, tilt.high)
        self._limits_rad: np.ndarray = np.array(self.limits_rad(of_servos))

    def limits_rad(self, of_head: Limits) -> Limits:
        """(lowest, highest) pan and tilt, the other axis at home, within the head's limits.

        Raises CalibrationError when the servos were calibrated elsewhere.
        """
        pan, tilt = (self._range_rad(k, of_head[k]) for k in (0, 1))
        return pan, tilt

    def _range_rad(self, k: int, of_head: Pair) -> Pair:
        servo = self._model.servos[k]
        low, high = max(servo.low, of_head[0]), min(servo.high, of_head[1])
        if low > high:
            raise CalibrationError(
                f"the {AXES[k]} servo was calibrated from {servo.low:g} to {servo.high:g}, and is "
                f"now limited to {of_head[0]:g} to {of_head[1]:g}: calibrate the head again"
            )
        pulses = np.array([[s.home, s.home] for s in self._model.servos]).T
        pulses[:, k] = low, high
        ends_rad = self._model.pointing(self._model.shafts(pulses))[:, k]
        return float(ends_rad.min()), float(ends_rad.max())

    def positions(self, angles_rad: Pair, here_rad: Pair) -> Pair:
        """Pulses that bring the head from where it stands to these angles, or near them.

        From where is not known (NaN): into the middle of the backlash. Beyond what the servos can
        do: as far as they can. Where this head can look at nothing like it: they stay.
        """
        within_rad = np.clip(angles_rad, *self._limits_rad.T)
        goal, here = self._model.shafts_of_pointing(np.array([within_rad, here_rad]))
        goal, here = np.where(np.isnan(goal), here, goal), np.where(np.isnan(here), goal, here)
        goal, here = np.nan_to_num(goal), np.nan_to_num(here)  # neither is known: home
        pan, tilt = self._model.pulses_towards(goal, here).tolist()
        return pan, tilt

    def angles_rad(self, positions: Pair, before_rad: Pair) -> Pair:
        """Where the head stands at these pulses after it stood at before_rad."""
        middle = self._model.shafts(positions)
        before = self._model.shafts_of_pointing(before_rad)
        stands = self._model.stands(positions, np.where(np.isnan(before), middle, before))
        pan_rad, tilt_rad = self._model.pointing(stands).tolist()
        return pan_rad, tilt_rad
