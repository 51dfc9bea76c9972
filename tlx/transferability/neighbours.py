"""k nearest neighbours: what the features say without any training."""

import numpy as np

from tlx.errors import UserError
from tlx.transferability.inputs import check_inputs

BLOCK_BYTES = 2**27  # of similarities at a time


def knn_accuracy(features: np.ndarray, labels: np.ndarray, k: int = 5) -> float:
    """Leave-one-out accuracy of the vote of the k neighbours of the highest cosine similarity.

    Ties are decided: of equal similarities (to 12 decimals, as rounding may part duplicates) the lower row is nearer;
    of classes with equal votes the one with the nearest member wins. A row of zeros has similarity 0 to all.

    Args:
      features: [N, D]. N x N similarities are made a block of rows at a time, 128 MiB.
      labels: int [N].
      k: 1 to N - 1.

    Returns:
      The accuracy, 0..1.

    Raises:
      UserError: see `check_inputs`; a class with one example, which no other can vouch for; k out of range.
    """
    features, codes = check_inputs(features, labels, members=2)
    return vote(nearest(features, k), codes)


def nearest(features: np.ndarray, k: int) -> np.ndarray:
    """The k nearest other rows of each row of features float64 [N, D], nearest first: int [N, k]."""
    count = len(features)
    if not 1 <= k < count:
        raise UserError(f"k is {k}: each of {count} examples has {count - 1} others; use 1 to {count - 1}")
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    unit = features / np.where(norms > 0, norms, 1)
    neighbours = np.empty((count, k), np.int64)
    size = max(1, BLOCK_BYTES // (count * unit.itemsize))
    for start in range(0, count, size):
        block = neighbours[start : start + size]
        similarity = unit[start : start + size] @ unit.T  # [block, N]
        np.round(similarity, 12, out=similarity)
        row = np.arange(len(block))
        similarity[row, start + row] = -np.inf
        for place in range(k):  # argmax names the first of equals, which a partial sort does not promise
            block[:, place] = similarity.argmax(1)
            similarity[row, block[:, place]] = -np.inf
    return neighbours


def vote(neighbours: np.ndarray, codes: np.ndarray) -> float:
    """Accuracy of the votes of neighbours int [N, k], nearest first, for class codes int [N]."""
    classes = codes[neighbours]  # [N, k]
    votes = np.sum(classes[:, :, None] == classes[:, None, :], -1)  # [N, k], for each neighbour's class
    return float(np.mean(classes[np.arange(len(codes)), votes.argmax(1)] == codes))
