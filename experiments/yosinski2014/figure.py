"""Draws figure.png from results.json, and prints the page's table of the paper's claims.

    python -m experiments.yosinski2014.figure

All is in percentage points from baseB (the mean of its two runs) of the same seed: a seed is a split of the classes,
and some splits are harder.
"""

import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tlx import plots
from tlx.workdir import read_json

HERE = pathlib.Path(__file__).parent
LEVELS = range(1, 6)
# What happens to the copied levels -> treatment -> (where they are from, colour).
PANELS = {
    "frozen": {
        "BnB": ("B itself", "blue"),
        "FnB": ("A, all labels", "green"),
        "AnB": ("A, similar", "red"),
        "MnB": ("digits", "purple"),
        "RnB": ("random", "ink"),
    },
    "learning": {
        "BnB+": ("B itself", "blue"),
        "FnB+": ("A, all labels", "green"),
        "AnB+": ("A, similar", "red"),
        "MnB+": ("digits", "purple"),
    },
}

Gains = dict[str, np.ndarray]


def gains(records: Sequence[Mapping[str, Any]]) -> Gains:
    """treatment -> [levels, seeds] float: test accuracy less the mean of both baseB of the same seed, in points.

    And "baseB2" -> [1, seeds], less baseB: what initial weights and order alone do.
    """
    test = {(record["variant"], record["seed"]): 100 * record["figures"]["test"] for record in records}
    seeds = sorted(seed for net, seed in test if net == "baseB")
    of = lambda net: np.array([test[net, seed] for seed in seeds])
    base = (of("baseB") + of("baseB2")) / 2
    treatments = {treatment for panel in PANELS.values() for treatment in panel}
    gain = {name: np.array([of(name.replace("n", str(n))) - base for n in LEVELS]) for name in sorted(treatments)}
    return gain | {"baseB2": (of("baseB2") - of("baseB"))[None]}


def claims(gain: Gains) -> list[tuple[str, str, str, str]]:
    """(the paper's claim, its figures, ours, verdict), a row a claim.

    A verdict is of one margin a seed, above 0 where the claim holds: "yes" if all are, "in the mean" if their mean is.
    """
    middle, ends = [1, 2, 3], [0, 4]
    mean = {name: values.mean(0) for name, values in gain.items()}  # over n, [seeds]
    top = {name: values[-1] for name, values in gain.items()}
    rows = [
        (
            "(a control) baseB2 is as good as baseB (here: within 1)",
            "-",
            ", ".join(map(_points, gain["baseB2"][0])),
            1 - np.abs(gain["baseB2"][0]),
        ),
        (
            "BnB dips in the middle: co-adapted levels, parted",
            "n = 3 to 6, mostly 4 and 5, of 7",
            "n = 1 to 5: " + ", ".join(map(_points, gain["BnB"])),
            gain["BnB"][ends].mean(0) - gain["BnB"][middle].mean(0),
        ),
        (
            "BnB+ does not: it is as good as baseB (here: within 1)",
            "similar",
            _points(mean["BnB+"]),
            1 - np.abs(mean["BnB+"]),
        ),
        (
            "AnB falls as n grows",
            "about 0 at n = 1, 2; -8 at n = 7",
            f"{_points(gain['AnB'][0])} at n = 1, {_points(top['AnB'])} at n = 5",
            gain["AnB"][0] - top["AnB"],
        ),
        (
            "at the top it is not co-adaptation: AnB is below BnB",
            "at n = 6 and 7",
            f"{_points(top['AnB'] - top['BnB'])} at n = 5",
            top["BnB"] - top["AnB"],
        ),
        (
            "AnB+ beats baseB",
            "+1.6 over n = 1 to 7, +2.1 over 5 to 7",
            f"{_points(mean['AnB+'])} over n = 1 to 5, {_points(gain['AnB+'][3:])} over 4 and 5",
            mean["AnB+"],
        ),
        (
            "and not by learning for longer: AnB+ beats BnB+",
            "yes",
            f"{_points(mean['AnB+'] - mean['BnB+'])} over n = 1 to 5",
            mean["AnB+"] - mean["BnB+"],
        ),
        (
            "(not in the paper) FnB+ beats baseB, A having all its labels",
            "-",
            f"{_points(mean['FnB+'])} over n = 1 to 5, {_points(gain['FnB+'][3:])} over 4 and 5",
            mean["FnB+"],
        ),
        (
            "what is dissimilar falls further: MnB below AnB",
            "-25 against -8 at n = 7",
            f"{_points(top['MnB'])} against {_points(top['AnB'])} at n = 5",
            top["AnB"] - top["MnB"],
        ),
        (
            "but is better than random levels: MnB above RnB",
            "yes",
            f"{_points(mean['MnB'] - mean['RnB'])} over n = 1 to 5, {_points(top['MnB'] - top['RnB'])} at n = 5",
            mean["MnB"] - mean["RnB"],
        ),
        (
            "random levels fall at once, to near chance (here: 20 %)",
            "fall at n = 1 and 2, chance from n = 3",
            "n = 1 to 5: " + ", ".join(map(_points, gain["RnB"])),
            -50 - gain["RnB"][2],
        ),
    ]
    return [(*text, _verdict(margins)) for *text, margins in rows]


def table(rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    lines = [("the paper's claim", "published", "here, in points from baseB", "appears"), ["---"] * 4, *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


@plots.style()
def draw(gain: Gains):
    """A panel for frozen levels and one for learning ones: means over seeds as lines, each seed as a dot."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.2, 3.4))
    for i, (name, treatments) in enumerate(PANELS.items()):
        ax = figure.add_axes([0.06 + 0.49 * i, 0.15, 0.32, 0.68])
        ax.set_xlim(-0.2, LEVELS[-1] + 0.2)
        shown = np.concatenate([gain[treatment].ravel() for treatment in treatments])
        ax.set_ylim(np.floor(shown.min()) - 1, np.ceil(shown.max()) + 1)
        ax.axhline(0, color=plots.COLOR["muted"], linewidth=0.8, dashes=(2, 2))
        both = np.concatenate([gain["baseB2"][0] / 2, gain["baseB2"][0] / -2])
        ax.plot([0] * len(both), both, "o", color=plots.COLOR["muted"], markersize=2.5)
        ends = []
        for treatment, (what, color) in treatments.items():
            values, color = gain[treatment], plots.COLOR[color]
            ax.plot(LEVELS, values.mean(1), color=color)
            for seed in values.T:
                ax.plot(LEVELS, seed, "o", color=color, markersize=2.5, alpha=0.5)
            ends.append((values[-1].mean(), f"{treatment}: {what}", color))
        ax.set_xticks([0, *LEVELS])
        ax.set_xlabel("n, how many of five levels are copied")
        ax.set_title(f"the copied levels: {name}", loc="left", size=9.5, weight="bold")
        plots.end_labels(ax, ends)
    plots.title(figure, "test accuracy", "percentage points from baseB; dots: each seed")
    return figure


def _points(values: np.ndarray) -> str:
    return f"{np.mean(values):+.1f}"


def _verdict(margins: np.ndarray) -> str:
    if (margins > 0).all():
        return "yes"
    return "in the mean" if statistics.fmean(margins) > 0 else "no"


def main() -> None:
    gain = gains(read_json(HERE / "results.json"))
    plots.save(draw(gain), HERE / "figure.png")
    print(table(claims(gain)))


if __name__ == "__main__":
    main()
