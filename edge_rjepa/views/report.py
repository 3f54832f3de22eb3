"""The picture of a run, for a talk: what it learned, how, and where it looked.

Reads `metrics.jsonl` and, where they exist, `checkpoint.safetensors`, `summary.json` and
`sample.npz` (image (N, H, W, 3) uint8 BGR, pixels (N, K, 2) x and y, surprise (N, K) nats; of older
runs one frame, without the N).
"""

import io
import itertools
import math
import os
import textwrap
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from edge_rjepa.errors import CheckpointError, RJepaError
from edge_rjepa.eye.retina import Retina
from edge_rjepa.learner.rjepa import RJepa
from edge_rjepa.run.config import RunConfig
from edge_rjepa.views import metrics, overlay
from edge_rjepa.views.filters import (
    PreferredPatches,
    looking_units,
    mean_colour,
    preferred_patches,
    shares,
)
from edge_rjepa.views.metrics import Record, column, is_number
from edge_rjepa.views.verdict import verdict
from safe_files.errors import FileError, printable, why
from safe_files.plain import rebuilt
from safe_files.reading import open_regular, read_json
from safe_files.writing import newest, write_atomic

# The picture is laid out in inches, from its top left; it is as wide as a slide. One part comes
# below the other, each as tall as what it holds: so nothing overlaps, whatever a run left.
WIDTH, DOTS_PER_INCH = 13.33, 150
MARGIN, GAP = 0.4, 0.2
NAME_HEIGHT, VERDICT_LINE, HELD_OUT_HEIGHT = 0.62, 0.36, 1.18
CURVES_HEIGHT, CURVES_ABOVE, CURVES_BELOW = 2.0, 0.95, 0.62
SEEN_HEIGHT, SEEN_ABOVE, SEEN_BELOW = 2.4, 0.5, 0.72
MOST_NAME, VERDICT_CHARACTERS, NOTE_CHARACTERS = 60, 92, 60  # to a line
INK, MUTED, FAINT = "#1f2933", "#66727f", "#e4e8ec"
BLUE, TEAL, PURPLE, ORANGE, GREEN, RED = (
    "#2563b0",
    "#0f8b8d",
    "#7b4fb5",
    "#c76b15",
    "#4b8b3b",
    "#c62f3b",
)
STYLE: dict[Any, Any] = {
    "font.size": 11,
    "text.color": INK,
    "axes.edgecolor": "#b8c0c8",
    "axes.labelcolor": MUTED,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.titlesize": 13,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "grid.color": FAINT,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "ytick.major.size": 0,
}

# Key of metrics.jsonl, title, what it says, colour: the first two are drawn large.
CURVES = [
    (
        "information",
        "Information (nats)",
        "How well the next look is foreseen. More is better.",
        BLUE,
    ),
    (
        "surprise",
        "Surprise (nats)",
        "How far looks are from what was foreseen. Level is good; a peak is something new.",
        ORANGE,
    ),
    ("effective_rank", "Effective rank", "", TEAL),
    ("embedding_std", "Std of the embedding", "", GREEN),
    ("fixations_per_s", "Fixations a second", "", PURPLE),
]
POINTS = 500  # of a curve: more than can be told apart
PLACES = [(0.85, 4.3), (5.95, 4.3), (10.95, 1.98)]  # left and width: two large, a column of small
HELD_OUT = {  # in summary.json, before and after: how it is printed, and what it says
    "known_again": ("{:.0%}", "of views known again"),
    "information": ("{:.2f} nats", "of the next look foreseen"),
    "effective_rank": ("{:.1f}", "effective rank of the embedding"),
    "embedding_std": ("{:.2f}", "std of the embedding, 0 to 1"),
}
MARKS: dict[str, dict[str, Any]] = {  # what happened, on the curves
    "rollback": {"color": RED, "linewidth": 1.4, "linestyle": (0, (3, 2))},
    "event": {"color": MUTED, "linewidth": 1.6},
}
MOST_SUMMARY_BYTES, MOST_SAMPLE_BYTES = 1 << 20, 256 << 20
FILTER_ROWS = 4
FILTERS_WIDTH = 3.95  # beside frames
SWATCH_PX, GAP_PX = 11, 3  # below a filter
TWO_STD = 2.0  # of the features, in the direction that a unit looks for: how far its patch is drawn


class ReportError(RJepaError):
    """The report of a run cannot be drawn."""


class Network(NamedTuple):
    """What a checkpoint holds."""

    learner: RJepa
    retina: Retina


def draw_report(run_dir: str | os.PathLike) -> Path:
    """Draw the run in `run_dir` and return the path of the picture, `report.png` in it.

    What was not measured is left out. Raises ReportError when matplotlib is missing, no line of
    metrics.jsonl can be read, another file is damaged, or the picture cannot be written.
    """
    run_dir = Path(run_dir)
    record = read_metrics(run_dir / "metrics.jsonl")
    network, summary, sample = _read_network(run_dir), read_summary(run_dir), read_sample(run_dir)
    if is_outdated(summary, record.measures):
        summary = sample = None
    try:
        import matplotlib
    except ImportError as error:
        raise ReportError(
            'the report needs matplotlib: pip install "edge-rjepa[demo]", or pip install matplotlib'
        ) from error
    # No backend is named: to look for the best one would load all that opens windows.
    usual: dict[Any, Any] = dict(matplotlib.rcParamsDefault)
    del usual["backend"]
    with matplotlib.rc_context({**usual, **STYLE}):
        picture = io.BytesIO()
        figure = _figure(printable(run_dir.resolve().name), record, network, summary, sample)
        figure.savefig(picture, format="png", pil_kwargs={"compress_level": 3})
    path = run_dir / "report.png"
    try:
        write_atomic(path, picture.getvalue())
    except OSError as error:
        raise ReportError(f"cannot write {path}: {why(error)}") from error
    return path


# -- what a run left ------------------------------------------------------------------------------


def read_metrics(path: str | os.PathLike) -> Record:
    """The metrics of a run.

    Raises ReportError when a file cannot be read or there is no measurement.
    """
    try:
        record = metrics.read(path)
    except OSError as error:
        raise ReportError(f"cannot read {path}: {why(error)}") from error
    if not record.measures:
        raise ReportError(f"{path} holds no measurement: let the run learn for some seconds more")
    return record


def _read_network(run_dir: Path) -> Network | None:
    path = run_dir / "checkpoint.safetensors"
    if not newest(path):
        return None
    try:
        learner, notes, _ = RJepa.load_newest(path)
        return Network(learner, Retina(RunConfig.from_dict(notes["config"]).retina))
    except CheckpointError as error:
        raise ReportError(str(error)) from error
    except (LookupError, TypeError, RJepaError) as error:
        raise ReportError(f"{path} is of another version of edge_rjepa: {error}") from error


def is_outdated(summary: dict[str, Any] | None, measures: list[dict[str, Any]]) -> bool:
    """Whether the run, of which these are the measures, has learned on since it was judged."""
    if summary is None or not measures:
        return False
    # Frames, since fixations go back where the run was rolled back.
    return bool(measures[-1].get("frames", 0.0) > summary["frames"])


def read_summary(run_dir: Path) -> dict[str, Any] | None:
    """What is in summary.json; None where there is none. Raises ReportError for a damaged one."""
    path = run_dir / "summary.json"
    if not path.exists():
        return None
    try:
        values = read_json(path, MOST_SUMMARY_BYTES, follow_links=False, finite=False)
        summary = rebuilt(dict[str, object], values, "summary")
        judged = any(summary[when] is not None for when in ("before", "after"))
        for when in ("before", "after") if judged else ():
            found = {"known_again": math.nan} | rebuilt(dict[str, object], summary[when], when)
            summary[when] = {key: _number(found[key]) for key in HELD_OUT}
        summary["frames"] = float(summary.get("frames", math.inf))
    except (OSError, ValueError, LookupError, TypeError, OverflowError) as error:
        raise _damage(path) from error
    return summary


def _number(value: Any) -> float:
    """null stands for what is not finite."""
    return math.nan if value is None else float(value)


def read_sample(run_dir: Path) -> dict[str, np.ndarray] | None:
    """What is in sample.npz; None where there is none. Raises ReportError for a damaged one."""
    path = run_dir / "sample.npz"
    if not path.exists():
        return None
    try:
        # NumPy leaves a file that is no archive open.
        with open_regular(path, follow_links=False) as content:
            _check_unpacks(content)
            with np.load(content, allow_pickle=False) as file:
                sample = {name: file[name] for name in ("image", "pixels", "surprise")}
    except (OSError, ValueError, LookupError, EOFError, zlib.error, MemoryError) as error:
        raise _damage(path) from error
    except (
        zipfile.BadZipFile,
        NotImplementedError,
        RuntimeError,
    ) as error:  # odd or locked archives
        raise _damage(path) from error
    if sample["image"].ndim == 3:
        sample = {name: array[None] for name, array in sample.items()}
    if not _can_be_drawn(**sample):
        raise _damage(path)
    return sample


def _can_be_drawn(image: np.ndarray, pixels: np.ndarray, surprise: np.ndarray) -> bool:
    """Whether they are pictures, places in them and nats, which may be unknown."""
    numbers = all(array.dtype.kind in "fiu" for array in (pixels, surprise))
    pictures = image.dtype == np.uint8 and image.size > 0
    if not (numbers and pictures and image.ndim == 4 and surprise.ndim == 2):
        return False
    shapes = pixels.shape == (*surprise.shape, 2) and len(image) == len(surprise)
    return shapes and image.shape[3] == 3 and bool(np.isfinite(pixels).all())


def _check_unpacks(content: BinaryIO) -> None:
    """Raise FileError for an archive that grows beyond all samples when it is unpacked."""
    with zipfile.ZipFile(content) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > MOST_SAMPLE_BYTES:
        raise FileError(f"unpacks to {unpacked:,} bytes")
    content.seek(0)


def _damage(path: Path) -> ReportError:
    return ReportError(f"{path} is damaged: delete it, and the report is drawn without it")


# -- the picture ----------------------------------------------------------------------------------


def _figure(name, record, network, summary, sample):
    """All of it, as matplotlib's Figure."""
    from matplotlib.figure import Figure

    said = textwrap.wrap(verdict(record.measures, summary).sentence, VERDICT_CHARACTERS)
    judged = bool(summary and summary["before"])
    held_out_top = NAME_HEIGHT + 0.35 + VERDICT_LINE * len(said)
    curves_top = held_out_top + judged * HELD_OUT_HEIGHT + CURVES_ABOVE
    seen_top = curves_top + CURVES_HEIGHT + CURVES_BELOW + SEEN_ABOVE
    seen = SEEN_HEIGHT + SEEN_BELOW if network or sample else 0.3 - SEEN_ABOVE
    figure = Figure(figsize=(WIDTH, seen_top + seen), dpi=DOTS_PER_INCH)
    _draw_head(figure, name, _facts(record.measures[-1], network), said)
    if judged:
        _draw_held_out(figure, held_out_top, summary)
    _draw_curves(figure, curves_top, record)
    left = MARGIN
    if network:
        width = FILTERS_WIDTH if sample else WIDTH - 2 * MARGIN
        _draw_filters(_axes(figure, left, seen_top, width, SEEN_HEIGHT), network)
        left += width + 2.5 * GAP
    if sample:
        _draw_scanpaths(figure, left, seen_top, sample)
    return figure


def _axes(figure, left, top, width, height):
    whole = figure.get_figheight()
    box = left / WIDTH, 1.0 - (top + height) / whole, width / WIDTH, height / whole
    return figure.add_axes(box, anchor="NW")


def _write(figure, left, top, text, **look):
    place = left / WIDTH, 1.0 - top / figure.get_figheight()
    figure.text(*place, text, va="top", parse_math=False, **look)


def _draw_head(figure, name, facts, said):
    """Which run it is, and the verdict."""
    short = name if len(name) <= MOST_NAME else f"{name[: MOST_NAME - 1]}…"
    _write(figure, MARGIN, 0.34, short, size=12, weight="bold")
    _write(figure, MARGIN, NAME_HEIGHT, facts, size=10, color=MUTED)
    for i, line in enumerate(said):
        _write(figure, MARGIN, NAME_HEIGHT + 0.42 + i * VERDICT_LINE, line, size=17, weight="bold")


def _draw_held_out(figure, top, summary):
    """What was measured on views set aside, before and after."""
    _write_heading(figure, top + 0.2, "Asked about views it never learned from")
    shown = [key for key in HELD_OUT if math.isfinite(summary["after"][key])]
    for i, key in enumerate(shown):
        left = MARGIN + i * (WIDTH - 2 * MARGIN) / len(HELD_OUT)
        form, words = HELD_OUT[key]
        _write(figure, left, top + 0.52, form.format(summary["after"][key]), size=22, weight="bold")
        _write(figure, left, top + 0.93, words, size=10.5)
        if math.isfinite(summary["before"][key]):
            words = f"{form.format(summary['before'][key])} before it learned"
            _write(figure, left, top + 1.13, words, size=10, color=MUTED)


def _write_heading(figure, top, text):
    _write(figure, MARGIN, top, text, size=11, weight="bold", color=BLUE)


def _facts(latest, network) -> str:
    facts = [f"{latest['fixations']:,.0f} fixations"]
    seconds = latest.get("seconds")
    if is_number(seconds):
        facts.append(_duration(seconds))
    if network:
        config = network.learner.config
        facts += [f"{config.cell} cells", f"embedding {config.n_embedding}"]
        facts += [f"memory {config.n_hidden}", f"predictor {config.n_predictor}"]
    return "  ·  ".join(facts)


def _duration(seconds: float) -> str:
    if seconds < 600:
        return f"{seconds:,.0f} s"
    return f"{seconds / 60:,.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def _draw_curves(figure, top, record):
    """The first two large, the others small in a column beside them."""
    _write_heading(figure, top - 0.58, "While it learned, on what it learned from")
    marks = _marks(record)
    for (left, width), curve in zip(PLACES[:2], CURVES[:2], strict=True):
        key, title, says, colour = curve
        axes = _axes(figure, left, top, width, CURVES_HEIGHT)
        _draw_curve(axes, record.measures, key, colour)
        _draw_marks(axes, marks)
        axes.set_title(title, x=-0.1)
        axes.set_xlabel("fixations")
        axes.locator_params(nbins=5)
        _write(figure, left - 0.45, top + CURVES_HEIGHT + 0.52, says, size=9.5, color=MUTED)
    _label_marks(figure, marks)
    small = CURVES[2:]
    left, width = PLACES[-1]
    height = CURVES_HEIGHT / len(small)
    for i, (key, title, _, colour) in enumerate(small):
        axes = _axes(figure, left, top - 0.05 + 1.04 * i * height, width, height - 0.29)
        _draw_curve(axes, record.measures, key, colour)
        axes.set_title(title, size=11, weight="normal", pad=6)
        axes.set_ylim(0.0, max(1e-3, 1.05 * axes.get_ylim()[1]))
        axes.locator_params(axis="y", nbins=2)
        axes.locator_params(axis="x", nbins=4)
        axes.tick_params(labelsize=9.5, labelbottom=i == len(small) - 1)


def _draw_curve(axes, measures, key, colour):
    """The running mean of the measurements; fainter, they themselves; where many, their range."""
    fixations, values = column(measures, "fixations"), column(measures, key)
    axes.xaxis.set_major_formatter(lambda value, _: _short(value))
    axes.yaxis.set_major_formatter(lambda value, _: _short(value))
    size = -(-len(values) // POINTS)
    window = len(values) // size // 40
    for start, stop in _forward_stretches(fixations):
        x, low, mean, high = _reduce(fixations[start:stop], values[start:stop], size)
        smooth = _running_mean(mean, window) if window > 1 else mean
        if size > 1:
            axes.fill_between(x, low, high, color=colour, alpha=0.13, linewidth=0)
        elif window > 1:
            axes.plot(x, mean, color=colour, linewidth=0.8, alpha=0.3)
        alone = {"marker": "o"} if len(x) == 1 else {}
        axes.plot(x, smooth, color=colour, linewidth=2.2, solid_capstyle="round", **alone)
    axes.margins(x=0.01, y=0.12)


def _marks(record) -> dict[str, np.ndarray]:
    """The fixations at which it was rolled back, and those of the other events."""
    frames, fixations = (column(record.measures, key) for key in ("frames", "fixations"))
    at = column(record.events, "frames")
    known, placed = np.isfinite(frames), np.isfinite(at)
    places = np.interp(at[placed], frames[known], fixations[known]) if known.any() else at[:0]
    return {"rollback": _rollbacks(record), "event": places}


def _draw_marks(axes, marks):
    """Rollbacks over the whole height, events as ticks at the foot."""
    for (kind, look), height in zip(MARKS.items(), (0.97, 0.05), strict=True):
        foot = axes.get_xaxis_transform()
        axes.vlines(marks[kind], 0.0, height, transform=foot, clip_on=False, **look)


def _label_marks(figure, marks):
    axes = figure.axes[0]
    for kind, look in MARKS.items():
        if len(marks[kind]):
            plural = "s" * (len(marks[kind]) > 1)
            axes.plot([], [], label=f"{len(marks[kind]):,} {kind}{plural}", **look)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="lower right", frameon=False, labelcolor="linecolor", handlelength=1.4)


def _draw_filters(axes, network):
    """What the units that matter most look for, and what the weights of all go to."""
    learner = network.learner
    weights, hidden = looking_units(learner.parameters(), learner.embedding_covariance)
    length = np.linalg.norm(weights, axis=1, keepdims=True)
    ways = TWO_STD * weights / np.maximum(length, 1e-12)
    tiles = _tiles(preferred_patches(ways, network.retina), mean_colour(network.retina))
    box, tile = axes.get_window_extent(), tiles.shape[2] / tiles.shape[1]
    axes.imshow(_grid(tiles, round(FILTER_ROWS * box.width / box.height / tile)))
    axes.set_axis_off()
    axes.set_title("What its hidden units look for" if hidden else "What its units look for")
    found = shares(weights, network.retina)
    parts = ", ".join(f"{share:.0%} {kind}" for kind, share in found.items())
    first = "move the embedding most" if hidden else "vary most"
    notes = (
        f"Patterns, each above the colour that goes with it; first the units that {first}. "
        f"Weight: {parts}."
    )
    place = axes.get_position()
    below = (1.0 - place.y1) * axes.figure.get_figheight() + SEEN_HEIGHT + 0.08
    lines = "\n".join(textwrap.wrap(notes, NOTE_CHARACTERS))
    _write(axes.figure, MARGIN, below, lines, size=9.5, color=MUTED)


def _tiles(patches: PreferredPatches, mean_bgr: np.ndarray) -> np.ndarray:
    """Patterns in their own contrast, above the colours that go with them; white between.

    (N, .., .., 3) RGB, 0 .. 1.
    """
    n, side = patches.pattern.shape[:2]
    border = side // 8
    tiles = np.ones((n, side + GAP_PX + SWATCH_PX + border, side + border, 3))
    spread = patches.pattern.std(axis=(1, 2, 3), keepdims=True)
    pattern = 0.5 + 0.2 * patches.pattern / np.maximum(spread, 1e-12)
    tiles[:, :side, :side] = np.clip(pattern, 0.0, 1.0)
    colour = np.clip((mean_bgr + patches.level) / 255.0, 0.0, 1.0)
    tiles[:, side + GAP_PX : side + GAP_PX + SWATCH_PX, :side] = colour[:, None, None]
    return tiles[..., ::-1]


def _grid(tiles: np.ndarray, columns: int) -> np.ndarray:
    """The first tiles in FILTER_ROWS rows, as one picture; white where there are too few."""
    n, height, width, _ = tiles.shape
    grid = np.ones((FILTER_ROWS * columns, height, width, 3))
    grid[:n] = tiles[: len(grid)]
    grid = grid.reshape(FILTER_ROWS, columns, height, width, 3).swapaxes(1, 2)
    return grid.reshape(FILTER_ROWS * height, columns * width, 3)


def _draw_scanpaths(figure, left, top, sample):
    """Frames, the path of the eye, and how much each fixation surprised."""
    surprise, (count, rows, columns) = sample["surprise"], sample["image"].shape[:3]
    across, width, height = _fitted(count, columns / rows, WIDTH - MARGIN - left, SEEN_HEIGHT)
    title = "What surprised it in views it never learned from"
    _write(figure, left, top - 0.31, title, size=13, weight="bold")
    shades = _shades(surprise)
    for i, nats in enumerate(surprise):
        down, right = divmod(i, across)
        place = left + right * (width + GAP), top + down * (height + 0.5 * GAP)
        axes = _axes(figure, *place, width, height)
        dots = _draw_scanpath(axes, sample["image"][i], sample["pixels"][i], nats, shades)
    bar = _axes(figure, left, top + SEEN_HEIGHT + 0.16, 1.6, 0.1)
    scale = figure.colorbar(dots, cax=bar, orientation="horizontal", extend="both")
    scale.outline.set_visible(False)
    bar.locator_params(nbins=4)
    bar.tick_params(labelsize=9.5, length=0)
    text = (
        "nats of surprise: how far a look is from what was foreseen\n"
        "the ring is the first look; it moves along the line"
    )
    _write(figure, left + 1.8, top + SEEN_HEIGHT + 0.1, text, size=9.5, color=MUTED)


def _fitted(count: int, shape: float, width: float, height: float) -> tuple[int, float, float]:
    """How many frames go side by side to be largest, and the width and height of each.

    shape: width by height of a frame. width, height: inches there are for all.
    """

    def sized(across: int) -> tuple[float, int]:
        down = -(-count // across)
        widest = (width - GAP * (across - 1)) / across
        tallest = (height - 0.5 * GAP * (down - 1)) / down
        return min(tallest, widest / shape), across

    tall, across = max(sized(across) for across in range(1, count + 1))
    return across, tall * shape, tall


def _shades(surprise: np.ndarray) -> dict[str, Any]:
    """Colours by surprise as the live page has them, of all frames together."""
    from matplotlib.colors import LinearSegmentedColormap, Normalize

    begin, length = overlay.surprise_scale(surprise)
    ends = overlay.colours(np.array([0.0, 1.0]))[:, ::-1] / 255.0
    return {
        "cmap": LinearSegmentedColormap.from_list("surprise", ends),
        "norm": Normalize(begin, begin + length),
    }


def _draw_scanpath(axes, image, pixels, surprise, shades):
    from matplotlib import patheffects

    x, y = pixels.T
    axes.imshow(image[..., ::-1])
    axes.set_axis_off()
    dark = [patheffects.withStroke(linewidth=2.8, foreground=INK, alpha=0.7)]
    axes.plot(x, y, color="white", linewidth=1.3, path_effects=dark)
    axes.set(xlim=(-0.5, image.shape[1] - 0.5), ylim=(image.shape[0] - 0.5, -0.5))
    ring = {"facecolors": "none", "edgecolors": "white", "linewidths": 1.8}
    axes.scatter(x[:1], y[:1], s=150, zorder=3, **ring)
    return axes.scatter(x, y, c=surprise, s=52, edgecolors=INK, linewidths=0.9, zorder=4, **shades)


# -- numbers --------------------------------------------------------------------------------------


def _rollbacks(record) -> np.ndarray:
    """The fixations at which the count of rollbacks grew."""
    counts = column(record.measures, "rollbacks")
    grew = np.diff(np.nan_to_num(counts), prepend=0.0) > 0.0
    return column(record.measures, "fixations")[grew]


def _forward_stretches(fixations: np.ndarray) -> list[tuple[int, int]]:
    """(start, stop) of the stretches in which fixations grow: a rollback may set them back."""
    borders = [0, *(np.flatnonzero(np.diff(fixations) < 0) + 1), len(fixations)]
    return [(int(start), int(stop)) for start, stop in itertools.pairwise(borders)]


def _reduce(x: np.ndarray, values: np.ndarray, size: int) -> tuple[np.ndarray, ...]:
    """x, low, mean and high of every `size` values; what is not finite is left out."""
    starts = np.arange(0, len(values), size)
    last = np.minimum(starts + size, len(values)) - 1
    return x[(starts + last) // 2], *metrics.reduce(values, starts)


def _running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Mean over `window` values around each, fewer at the ends; what is not finite is left out."""
    finite = np.isfinite(values)
    kernel = np.ones(min(window, len(values)))
    count = np.convolve(finite, kernel, mode="same")
    total = np.convolve(np.where(finite, values, 0.0), kernel, mode="same")
    return np.where(finite, total / np.maximum(count, 1), math.nan)


def _short(value: float) -> str:
    """12 000 as 12k, 2 500 000 as 2.5M."""
    for limit, unit in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:g}{unit}"
    return f"{value:g}"
