"""The lines of metrics.jsonl as they are drawn, whatever somebody wrote into that file."""

import json
import math
import os

import pytest

from edge_rjepa.base import journal
from edge_rjepa.views import metrics
from edge_rjepa.views.dashboard.history import CURVES, record_at, summed_up

LINES = {
    "text in a curve": {"information": "high"},
    "a list in a curve": {"information": [1.0]},
    "a truth in a curve": {"information": True},
    "a number beyond a float": {"information": 10**400},
    "infinity": {"information": math.inf, "time_unix_s": -math.inf},
    "a number that is none, within counts": {"faults": {"died": math.nan}},
    "objects within counts": {"faults": {"died": {"deep": math.nan}}},
    "a list for the time": {"time_unix_s": [1]},
    "fixations that are text": {"fixations": "many"},
    "fixations that are no number": {"fixations": math.nan},
    "an event that is a list": {"event": [1]},
    "an event without end": {"event": "x" * 500_000, "time_unix_s": math.nan},
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.jsonl"


def measured(fixations):
    return {"fixations": fixations, "time_unix_s": 1.0 * fixations, "information": 2.0}


@pytest.mark.parametrize("changes", LINES.values(), ids=LINES)
def test_a_strange_line_spoils_neither_page_nor_curve(path, changes):
    book = journal.Journal(path)
    for line in (measured(1), measured(2) | changes, measured(3)):
        book.append(line)
    with open(path, "a") as file:
        file.write("[" * 100_000 + "\n" + "\0" * 3_000_000 + "\n")
    text = json.dumps(summed_up(record_at(path)), allow_nan=False)  # as a browser parses it
    assert len(text) < 10_000
    found = json.loads(text)
    assert found["last"]["fixations"] == 3
    for name in CURVES:
        curve = found["curves"][name]["mean"]
        assert {type(value) for value in curve} <= {float, type(None)}
    record = metrics.read(path)
    information = metrics.column(record.measures, "information")
    assert information[0] == information[-1] == 2.0


@pytest.mark.parametrize("kind", ["pipe", "link", "device"])
def test_only_a_file_of_the_folder_is_read(path, tmp_path, kind):
    journal.Journal(tmp_path / "elsewhere").append(measured(1))
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero" if kind == "device" else tmp_path / "elsewhere")
    with pytest.raises(OSError, match="link|pipe"):
        metrics.read(path)
    assert summed_up(record_at(path))["last"] is None
