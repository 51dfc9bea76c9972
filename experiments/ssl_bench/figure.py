"""Methods against the supervised network, and the figure: `python -m experiments.ssl_bench.figure`, after the sweep."""

import pathlib

from experiments import paired
from experiments.ssl_bench.config import METHODS
from experiments.ssl_bench.sweep import FASHION_LABELS, LABELS, label
from tlx.sweep_table import update_table

HERE = pathlib.Path(__file__).parent
BEGIN = "<!-- table: made by experiments.ssl_bench.figure -->"
SETTINGS = [*((labels, "MNIST") for labels in sorted(LABELS)), (FASHION_LABELS, "Fashion-MNIST")]


def claims(results: paired.Results) -> list[tuple[str, str, paired.Cell, paired.Cell]]:
    """Every method against the supervised network, at each number of labels."""
    del results
    cell = lambda labels, method, data: (label(labels, method, data), "test")
    return [
        (label(labels, method, data), "-", cell(labels, method, data), cell(labels, "supervised", data))
        for labels, data in SETTINGS
        for method in METHODS
        if method != "supervised"
    ]


def main() -> None:
    results = paired.read(HERE)
    update_table(HERE / "README.md", paired.table(results, claims(results)), begin=BEGIN)
    series = {}
    for method in METHODS:
        found = {f"{n:,}": paired.errors(results, (label(n, method), "test")) for n in sorted(LABELS)}
        series[method.replace("_", " ")] = {n: list(errors.values()) for n, errors in found.items() if errors}
    if any(series.values()):
        paired.draw(series, HERE / "figure.png", xlabel="MNIST labels", levels={}, log=True)


if __name__ == "__main__":
    main()
