"""Typing a command without a process of its own: what is refused is refused at once."""

import subprocess

import pytest

from edge_rjepa.cli import main


@pytest.fixture
def typed(capsys, monkeypatch):
    """Types a command in a folder; its exit code and what it said, as of a process."""

    def type_in(folder, *arguments):
        monkeypatch.chdir(folder)
        capsys.readouterr()
        try:
            code = main(list(arguments))
        except SystemExit as ended:  # as argparse does it
            code = ended.code
        return subprocess.CompletedProcess(arguments, code, *capsys.readouterr())

    return type_in
