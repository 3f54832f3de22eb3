"""Who ships this can read what it is made of."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "licences.md").read_text()
FILES = sorted((ROOT / "requirements").glob("*.txt"))
NAMES = [
    re.split(r"[<>=; ]", line)[0]
    for file in FILES
    for line in file.read_text().splitlines()
    if line and not line.startswith("#")
]


@pytest.mark.parametrize("name", NAMES)
def test_every_package_that_is_installed_with_it_has_its_licence_told(name):
    assert re.search(rf"^\|[^|]*\b{name}\b[^|]*\|", PAGE, re.MULTILINE)
    assert len(NAMES) > 8
