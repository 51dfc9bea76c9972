"""The grid of the freeze rule: `python -m tlx.sweep experiments/freeze_rule/sweep.py`, from the project's root."""

from experiments.freeze_rule.config import CELLS, SOURCES
from tlx.freeze_rule import CANDIDATES
from tlx.sweep import Variant

CONFIG = "experiments/freeze_rule/config.py"
VARIANTS = [Variant(f"source: {name}", CONFIG, f"task={name},labels=0") for name in SOURCES]
VARIANTS += [
    Variant(
        f"{task}, {labels or 'all'} labels: {regime}",
        CONFIG,
        f"task={task},labels={labels},regime={regime}",
        seeds=range(2 if task == "imagenet_to_fashion" else 3),  # the large network takes minutes a run
    )
    for task, labels in CELLS
    for regime in CANDIDATES
]
FIGURES = {"test": "figures.test_accuracy", "validation": "figures.validation_accuracy"}
