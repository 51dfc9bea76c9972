"""How the options of `digits_noisy_student` were chosen: on eight folds of the training images, never on the test set.

    python -m experiments.digits.folds          # about 20 minutes on one core; finished runs are skipped

A fold takes 30 training images of each class as its test set, and leaves 200 for validation, 100 labelled and the other
697 unlabelled. Fold n has seed n. Writes folds.json beside this file, and prints the table of README.md.
"""

import pathlib
import statistics
from collections.abc import Callable

import numpy as np
from ml_collections import ConfigDict

from tlx import recipes, sweep
from tlx.data import source
from tlx.workdir import write_json

FOLDS, RUNS = range(8), pathlib.Path("runs/digits_folds")
CONFIG = "configs/digits_noisy_student.py"
SHIFTED = {"shift": 1, "rotate": 15.0, "scale": 0.1, "shear": 0.1, "noise": 0.1}
WARPED = {"rotate": 15.0, "scale": 0.15, "shear": 0.15, "translate": 1.0}


def noise(augment: dict) -> Callable[[ConfigDict], None]:
    def change(config: ConfigDict) -> None:
        config.teacher.augment = config.student.augment = augment

    return change


def student(*, scale: float, align: bool) -> Callable[[ConfigDict], None]:
    def change(config: ConfigDict) -> None:
        config.student.scale = (scale,)
        config.pseudo_label.align = align

    return change


VARIANTS = {
    "noise: shift by a pixel": noise(SHIFTED),
    "noise: translate by up to a pixel, no Gaussian": noise(WARPED),
    "student as wide as the teacher, as the teacher predicts": student(scale=1.0, align=False),
    "student 1.5 times as wide": student(scale=1.5, align=False),
    "student 1.5 times as wide, aligned (the config)": student(scale=1.5, align=True),
}


def fold(dataset: source.Dataset, number: int) -> source.Dataset:
    """The training images alone, 30 of each class as the test set."""
    labels, rng = dataset.train.labels, np.random.default_rng(1000 + number)
    held_out = np.concatenate([rng.permutation(np.flatnonzero(labels == k))[:30] for k in range(dataset.num_classes)])
    kept = np.setdiff1d(np.arange(len(labels)), held_out)
    return source.Dataset(
        f"{dataset.name}_fold{number}",
        dataset.train.select(kept),
        dataset.train.select(np.sort(held_out)),
        dataset.class_names,
    )


def main() -> None:
    digits, load = source.load("digits"), source.load
    records = []
    try:
        for label, change in VARIANTS.items():
            for number in FOLDS:
                source.load = lambda *args, number=number, **kwargs: fold(digits, number)
                config = sweep.load_config(CONFIG, f"seed={number}")
                config.rounds, config.data.validation = 1, 200.0
                change(config)
                slug = "".join(c if c.isalnum() else "_" for c in label)
                result = recipes.load(config.recipe).run(config, RUNS / f"{slug}-{number}")
                teacher, first = (row["test_accuracy"] for row in result["rounds"])
                records.append({"variant": label, "fold": number, "teacher": teacher, "student 1": first})
    finally:
        source.load = load
    write_json(pathlib.Path(__file__).with_name("folds.json"), records)
    print("| variant | teacher | student 1 |\n| --- | ---: | ---: |")
    for label in VARIANTS:
        mine = [record for record in records if record["variant"] == label]
        cells = [f"{statistics.mean(r[role] for r in mine):.4f}" for role in ("teacher", "student 1")]
        print("| " + " | ".join([label, *cells]) + " |")


if __name__ == "__main__":
    main()
