"""What learns from unlabelled images: the images, how they are drawn and seen, and the learner."""

import dataclasses
import functools
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from tlx import config as config_lib
from tlx import losses, progress, steps
from tlx.consistency import make_consistency
from tlx.data import reader, source
from tlx.data.mixup import check_mixup, make_mix
from tlx.data.view import make_view
from tlx.errors import UserError
from tlx.loss_schedule import check_schedules, make_schedules
from tlx.models.options import check_choice
from tlx.recipes.learner import Learner, make_learner
from tlx.recipes.run import Run
from tlx.recipes.transfer import other_images
from tlx.steps.self_train import SEES

PARTNER = (*reader.PARTNER, "teacher_logits", "teacher_weight")


def learner() -> ConfigDict:
    """The sections of a learner, and how it sees unlabelled images."""
    section = config_lib.learner()
    section.unlabeled_ratio = 5.0  # unlabelled images for each labelled one, which train.batch_size counts
    section.weak = {}  # augmentation of the weak view; {} = the clean image
    section.labeled_sees = "noised"  # how labelled images are seen: "noised", by `augment`, or "weak"
    section.mixup = 0.0  # mix images with others of their part, with shares from Beta(a, a); 0 = off
    return section


def base(recipe: str) -> ConfigDict:
    """The keys of every recipe that uses unlabelled images, beside its learners and its loss."""
    config = config_lib.base(recipe)
    config.unlabeled = {
        "most": 0,  # use only so many of the unlabelled images; 0 = all
        # And the training images of other data, of the same shape; their labels are not looked at.
        "data": {"name": "", "idx_dir": "", "folder": "", "data_dir": ""},
    }
    config.consistency = {
        "kind": "kl",  # how two predictions are compared: "kl", "mse" or "ce"
        "target": "student",  # whose prediction is the target: the "student"'s, or its average's, "ema"
        "sees": "weak",  # of which view: "weak", or "noised", another draw of all noise
        "temperature": 1.0,  # of the target; below 1 it is sharpened
        "threshold": 0.0,  # the least confidence of a target that counts
        "hard": False,  # the target's most probable class alone
    }
    return config


@dataclasses.dataclass(frozen=True)
class Pool:
    """The images to learn from, labelled and unlabelled, in one set of N.

    Attributes:
      examples: the training images, and after them other data's; a label that is hidden is 0.
      labeled, unlabeled: int, which of them are used as what.
      truth: int32 [N], the hidden labels, -1 where unknown. For diagnosis only: no step and no choice sees it.
      fingerprint: of the data, all of it.
    """

    examples: source.Examples
    labeled: np.ndarray
    unlabeled: np.ndarray
    truth: np.ndarray
    fingerprint: str

    def scatter(self, index: np.ndarray, values: np.ndarray) -> np.ndarray:
        """`values` [len(index), ...] at rows `index` of N rows of zeros."""
        rows = np.zeros((len(self.truth), *values.shape[1:]), values.dtype)
        rows[index] = values
        return rows


def pool(run: Run) -> Pool:
    """What `config.unlabeled` names.

    Raises:
      UserError: nothing is unlabelled; more asked for than there is; other data that do not fit.
    """
    options, train, parts = run.config.unlabeled, run.dataset.train, run.splits
    if not options.data.name and not len(parts.unlabeled):
        raise UserError(
            f"data.labels_per_class is {run.config.data.labels_per_class}, so nothing is unlabelled: set how many "
            "labels a class has, or name other images in unlabeled.data"
        )
    images, truth, unlabeled = train.images, train.labels, parts.unlabeled
    fingerprint = run.fingerprint
    if options.data.name:
        found, other = other_images(run, options.data, what="unlabeled.data")
        if not isinstance(images, np.ndarray) or not isinstance(found.images, np.ndarray):
            raise UserError("unlabeled.data: both sets of images must fit into memory (1 GiB each)")
        unlabeled = np.concatenate([unlabeled, len(train) + np.arange(len(found))])
        images = np.concatenate([images, found.images])
        truth = np.concatenate([truth, np.full(len(found), -1, np.int32)])
        fingerprint = f"{fingerprint}+{other}"
    if not 0 <= options.most <= len(unlabeled):
        raise UserError(f"unlabeled.most is {options.most}: it must be 0 (all) to {len(unlabeled)}, how many there are")
    if options.most:
        order = np.random.default_rng((run.config.seed, *b"unlabeled")).permutation(len(unlabeled))
        unlabeled = np.sort(unlabeled[order[: options.most]])
    labels = np.zeros(len(truth), np.int32)
    labels[parts.labeled] = train.labels[parts.labeled]
    return Pool(source.Examples(images, labels), parts.labeled, unlabeled, truth, fingerprint)


def make_student(
    run: Run,
    role: str,
    config: ConfigDict,
    section: ConfigDict,
    *,
    hard: bool = False,
    scale: float = 1.0,
    name: str = "",
) -> Learner:
    """A learner of `steps.make_self_train_step`.

    Args:
      run, role, scale: see `make_learner`.
      config: its `loss` and `consistency`.
      section: as `learner` makes it.
      hard: whether the teacher's decision is learnt in place of its distribution.
      name: the section's, with a dot, for messages.
    """
    compared = {key: value for key, value in config.consistency.items() if key not in ("target", "sees")}
    weights = {key: value for key, value in config.loss.items() if key != "schedules"}
    return make_learner(
        run,
        role,
        section,
        scale=scale,
        make_step=functools.partial(
            steps.make_self_train_step,
            **make_schedules(weights, config.loss.schedules.to_dict(), total_steps=section.train.steps),
            hard=hard,
            compare=make_consistency(**compared),
            target=config.consistency.target,
            target_sees=config.consistency.sees,
            labeled_sees=section.labeled_sees,
            weak=make_view(**section.weak),
            mixup=section.mixup > 0,
        ),
        streams={
            f"{name}train.batch_size": section.train.batch_size,
            f"{name}train.batch_size * unlabeled_ratio": unlabeled_size(section),
        },
    )


def lessons(
    run: Run, section: ConfigDict, phase: str, images: Pool, *, drawn: np.ndarray, **columns: np.ndarray
) -> dict[str, Any]:
    """What a learner's `fit` is given, beside what it starts from.

    Args:
      drawn: the unlabelled images that batches are drawn from, as rows of the pool; one named twice comes twice.
      columns: [N, ...], what a teacher says.
    """
    sizes = (section.train.batch_size, unlabeled_size(section))
    if len(drawn) < sizes[1]:
        fix = "lower unlabeled_ratio"
        progress.say(f"[yellow]{len(drawn)} unlabelled images for {sizes[1]} a batch: all come several times; {fix}[/]")
    mixing = {}
    if section.mixup:
        names = [name for name in PARTNER if name in (*reader.PARTNER, *columns)]
        mixing = {"mix": make_mix(section.mixup, seed=run.config.seed, parts=sizes), "partner": names}
    known = images.scatter(images.labeled, np.ones(len(images.labeled), np.int8))
    return {
        "store": run.store(images.examples, weight=known.astype(np.float32), labeled=known, **mixing, **columns),
        "streams": [
            run.stream(images.labeled, sizes[0], f"{phase}/labeled"),
            run.stream(drawn, sizes[1], f"{phase}/unlabeled"),
        ],
    }


def unlabeled_size(section: ConfigDict) -> int:
    """Unlabelled images a batch."""
    return round(section.train.batch_size * section.unlabeled_ratio)


def check(config: ConfigDict, section: ConfigDict, *, name: str = "") -> None:
    """Raises UserError for what the step, which is built first, does not notice, or cannot name in the config."""
    if section.unlabeled_ratio <= 0:
        raise UserError(f"{name}unlabeled_ratio is {section.unlabeled_ratio}: it must be > 0, such as 4.0")
    check_mixup(section.mixup, f"{name}mixup")
    check_choice(f"{name}labeled_sees", section.labeled_sees, SEES)
    used = config.loss.consistency > 0 or "consistency" in config.loss.schedules
    if used and config.consistency.target == "ema" and not section.train.ema_decay:
        raise UserError(
            f"consistency.target is 'ema', but {name}train.ema_decay is 0: set it, such as to 0.99, or the target to "
            "'student'"
        )
    numbers = [key for key in config.loss if key != "schedules"]
    check_schedules(config.loss, config.loss.schedules.to_dict(), losses.checks(*numbers))
