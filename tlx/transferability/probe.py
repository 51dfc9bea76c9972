"""A linear probe: what a linear head makes of the features."""

import warnings

import numpy as np

from tlx.errors import UserError
from tlx.transferability.inputs import check_inputs


def probe_accuracy(
    features: np.ndarray, labels: np.ndarray, folds: int = 5, seed: int = 0, *, inverse_l2: float = 1.0
) -> float:
    """Cross-validated accuracy of multinomial logistic regression on standardised features.

    Folds are stratified: the members of a class differ by at most one between folds, so a class of 2 or more is always
    among those trained on, even if some folds do not test it. Where no class has `folds` members, there are as many
    folds as the largest class has members. Mean and deviation are the training folds'.

    Args:
      features: [N, D].
      labels: int [N].
      folds: 2 or more.
      seed: of the folds, 0 to 2^32 - 1.
      inverse_l2: C of scikit-learn's LogisticRegression: `C * (sum of cross-entropies) + |w|^2 / 2` is minimised.

    Returns:
      The part of the N examples predicted rightly by the probe that was not trained on them, 0..1.

    Raises:
      UserError: see `check_inputs`; a class with one example, which cannot be both trained on and tested; fewer than 2
        folds; a seed or inverse_l2 out of range.
    """
    from sklearn.linear_model import LogisticRegression  # here, because sklearn takes a second to import
    from sklearn.model_selection import StratifiedKFold
    from sklearn.preprocessing import StandardScaler

    features, codes = check_inputs(features, labels, members=2)
    check_seed(seed)
    if folds < 2:
        raise UserError(f"folds is {folds}: one part is tested and the others are trained on; use 2 or more")
    if not 0 < inverse_l2 < float("inf"):
        raise UserError(f"inverse_l2 is {inverse_l2}: it must be finite and > 0 (smaller regularises more)")
    split = StratifiedKFold(min(folds, int(np.bincount(codes).max())), shuffle=True, random_state=seed)
    right = 0
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        parts = list(split.split(features, codes))
    for train, test in parts:
        # float32 takes as many iterations as float64 to the same predictions, each in half the time or less.
        standardised = StandardScaler().fit(features[train]).transform(features).astype(np.float32)
        probe = LogisticRegression(C=inverse_l2, max_iter=1000).fit(standardised[train], codes[train])
        right += int(np.sum(probe.predict(standardised[test]) == codes[test]))
    return right / len(codes)


def check_seed(seed: int) -> None:
    """Raises UserError unless NumPy's generators, old and new, take it."""
    if not 0 <= seed < 2**32:
        raise UserError(f"seed is {seed}: use 0 to 2^32 - 1")
