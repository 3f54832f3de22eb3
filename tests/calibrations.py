"""Calibrations as they are kept, for tests of what takes them."""

import numpy as np

from calibration import io
from calibration.board import Board
from calibration.camera import CameraCalibration
from calibration.io import CameraRecord
from calibration.model import CameraModel

WEBCAM = CameraModel("pinhole", 640, 480, 550.0, 552.0, 322.0, 238.0, (0.1, -0.2, 0.0, 0.0, 0.0))


def camera_record(model=WEBCAM, device="Webcam", made=None):
    """A camera's section with this model, and little else."""
    count, corners = len(model.parameters), 54
    return CameraRecord(
        device,
        made or io.now(),
        "0",
        CameraCalibration(
            model=model,
            std=np.zeros(count),
            intervals=np.zeros((count, 2)),
            covariance=np.zeros((count, count)),
            rms_px=0.1,
            held_out_px={"pinhole": 0.1},
            chosen="pinhole",
            coverage=1.0,
            views=(),
            board=Board(),
            bent_m=np.zeros((corners, 3)),
            pixels=np.full((1, 2), 100.0),
            residuals_px=np.zeros((1, 2)),
        ),
    )
