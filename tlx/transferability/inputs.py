"""What every figure asks of its features and labels."""

import numpy as np

from tlx.errors import UserError


def check_inputs(features: np.ndarray, labels: np.ndarray, *, members: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Checks and converts.

    Args:
      features: [N, D] of any float type, NumPy's or JAX's.
      labels: int [N], any integers.
      members: the fewest examples that a class may have.

    Returns:
      features float64 [N, D], and class codes int64 [N] in 0..K-1, in the order of the labels' values.

    Raises:
      UserError: wrong ranks, lengths or types; features that are not finite, or the same for every example; fewer than
        2 classes; a class of fewer than `members`.
    """
    features, labels = np.asarray(features), np.asarray(labels)
    if features.ndim != 2 or not features.shape[1]:
        raise UserError(f"features have shape {features.shape}: give [N, D], pooled or flattened to one row an example")
    if labels.shape != features.shape[:1]:
        raise UserError(f"labels have shape {labels.shape}: give one for each of the {len(features)} rows of features")
    if not np.issubdtype(labels.dtype, np.integer):
        raise UserError(f"labels are {labels.dtype}: give class indices, integers")
    features = features.astype(np.float64)
    if not np.isfinite(features).all():
        row, column = np.argwhere(~np.isfinite(features))[0]
        raise UserError(
            f"features[{row}, {column}] is {features[row, column]}: they must be finite; check the network's input"
        )
    classes, codes, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    if len(classes) < 2:
        raise UserError(f"labels name {len(classes)} class{'es' * (len(classes) != 1)}: a task has 2 or more")
    if (sizes < members).any():
        small = int(np.argmin(sizes))
        raise UserError(
            f"class {classes[small]} has {sizes[small]} example, and this figure needs {members}, to predict each from "
            "the others: add one, or leave the class out"
        )
    if (features == features[0]).all():
        raise UserError(f"features are the same for all {len(features)} examples: check the network and its input")
    return features, codes
