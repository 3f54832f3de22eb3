"""Checks of what comes from outside: fields of configurations, and the tables they come from."""

from __future__ import annotations

import math
from dataclasses import fields
from difflib import get_close_matches

import numpy as np

from edge_rjepa.errors import ConfigError


def from_table(cls: type, table: dict, prefix: str = ""):
    """The dataclass of a table as TOML has it; sub-tables are its dataclass fields.

    prefix: of the keys in messages. Raises ConfigError for an unknown key or a value that is no
    table where one belongs, and what the dataclass raises.
    """
    known = {field.name: field for field in fields(cls)}
    values = {}
    for key, value in table.items():
        if key not in known:
            near = get_close_matches(key, known, 1)
            hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(known)}"
            raise ConfigError(f"unknown key '{prefix}{key}': {hint}")
        section = known[key].default_factory
        if isinstance(section, type):
            if not isinstance(value, dict):
                raise ConfigError(f"'{prefix}{key}' must be a table: [{prefix}{key}]")
            value = from_table(section, value, f"{prefix}{key}.")
        values[key] = value
    return cls(**values)


def check_whole(config: object, name: str, at_least: int) -> None:
    """Raise ConfigError unless the field is a whole number of at least that."""
    value = getattr(config, name)
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < at_least:
        raise ConfigError(f"{name} = {value!r}: must be a whole number of at least {at_least}")
    object.__setattr__(config, name, int(value))  # NumPy's numbers do not go into a file


def check_number(
    config: object, name: str, *, above: float = -math.inf, at_least: float = -math.inf
) -> None:
    """Raise ConfigError unless the field is a finite number within the bound."""
    value = getattr(config, name)
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not (value > above and value >= at_least):
        bound = f"above {above:g}" if above > at_least else f"at least {at_least:g}"
        raise ConfigError(f"{name} = {value!r}: must be a finite number {bound}")
    object.__setattr__(config, name, float(value))


def check_choice(config: object, name: str, choices: tuple[str, ...]) -> None:
    """Raise ConfigError unless the field is one of the choices."""
    value = getattr(config, name)
    if value not in choices:
        raise ConfigError(f"{name} = {value!r}: must be one of {', '.join(choices)}")
