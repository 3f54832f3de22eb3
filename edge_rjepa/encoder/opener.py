"""An encoder of images, opened: of a run folder, or of an ONNX file that export wrote.

    encoder = open_encoder(path)                     encoder = open_encoder(path)
    embed = encoder.patch_embedder()                 encoder.model.reset()
    z = embed(windows)                               z, h = encoder.embed(image, pixels, efference)
    row = encoder.describe(image)

On the left windows are embedded each by itself, and a whole picture is described; on the right
fixations of an image are seen in their order.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from edge_rjepa.base.checks import from_table
from edge_rjepa.encoder.describe import Describer, learner_describer
from edge_rjepa.encoder.frozen import FrozenEncoder
from edge_rjepa.errors import ConfigError
from edge_rjepa.eye.retina import Retina
from edge_rjepa.learner.config import RJepaConfig
from edge_rjepa.learner.rjepa import RJepa
from edge_rjepa.run.config import RunConfig
from edge_rjepa.run.run import load_run
from safe_files.errors import FileError
from safe_files.plain import rebuilt

EmbedPatches = Callable[[np.ndarray], np.ndarray]  # windows (K, side, side, 3) uint8 -> (K, n_z)


@dataclass(frozen=True)
class OpenedEncoder:
    """An encoder, whatever it is from; its weights stay.

    path: it was opened from. model: what embeds, from a reset. retina: what cuts the windows, and
    turns them into features. network: its sizes. scales_rad: of saccade and gaze in the efference
    copies; None where a file does not say. config: of the run; None for a file.
    """

    path: Path
    model: RJepa | FrozenEncoder
    retina: Retina
    network: RJepaConfig
    scales_rad: tuple[float, float] | None
    config: RunConfig | None = None

    @property
    def learns(self) -> bool:
        """Whether it is a learner, whose weights may go on changing, and no file."""
        return isinstance(self.model, RJepa)

    @property
    def window_px(self) -> int:
        """Side of the windows."""
        return self.retina.config.window_px

    def embed(
        self, image: np.ndarray, pixels: np.ndarray, efference: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Embeddings z (K, n_z) and memory h (K, n_r) of fixations in order; the state advances.

        image: (H, W, 3) uint8 BGR. pixels: (K, 2) x, y of gaze in it. efference: (K, A). Raises
        InputError for what the model does not take.
        """
        see = self.retina if isinstance(self.model, RJepa) else self.retina.windows
        return self.model.embed(see(image, pixels), efference)

    def scan_fixations(self, count: int) -> int:
        """How many fixations `embed` takes at once that are about `count`.

        A learner takes max_block at most; a sequence file takes a multiple of its own number.
        """
        if isinstance(self.model, RJepa):
            return min(count, self.network.max_block)
        return -(-count // self.model.fixations) * self.model.fixations

    def patch_embedder(self) -> EmbedPatches:
        """What embeds windows, each by itself, without a past.

        It raises InputError if the file is a descriptor, which takes whole pictures.
        """
        if isinstance(self.model, RJepa):
            return learner_embedder(self.model, self.retina)
        return self.model.embed_patches

    def describer(self) -> Describer:
        """What describes pictures with the weights of now; see describe.py."""
        if isinstance(self.model, RJepa):
            return learner_describer(self.model, self.retina)
        return self.model.describer()

    def describe(self, picture: np.ndarray) -> np.ndarray:
        """The description (n_z,) float32 of a picture (H, W, 3) uint8 BGR, of length 1.

        Pictures of the same place have a large product. Raises InputError for any other picture.
        """
        return self._describe(picture)

    @cached_property
    def _describe(self) -> Describer:
        return self.describer()


def open_encoder(path: str | os.PathLike) -> OpenedEncoder:
    """The encoder of a run folder or of an ONNX file.

    Raises what load_run and FrozenEncoder raise, and ConfigError for a file without a retina.
    """
    path = Path(path)
    if path.is_dir():
        run = load_run(path)
        gaze = run.config.gaze
        return OpenedEncoder(
            path=path,
            model=run.learner,
            retina=Retina(run.config.retina),
            network=run.config.network,
            scales_rad=(gaze.saccade_scale_rad, gaze.gaze_scale_rad),
            config=run.config,
        )
    model = FrozenEncoder(path)
    if model.retina is None:
        raise ConfigError(f"{path} takes features, not pictures: export it with its retina")
    return OpenedEncoder(
        path=path,
        model=model,
        retina=model.retina,
        network=from_table(RJepaConfig, model.metadata.get("config"), "config."),
        scales_rad=_scales_rad(model),
    )


def _scales_rad(model: FrozenEncoder) -> tuple[float, float] | None:
    scales_rad = model.metadata.get("efference_scales_rad")
    try:
        return rebuilt(tuple[float, float] | None, scales_rad, "efference_scales_rad")
    except FileError as error:
        raise ConfigError(f"{error}: export it again") from error


def learner_embedder(learner: RJepa, retina: Retina) -> EmbedPatches:
    """What embeds windows with the weights a learner has now, each by itself, without a past."""
    encode = learner.patch_encoder()

    def embed(windows: np.ndarray) -> np.ndarray:
        count, side = windows.shape[:2]
        middles = np.column_stack([np.full(count, side / 2), side * (np.arange(count) + 0.5)])
        # A column of windows is a picture, too, and the retina is fastest on pictures.
        return encode(retina(windows.reshape(-1, side, 3), middles))

    return embed
