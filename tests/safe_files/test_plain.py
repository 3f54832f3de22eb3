"""Typed values from what a file says, and nothing else."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pytest

from safe_files.errors import FileError
from safe_files.plain import plain, rebuilt


class Part(NamedTuple):
    number: int
    share: float | None


@dataclass(frozen=True)
class Whole:
    name: str
    parts: tuple[Part, ...]
    pair: tuple[float, float]
    counts: dict[str, int]
    array: np.ndarray
    rest: object


WHOLE = Whole("a", (Part(1, 0.5), Part(2, None)), (1.0, 2.0), {"x": 3}, np.eye(2), {"any": [1]})


def test_what_is_made_plain_comes_back():
    again = rebuilt(Whole, plain(WHOLE), "whole")
    assert plain(again) == plain(WHOLE) and type(again.parts[0]) is Part


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        ("name", 5, "whole.name is not of type str"),
        ("parts", {}, "whole.parts is not a list"),
        ("parts", [{"number": 1}], "see share"),
        ("parts", [{"number": 1, "share": 1, "more": 1}], "see more"),
        ("parts", [{"number": True, "share": 1}], "number is not of type int"),
        ("parts", [{"number": 1.0, "share": 1}], "number is not of type int"),
        ("parts", [{"number": 10**30, "share": 1}], "number is not a number of 64 bits"),
        ("parts", [{"number": 1, "share": math.nan}], "share is not a number"),
        ("parts", [{"number": 1, "share": 10**400}], "share is not a number"),
        ("parts", [{"number": 1, "share": -math.inf}], "share is not a number"),
        ("parts", [{"number": 1, "share": "0.5"}], "share is not a number"),
        ("pair", [1.0], "pair is not 2 values"),
        ("counts", {"x": "y"}, "counts.x is not of type int"),
        ("array", [[1], [1, 2]], "array is not a list of numbers"),
        ("array", [10**400], "array is not a list of numbers"),
        ("array", "123", "array is not a list of numbers"),
    ],
)
def test_everything_else_is_refused_with_its_place(place, value, says):
    with pytest.raises(FileError, match=says) as caught:
        rebuilt(Whole, plain(WHOLE) | {place: value}, "whole")
    assert "\n" not in str(caught.value)


def test_what_is_no_object_is_refused():
    for value in (None, [], "text", 5):
        with pytest.raises(FileError, match="whole is not an object"):
            rebuilt(Whole, value, "whole")
