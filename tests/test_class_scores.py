"""Macro figures against values computed by hand."""

import numpy as np
import pytest

from tlx.class_scores import macro_scores

LABELS = np.array([0, 0, 0, 1, 1, 2])
LOGITS = np.log(
    [[0.7, 0.2, 0.1], [0.6, 0.1, 0.3], [0.2, 0.5, 0.3], [0.1, 0.8, 0.1], [0.5, 0.4, 0.1], [0.15, 0.25, 0.6]]
)


def test_macro_scores_by_hand():
    """Predicted: 0 0 1 1 0 2. F1 of 0: 2/3; of 1: 1/2; of 2: 1. AUC: pairs in order."""
    scores = macro_scores(LABELS, LOGITS)
    assert scores["macro_f1"] == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    # Class 0: positives .7 .6 .2 against .1 .5 .15: 3 + 3 + 2; class 1: .8 .4 against .2 .1 .5 .25: 4 + 3; class 2: 5.
    assert scores["macro_auc"] == pytest.approx((8 / 9 + 7 / 8 + 1) / 3)


def test_classes_that_the_labels_do_not_show_do_not_count():
    scores = macro_scores(LABELS[:5], LOGITS[:5])
    assert scores["macro_f1"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    # Class 0: .7 .6 .2 against .1 .5: 2 + 2 + 1; class 1: .8 .4 against .2 .1 .5: 3 + 2.
    assert scores["macro_auc"] == pytest.approx((5 / 6 + 5 / 6) / 2)
    assert set(macro_scores(LABELS[:3], LOGITS[:3])) == {"macro_f1"}
