"""Calibrations as they are kept, for tests of what takes them."""

import numpy as np

from calibration import io
from calibration.board import Board
from calibration.camera import CameraCalibration
from calibration.head import NAMES, HeadCalibration
from calibration.head_model import HeadModel, Servo
from calibration.io import CameraRecord, HeadRecord
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


def head_record(camera=WEBCAM):
    """A head's section: straight servos under this camera, and little else."""
    count, views = len(NAMES), 3
    return HeadRecord(
        "a head",
        io.now(),
        "0",
        HeadCalibration(
            model=HeadModel(
                Servo(1000.0, 2000.0, 1500.0, (0.8, 0.0, 0.0, 0.0, 0.0)),
                Servo(1200.0, 1800.0, 1500.0, (0.5, 0.0, 0.0, 0.0, 0.0)),
            ),
            camera=camera,
            values=np.zeros(count),
            covariance=np.zeros((count, count)),
            factor=2.0,
            scatter_rad=(0.0, 0.0),
            residuals_rad=np.zeros(2),
            pulses=np.zeros((views, 2)),
            off_rad=np.zeros((views, 2)),
            dropped=(),
        ),
    )
