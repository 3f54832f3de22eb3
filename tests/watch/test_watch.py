"""Watch: what is new and stays is reported once, where it is; what passes or goes is not."""

import copy
import json
import math
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.faulty_camera import FaultyCamera
from calibration.angles import rays_of_angles
from edge_rjepa.cli import main
from edge_rjepa.cli.watch import _direction, _duration, _times
from edge_rjepa.encoder import parity
from edge_rjepa.encoder.export import export
from edge_rjepa.encoder.opener import open_encoder
from edge_rjepa.errors import ConfigError
from edge_rjepa.eye.retina import Retina
from edge_rjepa.learner.rjepa import RJepa
from edge_rjepa.optics.camera import Pinhole
from edge_rjepa.run.run import alone_in
from edge_rjepa.sources import Frame, SourceEnded, open_source
from edge_rjepa.sources.scene import CAMERA, SceneSource, skimage_photographs
from edge_rjepa.watch import alarms
from edge_rjepa.watch.alarms import AlarmFolder, Command
from edge_rjepa.watch.directions import Directions, lattice
from edge_rjepa.watch.novelty import LOOKS, Watch
from edge_rjepa.watch.patrol import Patrol
from edge_rjepa.watch.threshold import BLOCK_S, MIN_BLOCKS, MIN_PER_HOUR, Tail
from tests import small_runs
from tests.tools import unhindered_s
from tests.watch.mosquitto import PASSWORD, USER, Mosquitto, Phone, make_certificates, needs_broker

PICTURES_A_SECOND = 5  # a sweep takes two of them
WARM_UP_S = 30.0
REST = Pinhole(320, 240, math.radians(60.0))

RETINA = Retina()
WEIGHTS = np.random.default_rng(0).normal(0.0, 0.1, (32, RETINA.n_features))


def encode(windows):
    """Embeddings of an untrained network."""
    middles = np.column_stack([np.full(len(windows), 32), 64 * np.arange(len(windows)) + 32])
    return np.tanh(RETINA(windows.reshape(-1, 64, 3), middles) @ WEIGHTS.T)


@pytest.fixture(scope="module")
def photograph():
    return cv2.resize(cv2.imread(str(skimage_photographs()[0])), (320, 240))


@pytest.fixture(scope="module")
def thing():
    rng = np.random.default_rng(1)
    return cv2.resize(rng.integers(0, 256, (6, 7, 3), np.uint8), (50, 40))


def stream(photograph, seconds, change=lambda t_s, image: image, from_s=0.0):
    """Frames of a camera at rest, with pixel noise; `change` draws into them.

    From from_s on they are those that a stream from 0 on would have then.
    """
    rng = np.random.default_rng(2)
    noise = rng.normal(0.0, 2.5, (300, 400, 3))
    for k in range(round(seconds * PICTURES_A_SECOND)):
        t_s = k / PICTURES_A_SECOND
        x, y = rng.integers(0, 60, 2)
        if t_s < from_s:
            continue
        image = change(t_s, photograph.astype(np.float64)) + noise[y : y + 240, x : x + 320]
        yield Frame(np.clip(image, 0, 255).astype(np.uint8), t_s, (0.0, 0.0), k)


def put(image, thing, x, y):
    image = image.copy()
    image[y : y + thing.shape[0], x : x + thing.shape[1]] = thing
    return image


def watched(frames, camera=REST, warm_up_s=WARM_UP_S, after=None):
    """All alarms, and the watch: a new one, or one that goes on as a copy of `after`."""
    watching = copy.deepcopy(after) or Watch(encode, camera, warm_up_s=warm_up_s)
    return [alarm for frame in frames for alarm in watching.look(frame)], watching


@pytest.fixture(scope="module")
def early(photograph):
    """A watch that has learned for 20 s, so not yet all of WARM_UP_S."""
    return watched(stream(photograph, 20.0))[1]


@pytest.fixture(scope="module")
def warm(photograph, early):
    """A watch that has learned for WARM_UP_S what is usual in the photograph."""
    return watched(stream(photograph, WARM_UP_S, from_s=20.0), after=early)[1]


# ------------------------------------------------------------------------------------------------
# What is reported


def placed(thing, since_s=33.0, until_s=math.inf):
    return lambda t_s, image: put(image, thing, 200, 100) if since_s <= t_s < until_s else image


@pytest.fixture(scope="module")
def seen(photograph, thing, warm):
    """Alarms and the watch of a thing that is placed, and stays."""
    return watched(stream(photograph, 42.0, placed(thing), WARM_UP_S), after=warm)


@pytest.mark.slow
def test_what_is_placed_is_reported_once_where_it_is(seen):
    found, watching = seen
    assert len(found) == 1
    (alarm,) = found
    assert 33.0 < alarm.t_s <= 36.0
    assert math.dist(alarm.pixel, (225.0, 120.0)) < 20.0
    assert alarm.angles_rad == pytest.approx(REST.angles_of_pixels(alarm.pixel))
    x, y, width, height = alarm.box
    assert x <= 200 and y <= 100 and x + width >= 250 and y + height >= 140
    assert width < 160 and height < 160
    assert alarm.surprise > 5.0 * alarm.usual > 0.0
    assert alarm.score > watching.threshold
    assert 0.0 < alarm.per_hour < 1.0


@pytest.mark.slow
def test_the_threshold_is_found_anew_when_twice_as_much_was_seen(photograph, warm):
    """In the warm-up what was just learned fits better than what comes later."""
    frames = stream(photograph, WARM_UP_S + 2.0, from_s=WARM_UP_S)
    watching = copy.deepcopy(warm)
    for frame in frames:
        watching.look(frame)
        if watching.is_warm:
            break
    before, blocks = watching.threshold, watching.tail.blocks
    scores = np.random.default_rng(0).normal(2.5, 0.1, 2 * blocks)
    for k, score in enumerate(scores[: blocks - 2]):
        watching.tail.add(score, 1e4 + k * BLOCK_S)
    watching.look(next(frames))
    assert watching.threshold == before
    for k, score in enumerate(scores):
        watching.tail.add(score, 2e4 + k * BLOCK_S)
    watching.look(next(frames))
    assert watching.threshold == pytest.approx(watching.tail.threshold(1.0), abs=0.02)
    assert abs(watching.threshold - before) > 0.05


@pytest.mark.slow
def test_the_same_frames_give_the_same_alarms(photograph, thing, seen):
    again, _ = watched(stream(photograph, 42.0, placed(thing)))
    assert [a._replace(frame=None) for a in again] == [a._replace(frame=None) for a in seen[0]]


@pytest.mark.slow
def test_what_comes_and_goes_is_told_three_times_and_is_then_usual(photograph, thing, warm):
    def comes_and_goes(t_s, image):
        return put(image, thing, 200, 100) if t_s > 32.0 and int(t_s / 8) % 2 else image

    found, watching = watched(stream(photograph, 96.0, comes_and_goes, WARM_UP_S), after=warm)
    gone = watching.drain_gone()
    assert [alarm.number for alarm in found] == [each.number for each in gone] == [1, 2, 3]
    assert [int(alarm.t_s / 16) for alarm in found] == [2, 3, 4]  # once each time it is there
    assert [each.usual for each in gone] == [False, False, True]
    assert all(6.0 < each.after_s < 9.0 for each in gone)


@pytest.mark.slow
def test_what_passes_is_not_reported(photograph, thing, warm):
    def passing(t_s, image):
        x = round(60.0 * (t_s % 8.0)) - 50  # px a second
        return put(image, thing, x, 100) if t_s > 32.0 and 0 <= x <= 270 else image

    found, _ = watched(stream(photograph, 50.0, passing, WARM_UP_S), after=warm)
    assert not found


@pytest.mark.slow
def test_light_that_changes_is_not_reported(photograph):
    def brighter(t_s, image):
        return image * (1.0 + 0.15 * math.sin(math.tau * t_s / 15.0))

    assert not watched(stream(photograph, 55.0, brighter))[0]


@pytest.mark.slow
def test_another_place_is_reported_and_learned_anew(photograph, thing, warm):
    other = cv2.resize(cv2.imread(str(skimage_photographs()[3])), (320, 240)).astype(np.float64)

    def moved(t_s, image):
        if t_s < 31.0:
            return image
        return put(other, thing, 200, 100) if t_s >= 68.0 else other

    found, watching = watched(stream(photograph, 74.0, moved, WARM_UP_S), after=warm)
    (event,) = watching.drain_events()
    assert "all of the view has changed" in event and "30 s" in event
    assert [alarm.t_s > 68.0 for alarm in found if alarm.t_s > 36.0] == [True]


@pytest.mark.slow
def test_nothing_is_reported_in_the_warm_up(photograph, thing, early):
    found, watching = watched(stream(photograph, 29.0, placed(thing, 20.0), 20.0), after=early)
    assert not found
    assert watching.threshold == math.inf
    assert 0.0 < watching.warming_up_s <= 1.5


@pytest.mark.slow
def test_a_moving_head_finds_it_at_its_angles(thing):
    source = SceneSource(skimage_photographs(), seed=3, frames_a_scene=10**9)
    rng = np.random.default_rng(4)
    new_rad = np.array([0.1, 0.05])

    def frames():
        head = np.zeros(2)
        for k in range(80 * PICTURES_A_SECOND):
            if k % (2 * PICTURES_A_SECOND) == 0:
                head = np.clip(head + rng.normal(0.0, 0.06, 2), -0.2, 0.2)
                source.head.move(*head.tolist())
            frame = source.read_next(0)._replace(t_capture_s=k / PICTURES_A_SECOND)
            if k >= 74 * PICTURES_A_SECOND:
                pixel = CAMERA.pixels_of_angles(new_rad, frame.head_rad)
                x, y = pixel.round().astype(int) - (25, 20)
                frame = frame._replace(image=put(frame.image, thing, x, y))
            yield frame

    found, _ = watched(frames(), CAMERA, warm_up_s=70.0)
    assert [alarm.t_s >= 74.0 for alarm in found] == [True]
    assert math.dist(found[0].angles_rad, new_rad) < math.radians(5.0)
    pixel = CAMERA.pixels_of_angles(new_rad, found[0].frame.head_rad)
    assert math.dist(found[0].pixel, pixel) < 25.0


@pytest.mark.parametrize(("fov_deg", "message"), [(165.0, "so wide a lens"), (5.0, "so narrow a")])
def test_a_lens_that_shows_too_little_or_takes_too_much_is_refused(fov_deg, message):
    with pytest.raises(ConfigError, match=message):
        Watch(encode, Pinhole(640, 480, math.radians(fov_deg)))


def test_a_mask_over_everything_is_said_once(photograph):
    watching = Watch(encode, REST)
    watching.mask((((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)),))
    for frame in stream(photograph, 1.0):
        watching.look(frame)
    (event,) = watching.drain_events()
    assert "mask covers all" in event


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_numbers_that_cannot_be_are_refused(value):
    with pytest.raises(ConfigError, match="alarms_per_hour"):
        Watch(encode, REST, alarms_per_hour=value)
    with pytest.raises(ConfigError, match="warm_up_s"):
        Watch(encode, REST, warm_up_s=value)


# ------------------------------------------------------------------------------------------------
# Its parts


def test_the_threshold_is_passed_as_often_as_was_asked_for():
    rng = np.random.default_rng(5)
    tail = Tail()
    assert tail.threshold(1.0) == math.inf and math.isnan(tail.per_hour(3.0))
    heights = rng.normal(1.0, 0.4, 1000)
    for k, height in enumerate(heights):
        tail.add(height, k * BLOCK_S)
    assert tail.hours == pytest.approx(999 * BLOCK_S / 3600.0)
    for per_hour in (0.1, 1.0, 10.0):
        assert tail.per_hour(tail.threshold(per_hour)) == pytest.approx(per_hour)
    passed = (rng.normal(1.0, 0.4, 100_000) > tail.threshold(10.0)).sum()
    assert passed == pytest.approx(10.0 * 100_000 * BLOCK_S / 3600.0, rel=0.3)
    assert tail.per_hour(1e3) == MIN_PER_HOUR


def test_few_blocks_make_the_threshold_higher():
    def threshold(count):
        tail = Tail()
        for k in range(count):
            tail.add(1.0 + 0.4 * (k % 2), k * BLOCK_S)
        return tail.threshold(1.0)

    assert threshold(MIN_BLOCKS + 1) > threshold(100) + 0.2


def test_directions_are_about_a_step_from_each_other():
    rays = rays_of_angles(lattice(0.1))
    nearest = np.sort(np.arccos(np.clip(rays @ rays.T, -1.0, 1.0)), axis=1)[:, 1]
    assert 0.04 < np.quantile(nearest, 0.02) and nearest.max() < 0.12


def test_a_direction_shows_the_same_window_from_wherever_the_head_looks():
    source = SceneSource(skimage_photographs(), seed=3, frames_a_scene=10**9)
    directions = Directions(CAMERA, 64)
    seen = []
    for head in ((0.0, 0.0), (0.2, -0.1)):
        source.head.move(*head)
        for _ in range(3):
            frame = source.read_next(0)
        assert frame.head_rad == head
        in_view = directions.in_view((0.1, 0.0))
        off = np.abs(directions.angles_rad[in_view] - (0.1, -0.05)).sum(axis=1)
        seen.append(directions.windows(frame, in_view[[off.argmin()]])[0].astype(float))
    assert np.abs(seen[0] - seen[1]).mean() < 4.0
    assert np.abs(seen[0] - seen[0][::-1]).mean() > 15.0


def test_large_pictures_are_looked_at_as_small_ones(photograph):
    large = cv2.resize(photograph, (1280, 960), interpolation=cv2.INTER_CUBIC)
    small_view, large_view = (
        Directions(REST, 64),
        Directions(Pinhole(1280, 960, REST.field_of_view_rad), 64),
    )
    in_view = small_view.in_view((0.0, 0.0))
    np.testing.assert_array_equal(in_view, large_view.in_view((0.0, 0.0)))
    near, far = (
        view.windows(Frame(image, 0.0, (0.0, 0.0), 0), in_view).astype(float)
        for view, image in ((small_view, photograph), (large_view, large))
    )
    assert np.abs(near - far).mean() < 4.0


def test_a_patrol_goes_there_and_back_within_the_limits():
    limits = (-1.0, 1.0), (-0.3, 0.3)
    patrol = Patrol(limits, REST, 4.0)
    stops = np.array(patrol.stops)
    for axis, (low, high) in enumerate(limits):
        assert stops[:, axis].min() == low and stops[:, axis].max() == high
    steps = np.abs(np.diff(np.vstack([stops, stops[:1]]), axis=0))
    view = 320 / REST.focal_px, 240 / REST.focal_px
    assert (steps <= 0.5 * np.array(view) + 1e-9).all()
    aims = [patrol.due(0.1 * k) for k in range(100)]
    assert [k for k, aim in enumerate(aims) if aim] == [0, 40, 80]
    assert Patrol(((0.2, 0.2), (0.0, 0.0)), REST, 4.0).stops == [(0.2, 0.0)]


# ------------------------------------------------------------------------------------------------
# What is done with an alarm


@pytest.fixture(scope="module")
def alarm(seen):
    return seen[0][0]


def keep(folder, alarm):
    """The line of one more alarm."""
    alarm = alarm._replace(number=folder.last_number + 1)
    return folder.keep_picture(alarm, alarms.cut_out(alarm))


@pytest.mark.slow
def test_an_alarm_is_kept_as_a_line_and_a_cut_out(tmp_path, alarm, monkeypatch):
    monkeypatch.setattr(alarms, "MAX_CUT_OUTS", 2)
    lines = []
    for alarms_before in (2, 1):
        folder = AlarmFolder(tmp_path / "out", pytest.fail)
        for _ in range(alarms_before):
            lines.append(keep(folder, alarm))
            folder.keep_line(lines[-1])
    kept = (tmp_path / "out" / "alarms.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in kept] == lines
    assert [line["number"] for line in lines] == [1, 2, 3]
    assert sorted(p.name for p in (tmp_path / "out").glob("*.jpg")) == [
        "alarm-000002.jpg", "alarm-000003.jpg",
    ]  # fmt: skip
    picture = cv2.imread(lines[-1]["picture"])
    x, y, width, height = alarm.box
    assert picture.shape == (height, width, 3)
    original = alarm.frame.image[y : y + height, x : x + width].astype(float)
    assert np.abs(picture - original).mean() < 6.0
    assert lines[0]["azimuth_deg"] == pytest.approx(math.degrees(alarm.angles_rad[0]), abs=0.01)


@pytest.mark.slow
def test_an_alarm_is_told_though_it_cannot_be_kept(tmp_path, alarm):
    told = []
    folder = AlarmFolder(tmp_path / "out", told.append)
    (tmp_path / "out").rmdir()
    lines = [keep(folder, alarm) for _ in range(2)]
    for line in lines:
        folder.keep_line(line)
    assert [(line["number"], line["picture"]) for line in lines] == [(1, None), (2, None)]
    assert len(told) == 1 and "No such file" in told[0] and "watching goes on" in told[0]
    (tmp_path / "out").mkdir()
    lines.append(keep(folder, alarm))
    folder.keep_line(lines[-1])
    assert lines[-1]["picture"] and len(told) == 2 and "kept again" in told[1]
    folder.keep_line(lines[-1] | {"number": 7, "picture": None})
    assert AlarmFolder(tmp_path / "out", told.append).last_number == 7


def test_a_command_gets_the_alarm(tmp_path):
    reported = []
    program = f"import sys; open({str(tmp_path / 'got')!r}, 'a').write(sys.stdin.read())"
    command = Command(f'{sys.executable} -c "{program}"', reported.append)
    for number in (1, 2):
        command.run({"kind": "alarm", "number": number})
    for kind in ("gone", "fine"):
        command.tell({"kind": kind, "number": 2})
    command.close()
    got = (tmp_path / "got").read_text().splitlines()
    assert [json.loads(line)["number"] for line in got] == [1, 2]
    assert reported == []


@pytest.mark.slow
def test_a_command_that_takes_too_long_is_killed_with_what_it_started(tmp_path):
    reported = []
    program = (
        "import subprocess, time\n"
        f"with open({str(tmp_path / 'pid')!r}, 'w') as file:\n"
        "    file.write(str(subprocess.Popen(['sleep', '60']).pid))\n"
        "time.sleep(60)\n"
    )
    (tmp_path / "slow.py").write_text(program)
    command = Command(f"{sys.executable} {tmp_path / 'slow.py'}", reported.append, timeout_s=2.0)
    begun_s = unhindered_s()
    for number in range(1, 3 + alarms.MAX_WAITING):
        command.run({"kind": "alarm", "number": number})
    assert unhindered_s() - begun_s < 1.0  # it never waits
    assert any("not run" in line for line in reported)
    started = ""  # by the first: the next one begins as soon as that is killed
    while not any("killed" in line for line in reported):
        assert unhindered_s() - begun_s < 20.0
        if not started and (tmp_path / "pid").exists():
            started = (tmp_path / "pid").read_text()
        time.sleep(0.05)
    assert not is_alive(int(started))
    while command._lines.qsize():  # the others need not be waited for
        command._lines.get()
    command.close()


@pytest.mark.slow
def test_a_command_is_killed_with_what_left_its_session(tmp_path):
    """A child of a child, in a session of its own, its parent gone: only its mark is left."""
    script = tmp_path / "fork.sh"
    script.write_text(
        f"setsid sh -c 'setsid sleep 61 & echo $! > {tmp_path / 'pid'}' &\nsleep 60\n"
    )
    reported = []
    command = Command(f"sh {script}", reported.append, timeout_s=1.0)
    command.run({"kind": "alarm", "number": 1})
    command.close()
    assert reported == ["alarm 1: sh took more than 1 s: killed"]
    assert not is_alive(int((tmp_path / "pid").read_text()))


def is_alive(process):
    state = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(process)], capture_output=True, text=True
    )
    return state.stdout.strip()[:1] not in ("", "Z")


@pytest.mark.slow
def test_a_command_that_may_not_be_killed_holds_up_nothing(tmp_path):
    """As `sudo ..` does: it changes its user, and we are none who may kill it."""
    if os.geteuid() or not shutil.which("gcc") or not shutil.which("setpriv"):
        pytest.skip("not run: it needs to be root, and the packages gcc and util-linux")
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(0o755)
    (tmp_path / "like_sudo.c").write_text(
        "#define _GNU_SOURCE\n#include <stdio.h>\n#include <unistd.h>\n"
        "int main(){ if (setresgid(0,0,0) || setresuid(0,0,0)) return 9;\n"
        'fprintf(stderr, "pid %d\\n", getpid()); sleep(60); return 0; }\n'
    )
    like_sudo = tmp_path / "like_sudo"
    subprocess.run(["gcc", "-o", like_sudo, tmp_path / "like_sudo.c"], check=True)
    like_sudo.chmod(0o4755)
    program = (
        "import sys, warnings\n"
        "from edge_rjepa.watch.alarms import Command, MAX_WAITING\n"
        f"command = Command({str(like_sudo)!r}, print, timeout_s=0.3)\n"
        "for number in range(3): command.run({'kind': 'alarm', 'number': number})\n"
        "command.close()\n"
        "print('alive', command._thread.is_alive())\n"
    )
    said = tmp_path / "said"
    with open(said, "w") as file:  # no pipe: those that go on would hold it open
        done = subprocess.run(
            ["setpriv", "--reuid=65534", "--clear-groups", sys.executable, "-c", program],
            stdout=file, stderr=file, timeout=300, env=os.environ | {"HOME": "/nonexistent"},
        )  # fmt: skip
    for process in re.findall(r"pid (\d+)", said.read_text()):
        os.kill(int(process), signal.SIGKILL)
    if "Permission denied" in said.read_text():
        pytest.skip("not run: this Python is not for other users")
    assert done.returncode == 0, said.read_text()
    assert said.read_text().count("cannot be killed, and goes on") == 3
    assert "alive False\n" in said.read_text()


def test_a_command_that_goes_wrong_in_an_unforeseen_way_is_not_the_last(monkeypatch):
    reported = []
    command = Command("true", reported.append)
    run, calls = alarms.subprocess.Popen, []

    def once_broken(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 1:
            raise RuntimeError("can't start new thread")
        return run(*arguments, **options)

    monkeypatch.setattr(alarms.subprocess, "Popen", once_broken)
    command.run({"kind": "alarm", "number": 1})
    command.run({"kind": "alarm", "number": 2})
    command.close()
    assert reported == ["alarm 1: true cannot be run: can't start new thread"] and len(calls) == 2


def test_a_command_that_fails_is_reported():
    reported = []
    command = Command("false", reported.append)
    command.run({"kind": "alarm", "number": 7})
    command.close()
    assert reported == ["alarm 7: false ended with 1"]


@pytest.mark.parametrize("text", ["", "no_such_program x", 'unclosed "'])
def test_a_command_that_cannot_be_is_refused(text):
    with pytest.raises(ConfigError, match="--exec"):
        Command(text, print)


# ------------------------------------------------------------------------------------------------
# The command line


@pytest.fixture(scope="module")
def world(tmp_path_factory, photograph, thing):
    """A folder with a run of a small network, its encoder, and a video with something new."""
    folder = tmp_path_factory.mktemp("watch")
    (folder / "small.toml").write_text(small_runs.CONFIG)
    learn = ["learn", "--config", str(folder / "small.toml"), "--fixations", "800"]
    with small_runs.undrawn():
        assert main([*learn, "--out", str(folder / "run")]) == 0
    learner = RJepa.load(folder / "run" / "checkpoint.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parity, "PARITY_STEPS", 16)
        export(learner, Retina(), folder / "encoder.onnx")
        export(learner, Retina(), folder / "sequence.onnx", form="sequence", fixations=4)
    film(folder / "yard.avi", stream(photograph, 45.0, placed(thing, 38.0)))
    film(folder / "later.avi", stream(photograph, 32.0, placed(thing, 14.0)))
    return folder


def film(path, frames):
    """A video of a frame a second: one of few is looked at sooner, however long it lasts."""
    video = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 1.0, (320, 240))
    for frame in frames:
        if frame.sequence % PICTURES_A_SECOND == 0:
            video.write(frame.image)
    video.release()


@pytest.fixture(scope="module")
def first(world):
    """What the first watch of the yard said, and the folder that it keeps."""
    options = ["--source", world / "yard.avi", "--warm-up", "30", "--out", world / "first"]
    options += ["--json", "--exec", f"tee {world / 'received'}"]
    command = [sys.executable, "-m", "edge_rjepa", "watch", world / "run", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.fixture
def later(world, first, tmp_path):
    """Arguments of a watch of the run that goes on later, in a copy of that folder.

    What the first one told of is gone then, and comes back after fourteen seconds.
    """
    shutil.copytree(world / "first", tmp_path / "out")
    options = ["--source", world / "later.avi", "--warm-up", "30", "--out", tmp_path / "out"]
    return [world, "run", *options]


def run_watch(world, encoder, *options, capsys):
    rc = main(["watch", str(world / encoder), *map(str, options)])
    out, err = capsys.readouterr()
    return rc, out, err


def reported(out):
    """The lines of a first watch of the yard, whatever encoder it was by."""
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["kind"] for line in lines] == ["estimate", "alarm", "estimate"]
    # A look at what moved, LOOKS at what stays, and the sweep after them, a second each.
    assert lines[1]["t_s"] == 38.0 + 1 + LOOKS
    assert math.dist(lines[1]["pixel"], (225.0, 120.0)) < 20.0
    return lines


@pytest.mark.slow
def test_the_command_reports_and_keeps_what_is_new(world, first):
    assert first.returncode == 0, first.stderr
    assert "learns what is usual" in first.stderr
    lines = reported(first.stdout)
    assert json.loads((world / "received").read_text()) == lines[1]
    assert json.loads((world / "first" / "alarms.jsonl").read_text()) == lines[1]
    assert cv2.imread(lines[1]["picture"]) is not None
    assert lines[-1]["alarms"] == 1
    assert lines[-1]["watched_s"] == pytest.approx(9.0, abs=0.2)
    assert 0.0 < lines[-1]["expected_false_per_hour"] <= 1800.0


@pytest.mark.slow
def test_an_exported_file_reports_as_its_run_does(world, tmp_path, capsys):
    rc, out, err = run_watch(
        world, "encoder.onnx", "--source", world / "yard.avi", "--warm-up", "30", "--json",
        "--out", tmp_path / "out", capsys=capsys,
    )  # fmt: skip
    assert rc == 0, err
    reported(out)


@pytest.mark.slow
def test_the_command_shows_in_foxglove_what_it_watches(world, tmp_path, monkeypatch, capsys):
    """A client sees pictures, the alarm, its box and how the watch stands."""
    from edge_rjepa.sources import channels
    from edge_rjepa.views.foxglove import FoxgloveView
    from tests.views.test_foxglove import received

    found, threads = [], []
    started = FoxgloveView.__init__
    wanted = {channels.PICTURE, channels.FIXATIONS, channels.ALARMS, channels.ALARM_BOXES}

    def start(self, *asked):
        started(self, *asked)
        threads.append(threading.Thread(target=lambda: found.append(received(self.url, wanted))))
        threads[0].start()
        while not self.is_watched and threads[0].is_alive():
            time.sleep(0.01)

    monkeypatch.setattr(FoxgloveView, "__init__", start)
    rc, _, err = run_watch(
        world, "encoder.onnx", "--source", world / "yard.avi", "--warm-up", "30",
        "--out", tmp_path / "out", "--foxglove", "127.0.0.1:0", capsys=capsys,
    )  # fmt: skip
    threads[0].join()
    assert rc == 0 and "foxglove: ws://127.0.0.1:" in err, err
    assert found[0][channels.ALARMS].message == "alarm 1: something new"
    assert len(found[0][channels.ALARM_BOXES].texts) == 1


@pytest.mark.slow
def test_a_second_watch_of_a_run_goes_on_where_the_first_ended(world, first, tmp_path, capsys):
    """In RUN/watch."""
    shutil.copytree(world / "run", tmp_path / "run")
    shutil.copytree(world / "first", tmp_path / "run" / "watch")
    command = ["watch", str(tmp_path / "run"), "--source", str(world / "later.avi")]
    assert main([*command, "--warm-up", "30", "--json"]) == 0
    out, err = capsys.readouterr()
    lines = [json.loads(line) for line in out.splitlines()]
    kinds = [line["kind"] for line in lines]
    assert kinds == ["event", "estimate", "gone", "alarm", "estimate"]
    assert [line["number"] for line in lines if "number" in line] == [1, 2]
    assert lines[0]["event"].startswith("this place is known") and lines[1]["t_s"] < 12.0
    assert "goes on within seconds" in err
    assert lines[3]["picture"] == str(tmp_path / "run" / "watch" / "alarm-000002.jpg")


@pytest.mark.slow
def test_what_is_shorter_than_the_warm_up_is_watched_where_the_place_is_known(
    world, tmp_path, capsys
):
    out = tmp_path / "out"
    command = ["watch", str(world / "run"), "--source", str(world / "yard.avi"), "--out", str(out)]
    assert main([*command, "--warm-up", "30"]) == 0
    capsys.readouterr()
    assert main([*command, "--warm-up", "300", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["kind"] for line in lines] == ["event", "estimate", "gone", "alarm", "estimate"]


@pytest.mark.slow
def test_the_command_reports_to_people_in_words(later, capsys):
    rc, out, err = run_watch(*later, capsys=capsys)
    assert rc == 0, err
    assert "something new at pixel (2" in out and "alarm-000002.jpg" in out
    assert "false ones an hour are to be expected" in out


@pytest.mark.slow
def test_one_watch_a_folder(world, tmp_path, capsys):
    with alone_in(tmp_path / "out"):
        rc, out, err = run_watch(
            world, "run", "--source", world / "yard.avi", "--warm-up", "30",
            "--out", tmp_path / "out", capsys=capsys,
        )  # fmt: skip
    assert rc == 1 and out == "" and "another process is at work" in err


@pytest.mark.slow
def test_a_full_disk_keeps_no_alarm_from_being_told(later, tmp_path):
    """Neither a file nor standard output can be written; the command still gets the alarm."""
    received = tmp_path / "received"
    folder, run, *options = later
    command = [
        sys.executable, "-m", "edge_rjepa", "watch", folder / run, *options, "--json",
        "--exec", f"sh -c 'ulimit -S -f unlimited; cat > {received}'",
    ]  # fmt: skip
    unlimited = resource.RLIM_INFINITY
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=300,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, unlimited)),
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(received.read_text())["picture"] is None
    assert done.stderr.count("alarms cannot be kept") == 1
    assert done.stderr.count("cannot be written: No space left on device; watching goes on") == 1


@pytest.mark.slow
def test_an_alarm_is_kept_and_told_though_nobody_reads_standard_output(world, tmp_path):
    out, received = tmp_path / "out", tmp_path / "received"
    options = ["--source", world / "yard.avi", "--warm-up", "30", "--out", out, "--json"]
    command = [sys.executable, "-m", "edge_rjepa", "watch", world / "run", *options]
    command += ["--exec", f"tee {received}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert json.loads(running.stdout.readline())["kind"] == "estimate"
        running.stdout.close()
        assert "Traceback" not in running.stderr.read().decode()
    (line,) = (out / "alarms.jsonl").read_text().splitlines()
    assert json.loads(line)["kind"] == "alarm" and received.read_text().strip() == line
    assert (out / "usual.safetensors").exists()


@pytest.mark.slow
def test_learning_anew_is_said_as_json(later, tmp_path, photograph, capsys):
    other = cv2.resize(cv2.imread(str(skimage_photographs()[3])), (320, 240)).astype(np.float64)
    moved = stream(photograph, 50.0, lambda t_s, image: image if t_s < 12.0 else other)
    film(tmp_path / "moved.avi", moved)
    rc, out, err = run_watch(*later, "--source", tmp_path / "moved.avi", "--json", capsys=capsys)
    assert rc == 0, err
    lines = [json.loads(line) for line in out.splitlines()]
    lines = [line for line in lines if line["kind"] not in ("alarm", "gone")]
    kinds = [line["kind"] for line in lines]
    assert kinds == ["event", "estimate", "event", "relearning", "estimate", "estimate"]
    assert "all of the view has changed" in lines[-4]["event"]
    (relearning,) = (line for line in lines if line["kind"] == "relearning")
    assert relearning["blind_s"] == 30.0
    assert 12.0 < relearning["t_s"] < 18.0
    assert lines[-1]["watched_s"] < 50.0 - 30.0  # it learned what is usual anew


def test_what_is_said_of_an_alarm_can_be_read():
    assert _direction(-9.94, 3.0) == "9.9 degrees to the left and 3.0 up"
    assert _direction(4.0, -9.9) == "4.0 degrees to the right and 9.9 down"
    assert _times(30.0, 10.0) == "3 times" and _times(8355.0, 1.0) == "over 100 times"
    assert _times(5.0, 0.0) == "over 100 times"
    assert [_duration(s) for s in (9.9, 119.0, 600.0, 9000.0)] == [
        "10 s",
        "119 s",
        "10 min",
        "2.5 h",
    ]


@pytest.mark.slow
def test_a_video_that_ends_too_early_is_refused_at_the_start(world, tmp_path, capsys):
    rc, out, err = run_watch(
        world, "run", "--source", world / "yard.avi", "--out", tmp_path / "out", capsys=capsys
    )
    assert rc == 1 and out == "" and not (tmp_path / "out").exists()
    assert "the video ends after 45 s" in err and "set another --warm-up" in err


@pytest.mark.slow
def test_seconds_that_end_in_the_warm_up_are_refused_at_the_start(world, tmp_path, capsys):
    with FaultyCamera(size=(320, 240)) as camera:
        rc, out, err = run_watch(
            world, "run", "--source", camera.url, "--seconds", "30", "--warm-up", "30",
            "--out", tmp_path / "out", capsys=capsys,
        )  # fmt: skip
    assert rc == 1 and out == "" and not (tmp_path / "out").exists()
    assert "--seconds ends it after 30 s" in err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("encoder", "options", "message"),
    [
        ("encoder.onnx", [], "name it with --source"),
        ("run", [], "scene: shows another picture all the time"),
        ("run", ["--source", "."], "shows another picture all the time"),
        ("run", ["--source", "nothing.avi"], "no such video"),
        ("nothing.onnx", ["--source", "yard.avi"], "cannot read"),
        ("run", ["--source", "yard.avi", "--exec", "no_such_program"], "no such program"),
        ("run", ["--source", "yard.avi", "--head", "serial:"], "no head turns"),
    ],
)
def test_what_cannot_be_watched_is_reported_in_a_line(
    world, encoder, options, message, capsys, monkeypatch
):
    monkeypatch.chdir(world)
    rc, out, err = run_watch(world, encoder, *options, capsys=capsys)
    assert rc == 1 and out == ""
    assert message in err
    assert len([line for line in err.splitlines() if line.startswith("edge-rjepa:")]) == 1
    assert not (world / "watch").exists()


@needs_broker
@pytest.mark.slow
def test_the_command_tells_a_broker_what_is_new(later, tmp_path, capsys):
    pytest.importorskip("paho.mqtt")
    make_certificates(tmp_path)
    (tmp_path / "password").write_text(PASSWORD + "\n")
    broker = Mosquitto(tmp_path)
    broker.start()
    phone = Phone(broker)
    rc, out, err = run_watch(
        *later, "--json", "--mqtt-password-file", tmp_path / "password",
        "--mqtt", f"mqtts://{USER}@localhost:{broker.tls_port}/yard",
        "--mqtt-ca", tmp_path / "ca.pem", capsys=capsys,
    )  # fmt: skip
    phone.wait("yard/availability", b"offline")
    phone.close()
    broker.stop()
    assert rc == 0, err
    lines = [json.loads(line) for line in out.splitlines()]
    gone, alarm = (line for line in lines if line["kind"] in ("gone", "alarm"))
    assert [json.loads(said) for said in phone.said("yard/alarm")] == [gone, alarm]
    assert phone.said("yard/cutout") == [Path(alarm["picture"]).read_bytes()]
    frame = cv2.imdecode(np.frombuffer(phone.said("yard/frame")[0], np.uint8), cv2.IMREAD_COLOR)
    assert frame.shape == (240, 320, 3)
    assert phone.said("yard/availability")[-2:] == [b"online", b"offline"]
    assert phone.said("yard/new")[-1] == b"ON"
    assert PASSWORD not in out + err and USER not in err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--mqtt", "mqtt://me:geheim@broker/yard"], "--mqtt-password-file"),
        (["--mqtt", "mqtt://broker"], "name a prefix"),
        (
            ["--mqtt", "mqtt://broker/yard", "--mqtt-password-file", "nothing"],
            "cannot read nothing",
        ),
        (["--mqtt", "mqtt://broker/yard", "--mqtt-password-file", "small.toml"], "names no user"),
        (["--mqtt", "mqtt://broker/yard", "--mqtt-ca", "small.toml"], "for mqtts:// only"),
        (["--mqtt", "mqtts://broker/yard", "--mqtt-ca", "small.toml"], "--mqtt-ca small.toml"),
    ],
)
def test_a_broker_that_cannot_be_is_reported_in_a_line(
    world, options, message, capsys, monkeypatch
):
    monkeypatch.chdir(world)
    rc, out, err = run_watch(world, "encoder.onnx", "--source", "yard.avi", *options, capsys=capsys)
    assert (rc, out) == (1, "") and message in err and "geheim" not in err
    assert len(err.splitlines()) == 1


@pytest.mark.slow
def test_a_run_and_its_file_embed_alike(world, photograph):
    windows = RETINA.windows(photograph, np.random.default_rng(6).uniform(0, 240, (150, 2)))
    run = open_encoder(world / "run")
    assert run.config.network.n_embedding == 16
    for name in ("encoder.onnx", "sequence.onnx"):
        file = open_encoder(world / name)
        assert run.window_px == file.window_px == 64 and file.config is None
        of_run, of_file = run.patch_embedder()(windows), file.patch_embedder()(windows)
        np.testing.assert_allclose(of_run, of_file, atol=1e-4)


@pytest.mark.slow
def test_a_video_can_be_shown_once_to_its_last_frame(world):
    with open_source(str(world / "yard.avi"), once=True) as source:
        count = 0
        with pytest.raises(SourceEnded):
            while True:
                source.read_next(0)
                count += 1
    assert count == 45
