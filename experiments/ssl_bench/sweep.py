"""All methods at all numbers of labels: `python -m tlx.sweep experiments/ssl_bench/sweep.py`, from the root.

All methods of a seed have the same labelled images.
"""

from experiments.ssl_bench.config import METHODS
from tlx.sweep import Variant

CONFIG = "experiments/ssl_bench/config.py"
SEEDS = range(3)
LABELS = (100, 40, 10, 1_000)
FASHION_LABELS = 100
SECONDS = {"supervised": 25}


def label(labels: int, method: str, data: str = "MNIST") -> str:
    """A row's."""
    return f"{data}, {labels} labels: {method.replace('_', ' ')}"


def _variant(labels: int, method: str, data: str = "MNIST", args: str = "") -> Variant:
    seconds = SECONDS.get(method, 100)
    args = f"method={method},labels={labels}{args}"
    return Variant(label(labels, method, data), CONFIG, args, seeds=SEEDS, seconds=seconds)


VARIANTS = [_variant(labels, method) for labels in LABELS for method in METHODS]
VARIANTS += [
    _variant(FASHION_LABELS, method, "Fashion-MNIST", ",data=../shared/data/fashion_mnist") for method in METHODS
]
# What the targets ask for, with the method that was best in the pilots.
VARIANTS += [_variant(labels, "fixmatch", "MNIST, large", ",large") for labels in (100, 40)]
FIGURES = {
    "test": "figures.test_accuracy",
    "validation": "figures.validation_accuracy",
    "last checkpoint": "figures.test_accuracy_last",
}
