"""What LeRobot's own code does with a dataset: run by the Python of an environment that has it.

lerobot_peer.py write DIR CODEC PICTURES...   h264, libsvtav1 or image: three episodes by two
                                              cameras; prints the states of all frames
lerobot_peer.py read DIR COLUMN               prints what it loads of that column
lerobot_peer.py pictures DIR CAMERA FILE.npy  writes all that it loads of that camera
"""

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import torch
from lerobot.datasets.compute_stats import aggregate_stats, compute_episode_stats
from lerobot.datasets.lerobot_dataset import LeRobotDataset

CAMERAS = ["observation.images.front", "observation.images.wrist"]
RATE, LENGTHS, SIZE = 10, (9, 7, 8), (96, 64)
JOINTS = ["pan.pos", "tilt.pos"]


def seen(picture, episode, frame):
    """A part of the picture that moves to the right with the frames."""
    large = cv2.resize(picture, (2 * SIZE[0], 2 * SIZE[1]), interpolation=cv2.INTER_AREA)
    left = 8 * frame
    return large[10 * episode :, left:][: SIZE[1], : SIZE[0]]


def encoded_as(codec):
    """How `create` is told the codec: once by its name, since 0.6 in a configuration."""
    try:
        from lerobot.configs.video import RGBEncoderConfig
    except ImportError:
        return {"vcodec": codec}
    return {"rgb_encoder": RGBEncoderConfig(vcodec=codec)}


def write(folder, codec, paths):
    pictures = [cv2.imread(path)[..., ::-1] for path in paths]
    shape, names = (SIZE[1], SIZE[0], 3), ["height", "width", "channels"]
    kind = "image" if codec == "image" else "video"
    features = {
        CAMERAS[0]: {"dtype": kind, "shape": shape, "names": names},
        CAMERAS[1]: {"dtype": kind, "shape": shape, "names": names},
        "observation.state": {"dtype": "float32", "shape": (2,), "names": JOINTS},
        "action": {"dtype": "float32", "shape": (2,), "names": JOINTS},
    }
    how = {} if codec == "image" else encoded_as(codec)
    dataset = LeRobotDataset.create(
        "tests/peer", RATE, features, root=folder, use_videos=kind == "video", **how
    )
    states = []
    for episode, length in enumerate(LENGTHS):
        for frame in range(length):
            joints = np.array([0.1 * episode, 0.01 * frame], np.float32)
            states.append(joints.tolist())
            views = [seen(pictures[(episode + i) % len(pictures)], episode, frame) for i in (0, 1)]
            dataset.add_frame(
                dict(zip(CAMERAS, views, strict=True))
                | {"observation.state": joints, "action": joints, "task": "look around"}
            )
        dataset.save_episode(parallel_encoding=False)
    dataset.finalize()
    print(json.dumps(states))


def read(folder, column):
    dataset = LeRobotDataset("tests/peer", root=folder, video_backend="pyav")
    stored = np.stack(dataset.hf_dataset[column])
    episodes = np.array(dataset.hf_dataset["episode_index"])
    by_episode = [
        compute_episode_stats({column: stored[episodes == e]}, dataset.features)
        for e in range(dataset.num_episodes)
    ]
    batch = next(iter(torch.utils.data.DataLoader(dataset, batch_size=4)))
    found = {
        "frames": len(dataset),
        "column": stored.tolist(),
        "batch": batch[column].tolist(),
        "picture": list(batch[CAMERAS[0]].shape),
        "feature": dataset.features[column],
        "stats": plain(dataset.meta.stats[column]),
        "its own stats": plain(aggregate_stats(by_episode)[column]),
    }
    print(json.dumps(found))


def plain(stats):
    return {name: np.asarray(value).tolist() for name, value in stats.items()}


def pictures(folder, camera, path):
    dataset = LeRobotDataset("tests/peer", root=folder, video_backend="pyav")
    rgb = np.stack([dataset[i][camera].permute(1, 2, 0) for i in range(len(dataset))])
    np.save(path, np.round(255.0 * rgb).astype(np.uint8)[..., ::-1])


if __name__ == "__main__":
    command, folder, *rest = sys.argv[1:]
    if command == "write":
        write(Path(folder), rest[0], rest[1:])
    elif command == "read":
        read(Path(folder), rest[0])
    else:
        pictures(Path(folder), *rest)
