"""The soak in short, and that it would notice what it is there to notice."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import soak
from benchmarks.soak import Outage, Sample, violations

QUIET = [
    Outage("stall", 1.6, 0.4, 1.5, Sample(200.0 + i % 3, 8, 9, 100_000 + i % 7)) for i in range(100)
]


@pytest.mark.long
def test_the_loop_lives_through_a_failing_camera():
    """In a process of its own, whose threads and files are no other test's.

    On a busy machine it may take longer than a robot could wait, and nothing else may be wrong.
    The more the machine has to do with a picture, the fewer fixations it takes of it: so pictures
    are small, and come half as often as in the soak itself.
    """
    arguments = [sys.executable, "-m", "benchmarks.soak", "--fixations", "20000", "--faults", "5"]
    arguments += ["--width", "320", "--frames-per-s", "60"]
    folder = Path(__file__).parents[2]
    ended = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, timeout=900)
    said = ended.stdout.splitlines()
    wrong = [line for line in said if line.startswith("VIOLATED")]
    late = [line for line in wrong if "not noticed in" in line or "resumed after" in line]
    assert wrong == late and "5/5" in ended.stdout, ended.stdout + ended.stderr
    assert said[-1].startswith("failed after" if wrong else "held after")


def test_nothing_is_wrong_with_a_quiet_run():
    assert violations(QUIET, oldest_s=0.1, learned=True) == []
    assert violations([], oldest_s=0.1, learned=True) == []


@pytest.mark.parametrize(
    ("name", "every"), [("resident_mib", 2), ("threads", 40), ("files", 40), ("objects", 0.05)]
)
def test_a_small_leak_is_noticed(name, every):
    """One more of it at every so many faults."""

    def leaking(i, outage):
        grown = getattr(outage.sample, name) + int(i / every)
        return outage._replace(sample=outage.sample._replace(**{name: grown}))

    outages = [leaking(i, outage) for i, outage in enumerate(QUIET)]
    (wrong,) = violations(outages, oldest_s=0.1, learned=True)
    assert wrong.startswith(f"{name} grew")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"noticed_s": 2.6}, "fault 8, stall: not noticed in 2 s"),
        ({"noticed_s": float("inf")}, "fault 8, stall: not noticed in 2 s"),
        ({"resumed_s": 16.0}, "fault 8, stall: resumed after 16.0 s"),
    ],
)
def test_an_outage_that_lasts_is_named(change, words):
    outages = [*QUIET[:7], QUIET[7]._replace(**change), *QUIET[8:]]
    assert violations(outages, oldest_s=0.1, learned=True) == [words]


def test_stale_pictures_and_a_learner_that_did_not_learn_are_wrong():
    assert violations(QUIET, oldest_s=1.2, learned=True) == ["learned from a picture 1.2 s old"]
    assert violations(QUIET, oldest_s=0.1, learned=False) == ["it did not learn"]


def test_a_failed_soak_ends_with_an_error(monkeypatch, capsys):
    monkeypatch.setattr(soak, "soak", lambda *arguments: ["it did not learn"])
    assert soak.main([]) == 1
    assert "VIOLATED: it did not learn\nfailed" in capsys.readouterr().out
    monkeypatch.setattr(soak, "soak", lambda *arguments: [])
    assert soak.main([]) == 0
