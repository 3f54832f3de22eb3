"""What tests need besides Python: without it they are reported as not run, with what to install."""

import os
import shutil
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
