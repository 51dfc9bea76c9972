"""The table of claims and the figure: `python -m experiments.takd.figure`, after the sweep.

Of each way, the temperature is the one with the best mean validation accuracy.
"""

import pathlib

from experiments import paired
from experiments.takd import sweep
from tlx.sweep_table import update_table

HERE = pathlib.Path(__file__).parent
BEGIN = "<!-- table: made by experiments.takd.figure -->"


def claims(results: paired.Results) -> list[tuple[str, str, paired.Cell, paired.Cell]]:
    """At the temperatures that validation chooses, then at each."""
    hard = (sweep.HARD.label, "test")
    ways = {way: sweep.taught(way) for way in sweep.WAYS}
    chosen = {way: paired.choose(results, [v.label for v in variants.values()]) for way, variants in ways.items()}
    direct, assisted = ((chosen[way], "test") for way in ("direct", "assisted"))
    rows = []
    if all(chosen.values()):
        rows += [
            (f"{chosen['assisted']}, against {chosen['direct']}", "fewer", assisted, direct),
            (f"{chosen['assisted']}, against hard labels", "fewer", assisted, hard),
            (f"{chosen['direct']}, against hard labels", "-", direct, hard),
        ]
    for t in sweep.TEMPERATURES:
        assisted, direct = ((ways[way][t].label, "test") for way in ("assisted", "direct"))
        rows.append((f"T = {t:g}: by the assistant, against from the teacher", "fewer", assisted, direct))
        rows.append((f"T = {t:g}: from the teacher, against hard labels", "-", direct, hard))
    return rows


def main() -> None:
    results = paired.read(HERE)
    update_table(HERE / "README.md", paired.table(results, claims(results)), begin=BEGIN)
    series = {}
    for way, name in sweep.WAYS.items():
        found = {f"{t:g}": paired.errors(results, (v.label, "test")) for t, v in sweep.taught(way).items()}
        series[name] = {t: list(values.values()) for t, values in found.items() if values}
    hard = list(paired.errors(results, (sweep.HARD.label, "test")).values())
    if any(series.values()):
        paired.draw(series, HERE / "figure.png", xlabel="temperature", levels={"hard labels": hard})


if __name__ == "__main__":
    main()
