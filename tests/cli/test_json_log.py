"""`--log json`: every line on standard error is one JSON object, whoever wrote it."""

import json
import subprocess
import sys
from datetime import datetime

import cv2
import pytest

from edge_rjepa.cli import json_log
from tests import small_runs

pytestmark = pytest.mark.slow
PROGRAM = [sys.executable, "-m", "edge_rjepa"]


def run(folder, *arguments, program=PROGRAM):
    done = subprocess.run(
        [*program, *arguments], cwd=folder, capture_output=True, text=True, timeout=300
    )
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    for line in lines:
        assert datetime.fromisoformat(line["time"]).tzinfo is not None
        assert line["level"] in ("info", "warning", "error") and line["event"]
    return done.returncode, lines, done.stdout


@pytest.fixture
def folder(tmp_path):
    for i, picture in enumerate(small_runs.smooth_pictures(6)):
        path = tmp_path / "pictures" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), picture)
    (tmp_path / "pictures" / "broken.png").write_bytes(b"no picture")
    (tmp_path / "small.toml").write_text("held_out_frames = 20\n" + small_runs.CONFIG)
    return tmp_path


def test_learning_is_told_with_its_numbers_and_warnings_have_a_level(folder):
    learn = ["learn", "--source", "scene:pictures", "--config", "small.toml", "--fixations", "640"]
    code, lines, printed = run(folder, *learn, "--out", "run", "--log", "json", "--json")
    assert code == 0 and json.loads(printed)["fixations"] >= 640
    progress = [line for line in lines if "fixations" in line]
    assert progress and progress[0]["surprise_nats"] != 0 and progress[0]["frames"] >= 1
    warned = [line["event"] for line in lines if line["level"] == "warning"]
    assert len(warned) == 1 and "broken.png" in warned[0] and "warning" not in warned[0]
    assert any(line["event"].startswith("run: run") for line in lines)


@pytest.mark.parametrize(
    ("arguments", "code", "event"),
    [
        (["learn", "--log=json", "--source", "nowhere.mp4"], 1, "nowhere.mp4: no such"),
        (["export", "none", "--log", "json"], 1, "none"),
        (["learn", "--log", "json", "--fixations", "-3"], 2, "argument --fixations"),
        (["--log", "json", "nonsense"], 2, "invalid choice"),
    ],
)
def test_errors_that_end_a_command_are_json_too(folder, arguments, code, event):
    found, lines, _ = run(folder, *arguments)
    assert found == code
    assert lines[-1]["level"] == "error" and event in lines[-1]["event"]
    assert not lines[-1]["event"].startswith("edge-rjepa")


def test_what_libraries_children_and_python_itself_write_is_json_too(tmp_path):
    program = """
import ctypes, os, subprocess, sys
from edge_rjepa.cli.json_log import log_of
from edge_rjepa.cli.terminal import say
with log_of(["learn", "--log", "json"]):
    libc = ctypes.CDLL(None)
    libc.write(2, b"from C, \\xff\\n\\n", 10)
    subprocess.run(["sh", "-c", "echo from a child >&2"], check=True)
    say("said", number=2.5, none=float("nan"))
    raise ZeroDivisionError("uncaught")
"""
    code, lines, _ = run(tmp_path, program=[sys.executable, "-c", program])
    events = [line["event"] for line in lines]
    assert code == 1 and "from C, \ufffd" in events and "from a child" in events
    assert "Traceback (most recent call last):" in events and events[-1].endswith("uncaught")
    said = next(line for line in lines if line["event"] == "said")
    assert said["number"] == 2.5 and "none" not in said and said["level"] == "info"


def test_it_is_asked_for_before_anything_is_parsed():
    asked = json_log._is_asked_for
    assert asked(["learn", "--log", "json"]) and asked(["watch", "--log=json", "x"])
    assert not asked(["learn"]) and not asked(["--log"]) and not asked(["json", "--log", "text"])


def test_without_it_nothing_changes(folder):
    done = subprocess.run(
        [*PROGRAM, "learn", "--source", "nowhere.mp4"], cwd=folder, capture_output=True, text=True
    )
    assert done.stderr.startswith("edge-rjepa: nowhere.mp4") or "nowhere.mp4" in done.stderr
    assert not done.stderr.startswith("{")
