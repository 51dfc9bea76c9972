"""Figures that a class of few images counts in as much as one of many."""

import numpy as np
from scipy.special import softmax


def macro_scores(labels: np.ndarray, logits: np.ndarray) -> dict[str, float]:
    """Macro-F1 and macro-AUC: means over the classes that the labels show.

    F1 is the harmonic mean of a class's precision and recall for the most probable class; AUC is the area under the ROC
    curve of the class's probability, it against the rest.

    Args:
      labels: int [N].
      logits: float [N, K].

    Returns:
      {"macro_f1", "macro_auc"}, each 0..1; without the AUC where the labels show one class only.
    """
    from sklearn.metrics import f1_score, roc_auc_score  # here, because sklearn takes a second to import

    shown = np.unique(labels)
    scores = {"macro_f1": float(f1_score(labels, logits.argmax(-1), labels=shown, average="macro", zero_division=0))}
    if len(shown) > 1:
        probabilities = softmax(logits.astype(np.float64), axis=-1)
        scores["macro_auc"] = float(np.mean([roc_auc_score(labels == k, probabilities[:, k]) for k in shown]))
    return scores
