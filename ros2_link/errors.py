"""What goes wrong with ROS 2. Each message is one line that names the cause."""


class Ros2Error(Exception):
    """Base of every error this package raises on purpose."""


class MessageError(Ros2Error, ValueError):
    """Bytes that are no message of their type, or a message that cannot be made bytes."""


class MissingError(Ros2Error, ImportError):
    """A library is not installed; the message has the command that installs it."""


class GraphError(Ros2Error, OSError):
    """The graph of ROS 2 cannot be joined here, or not be used so; the message has the cure."""
