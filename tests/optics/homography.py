"""Two views of a camera that turns about its own centre are related by a homography."""

import numpy as np

from calibration.angles import head_rotation


def homography(camera, head_from, head_to) -> np.ndarray:
    """Matrix (3, 3) taking homogeneous pixels of a pinhole's view at head_from to head_to's.

    H = K R_to' R_from K^-1: exact whatever it looks at.
    """
    turn = head_rotation(head_to).T @ head_rotation(head_from)
    return camera.intrinsics @ turn @ np.linalg.inv(camera.intrinsics)
