"""The recipes of the docs, followed literally."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# -- add a command --------------------------------------------------------------------------------

HELLO = '''"""`edge-rjepa hello`: greet a run."""

from edge_rjepa.cli import options as flags

EXAMPLES = "example:\\n  edge-rjepa hello runs/mine\\n"


def add_to(commands):
    """Add `hello` to the commands."""
    flags.add_run(flags.add_command(commands, "hello", execute, "greet a run", EXAMPLES))


def execute(options):
    """Print the greeting."""
    print(f"hello, {options.run}")
    return 0
'''


def copy_of_the_package(folder):
    """A copy of all that the command line imports, to be changed."""
    for name in ("edge_rjepa", "firmware_bridge", "calibration", "safe_files"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))


def edge_rjepa(folder, *arguments):
    command = [sys.executable, "-m", "edge_rjepa", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_a_command_is_a_module_and_a_line(tmp_path):
    copy_of_the_package(tmp_path)
    room = tmp_path / "edge_rjepa" / "cli"
    (room / "hello.py").write_text(HELLO)
    table = (room / "__init__.py").read_text()
    last = '    "check_gradients",\n'
    assert table.count(last) == 1
    (room / "__init__.py").write_text(table.replace(last, last + '    "hello",\n'))

    done = edge_rjepa(tmp_path, "hello", "runs/mine")
    assert (done.returncode, done.stdout) == (0, "hello, runs/mine\n"), done.stderr
    assert "greet a run" in edge_rjepa(tmp_path, "--help").stdout
    assert "example:" in edge_rjepa(tmp_path, "hello", "--help").stdout
    assert edge_rjepa(tmp_path, "hello").returncode == 2
