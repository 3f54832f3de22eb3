"""The commands as a user types them: what a test says of processes is a process of its own."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest

from edge_rjepa.base import checkpoint
from edge_rjepa.cli import COMMANDS
from edge_rjepa.encoder import parity
from edge_rjepa.learner import check_gradients
from edge_rjepa.learner.rjepa import RJepa
from tests import small_runs

CONFIG = "metrics_every_frames = 10\nheld_out_frames = 20\n" + small_runs.CONFIG


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with pictures, a configuration of a small network and a run of 50 frames."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "pictures").mkdir()
    small_runs.write_pictures(folder / "pictures")
    (folder / "small.toml").write_text(CONFIG)
    done = edge_rjepa(folder, *LEARN, "--out", "run", "--fixations", "800", "--json")
    assert done.returncode == 0, done.stderr
    (folder / "printed.json").write_text(done.stdout)
    (folder / "said.txt").write_text(done.stderr)
    return folder


LEARN = ("learn", "--source", "scene:pictures", "--config", "small.toml")


@pytest.fixture(scope="module")
def old(world):
    """The run as a version before checkpoints named their network would have left it."""
    folder = world / "old"
    shutil.copytree(world / "run", folder)
    for path in folder.glob("*.safetensors"):
        tensors, metadata = checkpoint.load(path)
        del metadata["network"]
        checkpoint.save(path, tensors, metadata)
    return "old"


def start(folder, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "edge_rjepa", *arguments],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def edge_rjepa(folder, *arguments):
    process = start(folder, *arguments)
    stdout, stderr = process.communicate(timeout=300)
    return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)


@pytest.mark.slow
def test_learn_leaves_a_run_and_says_what_it_learned(world):
    names = {path.name for path in (world / "run").iterdir()}
    assert names == {
        "config.toml", "checkpoint.safetensors", "checkpoint.1.safetensors", "metrics.jsonl",
        "summary.json", "sample.npz", "report.png", "good.safetensors",
    }  # fmt: skip
    said = (world / "said.txt").read_text()
    assert "information" in said and "It " in said and "report:" in said
    printed = json.loads((world / "printed.json").read_text())
    assert printed.pop("verdict") in said
    assert printed == json.loads((world / "run" / "summary.json").read_text())
    assert printed["fixations"] == 800
    assert cv2.imread(str(world / "run" / "report.png")).shape[1] > 1000


@pytest.mark.slow
def test_resume_goes_on_and_export_writes_an_encoder(world, typed, monkeypatch):
    """What another process learned."""
    monkeypatch.setattr(parity, "PARITY_STEPS", 60)
    resumed = typed(world, "learn", "--resume", "run", "--fixations", "960", "--json")
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads(resumed.stdout)["fixations"] == 960
    for form in ("step", "sequence", "patches"):
        done = typed(world, "export", "run", "-o", f"{form}.onnx", "--form", form, "--json")
        assert done.returncode == 0, done.stderr
        checks = json.loads(done.stdout)["parity"]["checks"]
        assert max(max(check["differences"].values()) for check in checks) <= 1e-5
        assert (world / f"{form}.onnx").stat().st_size > 1000


@pytest.mark.slow
def test_export_in_eight_bits_says_what_is_lost(world, typed, monkeypatch):
    monkeypatch.setattr(parity, "PARITY_STEPS", 60)
    done = typed(world, "export", "run", "-o", "small.onnx", "--int8", "--json")
    assert done.returncode == 0, done.stderr
    assert "telling frames apart" in done.stderr
    assert 0.9 < json.loads(done.stdout)["int8"]["embedding_cosine_mean"] <= 1.0
    assert (world / "small.int8.onnx").exists()
    done = typed(world, "export", "run", "-o", "small.onnx", "--patches", "pictures")
    assert done.returncode == 0 and "real patches" in done.stderr
    done = typed(world, "export", "run", "-o", "x.onnx", "--int8", "--patches", "nowhere")
    assert done.returncode == 1 and "--patches" in done.stderr


@pytest.mark.slow
def test_probe_prints_a_row_for_each_that_was_asked(world, typed, tmp_path):
    rng = np.random.default_rng(0)
    for label, level in (("dark", 40), ("bright", 200)):
        (tmp_path / label).mkdir()
        for i in range(12):
            picture = np.clip(rng.normal(level, 20, (80, 100, 3)), 0, 255).astype(np.uint8)
            cv2.imwrite(str(tmp_path / label / f"{i}.png"), picture)
    done = typed(world, "probe", "run", "--data", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert all(word in done.stdout for word in ("untrained", "PCA", "raw pixels"))
    done = typed(world, "probe", "run", "--data", str(world))
    assert done.returncode == 1 and "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_ends_cleanly(world, typed, tmp_path, number):
    run = tmp_path / "run"
    process = start(world, *LEARN, "--out", str(run))
    metrics = run / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while not (metrics.exists() and metrics.read_bytes().count(b"\n") >= 2):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.05)
    second = typed(world, "learn", "--resume", str(run))
    assert second.returncode == 1 and "another process is at work" in second.stderr
    process.send_signal(number)
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    judged = "It " in stderr  # a person waits for that, a machine that shuts down does not
    assert "saving" in stderr and judged == (number == signal.SIGINT)
    assert "--resume" in stderr and "Traceback" not in stderr
    assert RJepa.load(run / "checkpoint.safetensors").fixations >= 20 * 16


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["learn", "--out", "run"], 1, "--resume"),
        (["learn", "--source", "nowhere.mp4", "--out", "x"], 1, "no such video file"),
        (["learn", "--source", "scene:nowhere", "--out", "x"], 1, "no such folder"),
        (["learn", "--source", "/dev/video99", "--out", "x"], 1, "cannot be opened"),
        (["learn", "--source", "scne:", "--out", "x"], 1, "did you mean 'scene:'"),
        (["learn", "--source", "replay:pictures", "--out", "x"], 1, "recording"),
        (["learn", "--source", "scene:pictures", "--record", "pictures", "--out", "x"], 1, "empty"),
        (["learn", "--fov", "180", "--out", "x"], 2, "--fov"),
        (["learn", "--config", "nowhere.toml", "--out", "x"], 1, "cannot read config"),
        (["learn", "--resume", "nowhere"], 1, "nowhere is no folder of a run"),
        (["learn", "--out", "small.toml"], 1, "is no folder, but a file"),
        (["learn", "--resume", "run", "--seed", "3"], 2, "--seed"),
        (["learn", "--resume", "run", "--record", "y"], 2, "--record"),
        (["learn", "--seconds", "-1"], 2, "--seconds"),
        (["learn", "--seconds", "nan"], 2, "--seconds"),
        (["export", "nowhere"], 1, "nowhere/checkpoint.safetensors"),
        (["export", "run", "-o", "no/such/folder/x.onnx"], 1, "x.onnx"),
        (["report", "nowhere"], 1, "nowhere"),
        (["check-gradients", "--cell", "dense"], 1, "dense recurrent matrix"),
        (["fly"], 2, "fly"),
        ([], 2, "COMMAND"),
    ],
)
def test_wrong_use_is_one_clear_line(world, typed, monkeypatch, arguments, code, says):
    monkeypatch.setattr(parity, "PARITY_STEPS", 60)  # before a file that cannot be written
    done = typed(world, *arguments)
    assert done.returncode == code
    assert says in done.stderr and "Traceback" not in done.stderr
    if code == 1:
        said = done.stderr.strip().splitlines()
        assert said[-1].startswith("edge-rjepa: ")
        assert all(line.startswith("run: ") for line in said[:-1])
    assert not (world / "x").exists() or not os.listdir(world / "x")


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ("learn", "--resume"), ("export",), ("report",), ("probe", "--data", "pictures"),
        ("watch", "--source", "nowhere.mp4"),
    ],
)  # fmt: skip
def test_a_run_of_an_earlier_network_is_refused_by_every_command(world, old, typed, arguments):
    command, *rest = arguments
    order = (*rest, old) if "--resume" in rest else (old, *rest)
    done = typed(world, command, *order)
    assert (done.returncode, done.stdout) == (1, "")
    (said,) = done.stderr.strip().splitlines()
    assert said.startswith("edge-rjepa: ") and "/old/" in said
    assert said.endswith(
        ".safetensors was learned by an earlier version of edge_rjepa, whose network had another "
        "optimiser and retina: learn anew, or keep that version"
    )


@pytest.mark.parametrize("command", [name.replace("_", "-") for name in COMMANDS])
def test_help_has_an_example(tmp_path, typed, command):
    done = typed(tmp_path, command, "--help")
    assert done.returncode == 0 and "example" in done.stdout


@pytest.mark.slow
def test_help_loads_nothing_heavy():
    heavy = ["numba", "cv2", "onnx", "onnxruntime", "scipy", "serial", "matplotlib", "aiohttp"]
    program = (
        "import sys\nfrom edge_rjepa.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    said = subprocess.check_output([sys.executable, "-c", program], text=True)
    assert said.splitlines()[-1] == "[]"


@pytest.mark.slow
@pytest.mark.parametrize("tape", ["tape", "tape.mcap"])
def test_a_recorded_run_is_replayed_bit_for_bit(world, typed, undrawn, tmp_path, tape):
    """Also in another process."""
    recorded = typed(
        world, *LEARN, "--out", str(tmp_path / "then"), "--record", str(tmp_path / tape),
        "--fixations", "320",
    )  # fmt: skip
    assert recorded.returncode == 0, recorded.stderr
    assert f"recorded: {tmp_path / tape}" in recorded.stderr
    elsewhere = edge_rjepa if tape == "tape" else typed
    replayed = elsewhere(
        world, "learn", "--source", f"replay:{tmp_path / tape}", "--out", str(tmp_path / "now")
    )
    assert replayed.returncode == 0, replayed.stderr
    assert "the same as when this was recorded, bit for bit" in replayed.stderr
    then, now = (RJepa.load(tmp_path / r / "checkpoint.safetensors") for r in ("then", "now"))
    assert then.digest == now.digest

    if tape.endswith(".mcap"):
        return
    replay = ("learn", "--source", f"replay:{tmp_path / tape}")
    other = typed(world, *replay, "--out", str(tmp_path / "other"), "--seed", "5")
    assert "differs from when this was recorded" in other.stderr
    part = typed(world, *replay, "--out", str(tmp_path / "part"), "--fixations", "160")
    assert part.returncode == 0 and "when this was recorded" not in part.stderr


@pytest.mark.slow
def test_learning_goes_on_when_nobody_reads_what_it_says(world, tmp_path):
    process = start(world, *LEARN, "--out", str(tmp_path / "run"), "--fixations", "800")
    process.stderr.close()
    assert process.wait(timeout=300) == 0
    process.stdout.close()
    assert RJepa.load(tmp_path / "run" / "checkpoint.safetensors").fixations == 800


@pytest.mark.slow
def test_ctrl_c_ends_with_our_code_whatever_python_was_doing(tmp_path):
    """With the signal itself, if it ran a string of Python just then, as imports do."""
    (tmp_path / "interrupted.py").write_text(
        "from edge_rjepa import cli\n"
        "cli._parser = lambda: exec('raise KeyboardInterrupt')\n"
        "cli.program()\n"
    )
    command = [sys.executable, "-m", "interrupted"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "edge-rjepa: interrupted\n")


@pytest.mark.slow
def test_a_second_start_in_the_same_folder_is_refused_at_once(world, typed, tmp_path):
    first = start(world, *LEARN, "--out", str(tmp_path / "run"))
    while not (tmp_path / "run").exists():
        assert first.poll() is None, first.communicate()
        time.sleep(0.01)
    second = typed(world, *LEARN, "--out", str(tmp_path / "run"), "--fixations", "800")
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=300)
    assert second.returncode == 1 and "run" in second.stderr.splitlines()[-1]


@pytest.mark.slow
def test_doctor_says_what_to_do(world, typed):
    done = edge_rjepa(world, "doctor")
    assert "blas" in done.stdout and "camera" in done.stdout and "Traceback" not in done.stderr
    findings = json.loads(typed(world, "doctor", "--json").stdout)
    assert {"machine", "opencv", "camera", "serial", "blas", "cuda", "disk"} <= {
        finding["topic"] for finding in findings
    }
    assert all(finding["cure"] for finding in findings if finding["level"] != "ok")


@pytest.mark.slow
def test_check_gradients_prints_every_parameter(world, typed, monkeypatch):
    monkeypatch.setattr(check_gradients, "CUTS", ((3, 1, 4), (2, 5)))
    done = typed(world, "check-gradients", "--cell", "leaky")
    assert done.returncode == 0, done.stderr
    assert all(
        name in done.stdout for name in ("leaky", "8 hidden", "W_x", "W_z", "lam", "V_3", "float64")
    )
    done = typed(world, "check-gradients", "--cell", "leaky", "--json")
    rows = json.loads(done.stdout)
    assert len(rows) == 2 * 2 * (8 + 9) and all(row["ok"] for row in rows)
    assert {row["n_encoder_hidden"] for row in rows if row["parameter"] == "W_x"} == {8}
