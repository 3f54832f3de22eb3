"""`edge-rjepa calibrate ..` as a user types it, with OpenCV's sample pictures.

That `calibrate head` finds what is so is in test_calibrated_head.py, with the emulated firmware;
here is how it ends when it cannot.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.faulty_camera import FaultyCamera, view
from calibration import io
from edge_rjepa.run.run import load_run
from edge_rjepa.sources import Frame
from tests.firmware_bridge.core_board import CoreBoard
from tests.tools import but_in_attack

PICTURES = Path("/usr/share/doc/opencv-doc/examples/data")
LEFT = sorted(PICTURES.glob("left[01]*.jpg"))
BOARD = "--board", "chessboard", "--corners", "9x6"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not LEFT, reason="needs OpenCV's pictures: apt install opencv-doc"),
]


def command(*arguments):
    return [sys.executable, "-m", "edge_rjepa", "calibrate", *map(str, arguments)]


def calibrate(*arguments, cwd=None):
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=900, cwd=cwd)


def folder_of(path, pictures):
    path.mkdir()
    for number, picture in enumerate(pictures):
        cv2.imwrite(str(path / f"{number:02d}.png"), picture)
    return path


def read(path):
    return cv2.imread(str(path))


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """A folder with the calibration of the left camera, and what was said when it was made."""
    folder = tmp_path_factory.mktemp("calibrated")
    shots = folder_of(folder / "shots", map(read, LEFT))
    done = calibrate("camera", "--images", shots, *BOARD, "-o", folder / "c.json", "--json")
    assert done.returncode == 0, done.stderr
    return folder, done


def test_pictures_become_a_camera_and_a_page(calibrated):
    folder, done = calibrated
    figures = json.loads(done.stdout)
    assert figures["rms_px"] < 0.25 and figures["views"] == [13, 13]
    assert figures["focal_px"] == pytest.approx([535.92, 535.92], rel=0.005)  # OpenCV's own
    found = io.load(folder / "c.json").camera
    assert found.device == f"pictures in {folder / 'shots'}"
    assert found.result.model.focal_x_px == figures["focal_px"][0]
    page = (folder / "c.html").read_text()
    assert page.count("<svg") == 2 and "12.png" in page
    assert "http" not in page  # nothing is fetched from elsewhere


def test_the_page_again(calibrated, typed, tmp_path):
    folder, _ = calibrated
    page = str(tmp_path / "page.html")
    done = typed(tmp_path, "calibrate", "report", str(folder / "c.json"), "-o", page)
    assert done.returncode == 0 and done.stdout.strip() == str(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text() == (folder / "c.html").read_text()


def test_a_video_is_guided_through_and_says_what_is_missing(tmp_path):
    """Each picture for a third of a second: to be kept, the board must be seen still."""
    size = read(LEFT[0]).shape[1::-1]
    video = cv2.VideoWriter(
        str(tmp_path / "waved.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10.0, size
    )
    for path in LEFT:
        for _ in range(3):
            video.write(read(path))
    video.release()
    done = calibrate(
        "camera", "--source", "waved.avi", *BOARD, "-o", "c.json", "--json",
        "--preview", "now.jpg", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "views" in done.stderr and "still missing" in done.stderr
    figures = json.loads(done.stdout)
    assert figures["focal_px"][0] == pytest.approx(535.9, rel=0.02) and figures["views"][0] >= 8
    assert read(tmp_path / "now.jpg").shape[1::-1] == size


def test_names_that_are_no_utf_8_have_a_page(typed, tmp_path):
    shots = folder_of(tmp_path / "shots", map(read, LEFT)).rename(tmp_path / "\udce9t\udce9")
    (shots / "00.png").rename(shots / "\udce9.png")
    done = typed(tmp_path, "calibrate", "camera", "--images", str(shots), *BOARD, "-o", "c.json")
    assert done.returncode == 0, done.stderr
    assert r"\udce9.png" in (tmp_path / "c.html").read_text()
    assert io.load(tmp_path / "c.json").camera.device == f"pictures in {shots}"


class WavedAndGone:
    """A live camera that shows each picture three times, and then nothing more."""

    live = True

    def __init__(self, pictures, meanwhile):
        self._pictures = [read(path) for path in pictures for _ in range(3)]
        self._meanwhile = meanwhile
        self._shown = 0

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def read_next(self, timeout_ms):
        if self._shown == len(self._pictures):
            return None
        self._shown += 1
        self._meanwhile()
        return Frame(self._pictures[self._shown - 1], 0.1 * self._shown, (0.0, 0.0), self._shown)


def wave(typed, monkeypatch, folder, pictures, *arguments, meanwhile=lambda: None):
    camera = WavedAndGone(pictures, meanwhile)
    monkeypatch.setattr("edge_rjepa.sources.open_source", lambda source: camera)
    return typed(folder, "calibrate", "camera", "--source", "0", *BOARD, "-o", "c.json", *arguments)


def test_views_outlive_their_camera(typed, tmp_path, monkeypatch):
    done = wave(typed, monkeypatch, tmp_path, LEFT)
    assert done.returncode == 0, done.stderr
    assert "no picture came for 10 s: check the camera; the views so far are used" in done.stderr
    assert io.load(tmp_path / "c.json").camera.result.views_used >= 8


def test_a_camera_that_never_showed_the_board_is_the_trouble(typed, tmp_path, monkeypatch):
    refused(wave(typed, monkeypatch, tmp_path, []), "no picture came for 10 s")


def test_views_outlive_their_preview(typed, tmp_path, monkeypatch):
    (tmp_path / "shown").mkdir()
    done = wave(
        typed, monkeypatch, tmp_path, LEFT, "--preview", "shown/now.jpg",
        meanwhile=lambda: shutil.rmtree(tmp_path / "shown", ignore_errors=True),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("warning: no preview: ") == 1 and "now.jpg" in done.stderr


@pytest.mark.parametrize("name", ["board.pdf", "board.png"])
def test_the_board_is_written_at_true_size(name, typed, tmp_path):
    done = typed(tmp_path, "calibrate", "board", "-o", name, "--square-mm", "20")
    assert done.returncode == 0 and "measure a square" in done.stderr
    data = (tmp_path / name).read_bytes()
    if name.endswith(".png"):
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
        assert image.shape[1] == round((10 + 2) * 0.020 * 300 / 0.0254)  # a white square around it
    else:
        assert data.startswith(b"%PDF") and b"/PrintScaling /None" in data


def mixed():
    return [read(LEFT[0]), cv2.resize(read(LEFT[1]), (320, 240))]


GARBAGE = {
    "black frames": (lambda: [np.zeros((480, 640, 3), np.uint8)] * 2, BOARD, "no chessboard of"),
    "another board": (
        lambda: [read(path) for path in LEFT],
        ("--board", "chessboard", "--corners", "7x4"),
        "is the board flat, still, and chessboard of 7 x 4",
    ),
    "another kind": (lambda: [read(path) for path in LEFT[:2]], (), "no charuco of"),
    "mixed resolutions": (mixed, BOARD, "take pictures of one resolution"),
    "too few": (lambda: [read(path) for path in LEFT[:4]], BOARD, "at least 6"),
    "one view": (lambda: [read(LEFT[0])] * 8, BOARD, "1 of 8 views differ"),
    "no picture": (list, BOARD, "holds no picture"),
}


@pytest.mark.parametrize("what", but_in_attack(GARBAGE, "another board", "another kind"))
def test_garbage_is_one_clear_line_and_the_old_calibration_stays(what, calibrated, typed, tmp_path):
    pictures, board, says = GARBAGE[what]
    old = (calibrated[0] / "c.json").read_bytes()
    (tmp_path / "c.json").write_bytes(old)
    shots = folder_of(tmp_path / "shots", pictures())
    arguments = ["camera", "--images", str(shots), *board, "-o", str(tmp_path / "c.json")]
    refused(typed(tmp_path, "calibrate", *arguments), says)
    assert (tmp_path / "c.json").read_bytes() == old


def test_what_is_no_picture_is_named_and_left_out(tmp_path):
    shots = folder_of(tmp_path / "shots", [read(path) for path in LEFT[:2]])
    (shots / "half.png").write_bytes(b"\x89PNG")
    os.mkfifo(shots / "pipe.jpg")
    result = calibrate("camera", "--images", shots, *BOARD, "-o", tmp_path / "c.json")
    assert result.returncode == 1 and "2 views of the board: at least 6" in result.stderr
    assert result.stderr.count("; left out\n") == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is damaged"),
        ("[]", "is no calibration"),
        ('{"format": "edge_rjepa calibration", "version": 9}', "version 9"),
        ('{"format": "edge_rjepa calibration", "version": 1, "camera": NaN}', "NaN is no number"),
    ],
)
def test_a_damaged_file_is_refused_by_all_who_read_it(text, says, typed, tmp_path):
    path = tmp_path / "c.json"
    path.write_text(text)
    for arguments in (
        ["calibrate", "report", path],
        ["calibrate", "camera", "--images", tmp_path, "-o", path],
        ["calibrate", "head", "--head=serial:nowhere", "--source", "0", "-o", path],
        ["learn", "--source", "waved.avi", "--calibration", path, "--out", tmp_path / "run"],
    ):
        refused(typed(tmp_path, *map(str, arguments)), says)
    assert path.read_text() == text


def test_what_cannot_be_written_in_the_end_is_refused_before_the_work(typed, tmp_path):
    """A new file takes the old one's place: a link, or a folder that takes none, is no place."""
    (tmp_path / "real.json").symlink_to("elsewhere.json")
    (tmp_path / "now.jpg").mkdir()
    camera = "calibrate", "camera", "--source", "nowhere.mp4"
    for arguments, says in (
        (("-o", "real.json"), "real.json: is a link: remove it"),
        (("-o", "c.html"), "the page about it has this name: end it in .json"),
        (("--preview", "now.jpg"), "now.jpg: Is a directory: name a file"),
    ):
        done = typed(tmp_path, *camera, *arguments)
        refused(done, says)
        assert "show the board" not in done.stderr


def test_a_folder_that_takes_no_new_file_is_refused_before_the_work(
    calibrated, typed, tmp_path, monkeypatch
):
    (tmp_path / "c.json").write_bytes((calibrated[0] / "c.json").read_bytes())
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).is_file())  # root may write
    done = typed(tmp_path, "calibrate", "camera", "--source", "nowhere.mp4", "-o", "c.json")
    refused(done, ". cannot be written: name another -o")


def test_the_page_never_takes_the_place_of_the_calibration(calibrated, typed, tmp_path):
    saved = (calibrated[0] / "c.json").read_bytes()
    for name in ("c.json", "c.html"):
        (tmp_path / name).write_bytes(saved)
    refused(typed(tmp_path, "calibrate", "report", "c.json", "-o", "c.json"), "the calibration")
    refused(typed(tmp_path, "calibrate", "report", "c.html"), "end it in .json")
    assert all((tmp_path / name).read_bytes() == saved for name in ("c.json", "c.html"))


def refused(done, says):
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("edge-rjepa: ")
    assert says in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["camera"], 2, "--source"),
        (["camera", "--images", "nowhere"], 1, "nowhere is no folder"),
        (["camera", "--images", ".", "-o", "no/such/c.json"], 1, "no/such is no folder"),
        (["camera", "--images", ".", "--corners", "9by6"], 2, "--corners"),
        (["camera", "--images", ".", "--corners", "2x2"], 1, "use 3 to 40"),
        (["camera", "--source", "0", "--preview", "now.gif"], 1, "end it in .jpg or .png"),
        (["camera", "--source", "0", "--preview", "no/such/now.jpg"], 1, "no/such is no folder"),
        (["board", "-o", "board.doc"], 1, ".pdf or .png"),
        (["board", "--square-mm", "60"], 1, "does not fit"),
        (["board", "--square-mm", "0.001"], 1, "squares of 0.001 mm"),
        (["board", "--square-mm", "1e9"], 1, "squares of 1e+09 mm"),
        (["board", "--square-mm", "2000", "-o", "board.png"], 1, "use smaller squares"),
        (["head", "--source", "0", "--fov", "180"], 2, "below 180"),
        (["head", "--source", "0", "--views", "3"], 1, "at least 16"),
        (["head", "--source", "walk.mp4"], 1, "live camera"),
        (["report", "nowhere.json"], 1, "cannot read"),
    ],
)
def test_wrong_use_is_one_clear_line(arguments, code, says, typed, tmp_path):
    done = typed(tmp_path, "calibrate", *arguments)
    assert done.returncode == code and says in done.stderr and "Traceback" not in done.stderr


class StillCamera(FaultyCamera):
    """A network camera that shows one picture for good."""

    def __init__(self, picture):
        self._picture = cv2.imencode(".jpg", picture)[1].tobytes()
        super().__init__(frames_per_s=15.0)

    def _encoded(self, number):
        return self._picture


def interrupted(arguments, at, once=lambda: True):
    """The exit code, and what was said, of a calibration that gets Ctrl-C.

    That is after the line with `at`, once something is so.
    """
    with subprocess.Popen(command(*arguments), stderr=subprocess.PIPE, text=True) as started:
        try:
            assert any(at in line for line in started.stderr)
            while not once():
                assert started.poll() is None, started.communicate()
                time.sleep(0.01)
            started.send_signal(signal.SIGINT)
            said = started.communicate(timeout=300)[1]
        finally:
            started.kill()
    return started.returncode, said


def test_a_camera_interrupted_too_soon_says_what_is_missing(calibrated, tmp_path):
    old = (calibrated[0] / "c.json").read_bytes()
    (tmp_path / "c.json").write_bytes(old)
    with StillCamera(read(LEFT[0])) as camera:
        arguments = "camera", "--source", camera.url, *BOARD, "-o", tmp_path / "c.json"
        code, said = interrupted(arguments, at="1 views")
    assert code == 1 and "still missing: move the board" in said and "at least 6" in said
    assert (tmp_path / "c.json").read_bytes() == old


def has_turned(board):
    return len({pulse[1:] for pulse in board.core.pulses}) > 10


@pytest.fixture
def head(calibrated, tmp_path):
    """A head whose camera sees the same wherever it turns; its calibrate, and its old file."""
    (tmp_path / "c.json").write_bytes((calibrated[0] / "c.json").read_bytes())
    (tmp_path / "board").mkdir()
    with (
        CoreBoard(tmp_path / "board") as board,
        StillCamera(view((640, 480), 0)) as camera,
    ):
        yield board, [
            "head", f"--head=serial:{board.path}", f"--source={camera.url}",
            f"--output={tmp_path / 'c.json'}",
        ]  # fmt: skip
        old = (calibrated[0] / "c.json").read_bytes()
        assert (tmp_path / "c.json").read_bytes() == old
        assert has_turned(board) and board.pulses_us() in (None, (1500.0, 1500.0))


def test_a_head_whose_picture_does_not_turn_is_refused_and_sent_home(head):
    refused(calibrate(*head[1]), "the pan servo does not move")


def test_a_head_interrupted_goes_home_first(head):
    board, arguments = head
    code, said = interrupted(arguments, at="timing the pan", once=lambda: has_turned(board))
    assert code == 130 and said.endswith("edge-rjepa: interrupted\n")


def test_learning_takes_the_camera_from_its_file(calibrated, typed, undrawn, tmp_path):
    folder, _ = calibrated
    video = cv2.VideoWriter(
        str(tmp_path / "walk.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 30.0, (320, 240)
    )
    rng = np.random.default_rng(0)
    for _ in range(40):
        video.write(cv2.resize(rng.integers(0, 255, (24, 32, 3), np.uint8), (320, 240)))
    video.release()
    learn = "learn", "--fixations", "640", "--calibration", str(folder / "c.json")
    done = typed(tmp_path, *learn, "--source", "walk.avi", "--out", "run")
    assert done.returncode == 0, done.stderr
    assert "use that resolution" in done.stderr  # half of what it was calibrated at
    assert "pictures in" in done.stderr  # another device, as far as it can tell
    camera = load_run(tmp_path / "run").notes["loop"]["gaze"]["planned"]
    assert camera["camera"]["kind"] == "calibrated"
    half = io.load(folder / "c.json").camera.result.model.resized(320, 240)
    assert camera["camera"]["focal_x_px"] == half.focal_x_px
    # A picture of another shape has no scale.
    video = cv2.VideoWriter(
        str(tmp_path / "wide.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 30.0, (320, 180)
    )
    for _ in range(40):
        video.write(np.full((180, 320, 3), 90, np.uint8))
    video.release()
    done = typed(tmp_path, *learn, "--source", "wide.avi", "--out", "other")
    refused(done, "has not the shape of")
