"""The transfer set: the images that a student is taught on, and which of their labels are known."""

import dataclasses
import hashlib
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from tlx import bias_correction, progress
from tlx.data import source
from tlx.errors import UserError, did_you_mean
from tlx.pretrained.run import add_bias
from tlx.recipes.learner import Trained, digest
from tlx.recipes.run import Run

IMAGES = ("all", "labeled", "unlabeled")


@dataclasses.dataclass(frozen=True)
class TransferSet:
    """Images to teach on.

    Attributes:
      examples: N of them; a label that is not known is 0.
      weight: float32 [N], 1 where the label is known.
      places: int [N], in the run's training set; None for other data.
      omitted: the classes that it was made to show nothing of.
      identity: all that it is a function of, as JSON has it.
    """

    examples: source.Examples
    weight: np.ndarray
    places: np.ndarray | None
    omitted: tuple[int, ...]
    identity: list[Any]


def transfer_set(run: Run) -> TransferSet:
    """What `config.transfer` names; see `tlx.recipes.distill`.

    Raises:
      UserError: an unknown word; classes where labels are hidden, or out of range, or all, or none left; other data of
        another shape, or with labels to be learnt from.
    """
    options = run.config.transfer
    if options.images not in IMAGES:
        raise UserError(
            f"transfer.images is {options.images!r}{did_you_mean(options.images, IMAGES)}: use {', '.join(IMAGES)}"
        )
    if options.data.name:
        return _other_data(run)
    parts = {"labeled": [run.splits.labeled], "unlabeled": [run.splits.unlabeled]}
    places = np.concatenate(parts.get(options.images) or [*parts["labeled"], *parts["unlabeled"]])
    known = np.isin(places, run.splits.labeled)
    omitted: tuple[int, ...] = ()
    if options.classes:
        kept = tuple(options.classes)
        if bad := [k for k in kept if type(k) is not int or not 0 <= k < run.num_classes]:
            raise UserError(f"transfer.classes has {bad[0]!r}: the classes are 0 to {run.num_classes - 1}")
        if not known.all():
            raise UserError(
                f"transfer.classes is {kept}, and {np.sum(~known):,} images have no label to choose by: set "
                "transfer.images to labeled"
            )
        omitted = tuple(sorted(set(range(run.num_classes)) - set(kept)))
        chosen = np.isin(run.dataset.train.labels[places], kept)
        places, known = places[chosen], known[chosen]
    if not len(places):
        raise UserError(f"transfer.images is {options.images!r}, and there are none: see data.labels_per_class")
    examples = run.dataset.train.select(places)
    labels = np.where(known, examples.labels, 0).astype(np.int32)
    digest = hashlib.sha256(places.astype(np.int64).tobytes()).hexdigest()
    return TransferSet(
        examples=source.Examples(examples.images, labels),
        weight=known.astype(np.float32),
        places=places,
        omitted=omitted,
        identity=[run.fingerprint, digest],
    )


def correct_bias(student: Trained, omitted: tuple[int, ...]) -> tuple[Trained, dict[str, Any]]:
    """The student with the bias that its omitted classes need, fitted on the validation images, which show them."""
    learner, run = student.learner, student.learner.run
    _, logits = learner.judge(student.variables, "validation")
    offset = bias_correction.fit(logits, learner.examples("validation").labels, omitted)
    bias = bias_correction.apply(np.zeros(run.num_classes, np.float32), omitted, offset)
    variables = add_bias(student.variables, bias)
    figures = dict(student.figures)
    for split in ("validation", "test"):
        values, _ = learner.judge(variables, split)
        for name, value in values.items():
            figures[f"{split}_{name}_uncorrected"] = figures[f"{split}_{name}"]
            figures[f"{split}_{name}"] = value
            figures[f"{split}_{name}_last_uncorrected"] = figures.pop(f"{split}_{name}_last")
    names = [run.dataset.class_names[k] for k in omitted]
    progress.say(
        f"bias of {', '.join(names)}: {offset:+.3g}, fitted on validation images; test accuracy "
        f"{figures['test_accuracy_uncorrected']:.4f} before, {figures['test_accuracy']:.4f} after"
    )
    corrected = dataclasses.replace(
        student, variables=variables, figures=figures, digest=digest(variables), bias=tuple(bias.tolist())
    )
    return corrected, {"omitted": names, "offset": offset}


def _other_data(run: Run) -> TransferSet:
    """The training images of another dataset, without their labels."""
    config, options = run.config, run.config.transfer
    if options.classes or options.images != "all":
        raise UserError(
            f"transfer.data.name is {options.data.name!r}: its images are taken whole, so leave transfer.images and "
            "transfer.classes as they are"
        )
    if config.loss.beta or "beta" in config.loss.schedules:
        raise UserError(
            f"loss.beta is {config.loss.beta}, but the images of transfer.data have no labels of this task: set it to 0"
        )
    images, fingerprint = other_images(run, options.data, what="transfer.data")
    return TransferSet(
        examples=images,
        weight=np.zeros(len(images), np.float32),
        places=None,
        omitted=(),
        identity=[fingerprint, "all"],
    )


def other_images(run: Run, options: ConfigDict, *, what: str) -> tuple[source.Examples, str]:
    """The training images of another dataset, their labels put to 0, and its fingerprint.

    Raises:
      UserError: images of another shape than the task's; `what` names the config's section.
    """
    height, width, channels = run.dataset.image_shape
    folder = options.name == "folder"
    if folder and height != width:
        raise UserError(f"{what}: a folder's images are made square, and the task's are {height}x{width}")
    dataset = source.load(**options, **({"image_size": height, "channels": channels} if folder else {}))
    if dataset.image_shape != run.dataset.image_shape:
        raise UserError(
            f"{what}: the images of {dataset.name} are {list(dataset.image_shape)}, and the task's "
            f"{list(run.dataset.image_shape)}: they must have one shape"
        )
    train = dataset.train
    return source.Examples(train.images, np.zeros(len(train), np.int32)), source.fingerprint(dataset)
