"""The calibration board: what it looks like, printed at true size, and found in a picture.

A chessboard, or a charuco board: a chessboard with a marker in every white square, which is also
found when it is partly hidden or reaches out of the picture. Corners are the inner ones, where four
squares meet, numbered row by row from the corner next to a black square in the board's corner.
"""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from calibration.charuco import MARKER_SHARE, CharucoFinder, aruco, markers_in, our_dictionary
from calibration.errors import CalibrationError
from safe_files.errors import why
from safe_files.writing import write_atomic

KINDS = ("charuco", "chessboard")
MARKER_BITS = 4
PAPER_MM = {"a4": (297.0, 210.0), "a3": (420.0, 297.0), "letter": (279.4, 215.9)}
SQUARE_MM = 0.5, 2000.0  # a board's squares are within
MOST_DRAWN_PX = 10**8  # of a PNG: it has 300 a inch
LEAST_CORNERS = 8  # fewer say nothing of the lens once they have said where the board is
BLURRED_PX = 8.0  # a picture is blurred whose sharpest edges are so wide
CONTRAST = 50.0  # grey levels, without which there is nothing to be sharp
SEARCH_PX = 800  # chessboards are searched for in pictures no wider, which is faster
REACH = 0.35  # of a square to each side of a corner: what refinement looks at
MOST_REACH_PX = 12.0  # so that the samples, SAMPLES across, are no more than a pixel apart
SAMPLES = 25
ROUNDS = 12
MOST_STEP_PX = 2.0
FAR_SHARE = 0.3  # of a square: a corner moved farther by refinement was none


class Sighting(NamedTuple):
    """The board as seen in one picture."""

    ids: np.ndarray  # (n,) int64, which corners, rising
    pixels: np.ndarray  # (n, 2) float64, where they are, pixel centres at whole numbers
    edge_px: float  # width of the edges between squares, about 2 when sharp: grows with blur


@dataclass(frozen=True)
class Board:
    """A board of columns x rows inner corners. Raises CalibrationError for an impossible one."""

    kind: str = "charuco"
    columns: int = 9
    rows: int = 6
    square_m: float = 0.025

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise CalibrationError(f"board {self.kind!r} is unknown: use {' or '.join(KINDS)}")
        if not (3 <= self.columns <= 40 and 3 <= self.rows <= 40):
            raise CalibrationError(
                f"a board of {self.columns} x {self.rows} inner corners: use 3 to 40 each way"
            )
        least_mm, most_mm = SQUARE_MM
        if not least_mm <= 1e3 * self.square_m <= most_mm:
            raise CalibrationError(
                f"squares of {1e3 * self.square_m:g} mm (square_m = {self.square_m:g}): measure "
                f"one, {least_mm:g} to {most_mm:g} mm"
            )

    def __str__(self) -> str:
        squares = f"{1e3 * self.square_m:g} mm squares"
        return f"{self.kind} of {self.columns} x {self.rows} inner corners, {squares}"

    @property
    def points(self) -> np.ndarray:
        """Corners (columns rows, 3) in metres: x along a row, y down, z away from the viewer."""
        y, x = np.mgrid[: self.rows, : self.columns].reshape(2, -1) * self.square_m
        return np.stack([x, y, np.zeros_like(x)], axis=-1)

    @property
    def size_m(self) -> tuple[float, float]:
        """Width and height of the whole pattern."""
        return (self.columns + 1) * self.square_m, (self.rows + 1) * self.square_m

    @property
    def has_an_upside(self) -> bool:
        """Whether a corner is known for itself, however the board is held."""
        return self.kind == "charuco" or (self.columns + self.rows) % 2 == 1

    # -- finding ----------------------------------------------------------------------------------

    def find(self, image: np.ndarray, quick: bool = False) -> Sighting | None:
        """The board in a picture (H, W) or (H, W, 3), uint8; None where it is not to be seen.

        Corners lie where the edges between the four squares about them meet, to a few hundredths of
        a pixel in a sharp picture. quick: for one of many pictures in a row; a charuco board of
        other programs is found in the first dozen of them. Raises CalibrationError for anything but
        a picture.
        """
        grey = _grey(image)
        if self.kind == "charuco":
            ids, pixels = self._charuco.find(grey, LEAST_CORNERS, quick)
        else:
            ids, pixels = self._find_chess(grey)
        if len(ids) < LEAST_CORNERS or not self._spread(ids):
            return None
        smooth = cv2.GaussianBlur(grey.astype(np.float32), (0, 0), 1.0)
        fine, axes = self._refine(smooth, ids, pixels)
        square_px = np.sqrt(abs(np.linalg.det(axes)))
        good = np.hypot(*(fine - pixels).T) < np.maximum(FAR_SHARE * square_px, 2.0)
        if good.sum() < LEAST_CORNERS or not self._spread(ids[good]):
            return None
        edge_px = _edge_px(grey.astype(np.float32), fine[good], axes[good])
        return Sighting(ids[good], fine[good], edge_px)

    def _spread(self, ids: np.ndarray) -> bool:
        """Whether the corners span rows and columns enough to tell how the board lies."""
        return min(np.ptp(ids % self.columns), np.ptp(ids // self.columns)) >= 2

    def trouble(self, image: np.ndarray) -> str:
        """Why the board is not found in a picture (H, W) or (H, W, 3); "" where nothing tells."""
        grey = _grey(image)
        if self.kind == "charuco":
            if self.find(np.ascontiguousarray(grey[:, ::-1])) is not None:
                return "the picture is mirrored: switch that off in the camera or its program"
            turned = Board(self.kind, self.rows, self.columns, self.square_m)
            if self.rows != self.columns and turned.find(grey) is not None:
                return f"the board has {self.rows} x {self.columns} inner corners: swap them"
        if _is_blurred(grey):
            return "the picture is blurred: focus the lens, hold still, make more light"
        return self._other_markers(grey) if self.kind == "charuco" else ""

    def _other_markers(self, grey: np.ndarray) -> str:
        seen = markers_in(grey)
        if seen is None:
            return ""
        name, numbers = seen
        return (
            f"{len(numbers)} {name} markers are seen, numbers {numbers[0]} to {numbers[-1]}, "
            f"but not as a board of {self.columns} x {self.rows} inner corners: count them"
        )

    @property
    def pattern(self) -> str:
        """What markers a charuco board that was found has, and in what order; "" if not found."""
        found = self._charuco.pattern if self.kind == "charuco" else None
        return str(found or "")

    def _find_chess(self, grey: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        scale = min(1.0, SEARCH_PX / grey.shape[1])
        small = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        shape = self.columns, self.rows
        flags = (
            cv2.CALIB_CB_ADAPTIVE_THRESH | cv2.CALIB_CB_NORMALIZE_IMAGE | cv2.CALIB_CB_FAST_CHECK
        )
        found, corners = cv2.findChessboardCorners(small, shape, None, flags)
        if not found:
            found, corners = cv2.findChessboardCornersSB(small, shape)
        if not found:
            return np.empty(0, np.int64), np.empty((0, 2))
        pixels = (corners.reshape(-1, 2).astype(np.float64) + 0.5) / scale - 0.5
        if self.has_an_upside and not self._first_is_dark(grey, pixels):
            pixels = pixels[::-1]
        return np.arange(len(pixels)), pixels

    def _first_is_dark(self, grey: np.ndarray, pixels: np.ndarray) -> bool:
        """Whether squares beside the first corner along the diagonal are darker than the others."""
        grid = pixels.reshape(self.rows, self.columns, 2)
        middles = (grid[1:, 1:] + grid[1:, :-1] + grid[:-1, 1:] + grid[:-1, :-1]) / 4.0
        levels = _sample(grey.astype(np.float32), middles)
        row, column = np.mgrid[: levels.shape[0], : levels.shape[1]]
        dark = (row + column) % 2 == 0
        return np.median(levels[dark]) < np.median(levels[~dark])

    def _refine(self, smooth, ids, pixels) -> tuple[np.ndarray, np.ndarray]:
        """Corners (n, 2) where the edges meet, and how squares lie there (n, 2, 2).

        Every grey level gradient on an edge through the corner is at right angles to the way there;
        the corner is where that holds best. The window is a cross along the edges as they lie
        in the picture: a rectangle takes in the next squares where the board is seen aslant,
        which is what spoils corners.
        """
        gradient = np.stack(
            [cv2.Scharr(smooth, cv2.CV_32F, 1, 0), cv2.Scharr(smooth, cv2.CV_32F, 0, 1)]
        )
        window, weight = self._window()
        fine, axes = pixels.copy(), self._axes(ids, pixels)
        reach_px = REACH * np.linalg.norm(axes, axis=1).max(axis=1)[:, None, None]
        near = axes * np.minimum(1.0, MOST_REACH_PX / reach_px)
        for _ in range(ROUNDS):
            places = fine[:, None] + window @ near.swapaxes(-1, -2)
            across = np.stack([_sample(part, places) for part in gradient], axis=-1)
            weighed = across * weight[:, None]
            square = np.einsum("nwi,nwj->nij", weighed, across)
            square += 1e-6 * np.trace(square, axis1=1, axis2=2)[:, None, None] * np.eye(
                2
            ) + 1e-9 * np.eye(2)
            along = (across * (places - fine[:, None])).sum(-1)
            step = np.linalg.solve(square, np.einsum("nwi,nw->ni", weighed, along)[..., None])[
                ..., 0
            ]
            fine += np.clip(step, -MOST_STEP_PX, MOST_STEP_PX)
            if abs(step).max() < 1e-3:
                break
        return fine, axes

    def _axes(self, ids: np.ndarray, pixels: np.ndarray) -> np.ndarray:
        """Derivative (n, 2, 2) of the pixel by (column, row), from a smooth map of the board."""
        u, v = ids % self.columns, ids // self.columns
        u, v = u - u.mean(), v - v.mean()
        one, none = np.ones_like(u), np.zeros_like(u)
        terms = [one, u, v, u * u, u * v, v * v, u**3, u * u * v, u * v * v, v**3]
        by_u = [none, one, none, 2 * u, v, none, 3 * u * u, 2 * u * v, v * v, none]
        by_v = [none, none, one, none, u, 2 * v, none, u * u, 2 * u * v, 3 * v * v]
        count = 10 if len(ids) >= 20 else 6 if len(ids) >= 12 else 3
        fit = np.linalg.lstsq(np.stack(terms[:count], -1), pixels, rcond=None)[0]
        return np.stack([np.stack(by_u[:count], -1) @ fit, np.stack(by_v[:count], -1) @ fit], -1)

    def _window(self) -> tuple[np.ndarray, np.ndarray]:
        """Places (m, 2) about a corner, in squares, and their weights (m,): a cross."""
        share = self._charuco.marker_share if self.kind == "charuco" else 0.0
        side = np.linspace(-REACH, REACH, SAMPLES)
        u, v = np.stack(np.meshgrid(side, side)).reshape(2, -1)
        beside = min(REACH, 0.8 * 0.5 * (1.0 - share))
        on_cross = np.minimum(abs(u), abs(v)) <= beside
        u, v = u[on_cross], v[on_cross]
        return np.stack([u, v], -1), np.exp(-2.0 * (u * u + v * v) / REACH**2)

    @cached_property
    def _charuco(self) -> CharucoFinder:
        return CharucoFinder(self.columns, self.rows)

    # -- printing ---------------------------------------------------------------------------------

    def dark_rectangles_m(self) -> np.ndarray:
        """The black of the board as rectangles (n, 4): left, top, width, height, in metres.

        The origin is the upper left corner of the whole pattern.
        """
        row, column = np.mgrid[: self.rows + 1, : self.columns + 1].reshape(2, -1)
        black = (row + column) % 2 == 0
        squares = np.stack([column, row, np.ones_like(row), np.ones_like(row)], -1)[black] * 1.0
        if self.kind == "charuco":
            marked = np.stack([column, row], -1)[~black]
            squares = np.vstack([squares, *map(self._marker, range(len(marked)), marked)])
        return squares * self.square_m

    def _marker(self, number: int, square: np.ndarray) -> np.ndarray:
        """Black rectangles (n, 4) of a marker in the square (column, row), in squares."""
        cells = MARKER_BITS + 2
        markers = our_dictionary((self.columns + 1) * (self.rows + 1) // 2)
        bits = aruco().generateImageMarker(markers, number, cells)
        side = MARKER_SHARE / cells
        rows = [_runs(line) for line in bits == 0]
        where = [(start, row, length, 1) for row, runs in enumerate(rows) for start, length in runs]
        rectangles = np.array(where) * side
        rectangles[:, :2] += square + 0.5 * (1.0 - MARKER_SHARE)
        return rectangles

    def draw(self, dots_per_m: float = 300 / 0.0254) -> np.ndarray:
        """The board with a white margin of one square, uint8 (H, W)."""
        width_m, height_m = self.size_m
        shape = [round((side + 2.0 * self.square_m) * dots_per_m) for side in (height_m, width_m)]
        image = np.full(shape, 255, np.uint8)
        for left, top, width, height in self.dark_rectangles_m() + [*[self.square_m] * 2, 0, 0]:
            x, y = round(left * dots_per_m), round(top * dots_per_m)
            right, bottom = round((left + width) * dots_per_m), round((top + height) * dots_per_m)
            image[y:bottom, x:right] = 0
        return image

    def write(self, path: str | os.PathLike, paper: str = "a4") -> None:
        """Write the board at true size: PDF for a printer (one page, landscape), or PNG at 300 dpi.

        Raises CalibrationError for another ending, unknown paper, a board that does not fit on it,
        or a file that cannot be written.
        """
        path = Path(path)
        ending = path.suffix.lower()
        if ending not in (".pdf", ".png"):
            raise CalibrationError(f"cannot draw a board as {path.name}: end it in .pdf or .png")
        data = self._pdf(paper) if ending == ".pdf" else self._png()
        try:
            write_atomic(path, data, private=False)
        except OSError as error:
            raise CalibrationError(f"cannot write {path}: {why(error)}") from error

    def _png(self, dots_per_inch: int = 300) -> bytes:
        dots_per_m = dots_per_inch / 0.0254
        width_m, height_m = (side + 2.0 * self.square_m for side in self.size_m)
        if width_m * height_m * dots_per_m**2 > MOST_DRAWN_PX:
            raise CalibrationError(
                f"a board of {1e3 * width_m:.0f} x {1e3 * height_m:.0f} mm has more than "
                f"{MOST_DRAWN_PX:,} pixels: use smaller squares, or .pdf"
            )
        data = cv2.imencode(".png", self.draw(dots_per_m))[1].tobytes()
        dots = round(dots_per_m)
        chunk = b"pHYs" + struct.pack(">IIB", dots, dots, 1)
        size = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        header = 8 + 25  # signature and IHDR: sizes come right after
        return data[:header] + size + data[header:]

    def _pdf(self, paper: str) -> bytes:
        if paper not in PAPER_MM:
            raise CalibrationError(f"paper {paper!r} is unknown: use {', '.join(PAPER_MM)}")
        (page_width, page_height), (width, height) = PAPER_MM[paper], np.array(self.size_m) * 1e3
        if width > page_width - 10.0 or height > page_height - 25.0:
            raise CalibrationError(
                f"the board is {width:.0f} x {height:.0f} mm and does not fit on {paper}: "
                "use smaller squares, fewer, or larger paper"
            )
        left, top = 0.5 * (page_width - width), 0.5 * (page_height - 15.0 - height)
        boxes = self.dark_rectangles_m() * 1e3
        boxes[:, 0] += left
        boxes[:, 1] = page_height - top - boxes[:, 1] - boxes[:, 3]  # PDF counts from below
        ruler_left = 0.5 * (page_width - 100.0)
        drawing = [
            f"{72 / 25.4:.8f} 0 0 {72 / 25.4:.8f} 0 0 cm",  # millimetres from here on
            *("{:.4f} {:.4f} {:.4f} {:.4f} re".format(*box) for box in boxes),
            "f",
            f"{ruler_left:.4f} 12 100 0.5 re f",
            f"BT /F 3.2 Tf {ruler_left:.4f} 6 Td ({self}.) Tj ET",
            f"BT /F 3.2 Tf {ruler_left:.4f} 14 Td (Print at 100 %: this line is 100 mm.) Tj ET",
        ]
        return _pdf_of("\n".join(drawing), page_width, page_height)


def _grey(image) -> np.ndarray:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.size == 0:
        what = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image)
        raise CalibrationError(f"a picture is {what}: must be uint8 (H, W) or (H, W, 3)")
    if image.ndim == 3 and image.shape[2] == 3:
        return cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    if image.ndim != 2:
        raise CalibrationError(f"a picture has shape {image.shape}: must be (H, W) or (H, W, 3)")
    return image


def _sample(image: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Values of a float32 image at places (..., 2), between pixels linear."""
    flat = places.reshape(-1, 2).astype(np.float32).T[..., None]  # (2, n, 1)
    # remap counts its rows in 16 bits
    parts = [flat[:, start : start + 32000] for start in range(0, flat.shape[1], 32000)]
    values = [
        cv2.remap(image, x, y, cv2.INTER_LINEAR, None, cv2.BORDER_REPLICATE) for x, y in parts
    ]
    return np.concatenate(values).reshape(places.shape[:-1]).astype(np.float64)


def _edge_px(grey: np.ndarray, pixels: np.ndarray, axes: np.ndarray) -> float:
    """Width of edges in pixels: contrast over the steepest slope; the worse of both directions."""
    widths = []
    steps = np.linspace(-0.12, 0.12, 25)  # across an edge, in squares: markers begin at 0.15
    for along, across in ((0, 1), (1, 0)):
        middle = pixels + 0.3 * axes[:, :, along]
        normal = axes[:, ::-1, along] * [-1.0, 1.0]
        normal /= np.linalg.norm(normal, axis=1, keepdims=True)
        width_px = abs((normal * axes[:, :, across]).sum(1))
        places = middle[:, None] + (steps * width_px[:, None])[..., None] * normal[:, None]
        levels = _sample(grey, places)
        contrast = np.ptp(levels, axis=1)
        slope = abs(np.diff(levels, axis=1)).max(1) / np.maximum(
            (steps[1] - steps[0]) * width_px, 1e-9
        )
        widths.append(np.median(contrast / np.maximum(slope, 1e-9)))
    return float(max(widths))


def _is_blurred(grey: np.ndarray) -> bool:
    """Whether nothing in the picture is sharp, though there is something to be seen."""
    levels = grey.astype(np.float32)
    dark, light = np.percentile(levels, [0.5, 99.5])
    slope = np.hypot(cv2.Scharr(levels, cv2.CV_32F, 1, 0), cv2.Scharr(levels, cv2.CV_32F, 0, 1))
    steepest = np.percentile(slope, 99.9) / 32.0  # in levels a pixel
    return bool(light - dark > CONTRAST and steepest * BLURRED_PX < light - dark)


def _runs(line: np.ndarray) -> list[tuple[int, int]]:
    """(start, length) of the runs of True in a line."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], line, [False]]).astype(np.int8)))
    return [(int(start), int(end - start)) for start, end in edges.reshape(-1, 2)]


def _pdf_of(drawing: str, width_mm: float, height_mm: float) -> bytes:
    """A PDF of one page."""
    box = f"[0 0 {width_mm * 72 / 25.4:.4f} {height_mm * 72 / 25.4:.4f}]"
    font = "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"
    viewer = "<< /PrintScaling /None >>"
    objects = [
        f"<< /Type /Catalog /Pages 2 0 R /ViewerPreferences {viewer} >>",
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        f"<< /Type /Page /Parent 2 0 R /MediaBox {box} /Contents 4 0 R"
        f" /Resources << /Font << /F {font} >> >> >>",
        f"<< /Length {len(drawing)} >>\nstream\n{drawing}\nendstream",
    ]
    data, starts = b"%PDF-1.4\n", []
    for number, text in enumerate(objects, 1):
        starts.append(len(data))
        data += f"{number} 0 obj\n{text}\nendobj\n".encode("ascii")
    table = "".join(f"{start:010d} 00000 n \n" for start in starts)
    end = f"xref\n0 5\n0000000000 65535 f \n{table}trailer\n<< /Size 5 /Root 1 0 R >>\n"
    return data + f"{end}startxref\n{len(data)}\n%%EOF\n".encode("ascii")
