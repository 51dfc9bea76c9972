"""Pseudo-labels: what a teacher says of unlabelled images, how sure it is, and which of it counts."""

import dataclasses
import io
import pathlib
import zipfile
from typing import Any

import numpy as np
import scipy.special

from tlx.errors import UserError
from tlx.workdir import write_bytes


@dataclasses.dataclass(frozen=True)
class PseudoLabels:
    """A teacher's labels for U unlabelled images.

    Attributes:
      index: int [U], the images, as rows of the training set.
      logits: float32 [U, K], the teacher's on the clean images, aligned if asked. Soft labels of any temperature, and
        hard ones, come from these.
      weight: float32 [U], 1 where the confidence reaches the threshold, else 0.
      teacher: digest of the teacher's variables.
    """

    index: np.ndarray
    logits: np.ndarray
    weight: np.ndarray
    teacher: str

    @property
    def confidence(self) -> np.ndarray:
        """float32 [U], the largest of each row's probabilities, at temperature 1."""
        return scipy.special.softmax(self.logits, -1).max(-1)

    def warnings(self) -> list[str]:
        """What the user should know before a student learns from these."""
        if self.weight.any():
            return []
        highest = self.confidence.max(initial=0)
        return [f"no pseudo-label reaches the threshold (the surest has {highest:.4f}): the student sees labels only"]

    def summary(self, truth: np.ndarray) -> dict[str, Any]:
        """Figures for the record. The accuracy looks at the hidden truth: a diagnostic, and used for nothing.

        Args:
          truth: int [N], labels of the whole training set.
        """
        used = self.weight > 0
        right = np.argmax(self.logits, -1) == truth[self.index]
        return {
            "pseudo_labels": int(used.sum()),
            "mean_confidence": float(self.confidence.mean()),
            "pseudo_label_accuracy": float(right[used].mean()) if used.any() else None,
        }


def make(
    index: np.ndarray, logits: np.ndarray, *, teacher: str, threshold: float = 0.0, prior: np.ndarray | None = None
) -> PseudoLabels:
    """Pseudo-labels from a teacher's logits.

    Args:
      index: int [U].
      logits: [U, K].
      teacher: digest of the teacher's variables.
      threshold: the least confidence, in 0..1, that counts; 0 = all count.
      prior: float [K], how frequent each class should be among the unlabelled; None = as the teacher finds them.

    Raises:
      UserError: for a threshold out of range, or logits that are not finite.
    """
    check_threshold(threshold)
    if not np.isfinite(logits).all():
        row = int(np.argwhere(~np.isfinite(logits))[0][0])
        raise UserError(f"the teacher's logits for image {index[row]} are not finite: {logits[row]}")
    logits = logits if prior is None else align(logits, prior)
    labels = PseudoLabels(index, logits.astype(np.float32), np.ones(len(index), np.float32), teacher)
    return dataclasses.replace(labels, weight=(labels.confidence >= threshold).astype(np.float32))


def align(logits: np.ndarray, prior: np.ndarray, *, tolerance: float = 1e-6, most: int = 1000) -> np.ndarray:
    """Shifts each class's logits by a constant, so that the mean prediction is `prior`: distribution alignment.

    ReMixMatch (Berthelot et al. 2020), section 3.1, multiplies each prediction by prior / mean prediction and
    normalises, once. Here that is repeated until the mean is the prior: multiplying a probability is adding to a logit.

    Args:
      logits: [U, K].
      prior: [K], > 0, adds up to 1.
      tolerance: of the mean prediction, in probability.
      most: how often it is repeated at most.

    Returns:
      float64 [U, K].

    Raises:
      UserError: a prior that is no distribution over the K classes, or has a class that never occurs.
    """
    prior = np.asarray(prior, np.float64)
    if prior.shape != logits.shape[1:] or not prior.min() > 0 or abs(prior.sum() - 1) > 1e-6:
        raise UserError(f"the prior {prior} is no distribution with every one of {logits.shape[1]} classes in it")
    shift = np.zeros_like(prior)
    for _ in range(most):
        mean = scipy.special.softmax(logits + shift, -1).mean(0)
        if np.abs(mean - prior).max() < tolerance:
            break
        shift += np.log(prior / np.maximum(mean, np.finfo(np.float64).tiny))
    return logits + shift


def check_threshold(threshold: float) -> None:
    """Raises UserError unless it is a probability."""
    if not 0 <= threshold <= 1:
        raise UserError(f"threshold is {threshold}: a confidence is in 0..1 (0 = every pseudo-label counts)")


def save(labels: PseudoLabels, path: pathlib.Path) -> None:
    """Writes an npz, whole or not at all."""
    buffer = io.BytesIO()
    np.savez(buffer, **{**dataclasses.asdict(labels), "teacher": np.asarray(labels.teacher)})
    write_bytes(path, buffer.getvalue())


def load(path: pathlib.Path) -> PseudoLabels:
    """Reads what `save` wrote."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return PseudoLabels(arrays["index"], arrays["logits"], arrays["weight"], str(arrays["teacher"]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as e:
        raise UserError(f"{path} is damaged ({e}): delete it, it will be made again") from None
