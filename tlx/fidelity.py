"""How far a student follows its teacher, right or wrong."""

from collections.abc import Sequence

import numpy as np
from scipy.special import log_softmax


def agreement(student_logits: np.ndarray, teacher_logits: np.ndarray, top: Sequence[int] = (1, 5)) -> dict[str, float]:
    """The share of a network's k most probable classes that are among the other's: `|S_k and T_k| / k`.

    At k = 1 that is how often both name the same class. Of equal logits the lower class counts as the higher.

    Args:
      student_logits, teacher_logits: float [N, K].
      top: the ks.

    Returns:
      {"agreement_<k>"}: 0..1, averaged over the images; without a k >= K, where any two networks would agree.
    """
    student, teacher = (np.asarray(logits) for logits in (student_logits, teacher_logits))
    scores = {}
    for k in top:
        if k < student.shape[-1]:
            chosen = [_top(logits, k) for logits in (student, teacher)]
            scores[f"agreement_{k}"] = float(np.sum(chosen[0] & chosen[1], axis=-1).mean() / k)
    return scores


def kl_to_teacher(student_logits: np.ndarray, teacher_logits: np.ndarray) -> float:
    """`KL(softmax(teacher) || softmax(student))`, T = 1, in nats, averaged over the images; float64.

    Args:
      student_logits, teacher_logits: float [N, K].
    """
    student, teacher = (log_softmax(np.asarray(x, np.float64), axis=-1) for x in (student_logits, teacher_logits))
    return float(np.mean(np.sum(np.exp(teacher) * (teacher - student), axis=-1)))


def _top(logits: np.ndarray, k: int) -> np.ndarray:
    """bool [N, K]: the k highest of each row."""
    chosen = np.zeros(logits.shape, bool)
    np.put_along_axis(chosen, np.argsort(-logits, axis=-1, kind="stable")[:, :k], True, axis=-1)
    return chosen
