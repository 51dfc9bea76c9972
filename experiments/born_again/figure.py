"""The table of claims and the figure: `python -m experiments.born_again.figure`, after the sweep."""

import pathlib

from experiments import paired
from experiments.born_again import sweep
from tlx.sweep_table import update_table

HERE = pathlib.Path(__file__).parent
BEGIN = "<!-- table: made by experiments.born_again.figure -->"
ENSEMBLE = "ensemble of 1-3"


def cells(model: str, t: float) -> dict[str, paired.Cell]:
    """Generation -> its cell, and the ensemble's."""
    label = sweep.GENERATIONS[model, t].label
    figures = {"1": "generation 1", "2": "generation 2", "3": "test", "ensemble": ENSEMBLE}
    return {"0": (sweep.ALONE[model].label, "test")} | {place: (label, figure) for place, figure in figures.items()}


def temperature(results: paired.Results, model: str) -> float:
    """The one with the best mean validation accuracy of generation 3; the first, until all have been run."""
    labels = {variant.label: t for (name, t), variant in sweep.GENERATIONS.items() if name == model}
    return labels[paired.choose(results, list(labels)) or next(iter(labels))]


def claims(results: paired.Results) -> list[tuple[str, str, paired.Cell, paired.Cell]]:
    """Of each network's generations, then of the ten."""
    rows = []
    for model in sweep.ALONE:
        t = temperature(results, model)
        of, name = cells(model, t), f"{model}, T = {t:g}"
        for generation in ("1", "2", "3"):
            rows.append((f"{name}: generation {generation}, against generation 0", "fewer", of[generation], of["0"]))
        rows.append((f"{name}: ensemble of 1-3, against generation 0", "fewer", of["ensemble"], of["0"]))
        rows.append((f"{name}: ensemble of 1-3, against generation 3", "fewer", of["ensemble"], of["3"]))
    alone, ten, one = ((variant.label, "test") for variant in (sweep.ALONE["cnn"], sweep.BY_TEN, sweep.BY_ONE))
    rows += [
        ("cnn: taught by ten, against alone", "-", ten, alone),
        ("cnn: taught by one, against alone", "-", one, alone),
        ("cnn: taught by ten, against taught by one", "-", ten, one),
        ("cnn: taught by ten, against the ten together", "-", ten, (sweep.BY_TEN.label, "teacher")),
    ]
    return rows


def main() -> None:
    results = paired.read(HERE)
    update_table(HERE / "README.md", paired.table(results, claims(results)), begin=BEGIN)
    series = {}
    for model, t in sweep.GENERATIONS:
        found = {place: paired.errors(results, cell) for place, cell in cells(model, t).items()}
        # Only the seeds that were born again: of generation 0 there are more.
        seeds = found["3"].keys()
        if seeds:
            series[f"{model}, T = {t:g}"] = {place: [values[s] for s in seeds] for place, values in found.items()}
    ten = {
        "ten together": (sweep.BY_TEN.label, "teacher"),
        "taught by ten": (sweep.BY_TEN.label, "test"),
        "taught by one": (sweep.BY_ONE.label, "test"),
    }
    levels = {name: list(paired.errors(results, cell).values()) for name, cell in ten.items()}
    if series:
        found = {name: values for name, values in levels.items() if values}
        paired.draw(series, HERE / "figure.png", xlabel="generation", levels=found)


if __name__ == "__main__":
    main()
