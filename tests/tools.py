"""What tests need besides Python, cases for `make attack` alone, and a clock for busy machines."""

import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

import pytest


def need(what: str, tools: dict[str, str]) -> None:
    """Skip what calls this, a test file or a test, where a program or a file of `tools` is missing.

    tools: the Debian package of each. With EDGE_RJEPA_REQUIRE_EMULATOR=1 in the environment it
    fails instead: so CI leaves nothing out.
    """
    missing = {
        package: None
        for tool, package in tools.items()
        if not shutil.which(tool) and not Path(tool).is_file()
    }
    if not missing:
        return
    told = f"{what}: apt-get install -y --no-install-recommends {' '.join(missing)}"
    if os.environ.get("EDGE_RJEPA_REQUIRE_EMULATOR") == "1":
        pytest.fail(told, pytrace=False)
    pytest.skip(f"not run: {told}", allow_module_level=True)


def unhindered_s(whose: str = "thread-self") -> float:
    """A clock that stands still while a thread stands in line for a processor.

    whose: the thread's name below /proc, by default the calling one's. What takes a second by this
    clock would take a second on a machine that has nothing else to do.
    """
    with open(f"/proc/{whose}/schedstat") as file:
        in_line_ns = int(file.read().split()[1])
    return time.monotonic() - 1e-9 * in_line_ns


def but_in_attack(names: Iterable[str], *rarely: str) -> list:
    """The names as parameters of a test; those in `rarely` are marked `attack`."""
    names = list(names)
    assert set(rarely) <= set(names), rarely
    marks = pytest.mark.attack
    return [pytest.param(name, marks=marks) if name in rarely else name for name in names]
