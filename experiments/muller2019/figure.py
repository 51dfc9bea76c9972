"""The table of claims and the figure: `python -m experiments.muller2019.figure`, after the sweep.

Of each kind of teacher, the temperature is the one with the best mean validation accuracy of its students.
"""

import pathlib

from experiments import paired
from experiments.muller2019 import sweep
from tlx.sweep_table import update_table

HERE = pathlib.Path(__file__).parent
BEGIN = "<!-- table: made by experiments.muller2019.figure -->"


def claims(results: paired.Results) -> list[tuple[str, str, paired.Cell, paired.Cell]]:
    """Of the teachers; of the students at the temperatures that validation chooses, then at each."""
    cell = lambda variant: (variant.label, "test")
    rows = [
        ("smoothed teacher, against plain", "59, 67", *(cell(sweep.TEACHERS[kind]) for kind in ("smoothed", "plain")))
    ]
    chosen = {
        kind: paired.choose(results, [kinds[kind].label for kinds in sweep.STUDENTS.values()])
        for kind in ("smoothed", "plain")
    }
    if all(chosen.values()):
        pair = [(label, "test") for label in chosen.values()]
        rows.append((f"{chosen['smoothed']}, against {chosen['plain']}", "91, 74", *pair))
        rows += [(f"{label}, against hard labels", "-", (label, "test"), cell(sweep.HARD)) for label in chosen.values()]
    for t, kinds in sorted(sweep.STUDENTS.items()):
        rows.append(
            (f"T = {t:g}: student of smoothed, against of plain", "-", cell(kinds["smoothed"]), cell(kinds["plain"]))
        )
    return rows


def main() -> None:
    results = paired.read(HERE)
    update_table(HERE / "README.md", paired.table(results, claims(results)), begin=BEGIN)
    of = lambda variant: list(paired.errors(results, (variant.label, "test")).values())
    series = {
        f"students of {kind}": {
            f"{t:g}": of(kinds[kind]) for t, kinds in sorted(sweep.STUDENTS.items()) if of(kinds[kind])
        }
        for kind in sweep.SMOOTHING
    }
    levels = {variant.label: of(variant) for variant in (*sweep.TEACHERS.values(), sweep.HARD) if of(variant)}
    if any(series.values()):
        paired.draw(series, HERE / "figure.png", xlabel="temperature", levels=levels)


if __name__ == "__main__":
    main()
