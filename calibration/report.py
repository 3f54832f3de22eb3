"""A page about a calibration, for a person to judge it by: one HTML file, its pictures inside."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np

from calibration.camera import CameraCalibration
from calibration.head import AXES, NAMES, HeadCalibration
from calibration.io import Calibration
from calibration.model import parameter_names

WIDTH, MARGIN = 460.0, 46.0  # of a chart, in the units of its drawing
EDGE = 14.0  # right of a chart
CERTAIN_COLUMNS, CERTAIN_ROWS = 9, 7

STYLE = """
:root { --ink: #1f2933; --muted: #66727f; --line: #d5dbe1; --paper: #fff; --blue: #2563b0;
  --red: #c62f3b; --shade: 37, 99, 176; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ec; --muted: #9aa5b1; --line: #3a444e;
  --paper: #14181c; --blue: #6aa5ea; --red: #f07178; --shade: 106, 165, 234; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem; max-width: 62rem; background: var(--paper);
  color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0; } h2 { margin: 2.2rem 0 .3rem; font-size: 1.25rem; }
h3 { font-size: 1rem; margin: .4rem 0; } p { margin: .3rem 0; } .muted { color: var(--muted); }
.figures { display: flex; flex-wrap: wrap; gap: .4rem 2.2rem; margin: .8rem 0 1.2rem; }
.figures b { display: block; font-size: 1.45rem; font-weight: 600; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 1.5rem; }
figure { margin: 0; } svg { width: 100%; height: auto; }
svg text { font-size: 11px; fill: var(--muted); } .frame { fill: none; stroke: var(--line); }
.curve { fill: none; stroke: var(--blue); stroke-width: 2; } .dot { fill: var(--blue); }
.off { stroke: var(--red); } .rule { stroke: var(--line); }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .2rem .6rem; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; } td:last-child { color: var(--muted); }
"""


def page(found: Calibration) -> str:
    """The HTML about a camera's and a head's calibration, as far as they are there."""
    parts = ["<h1>Calibration</h1>"]
    if found.camera:
        parts += _about("Camera", found.camera) + _camera(found.camera.result)
    if found.head:
        parts += _about("Head", found.head) + _head(found.head.result)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><title>Calibration</title>'
        f"<style>{STYLE}</style><body>{''.join(parts)}</body></html>\n"
    )


def _about(what: str, record) -> list[str]:
    made = f"{escape(record.device)}, {escape(record.made)}, edge_rjepa {escape(record.software)}"
    return [f'<h2>{what}</h2><p class="muted">{made}</p>']


# ------------------------------------------------------------------------------------------------
# The camera


def _camera(result: CameraCalibration) -> list[str]:
    model = result.model
    worst_deg = math.degrees(2.0 * result.angle_std_rad(result.pixels).max())
    views = f"{result.views_used} of {len(result.views)}"
    return [
        _figures(
            (f"{model.focal_px:.1f} px", "focal length"),
            (f"{math.degrees(model.field_of_view_rad):.1f}°", "field of view"),
            (f"{result.rms_px:.3f} px", "RMS of what is left"),
            (views, "views used"),
            (f"{100 * result.coverage:.0f} %", "of the picture covered"),
            (f"{worst_deg:.3f}°", "directions known to, at worst"),
        ),
        f"<p>{escape(result.chosen)}</p>",
        '<div class="charts">',
        _figure("Corners, and which way they are off", _residuals(result)),
        _figure("Directions are known to (degrees, two standard errors)", _certainty(result)),
        "</div>",
        "<h3>Parameters</h3>",
        _table(("", "value", "95 times in 100 within"), _parameter_rows(result)),
        "<h3>Views</h3>",
        _table(("", "corners used", "RMS, px", "tilt", "distance, m", ""), _view_rows(result)),
    ]


def _residuals(result: CameraCalibration) -> str:
    """Where corners were seen and, much enlarged, which way they are off."""
    model = result.model
    scale = WIDTH / model.width_px
    longest = 0.025 * model.width_px / max(result.rms_px, 1e-3)
    times = 10.0 ** math.floor(math.log10(longest))
    starts = (result.pixels + 0.5) * scale
    ends = starts + result.residuals_px * scale * times
    lines = "".join(
        f'<path class="off" d="M{a:.1f} {b:.1f}L{c:.1f} {d:.1f}"/>'
        f'<circle class="dot" cx="{a:.1f}" cy="{b:.1f}" r="1.2"/>'
        for (a, b), (c, d) in zip(starts, ends, strict=True)
    )
    height = model.height_px * scale
    note = f'<text x="2" y="{height + 14:.0f}">residuals drawn {times:g} times as long</text>'
    return _svg(height + 20, _frame(0.0, 0.0, WIDTH, height) + lines + note)


def _certainty(result: CameraCalibration) -> str:
    """How well the direction of each part of the picture is known: the darker the worse."""
    model = result.model
    width, height = WIDTH / CERTAIN_COLUMNS, WIDTH * model.height_px / model.width_px / CERTAIN_ROWS
    x, y = np.meshgrid(
        (np.arange(CERTAIN_COLUMNS) + 0.5) * model.width_px / CERTAIN_COLUMNS - 0.5,
        (np.arange(CERTAIN_ROWS) + 0.5) * model.height_px / CERTAIN_ROWS - 0.5,
    )
    known_deg = np.degrees(2.0 * result.angle_std_rad(np.stack([x, y], axis=-1)))
    shade = 0.6 * known_deg / max(known_deg.max(), 1e-9)
    cells = "".join(
        f'<rect x="{column * width:.1f}" y="{row * height:.1f}" width="{width:.1f}" '
        f'height="{height:.1f}" style="fill: rgba(var(--shade), {shade[row, column]:.2f})"/>'
        f'<text x="{(column + 0.5) * width:.1f}" y="{(row + 0.5) * height + 4:.1f}" '
        f'text-anchor="middle">{known_deg[row, column]:.3f}</text>'
        for row in range(CERTAIN_ROWS)
        for column in range(CERTAIN_COLUMNS)
    )
    return _svg(CERTAIN_ROWS * height + 20, cells)


def _parameter_rows(result: CameraCalibration) -> Iterable[Sequence[str]]:
    names = parameter_names(result.model.lens)
    for name, value, std, (low, high) in zip(
        names, result.model.parameters, result.std, result.intervals, strict=True
    ):
        within = f"{low:.4g} to {high:.4g}" if std else "not fitted"
        yield name.replace("_px", ", px").replace("_", " "), f"{value:.5g}", within


def _view_rows(result: CameraCalibration) -> Iterable[Sequence[str]]:
    for view in result.views:
        yield (
            view.name,
            f"{view.used} of {view.seen}",
            f"{view.rms_px:.3f}",
            f"{math.degrees(view.tilt_rad):.0f}°",
            f"{view.distance_m:.2f}",
            view.reason,
        )


# ------------------------------------------------------------------------------------------------
# The head


def _head(result: HeadCalibration) -> list[str]:
    timing = result.timing
    figures = [(f"{math.degrees(result.rms_rad):.3f}°", "RMS of what is left")]
    for axis, servo, scatter_rad in zip(AXES, result.model.servos, result.scatter_rad, strict=True):
        low, high = np.degrees(servo.range_rad)
        figures += [
            (f"{low:+.1f} to {high:+.1f}°", f"{axis}, range"),
            (f"{math.degrees(servo.backlash_rad):.2f}°", f"{axis}, backlash"),
            (f"{math.degrees(scatter_rad):.2f}°", f"{axis}, stops within"),
        ]
    if timing:
        figures += [
            (f"{1e3 * timing.delay_s:.0f} ms", "from command to picture"),
            (f"{1e3 * timing.settling_s:.0f} ms", "to come to rest"),
        ]
    charts = [
        _figure(f"{axis.capitalize()}: {text}", chart(result, k))
        for k, axis in enumerate(AXES)
        for text, chart in (
            ("where pulses turn it, degrees", _servo_curve),
            ("where it stopped, less where it should, degrees", _servo_off),
        )
    ]
    words = "".join(f"<p>{escape(line)}</p>" for line in result.summary_lines())
    return [
        _figures(*figures),
        '<div class="charts">',
        *charts,
        "</div>",
        words,
        "<h3>Values</h3>",
        _table(("", "value", "95 times in 100 within"), _value_rows(result)),
    ]


def _servo_curve(result: HeadCalibration, k: int) -> str:
    servo = result.model.servos[k]
    pulses = np.linspace(servo.low, servo.high, 101)
    angles_deg = np.degrees(servo.angle(pulses))
    stood_deg = np.degrees(servo.angle(result.pulses[:, k]) + result.off_rad[:, k])
    return _chart(result.unit, result.pulses[:, k], stood_deg, (pulses, angles_deg))


def _servo_off(result: HeadCalibration, k: int) -> str:
    return _chart(result.unit, result.pulses[:, k], np.degrees(result.off_rad[:, k]))


def _value_rows(result: HeadCalibration) -> Iterable[Sequence[str]]:
    for name in NAMES:
        value, low, high = result.estimate(name)
        is_angle = name.partition("_")[0] in (*AXES, "elevation", "roll", "lean", "yaw")
        if is_angle:
            value, low, high = np.degrees([value, low, high])
        shown = name.replace("_px", ", px").replace("_", " ") + (", degrees" if is_angle else "")
        yield shown, f"{value:.4f}", f"{low:.4f} to {high:.4f}"


# ------------------------------------------------------------------------------------------------
# Drawing


def _chart(unit: str, x, y, curve=None) -> str:
    """Dots (n,) over pulses, and a curve of two arrays if there is one."""
    height = 0.55 * WIDTH
    over, up = (x, y) if curve is None else curve
    (left, right), low, high = (np.min(over), np.max(over)), min(y.min(), up.min()), up.max()
    low, high = low - 0.05 * (high - low) - 1e-6, max(high, y.max()) + 0.05 * (high - low) + 1e-6
    right = max(right, left + 1e-6)  # where all views are of one pulse

    def place(x, y):
        across = MARGIN + (np.asarray(x) - left) / max(right - left, 1e-9) * (WIDTH - MARGIN - EDGE)
        down = 8.0 + (high - np.asarray(y)) / (high - low) * (height - 32.0)
        return across, down

    drawn = _frame(MARGIN, 8.0, WIDTH - MARGIN - EDGE, height - 32.0)
    for value in _ticks(low, high):
        at = place(left, value)[1]
        drawn += (
            f'<path class="rule" d="M{MARGIN} {at:.1f}H{WIDTH - EDGE}"/>'
            f'<text x="{MARGIN - 5}" y="{at + 4:.1f}" text-anchor="end">{value:g}</text>'
        )
    for value in _ticks(left, right):
        at = place(value, low)[0]
        drawn += f'<text x="{at:.1f}" y="{height - 9:.1f}" text-anchor="middle">{value:g}</text>'
    drawn += (
        f'<text x="{WIDTH - EDGE}" y="{height + 4:.1f}" text-anchor="end">{escape(unit)}</text>'
    )
    if curve is not None:
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(*place(*curve), strict=True))
        drawn += f'<polyline class="curve" points="{points}"/>'
    drawn += "".join(
        f'<circle class="dot" cx="{a:.1f}" cy="{b:.1f}" r="2.5"/>'
        for a, b in zip(*place(x, y), strict=True)
    )
    return _svg(height + 8.0, drawn)


def _ticks(low: float, high: float) -> np.ndarray:
    """Some round numbers within."""
    rough = (high - low) / 7.0
    unit = 10.0 ** math.floor(math.log10(rough))
    step = unit * next(times for times in (1, 2, 5, 10) if times * unit >= rough)
    first = math.ceil(low / step)
    return np.round(step * np.arange(first, math.floor(high / step) + 1), 10)


def _svg(height: float, drawn: str) -> str:
    return f'<svg viewBox="-1 -1 {WIDTH + 2:.0f} {height + 2:.0f}" role="img">{drawn}</svg>'


def _frame(x: float, y: float, width: float, height: float) -> str:
    return f'<rect class="frame" x="{x}" y="{y}" width="{width:.1f}" height="{height:.1f}"/>'


def _figure(title: str, drawing: str) -> str:
    return f"<figure><h3>{escape(title)}</h3>{drawing}</figure>"


def _figures(*figures: tuple[str, str]) -> str:
    items = (
        f'<div><b>{escape(value)}</b><span class="muted">{escape(what)}</span></div>'
        for value, what in figures
    )
    return f'<div class="figures">{"".join(items)}</div>'


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def row(cells, tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return f"<table>{row(head, 'th')}{''.join(row(cells, 'td') for cells in rows)}</table>"
