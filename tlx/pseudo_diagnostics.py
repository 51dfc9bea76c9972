"""What a teacher's pseudo-labels are worth, measured against the truth where it is known.

The hidden truth is a diagnostic. Nothing that is trained, selected or promoted ever depends on a figure of this module.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from tlx import calibration
from tlx.errors import UserError
from tlx.pseudo_label import PseudoLabels
from tlx.workdir import read_json, write_json

_WORST = 8  # confusions that are kept


def diagnose(labels: PseudoLabels, truth: np.ndarray, class_names: Sequence[str], *, bins: int = 10) -> dict[str, Any]:
    """How many labels count and how many of them are right. An image that is drawn twice counts once, but as a copy.

    Args:
      labels: of U images of K classes.
      truth: int [N], labels of the whole training set, -1 where unknown; K and above for classes that the labelled
        images never show. A figure that needs the truth is over the images for which it is known.
      class_names: K, or more.
      bins: by confidence, as in `tlx.calibration.reliability`.

    Returns:
      What can be written as JSON; None stands for a mean over no images ::

        threshold, drop_below  as configured
        counts                 unlabeled, known (of true class), dropped (by `drop_below`), distinct (images drawn),
                               drawn (with copies), copies (drawn - distinct), used (drawn, and of a weight > 0)
        classes                for each of K: name, predicted, used, copies, threshold, accuracy (of the used)
        bins                   count and mean confidence of all U in each bin, accuracy of those known
        calibration_error      expected, over the known of all U, as a fraction
        confusions             the 8 most frequent among the used: true, taken_for, count, confidence (mean)
        dropped                known, wrong (of those), classes: name and count of each true class
    """
    name = lambda k: str(class_names[k]) if k < len(class_names) else str(k)
    count = lambda values: np.bincount(values, minlength=len(labels.thresholds)).tolist()
    truth = truth[labels.index]  # [U]
    predicted, confidence, draws, used = labels.predicted, labels.confidence, labels.draws, labels.used
    known, right, dropped = truth >= 0, predicted == truth, confidence < labels.drop_below
    copied = np.repeat(predicted, np.maximum(draws - 1, 0))  # a class a copy
    columns = {
        "predicted": count(predicted),
        "used": count(predicted[used]),
        "copies": count(copied),
        "threshold": labels.thresholds.tolist(),
        "accuracy": [
            hits / of if of else None
            for hits, of in zip(count(predicted[used & known & right]), count(predicted[used & known]))
        ],
    }
    accuracy = calibration.reliability(labels.logits[known], truth[known], bins)["accuracy"]
    error = calibration.expected_calibration_error(labels.logits[known], truth[known], bins) if known.any() else None
    lost = dropped & known
    return {
        "threshold": labels.threshold,
        "drop_below": labels.drop_below,
        "counts": {
            "unlabeled": len(labels.index),
            "known": int(known.sum()),
            "dropped": int(dropped.sum()),
            "distinct": len(labels.drawn) - len(copied),
            "drawn": len(labels.drawn),
            "copies": len(copied),
            "used": int(used.sum()),
        },
        "classes": [
            {"name": name(k), **dict(zip(columns, row))} for k, row in enumerate(zip(*columns.values(), strict=True))
        ],
        "bins": calibration.reliability(labels.logits, predicted, bins) | {"accuracy": accuracy},
        "calibration_error": error,
        "confusions": [
            {"true": name(true), "taken_for": name(taken), "count": images, "confidence": mean}
            for true, taken, images, mean in _confusions(labels, truth, used & known & ~right)
        ],
        "dropped": {
            "known": int(lost.sum()),
            "wrong": int((lost & ~right).sum()),
            "classes": [
                {"name": name(k), "count": int(images)}
                for k, images in zip(*np.unique(truth[lost], return_counts=True))
            ],
        },
    }


def save(diagnosis: dict[str, Any], workdir: pathlib.Path, number: int) -> None:
    """Writes `pseudo_labels/round_<number>.json`, whole or not at all, beside the labels themselves."""
    write_json(workdir / "pseudo_labels" / f"round_{number}.json", diagnosis, seal=True)


def load(workdir: pathlib.Path) -> dict[int, dict[str, Any]]:
    """What `save` wrote: {round: diagnosis}, in the rounds' order; empty where there is none.

    Raises:
      UserError: a file that is no diagnosis.
    """
    found = {}
    for path in (workdir / "pseudo_labels").glob("round_*.json"):
        number, diagnosis = path.stem.removeprefix("round_"), read_json(path)
        parts = {"counts", "classes", "bins", "confusions", "dropped"}
        if not number.isdigit() or not isinstance(diagnosis, dict) or not parts <= diagnosis.keys():
            raise UserError(f"{path} does not say what a round's pseudo-labels are: delete it, the report does without")
        found[int(number)] = diagnosis
    return dict(sorted(found.items()))


def _confusions(labels: PseudoLabels, truth: np.ndarray, wrong: np.ndarray) -> list[tuple[int, int, int, float]]:
    """(true, taken for, images, mean confidence) of the images `wrong`, the most frequent first."""
    classes = len(labels.thresholds)
    codes, which, counts = np.unique(
        truth[wrong] * classes + labels.predicted[wrong], return_inverse=True, return_counts=True
    )
    means = np.bincount(which, labels.confidence[wrong], len(codes)) / counts
    order = np.argsort(-counts, kind="stable")[:_WORST]
    return [(*divmod(int(codes[i]), classes), int(counts[i]), float(means[i])) for i in order]
