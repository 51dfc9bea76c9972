"""Which unlabelled images a student learns from, and how often: thresholds a class, a filter, a balance of classes.

Of a whole set at once and in numpy: once a round, before the student's first step.
"""

import numpy as np

from tlx.errors import UserError


def flexible_thresholds(
    confidence: np.ndarray, predicted: np.ndarray, *, num_classes: int, threshold: float
) -> np.ndarray:
    """A threshold for each class, the lower the fewer of its images reach the fixed one: FlexMatch's curriculum.

    Zhang et al. (2021), "FlexMatch: Boosting Semi-Supervised Learning with Curriculum Pseudo Labeling", eqs. 5-11 (not
    checked against the paper, but against their code). With sigma(c) the number of images that are taken for c with a
    confidence of `threshold` or more, and U that of all images ::

        beta(c) = sigma(c) / max(max_c sigma(c), U - sum_c sigma(c))
        threshold(c) = beta(c) / (2 - beta(c)) * threshold

    The second term of the maximum is their warm-up: while few images reach the threshold, all classes' are low. So a
    class that no image reaches it for gets 0, and if that is every class, every label counts. They update sigma at
    every step, from the student. Here it is computed once a round, from the teacher, over the whole set.

    Args:
      confidence: [U], 0..1.
      predicted: int [U], in 0..K-1.
      num_classes: K.
      threshold: the fixed one, 0..1: the most that a class's can be.

    Returns:
      float32 [K], 0..threshold.
    """
    sigma = np.bincount(predicted[confidence >= threshold], minlength=num_classes)  # [K]
    beta = sigma / max(sigma.max(), len(predicted) - sigma.sum())
    return (beta / (2 - beta) * threshold).astype(np.float32)


def drop(confidence: np.ndarray, drop_below: float) -> np.ndarray:
    """bool [U]: the images that are left when those of low confidence are taken for out-of-distribution and dropped.

    Noisy Student (Xie et al. 2020) filters JFT so, at 0.3 (not checked against the paper).

    Args:
      confidence: [U], 0..1.
      drop_below: the least confidence, 0..1, that is left; 0 = all are.

    Raises:
      UserError: none is left.
    """
    kept = confidence >= drop_below
    if not kept.any():
        raise UserError(
            f"drop_below is {drop_below} and the surest image has a confidence of {confidence.max():.4f}: every "
            "unlabelled image would be dropped; lower it"
        )
    return kept


def balance(
    confidence: np.ndarray,
    predicted: np.ndarray,
    kept: np.ndarray,
    *,
    per_class: int,
    most_copies: int,
    seed: tuple[int, ...],
) -> np.ndarray:
    """How often to draw each image, so that every predicted class is drawn `per_class` times: by cut and copy.

    Of a class that has more images the surest are taken; of one that has fewer each is taken n or n + 1 times. After
    Noisy Student (Xie et al. 2020, the paragraph "data filtering and balancing"; not checked against the paper). Their
    code draws for each image of a small class whether it gets n or n + 1 copies, and so meets the number on average.
    Here it is met exactly.

    Args:
      confidence: [U], 0..1.
      predicted: int [U].
      kept: bool [U]; the others are never taken.
      per_class: > 0.
      most_copies: the most times that one image may be drawn, >= 1.
      seed: any integers; which images are taken n + 1 times is a function of them and of the class.

    Returns:
      int [U], 0 where an image is not taken. A class without images stays without.

    Raises:
      UserError: a class is so small that an image would be drawn more than `most_copies` times.
    """
    rows = np.flatnonzero(kept)
    rows = rows[np.lexsort((-confidence[rows], predicted[rows]))]  # class by class, the surest first
    classes, starts, sizes = np.unique(predicted[rows], return_index=True, return_counts=True)
    fewest = sizes.min(initial=per_class)
    if per_class > fewest * most_copies:
        raise UserError(
            f"the teacher takes {fewest} of the unlabelled images for class {classes[sizes.argmin()]}: for per_class = "
            f"{per_class} one would be drawn {-(-per_class // fewest)} times, and most_copies is {most_copies}; set "
            f"per_class to at most {fewest * most_copies}, or raise most_copies"
        )
    draws = np.zeros(len(predicted), np.int64)
    for name, group in zip(classes, np.split(rows, starts[1:])):
        taken = group[:per_class]
        times, rest = divmod(per_class, len(taken))
        draws[taken] = times
        draws[np.random.default_rng((*seed, int(name))).permutation(taken)[:rest]] += 1
    return draws
