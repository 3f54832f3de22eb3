"""Mutated files of each kind: read, or refused in one line, soon, in little memory.

A few of each in `make test`, a thousand in `make attack`. Those of Motion JPEG streams are in
tests/sources/test_http_camera.py.
"""

import json
import os
import random
import resource
import shutil
import time
from dataclasses import asdict

import cv2
import numpy as np
import pytest
from mcap.writer import CompressionType
from safetensors.numpy import save as safetensors_bytes

from benchmarks.lerobot_datasets import FRONT, write_dataset
from calibration import io as calibration_io
from calibration.errors import CalibrationError
from edge_rjepa.base import checkpoint, journal
from edge_rjepa.encoder import parity
from edge_rjepa.encoder.dataset_column import write_with_column
from edge_rjepa.encoder.export import export
from edge_rjepa.encoder.frozen import FrozenEncoder
from edge_rjepa.errors import RJepaError
from edge_rjepa.eye.config import RetinaConfig
from edge_rjepa.eye.retina import Retina
from edge_rjepa.learner.config import RJepaConfig
from edge_rjepa.learner.rjepa import RJepa
from edge_rjepa.optics.camera import Pinhole
from edge_rjepa.run.config import RunConfig
from edge_rjepa.sources import open_source
from edge_rjepa.sources.decode import read_picture
from edge_rjepa.sources.frame import Frame, SourceEnded
from edge_rjepa.sources.lerobot_dataset import Dataset
from edge_rjepa.sources.recording import FRAMES, Recorder
from edge_rjepa.sources.replay import ReplaySource
from edge_rjepa.views.dashboard.history import record_at, summed_up
from tests.calibrations import camera_record, head_record
from tests.ros2_link.made import CAMERA_INFO, IMAGE, JOINT_STATE, camera_info, image, joint_state
from tests.sources.bags import IMAGES, write_mcap, write_rosbag2

MOST_S, MOST_BYTES = 5.0, 300 << 20
REFUSED = RJepaError, CalibrationError
VALUES = [
    "0", "-1", "1e400", "-1e308", "NaN", "1" + "0" * 30, "1" + "0" * 400, "null", "true", '"x"',
    "[]", "{}", "[[1],[2,3]]", '"\\u0000"', '"../../x"', "[" * 3000, "1.5", '""',
    "9223372036854775807",
]  # fmt: skip


def mutated(generator: random.Random, content: bytes) -> bytes:
    """Bytes changed, cut out, put in twice or put in; or a value of a text by another."""
    content = bytearray(content)
    for _ in range(generator.randint(1, 3)):
        at = generator.randrange(len(content) + 1)
        size = min(generator.choice([1, 2, 8, 300]), len(content) - at)
        match generator.randrange(6):
            case 0:
                content[at : at + size] = generator.randbytes(size)
            case 1:
                del content[at : at + size]
            case 2:
                content[at:at] = content[at : at + size]
            case 3:
                del content[at:]
            case _:
                replace_value(generator, content, at)
    return bytes(content)


def replace_value(generator: random.Random, content: bytearray, at: int) -> None:
    """What stands after the next colon or equals sign, up to where it ends."""
    starts = [place for sign in b":=" if (place := content.find(sign, at)) >= 0]
    if starts:
        start = min(starts) + 1
        ends = [place for sign in b",}\n" if (place := content.find(sign, start)) >= 0]
        end = min(ends, default=len(content))
        content[start:end] = b" " + generator.choice(VALUES).encode()


@pytest.fixture(params=[50, pytest.param(1000, marks=pytest.mark.attack)])
def files(request):
    """How many of a kind."""
    return request.param


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A small learner, and the folder with its encoder."""
    retina = Retina(
        RetinaConfig(
            window_px=24, fovea_px=6, surround_cells=8, colour_cells=4,
            fovea_degree=3, surround_degree=4, colour_degree=2,
        )
    )  # fmt: skip
    config = RJepaConfig(retina.n_features, 4, n_embedding=5, n_hidden=7, n_predictor=8, n_gain=3)
    learner = RJepa(config, seed=0)
    folder = tmp_path_factory.mktemp("small")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parity, "PARITY_STEPS", 40)
        export(learner, retina, folder / "encoder.onnx")
    return learner, folder / "encoder.onnx"


def attack(path, contents, read):
    """Read each content as the file at `path`; every fault is one line, and none takes long."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused = 0
    for content in contents:
        path.write_bytes(content)
        started = time.monotonic()
        try:
            read()
        except REFUSED as error:
            refused += 1
            assert "\n" not in str(error) and len(str(error)) < 2000
        assert time.monotonic() - started < MOST_S
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert grown < MOST_BYTES
    return refused


def of_bytes(content: bytes, count: int):
    generator = random.Random(0)
    return (mutated(generator, content) for _ in range(count))


def test_checkpoints(small, tmp_path, files):
    path = tmp_path / "checkpoint.safetensors"
    small[0].save(path)
    whole = path.read_bytes()
    assert attack(path, of_bytes(whole, files), lambda: RJepa.load(path)) > 0.9 * files


def test_checkpoints_whose_checksum_is_right(small, tmp_path, files):
    path = tmp_path / "checkpoint.safetensors"
    small[0].save(path)
    tensors, metadata = checkpoint.load(path)

    def stored(text: str) -> bytes:
        crc32 = checkpoint._checksum(1, text, tensors)
        header = {"format": checkpoint.FORMAT, "version": "1", "metadata": text, "crc32": crc32}
        return safetensors_bytes(tensors, header)

    texts = of_bytes(json.dumps(metadata).encode(), files)
    contents = (stored(text.decode(errors="replace")) for text in texts)
    assert attack(path, contents, lambda: RJepa.load(path)) > 0.5 * files


def test_configurations(tmp_path, files):
    path = tmp_path / "config.toml"
    whole = RunConfig().to_toml().encode()
    assert attack(path, of_bytes(whole, files), lambda: RunConfig.from_toml(path)) > 0.5 * files


def test_calibrations(tmp_path, files):
    path = tmp_path / "calibration.json"
    calibration_io.save(path, camera_record(), head_record())
    whole = path.read_bytes()
    assert attack(path, of_bytes(whole, files), lambda: calibration_io.load(path)) > 0.2 * files


def test_metrics(tmp_path, files):
    path = tmp_path / "metrics.jsonl"
    for fixations in range(5):
        journal.Journal(path).append(
            {"fixations": fixations, "time_unix_s": 1.0, "information": 2.0, "faults": {"died": 1}}
        )
    whole = path.read_bytes()
    attack(
        path,
        of_bytes(whole, files),
        lambda: json.dumps(summed_up(record_at(path)), allow_nan=False),
    )


@pytest.mark.parametrize("name", ["recording.json", FRAMES, "pictures.000000.png", "walk.mcap"])
def test_recordings(tmp_path, name, files):
    rng = np.random.default_rng(0)
    folder = tmp_path / "rec"
    path = folder / name if name.endswith(".mcap") else folder
    folder.mkdir()
    with Recorder(path, Pinhole(13, 9, 1.0), asdict(RunConfig())) as recorder:
        for i in range(4):
            image = rng.integers(0, 256, (9, 13, 3), np.uint8)
            recorder.add(Frame(image, 0.1 * i, (0.0, 0.0), i), np.zeros((2, 2)), 2)

    def replay():
        with ReplaySource(path) as source:
            source.held_out(3)
            while True:
                try:
                    source.read_next(0.0)
                except SourceEnded:
                    return

    whole = (folder / name).read_bytes()
    attack(folder / name, of_bytes(whole, files), replay)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "images"),
    [
        ("meta/info.json", False),
        ("meta/episodes/chunk-000/file-000.parquet", False),
        ("data/chunk-000/file-000.parquet", True),
        (f"videos/{FRONT}/chunk-000/file-000.mp4", False),
    ],
)
def test_lerobot_datasets(tmp_path, name, images, files):
    folder = write_dataset(tmp_path / "dataset", lengths=(12, 8, 4), images=images)

    def read():
        with open_source(f"lerobot:{folder}#front?state=pan.pos,tilt.pos", once=True) as source:
            source.held_out(4)
            while True:
                try:
                    source.read_next(0.0)
                except SourceEnded:
                    assert all("\n" not in event for event in source.drain_events())
                    return

    def embed():
        new = tmp_path / "new"
        dataset = Dataset(folder)
        try:
            write_with_column(
                dataset, dataset.camera("front"), "seen", lambda image: image[0, 0], new
            )
        finally:
            shutil.rmtree(new, ignore_errors=True)
            assert os.listdir(tmp_path) == ["dataset"]

    whole = (folder / name).read_bytes()
    attack(folder / name, of_bytes(whole, files), read)
    attack(folder / name, of_bytes(whole, files), embed)


def test_encoders(small, tmp_path, files):
    path = tmp_path / "encoder.onnx"
    windows = np.zeros((2, 24, 24, 3), np.uint8)

    def embed():
        encoder = FrozenEncoder(path)
        if encoder.retina and encoder.retina.config.window_px == 24:
            encoder.embed(windows, np.zeros((2, 4), np.float32))

    assert attack(path, of_bytes(small[1].read_bytes(), files), embed) > 0.1 * files


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".tif"])
def test_pictures(tmp_path, suffix, files):
    picture = cv2.GaussianBlur(
        np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8), (0, 0), 3
    )
    path = tmp_path / f"picture{suffix}"
    whole = cv2.imencode(suffix, picture)[1].tobytes()
    attack(path, of_bytes(whole, files), lambda: read_picture(path))


def bag(path, writer):
    """A bag with pictures, a lens and a head."""
    pictures = [
        (
            IMAGES,
            IMAGE,
            0.1 * i,
            image(np.full((24, 32, 3), 7 * i, np.uint8), stamp_s=9.0 + 0.1 * i),
        )
        for i in range(30)
    ]
    joints = [
        ("/joint_states", JOINT_STATE, 0.1 * i, joint_state({"pan": 0.1 * i}, 9.0 + 0.1 * i))
        for i in range(31)
    ]
    info = [("/camera/camera_info", CAMERA_INFO, 0.0, camera_info(32, 24))]
    everything = sorted(info + pictures + joints, key=lambda stored: stored[2])
    if writer == "sqlite3":
        return write_rosbag2(path.with_suffix(""), everything) / f"{path.stem}.db3"
    chunks = {"chunk_size": 9000} if writer != "no chunks" else {"use_chunking": False}
    packed = (
        CompressionType.NONE
        if writer in {"plain", "no chunks"}
        else CompressionType[writer.upper()]
    )
    return write_mcap(path, everything, packed, **chunks)


def shown(path):
    """Read all that a bag shows."""
    with open_source(f"bag:{path}#{IMAGES}?joints=/joint_states:pan,") as source:
        for _ in range(40):
            frame = source.read_next(0.0)
            assert frame.image.shape == (source.camera.height_px, source.camera.width_px, 3)
            assert np.isfinite([*frame.head_rad, frame.t_capture_s]).all()
        source.held_out(5)
        source.restore(source.state())
        assert len(source.drain_events()) < 20


@pytest.mark.parametrize("writer", ["zstd", "lz4", "plain", "no chunks", "sqlite3"])
def test_bags(tmp_path, files, writer):
    whole = bag(tmp_path / "whole.mcap", writer).read_bytes()
    path = tmp_path / "a.mcap"
    path.write_bytes(whole)
    shown(path)
    refused = attack(path, of_bytes(whole, files), lambda: shown(path))
    assert 0 < refused < files  # what is whole of a bag is read
