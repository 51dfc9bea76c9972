"""Several runs beside one another: grouped by config, mean and spread over seeds, what differs, curves overlaid.

From Python: `markdown_table(summarize(["runs/a", "runs/b", ...]))`.
"""

import json
import math
import os
import pathlib
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tlx import page, plots, record
from tlx.errors import UserError, reading
from tlx.record import Run
from tlx.workdir import RESTORE

# The figures that are shown first, and drawn.
_MAIN = ("test_accuracy", "test_accuracy_last", "validation_accuracy", "test_loss")


def summarize(runs: Iterable[Run | str | pathlib.Path]) -> list[dict[str, Any]]:
    """Groups runs whose name and config agree in all but the seed.

    A path in the config that names the run's own seed (`runs/teacher_seed3`) counts as the same over seeds. Runs that
    are not finished are left out, and the same folder given twice counts once.

    Args:
      runs: folders, or what `record.load` returned for them.

    Returns:
      One row a group, in the order of their first run: `label` (name and what sets it apart), its `letter` in figures
      and its `place`, `name`, `n` runs,
      `seeds`, `differs` (dotted key -> value, where the groups' configs differ), `runs` (paths) and `figures`: name ->
      `{"n", "mean", "std", "values"}` over the runs that have it; `std` is the sample deviation (ddof = 1), None for
      n = 1.

    Raises:
      UserError: a folder is not a run's, or no run is finished.
    """
    groups: dict[str, list[Run]] = {}
    settings: dict[str, dict[str, Any]] = {}
    everything = _load(runs)
    for run in everything:
        flat = _settings(run)
        key = json.dumps([run.get("name"), flat], sort_keys=True, default=str)
        settings[key] = flat
        if run.result is not None:
            groups.setdefault(key, []).append(run)
    if not groups:
        raise UserError(f"none of {len(everything)} runs is finished: no result.json to compare yet")
    rows = []
    for key, members in groups.items():
        differs = {k: settings[key].get(k, "(absent)") for k in _differing([settings[k] for k in groups])}
        rows.append(
            {
                "label": "",
                "name": str(members[0].get("name", members[0].path.name)),
                "n": len(members),
                "seeds": [run.get("seed") for run in members],
                "differs": differs,
                "figures": _figures(members),
                "runs": [str(run.path) for run in members],
            }
        )
    _label(rows)
    return rows


def markdown_table(rows: Sequence[Mapping[str, Any]], figures: Sequence[str] | None = None) -> str:
    """The rows of `summarize` as a Markdown table: experiment, n, mean ± spread of each figure.

    Args:
      rows: from `summarize`; a row may be given another `label`, and a `published` text, which gets a column of its own
        as soon as one row has it.
      figures: the names of the figures to print, `test_accuracy` by default (the first there is, if it is absent).

    Returns:
      The table, without a newline at its end.
    """
    published = any(row.get("published") is not None for row in rows)
    figures = figures or figure_names(rows)[:1]
    head = ["experiment", "n", *map(_header, figures), *(["published"] if published else [])]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for row in rows:
        cells = [row["label"], row["n"], *(_cell(row, name) for name in figures)]
        lines.append([*cells, *([row.get("published") or ""] if published else [])])
    return "\n".join("| " + " | ".join(str(c).replace("|", "\\|") for c in line) + " |" for line in lines)


def figure_names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Every figure that a row has, the main ones first."""
    names = list(dict.fromkeys(name for row in rows for name in row["figures"]))
    return sorted(names, key=lambda name: _MAIN.index(name) if name in _MAIN else len(_MAIN))


def mean_and_spread(name: str, figure: Mapping[str, Any] | None) -> str:
    """`98.40 ± 0.31` (% for fractions), `98.40 ± -` for a single run, `-` for none."""
    if figure is None:
        return "-"
    scale, form, fine = (100.0, ".2f", ".2f") if record.is_fraction(name) else (1.0, ".4g", ".2g")
    if abs(figure["mean"]) >= 10_000:
        form = fine = ",.0f"
    spread = "-" if figure["std"] is None else format(figure["std"] * scale, fine)
    return f"{figure['mean'] * scale:{form}} ± {spread}"


def text_table(rows: Sequence[Mapping[str, Any]]) -> Any:
    """The rows as a `rich.table.Table`: figure by figure, so that what is compared stands one under the other."""
    import rich.box
    import rich.table
    from rich.text import Text  # a "[" in a label is no markup

    grid = rich.table.Table("figure", "run", box=rich.box.SIMPLE_HEAD, pad_edge=False)
    for name in ("n", "mean ± spread"):
        grid.add_column(name, justify="right", no_wrap=True)
    for name in figure_names(rows):
        shown = [row for row in rows if name in row["figures"]]
        for i, row in enumerate(shown):
            figure = row["figures"][name]
            cells = (_header(name) if i == 0 else "", f"{row['letter']}  {row['label']}", str(figure["n"]))
            grid.add_row(*map(Text, (*cells, mean_and_spread(name, figure))), end_section=i == len(shown) - 1)
    return grid


def write(run_dirs: Sequence[str | pathlib.Path], out: str | pathlib.Path | None = None) -> pathlib.Path:
    """Prints the comparison as text, writes it as `comparison.html` with `plots/*.png`, and returns the page's path.

    Args:
      run_dirs: the folders of the runs.
      out: where to write; by default `comparison/` in the folder that holds them all.

    Raises:
      UserError: as `summarize`; or `out` is not writable.
    """
    runs = _load(run_dirs)
    beside = pathlib.Path(os.path.commonpath([run.path.resolve().parent for run in runs]))
    out = pathlib.Path(out) if out else beside / "comparison"
    draw = page.drawer(out)
    with reading(beside, remedy=f"a record of one of its runs is damaged: {RESTORE}"):
        rows, notes = summarize(runs), _notes(runs)
        notes += [f"{row['letter']} has a seed more than once." for row in rows if len(set(row["seeds"])) < row["n"]]
        _print(rows, notes)
        sections = [
            page.section("Figures", *(f"<p class=banner>{page.text(note)}</p>" for note in notes), _table(rows)),
            page.section("Seed by seed", f"<div class=pair>{''.join(_dots(rows, draw))}</div>"),
            page.section("Curves", f"<div class=pair>{''.join(_overlays(runs, rows, draw))}</div>"),
            page.section("What differs between the configs", _differences(rows)),
            page.section("Runs", page.table((), [(row["letter"], ", ".join(row["runs"])) for row in rows])),
        ]
    count = f"{sum(row['n'] for row in rows)} finished runs, {len(rows)} config{'s' if len(rows) > 1 else ''}"
    return page.save(out / "comparison.html", "Comparison", count, sections)


def is_comparison(path: str | pathlib.Path) -> bool:
    """Whether a folder holds what `write` wrote, and no run."""
    path = pathlib.Path(path)
    return (path / "comparison.html").exists() and not (path / "config.json").exists()


def _print(rows: Sequence[Mapping[str, Any]], notes: Sequence[str]) -> None:
    import rich

    rich.print(text_table(rows))
    for key in rows[0]["differs"]:
        print(f"{key}: " + ", ".join(f"{row['letter']} = {json.dumps(row['differs'][key])}" for row in rows))
    print(*notes, sep="\n", end="\n" if notes else "")


def _table(rows: Sequence[Mapping[str, Any]]) -> page.Html:
    names = figure_names(rows)
    body = [
        (_key(row), row["label"], row["n"], ", ".join(map(str, row["seeds"])), *(_cell(row, name) for name in names))
        for row in rows
    ]
    head = ("", "run", "n", "seeds", *map(_header, names))
    return page.Html(page.table(head, body, numeric=(2, *range(4, len(head)))) + f"<p class=note>{_HOW}</p>")


def _differences(rows: Sequence[Mapping[str, Any]]) -> str:
    differing = [(key, *(json.dumps(row["differs"][key]) for row in rows)) for key in rows[0]["differs"]]
    if not differing:
        return "<p>Nothing but the seed.</p>"
    return f"<div class=mono>{page.table(('setting', *map(_key, rows)), differing)}</div>"


_HOW = (
    "Mean ± sample standard deviation (ddof = 1) over the runs of a config; “-” where one run gives no spread. "
    "Accuracies in %. Test figures took no part in training or selection."
)


def _load(runs: Iterable[Run | str | pathlib.Path]) -> list[Run]:
    loaded = [run if isinstance(run, Run) else record.load(run) for run in runs]
    return list({run.path.resolve(): run for run in loaded}.values())


def _settings(run: Run) -> dict[str, Any]:
    """The flat config, without what differs from seed to seed by its nature."""
    seed = run.get("seed")
    names_seed = re.compile(rf"(?<![a-zA-Z])(seed[_=-]?){re.escape(str(seed))}(?!\d)")
    flat = {k: v for k, v in record.flatten(run.config).items() if k not in ("seed", "workdir")}
    return {k: names_seed.sub(r"\1*", v) if isinstance(v, str) else v for k, v in flat.items()}


def _differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    keys = dict.fromkeys(key for flat in settings for key in flat)
    distinct = lambda key: {json.dumps(flat.get(key, "(absent)"), default=str) for flat in settings}
    return [key for key in keys if len(distinct(key)) > 1]


def _figures(members: Sequence[Run]) -> dict[str, dict[str, Any]]:
    found: dict[str, list[float]] = {}
    for run in members:
        for name, value in (run.get("figures") or {}).items():
            if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
                found.setdefault(name, []).append(float(value))
    return {
        name: {
            "n": len(values),
            "mean": statistics.fmean(values),
            "std": statistics.stdev(values) if len(values) > 1 else None,
            "values": values,
        }
        for name, values in found.items()
    }


def _label(rows: Sequence[dict[str, Any]]) -> None:
    """Gives each row a letter, and a label: its name, and where several share it the settings that set it apart."""
    for i, row in enumerate(rows):
        namesakes = [other["differs"] for other in rows if other["name"] == row["name"]]
        apart = [f"{key.rpartition('.')[2]}={row['differs'][key]}" for key in _differing(namesakes)]
        more = f", … {len(apart) - 3} more" if len(apart) > 3 else ""
        row["place"], row["letter"] = i, chr(65 + i % 26) + (str(i // 26) if i >= 26 else "")
        row["label"] = row["name"] + (f" ({', '.join(apart[:3])}{more})" if apart else "")


def _notes(runs: Sequence[Run]) -> list[str]:
    unfinished = [str(run.path) for run in runs if run.result is None]
    return [f"Left out, not finished: {', '.join(unfinished)}."] if unfinished else []


def _cell(row: Mapping[str, Any], name: str) -> str:
    figure = row["figures"].get(name)
    fewer = f" (n = {figure['n']})" if figure and figure["n"] < row["n"] else ""
    return mean_and_spread(name, figure) + fewer


def _header(name: str) -> str:
    return name.replace("_", " ") + (", %" if record.is_fraction(name) else "")


def _key(row: Mapping[str, Any]) -> page.Html:
    """The row's letter in the colour that it has in the figures."""
    color = plots.CYCLE[row["place"] % len(plots.CYCLE)]
    return page.Html(f"<b style='color:var(--{color})'>{row['letter']}</b>")


def _dots(rows: Sequence[Mapping[str, Any]], draw: Callable) -> Iterable[str]:
    for name in [name for name in figure_names(rows) if name in _MAIN]:
        caption = "A dot for each seed, a bar at the mean; mean ± spread at the right."
        yield draw(f"compare_{name}", dots(rows, name), caption)


def _overlays(runs: Sequence[Run], rows: Sequence[Mapping[str, Any]], draw: Callable) -> Iterable[str]:
    by_path = {str(run.path): run.metrics for run in runs}
    groups = [[by_path[path] for path in row["runs"]] for row in rows]
    keys = {key for members in groups for metrics in members for line in metrics for key in line}
    for name in ("accuracy", "loss"):
        split = next((split for split in ("validation", "test", "train") if f"{split}/{name}" in keys), None)
        if split:
            caption = "Faint: a seed. Bold: the mean where all seeds have a value. Right: the mean of the last values."
            yield draw(f"compare_curve_{name}", overlay(rows, groups, name, split), caption)


@plots.style()
def overlay(rows: Sequence[Mapping], groups: Sequence[Sequence[Sequence[Mapping]]], name: str, split: str):
    """One metric of several groups of runs against the step: every seed faint, and their mean where all have a value.

    Args:
      rows: from `summarize`.
      groups: for each row, the metrics of its runs.
      name: the metric, as `accuracy`.
      split: the split, as `validation`.
    """
    scale = 100.0 if record.is_fraction(name) else 1.0
    figure, ax = plots.axes(2.95 + 0.16 * len(rows), right=0.75, bottom=0.55 + 0.16 * len(rows))
    spans, ends, everything = [], [], []
    for row, runs in zip(rows, groups):
        color, lines = _color(row), []
        for span, series in map(record.timeline, runs):
            phases = series.get(name, {}).get(split, {})
            spans.append(span)
            for x, y in phases.values():
                ax.plot(x, y * scale, color=color, linewidth=0.8, alpha=0.35 if len(runs) > 1 else 1.0)
                everything.append(y * scale)
            lines.append({(phase, at): value * scale for phase, (x, y) in phases.items() for at, value in zip(x, y)})
        shared = [key for key in lines[0] if all(key in line for line in lines)]
        for phase in dict.fromkeys(phase for phase, _ in shared):
            x = [at for of, at in shared if of == phase]
            ax.plot(x, [np.mean([line[phase, at] for line in lines]) for at in x], color=color, linewidth=2)
        last = [list(line.values())[-1] for line in lines if line]
        if np.isfinite(last).any():
            mean = np.nanmean(last)
            ends.append((mean, f"{row['letter']} " + (f"{mean:.2f}" if scale > 1 else plots.short(mean)), color))
    same = all(span == spans[0] for span in spans)
    end = max((stop for span in spans for _, stop in span.values()), default=1)
    plots.set_step_axis(ax, spans[0] if same else {"": (0, end)})
    note = plots.set_value_axis(ax, name, np.concatenate(everything), 20)
    plots.title(figure, f"{split} {name}".replace("_", " "), note)
    plots.end_labels(ax, ends, gap=0.075)
    for i, row in enumerate(reversed(rows)):
        place = (0.06 / figure.get_figwidth(), (0.04 + 0.16 * i) / figure.get_figheight())
        figure.text(*place, f"{row['letter']}  {row['label']}", color=_color(row), size=8, va="bottom")
    return figure


@plots.style()
def dots(rows: Sequence[Mapping], name: str):
    """One figure of several groups: a dot for each seed, a bar at the mean, the mean and spread in words."""
    scale = 100.0 if record.is_fraction(name) else 1.0
    rows = [row for row in rows if name in row["figures"]]
    figure, ax = plots.axes(0.75 + 0.46 * len(rows), left=0.12, right=1.4, top=0.32, bottom=0.34)
    ax.grid(True, axis="x")
    ax.grid(False, axis="y")
    for i, row in enumerate(rows):
        color, across = _color(row), ax.get_yaxis_transform()
        seeds = np.asarray(row["figures"][name]["values"]) * scale
        look = {"color": color, "markersize": 5.5, "alpha": 0.55, "markeredgewidth": 0, "clip_on": False}
        ax.plot(seeds, np.full(len(seeds), i), "o", **look)
        ax.plot([seeds.mean()] * 2, [i - 0.16, i + 0.16], color=color, linewidth=2)
        ax.text(0, i - 0.36, f"{row['letter']}  {row['label']}", transform=across, va="center", size=7.5, color=color)
        said = mean_and_spread(name, row["figures"][name])
        ax.text(1.03, i, said, transform=across, va="center", size=8.5, color=color)
    ax.set_yticks([])
    ax.set_ylim(len(rows) - 0.7, -0.6)
    values = np.concatenate([row["figures"][name]["values"] for row in rows]) * scale
    if scale > 1:
        ax.set_xlim(*plots.percent_limits(values, 5))
    elif values.min() >= 0:
        ax.set_xlim(0, values.max() * 1.05 or 1.0)
    plots.title(figure, name.replace("_", " "), "%" if scale > 1 else "")
    return figure


def _color(row: Mapping[str, Any]) -> str:
    return plots.COLOR[plots.CYCLE[row["place"] % len(plots.CYCLE)]]
