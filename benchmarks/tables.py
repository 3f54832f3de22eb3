"""Tables of benchmarks: Markdown that a terminal shows well, and that goes into a page of docs/."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from benchmarks.timing import Spread


class Table(NamedTuple):
    """Rows of text under a heading."""

    heading: tuple[str, ...]
    rows: list[tuple[str, ...]]

    def __str__(self) -> str:
        """As Markdown, padded for a terminal."""
        lines = [self.heading, *self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.heading))]
        rule = tuple("-" * width for width in widths)
        return "\n".join(_line(line, widths) for line in (self.heading, rule, *self.rows))


def mean_and_range(values: list[float]) -> str:
    """As a cell: the mean, and in brackets the lowest and the highest."""
    return f"{sum(values) / len(values):.3f} ({min(values):.3f} .. {max(values):.3f})"


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
    return f"| {' | '.join(padded)} |"


def plain(value: Spread) -> str:
    """Median (quartiles), three digits or all before the point."""
    digits = 0 if value.median >= 100 else 1 if value.median >= 10 else 2
    median, low, high = (f"{number:,.{digits}f}" for number in value)
    return f"{median} ({low} .. {high})"


def microseconds(seconds: Spread) -> str:
    return plain(Spread(*(1e6 * value for value in seconds)))


def put(page: Path, name: str, text: str) -> None:
    """Put `text` where the page has `<!-- name -->` .. `<!-- end -->`. Raises ValueError if not."""
    before = page.read_text(encoding="utf-8")
    place = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
    after, found = place.subn(lambda match: f"{match[1]}\n{text}\n\n{match[2]}", before)
    if not found:
        raise ValueError(f"{page.name} has no place for {name}: write <!-- {name} --> <!-- end -->")
    page.write_text(after, encoding="utf-8")
