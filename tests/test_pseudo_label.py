"""Pseudo-labels: threshold, figures, and the file."""

import numpy as np
import pytest

from tlx import pseudo_label
from tlx.errors import UserError

LOGITS = np.log(np.array([[0.9, 0.1], [0.4, 0.6], [0.5, 0.5]]))


def test_threshold_and_summary():
    labels = pseudo_label.make(np.array([4, 2, 0]), LOGITS, teacher="t", threshold=0.6 - 1e-6)
    np.testing.assert_allclose(labels.confidence, [0.9, 0.6, 0.5], rtol=1e-6)
    np.testing.assert_array_equal(labels.weight, [1, 1, 0])
    assert labels.warnings() == []
    summary = labels.summary(truth=np.array([0, 9, 0, 9, 0]))  # image 4 is right, image 2 wrong, image 0 unused
    assert summary["pseudo_labels"] == 2 and summary["pseudo_label_accuracy"] == 0.5
    assert summary["mean_confidence"] == pytest.approx(2 / 3)


def test_nothing_passes():
    labels = pseudo_label.make(np.arange(3), LOGITS, teacher="t", threshold=0.95)
    assert "the surest has 0.9000" in labels.warnings()[0]
    assert labels.summary(np.zeros(3, int))["pseudo_label_accuracy"] is None


def test_save_and_load(tmp_path):
    labels = pseudo_label.make(np.arange(3), LOGITS, teacher="abc", threshold=0.6)
    pseudo_label.save(labels, tmp_path / "x.npz")
    again = pseudo_label.load(tmp_path / "x.npz")
    for name in ("index", "logits", "weight"):
        np.testing.assert_array_equal(getattr(again, name), getattr(labels, name))
    assert again.teacher == "abc"
    (tmp_path / "x.npz").write_bytes((tmp_path / "x.npz").read_bytes()[:100])
    with pytest.raises(UserError, match="x.npz is damaged"):
        pseudo_label.load(tmp_path / "x.npz")


def test_bad_input():
    with pytest.raises(UserError, match=r"threshold is 1.5"):
        pseudo_label.make(np.arange(3), LOGITS, teacher="t", threshold=1.5)
    with pytest.raises(UserError, match="logits for image 1 are not finite"):
        pseudo_label.make(np.arange(3), np.where(LOGITS == LOGITS[1], np.nan, LOGITS), teacher="t")
