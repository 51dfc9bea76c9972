"""H-score: how much of the features' variance, whitened, lies between the classes."""

import numpy as np

from tlx.transferability.inputs import check_inputs


def h_score(features: np.ndarray, labels: np.ndarray) -> float:
    """H-score with a shrunk covariance.

    The H-score (Bao et al. 2019, "An Information-Theoretic Approach to Transferability in Task Transfer Learning") is
    `tr(cov(f)^-1 cov(E[f|y]))`. With D near N or above, the sample covariance has no useful inverse, so, after Ibrahim
    et al. 2021 ("Newer is not always better: Rethinking transferability metrics, their peculiarities, stability and
    performance")::

        H_a = (1 - a) tr(C_a^-1 cov(E[f|y])),   C_a = (1 - a) cov(f) + a tr(cov(f))/D I

    with the shrinkage `a` of Ledoit & Wolf 2004. Without shrinkage the score is the same under every invertible affine
    map of the features; with it, under rotations, shifts and one common factor.

    Args:
      features: [N, D], N below or above D.
      labels: int [N].

    Returns:
      The score, in 0..K-1 for K classes, and at most D. 0: the classes have the same means, or examples are
      so few that shrinkage is complete; K-1: nothing varies within a class, and D >= K-1.

    Raises:
      UserError: see `check_inputs`.
    """
    features, codes = check_inputs(features, labels)
    return between_classes(whiten(features), codes)


def whiten(features: np.ndarray) -> np.ndarray:
    """All that the score needs of features float64 [N, D], for any labels: [N, R], centred, whose inner products are
    those of the features in `(1 - a) C_a^-1`."""
    from sklearn.covariance import ledoit_wolf  # here, because sklearn takes a second to import

    # The score does not change with the unit; in this one, products of features neither overflow nor vanish.
    centred = features - features.mean(0)
    centred /= np.abs(centred).max()
    covariance, shrinkage = ledoit_wolf(centred, assume_centered=True)  # [D, D]
    values, vectors = np.linalg.eigh(covariance)
    kept = values > len(values) * np.finfo(np.float64).eps * values[-1]
    return centred @ (vectors[:, kept] * np.sqrt((1 - shrinkage) / values[kept]))


def between_classes(white: np.ndarray, codes: np.ndarray) -> float:
    """Variance between the classes' means of whitened features [N, R], for class codes int [N] in 0..K-1."""
    members = np.eye(codes.max() + 1)[codes]  # [N, K]
    sizes = members.sum(0)  # [K]
    means = members.T @ white / sizes[:, None]  # [K, R]
    return float(np.sum(sizes[:, None] * means**2) / len(codes))
