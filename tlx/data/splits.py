"""Which training images are labelled, which are not, and which are held out to choose by.

The three are pure functions of their arguments. Every image gets a random priority, and a split takes the first so many
of each class; so a smaller set lies inside a larger one of the same seed.
"""

import dataclasses
import hashlib
import json
import os
from pathlib import Path

import numpy as np

from tlx.errors import UserError
from tlx.workdir import opened, write_json


@dataclasses.dataclass(frozen=True, eq=False)
class Splits:
    """Sorted int64 indices into the training images; disjoint, and together all of them."""

    labeled: np.ndarray
    unlabeled: np.ndarray
    validation: np.ndarray


def make_splits(
    labels: np.ndarray, *, name: str, seed: int, labels_per_class: int | None = None, validation: float = 0
) -> Splits:
    """Splits the training images.

    Args:
      labels: int [N], the training labels.
      name: the dataset's; it alone decides which images are for validation, so that runs which differ in the seed are
        compared on the same images.
      seed: decides which of the others are labelled.
      labels_per_class: labelled images of each class; None = all that are not for validation, and none is unlabelled.
      validation: images for validation, as many of each class as of any other (up to one); or, below 1, the share of
        each class, rounded, and one image at least. Each class keeps one image at least to train on.

    Raises:
      UserError: a count out of range, or larger than a class.
    """
    labels = np.asarray(labels)
    if labels.ndim != 1 or not len(labels):
        raise UserError(f"labels have shape {labels.shape}: give one label for each training image, [N]")
    if labels_per_class is not None and labels_per_class < 1:
        raise UserError(f"labels_per_class is {labels_per_class}: use 1 or more, or None for every image")
    if not 0 <= validation < len(labels) or (validation > 1 and validation != int(validation)):
        raise UserError(
            f"validation is {validation}: it takes 0 to {len(labels) - 1} of {len(labels)} training images, or a share "
            "below 1"
        )

    classes, code, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    if 0 < validation < 1:
        quota = np.maximum(np.round(validation * sizes).astype(int), 1)
    else:
        each, more = divmod(int(validation), len(classes))
        quota = each + (np.arange(len(classes)) < more)
    _check_sizes("validation", classes, wanted=quota, has=sizes - 1)
    held_out = rank_in_class(code, sizes, _priorities(len(labels), name, "validation")) < quota[code]
    if labels_per_class is None:
        labeled = ~held_out
    else:
        wanted = np.full(len(classes), labels_per_class)
        _check_sizes("labels_per_class", classes, wanted=wanted, has=sizes - quota)
        priorities = np.where(held_out, np.inf, _priorities(len(labels), name, "labeled", int(seed)))
        labeled = rank_in_class(code, sizes, priorities) < labels_per_class
    return Splits(
        labeled=np.flatnonzero(labeled),
        unlabeled=np.flatnonzero(~labeled & ~held_out),
        validation=np.flatnonzero(held_out),
    )


def save(splits: Splits, path: str | os.PathLike) -> None:
    """Writes the indices as JSON."""
    parts = {field.name: getattr(splits, field.name) for field in dataclasses.fields(splits)}
    write_json(Path(path), parts, indent=None, seal=True)


def load(path: str | os.PathLike) -> Splits:
    """Reads what `save` wrote.

    Raises:
      UserError: there is no such file, or it holds something else.
    """
    try:
        parts = opened(json.loads(Path(path).read_text()))
        # NumPy would make 0 of 0.5 and of "0", and be silent.
        if not all(type(row) is int for index in parts.values() for row in index):
            raise TypeError("indices must be integers")
        return Splits(**{name: np.array(index, np.int64) for name, index in parts.items()})
    except (OSError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise UserError(f"{path} holds no splits ({error}): use a file that a run wrote") from None


def _priorities(count: int, *key: object) -> np.ndarray:
    """Random numbers [count] in [0, 1) that are a function of `key`, the same on every machine."""
    entropy = int.from_bytes(hashlib.sha256(repr(key).encode()).digest())
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy))).random(count)


def rank_in_class(code: np.ndarray, sizes: np.ndarray, priorities: np.ndarray) -> np.ndarray:
    """Each image's place [N] among those of its class, by rising priority."""
    order = np.lexsort((priorities, code))
    starts = np.cumsum(sizes) - sizes
    rank = np.empty(len(code), np.int64)
    rank[order] = np.arange(len(code)) - starts[code[order]]
    return rank


def _check_sizes(option: str, classes: np.ndarray, *, wanted: np.ndarray, has: np.ndarray) -> None:
    if (short := np.flatnonzero(wanted > has)).size:
        first = short[0]
        left = " to spare for it" if option == "validation" else " that are not for validation"
        raise UserError(
            f"{option} wants {wanted[first]} images of class {classes[first]}, which has {has[first]}{left}: "
            f"lower {option}"
        )
