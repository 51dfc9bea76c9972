"""Raising the classes that a transfer set lacked.

A student that was distilled without any image of a class learns what the class looks like from what the teacher's soft
targets say of the other images, but also that it is rare. Hinton, Vinyals & Dean (2015), "Distilling the Knowledge in a
Neural Network", section 3, shift the bias of the missing class (no 3s in the transfer set), or those of several (only
7s and 8s), by what is best on the test set. Here the shift is fitted on held-out training images, and it is always that
of the missing classes: lowering the others by as much is the same to a softmax.
"""

from collections.abc import Sequence

import numpy as np

from tlx.errors import UserError


def fit(logits: np.ndarray, labels: np.ndarray, omitted: Sequence[int]) -> float:
    """The offset to the logits of all omitted classes with the fewest errors.

    Exact: with the offset rising, an image goes over from the best of the kept classes to the best of the omitted ones
    where it passes the margin between them, so that the number of errors changes at the images' margins only.

    Args:
      logits: float [N, K], of held-out training images.
      labels: int [N].
      omitted: the classes that the transfer set lacked.

    Returns:
      The middle of the interval, between two neighbouring margins, in which most images are classified right; of
      several, the one nearest 0. An interval without an end has no middle: then 0, or 1 inside its one end if 0 is not.

    Raises:
      UserError: `omitted` is empty, names all classes or one that there is not; the images show none of the omitted
        classes, or none of the others; logits that are not finite.
    """
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels)
    missing = _mask(omitted, logits.shape[-1])
    if not np.isfinite(logits).all():
        raise UserError("the logits are not all finite: did the student diverge?")
    is_missing = missing[labels]  # [N]
    if is_missing.all() or not is_missing.any():
        raise UserError(
            f"the {len(labels)} images show {'only' if is_missing.any() else 'none of'} the omitted classes "
            f"{np.flatnonzero(missing).tolist()}: fit the offset on held-out images of all classes"
        )
    kept, raised = np.where(missing, -np.inf, logits), np.where(missing, logits, -np.inf)
    margin = kept.max(-1) - raised.max(-1)  # [N]: above it, an omitted class is predicted
    lost = margin[~is_missing & (kept.argmax(-1) == labels)]  # right below the margin
    won = margin[is_missing & (raised.argmax(-1) == labels)]  # right above it
    edges = np.unique(np.concatenate([lost, won]))  # [E]; interval i of E + 1 lies below edges[i]
    if not len(edges):
        return 0.0
    right = np.concatenate([[0], np.searchsorted(np.sort(won), edges, "right")])
    right = right + len(lost) - np.concatenate([[0], np.searchsorted(np.sort(lost), edges, "right")])
    low, high = np.concatenate([[-np.inf], edges]), np.concatenate([edges, [np.inf]])
    distance = np.maximum(0, np.maximum(low, -high))  # of the interval from 0
    best = np.lexsort((distance, -right))[0]
    if best == 0:
        return float(min(edges[0] - 1, 0))
    return float(max(edges[-1] + 1, 0) if best == len(edges) else (low[best] + high[best]) / 2)


def apply(logits: np.ndarray, omitted: Sequence[int], offset: float) -> np.ndarray:
    """Logits [N, K], of their own dtype, with the offset added to those of the omitted classes."""
    logits = np.asarray(logits)
    return logits + (_mask(omitted, logits.shape[-1]) * offset).astype(logits.dtype)


def _mask(omitted: Sequence[int], num_classes: int) -> np.ndarray:
    """bool [K]."""
    omitted = [int(k) for k in omitted]
    for k in omitted:
        if not 0 <= k < num_classes:
            raise UserError(f"omitted class {k} does not exist: there are 0 to {num_classes - 1}")
    mask = np.zeros(num_classes, bool)
    mask[omitted] = True
    if mask.all() or not mask.any():
        raise UserError(
            f"the omitted classes are {omitted} of {num_classes}: name at least one, and leave at least one out"
        )
    return mask
