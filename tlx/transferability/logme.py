"""LogME: the evidence for a Bayesian linear model of the labels, at the best precisions of prior and noise."""

import dataclasses

import numpy as np
import scipy.linalg

from tlx.transferability.inputs import check_inputs

# Of alpha / (beta s_1^2). At its ends one of signal and noise is gone. The lower one keeps the evidence finite where
# features of a rank below N fit a class exactly, and it would have no maximum.
GRID = np.geomspace(1e-14, 1e10, 49)
HALVINGS = 40  # of one decade: to 2e-12 of log(alpha / beta)


def log_me(features: np.ndarray, labels: np.ndarray) -> float:
    """LogME (You et al. 2021, "LogME: Practical Assessment of Pre-trained Models for Transfer Learning").

    One class against the rest, y in {0, 1}^N, is modelled as `y ~ N(F w, 1/beta)`, `w ~ N(0, 1/alpha)`. Its log
    evidence (Bishop 2006, "Pattern Recognition and Machine Learning", section 3.5, eq. 3.86) is::

        L = D/2 log alpha + N/2 log beta - beta/2 |y - F m|^2 - alpha/2 m'm - 1/2 log|A| - N/2 log 2 pi,
        A = alpha I + beta F'F,   m = beta A^-1 F'y

    and is largest at a fixed point of (eq. 3.91, 3.92 and 3.95)::

        gamma = sum_i beta s_i^2 / (alpha + beta s_i^2),   alpha = gamma / m'm,   beta = (N - gamma) / |y - F m|^2

    Given alpha / beta the best beta is known, so the search is along one line, on which there may be several maxima: it
    takes the best of a grid and bisects around it on the direction of the fixed point's step, which is the one in which
    L rises. (Iterating that step from alpha = beta = 1, as the authors' code does up to 11 times, can stop at a lower
    maximum, and can take more than 1000 steps.) As in the paper, features are neither centred nor scaled and have no
    bias. A common factor of all of them changes nothing.

    Args:
      features: [N, D], N below or above D.
      labels: int [N].

    Returns:
      Mean over classes of `max L / N`, in nats. Where features of a rank below N fit a class exactly, L has no maximum:
      alpha / beta then stops at 1e-14 of the largest squared singular value.

    Raises:
      UserError: see `check_inputs`.
    """
    features, codes = check_inputs(features, labels)
    return max_evidence(decompose(features), codes)


@dataclasses.dataclass(frozen=True, eq=False)
class Spectrum:
    """Of features [N, D] of rank R: left singular vectors [N, R], and squared singular values [R] over the largest."""

    vectors: np.ndarray
    squares: np.ndarray


def decompose(features: np.ndarray) -> Spectrum:
    """All that LogME needs of features float64 [N, D], for any labels."""
    vectors, values, _ = scipy.linalg.svd(features, full_matrices=False, check_finite=False)
    values /= values[0]
    rank = int(np.sum(values > max(features.shape) * np.finfo(np.float64).eps))
    return Spectrum(vectors[:, :rank], values[:rank] ** 2)


def max_evidence(spectrum: Spectrum, codes: np.ndarray) -> float:
    """`log_me`, for class codes int [N] in 0..K-1."""
    count, rank = spectrum.vectors.shape
    targets = np.eye(codes.max() + 1)[codes]  # [N, K]
    projected = spectrum.vectors.T @ targets  # [R, K]
    outside = np.sum((targets - spectrum.vectors @ projected) ** 2, 0)  # [K]
    energy = projected**2  # [R, K]
    squares = spectrum.squares[:, None]  # [R, 1]

    def evidence(ratio: np.ndarray) -> np.ndarray:
        """max over beta of L [K], at alpha / beta = `ratio` [K]: |A| and the quadratic form in the singular basis."""
        misfit = np.sum(energy * (ratio / (ratio + squares)), 0) + outside  # |y - Fm|^2 + ratio m'm = N / beta
        return -0.5 * (count * (np.log(2 * np.pi * misfit / count) + 1) + np.sum(np.log1p(squares / ratio), 0))

    def rises(ratio: np.ndarray) -> np.ndarray:
        """Whether L rises with alpha / beta [K]: whether, from the best beta, the fixed point's step is upwards."""
        kept = ratio / (ratio + squares)  # [R, K]
        gamma = np.sum(squares / (ratio + squares), 0)
        weights = np.sum(energy * squares / (ratio + squares) ** 2, 0)  # m'm
        misfit = np.sum(energy * kept**2, 0) + outside  # |y - Fm|^2
        return gamma * misfit > ratio * weights * (np.sum(kept, 0) + count - rank)  # new alpha / new beta > ratio

    values = np.stack([evidence(np.full(targets.shape[1], ratio)) for ratio in GRID])  # [G, K]
    best = values.argmax(0)  # [K]
    low, high = np.log(GRID[np.maximum(best - 1, 0)]), np.log(GRID[np.minimum(best + 1, len(GRID) - 1)])
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        up = rises(np.exp(middle))
        low, high = np.where(up, middle, low), np.where(up, high, middle)
    return float(np.mean(np.maximum(evidence(np.exp(low)), values.max(0))) / count)
