"""Whether a network is as often right as it says: likelihood, reliability and calibration error of its probabilities.

After Guo et al. (2017), "On Calibration of Modern Neural Networks", section 2 (equation numbers not checked against the
paper). All in float64: a softmax in float32 rounds a confidence of 1 - 1e-8 to 1.
"""

from typing import Any

import numpy as np
from scipy.special import log_softmax, softmax


def negative_log_likelihood(logits: np.ndarray, labels: np.ndarray) -> float:
    """`-log softmax(logits)[label]`, in nats, averaged over the images.

    Args:
      logits: float [N, K].
      labels: int [N].
    """
    log_probabilities = log_softmax(np.asarray(logits, np.float64), axis=-1)
    return float(-np.mean(log_probabilities[np.arange(len(labels)), labels]))


def reliability(logits: np.ndarray, labels: np.ndarray, bins: int = 15) -> dict[str, list[Any]]:
    """Images in bins of equal width by the probability of the predicted class, bin m of M being ((m - 1) / M, m / M].

    Args:
      logits: float [N, K].
      labels: int [N].
      bins: M.

    Returns:
      {"confidence", "accuracy", "count"}, lists of length M: of a bin's images the mean confidence, the share that is
      classified right, and the number. The first two are None where the number is 0.
    """
    probabilities = softmax(np.asarray(logits, np.float64), axis=-1)  # [N, K]
    confidence, right = probabilities.max(-1), probabilities.argmax(-1) == np.asarray(labels)
    bin_of = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    count, total, correct = (np.bincount(bin_of, weights, bins) for weights in (None, confidence, right))
    means = lambda sums: [float(s / n) if n else None for s, n in zip(sums, count)]
    return {"confidence": means(total), "accuracy": means(correct), "count": count.tolist()}


def expected_calibration_error(logits: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """`sum_m |B_m| / N * |accuracy(B_m) - confidence(B_m)|` over the bins of `reliability` (Guo et al. 2017, eq. 3)."""
    curve = reliability(logits, labels, bins)
    filled = zip(curve["count"], curve["accuracy"], curve["confidence"])
    return sum(n * abs(accuracy - confidence) for n, accuracy, confidence in filled if n) / len(labels)
