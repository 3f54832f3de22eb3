"""The commands in poor surroundings: closed streams, no home, hardly any threads or files.

Each works, or says in one line what it lacks.
"""

import json
import os
import resource
import shutil
import subprocess
import sys

import cv2
import pytest

from benchmarks.faulty_camera import FaultyCamera
from edge_rjepa.run.run import load_run
from tests import small_runs

pytestmark = pytest.mark.slow

CONFIG = "held_out_frames = 20\n" + small_runs.CONFIG
PROGRAM = [sys.executable, "-m", "edge_rjepa"]
LEARN = [
    "learn",
    "--source",
    "scene:pictures/class0",
    "--config",
    "small.toml",
    "--fixations",
    "160",
]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with pictures of two classes, and the configuration of a small network."""
    folder = tmp_path_factory.mktemp("world")
    for i, picture in enumerate(small_runs.smooth_pictures(16)):
        path = folder / "pictures" / f"class{i % 2}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), picture)
    (folder / "small.toml").write_text(CONFIG)
    return folder


def run(folder, *arguments, **options):
    kept = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.run([*PROGRAM, *arguments], cwd=folder, text=True, timeout=300, **kept)


def is_one_line(said):
    """Whether the last thing said is one line from us, and there is no traceback."""
    return "Traceback" not in said and said.rstrip().splitlines()[-1].startswith("edge-rjepa: ")


# -- standard streams ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "closed", [*(pytest.param((n,), marks=pytest.mark.attack) for n in (0, 1)), (2,), (0, 1, 2)]
)
def test_it_learns_with_closed_standard_streams(world, tmp_path, closed):
    done = run(
        world, *LEARN, "--out", str(tmp_path / "run"), "--json",
        preexec_fn=lambda: [os.close(descriptor) for descriptor in closed],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert load_run(tmp_path / "run").learner.fixations == 160
    if 1 not in closed:
        assert json.loads(done.stdout)["fixations"] == 160  # and nothing that was meant for 2


@pytest.mark.attack
def test_every_command_takes_a_closed_standard_error(world, tmp_path):
    assert run(world, *LEARN, "--out", str(tmp_path / "run")).returncode == 0
    for command, code in (
        (["probe", str(tmp_path / "run"), "--data", "pictures", "--json"], 0),
        (["export", str(tmp_path / "run")], 0),
        (["learn", "--source", "nothing.avi"], 1),
    ):
        done = run(world, *command, preexec_fn=lambda: os.close(2))
        assert done.returncode == code and "Traceback" not in done.stdout, command


def test_what_cannot_be_printed_is_one_line(world, tmp_path):
    with open("/dev/full", "w") as full:
        done = run(world, *LEARN, "--out", str(tmp_path / "run"), "--json", stdout=full)
    assert done.returncode == 1 and is_one_line(done.stderr)
    assert "No space left on device" in done.stderr


def test_names_that_are_no_text_are_printed_as_json_can_have_them(world, tmp_path, typed, undrawn):
    """A camera called them in Latin-1, on a machine that writes UTF-8 and nothing else."""
    assert typed(world, *LEARN, "--out", str(tmp_path / "run")).returncode == 0
    photos = tmp_path / "photos"
    photos.mkdir()
    shutil.copy(world / "pictures/class0/0.png", bytes(photos) + b"/caf\xe9.png")
    teach = "teach", str(tmp_path / "run"), "hall", "--source", str(photos)
    assert run(world, *teach).returncode == 0
    ask = "recognise", str(tmp_path / "run"), "--source", str(photos), "--json"
    strict = os.environ | {"PYTHONIOENCODING": "utf-8:strict"}
    done = run(world, *ask, env=strict)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["picture"] == "caf\udce9.png"


# -- homes ---------------------------------------------------------------------------------------


@pytest.fixture
def as_stranger(tmp_path):
    """What a command is preceded by to run as a user without an entry in passwd and without HOME.

    It may read everything, so that it finds this Python and this package wherever they are.
    """
    if os.geteuid() or not shutil.which("setpriv"):
        pytest.skip("not run: it takes root, and setpriv of the package util-linux")
    may_read = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    tmp_path.chmod(0o777)
    (tmp_path / "temporary").mkdir()
    (tmp_path / "temporary").chmod(0o777)
    kept = [f"PATH={os.environ['PATH']}", f"TMPDIR={tmp_path / 'temporary'}"]
    kept.append(f"PYTHONPATH={os.environ.get('PYTHONPATH', os.getcwd())}")
    return ["setpriv", "--reuid=12345", "--clear-groups", *may_read, "env", "-i", *kept]


def test_nobody_without_a_home_is_given_a_folder_named_tilde(tmp_path, as_stranger):
    kernel = (
        "import numpy as np\n"
        "from edge_rjepa.eye.gaze_kernels import refusal\n"
        "print(refusal(1.0, 2.0, np.zeros((3, 2)), (3, 0.5, 0.5, 10.0)))\n"
    )

    def stranger(*arguments):
        return subprocess.run(
            [*as_stranger, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=300
        )

    done = stranger(sys.executable, "-c", kernel)
    assert done.returncode == 0, done.stderr
    doctor = stranger(*PROGRAM, "doctor")
    assert "kernels" in doctor.stdout and "Traceback" not in doctor.stderr
    assert "~" not in doctor.stdout
    for source in ("~/walk.mp4", "~nobody-of-this-name/walk.mp4"):
        done = stranger(*PROGRAM, "learn", "--source", source)
        assert done.returncode == 1 and is_one_line(done.stderr), done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["temporary"]


# -- limits --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "page"),
    [(5, []), pytest.param(6, [], marks=pytest.mark.attack), (8, ["--dashboard", ":0"])],
)
def test_few_files_are_enough_or_it_is_one_line(world, tmp_path, files, page):
    done = run(
        world, *LEARN, "--out", str(tmp_path / "run"), *page,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files)),
    )  # fmt: skip
    assert done.returncode == 0 or is_one_line(done.stderr), done.stderr
    assert done.returncode == 0 or files == 5 or "ulimit -n" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["learn", "--source", "http://127.0.0.1:1/"],
        [*LEARN, "--dashboard", "127.0.0.1:0"],
    ],
)
def test_no_threads_to_be_had_is_one_line(world, tmp_path, as_stranger, arguments):
    for name in ("pictures", "small.toml"):
        (tmp_path / name).symlink_to(world / name)
    done = subprocess.run(
        [*as_stranger, "NUMBA_DISABLE_JIT=1", "prlimit", "--nproc=1", *PROGRAM, *arguments],
        cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 1 and is_one_line(done.stderr), done.stderr
    assert "can't start new thread" in done.stderr and "ulimit -u" in done.stderr


# -- the end -------------------------------------------------------------------------------------

# A camera that sends nothing holds its reader in OpenCV for 1.5 s; Python ends meanwhile, slowly.
LATE_READER = """
import sys, time
from edge_rjepa.sources import open_source

class Slow:
    sleep = time.sleep
    def __del__(self):
        self.sleep(3.0)

sys.modules["slow"] = Slow()  # among the last that Python takes apart
with open_source(sys.argv[1]) as source:
    source.read_next(1000.0)
    print("open", flush=True)
    sys.stdin.readline()
if sys.argv[2] == "leave":
    from edge_rjepa.cli.terminal import leave
    leave(7)
"""


@pytest.mark.parametrize(("way", "code"), [("return", 0), ("leave", 7)])
def test_no_reader_comes_back_while_python_ends(way, code):
    with FaultyCamera(size=(320, 240)) as camera:
        command = [sys.executable, "-c", LATE_READER, camera.url, way]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stdout.readline() == b"open\n"
            camera.fault("stall")
            said = process.communicate(b"\n", timeout=300)[1]
        assert process.returncode == code, said
