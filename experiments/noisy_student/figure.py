"""Which of the paper's orderings hold: `python -m experiments.noisy_student.figure`, after the sweep."""

import pathlib

from experiments import paired
from experiments.noisy_student.sweep import FULL, GENERATIONS, LABELS, RATIOS, few, label
from tlx.sweep_table import update_table

HERE = pathlib.Path(__file__).parent
BEGIN = "<!-- table: made by experiments.noisy_student.figure -->"
PUBLISHED = {"teacher": 83.3, "without all noise": 83.2, "without augmentation": 83.6, FULL: 83.9}  # accuracy, percent


def claims(results: paired.Results) -> list[tuple[str, str, paired.Cell, paired.Cell]]:
    """At each number of labels: what the paper orders, then the rest."""
    del results
    return [claim for labels in LABELS for claim in _claims(labels)]


def _claims(labels: int) -> list[tuple[str, str, paired.Cell, paired.Cell]]:
    def student(name: str, generation: int = 1) -> paired.Cell:
        return label(labels, name), f"generation {generation}"

    cells = {name: student(name) for name in PUBLISHED} | {"teacher": (label(labels, FULL), "teacher")}
    rows = [
        (f"{ours}, against {theirs}", f"{PUBLISHED[ours]} %, {PUBLISHED[theirs]} %", cells[ours], cells[theirs])
        for ours, theirs in (
            (FULL, "teacher"),
            (FULL, "without augmentation"),
            (FULL, "without all noise"),
            ("without augmentation", "without all noise"),
            ("without all noise", "teacher"),
        )
    ]
    others = ("without dropout", "teacher noised", "hard labels", *map(few, RATIOS))
    rows += [(f"{FULL}, against {name}", "-", student(FULL), student(name)) for name in others]
    rows.append((f"twice as wide, against {FULL}", "-", student("twice as wide"), student(FULL)))
    rows += [
        (f"generation {n}, against {n - 1}", "-", student(FULL, n), student(FULL, n - 1))
        for n in range(2, GENERATIONS + 1)
    ]
    return [(f"{labels} labels: {what}", *rest) for what, *rest in rows]


def main() -> None:
    results = paired.read(HERE)
    update_table(HERE / "README.md", paired.table(results, claims(results)), begin=BEGIN)
    series = {}
    for labels in LABELS:
        columns = {"teacher": "teacher"} | {str(n): f"generation {n}" for n in range(1, GENERATIONS + 1)}
        found = {place: paired.errors(results, (label(labels, FULL), of)) for place, of in columns.items()}
        series[f"{labels} labels"] = {place: list(errors.values()) for place, errors in found.items() if errors}
    if any(series.values()):
        paired.draw(series, HERE / "generations.png", xlabel="generation", levels={})


if __name__ == "__main__":
    main()
