"""The Python blocks of README and docs run as they stand, each page from its top in one process.

A page may use what a reader has at hand by then: the files and names of `world`. A block that
cannot run in a test has a comment before it that says why: `<!-- not run: it needs a GPU -->`.
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import NamedTuple

import cv2
import numpy as np
import pytest
from skimage import data

import calibration.io
from edge_rjepa import Gaze, GazeConfig, Pinhole, Retina, RJepa, RJepaConfig, export
from edge_rjepa.encoder import parity
from tests.calibrations import camera_record, head_record

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
BLOCK = re.compile(
    r"(?:^ *<!-- not run: (?P<why>.+?) -->\s+)?^ *```python\n(?P<code>.*?)^ *```$",
    re.MULTILINE | re.DOTALL,
)
# What stands in a page's first line when it is run.
PREPARE = "from reader import *"
READER = """
import numpy as np

names = dict(np.load("names.npz"))
frame, pixels, windows = names["frame"], names["pixels"], names["windows"]
features, efference = names["features"], names["efference"]
fixations = list(zip(windows[:, None], efference[:, None]))
"""


class Block(NamedTuple):
    """A Python block of a page."""

    line: int  # of its first line of code, from 0
    code: str
    why_not: str | None  # it cannot run in a test


def blocks_of(text):
    return [
        Block(text.count("\n", 0, found.start("code")), dedent(found["code"]), found["why"])
        for found in BLOCK.finditer(text)
    ]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with room.jpg and three rooms, yard.mp4, eye.safetensors, calibration.json.

    And with two encoders, encoder.onnx and place.onnx, a descriptor. Its reader.py gives the names
    `frame`, `pixels`, `windows`, `features` and `efference` of 16 fixations, and `fixations`, pairs
    of a window and its efference.
    """
    folder = tmp_path_factory.mktemp("reader")
    frame = cv2.resize(cv2.cvtColor(data.astronaut(), cv2.COLOR_RGB2BGR), (640, 480))
    camera = Pinhole(640, 480, field_of_view_rad=1.05)
    plan = Gaze(seed=0).plan(camera, frame, head=(0.0, 0.0), count=16)
    retina, learner = Retina(), RJepa(RJepaConfig(), seed=0)
    features = retina(frame, plan.pixels)
    learner.learn_block(features, plan.efference)
    (folder / "reader.py").write_text(READER)
    cv2.imwrite(str(folder / "room.jpg"), frame)
    for room in ("kitchen", "hall", "office"):
        cv2.imwrite(str(folder / f"{room}.jpg"), frame[:, ::-1])
    video = cv2.VideoWriter(
        str(folder / "yard.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 10, (640, 480)
    )
    for _ in range(30):
        video.write(frame)
    video.release()
    learner.save(folder / "eye.safetensors")
    for record in (camera_record(), head_record()):
        calibration.io.save(folder / "calibration.json", record)
    np.savez(
        folder / "names.npz", frame=frame, pixels=plan.pixels, features=features,
        windows=retina.windows(frame, plan.pixels), efference=plan.efference,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parity, "PARITY_STEPS", 16)
        export(learner, retina, folder / "encoder.onnx", gaze=GazeConfig())
        size = 640, 480
        export(learner, retina, folder / "place.onnx", form="descriptor", picture_px=size)
    return folder


def script(text):
    """A program of the page's blocks, each on the lines where it stands there."""
    lines = [PREPARE] + [""] * text.count("\n")
    for block in blocks_of(text):
        if not block.why_not:
            code = block.code.splitlines()
            lines[block.line : block.line + len(code)] = code
    return "\n".join(lines)


def read(page, world):
    """Runs the blocks of a page, as a reader would who copies them into a file."""
    path = world / f"read_{page.stem}.py"
    path.write_text(script(page.read_text()))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, path], cwd=world, env=environment,
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip


WITH_BLOCKS = [
    page for page in PAGES if any(not block.why_not for block in blocks_of(page.read_text()))
]


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_BLOCKS, ids=lambda page: page.name)
def test_the_blocks_of_a_page_run(page, world):
    done = read(page, world)
    assert done.returncode == 0, done.stderr


def test_the_readme_has_blocks_that_run():
    assert ROOT / "README.md" in WITH_BLOCKS


def test_every_python_block_is_found():
    for page in PAGES:
        text = page.read_text()
        assert len(blocks_of(text)) == len(re.findall(r"```(?:py|python3?)\b", text)), page
        markers = re.findall(r"^ *<!-- not run", text, re.MULTILINE)
        assert len(markers) == sum(block.why_not is not None for block in blocks_of(text)), page


@pytest.mark.slow
def test_an_error_names_the_line_of_the_page(tmp_path, world):
    page = tmp_path / "page.md"
    page.write_text("# Title\n\n```python\nx = 1\n```\n\nThen:\n\n```python\ny = x\ny.z\n```\n")
    done = read(page, world)
    assert done.returncode == 1
    assert 'page.py", line 11' in done.stderr


def test_blocks_that_say_why_they_cannot_run_are_left_out():
    text = "<!-- not run: no GPU -->\n```python\na\n```\n\n1. b\n   ```python\n   b\n   ```\n"
    assert blocks_of(text) == [Block(2, "a\n", "no GPU"), Block(7, "b\n", None)]
