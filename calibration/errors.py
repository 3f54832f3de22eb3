"""The one error of this package: a line that names the cause and the cure."""


class CalibrationError(ValueError):
    """A calibration cannot be made, is not to be trusted, or cannot be read."""
