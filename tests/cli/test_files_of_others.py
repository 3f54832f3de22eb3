"""What commands do with run folders of others, and how they tell what the system refuses."""

import errno
import os
import socket
import subprocess
import sys

import pytest

from edge_rjepa.cli import main
from edge_rjepa.encoder import parity
from edge_rjepa.learner.config import RJepaConfig
from edge_rjepa.run.config import RunConfig
from edge_rjepa.run.run import Run
from edge_rjepa.sources import open_source

NETWORK = RJepaConfig(n_embedding=8, n_hidden=12, n_predictor=8, n_gain=4, max_block=16)


@pytest.fixture
def listener():
    """A port on which nobody is to knock."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


def run_of(folder, source_name):
    """A run whose checkpoint names this source."""
    config = RunConfig(source=source_name, fixations_per_frame=4, network=NETWORK)
    with open_source("scene:") as source:
        Run.start(folder, config, source).learn(lambda run: run.frames < 1, lambda progress: None)
    return folder


@pytest.fixture
def run_folder(tmp_path, listener):
    port = listener.getsockname()[1]
    return run_of(tmp_path / "run", f"http://user:secret@127.0.0.1:{port}/attacker")


def nobody_knocked(listener) -> bool:
    try:
        listener.accept()[0].close()
    except BlockingIOError:
        return True
    return False


@pytest.mark.slow
def test_export_opens_no_camera_that_a_run_names(run_folder, listener, monkeypatch, capfd):
    monkeypatch.setattr(parity, "PARITY_STEPS", 20)
    assert main(["export", str(run_folder)]) == 0
    assert (run_folder / "encoder.onnx").exists()
    said = capfd.readouterr().err
    assert "opened only when it is named: --patches" in said and "secret" not in said
    assert main(["export", str(run_folder), "--int8"]) == 1
    assert nobody_knocked(listener)


def test_watch_opens_no_camera_that_a_run_names(run_folder, listener, capfd):
    assert main(["watch", str(run_folder)]) == 1
    said = capfd.readouterr().err
    assert "opened only when it is named: --source" in said and "secret" not in said
    assert nobody_knocked(listener)


@pytest.mark.parametrize("name", ["gst:filesrc location=x", "0", "/dev/video0", "rtsp://cam/x"])
def test_every_live_source_is_such_a_camera(tmp_path, capfd, name):
    assert main(["watch", str(run_of(tmp_path / "run", name))]) == 1
    assert "opened only when it is named" in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["encoder.onnx", "report.png"])
def test_a_link_in_a_run_is_not_written_through(tmp_path, capfd, monkeypatch, name):
    monkeypatch.setattr(parity, "PARITY_STEPS", 20)
    folder, elsewhere = run_of(tmp_path / "run", "rtsp://cam/x"), tmp_path / "elsewhere"
    elsewhere.write_text("mine")
    (folder / name).symlink_to(elsewhere)
    (folder / "metrics.jsonl").write_text('{"fixations": 1, "information": 1.0}\n' * 2)
    command = "export" if name == "encoder.onnx" else "report"
    assert main([command, str(folder)]) == 1
    assert elsewhere.read_text() == "mine"
    (line,) = (each for each in capfd.readouterr().err.splitlines() if "cannot write" in each)
    assert f"{folder / name}: is a link: remove it" in line


def test_nobody_else_can_look_into_a_folder_of_alarms(tmp_path):
    from edge_rjepa.watch.alarms import AlarmFolder

    AlarmFolder(tmp_path / "watch" / "night", print)
    assert (tmp_path / "watch" / "night").stat().st_mode & 0o077 == 0


def lines_of(*arguments, **options):
    """Exit code and lines on standard error of the command."""
    command = [sys.executable, "-m", "edge_rjepa", *map(str, arguments)]
    options = {"stdout": subprocess.PIPE} | options
    process = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=300, **options)
    return process.returncode, process.stderr.splitlines()


@pytest.mark.slow
def test_a_full_standard_output_is_one_line():
    with open("/dev/full", "w") as full:
        code, said = lines_of("doctor", "--json", stdout=full)
    assert code == 1
    assert said[-1].startswith("edge-rjepa: standard output cannot be written: No space left")


@pytest.mark.slow
def test_a_reader_that_is_gone_is_one_line():
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as gone:
        code, said = lines_of("doctor", stdout=gone)
    assert code == 1
    assert os.strerror(errno.EPIPE) in said[-1] and "Traceback" not in "".join(said)


@pytest.mark.parametrize(
    ("out", "says"),
    [
        ("file", "but a file: name another"),
        ("file/run", "a file stands where a folder belongs"),
        ("x" * 300, "use a shorter name"),
    ],
)
def test_a_folder_that_cannot_be_made_is_told_with_its_cure(tmp_path, capfd, out, says):
    (tmp_path / "file").write_text("")
    assert main(["learn", "--source", "scene:", "--out", str(tmp_path / out)]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert says in line and str(tmp_path / out) in line
