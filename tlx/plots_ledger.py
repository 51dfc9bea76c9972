"""The figure of a ledger: the family tree of a self-training run."""

from collections.abc import Mapping, Sequence
from typing import Any

from tlx import plots
from tlx.plots import COLOR

_ROW, _TOP, _BOTTOM = 0.32, 0.54, 0.06  # inches
_TRUNK, _BRANCH = 0.24, 0.56  # of the nodes, in inches from the left
_ACCURACY, _ROLE, _MODEL, _P = 1.42, 1.6, 2.98, 4.82  # of the columns; the first and the last stand flush right


@plots.style()
def family_tree(entries: Sequence[Mapping[str, Any]], selected: str):
    """Generations from top to bottom, each joined to who taught it.

    The promoted stand on the trunk, filled; the refused beside it, hollow. `selected` is a phase, and is circled. An
    edge says "warm" where the student began with its teacher's weights.
    """
    height = _TOP + _ROW * len(entries) + _BOTTOM
    figure, ax = plots.axes(height, left=0, right=0, top=0, bottom=0)
    ax.set(xlim=(0, figure.get_figwidth()), ylim=(height, 0))  # in inches, from the top
    ax.set_axis_off()
    place = {e["phase"]: (_TRUNK if e["promoted"] else _BRANCH, _TOP + _ROW * (i + 0.5)) for i, e in enumerate(entries)}
    for entry in entries:
        x, y = place[entry["phase"]]
        if entry["taught_by"] in place:
            _edge(ax, *place[entry["taught_by"]], x, y)
        if entry["start"] == "teacher":
            ax.text(_TRUNK + 0.07, y - 0.5 * _ROW, "warm", va="center", size=7, color=COLOR["muted"])
        _node(ax, x, y, promoted=entry["promoted"], selected=entry["phase"] == selected)
        _words(ax, y, entry, selected=entry["phase"] == selected)
    head = {"y": _TOP - 0.06, "size": 7.5, "color": COLOR["muted"]}
    ax.text(_ACCURACY, s="validation", ha="right", **head)
    ax.text(_MODEL, s="model, parameters", **head)
    if len(entries) > 1:
        ax.text(_P, s="p", ha="right", **head)
    plots.title(figure, "family tree")
    return figure


def _edge(ax, x0: float, y0: float, x1: float, y1: float) -> None:
    """From a teacher down the trunk, and round a corner to a student beside it."""
    if x0 == x1:
        ax.plot([x0, x1], [y0, y1], color=COLOR["blue"], linewidth=1.6, zorder=2)
        return
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    bend = 0.12
    points = [(x0, y0), (x0, y1 - bend), (x0, y1), (x0 + bend, y1), (x1, y1)]
    path = Path(points, [Path.MOVETO, Path.LINETO, Path.CURVE3, Path.CURVE3, Path.LINETO])
    ax.add_patch(PathPatch(path, fill=False, edgecolor=COLOR["muted"], linewidth=0.9, zorder=1))


def _node(ax, x: float, y: float, *, promoted: bool, selected: bool) -> None:
    look = {"color": COLOR["blue"], "markersize": 6.5, "zorder": 4}
    ax.plot(x, y, "o", markerfacecolor=COLOR["blue" if promoted else "paper"], **look)
    if selected:
        ax.plot(x, y, "o", color=COLOR["green"], markersize=12.5, markerfacecolor="none", markeredgewidth=1.3, zorder=4)


def _words(ax, y: float, entry: Mapping[str, Any], *, selected: bool) -> None:
    p, promoted = entry["p_value"], entry["promoted"]
    line = {"y": y + 0.01, "va": "center", "size": 9}
    accuracy = f"{100 * entry['figures']['validation_accuracy']:.2f} %"
    strong = {"color": COLOR["blue"], "weight": "bold"} if promoted else {"color": COLOR["muted"]}
    ax.text(_ACCURACY, s=accuracy, ha="right", **line, **strong)
    role = entry["role"] + (", selected" if selected else "")
    ax.text(_ROLE, s=role, **line, color=COLOR["green" if selected else "ink" if promoted else "muted"])
    line |= {"size": 7.5, "color": COLOR["muted"]}
    ax.text(_MODEL, s=f"{entry['model']['name']}, {_count(entry['parameters'])}", **line)
    if p is not None:
        ax.text(_P, s="< 0.001" if p < 0.001 else f"{p:.2g}", ha="right", **line)


def _count(parameters: int) -> str:
    """9,070; 1.46 M."""
    return f"{parameters:,}" if parameters < 1e6 else f"{parameters / 1e6:.3g} M"
