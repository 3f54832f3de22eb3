"""How sources are named."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_rjepa.errors import SourceError
from edge_rjepa.sources import absolute, find_kind, kinds, open_source, reach_rad, supported
from edge_rjepa.sources.camera import CameraSource
from edge_rjepa.sources.config import CameraConfig
from edge_rjepa.sources.pictures import PictureSource


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(3):
        cv2.imwrite(str(folder / f"{i}.png"), np.full((48, 64, 3), 40 * i, np.uint8))
    return folder


def test_a_folder_and_a_file_are_told_apart_by_what_they_are(pictures):
    assert isinstance(open_source(str(pictures)), PictureSource)
    assert isinstance(open_source(pictures), PictureSource)
    with pytest.raises(SourceError, match="cannot read it as a video"):
        open_source(__file__)
    with pytest.raises(SourceError, match=r"none\.mp4: no such video file or folder"):
        open_source("none.mp4")


def test_the_field_of_view_is_the_configured_one(pictures):
    with open_source(str(pictures), camera=CameraConfig(field_of_view_rad=0.7)) as source:
        assert source.camera.field_of_view_rad == 0.7


@pytest.mark.parametrize(
    ("spec", "turns"),
    [("0", True), ("rtsp://a/1", True), ("scene:", True), ("walk.mp4", False), ("replay:x", False)],
)
def test_it_is_known_whether_a_head_turns_what_is_seen(spec, turns):
    assert all(most_rad > 0.0 for most_rad in reach_rad(spec)) == turns


@pytest.mark.parametrize(
    ("spec", "meant"),
    [
        ("scne:", "scene:"),
        ("sceen:pictures", "scene:"),
        ("repaly:run", "replay:"),
        ("htp://camera", "http://"),
        ("rstp://camera/1", "rtsp://"),
    ],
)
def test_a_misspelt_kind_is_recognised(spec, meant):
    with pytest.raises(SourceError, match=f"did you mean '{meant}'"):
        open_source(absolute(spec))


@pytest.mark.parametrize("spec", ["", "x:", "webcam:0"])
def test_an_unknown_kind_is_told_what_there_is(spec):
    with pytest.raises(SourceError, match="unknown source.*scene:DIR"):
        open_source(absolute(spec))


@pytest.mark.parametrize(
    "spec",
    ["0", "12", "/dev/video0", "/dev/v4l/by-id/x", "rtsp://a/1", "http://a", "gst:a ! b", "scene:"],
)
def test_what_is_no_file_is_named_the_same_everywhere(spec):
    assert absolute(spec) == spec


def test_every_kind_is_in_the_help():
    assert all(kind.example in supported() for kind in kinds.KINDS)


def test_every_beginning_is_known_and_guessed():
    beginnings = [(each, kind) for kind in kinds.KINDS for each in kind.beginnings]
    assert {"rtsp://", "rtsps://", "gst:", "scene:"} <= {each for each, _ in beginnings}
    for each, kind in beginnings:
        assert find_kind(f"{each}x") is kind
        assert kinds.meant_by(f"x{each}x") == each


def test_a_newcomer_needs_one_record(monkeypatch):
    asked = []
    kind = kinds.Kind(
        "mirror", "mirror:NAME", lambda *given: asked.append(given), "mirror:", reach_rad=(1.0, 0.5)
    )
    monkeypatch.setattr(kinds, "KINDS", [*kinds.KINDS, kind])
    assert reach_rad("mirror:hall") == (1.0, 0.5) and absolute("mirror:hall") == "mirror:hall"
    open_source("mirror:hall", seed=4)
    ((name, options),) = asked
    assert (name, options.seed) == ("hall", 4) and "mirror:NAME" in supported()
    with pytest.raises(SourceError, match="did you mean 'mirror:'"):
        open_source("miror:hall")


@pytest.mark.parametrize("module", ["edge_rjepa.sources", "edge_rjepa.run.config"])
def test_importing_the_room_loads_no_kind(module):
    program = (
        f"import sys, {module}; "
        "print([m for m in ('cv2', 'onnx', 'numba', 'scipy') if m in sys.modules])"
    )
    output = subprocess.check_output([sys.executable, "-c", program], text=True)
    assert output.strip() == "[]"


@pytest.mark.parametrize("kind", ["", "scene:", "replay:"])
def test_files_and_folders_are_named_from_the_root(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert absolute(f"{kind}walk") == f"{kind}{tmp_path.resolve() / 'walk'}"
    assert absolute(f"{kind}~/walk") == f"{kind}{Path.home() / 'walk'}"


@pytest.mark.parametrize("spec", ["0", "/dev/video7", "http://a/b", "rtsp://a"])
def test_cameras_are_live_sources(spec, monkeypatch):
    opened = []
    monkeypatch.setattr(CameraSource, "__init__", lambda self, *given: opened.append(given))
    config = CameraConfig(width_px=320)
    assert isinstance(open_source(spec, camera=config), CameraSource)
    assert [(name, asked) for name, _, asked, _ in opened] == [(spec, config)]


def test_a_colon_in_a_files_name_is_no_kind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "10:30.mp4").write_text("no video")
    with pytest.raises(SourceError, match="as a video"):
        open_source(absolute("10:30.mp4"))
