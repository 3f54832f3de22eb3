"""Every kind of source is put through what all of them must do."""

import functools

import cv2
import numpy as np
import pytest

from benchmarks.faulty_camera import FaultyCamera
from benchmarks.lerobot_datasets import write_dataset
from edge_rjepa.optics.camera import Pinhole
from edge_rjepa.sources import Frame, open_source
from edge_rjepa.sources.recording import Recorder
from firmware_bridge.track import Pose
from tests.ros2_link.made import IMAGE, JOINT_STATE, image, joint_state
from tests.sources.bags import IMAGES, write_mcap
from tests.sources.source_checks import CHECKS

CAMERA = Pinhole(64, 48, 1.0)


class Mount:
    """A real head that stands still."""

    def at(self, t_s):
        return Pose(0.1, -0.05, False)


def noise(seed, size=(64, 48)):
    return np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)


def moving_pictures(count):
    """Messages of a bag: noise, and the head that it was seen from."""
    for i in range(count):
        t_s = 0.1 * i
        yield IMAGES, IMAGE, t_s, image(noise(i), stamp_s=9.0 + t_s)
        yield "/joint_states", JOINT_STATE, t_s, joint_state({"pan": t_s, "tilt": 0.0}, 9.0 + t_s)


@pytest.fixture(scope="module")
def makers(tmp_path_factory):
    """By the kind's name, what opens a source of it."""
    folder = tmp_path_factory.mktemp("pictures")
    for i in range(6):
        cv2.imwrite(str(folder / f"{i}.png"), noise(i, (400, 300)))
    video = tmp_path_factory.mktemp("video") / "noise.avi"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter_fourcc(*"MJPG"), 25.0, (64, 48))
    for i in range(40):
        writer.write(noise(i))
    writer.release()
    recording = tmp_path_factory.mktemp("recording")
    held_out = [Frame(noise(100 + i), 0.1 * i, (0.0, 0.0), i) for i in range(4)]
    for path in (recording, recording / "walk.mcap"):
        with Recorder(path, CAMERA, {}, ((-1.0, 1.0), (-0.5, 0.5)), held_out) as recorder:
            for i in range(12):
                recorder.add(Frame(noise(i), 0.1 * i, (0.01 * i, 0.0), i), np.zeros((2, 2)), 2)
    bag = write_mcap(tmp_path_factory.mktemp("bag") / "noise.mcap", moving_pictures(40))
    dataset = write_dataset(tmp_path_factory.mktemp("lerobot") / "dataset")
    with FaultyCamera(size=(64, 48)) as camera:
        yield {
            "scene": functools.partial(open_source, f"scene:{folder}", 3),
            "steered scene": functools.partial(open_source, f"scene:{folder}", 3, mount=Mount()),
            "folder": functools.partial(open_source, str(folder), 3),
            "video": functools.partial(open_source, str(video)),
            "recording": functools.partial(open_source, f"replay:{recording}"),
            "bag": functools.partial(open_source, f"bag:{bag}"),
            "bag, with a head": functools.partial(
                open_source, f"bag:{bag}#{IMAGES}?joints=/joint_states:pan,tilt"
            ),
            "MCAP recording": functools.partial(open_source, f"replay:{recording / 'walk.mcap'}"),
            "lerobot": functools.partial(
                open_source, f"lerobot:{dataset}#side?state=pan.pos,tilt.pos"
            ),
            "stream": functools.partial(open_source, camera.url),
        }


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize(
    "kind",
    [
        "scene", "steered scene", "folder", "video", "recording", "MCAP recording", "bag",
        "bag, with a head", "lerobot", "stream",
    ],
)  # fmt: skip
def test_it_does_what_every_source_must(makers, kind, check):
    check(makers[kind])
