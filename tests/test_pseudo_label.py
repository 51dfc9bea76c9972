"""Pseudo-labels: threshold, figures, and the file."""

import numpy as np
import pytest
import scipy.special

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


def test_alignment_by_hand():
    # Two images, predicted (0.8, 0.2) both: to make the classes equally frequent, each must become (0.5, 0.5).
    logits = np.log([[0.8, 0.2], [0.8, 0.2]])
    np.testing.assert_allclose(scipy.special.softmax(pseudo_label.align(logits, [0.5, 0.5]), -1), 0.5, atol=1e-5)


def test_alignment_meets_the_prior_and_keeps_the_order_within_a_class():
    rng = np.random.default_rng(0)
    logits, prior = 3 * rng.normal(size=(200, 4)) + [2, 0, 0, -2], np.array([0.1, 0.2, 0.3, 0.4])
    aligned = pseudo_label.align(logits, prior)
    np.testing.assert_allclose(scipy.special.softmax(aligned, -1).mean(0), prior, atol=2e-6)
    np.testing.assert_allclose(np.ptp(aligned - logits, axis=0), 0, atol=1e-9)  # one shift a class
    made = pseudo_label.make(np.arange(200), logits, teacher="t", prior=prior)
    np.testing.assert_allclose(made.logits, aligned, rtol=1e-6)
    # Predictions that have the prior's mean already stay as they are.
    np.testing.assert_allclose(pseudo_label.align(aligned, prior), aligned, atol=1e-4)


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
    for prior in ([1.0], [0.6, 0.6], [1.0, 0.0]):
        with pytest.raises(UserError, match="is no distribution with every one of 2 classes"):
            pseudo_label.align(LOGITS, prior)
