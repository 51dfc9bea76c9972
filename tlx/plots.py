"""The report's figures: matplotlib without pyplot, drawn once, saved as PNG and as SVG that follows the page's theme.

Every function returns a `matplotlib.figure.Figure`; `save` writes it. Matplotlib is imported inside the functions: a
run pays for it when it draws, not when it starts.
"""

import contextlib
import io
import itertools
import math
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from tlx import record

# Name -> (light, dark). Hues after Okabe & Ito (2008), told apart under every common colour blindness, and darkened (or
# lightened) until small text in them has a contrast of at least 4.5 with the paper. The light values must be unique:
# `save` finds them in the SVG and puts CSS variables in their place.
THEME = {
    "paper": ("#fffffe", "#15181d"),
    "ink": ("#1b1f24", "#e8eaee"),
    "muted": ("#69707a", "#9ba4b0"),
    "grid": ("#e2e5e9", "#313741"),
    "blue": ("#0069a8", "#62b9ee"),
    "red": ("#c03f08", "#ff9261"),
    "green": ("#007a59", "#45cfa3"),
    "purple": ("#9f4a78", "#e59fc7"),
    "ochre": ("#8f5f00", "#ecb445"),
}
COLOR = {name: light for name, (light, _) in THEME.items()}
CYCLE = ("blue", "red", "green", "purple", "ochre", "ink")  # for whatever has no colour of its own
SPLIT_COLOR = {"train": COLOR["muted"], "validation": COLOR["blue"], "test": COLOR["green"]}

_WIDTH = 4.9  # inches: at this size 9 pt text stays readable when a phone shows the figure 360 pixels wide

_STYLE = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "text.color": COLOR["ink"],
    "text.parse_math": False,  # a metric named "a$b" is a name, not broken mathematics
    "axes.facecolor": "none",
    "axes.edgecolor": COLOR["muted"],
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.labelcolor": COLOR["muted"],
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": COLOR["grid"],
    "grid.linewidth": 0.7,
    "xtick.color": COLOR["muted"],
    "ytick.color": COLOR["muted"],
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "none",
    "path.simplify_threshold": 0.5,
}


@contextlib.contextmanager
def style(**extra):
    """The look of a figure, while it is drawn; matplotlib's own settings are left as they were."""
    import matplotlib

    with matplotlib.rc_context(_STYLE | extra):
        yield


def save(figure, path: Path) -> str:
    """Writes `figure` to `path` (PNG, light, 160 dpi); returns an SVG for a page that defines `THEME` in CSS."""
    with style(**{"svg.hashsalt": path.stem}):
        figure.savefig(path, dpi=160, facecolor=COLOR["paper"])
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", facecolor="none", metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r' id="[A-Za-z][\w.]*?_\d+"', "", svg)  # figure_1, axes_1, ...: the same in every figure of the page
    # Without a size of its own it takes the page's.
    svg = re.sub(r"^<svg[^>]*>", lambda tag: re.sub(r' (width|height)="[^"]*"', "", tag[0]), svg)
    svg = svg.replace("'DejaVu Sans'", "system-ui, 'DejaVu Sans'")
    for name, light in COLOR.items():
        svg = svg.replace(light, f"var(--{name})")
    return svg


def percent_limits(values: Iterable[float], least: float) -> tuple[float, float]:
    """Limits in %, in steps of 5, inside [0, 100], around `values` (%), and never closer than `least` points."""
    values = [v for v in values if math.isfinite(v)] or [0.0, 100.0]
    bottom = max(0.0, math.floor(min(values) / 5) * 5)
    top = min(100.0, math.ceil(max(values) / 5) * 5)
    if top - bottom < least:
        top = min(100.0, max(top, bottom + least))
        bottom = max(0.0, top - least)
    return bottom, top


def short(value: float) -> str:
    """A number in few characters: 0, 2.5e-4, 0.071, 9,070, 1e7."""
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def axes(height: float, *, left=0.52, right=1.25, top=0.46, bottom=0.5, width=_WIDTH):
    """One figure with one axes; margins in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    box = [left / width, bottom / height, (width - left - right) / width, (height - top - bottom) / height]
    return figure, figure.add_axes(box)


def title(figure, text: str, note: str = ""):
    """What the vertical axis holds, written flat above it: nobody should tilt their head."""
    width, height = figure.get_size_inches()
    title = figure.text(0.06 / width, 1 - 0.05 / height, text, va="top", ha="left", weight="bold", size=10)
    if note:
        title.set_text(f"{text}  ({note})")


def end_labels(ax, labels: Sequence[tuple[float, str, str]], gap=0.085):
    """Names the lines at their right ends (y, text, colour), pushed apart where they would overlap."""
    to_axes = ax.transData + ax.transAxes.inverted()
    x = ax.get_xlim()[1]
    placed = sorted((to_axes.transform((x, y))[1], text, color) for y, text, color in labels)
    heights = [min(max(y, 0.0), 1.0) for y, _, _ in placed]
    for i in range(1, len(heights)):
        heights[i] = max(heights[i], heights[i - 1] + gap)
    excess = heights[-1] - 1.02 if heights else 0.0
    for i in reversed(range(len(heights))):
        if excess <= 0:
            break
        heights[i] -= excess
        excess = heights[i - 1] + gap - heights[i] if i else 0.0
    for y, (_, text, color) in zip(heights, placed):
        ax.text(1.02, y, text, transform=ax.transAxes, color=color, va="center", ha="left", size=8.5, linespacing=1.0)


def set_value_axis(ax, name: str, values: np.ndarray, least: float) -> str:
    """Honest limits for the vertical axis: % inside [0, 100]; a loss from 0, or logarithmic over 2 decades and more."""
    finite = values[np.isfinite(values)]
    if record.is_fraction(name):
        ax.set_ylim(*percent_limits(finite, least))
        return "%"
    if finite.size and finite.min() > 0 and finite.max() > 100 * np.median(finite):
        ax.set_yscale("log")
        ax.minorticks_off()
    elif finite.size and finite.min() >= 0:
        ax.set_ylim(0, finite.max() * 1.05 or 1.0)
    ax.yaxis.set_major_formatter(lambda value, _: short(value))
    return "log scale" if ax.get_yscale() == "log" else ""


def set_step_axis(ax, spans: Mapping[str, tuple[float, float]]):
    """The phases end to end along the horizontal axis, named above it."""
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    end = max((stop for _, stop in spans.values()), default=1) or 1
    ax.set_xlim(0, end)
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    ax.set_xlabel("step" if len(spans) < 2 else "step, phases end to end")
    for i, (phase, (start, stop)) in enumerate(spans.items()):
        if i:
            ax.axvline(start, color=COLOR["muted"], linewidth=0.6, dashes=(2, 2))
        if len(spans) > 1:
            name = phase.replace("_", " ")
            if len(name) * 0.062 > (stop - start) / end * 3.2:  # inches a character needs, inches the phase has
                number = phase.rpartition("_")[2]
                name = number if number.isdigit() else name[0]
            above = ax.get_xaxis_transform()
            ax.text((start + stop) / 2, 1.02, name, transform=above, ha="center", size=8, color=COLOR["muted"])


@style()
def curves(metrics: Sequence[Mapping], name: str):
    """One metric against the step, a line for each split, broken where a phase (hence a network) begins."""
    spans, series = record.timeline(metrics)
    figure, ax = axes(2.75)
    set_step_axis(ax, spans)
    scale = 100.0 if record.is_fraction(name) else 1.0
    ends, everything = [], []
    others = (COLOR[name] for name in itertools.cycle(CYCLE[3:]))
    for split, phases in sorted(series[name].items()):
        color = SPLIT_COLOR.get(split) or next(others)
        for x, y in phases.values():
            ax.plot(x, y * scale, color=color, marker="o" if len(x) <= 12 else "", markersize=2.6, clip_on=False)
            everything.append(y * scale)
        seen = y[np.isfinite(y)]
        if seen.size:
            value = f"{seen[-1] * 100:.1f}" if scale == 100 else short(seen[-1])
            ends.append((seen[-1] * scale, f"{split.replace('_', ' ')} {value}".strip(), color))
    title(figure, name.replace("_", " "), set_value_axis(ax, name, np.concatenate(everything), 20))
    end_labels(ax, ends)
    return figure


@style()
def rounds(rounds: Sequence[Mapping], intervals: Sequence[tuple[float, float] | None]):
    """Validation and test accuracy by round: filled = promoted, hollow = refused, whiskers = the test's interval."""
    figure, ax = axes(2.75, right=0.9)
    values, ends = [], []
    place = np.arange(len(rounds), dtype=float)
    promoted = np.array([bool(r.get("promoted")) for r in rounds])
    for key, shift in (("validation_accuracy", -0.06), ("test_accuracy", 0.06)):
        split = key.partition("_")[0]
        color = SPLIT_COLOR[split]
        y = np.array([100.0 * r[key] if r.get(key) is not None else np.nan for r in rounds])
        if not np.isfinite(y).any():
            continue
        values.extend(y)
        x = place + shift
        if key == "test_accuracy":
            for at, interval in zip(x, intervals):
                if interval:
                    ax.plot([at, at], [100 * v for v in interval], color=color, linewidth=0.9, alpha=0.6)
                    values.extend(100 * v for v in interval)
        ax.plot(x[promoted], y[promoted], color=color, linewidth=1.3)
        mark = {"color": color, "markersize": 6, "clip_on": False, "zorder": 4}
        ax.plot(x[promoted], y[promoted], "o", **mark)
        ax.plot(x[~promoted], y[~promoted], "o", markerfacecolor=COLOR["paper"], **mark)
        ends.append((y[np.isfinite(y)][-1], split, color))
    ax.set_ylim(*percent_limits(values, 10))
    ax.set_xlim(-0.4, len(rounds) - 0.6 + 0.1)
    named = [str(r.get("round", i)) for i, r in enumerate(rounds)]
    if len(rounds) <= 5:
        verdicts = ["" if fine else "\nrefused" for fine in promoted]
        named = [f"{name} {r.get('role', '')}{verdict}" for name, r, verdict in zip(named, rounds, verdicts)]
    ax.set_xticks(place, named)
    title(figure, "accuracy by round", "%")
    end_labels(ax, ends)
    return figure


@style()
def reliability(curves: Mapping[str, Mapping[str, Sequence]]):
    """Accuracy against confidence, a line for each role of `tlx.calibration.reliability`'s bins; on the diagonal a
    network is as often right as it says. A marker's area is the bin's share of the images."""
    figure, ax = axes(3.4, right=1.45, bottom=0.48)
    ax.set(xlim=(0, 100), ylim=(0, 100), xlabel="confidence, %")
    ax.plot([0, 100], [0, 100], color=COLOR["muted"], linewidth=0.8, dashes=(4, 3))
    ends = []
    for (role, curve), color in zip(curves.items(), itertools.cycle(CYCLE)):
        filled = [i for i, count in enumerate(curve["count"]) if count]
        x, y = (100 * np.array([curve[key][i] for i in filled], float) for key in ("confidence", "accuracy"))
        share = np.array([curve["count"][i] for i in filled]) / max(sum(curve["count"]), 1)
        ax.plot(x, y, color=COLOR[color], linewidth=1.2, alpha=0.8, clip_on=False)
        look = {"color": COLOR[color], "alpha": 0.6, "linewidths": 0, "clip_on": False, "zorder": 3}
        ax.scatter(x, y, s=6 + 150 * share, **look)
        if filled:
            ends.append((y[-1], "\n".join(textwrap.wrap(role, 18)), COLOR[color]))
    title(figure, "reliability", "accuracy in %")
    end_labels(ax, ends, gap=0.12)
    return figure


@style()
def confusion(matrix: np.ndarray, names: Sequence[str]):
    """Counts, rows true, columns predicted; blue = right, red = wrong, the deeper the larger its share of the row."""
    matrix = np.asarray(matrix)
    count = len(matrix)
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    longest = max(map(len, names))
    tilt = longest * 0.075 > 3.6 / count
    margin = 0.3 + 0.07 * longest
    bottom = 0.42 + (0.07 * longest * 0.75 if tilt else 0.08)
    side = _WIDTH - margin - 0.62
    figure, ax = axes(side + bottom + 0.4, left=margin, right=0.62, top=0.4, bottom=bottom)
    rgba = np.zeros((count, count, 4))
    from matplotlib.colors import to_rgb

    rgba[..., :3] = to_rgb(COLOR["red"])
    rgba[np.arange(count), np.arange(count), :3] = to_rgb(COLOR["blue"])
    rgba[..., 3] = np.where(matrix > 0, 0.15 + 0.68 * share, 0.0)
    edges = np.arange(count + 1) - 0.5
    mesh = ax.pcolormesh(edges, edges, np.zeros((count, count)), rasterized=count > 40)
    mesh.set_array(None)
    mesh.set_facecolor(rgba.reshape(-1, 4))
    ax.set_ylim(count - 0.5, -0.5)
    ax.grid(False)
    ax.spines["bottom"].set_visible(False)
    ax.tick_params(length=0)
    if count <= 25:
        size = min(9.0, 130 / count / max(1, len(str(matrix.max())) / 3))
        for i, j in zip(*np.nonzero(matrix)):
            deep = share[i, j] > 0.6
            ax.text(
                j, i, f"{matrix[i, j]}", ha="center", va="center", size=size, color=COLOR["paper" if deep else "ink"]
            )
        for i in range(count):
            text = f"{100 * share[i, i]:.1f}" if matrix[i].sum() else "none"
            ax.text(count - 0.35, i, text, va="center", size=min(8.5, size), color=COLOR["muted"])
        ax.text(count - 0.35, -0.62, "right, %", va="bottom", size=8, color=COLOR["muted"])
    step = 1 if count <= 25 else math.ceil(count / 14)
    ax.set_xticks(range(0, count, step), names[::step], rotation=45 if tilt else 0, ha="right" if tilt else "center")
    ax.set_yticks(range(0, count, step), names[::step])
    ax.set_xlabel("predicted")
    title(figure, "true class", "rows")
    return figure


@style()
def image_grid(images: np.ndarray, captions: Sequence[str], wrong: Sequence[bool], name: str, columns: int = 10):
    """A sheet of images `[n, H, W, 3]` (uint8), each with a caption, the wrong ones framed and named in red."""
    count = len(images)
    rows = math.ceil(count / columns)
    figure, ax = axes(0.4 + rows * 0.82, left=0.06, right=0.06, top=0.34, bottom=0.04, width=columns * 0.64)
    ax.set_axis_off()
    ax.set_xlim(0, columns)
    ax.set_ylim(rows * 1.28, 0)
    for i, (image, caption, bad) in enumerate(zip(images, captions, wrong)):
        x, y = i % columns + 0.04, i // columns * 1.28
        color = COLOR["red" if bad else "muted"]
        ax.imshow(image, extent=(x, x + 0.92, y + 0.92, y), interpolation="nearest", aspect="auto")
        ax.plot([x, x + 0.92, x + 0.92, x, x], [y, y, y + 0.92, y + 0.92, y], color=color, linewidth=2 if bad else 0.4)
        ax.text(x + 0.46, y + 0.97, caption, ha="center", va="top", size=6.5, color=color, linespacing=1.0)
    ax.set_xlim(0, columns)
    ax.set_ylim(rows * 1.28, 0)
    title(figure, name)
    return figure


def to_rgb(images: np.ndarray) -> np.ndarray:
    """Any images as uint8 `[n, H, W, 3]`; floats outside [0, 1] (normalized inputs) are stretched to their range."""
    images = images[..., None] if images.ndim == 3 else images  # [n, H, W, C]
    if images.dtype != np.uint8:
        images = np.nan_to_num(images.astype(np.float32))
        low, high = (0.0, 1.0) if images.min() >= 0 and images.max() <= 1 else (images.min(), images.max())
        images = np.round(255 * (images - low) / max(high - low, 1e-9)).astype(np.uint8)
    return np.repeat(images, 3, axis=-1) if images.shape[-1] < 3 else images[..., :3]
