"""Dataclasses as plain JSON values and back, read strictly.

Reading goes by the types of the fields, so a value that is missing, unknown, of another kind, no
finite number or beyond all use is refused with the place where it stands.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing

import numpy as np

from safe_files.errors import FileError

MOST_FLOAT = float(np.finfo(np.float64).max)
MOST = 2**63  # whole numbers below it, as other programs hold them


def plain(value):
    """Dataclasses, named tuples, arrays and numbers as what JSON can hold."""
    if dataclasses.is_dataclass(value):
        fields = (field.name for field in dataclasses.fields(value))
        return {name: plain(getattr(value, name)) for name in fields}
    if hasattr(value, "_asdict"):
        return {name: plain(part) for name, part in value._asdict().items()}
    if isinstance(value, dict):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return value


def finite(values: dict) -> dict:
    """The same, null where a number is not finite, in counts by name too: JSON knows no other."""

    def known(value):
        if isinstance(value, dict):
            return finite(value)
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return {name: known(value) for name, value in values.items()}


def rebuilt(kind, value, place: str):
    """What `plain` made of a value of this type; `object` is whatever stands there.

    Raises FileError that names the place.
    """
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        inner = [part for part in parts if part is not type(None)]
        return (
            None if value is None and len(inner) < len(parts) else rebuilt(inner[0], value, place)
        )
    if dataclasses.is_dataclass(kind) or hasattr(kind, "_fields"):
        return _rebuilt_fields(kind, value, place)
    if kind is np.ndarray:
        return _array(value, place)
    if kind is object:
        return value
    if origin is dict:
        _check(isinstance(value, dict), place, "an object")
        return {name: rebuilt(parts[1], part, f"{place}.{name}") for name, part in value.items()}
    if origin in (tuple, list):
        _check(isinstance(value, list), place, "a list")
        kinds = [parts[0]] * len(value) if parts[-1] is Ellipsis or origin is list else parts
        _check(len(kinds) == len(value), place, f"{len(kinds)} values")
        both = enumerate(zip(kinds, value, strict=True))
        return origin(rebuilt(part, each, f"{place}[{n}]") for n, (part, each) in both)
    if kind is float:
        _check(type(value) in (int, float) and abs(value) <= MOST_FLOAT, place, "a number")
        return float(value)
    _check(type(value) is kind, place, f"of type {kind.__name__}")
    if kind is int:
        _check(-MOST <= value < MOST, place, "a number of 64 bits")
    return value


def _rebuilt_fields(kind, value, place: str):
    _check(isinstance(value, dict), place, "an object")
    kinds = _fields(kind)
    strange = set(kinds) ^ set(value)
    names = ", ".join(sorted(strange))
    _check(not strange, place, f"the fields {', '.join(kinds)} (see {names:.200})")
    parts = {name: rebuilt(kinds[name], value[name], f"{place}.{name}") for name in kinds}
    return kind(**parts)


@functools.cache
def _fields(kind) -> dict[str, object]:
    """Name -> type of what a dataclass or a named tuple is made of."""
    hints = typing.get_type_hints(kind)
    if dataclasses.is_dataclass(kind):
        return {field.name: hints[field.name] for field in dataclasses.fields(kind)}
    return {name: hints[name] for name in kind._fields}


def _array(value, place: str) -> np.ndarray:
    try:
        array = np.array(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        array = np.array(np.nan)
    _check(isinstance(value, list) and bool(np.isfinite(array).all()), place, "a list of numbers")
    return array


def _check(good: bool, place: str, what: str) -> None:
    if not good:
        raise FileError(f"{place} is not {what}")
