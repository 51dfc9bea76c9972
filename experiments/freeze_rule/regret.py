"""Calibrates the freeze rule on some tasks and judges it on the others: `python -m experiments.freeze_rule.regret`.

Reads the grid's accuracies (`results.json`, and experiments/elpv's) and evidence (`evidence.json`); trains nothing.
Writes `regret.json` and the tables of README.md, and says if `tlx/freeze_rule.py` holds other constants.

The regret of a strategy in a cell (task, labels a class) is the mean test accuracy of the best of the six regimes less
the mean test accuracy of the regimes that the strategy chose, over the cell's seeds, in points. The best regime is
found on the test set, by hindsight: it is a yardstick, and nothing is chosen by it but on the calibration tasks.
"""

import dataclasses
import itertools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from experiments.freeze_rule.config import STEPS
from tlx import freeze_rule
from tlx.freeze_rule import CANDIDATES, Facts
from tlx.sweep_table import update_table
from tlx.transferability import Evidence, Figure
from tlx.workdir import read_json, write_json

HERE = pathlib.Path(__file__).parent
CALIBRATION = ("digits_0_4_to_5_9", "mnist_to_fashion", "imagenet_to_fashion")
HELD_OUT = ("fashion_to_mnist", "clothes_to_shoes_and_bags", "imagenet_to_elpv")
LARGE, SIMILAR = (10.0, 50.0, 200.0), (0.02, 0.04, 0.06, 0.08, 0.1)  # what calibration tries
BEGIN = "<!-- table: made by experiments.freeze_rule.regret -->"

Cell = tuple[str, int]  # task, labels a class; 0 = all
Accuracies = dict[Cell, dict[int, dict[str, float]]]  # seed -> regime -> test accuracy


def load() -> tuple[Accuracies, dict[Cell, dict[int, Facts]]]:
    """The cells that are complete: all six regimes and the evidence, for at least one seed."""
    accuracies: Accuracies = {}
    sources = ((HERE / "results.json", ""), (HERE.parent / "elpv" / "results.json", "imagenet_to_elpv, "))
    for path, prefix in sources:
        for record in read_json(path) if path.exists() else []:
            where, _, regime = (prefix + record["variant"]).partition(": ")
            if regime in CANDIDATES:
                task, labels = where.removesuffix(" labels").split(", ")
                cell = accuracies.setdefault((task, int(labels.replace("all", "0"))), {})
                cell.setdefault(record["seed"], {})[regime] = record["figures"]["test"]
    facts: dict[Cell, dict[int, Facts]] = {}
    for record in read_json(HERE / "evidence.json"):
        facts.setdefault((record["task"], record["labels"]), {})[record["seed"]] = read_facts(record["facts"])
    whole: Accuracies = {}
    for cell, seeds in sorted(accuracies.items(), key=lambda item: (item[0][0], list(STEPS).index(item[0][1]))):
        kept = {s: a for s, a in seeds.items() if set(a) == set(CANDIDATES) and s in facts.get(cell, {})}
        if kept:
            whole[cell] = kept
    return whole, facts


def read_facts(record: Mapping[str, Any]) -> Facts:
    """From JSON."""
    top = {key: Figure(**value) if isinstance(value, dict) else value for key, value in record["top"].items()}
    return Facts(**{**record, "top": Evidence(**top)})


def regret(accuracies: Accuracies, cell: Cell, chosen: Callable[[int], Mapping[str, float]]) -> float:
    """In points; `chosen(seed)` is the strategy's distribution over regimes."""
    seeds = accuracies[cell]
    got = np.mean([sum(p * seeds[s][regime] for regime, p in chosen(s).items()) for s in seeds])
    return 100 * float(_best(seeds) - got)


def _best(seeds: Mapping[int, Mapping[str, float]]) -> float:
    """The best regime's mean accuracy in a cell, by hindsight."""
    return max(float(np.mean([accuracies[regime] for accuracies in seeds.values()])) for regime in CANDIDATES)


def by_rule(facts: Mapping[int, Facts], constants: freeze_rule.Constants) -> Callable[[int], Mapping[str, float]]:
    return lambda seed: {freeze_rule.choose(facts[seed], constants).regime: 1.0}


def calibrate(accuracies: Accuracies, facts: Mapping) -> tuple[freeze_rule.Constants, float]:
    """The constants with the lowest mean regret on the calibration tasks, and that regret; of equals, the first.

    All pairs of thresholds are tried, and with each, in each quadrant, all pairs of a first and a second option: the
    second counts where the first is out of reach, and among equals where it is the better first.
    """
    cells = [cell for cell in accuracies if cell[0] in CALIBRATION]
    best: tuple[float, freeze_rule.Constants] | None = None
    for large, similar in itertools.product(LARGE, SIMILAR):
        constants = freeze_rule.Constants(large=large, similar=similar, quadrants={})
        total = 0.0
        for quadrant in freeze_rule.QUADRANTS:
            # From scratch only where pre-training gains little: that much is known beforehand.
            options = [o for o in freeze_rule.OPTIONS if o != "scratch" or quadrant.endswith("different")]
            lost = {
                pair: sum(_lost(accuracies[cell], facts[cell], constants, quadrant, pair) for cell in cells)
                for pair in itertools.permutations(options, 2)
            }
            first = min(lost, key=lambda pair: (round(lost[pair], 9), round(lost[pair[::-1]], 9)))
            constants = dataclasses.replace(constants, quadrants={**constants.quadrants, quadrant: first})
            total += lost[first] / len(cells)
        if best is None or total < best[0] - 1e-9:
            best = total, constants
    return best[1], best[0]


def _lost(
    accuracies: Mapping[int, Mapping[str, float]],
    facts: Mapping[int, Facts],
    constants: freeze_rule.Constants,
    quadrant: str,
    pair: tuple[str, str],
) -> float:
    """What the options `pair` of a quadrant add to the regret of one cell, in points."""
    rule = dataclasses.replace(constants, quadrants={quadrant: pair})
    inside = [seed for seed in accuracies if freeze_rule.quadrant(facts[seed], constants) == quadrant]
    best = _best(accuracies)
    got = [accuracies[seed][freeze_rule.choose(facts[seed], rule).regime] for seed in inside]
    return 100 * float(sum(best - value for value in got)) / len(accuracies)


def main() -> None:
    accuracies, facts = load()
    constants, _ = calibrate(accuracies, facts)
    strategies: dict[str, Callable[[Cell], Callable]] = {
        "the rule": lambda cell: by_rule(facts[cell], constants),
        "always full": lambda cell: lambda s: {"full": 1.0},
        "always frozen (linear)": lambda cell: lambda s: {"linear": 1.0},
        "a coin": lambda cell: lambda s: dict.fromkeys(CANDIDATES, 1 / len(CANDIDATES)),
    }
    strategies |= {
        f"always {r}": lambda cell, r=r: lambda s: {r: 1.0} for r in ("early", "partial", "lp_ft", "scratch")
    }
    rows = []
    for cell, seeds in accuracies.items():
        mean = {regime: float(np.mean([a[regime] for a in seeds.values()])) for regime in CANDIDATES}
        chosen = [freeze_rule.choose(facts[cell][s], constants) for s in seeds]
        rows.append(
            {
                "task": cell[0],
                "labels": cell[1],
                "seeds": len(seeds),
                "accuracy": mean,
                "gain": float(np.mean([facts[cell][s].gain for s in seeds])),
                "chosen": [choice.regime for choice in chosen],
                "quadrant": [choice.quadrant for choice in chosen],
                "regret": {name: regret(accuracies, cell, strategy(cell)) for name, strategy in strategies.items()},
            }
        )
    summary = {
        part: {name: float(np.mean([r["regret"][name] for r in rows if r["task"] in tasks])) for name in strategies}
        for part, tasks in (("calibration", CALIBRATION), ("held out", HELD_OUT))
        if any(r["task"] in tasks for r in rows)
    }
    write_json(
        HERE / "regret.json",
        {"constants": dataclasses.asdict(constants), "mean regret": summary, "cells": rows},
    )
    update_table(HERE / "README.md", tables(rows, summary), begin=BEGIN)
    print(tables(rows, summary))
    print(constants)
    if constants != freeze_rule.CALIBRATED:
        print("tlx/freeze_rule.py holds other constants: put these in CALIBRATED")


def tables(rows: list[dict[str, Any]], summary: Mapping[str, Mapping[str, float]]) -> str:
    """Markdown."""
    line = lambda *cells: "| " + " | ".join(map(str, cells)) + " |"
    names = list(next(iter(summary.values())))
    out = [line("mean regret, points", *names), line("---", *["---:"] * len(names))]
    out += [line(part, *(f"{values[n]:.2f}" for n in names)) for part, values in summary.items()]
    out += ["", line("cell", "n", *CANDIDATES, "gain", "chosen", "regret")]
    out.append(line("---", *["---:"] * (len(CANDIDATES) + 2), "---", "---:"))
    for row in rows:
        best = max(row["accuracy"].values())
        values = [f"**{v:.3f}**" if v == best else f"{v:.3f}" for v in row["accuracy"].values()]
        chosen = ", ".join(dict.fromkeys(row["chosen"]))
        held = "" if row["task"] in CALIBRATION else " (held out)"
        cell = f"{row['task']}, {row['labels'] or 'all'}{held}"
        out.append(line(cell, row["seeds"], *values, f"{row['gain']:+.3f}", chosen, f"{row['regret']['the rule']:.2f}"))
    return "\n".join(out)


if __name__ == "__main__":
    main()
