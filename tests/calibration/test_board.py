"""The board: drawn as OpenCV draws it, printed at true size, found to hundredths of a pixel."""

import re
import struct

import cv2
import numpy as np
import pytest

from benchmarks.camera_calibration import Camera, draw_board_at, render
from calibration.board import Board
from calibration.errors import CalibrationError

CHARUCO = Board("charuco", 9, 6, 0.025)
CHESS = Board("chessboard", 9, 6, 0.025)
BOARDS = [CHARUCO, CHESS, Board("charuco", 7, 5, 0.03), Board("chessboard", 7, 6, 0.02)]
NAN = float("nan")
NEAR_PX = 0.02  # OpenCV 4 interpolates between 32 steps of a pixel, 5 exactly
boards = pytest.mark.parametrize("board", BOARDS, ids=str)


def drawn(board):
    """A board as a sharp camera sees it: a perfect edge is none that a picture has."""
    return cv2.GaussianBlur(board.draw(3000.0), (0, 0), 1.0)


def on_drawing(board, dots_per_m):
    return (board.points[:, :2] + 2.0 * board.square_m) * dots_per_m - 0.5


@boards
def test_a_drawn_board_is_found_where_it_was_drawn(board):
    image = drawn(board)
    sighting = board.find(image)
    np.testing.assert_array_equal(sighting.ids, np.arange(len(board.points)))
    np.testing.assert_allclose(sighting.pixels, on_drawing(board, 3000.0), rtol=0, atol=NEAR_PX)
    assert 2.0 < sighting.edge_px < 3.5


def test_opencv_draws_the_same_charuco_board():
    image = CHARUCO.draw(4000.0)
    squares = CHARUCO.columns + 1, CHARUCO.rows + 1
    markers = cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_4X4_50)
    theirs = cv2.aruco.CharucoBoard(squares, 0.025, 0.7 * 0.025, markers)
    drawn = theirs.generateImage((image.shape[1], image.shape[0]), marginSize=100)
    assert (image != drawn).mean() < 0.01  # they round the markers' edges otherwise


@pytest.mark.parametrize("board", [CHARUCO, CHESS, BOARDS[3]], ids=str)
def test_corners_keep_their_numbers_however_the_board_is_turned(board):
    image = drawn(board)
    upright = on_drawing(board, 3000.0)
    height, width = image.shape
    round_about = [width - 1, height - 1] - upright
    turned = board.find(np.ascontiguousarray(image[::-1, ::-1]))
    np.testing.assert_allclose(turned.pixels, round_about, rtol=0, atol=NEAR_PX)
    on_end = board.find(np.ascontiguousarray(image.T[:, ::-1]))
    expected = np.column_stack([height - 1 - upright[:, 1], upright[:, 0]])
    np.testing.assert_allclose(on_end.pixels, expected, rtol=0, atol=NEAR_PX)


@pytest.mark.slow
@pytest.mark.parametrize("board", [CHARUCO, CHESS], ids=str)
def test_corners_are_found_to_hundredths_of_a_pixel_aslant_and_through_a_lens(board):
    rng = np.random.default_rng(7)
    place, bent = np.array([325.0, 236.0]), np.array([-0.25, 0.06, 0.0005, -0.0005, 0.0])
    camera = Camera("pinhole", (640, 480), np.array([520.0, 521.0]), place, bent)
    off = []
    for _ in range(5):
        corners = draw_board_at(rng, camera, board)
        while not inside(camera, corners):
            corners = draw_board_at(rng, camera, board)
        sighting = board.find(render(rng, camera, board, corners))
        off.append(sighting.pixels - camera.see(corners)[sighting.ids])
    off = np.vstack(off)
    assert len(off) >= 4 * len(board.points)
    assert np.median(np.hypot(*off.T)) < 0.05
    assert np.hypot(*off.T).max() < 0.5
    assert abs(off.mean(axis=0)).max() < 0.01


def inside(camera, corners):
    """Whether the whole board is in the picture, its outer squares included."""
    pixels = camera.see(corners + 0.25 * (corners - corners.mean(axis=0)))
    return ((pixels > 0.0) & (pixels < np.array(camera.size) - 1.0)).all()


def test_a_charuco_board_is_found_where_part_of_it_is_seen():
    image = drawn(CHARUCO)
    part = np.ascontiguousarray(image[:, : int(0.6 * image.shape[1])])
    sighting = CHARUCO.find(part)
    assert 20 <= len(sighting.ids) < 54
    expected = on_drawing(CHARUCO, 3000.0)[sighting.ids]
    np.testing.assert_allclose(sighting.pixels, expected, rtol=0, atol=NEAR_PX)


@boards
def test_blur_widens_edges(board):
    image = board.draw(3100.0)
    widths = [
        board.find(cv2.GaussianBlur(image, (0, 0), sigma_px)).edge_px
        for sigma_px in (0.5, 1.5, 3.0)
    ]
    assert widths[0] < widths[1] < widths[2]
    # The steepest slope of an edge blurred so is its contrast / (sqrt(2 pi) sigma).
    assert widths[1] == pytest.approx(np.sqrt(2.0 * np.pi) * 1.5, rel=0.15)


@boards
def test_there_is_no_board_where_there_is_none(board):
    noise = np.random.default_rng(0).integers(0, 256, (240, 320), dtype=np.uint8)
    for image in (np.zeros((240, 320), np.uint8), np.full((240, 320, 3), 255, np.uint8), noise):
        assert board.find(image) is None


def test_another_board_is_not_taken_for_this_one():
    assert CHESS.find(drawn(Board("chessboard", 7, 5, 0.02))) is None
    assert CHARUCO.find(drawn(CHESS)) is None


@pytest.mark.parametrize(
    "image",
    [None, np.zeros((10, 10)), np.zeros((0, 10), np.uint8), np.zeros((4, 4, 2), np.uint8)],
)
def test_what_is_no_picture_is_refused(image):
    with pytest.raises(CalibrationError, match="a picture"):
        CHESS.find(image)


@pytest.mark.parametrize(
    "values",
    [
        ("circles", 9, 6, 0.025),
        ("charuco", 2, 6, 0.025),
        ("charuco", 9, 6, 25.0),
        ("charuco", 9, 6, np.nan),
        ("charuco", 9, 6, 1e-6),
    ],
)
def test_impossible_boards_are_refused(values):
    with pytest.raises(CalibrationError):
        Board(*values)


# -- boards of other programs ----------------------------------------------------------------------


def printed(columns, rows, dictionary, legacy=False, marker_share=0.75):
    """A board as OpenCV draws it, as a sharp camera sees it."""
    markers = cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, f"DICT_{dictionary}"))
    board = cv2.aruco.CharucoBoard((columns + 1, rows + 1), 1.0, marker_share, markers)
    board.setLegacyPattern(legacy)
    size = 60 * (columns + 1) + 80, 60 * (rows + 1) + 80
    return cv2.GaussianBlur(board.generateImage(size, marginSize=40), (0, 0), 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "dictionary",
    ["4X4_1000", "5X5_100", "6X6_250", "7X7_50", "ARUCO_ORIGINAL", "APRILTAG_36h11"],
)
def test_a_board_of_another_program_is_found_by_what_is_on_it(dictionary, legacy):
    board = Board("charuco", 9, 7, 0.02)  # eight squares down: there the patterns differ
    sighting = board.find(printed(9, 7, dictionary, legacy))
    expected = board.points[:, :2] / board.square_m * 60.0 + 40.0 + 60.0 - 0.5
    np.testing.assert_array_equal(sighting.ids, np.arange(63))
    np.testing.assert_allclose(sighting.pixels, expected, rtol=0, atol=0.1)
    assert f"DICT_{dictionary}".startswith(board.pattern.partition(",")[0].rpartition("_")[0])
    assert ("before OpenCV 4.7" in board.pattern) == legacy
    assert board._charuco.marker_share == pytest.approx(0.75, abs=0.02)


@pytest.mark.slow
def test_in_a_video_a_board_of_another_program_is_found_soon():
    board, image = Board("charuco", 9, 7, 0.02), printed(9, 7, "APRILTAG_36h11", legacy=True)
    seen = [board.find(image, quick=True) is not None for _ in range(12)]
    assert seen[-1] and seen == sorted(seen) and not seen[0]


def test_our_board_is_of_our_markers():
    CHARUCO.find(drawn(CHARUCO))
    assert CHARUCO.pattern == "DICT_4X4_50" and CHESS.pattern == ""


@pytest.mark.slow
@pytest.mark.parametrize(("board", "sigma_px"), [(CHARUCO, 12.0), (CHESS, 60.0)], ids=str)
def test_a_blurred_board_is_named(board, sigma_px):
    blurred = cv2.GaussianBlur(drawn(board), (0, 0), sigma_px)
    assert board.find(blurred) is None and "blurred" in board.trouble(blurred)
    assert board.trouble(np.full((240, 320), 90, np.uint8)) == ""


@pytest.mark.slow
def test_a_mirrored_board_is_named():
    assert "mirrored" in CHARUCO.trouble(drawn(CHARUCO)[:, ::-1])


@pytest.mark.attack
def test_other_boards_of_its_kind_are_named():
    assert "6 x 9 inner corners: swap" in CHARUCO.trouble(drawn(Board("charuco", 6, 9, 0.02)))
    other = CHARUCO.trouble(printed(12, 8, "6X6_100"))
    assert re.search("58 6X6 markers .* numbers 0 to 57, but not as .* 9 x 6", other)


# -- printing --------------------------------------------------------------------------------------


@boards
def test_a_pdf_holds_the_board_at_true_size(board, tmp_path):
    board.write(tmp_path / "board.pdf")
    data = (tmp_path / "board.pdf").read_bytes()
    assert data.startswith(b"%PDF-1.4") and data.rstrip().endswith(b"%%EOF")
    start = int(re.search(rb"startxref\n(\d+)", data).group(1))
    assert data[start:].startswith(b"xref")
    for number, at in enumerate(re.findall(rb"(\d{10}) 00000 n", data), 1):
        assert data[int(at) :].startswith(b"%d 0 obj" % number)
    length, stream = re.search(rb"/Length (\d+) >>\nstream\n(.*?)\nendstream", data, re.S).groups()
    assert len(stream) == int(length)

    points_per_mm = float(stream.split()[0])
    page = np.array(re.search(rb"/MediaBox \[0 0 (\S+) (\S+)\]", data).groups(), dtype=float)
    np.testing.assert_allclose(page / points_per_mm, [297.0, 210.0], atol=1e-3)
    assert points_per_mm == pytest.approx(72.0 / 25.4)
    black = re.search(rb"cm\n(.*?) re\nf\n", stream, re.S).group(1).replace(b"re", b" ").split()
    boxes = np.array(black, dtype=float).reshape(-1, 4)
    whole = np.isclose(boxes[:, 2:], 1e3 * board.square_m).all(axis=1)
    squares = boxes[whole]
    assert len(squares) == np.ceil((board.columns + 1) * (board.rows + 1) / 2)
    across = np.ptp(squares[:, 0]) + squares[0, 2]
    assert across == pytest.approx(1e3 * board.size_m[0], abs=1e-3)
    picture = rasterised(boxes, 297.0, 210.0)
    assert len(board.find(picture).ids) == len(board.points)


def rasterised(boxes, width_mm, height_mm, dots_per_mm=4.0):
    image = np.full((round(height_mm * dots_per_mm), round(width_mm * dots_per_mm)), 255, np.uint8)
    for left, bottom, width, height in boxes:
        top = height_mm - bottom - height
        rows = slice(round(top * dots_per_mm), round((top + height) * dots_per_mm))
        image[rows, round(left * dots_per_mm) : round((left + width) * dots_per_mm)] = 0
    return image


@pytest.mark.slow
def test_a_png_says_how_large_it_is(tmp_path):
    CHARUCO.write(tmp_path / "board.png")
    data = (tmp_path / "board.png").read_bytes()
    image = cv2.imread(str(tmp_path / "board.png"), cv2.IMREAD_GRAYSCALE)
    across, down, unit = struct.unpack(">IIB", data[data.index(b"pHYs") + 4 :][:9])
    assert unit == 1 and across == down
    assert image.shape[1] / across == pytest.approx(12 * 0.025, abs=1e-4)
    assert len(CHARUCO.find(image).ids) == 54


@pytest.mark.parametrize(
    ("board", "name", "paper", "why"),
    [
        (CHARUCO, "board.jpg", "a4", "end it in"),
        (CHARUCO, "board.pdf", "a9", "unknown"),
        (Board("charuco", 9, 6, 0.04), "board.pdf", "a4", "does not fit"),
        (CHARUCO, "missing/board.pdf", "a4", "cannot write"),
    ],
)
def test_what_cannot_be_printed_is_refused(board, name, paper, why, tmp_path):
    with pytest.raises(CalibrationError, match=why):
        board.write(tmp_path / name, paper)
    assert not list(tmp_path.iterdir())


def test_a_board_that_would_be_a_picture_of_gigabytes_is_refused(tmp_path):
    with pytest.raises(CalibrationError, match="smaller squares"):
        Board("charuco", 9, 6, 1.0).write(tmp_path / "board.png")
