"""Pictures of any kind and size made into those a source hands out."""

from __future__ import annotations

import cv2
import numpy as np

# Of pictures whose size nobody asked for: larger ones are scaled down.
WIDEST_PX, TALLEST_PX = 640, 1280
LEAST_PX = 16  # a side of a picture that decides the size of others
LONGEST = 8  # longer side by the other: a picture beyond that is a strip


def same(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two pictures are equal to the last bit; those that are not show it in a few rows."""
    return np.array_equal(one[::16], other[::16]) and np.array_equal(one, other)


def as_bgr(image: object) -> np.ndarray | None:
    """Any picture a driver may give as (H, W, 3) uint8 BGR; None for what is none.

    Grey, one channel or none: all three alike. A fourth channel is left out. Of 16 bits the upper
    eight are kept.
    """
    if not isinstance(image, np.ndarray) or image.size == 0 or image.ndim not in (2, 3):
        return None
    if image.dtype == np.uint16:
        image = (image >> 8).astype(np.uint8)
    if image.dtype != np.uint8:
        return None
    channels = image.shape[2] if image.ndim == 3 else 1
    if channels == 1:
        return cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    if channels == 4:
        return cv2.cvtColor(image, cv2.COLOR_BGRA2BGR)
    return image if channels == 3 else None


def crop_resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The picture's middle in the shape of `size` = (width, height), scaled to it.

    Pixels stay square, so a pinhole camera of that size remains one.
    """
    height, width = image.shape[:2]
    if (width, height) == size:
        return image
    scale = max(size[0] / width, size[1] / height)
    part_width = max(1, min(width, round(size[0] / scale)))
    part_height = max(1, min(height, round(size[1] / scale)))
    left, top = (width - part_width) // 2, (height - part_height) // 2
    middle = image[top : top + part_height, left : left + part_width]
    return cv2.resize(middle, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)


def without_ends(image: np.ndarray) -> np.ndarray:
    """The picture; of a strip only its middle, LONGEST times as long as it is broad."""
    height, width = image.shape[:2]
    longest = LONGEST * min(width, height)
    return crop_resize(image, (min(width, longest), min(height, longest)))


def size_within(width: int, height: int) -> tuple[int, int]:
    """The size (width, height) of a picture scaled down until it is small enough."""
    shrink = min(1.0, WIDEST_PX / width, TALLEST_PX / height)
    return max(1, round(shrink * width)), max(1, round(shrink * height))
