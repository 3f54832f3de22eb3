"""The one thing that is asked of a picture before anyone looks at it."""

from __future__ import annotations

import numpy as np

from edge_rjepa.errors import InputError


def check_image(image: object, what: str = "image", size: tuple[int, int] | None = None) -> None:
    """Raise InputError unless it is an array (H, W, 3) uint8 that is not empty.

    what: it is called in the message. size: (width, height) px that it must have, as its camera.
    """
    shape = "(H, W, 3), BGR"
    if size is not None:
        shape = f"({size[1]}, {size[0]}, 3), BGR, as the camera says"
    if not isinstance(image, np.ndarray):
        raise InputError(f"{what} is {type(image)}: must be uint8 {shape}")
    sound = image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size
    if not sound or (size is not None and image.shape[1::-1] != size):
        raise InputError(f"{what} is {image.dtype} {image.shape}: must be uint8 {shape}")


def as_rows(image: np.ndarray) -> np.ndarray:
    """The rows (H, 3 W) of a picture (H, W, 3), one behind the other, not to be written.

    Numba compiles anew for every layout, and for what cannot be written: so there is one kind.
    """
    rows = np.ascontiguousarray(image).reshape(len(image), -1)
    rows.flags.writeable = False
    return rows
