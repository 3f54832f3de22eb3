"""The firmware's core under a coverage-guided fuzzer, which must also find the bugs planted here.

EDGE_RJEPA_FUZZ_SECONDS: how long it fuzzes; 15 unless told. From the same seed each time, so that a
change that passes here passes elsewhere; `make fuzz` hunts for an hour, each time differently.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.tools import need

pytestmark = pytest.mark.fuzz

FIRMWARE = Path(__file__).parents[2] / "firmware_bridge" / "firmware"
SECONDS = int(os.environ.get("EDGE_RJEPA_FUZZ_SECONDS", "15"))
FOUND_WITHIN_S = 60
SAME_EACH_TIME = "FUZZ_OPTIONS=-seed=1"

# What is changed in which file, and what the fuzzer then says.
PLANTED = {
    "tilt is not limited": (
        "head.c",
        "within(tilt, &axis[1])};",
        "tilt};",
        "within(",
    ),
    "a frame may be one byte too long": (
        "framing.c",
        "decoder->size == sizeof decoder->bytes",
        "decoder->size > sizeof decoder->bytes",
        "out of bounds",
    ),
    "the slew limit is 4% too high": (
        "motion.c",
        "#define SLEW_TO_STEP 25",
        "#define SLEW_TO_STEP 24",
        "way",
    ),
    "a head without torque wakes one step away": (
        "motion.c",
        "if (motion->waking) {",
        "if (false) {",
        "home",
    ),
    "new limits while it stands outside": (
        "head.c",
        "!stands_within(&settings)",
        "(stands_within(&settings), false)",
        "within(",
    ),
}


def fuzz(folder: Path, seconds: int, *options: str) -> subprocess.CompletedProcess:
    """The output of `make fuzz`, whose builds and finds go to `folder`."""
    command = ["make", "-C", FIRMWARE, "fuzz", f"SECONDS={seconds}", f"BUILD={folder}", *options]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.fixture(scope="module", autouse=True)
def _needs_clang():
    """Where there is no fuzzer, these tests are reported as not run."""
    need("there is no fuzzer", {"make": "make", "clang": "clang libclang-rt-dev"})


def test_nothing_breaks_a_promise(tmp_path):
    done = fuzz(tmp_path, SECONDS, SAME_EACH_TIME)
    assert done.returncode == 0, done.stdout[-3000:]
    runs = int(re.search(r"number_of_executed_units: (\d+)", done.stdout).group(1))
    assert runs > 10 * SECONDS


@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_is_found(tmp_path, bug):
    file, right, wrong, told = PLANTED[bug]
    core = shutil.copytree(FIRMWARE / "core", tmp_path / "core")
    text = (core / file).read_text(encoding="utf-8")
    assert text.count(right) == 1
    (core / file).write_text(text.replace(right, wrong), encoding="utf-8")
    done = fuzz(tmp_path / "build", FOUND_WITHIN_S, f"CORE_DIR={core}", SAME_EACH_TIME)
    found = re.search("not true: .*|runtime error: .*", done.stdout)
    assert found and done.returncode != 0, done.stdout[-3000:]
    assert told in found.group(0)
