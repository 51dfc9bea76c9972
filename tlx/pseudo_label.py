"""Pseudo-labels: what a teacher says of unlabelled images, how sure it is, which of it counts, and what is drawn."""

import dataclasses
import io
import pathlib
from typing import Any

import numpy as np
import scipy.special

from tlx import npz, selection
from tlx.errors import UserError
from tlx.losses import check_temperature
from tlx.workdir import write_bytes

_NAMED = 10  # classes in a warning


@dataclasses.dataclass(frozen=True)
class PseudoLabels:
    """A teacher's labels for U unlabelled images of K classes.

    Attributes:
      index: int [U], the images, as rows of the training set.
      logits: float32 [U, K], the teacher's on the clean images, aligned if asked, at temperature 1. Soft labels of any
        temperature, and hard ones, come from these.
      weight: float32 [U], 1 where the confidence reaches the threshold of its class, else 0.
      thresholds: float32 [K], of each class; all equal unless they are flexible.
      drawn: int64 [R], positions in `index`, in ascending order: a student's stream walks over `index[drawn]`. An image
        that is dropped is not among them, and one that is copied is there several times.
      threshold, drop_below: as they were given to `make`.
      teacher: digest of the teacher's variables.
    """

    index: np.ndarray
    logits: np.ndarray
    weight: np.ndarray
    thresholds: np.ndarray
    drawn: np.ndarray
    threshold: float
    drop_below: float
    teacher: str

    @property
    def confidence(self) -> np.ndarray:
        """float32 [U], the largest of each row's probabilities, at temperature 1."""
        return scipy.special.softmax(self.logits, -1).max(-1)

    @property
    def predicted(self) -> np.ndarray:
        """int [U], the class of the largest logit; of equal ones the first."""
        return np.argmax(self.logits, -1)

    @property
    def draws(self) -> np.ndarray:
        """int [U], how often each image is among `drawn`."""
        return np.bincount(self.drawn, minlength=len(self.index))

    @property
    def used(self) -> np.ndarray:
        """bool [U], the images whose label teaches: drawn, and of a weight > 0."""
        return (self.weight > 0) & (self.draws > 0)

    def warnings(self) -> list[str]:
        """What the user should know before a student learns from these."""
        used, highest = self.used, self.confidence.max()
        if not used.any():
            return [
                f"no pseudo-label reaches the threshold (the surest has {highest:.4f}): the student sees labels only"
            ]
        lines = []
        if highest < self.threshold:  # and yet some count
            lines.append(
                f"no pseudo-label reaches the threshold {self.threshold} (the surest has {highest:.4f}), so the "
                "flexible thresholds are 0 for every class: every label counts"
            )
        absent = np.flatnonzero(np.bincount(self.predicted[used], minlength=len(self.thresholds)) == 0)
        if absent.size:
            named = ", ".join(map(str, absent[:_NAMED])) + (", ..." if len(absent) > _NAMED else "")
            lines.append(
                f"{len(absent)} of {len(self.thresholds)} classes have no pseudo-label that counts ({named}): the "
                "student sees them in the labels only"
            )
        return lines

    def summary(self, truth: np.ndarray) -> dict[str, Any]:
        """Figures for the record. The accuracy looks at the hidden truth: a diagnostic, and used for nothing.

        Args:
          truth: int [N], labels of the whole training set, -1 where unknown.
        """
        used, truth = self.used, truth[self.index]
        known = used & (truth >= 0)
        return {
            "pseudo_labels": int(used.sum()),
            "mean_confidence": float(self.confidence.mean()),
            "pseudo_label_accuracy": float(np.mean(self.predicted[known] == truth[known])) if known.any() else None,
        }


def make(
    index: np.ndarray,
    logits: np.ndarray,
    *,
    teacher: str,
    threshold: float = 0.0,
    flexible: bool = False,
    prior: np.ndarray | None = None,
    drop_below: float = 0.0,
    per_class: int = 0,
    most_copies: int = 10,
    seed: tuple[int, ...] = (),
) -> PseudoLabels:
    """Pseudo-labels from a teacher's logits.

    Args:
      index: int [U].
      logits: [U, K].
      teacher: digest of the teacher's variables.
      threshold: the least confidence, in 0..1, that counts; 0 = all count.
      flexible: a threshold for each class, at most this one, see `tlx.selection.flexible_thresholds`.
      prior: float [K], how frequent each class should be among the unlabelled; None = as the teacher finds them.
      drop_below: images of a lower confidence are not drawn at all, by no term of the loss; 0 = all are.
      per_class: how often each predicted class is drawn in all, from the images that count, see
        `tlx.selection.balance`; 0 = as it comes.
      most_copies: the most times that balancing may draw one image.
      seed: of what balancing draws at random.

    Raises:
      UserError: for an option out of range, no images, logits that are not finite, a `drop_below` that leaves no image,
        or a class that would need more than `most_copies` of one.
    """
    check_options(
        threshold=threshold, flexible=flexible, drop_below=drop_below, per_class=per_class, most_copies=most_copies
    )
    if not len(index):
        raise UserError("there are 0 unlabelled images to label: lower data.labels_per_class or data.validation")
    if not np.isfinite(logits).all():
        row = int(np.argwhere(~np.isfinite(logits))[0][0])
        raise UserError(f"the teacher's logits for image {index[row]} are not finite: {logits[row]}")
    logits = (logits if prior is None else align(logits, prior)).astype(np.float32)
    images, classes = logits.shape
    labels = PseudoLabels(
        index,
        logits,
        weight=np.ones(images, np.float32),
        thresholds=np.full(classes, threshold, np.float32),
        drawn=np.arange(images),
        threshold=threshold,
        drop_below=drop_below,
        teacher=teacher,
    )
    confidence, predicted, thresholds = labels.confidence, labels.predicted, labels.thresholds
    if flexible:
        thresholds = selection.flexible_thresholds(confidence, predicted, num_classes=classes, threshold=threshold)
    counts = confidence >= thresholds[predicted]  # [U]
    draws = kept = selection.drop(confidence, drop_below)
    if per_class and (kept & counts).any():  # what does not count is not worth a copy
        options = {"per_class": per_class, "most_copies": most_copies, "seed": seed}
        draws = selection.balance(confidence, predicted, kept & counts, **options)
    return dataclasses.replace(
        labels, weight=counts.astype(np.float32), thresholds=thresholds, drawn=np.repeat(labels.drawn, draws)
    )


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


def sharpen(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Logits of `softmax(logits)^(1 / T)`, normalised: `logits / T`, surer for T < 1.

    MixMatch's sharpening (Berthelot et al. 2019, eq. 7; not checked against the paper).

    From logits [..., K], [..., K] float32. Raises UserError unless T > 0.
    """
    check_temperature(temperature)
    return (logits / temperature).astype(np.float32)


def check_options(
    *,
    threshold: float = 0.0,
    flexible: bool = False,
    drop_below: float = 0.0,
    per_class: int = 0,
    most_copies: int = 10,
    temperature: float = 1.0,
) -> None:
    """Raises UserError for an option of `make`, or of `sharpen`, that is out of range, before a teacher is trained."""
    check_threshold(threshold)
    if flexible and not threshold:
        raise UserError(
            "pseudo_label.threshold is 0, so flexible thresholds would all be 0: set it above 0, or flexible to False"
        )
    if not 0 <= drop_below <= 1:
        raise UserError(f"pseudo_label.drop_below is {drop_below}: a confidence is in 0..1 (0 = no image is dropped)")
    if per_class < 0:
        raise UserError(f"pseudo_label.per_class is {per_class}: it must be >= 0 (0 = the classes are not balanced)")
    if most_copies < 1:
        raise UserError(f"pseudo_label.most_copies is {most_copies}: it must be >= 1 (1 = no image is copied)")
    check_temperature(temperature, "pseudo_label.temperature")


def check_threshold(threshold: float) -> None:
    """Raises UserError unless it is a probability."""
    if not 0 <= threshold <= 1:
        raise UserError(
            f"pseudo_label.threshold is {threshold}: a confidence is in 0..1 (0 = every pseudo-label counts)"
        )


def save(labels: PseudoLabels, path: pathlib.Path) -> None:
    """Writes an npz, whole or not at all."""
    write_bytes(path, _npz(labels))


def load(path: pathlib.Path) -> PseudoLabels:
    """Reads what `save` wrote.

    Raises:
      UserError: the file is damaged, or was written by a version that kept less.
    """
    try:
        npz.check(path)
        with np.load(path, allow_pickle=False) as arrays:
            read = {field.name: arrays[field.name] for field in dataclasses.fields(PseudoLabels)}
        labels = PseudoLabels(**{name: value if value.ndim else value.item() for name, value in read.items()})
        # The ledger has the digest of the file: a bit that the reader of npz overlooks would be found there, too late.
        if path.read_bytes() != _npz(labels):
            raise ValueError("it is not what was written")
        return labels
    except Exception as e:  # zipfile, zlib and numpy raise a dozen types between them
        raise UserError(f"{path} is damaged or of an older version ({e}): delete it, it will be made again") from None


def _npz(labels: PseudoLabels) -> bytes:
    """The same bytes for the same labels."""
    buffer = io.BytesIO()
    np.savez(buffer, **{name: np.asarray(value) for name, value in dataclasses.asdict(labels).items()})
    return buffer.getvalue()
