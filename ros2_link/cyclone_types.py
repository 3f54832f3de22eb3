"""Types of messages as Cyclone DDS has them, whose samples stay bytes.

Peers compare the structure of types before they talk (XTypes), so each type is described in full,
from the same definitions as messages.py has. Yet nothing here takes a message apart.
"""

from __future__ import annotations

import functools
from typing import Any

from cyclonedds.idl import IdlStruct, make_idl_struct, types
from rosbags.interfaces import Nodetype

from ros2_link.messages import fields

OF: Any = types  # what they are subscripted with is beyond mypy
PLAIN = {
    "bool": bool, "byte": types.uint8, "char": types.uint8, "string": str,
    "int8": types.int8, "int16": types.int16, "int32": types.int32, "int64": types.int64,
    "uint8": types.uint8, "uint16": types.uint16, "uint32": types.uint32, "uint64": types.uint64,
    "float32": types.float32, "float64": types.float64,
}  # fmt: skip


class CdrBytes(IdlStruct):
    """A sample: the bytes of a message, never taken apart."""

    def __init__(self, cdr: bytes) -> None:
        self.cdr = cdr

    def serialize(self, *_: object, **__: object) -> bytes:
        return self.cdr

    @classmethod
    def deserialize(cls, data: bytes, *_: object, **__: object) -> CdrBytes:
        return cls(data)

    @classmethod
    def deserialize_key(cls, data: bytes, *_: object, **__: object) -> CdrBytes:
        return cls(data)


@functools.cache
def sample_type(type_name: str) -> Any:
    """The class, a CdrBytes, of samples of `sensor_msgs/msg/Image`, say. Raises MessageError."""
    package, _, name = type_name.partition("/msg/")
    return make_idl_struct(
        name,
        f"{package}::msg::dds_::{name}_",
        {field: _type_of(description) for field, description in fields(type_name)},
        dataclassify=False,
        bases=(CdrBytes,),
    )


def _type_of(description: Any) -> Any:
    """A field's type, from (Nodetype, what of): a name, or the type and length of its items."""
    kind, what = description
    if kind is Nodetype.BASE:
        name, bound = what
        return OF.bounded_str[bound] if bound else PLAIN[name]
    if kind is Nodetype.NAME:
        return sample_type(what)
    item, count = what
    if kind is Nodetype.ARRAY:
        return OF.array[_type_of(item), count]
    return OF.sequence[(_type_of(item), count)] if count else OF.sequence[_type_of(item)]
