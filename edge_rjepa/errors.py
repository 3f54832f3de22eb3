"""Typed errors. Each message is one line that names the cause and the cure."""


class RJepaError(Exception):
    """Base of every error this package raises on purpose."""


class ConfigError(RJepaError, ValueError):
    """A configuration is unknown, out of range or inconsistent."""


class InputError(RJepaError, ValueError):
    """An array handed in has the wrong shape or dtype, is empty, or is not finite."""


class SourceError(RJepaError, OSError):
    """A picture, a video or a camera cannot be read."""


class CheckpointError(RJepaError, OSError):
    """A checkpoint is missing, damaged, or of another kind or version."""


class ExportError(RJepaError, ValueError):
    """An exported encoder could not be built or does not agree with its learner."""


class CollapseError(RJepaError):
    """The representation collapsed again and again and rolling back did not help."""


class DeviceError(RJepaError, RuntimeError):
    """A device that computes cannot be had, or failed while it was in use."""
