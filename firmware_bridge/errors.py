"""Typed errors. Each message is one line that names the cause and the cure."""


class HeadError(OSError):
    """Base of every error about a head: the head, its wiring or its use is at fault."""


class LinkError(HeadError):
    """The line is dead, or there is no such port just now: worth trying again later."""


class HeadMismatch(HeadError):  # noqa: N818
    """What answers is no head, or one of another protocol: trying again is of no use."""
