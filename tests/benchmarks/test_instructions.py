"""The inner loops take no more instructions than they did: counted, so no noise can hide it."""

import json

import pytest

from benchmarks import instructions


@pytest.mark.long
def test_no_more_instructions_than_before():
    """If it fails for a good reason: python -m benchmarks.instructions --write."""
    if instructions.why_not():
        pytest.skip(instructions.why_not())
    kept = json.loads(instructions.KEPT.read_text())
    if kept["versions"] != instructions.versions():
        pytest.skip(f"counted with {kept['versions']}, here are {instructions.versions()}")
    counts = {task: each["Ir"] for task, each in instructions.count().items()}
    assert counts.keys() == kept["instructions"].keys()
    most = {task: (1 + instructions.SLACK) * n for task, n in kept["instructions"].items()}
    assert {task: n for task, n in counts.items() if n > most[task]} == {}


def test_a_count_is_read_from_what_callgrind_writes(tmp_path):
    """Its totals: in a file of one of several dumps the summary may be another number."""
    path = tmp_path / "counts.3"
    path.write_text(
        "version: 1\ndesc: Trigger: Client Request: see 16 fixations\n"
        "events: Ir Dr Dw I1mr D1mr D1mw ILmr DLmr DLmw\nsummary: 1 2 3 4 5 6 7 8 9\n"
        "totals: 1000 200 100 4 30 5 6 2 1\n"
    )
    events = {"Ir": 1000, "DRef": 300, "D1m": 35, "DLm": 3}
    assert instructions.read(path) == ("see 16 fixations", events)
    path.write_text("desc: Trigger: Program termination\nevents: Ir\ntotals: 5\n")
    assert instructions.read(path) is None
