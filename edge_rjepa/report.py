"""The picture of a run: its curves, where the eye looked, and what it learned in words.

Reads `metrics.jsonl` and, where they exist, `checkpoint.safetensors` (its metadata's `config`),
`summary.json` and `sample.npz` (image (H, W, 3) uint8 BGR, pixels (K, 2) x and y, surprise (K,)).
"""

import io
import json
import math
import os
import textwrap
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from edge_rjepa import checkpoint, journal
from edge_rjepa.errors import CheckpointError, RJepaError

WIDTH_INCHES, HEIGHT_INCHES, DOTS_PER_INCH = 12.0, 8.2, 130
INK, MUTED, FAINT = "#1f2933", "#66727f", "#e4e8ec"
BLUE, TEAL, PURPLE, ORANGE, GREEN, RED = (
    "#2563b0",
    "#0f8b8d",
    "#7b4fb5",
    "#c76b15",
    "#4b8b3b",
    "#c62f3b",
)
STYLE = {
    "font.size": 11,
    "text.color": INK,
    "axes.edgecolor": "#b8c0c8",
    "axes.labelcolor": MUTED,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 9,
    "grid.color": FAINT,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
}

CURVES = [  # key of metrics.jsonl, title, colour
    ("effective_rank", "Effective rank", TEAL),
    ("embedding_std", "Std of the embedding", GREEN),
    ("surprise", "Surprise (nats)", ORANGE),
    ("fixations_per_s", "Fixations a second", PURPLE),
]
HELD_OUT = ("information", "effective_rank", "embedding_std")  # in summary.json, before and after


class ReportError(RJepaError):
    """The report of a run cannot be drawn."""


def draw_report(run_dir: str | os.PathLike) -> Path:
    """Draw the run in `run_dir` and return the path of the picture, `report.png` in it.

    What was not measured is left out. Raises ReportError when matplotlib is missing, no line of
    metrics.jsonl can be read, another file is damaged, or the picture cannot be written.
    """
    run_dir = Path(run_dir)
    metrics = read_metrics(run_dir / "metrics.jsonl")
    config, summary, sample = _read_config(run_dir), _read_summary(run_dir), _read_sample(run_dir)
    try:
        import matplotlib
    except ImportError as error:
        raise ReportError(
            'the report needs matplotlib: pip install "edge-rjepa[demo]", or pip install matplotlib'
        ) from error
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **STYLE}):
        picture = _draw(run_dir.resolve().name, metrics, config, summary, sample)
    path = run_dir / "report.png"
    try:
        checkpoint.write_atomic(path, picture)
    except OSError as error:
        raise ReportError(f"cannot write {path}: {error.strerror}") from error
    return path


def read_metrics(path: str | os.PathLike) -> list[dict[str, Any]]:
    """The measurements in a metrics.jsonl and the older ones beside it.

    Raises ReportError when a file cannot be read or there is no measurement.
    """
    try:
        lines = [line for line in journal.read(path) if _is_number(line.get("fixations"))]
    except OSError as error:
        raise ReportError(f"cannot read {path}: {error.strerror}") from error
    if not lines:
        raise ReportError(f"{path} holds no measurement: let the run learn for some seconds more")
    return lines


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _read_config(run_dir: Path) -> dict[str, Any]:
    path = run_dir / "checkpoint.safetensors"
    if not path.exists():
        return {}
    try:
        return checkpoint.load(path)[1].get("config", {})
    except CheckpointError as error:
        raise ReportError(str(error)) from error


def _read_summary(run_dir: Path) -> dict[str, Any] | None:
    path = run_dir / "summary.json"
    if not path.exists():
        return None
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        judged = summary["before"] is not None
        for when in ("before", "after") if judged else ():
            summary[when] = {key: float(summary[when][key]) for key in HELD_OUT}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise _damaged(path) from error
    return summary


def _read_sample(run_dir: Path) -> dict[str, np.ndarray] | None:
    path = run_dir / "sample.npz"
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            sample = {name: file[name] for name in ("image", "pixels", "surprise")}
    except (OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile) as error:
        raise _damaged(path) from error
    if sample["image"].shape[2:] != (3,) or sample["pixels"].shape != (
        *sample["surprise"].shape,
        2,
    ):
        raise _damaged(path)
    return sample


def _damaged(path: Path) -> ReportError:
    return ReportError(f"{path} is damaged: delete it, and the report is drawn without it")


def _draw(name, metrics, config, summary, sample) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_INCHES, HEIGHT_INCHES), dpi=DOTS_PER_INCH, layout="constrained")
    head, upper, lower = figure.subfigures(3, 1, height_ratios=[1.05, 4, 2.6], hspace=0.03)
    _draw_head(head, name, metrics, config, summary)

    widths = {"run": 2.0, "held out": 0.75, "eye": 1.75}
    judged = summary is not None and summary["before"] is not None
    if not judged:
        del widths["held out"]
    if sample is None:
        del widths["eye"]
    panels = upper.subplots(1, len(widths), width_ratios=list(widths.values()), squeeze=False)[0]
    panels = dict(zip(widths, panels, strict=True))
    _draw_curve(panels["run"], metrics, "information", "Information on the run (nats)", BLUE)
    _label_rollbacks(panels["run"], metrics)
    if judged:
        _draw_held_out(panels["held out"], summary)
    if sample is not None:
        _draw_scanpath(panels["eye"], sample)

    for axes, (key, title, colour) in zip(lower.subplots(1, len(CURVES)), CURVES, strict=True):
        _draw_curve(axes, metrics, key, title, colour)
        axes.set_ylim(bottom=0)

    picture = io.BytesIO()
    figure.savefig(picture, format="png", bbox_inches="tight", pad_inches=0.25)
    return picture.getvalue()


def _draw_head(head, name, metrics, config, summary):
    seconds = metrics[-1].get("seconds")
    facts = [f"{metrics[-1]['fixations']:,.0f} fixations"]
    if _is_number(seconds):
        facts.append(f"{seconds:,.0f} s" if seconds < 600 else f"{seconds / 60:,.0f} min")
    sizes = {"n_embedding": "embedding", "n_hidden": "hidden", "n_predictor": "predictor"}
    facts += [f"{config['cell']} cells"] if "cell" in config else []
    facts += [f"{word} {config[key]}" for key, word in sizes.items() if key in config]
    left = 0.012
    head.text(left, 0.96, f"edge_rjepa  {name}", size=19, weight="bold", va="top")
    head.text(0.988, 0.9, "  ·  ".join(facts), size=11.5, color=MUTED, va="top", ha="right")
    verdict = (summary or {}).get(
        "verdict"
    ) or "Not finished: nothing was measured on held-out views."
    head.text(left, 0.46, textwrap.fill(str(verdict), 125), size=13, va="top")


def _draw_curve(axes, metrics, key, title, colour):
    """The measurements, faint, and their running mean."""
    fixations, values = _column(metrics, "fixations"), _column(metrics, key)
    axes.set_title(title)
    axes.xaxis.set_major_formatter(lambda value, _: _short(value))
    axes.yaxis.set_major_formatter(lambda value, _: _short(value))
    axes.locator_params(nbins=5)
    for rollback in _rollbacks(metrics):
        axes.axvline(rollback, color=RED, linewidth=1.2, linestyle=(0, (3, 2)))
    window = len(values) // 40
    for start, stop in _forward_stretches(fixations):
        x, y = fixations[start:stop], values[start:stop]
        alone = {"marker": "o"} if stop - start == 1 else {}
        if window > 1:
            axes.plot(x, y, color=colour, linewidth=0.8, alpha=0.3)
            y = _running_mean(y, window)
        axes.plot(x, y, color=colour, linewidth=2.2, **alone)
    axes.margins(x=0.02, y=0.12)


def _label_rollbacks(axes, metrics):
    rollbacks = _rollbacks(metrics)
    if rollbacks:
        count = "1 rollback" if len(rollbacks) == 1 else f"{len(rollbacks)} rollbacks"
        axes.plot([], [], color=RED, linewidth=1.2, linestyle=(0, (3, 2)), label=count)
        axes.legend(loc="lower right", frameon=False, labelcolor=RED)
    axes.set_xlabel("fixations")


def _draw_held_out(axes, summary):
    before, after = summary["before"], summary["after"]
    heights = [before["information"], after["information"]]
    bars = axes.bar(["before", "after"], heights, color=["#b4bdc6", BLUE], width=0.62)
    axes.bar_label(bars, fmt="%.2f", padding=4, size=13, weight="bold")
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.grid(axis="x", visible=False)
    axes.tick_params(axis="x", length=0, labelcolor=INK, labelsize=11.5)
    axes.set_title("Held out (nats)")
    axes.margins(y=0.14)
    axes.set_xlabel(
        f"effective rank  {before['effective_rank']:.1f} → {after['effective_rank']:.1f}\n"
        f"std  {before['embedding_std']:.2f} → {after['embedding_std']:.2f}",
        color=INK,
    )


def _draw_scanpath(axes, sample):
    """The frame, the path of the eye, and how much each fixation surprised."""
    from matplotlib import patheffects

    (x, y), surprise = sample["pixels"].T, sample["surprise"]
    axes.imshow(sample["image"][..., ::-1], alpha=0.85)
    axes.set_axis_off()
    axes.set_anchor("N")
    axes.set_title("Where the eye went on one frame")
    axes.plot(
        x,
        y,
        color="white",
        linewidth=1.6,
        alpha=0.9,
        path_effects=[patheffects.withStroke(linewidth=3.2, foreground=INK, alpha=0.6)],
    )
    dots = axes.scatter(
        x, y, c=surprise, s=230, cmap="YlOrRd", edgecolors=INK, linewidths=1, zorder=3
    )
    for number, place in enumerate(sample["pixels"], start=1):
        axes.annotate(
            str(number),
            place,
            ha="center",
            va="center_baseline",
            size=9,
            weight="bold",
            zorder=4,
            path_effects=[patheffects.withStroke(linewidth=2, foreground="white", alpha=0.8)],
        )
    below = axes.inset_axes((0.1, -0.09, 0.8, 0.035))
    bar = axes.figure.colorbar(dots, cax=below, orientation="horizontal")
    bar.set_label("surprise (nats)")
    bar.outline.set_visible(False)
    below.locator_params(nbins=5)


def _column(metrics, key) -> np.ndarray:
    """One measurement of every line, NaN where it is missing: a gap in the curve."""
    values = [line.get(key) for line in metrics]
    return np.array([value if _is_number(value) else math.nan for value in values], dtype=float)


def _rollbacks(metrics) -> list[float]:
    """The fixations at which the count of rollbacks grew."""
    counts = [0, *(line.get("rollbacks", 0) for line in metrics)]
    grew = [now > before for before, now in zip(counts, counts[1:], strict=False)]
    return [
        line["fixations"] for line, rolled_back in zip(metrics, grew, strict=True) if rolled_back
    ]


def _forward_stretches(fixations: np.ndarray) -> list[tuple[int, int]]:
    """(start, stop) of the stretches in which fixations grow: a rollback may set them back."""
    borders = [0, *(np.flatnonzero(np.diff(fixations) < 0) + 1), len(fixations)]
    return [(int(start), int(stop)) for start, stop in zip(borders, borders[1:], strict=False)]


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
