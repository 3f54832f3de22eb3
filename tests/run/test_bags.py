"""Learning from a bag."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from edge_rjepa.learner.config import RJepaConfig
from edge_rjepa.run.config import RunConfig
from edge_rjepa.run.run import Run, load_run
from edge_rjepa.sources import open_source
from tests.ros2_link.made import IMAGE, JOINT_STATE, image, joint_state
from tests.small_runs import smooth_pictures
from tests.sources.bags import IMAGES, write_mcap

NETWORK = RJepaConfig(n_embedding=16, n_hidden=24, n_predictor=16, n_gain=4, max_block=16)


def walk():
    """A camera on a head that turns."""
    for i, picture in enumerate(smooth_pictures(30)):
        t_s = 0.1 * i
        small = cv2.resize(picture, (96, 64))
        yield "/joint_states", JOINT_STATE, t_s, joint_state({"pan": 0.1 * np.sin(t_s)}, 9.0 + t_s)
        yield IMAGES, IMAGE, t_s + 0.01, image(small, stamp_s=9.0 + t_s)


def learned(folder, config, stops):
    """The digest after the last of these numbers of frames, resumed at each of the others."""
    for stop in stops:
        with open_source(config.source, config.seed) as source:
            run = (
                Run.resume(folder, source, load_run(folder))
                if folder.exists()
                else Run.start(folder, config, source)
            )
            run.learn(lambda run, stop=stop: run.frames < stop, lambda progress: None)
    return run.learner.digest


@pytest.mark.slow
def test_the_same_bag_teaches_the_same_to_the_last_bit_resumed_or_not(tmp_path):
    path = write_mcap(tmp_path / "walk.mcap", list(walk()), chunk_size=40_000)
    config = replace(
        RunConfig(network=NETWORK, held_out_frames=3, metrics_every_frames=10),
        source=f"bag:{path}#{IMAGES}?joints=/joint_states:pan,",
    )
    once = learned(tmp_path / "once", config, [45])
    assert learned(tmp_path / "again", config, [45]) == once
    assert learned(tmp_path / "resumed", config, [11, 29, 45]) == once
    without_head = replace(config, source=f"bag:{path}")
    assert learned(tmp_path / "other", without_head, [45]) != once
