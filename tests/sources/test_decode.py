"""The door for pictures from outside: every file is a picture, or a reason in one line."""

import os
import subprocess
import sys
import warnings
import zlib

import cv2
import numpy as np
import pytest

from edge_rjepa.errors import SourceError
from edge_rjepa.sources import open_source
from edge_rjepa.sources.decode import MOST_PIXELS, decode, pictures_in, read_picture

KINDS = ["png", "jpg", "bmp", "tif", "webp", "ppm"]
SIZES = [(1, 1), (2, 3), (4, 4), (1, 100), (100, 1), (8, 8)]


def smooth_picture(seed, height=120, width=160):
    noise = np.random.default_rng(seed).integers(0, 255, (height // 20, width // 20, 3), np.uint8)
    return cv2.resize(noise, (width, height))


def encoded(kind, image):
    return cv2.imencode(f".{kind}", image)[1].tobytes()


def png_header(width, height):
    """A whole PNG file that says it is of this size, and holds 1000 bytes of it."""

    def chunk(kind, data):
        crc = zlib.crc32(kind + data).to_bytes(4, "big")
        return len(data).to_bytes(4, "big") + kind + data + crc

    size = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    data = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + data + chunk(b"IEND", b"")


def jpeg_of_size(width, height):
    """A small JPEG whose header says that it is of this size."""
    content = bytearray(encoded("jpg", smooth_picture(0)))
    frame = content.find(b"\xff\xc0")
    content[frame + 5 : frame + 9] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return bytes(content)


@pytest.fixture
def folder(tmp_path):
    """Two good pictures."""
    for i in range(2):
        (tmp_path / f"z{i}.png").write_bytes(encoded("png", smooth_picture(i)))
    return tmp_path


def read_all(spec):
    """What both sources of pictures show and leave out: names."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with open_source(spec) as source:
            source.read_next(0)
            source.held_out(1)
            return source._names, [str(one.message) for one in told]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("part", [1, 8])
def test_the_tiniest_picture_is_read(tmp_path, kind, size, part):
    path = tmp_path / f"a.{kind}"
    path.write_bytes(encoded(kind, np.full((*size, 3), 77, np.uint8)))
    image = read_picture(path, part)
    assert image.dtype == np.uint8 and abs(int(image.mean()) - 77) < 3
    assert part == 8 or image.shape == (*size, 3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", [0.0, 0.02, 0.5, 0.99])
def test_half_a_file_is_no_picture(kind, part):
    content = encoded(kind, smooth_picture(0))
    assert decode(content) is not None
    assert decode(content[: int(part * len(content))]) is None


@pytest.mark.parametrize("padding", [b"", bytes(1), bytes(63), bytes(513), b"\r\n--frame", b"\xff"])
def test_what_comes_after_a_jpeg_does_not_matter(padding):
    content = encoded("jpg", smooth_picture(0))
    np.testing.assert_array_equal(decode(content + padding), decode(content))


@pytest.mark.parametrize(
    "content",
    [
        png_header(70_000, 70_000),
        png_header(50_000, 50_000),
        png_header(2_000_000, 10),
        jpeg_of_size(30_000, 30_000),
        jpeg_of_size(65_535, 65_535),
        jpeg_of_size(8192, MOST_PIXELS // 8192 + 1),
        b"",
        b"hello",
        b"\xff\xd8\xff",
        bytes(5000),
    ],
    ids=lambda content: f"{len(content)} bytes",
)
def test_bombs_and_what_is_no_picture_are_left_out_of_every_source(folder, content):
    (folder / "a.png").write_bytes(content)
    for spec in (str(folder), f"scene:{folder}"):
        shown, told = read_all(spec)
        assert shown == ["z0.png", "z1.png"]
        assert len(told) == 1 and "a.png: cannot be read as a picture" in told[0]
        assert told[0].endswith("left out") and "\n" not in told[0]


def test_a_bomb_takes_no_memory(tmp_path):
    """In a process of its own, as the peak of one that has run tests tells nothing."""
    (tmp_path / "a.jpg").write_bytes(jpeg_of_size(30_000, 30_000))
    (tmp_path / "b.png").write_bytes(png_header(30_000, 30_000))
    program = (
        "import resource, sys\nfrom pathlib import Path\n"
        "from edge_rjepa.sources.decode import readable\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak()\n"
        "assert readable([Path(name) for name in sys.argv[1:]]) == []\n"
        "print(peak() - before)"
    )
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        program,
        tmp_path / "a.jpg",
        tmp_path / "b.png",
    ]
    assert int(subprocess.check_output(command)) < 50_000  # KiB


def test_only_regular_files_are_opened(folder):
    os.mkfifo(folder / "pipe.png")
    (folder / "folder.png").mkdir()
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "nowhere.png").symlink_to("gone")
    (folder / "device.png").symlink_to("/dev/zero")
    (folder / "terminal.png").symlink_to("/dev/tty")
    (folder / "link.png").symlink_to("z0.png")
    shown, told = read_all(str(folder))
    assert shown == ["link.png", "z0.png", "z1.png"] and len(told) == 6


def test_hidden_files_are_no_pictures(folder):
    (folder / "._z0.png").write_bytes(b"\0\5\x16\7" + bytes(100))
    (folder / ".hidden.png").write_bytes((folder / "z0.png").read_bytes())
    assert read_all(str(folder)) == (["z0.png", "z1.png"], [])


NAMES = [
    b"lat\xe9in",
    b"\xff\xfe",
    "schön 日本".encode(),
    b"a %03d 100%",
    b"line\nbreak",
    b"-o",
    b"a:b",
]


@pytest.mark.parametrize("name", NAMES, ids=repr)
@pytest.mark.parametrize("prefix", ["", "scene:"])
def test_names_of_any_bytes_are_read(tmp_path, name, prefix):
    folder = tmp_path / os.fsdecode(name)
    folder.mkdir()
    for i in range(2):
        (folder / os.fsdecode(name + b"%d.png" % i)).write_bytes(encoded("png", smooth_picture(i)))
    shown, told = read_all(f"{prefix}{folder}")
    assert len(shown) == 2 and told == []


@pytest.mark.slow
@pytest.mark.parametrize("size", [(30_000, 100), (100, 30_000), (1, 1)])
def test_a_strip_or_a_dot_does_not_decide_the_size_of_the_others(folder, size):
    width, height = size
    (folder / "a.png").write_bytes(encoded("png", np.zeros((height, width, 3), np.uint8)))
    with pytest.warns(match=f"a.png: {width} x {height} px"):
        source = open_source(str(folder))
    with source:
        assert (source.camera.width_px, source.camera.height_px) == (160, 120)
        frames = [source.read_next(0) for _ in range(12)] + source.held_out(8)
    assert {frame.image.shape for frame in frames} == {(120, 160, 3)}
    with open_source(f"scene:{folder}") as source:
        frames = [source.read_next(0) for _ in range(60)] + source.held_out(60)
    assert {frame.image.shape for frame in frames} == {(240, 320, 3)}


def test_a_folder_of_nothing_but_strips_is_refused(tmp_path):
    for i in range(2):
        (tmp_path / f"{i}.png").write_bytes(encoded("png", np.zeros((2, 2000, 3), np.uint8)))
    with pytest.warns(match="px"), pytest.raises(SourceError, match="16 px on each side"):
        open_source(str(tmp_path))


def test_a_folder_that_cannot_be_read_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(type(tmp_path), "iterdir", lambda path: os.scandir("/proc/0/nothing"))
    with pytest.raises(SourceError, match="cannot read folder"):
        pictures_in(tmp_path)
