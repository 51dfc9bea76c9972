"""Rows of an experiment's `results.json` held against each other, seed by seed: a table of claims, and a figure.

A cell is (the row's label, the figure's name): accuracies on the test set, which are shown as errors. Everything here
takes what there is, and says how many runs that were.
"""

import math
import pathlib
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tlx.workdir import read_json

IMAGES = 10_000  # in the test sets of MNIST and of Fashion-MNIST
LEVEL = 0.95

Results = Sequence[Mapping[str, Any]]
Cell = tuple[str, str]


def read(folder: pathlib.Path) -> Results:
    """What `tlx.sweep` wrote in an experiment's folder; nothing where it wrote nothing yet."""
    path = folder / "results.json"
    return read_json(path) if path.exists() else []


def by_seed(results: Results, cell: Cell) -> dict[int, float]:
    """Seed -> the figure, of the runs that have it."""
    label, figure = cell
    mine = [record for record in results if record["variant"] == label]
    return {record["seed"]: record["figures"][figure] for record in mine if record["figures"].get(figure) is not None}


def errors(results: Results, cell: Cell) -> dict[int, int]:
    """Seed -> wrong answers among the test images."""
    return {seed: round((1 - accuracy) * IMAGES) for seed, accuracy in by_seed(results, cell).items()}


def choose(results: Results, labels: Sequence[str], figure: str = "validation") -> str:
    """The row with the highest mean, of equal ones the first; "" unless all have runs, and of the same seeds."""
    found = [by_seed(results, (label, figure)) for label in labels]
    if not found[0] or any(values.keys() != found[0].keys() for values in found):
        return ""
    return labels[max(range(len(labels)), key=lambda i: statistics.fmean(found[i].values()))]


def differences(results: Results, ours: Cell, theirs: Cell) -> list[int]:
    """Errors of `ours` less errors of `theirs`, of each seed that both have."""
    first, second = errors(results, ours), errors(results, theirs)
    return [first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())]


def verdict(differences: Sequence[float]) -> str:
    """ "fewer" or "more" errors, or "tie": the interval of the paired t-test (LEVEL) has 0 in it; "-" below two runs.

    Few seeds make wide intervals: of three, a mean of less than 2.5 sample deviations is a tie.
    """
    if len(differences) < 2:
        return "-"
    mean, spread = statistics.fmean(differences), statistics.stdev(differences)
    if abs(mean) <= _half_width(spread, len(differences)):
        return "tie"
    return "fewer" if mean < 0 else "more"


def table(results: Results, claims: Iterable[tuple[str, str, Cell, Cell]]) -> str:
    """Markdown, a line a claim: (what, published, ours, theirs); errors among IMAGES, mean ± sample deviation.

    "published" is the paper's verdict, or its errors of the two. The means are of the seeds that both have.
    """
    lines = [["ours against theirs", "published", "n", "ours", "theirs", "difference", "verdict"]]
    lines.append(["---", "---"] + ["---:"] * 4 + ["---"])
    for what, published, ours, theirs in claims:
        first, second = errors(results, ours), errors(results, theirs)
        seeds = sorted(first.keys() & second.keys())
        apart = differences(results, ours, theirs)
        cells = [show([values[seed] for seed in seeds]) for values in (first, second)]
        lines.append([what, published, str(len(seeds)), *cells, show(apart, sign="+"), verdict(apart)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def show(values: Sequence[float], sign: str = "") -> str:
    """ "117.3 ± 8.1": mean and sample deviation, no deviation for one value; "-" for none."""
    if not values:
        return "-"
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):{sign}.1f}{spread}"


def draw(
    series: Mapping[str, Mapping[str, Sequence[float]]],
    path: pathlib.Path,
    *,
    xlabel: str,
    levels: Mapping[str, Sequence[float]],
    log: bool = False,
) -> None:
    """Errors against a few named places: a dot a seed, a line through the means; and levels across.

    Args:
      series: name -> place -> errors.
      path: of the PNG.
      xlabel: what the places are.
      levels: name -> errors, of what has no place: a dashed line at the mean.
      log: whether equal distances are equal ratios of errors.
    """
    from matplotlib import ticker
    from matplotlib.figure import Figure

    from tlx import plots

    places = list(dict.fromkeys(place for values in series.values() for place in values))
    with plots.style():
        figure = Figure(figsize=(5.6, 3.2), layout="constrained")
        ax = figure.subplots()
        styles = ((line, plots.COLOR[name]) for line in ("-", ":") for name in plots.CYCLE)
        for name, values in series.items():
            line, color = next(styles)
            x = [places.index(place) for place in values]
            for at, seeds in zip(x, values.values()):
                ax.scatter([at] * len(seeds), seeds, s=9, color=color, alpha=0.5, linewidths=0)
            ax.plot(x, [statistics.fmean(seeds) for seeds in values.values()], f"o{line}", color=color, label=name)
        for name, seeds in levels.items():
            ax.axhline(statistics.fmean(seeds), color=next(styles)[1], linestyle="--", linewidth=1, label=name)
        ax.set_xticks(range(len(places)), places)
        ax.set_xlabel(xlabel)
        if log:
            ax.set_yscale("log")
            ax.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
            ax.yaxis.set_major_formatter("{x:,.0f}")
            ax.yaxis.set_minor_locator(ticker.NullLocator())
        ax.set_ylabel(f"errors of {IMAGES:,}")
        ax.legend(frameon=False, fontsize=8)
        plots.save(figure, path)


def _half_width(spread: float, count: int) -> float:
    from scipy import stats

    return float(stats.t.ppf((1 + LEVEL) / 2, count - 1)) * spread / math.sqrt(count)
