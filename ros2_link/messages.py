"""ROS 2 messages and their bytes on the wire and in bags (CDR), for every type that ROS ships.

One codec serves whatever carries the bytes: a bag, DDS, rclpy. The definitions of messages come
with `rosbags`; none is fetched, and none that a bag or a peer sends along is compiled.
"""

from __future__ import annotations

import functools
from typing import Any

from ros2_link.errors import MessageError, MissingError


def decode(cdr: bytes | memoryview, type_name: str) -> Any:
    """The message of this type ("sensor_msgs/msg/Image") that these bytes are.

    It has the fields of the type as attributes; arrays of numbers are NumPy's, read-only, and share
    the memory of `cdr`. Raises MessageError for bytes that are none, or a type that is not known.
    """
    store = _store()
    _check_known(type_name)
    try:
        return store.deserialize_cdr(memoryview(cdr), type_name)
    except _faults() as error:
        raise MessageError(f"no {type_name}: {_short(error)}") from error


def encode(message: object, type_name: str) -> bytes:
    """The bytes of a message of this type. Raises MessageError where a field does not fit."""
    store = _store()
    _check_known(type_name)
    faults: tuple[type[Exception], ...] = (*_faults(), AttributeError, TypeError, AssertionError)
    try:
        return bytes(store.serialize_cdr(message, type_name))
    except faults as error:
        raise MessageError(f"cannot write {type_name}: {_short(error)}") from error


def message_class(type_name: str) -> Any:
    """The class of messages of this type: a dataclass that takes its fields in their order.

    Raises MessageError for a type that is not known.
    """
    _check_known(type_name)
    return _store().types[type_name]


def is_known(type_name: str) -> bool:
    """Whether messages of this type can be read and written."""
    return type_name in _store().types


def fields(type_name: str) -> list[tuple[str, Any]]:
    """The fields of the type in their order: name, and type as rosbags' `Nodetype` describes it.

    Raises MessageError for a type that is not known.
    """
    _check_known(type_name)
    return list(_store().fielddefs[type_name][1])


def type_hash(type_name: str) -> str:
    """What ROS 2 calls the type's hash ("RIHS01_..."), by which peers know that theirs is the same.

    Raises MessageError for a type that is not known.
    """
    _check_known(type_name)
    return _store().hash_rihs01(type_name)


def definition(type_name: str) -> str:
    """The definition of the type and of all it is made of, as an .msg file has it.

    Raises MessageError for a type that is not known.
    """
    _check_known(type_name)
    return _store().generate_msgdef(type_name, ros_version=2)[0]


def _check_known(type_name: str) -> None:
    if not is_known(type_name):
        raise MessageError(f"{type_name!r:.100} is none of the message types that ROS 2 ships")


@functools.cache
def _store() -> Any:
    """All message types of the newest ROS 2 that rosbags knows."""
    try:
        from rosbags.typesys import Stores, get_typestore
    except ModuleNotFoundError as error:
        if error.name != "rosbags":
            raise
        raise MissingError('ROS messages need rosbags: pip install "edge-rjepa[bags]"') from error
    return get_typestore(Stores.LATEST)


@functools.cache
def _faults() -> tuple[type[Exception], ...]:
    """What rosbags raises for bytes that are no message."""
    import struct

    from rosbags.serde import SerdeError

    return SerdeError, struct.error, ValueError, OverflowError, IndexError


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
