"""All runs: `python -m tlx.sweep experiments/noisy_student/sweep.py`, from the root.

All rows of a seed and a number of labels have the same teacher, and those with the same network start from the same
weights, so differences between rows are paired by seed.
"""

from tlx.sweep import Variant

CONFIG = "experiments/noisy_student/config.py"
SEEDS = range(3)
LABELS = (100, 1_000)
GENERATIONS = 4
FULL = "full"
STUDENTS = {  # what the row's only generation is; of FULL there are four
    FULL: f"rounds={GENERATIONS}",
    "without augmentation": "augment=false",
    "without dropout": "dropout=false",
    "without all noise": "augment=false,dropout=false",
    "teacher noised": "noised=true",
    "hard labels": "hard=true",
    "twice as wide": "scale=2.0",
}
SECONDS = {FULL: 200, "twice as wide": 110}
RATIOS = (1, 5)  # unlabelled images for each label, where not all are used


def label(labels: int, student: str) -> str:
    """A row's."""
    return f"{labels} labels: {student}"


def few(ratio: int) -> str:
    """The student of few unlabelled images, by their number for each label."""
    return f"unlabelled {ratio}x"


def _variants(labels: int) -> list[Variant]:
    students = STUDENTS | {few(ratio): f"unlabeled={ratio * labels}" for ratio in RATIOS}
    return [
        Variant(
            label(labels, student), CONFIG, f"labels={labels},{args}", seeds=SEEDS, seconds=SECONDS.get(student, 55)
        )
        for student, args in students.items()
    ]


VARIANTS = [variant for labels in LABELS for variant in _variants(labels)]
FIGURES = {
    "teacher": "rounds.0.test_accuracy",
    **{f"generation {n}": f"rounds.{n}.test_accuracy" for n in range(1, GENERATIONS + 1)},
    "selected": "figures.test_accuracy",
    "validation": "rounds.1.validation_accuracy",
    "pseudo-labels": "rounds.1.pseudo_label_accuracy",
}
