"""All runs: `python -m tlx.sweep experiments/lee2013/sweep.py`, from the root."""

from tlx.sweep import Variant

CONFIG = "experiments/lee2013/config.py"
SEEDS = range(3)
WAYS = {"without": "", "with": ",pseudo_labels"}
SECONDS = {"without": 35, "with": 90}
ERRORS = {  # published, in percent
    "without": {100: 21.89, 600: 8.57, 1000: 6.59, 3000: 3.72},
    "with": {100: 16.15, 600: 5.03, 1000: 4.30, 3000: 2.80},
}


def variant(labels: int, way: str) -> Variant:
    """A row, for a way of WAYS."""
    return Variant(
        f"{labels} labels, {way}",
        CONFIG,
        f"labels={labels}{WAYS[way]}",
        seeds=SEEDS,
        published={"test": f"{1 - ERRORS[way][labels] / 100:.4f}"},
        seconds=SECONDS[way],
    )


VARIANTS = [variant(labels, way) for labels in ERRORS["with"] for way in WAYS]
FIGURES = {
    "test": "figures.test_accuracy",
    "validation": "figures.validation_accuracy",
    "last checkpoint": "figures.test_accuracy_last",
}
