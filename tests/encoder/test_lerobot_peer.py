"""Datasets that LeRobot's own code writes, and loads and trains on again: `make lerobot`.

It works in an environment of its own, by its own program: nothing of it is imported here.
"""

import json
import os
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
from skimage import data

from edge_rjepa.encoder.dataset_column import write_with_column
from edge_rjepa.encoder.describe import learner_describer
from edge_rjepa.eye.retina import Retina
from edge_rjepa.learner.config import RJepaConfig
from edge_rjepa.learner.rjepa import RJepa
from edge_rjepa.sources import SourceEnded, open_source
from edge_rjepa.sources.lerobot_dataset import Dataset

ROOT = Path(__file__).parent.parent.parent
PYTHON = Path(os.environ.get("LEROBOT_PYTHON", ROOT / ".venv/lerobot/bin/python"))
NAME = "observation.environment_state"  # ACT takes it by itself

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not PYTHON.exists(), reason="LeRobot is not there: `make lerobot` installs it"
    ),
]

FRONT = "observation.images.front"


def run(*arguments):
    """What the program prints, as JSON if it is. It loads nothing from a network."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        list(map(str, arguments)), env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def peer(*arguments):
    return run(PYTHON, ROOT / "tests/lerobot_peer.py", *arguments)


@pytest.fixture(scope="module", params=["libsvtav1", "h264", "image"])
def dataset(request, tmp_path_factory):
    """A dataset that LeRobot wrote of photographs, and the states of its frames."""
    folder = tmp_path_factory.mktemp("peer")
    paths = []
    for name in ("astronaut", "chelsea", "coffee"):
        paths.append(folder / f"{name}.png")
        cv2.imwrite(str(paths[-1]), getattr(data, name)()[..., ::-1])
    printed = peer("write", folder / "dataset", request.param, *paths)
    return folder / "dataset", json.loads(printed.splitlines()[-1])


@pytest.fixture(scope="module")
def describe():
    """What describes pictures, and has learned nothing."""
    retina = Retina()
    return learner_describer(RJepa(RJepaConfig(retina.n_features), seed=0), retina).by_place


def all_frames(spec):
    frames = []
    with open_source(spec, once=True) as source:
        try:
            while True:
                frames.append(source.read_next(0))
        except SourceEnded:
            assert not source.faults
            return frames


def test_it_shows_what_lerobot_itself_loads(dataset, tmp_path):
    folder, states = dataset
    frames = all_frames(f"lerobot:{folder}#front?state=pan.pos,tilt.pos")
    peer("pictures", folder, FRONT, tmp_path / "pictures.npy")
    theirs = np.load(tmp_path / "pictures.npy")
    ours = np.stack([frame.image for frame in frames])
    assert ours.shape == theirs.shape and np.ptp(ours) > 100
    assert np.abs(ours.astype(int) - theirs).max() <= 1
    np.testing.assert_allclose([frame.head_rad for frame in frames], states, atol=1e-7)


def test_lerobot_loads_the_column_and_its_statistics(dataset, describe, tmp_path):
    folder, _ = dataset
    new = tmp_path / "seen"
    write_with_column(Dataset(folder), FRONT, NAME, describe, new)
    found = json.loads(peer("read", new, NAME).splitlines()[-1])
    expected = np.stack([describe(frame.image) for frame in all_frames(f"lerobot:{folder}#front")])
    np.testing.assert_array_equal(np.array(found["column"], np.float32), expected)
    np.testing.assert_array_equal(np.array(found["batch"], np.float32), expected[:4])
    assert found["frames"] == len(expected) and found["picture"] == [4, 3, 64, 96]
    assert found["feature"] == {"dtype": "float32", "shape": [len(expected[0])], "names": None}
    stats, theirs = found["stats"], found["its own stats"]
    assert stats.keys() == theirs.keys()
    for measure in stats:  # theirs: quantiles by histogram, moments in float32
        near = 0.1 if measure.startswith("q") else 1e-4
        np.testing.assert_allclose(stats[measure], theirs[measure], atol=near, err_msg=measure)


def test_lerobot_trains_a_policy_on_the_column(dataset, describe, tmp_path):
    new = tmp_path / "seen"
    write_with_column(Dataset(dataset[0]), FRONT, NAME, describe, new)
    inputs = {NAME: {"type": "ENV", "shape": [len(describe(np.zeros((9, 9, 3), np.uint8)))]}}
    run(
        PYTHON.parent / "lerobot-train", "--dataset.repo_id=tests/peer", f"--dataset.root={new}",
        "--dataset.video_backend=pyav", "--policy.type=act", "--policy.device=cpu",
        f"--policy.input_features={json.dumps(inputs)}", "--policy.push_to_hub=false",
        "--policy.dim_model=32", "--policy.dim_feedforward=64", "--policy.chunk_size=4",
        "--policy.n_action_steps=4", "--steps=2", "--batch_size=4", "--num_workers=0",
        f"--output_dir={tmp_path / 'policy'}",
    )  # fmt: skip
    (weights,) = (tmp_path / "policy").rglob("model.safetensors")
    assert weights.stat().st_size > 10_000
