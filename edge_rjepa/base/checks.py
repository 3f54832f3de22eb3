"""Checks of what comes from outside: fields of configurations, and the tables they come from."""

from __future__ import annotations

import math
from dataclasses import fields
from difflib import get_close_matches

import numpy as np

from edge_rjepa.errors import ConfigError

MOST_WHOLE = 2**63 - 1  # what TOML and other programs hold
MOST_TEXT = 4096  # of a path or the name of a source
SHOWN = 80  # characters of a wrong value


def from_table(cls: type, table: object, prefix: str = ""):
    """The dataclass of a table as TOML has it; sub-tables are its dataclass fields.

    prefix: of the keys in messages. Raises ConfigError for what is no table, for an unknown key or
    a value that is no table where one belongs, and what the dataclass raises.
    """
    if not isinstance(table, dict):
        raise ConfigError(f"{cls.__name__} {_shown(table)}: must be a table")
    known = {field.name: field for field in fields(cls)}
    values = {}
    for key, value in table.items():
        if key not in known:
            near = get_close_matches(key, known, 1)
            hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(known)}"
            raise ConfigError(f"unknown key '{prefix}{str(key)[:SHOWN]}': {hint}")
        section = known[key].default_factory
        if isinstance(section, type):
            if not isinstance(value, dict):
                raise ConfigError(f"'{prefix}{key}' must be a table: [{prefix}{key}]")
            value = from_table(section, value, f"{prefix}{key}.")
        values[key] = value
    return cls(**values)


def check_whole(config: object, name: str, at_least: int, at_most: int = MOST_WHOLE) -> None:
    """Raise ConfigError unless the field is a whole number within the bounds."""
    value = getattr(config, name)
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < at_least:
        must = f"must be a whole number of at least {at_least}"
        raise ConfigError(f"{name} = {_shown(value)}: {must}")
    if value > at_most:
        raise ConfigError(f"{name} = {_shown(value)}: must be at most {at_most}")
    object.__setattr__(config, name, int(value))  # NumPy's numbers do not go into a file


def check_number(
    config: object, name: str, *, above: float = -math.inf, at_least: float = -math.inf
) -> None:
    """Raise ConfigError unless the field is a finite number within the bound."""
    value = getattr(config, name)
    number = _as_float(value)
    if not math.isfinite(number) or not (number > above and number >= at_least):
        bound = f"above {above:g}" if above > at_least else f"at least {at_least:g}"
        raise ConfigError(f"{name} = {_shown(value)}: must be a finite number {bound}")
    object.__setattr__(config, name, number)


def check_choice(config: object, name: str, choices: tuple[str, ...]) -> None:
    """Raise ConfigError unless the field is one of the choices."""
    value = getattr(config, name)
    if value not in choices:
        raise ConfigError(f"{name} = {_shown(value)}: must be one of {', '.join(choices)}")


def check_text(config: object, name: str, such_as: str) -> None:
    """Raise ConfigError unless the field is text that can be a name or a path."""
    value = getattr(config, name)
    if not isinstance(value, str) or "\0" in value or len(value) > MOST_TEXT:
        raise ConfigError(f"{name} = {_shown(value)}: must be text, {such_as}")


def _as_float(value: object) -> float:
    """NaN for what is no number, or one that a float cannot hold."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def _shown(value: object) -> str:
    """The value as a line can show it: Python refuses to write out very long numbers."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        return "a number far too long"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}.."
