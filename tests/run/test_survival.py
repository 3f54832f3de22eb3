"""What a robot lives through: killed at any instant, full and read-only disks, damaged files.

Run as a program it is the process that tests start:
`test_survival.py kill FOLDER LIVES` or `disk FOLDER`.
"""

import functools
import os
import random
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.faulty_camera import FaultyCamera
from edge_rjepa import cli
from edge_rjepa.base import journal
from edge_rjepa.base.journal import Journal
from edge_rjepa.errors import CheckpointError
from edge_rjepa.learner.config import RJepaConfig
from edge_rjepa.learner.rjepa import RJepa
from edge_rjepa.run.config import MonitorConfig, RunConfig
from edge_rjepa.run.loop import learn_alone
from edge_rjepa.run.run import CHECKPOINT, CONFIG, METRICS, Run, load_run
from edge_rjepa.sources import open_source
from safe_files.writing import newest
from tests import small_runs
from tests.tools import unhindered_s

pytestmark = pytest.mark.slow

KILLS_A_LIFE = 8
KILLED_WITHIN_S = 0.15  # a child begins, learns some 5 frames and saves after each in that time
EVERY_FRAMES = 2  # a line of metrics
ENDS_WITHIN_S = 2.0 + 0.5  # of a SIGTERM, and what a busy machine may add

LEARN_AS = """
metrics_every_frames = 10
held_out_frames = 20
checkpoint_every_s = 0.0
"""


def configuration(folder: Path, **changes) -> RunConfig:
    """A small network that learns from smooth random pictures, and saves after every frame."""
    write_pictures(folder / "pictures")
    settings = {
        "source": f"scene:{folder / 'pictures'}",
        "metrics_every_frames": EVERY_FRAMES,
        "rollback_every_frames": 7,
        "checkpoint_every_s": 0.0,
        "held_out_frames": 2,
        "network": RJepaConfig(n_embedding=16, n_hidden=24, n_predictor=16, n_gain=4, max_block=16),
        # So small a network on noise comes near collapse, which is not the subject here.
        "monitor": MonitorConfig(min_std=0.0, min_rank=0.0, patience=10**6),
    }
    return RunConfig(**{**settings, **changes})


def write_pictures(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    small_runs.write_pictures(folder, 2)


def begin(folder: Path, config: RunConfig) -> Run:
    return Run.start(folder, config, open_source(config.source, config.seed, config.camera))


def resume(folder: Path, config: RunConfig) -> Run:
    return Run.resume(folder, open_source(config.source, config.seed, config.camera))


def until(frames: int):
    return lambda run: run.frames < frames


def ignore(told) -> None:
    pass


def uninterrupted(folder: Path, config: RunConfig, frames: int) -> dict[int, str]:
    """The learner's digest by the number of frames, of a run that nothing happens to.

    It is saved at its end alone: to be saved must change nothing.
    """
    config, digests = replace(config, checkpoint_every_s=1e9), {}

    def note(run) -> bool:
        digests[run.frames] = run.learner.digest
        return run.frames < frames

    begin(folder, config).learn(note, ignore)
    return digests


def measured(folder: Path) -> list[int]:
    """The frame counts of the lines of measures."""
    return [line["frames"] for line in journal.read(folder / METRICS) if "fixations" in line]


# ------------------------------------------------------------------------------------------------
# Killed


@pytest.mark.parametrize("lives", [5, pytest.param(25, marks=pytest.mark.attack)])
def test_killed_at_any_instant_what_was_saved_is_there_bit_for_bit(tmp_path, lives):
    done = itself("kill", tmp_path, lives)
    assert done.returncode == 0, done.stderr[-3000:]
    killed, while_starting, falls_between = map(int, re.findall(r"\d+", done.stdout))
    assert killed == lives * KILLS_A_LIFE
    if lives > 5:
        assert while_starting >= 5  # or the instants have missed it
        assert falls_between >= 1  # a save had ended and was not yet told


def itself(*arguments, before=()) -> subprocess.CompletedProcess:
    command = [*before, sys.executable, __file__, *map(str, arguments)]
    path = {"PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ, **path}
    )


def kill_again_and_again(folder: Path, lives: str) -> None:
    """Forks children that learn, and kills them; raises AssertionError when something is lost."""
    config = configuration(folder)
    truth = uninterrupted(folder / "whole", config, frames=400)
    instants = random.Random(0)
    counts = Counter()
    for life in range(int(lives)):
        run_folder = folder / str(life)
        saved = None
        for _ in range(KILLS_A_LIFE):
            told = killed_after(instants.uniform(0.0, KILLED_WITHIN_S), run_folder, config)
            saved = told[-1] if told else saved
            counts["while starting"] += saved is None
            if saved is not None:
                kept = check(run_folder, config, truth, saved)
                counts["between"] += kept > saved
                saved = kept
            counts["killed"] += 1
        go_on_to_the_end(run_folder, config, truth)
    print(counts["killed"], counts["while starting"], counts["between"])


def killed_after(seconds: float, folder: Path, config: RunConfig) -> list[int]:
    """Frames of each checkpoint that a child told to have saved before it was killed."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            live(folder, config, writer)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(writer)
    time.sleep(seconds)  # this waits for nothing: the instant is what is tried
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status), "the child ended before it was killed: see above"
    with open(reader) as pipe:
        return [int(line) for line in pipe.read().splitlines()]


def live(folder: Path, config: RunConfig, writer: int) -> None:
    """Start or go on, and learn for ever; tells the frames of each checkpoint once it is saved."""
    save = RJepa.save

    def save_and_tell(learner, path, notes=None, keep=1):
        save(learner, path, notes, keep)
        if path.name == CHECKPOINT:
            os.write(writer, f"{notes['loop']['frames']}\n".encode())

    RJepa.save = save_and_tell
    Run.__init__.__globals__["Journal"] = functools.partial(Journal, max_bytes=3000, keep=3)
    start_or_resume(folder, config).learn(lambda run: True, ignore)


def start_or_resume(folder: Path, config: RunConfig) -> Run:
    """As a service does it: what was killed before its first checkpoint is started again."""
    try:
        return resume(folder, config)
    except CheckpointError:
        return begin(folder, config)


def check(folder: Path, config: RunConfig, truth: dict[int, str], saved: int) -> int:
    """Look over what a killed process left; the frames it can go on from."""
    kept = load_run(folder)
    frames = kept.notes["loop"]["frames"]
    assert kept.problems == []
    assert frames >= saved, f"{saved} frames were saved, {frames} are left"
    assert kept.learner.digest == truth[frames]
    assert RunConfig.from_toml(folder / CONFIG) == config
    lines = [count for count in measured(folder) if count <= frames]
    expected = range(EVERY_FRAMES, frames + 1, EVERY_FRAMES)
    assert lines == list(expected)[len(expected) - len(lines) :]
    assert lines or not expected
    hidden = Counter(name.split(".")[1] for name in os.listdir(folder) if name.startswith("."))
    assert all(count <= 2 for count in hidden.values()), hidden  # one half-written, one moving up
    return frames


def go_on_to_the_end(folder: Path, config: RunConfig, truth: dict[int, str]) -> None:
    """The run can still be gone on with, and is tidy then."""
    run = start_or_resume(folder, config)
    run.learn(until(run.frames + config.rollback_every_frames), ignore)
    run.finish()
    assert run.learner.digest == truth[run.frames]
    assert not [name for name in os.listdir(folder) if name.startswith(".")]
    assert len(newest(folder / CHECKPOINT)) == config.checkpoints_kept


# ------------------------------------------------------------------------------------------------
# Full and read-only disks


def test_learning_goes_on_while_the_disk_is_full_or_read_only_and_is_saved_after(tmp_path):
    alone = ["unshare", "--mount", *(["--user", "--map-root-user"] if os.geteuid() else [])]
    mount = [*alone, "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)]
    try:
        probe = subprocess.run(mount, capture_output=True, text=True)
    except FileNotFoundError as error:
        pytest.skip(f"no small disk can be made: {error}")
    if probe.returncode:
        pytest.skip(f"no small disk can be mounted: {probe.stderr.strip()}")
    done = itself("disk", tmp_path, before=alone)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["whole", "full", "free", "read-only", "writable"]


def fill_and_lock_the_disk(folder: Path) -> None:
    """Raises AssertionError when learning stops, or something is lost that was saved."""
    config = configuration(folder)
    truth = uninterrupted(folder / "whole", config, frames=60)
    (folder / "disk").mkdir()
    mount("-t", "tmpfs", "-o", "size=1m", "tmpfs", folder / "disk")
    run_folder, ballast = folder / "disk" / "run", folder / "disk" / "ballast"
    run = begin(run_folder, config)
    told: list[str] = []

    def learn_on(state: str) -> list[str]:
        """Learn ten frames more; what was told of the disk meanwhile."""
        told.clear()
        stop = run.frames + 10
        while run.frames < stop:
            learn_alone(run._learn_frames(until(stop), ignore), lambda: run.learner)
        assert run.learner.digest == truth[run.frames]
        print(state)
        return told

    run.on_event = told.append
    assert learn_on("whole") == []
    saved = run.frames
    fill(ballast)
    lines = count_lines(run_folder / METRICS)
    assert any(
        "No space left" in event and "learning goes on" in event for event in learn_on("full")
    )
    of_metrics = [event for event in told if METRICS in event]
    # Not a word for every line: once, and once more only after a short one that still fitted.
    fitted = count_lines(run_folder / METRICS) - lines
    assert len(of_metrics) <= 1 + fitted, of_metrics
    check(run_folder, config, truth, saved)

    ballast.unlink()
    assert any("saved again" in event for event in learn_on("free"))
    assert load_run(run_folder).notes["loop"]["frames"] == run.frames
    saved = run.frames

    mount("-o", "remount,ro", folder / "disk")
    assert any("Read-only" in event for event in learn_on("read-only"))
    assert load_run(run_folder).notes["loop"]["frames"] == saved
    try:
        run.learn(until(0), ignore, told.append)  # ends at once, and has to save
    except CheckpointError as error:
        assert "Read-only" in str(error)
    else:
        raise AssertionError("a run that cannot be saved at its end must not end in silence")

    mount("-o", "remount,rw", folder / "disk")
    assert any("saved again" in event for event in learn_on("writable"))
    assert resume(run_folder, config).learner.digest == truth[run.frames]
    assert not [name for name in os.listdir(run_folder) if name.startswith(".")]


def mount(*arguments) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True)


def count_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n")


def fill(path: Path) -> None:
    with open(path, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass


def test_a_run_is_saved_when_no_descriptor_is_left(tmp_path):
    config = configuration(tmp_path, checkpoint_every_s=1e9)
    run = begin(tmp_path / "run", config)
    taken = []

    def until_the_descriptors_are_used_up(run):
        while run.frames == 5:
            try:
                taken.append(os.open(os.devnull, os.O_RDONLY))
            except OSError:
                break
        return run.frames < 9

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(400, limits[1]), limits[1]))
    try:
        run.learn(until_the_descriptors_are_used_up, ignore)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for descriptor in taken:
            os.close(descriptor)
    assert taken and load_run(tmp_path / "run").notes["loop"]["frames"] == 9


# ------------------------------------------------------------------------------------------------
# Damaged files


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with pictures, and what edge-rjepa is to learn as, in a file."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "small.toml").write_text(configuration(folder).to_toml())
    return folder


@pytest.fixture(scope="module")
def learned(world):
    """A run of 20 frames."""
    run, small = world / "run", str(world / "small.toml")
    with small_runs.undrawn():
        assert cli.main(["learn", "--config", small, "--out", str(run), "--fixations", "320"]) == 0
    return run


@pytest.fixture(scope="module")
def whole(world):
    """The learner's digests in a run of 30 frames that nothing happens to."""
    return uninterrupted(world / "whole", RunConfig.from_toml(world / "small.toml"), frames=30)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda path: os.truncate(path, 5000), "damaged"),
        (flip_a_bit, "checksum"),
        (lambda path: os.truncate(path, 0), "damaged"),
        (lambda path: path.unlink(), "No such file"),
    ],
    ids=["truncated", "a bit flipped", "empty", "deleted"],
)
def test_resume_goes_on_from_the_one_before_a_damaged_checkpoint(
    learned, whole, tmp_path, capsys, undrawn, damage, says
):
    run = tmp_path / "run"
    shutil.copytree(learned, run)
    before = RJepa.load(run / "checkpoint.2.safetensors")
    damage(run / CHECKPOINT)
    damage_too = run / "checkpoint.1.safetensors"
    damage_too.write_bytes(b"")
    capsys.readouterr()
    assert cli.main(["learn", "--resume", str(run), "--fixations", "480"]) == 0
    said = capsys.readouterr().err
    assert says in said and str(run / CHECKPOINT) in said and str(damage_too) in said
    lost = 20 - before.fixations // 16
    assert 1 <= lost <= 2 and re.search(rf"\b{lost} frames?\b.*lost", said), said
    assert load_run(run).learner.fixations == 480
    assert load_run(run).learner.digest == whole[30]


# ------------------------------------------------------------------------------------------------
# SIGTERM


class Learning:
    """`edge-rjepa learn` in a process of its own, and what it says."""

    def __init__(self, *arguments):
        self.said = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "edge_rjepa", "learn", *map(str, arguments)],
            stderr=subprocess.PIPE,
        )
        os.set_blocking(self.process.stderr.fileno(), False)

    def until(self, word: str, timeout_s: float = 60.0) -> None:
        """Read on until that was said."""
        deadline_s = time.monotonic() + timeout_s
        while word not in self.said:
            left_s = deadline_s - time.monotonic()
            assert left_s > 0 and self.process.poll() is None, self.said
            if select.select([self.process.stderr], [], [], left_s)[0]:
                self.said += (self.process.stderr.read() or b"").decode()

    def terminate(self) -> float:
        """Send SIGTERM; the seconds until it has ended, well, without its wait for a processor."""
        pid = str(self.process.pid)
        sent_s, deadline_s = unhindered_s(pid), time.monotonic() + 60.0
        self.process.terminate()
        while not os.waitid(os.P_PID, int(pid), os.WEXITED | os.WNOWAIT | os.WNOHANG):
            assert time.monotonic() < deadline_s
            time.sleep(0.005)
        took_s = unhindered_s(pid) - sent_s
        self.process.wait()
        self.said += (self.process.stderr.read() or b"").decode()
        assert self.process.returncode == 0, self.said
        assert "saved" in self.said and "Traceback" not in self.said
        return took_s


@pytest.fixture
def learning():
    """Starts `edge-rjepa learn` with these arguments; none outlives the test."""
    started = []

    def start(*arguments) -> Learning:
        started.append(Learning(*arguments))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.wait()
        each.process.stderr.close()


def test_sigterm_saves_and_ends_soon_at_any_instant(tmp_path, learning):
    """With a network of the usual size; the run is gone on with each time."""
    write_pictures(tmp_path / "pictures")
    (tmp_path / "as.toml").write_text(LEARN_AS)
    run = tmp_path / "run"
    arguments = ["--source", f"scene:{tmp_path / 'pictures'}", "--config", tmp_path / "as.toml"]
    process = learning(*arguments, "--out", run)
    instants = random.Random(0)
    fixations = 0
    for _ in range(4):
        process.until(" fixations: ")
        time.sleep(instants.uniform(0.0, 0.3))  # waits for nothing: the instant is what is tried
        assert process.terminate() < ENDS_WITHIN_S
        kept = load_run(run)
        assert kept.problems == [] and kept.learner.fixations > fixations
        fixations = kept.learner.fixations
        process = learning("--resume", run)


@pytest.mark.parametrize("fault", ["stall", "die"])
def test_sigterm_ends_a_run_soon_whose_camera_is_away(world, tmp_path, learning, fault):
    small = RunConfig.from_toml(world / "small.toml")
    (tmp_path / "small.toml").write_text(small.to_toml())
    with FaultyCamera(size=(320, 240)) as camera:
        run = tmp_path / "run"
        process = learning(
            "--source", camera.url, "--config", tmp_path / "small.toml", "--out", run
        )
        process.until(" fixations: ")
        process.said = ""
        camera.fault(fault)
        process.until("reopening")
        assert process.terminate() < ENDS_WITHIN_S
        kept = load_run(run)
        assert kept.problems == [] and kept.learner.fixations > 0


if __name__ == "__main__":
    {"kill": kill_again_and_again, "disk": fill_and_lock_the_disk}[sys.argv[1]](
        Path(sys.argv[2]), *sys.argv[3:]
    )
