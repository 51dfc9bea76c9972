"""Errors with and without pseudo-labels, beside the paper's: `python -m experiments.lee2013.figure`."""

import pathlib

from experiments import paired
from experiments.lee2013.sweep import ERRORS, WAYS, variant
from tlx.sweep_table import update_table

HERE = pathlib.Path(__file__).parent
BEGIN = "<!-- table: made by experiments.lee2013.figure -->"


def claims(results: paired.Results) -> list[tuple[str, str, paired.Cell, paired.Cell]]:
    """That pseudo-labels help, at each number of labels."""
    published = {way: {labels: round(percent * 100) for labels, percent in row.items()} for way, row in ERRORS.items()}
    return [
        (
            f"{labels} labels: with pseudo-labels, against without",
            f"{published['with'][labels]}, {published['without'][labels]}",
            *((variant(labels, way).label, "test") for way in ("with", "without")),
        )
        for labels in ERRORS["with"]
    ]


def main() -> None:
    results = paired.read(HERE)
    update_table(HERE / "README.md", paired.table(results, claims(results)), begin=BEGIN)
    series = {}
    for way in WAYS:
        found = {f"{n:,}": paired.errors(results, (variant(n, way).label, "test")) for n in ERRORS[way]}
        series[f"{way} pseudo-labels"] = {n: list(errors.values()) for n, errors in found.items() if errors}
    if any(series.values()):
        paired.draw(series, HERE / "figure.png", xlabel="labels", levels={}, log=True)


if __name__ == "__main__":
    main()
