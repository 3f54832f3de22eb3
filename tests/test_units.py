"""The services of the documentation are what systemd takes."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
UNITS = [
    (page.name, unit)
    for page in sorted(DOCS.glob("*.md"))
    for unit in re.findall(r"```ini\n(\[Unit\]\n.*?)```", page.read_text(), re.S)
]
PROGRAM = "/opt/edge-rjepa/bin/edge-rjepa"  # of the documentation


def test_there_are_units():
    assert [page for page, _ in UNITS] == ["live.md", "watch.md"]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd: apt-get install it")
@pytest.mark.parametrize(("page", "unit"), UNITS, ids=[page for page, _ in UNITS])
def test_a_unit_is_what_systemd_takes(page, unit, tmp_path):
    path = tmp_path / "edge-rjepa-test.service"
    path.write_text(unit.replace(PROGRAM, "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True)
    said = [line for line in done.stderr.splitlines() if path.name in line]
    assert done.returncode == 0 and not said, done.stderr


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd: apt-get install it")
def test_systemd_refuses_a_unit_that_is_wrong(tmp_path):
    path = tmp_path / "edge-rjepa-test.service"
    path.write_text(UNITS[-1][1].replace(PROGRAM, "/bin/true").replace("Restart=", "Restarts="))
    done = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True)
    assert "Restarts" in done.stderr


def test_the_flags_of_the_units_are_those_of_the_commands(capsys):
    from edge_rjepa.cli import main

    for _, unit in UNITS:
        for command in re.findall(rf"{PROGRAM} (\w+)", unit):
            with pytest.raises(SystemExit):
                main([command, "--help"])
            known = capsys.readouterr().out
            assert all(flag in known for flag in re.findall(r" (--[a-z-]+)", unit))
