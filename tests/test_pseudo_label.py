"""Pseudo-labels: which count, which are drawn, figures, warnings, and the file."""

import dataclasses
import re

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


def test_accuracy_is_of_the_images_whose_truth_is_known():
    labels = pseudo_label.make(np.arange(3), LOGITS, teacher="t")
    assert labels.summary(np.array([0, -1, 1]))["pseudo_label_accuracy"] == 0.5
    assert labels.summary(np.array([-1, -1, -1]))["pseudo_label_accuracy"] is None


def test_by_default_all_are_drawn_in_order():
    labels = pseudo_label.make(np.array([4, 2, 0]), LOGITS, teacher="t", threshold=0.55)
    np.testing.assert_array_equal(labels.drawn, [0, 1, 2])
    assert labels.drawn.dtype == np.int64 and labels.thresholds.dtype == np.float32
    np.testing.assert_allclose(labels.thresholds, [0.55, 0.55])


# Confidence 0.9, 0.9, 0.8, 0.6 for class 0, 0.7 and 0.9 for class 1.
SIX = np.log([[0.9, 0.1], [0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.3, 0.7], [0.1, 0.9]])


def test_flexible_thresholds_decide_the_weight():
    # 0.85 is reached by two of class 0, one of class 1, and not by three: beta = (2/3, 1/3), M = (1/2, 1/5).
    labels = pseudo_label.make(np.arange(6), SIX, teacher="t", threshold=0.85, flexible=True)
    np.testing.assert_allclose(labels.thresholds, [0.425, 0.17], rtol=1e-6)
    assert labels.weight.all() and labels.warnings() == []
    # 0.75: three and one, and two do not: beta = (1, 1/3).
    labels = pseudo_label.make(np.arange(6), SIX, teacher="t", threshold=0.75, flexible=True)
    np.testing.assert_allclose(labels.thresholds, [0.75, 0.15], rtol=1e-6)
    np.testing.assert_array_equal(labels.weight, [1, 1, 1, 0, 1, 1])


def test_dropped_images_are_not_drawn_and_classes_are_balanced():
    labels = pseudo_label.make(np.arange(10, 16), SIX, teacher="t", threshold=0.85, drop_below=0.65)
    np.testing.assert_array_equal(labels.drawn, [0, 1, 2, 4, 5])
    np.testing.assert_array_equal(labels.index[labels.drawn], [10, 11, 12, 14, 15])
    balanced = dict(drop_below=0.75, per_class=4, seed=(7, 1))
    labels = pseudo_label.make(np.arange(6), SIX, teacher="t", threshold=0.85, **balanced)
    # Only what counts is worth a copy: two of class 0, and one of class 1.
    np.testing.assert_array_equal(labels.draws, [2, 2, 0, 0, 0, 4])
    np.testing.assert_array_equal(labels.used, [1, 1, 0, 0, 0, 1])
    labels, again = (pseudo_label.make(np.arange(6), SIX, teacher="t", **balanced) for _ in range(2))
    np.testing.assert_array_equal(labels.drawn[-4:], [5, 5, 5, 5])  # the only one of class 1 that is left
    assert sorted(labels.draws) == [0, 0, 1, 1, 2, 4] and labels.drawn.dtype == np.int64
    np.testing.assert_array_equal(again.drawn, labels.drawn)
    none = pseudo_label.make(np.arange(6), SIX, teacher="t", threshold=0.95, **balanced)
    np.testing.assert_array_equal(none.drawn, [0, 1, 2, 5])  # nothing counts, so nothing is balanced


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"threshold": 0.95}, "no pseudo-label reaches the threshold .*0.9000.*labels only"),
        ({"threshold": 0.95, "flexible": True}, "threshold 0.95 .*0.9000.*0 for every class: every label counts"),
    ],
)
def test_warnings_when_none_reaches_the_threshold(options, says):
    (line,) = pseudo_label.make(np.arange(3), LOGITS, teacher="t", **options).warnings()
    assert re.search(says, line)


def test_warning_of_classes_without_a_label():
    # Two images of class 0 and one of class 2, which does not count.
    logits = np.log([[0.9, 0.05, 0.05], [0.8, 0.1, 0.1], [0.2, 0.2, 0.6]])
    (line,) = pseudo_label.make(np.arange(3), logits, teacher="t", threshold=0.7).warnings()
    assert line.startswith("2 of 3 classes have no pseudo-label that counts (1, 2)")
    wide = np.pad(np.log([[0.9, 0.1]]), ((0, 0), (0, 18)), constant_values=-30)
    (line,) = pseudo_label.make(np.arange(1), wide, teacher="t").warnings()
    assert line.startswith("19 of 20 classes") and "(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, ...)" in line


def test_sharpening_by_hand():
    # Squares of (0.9, 0.1), normalised: 0.81 / 0.82.
    sharp = pseudo_label.sharpen(LOGITS, 0.5)
    assert sharp.dtype == np.float32
    np.testing.assert_allclose(scipy.special.softmax(sharp, -1)[0], [0.81 / 0.82, 0.01 / 0.82], rtol=1e-6)


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
    options = {"threshold": 0.6, "flexible": True, "drop_below": 0.55, "per_class": 3}
    labels = pseudo_label.make(np.arange(3), LOGITS, teacher="abc", **options)
    pseudo_label.save(labels, tmp_path / "x.npz")
    again = pseudo_label.load(tmp_path / "x.npz")
    for field in dataclasses.fields(labels):
        kept, read = getattr(labels, field.name), getattr(again, field.name)
        np.testing.assert_array_equal(read, kept)
        assert type(read) is type(kept) and getattr(read, "dtype", 0) == getattr(kept, "dtype", 0)
    np.savez(tmp_path / "old.npz", index=labels.index, logits=labels.logits, weight=labels.weight, teacher="abc")
    with pytest.raises(UserError, match="old.npz is damaged or of an older version .*delete it"):
        pseudo_label.load(tmp_path / "old.npz")
    (tmp_path / "x.npz").write_bytes((tmp_path / "x.npz").read_bytes()[:100])
    with pytest.raises(UserError, match="x.npz is damaged"):
        pseudo_label.load(tmp_path / "x.npz")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"threshold": 1.5}, "threshold is 1.5"),
        ({"flexible": True}, "threshold is 0, so flexible"),
        ({"drop_below": -0.1}, "drop_below is -0.1"),
        ({"per_class": -1}, "per_class is -1"),
        ({"most_copies": 0}, "most_copies is 0"),
    ],
)
def test_options_out_of_range(options, says):
    for refuses in (
        lambda: pseudo_label.make(np.arange(3), LOGITS, teacher="t", **options),
        lambda: pseudo_label.check_options(**options),
    ):
        with pytest.raises(UserError, match=says):
            refuses()


def test_bad_input():
    for refuses in (lambda: pseudo_label.check_options(temperature=0.0), lambda: pseudo_label.sharpen(LOGITS, 0.0)):
        with pytest.raises(UserError, match="temperature is 0.0"):
            refuses()
    with pytest.raises(UserError, match="0 unlabelled images"):
        pseudo_label.make(np.arange(0), LOGITS[:0], teacher="t")
    with pytest.raises(UserError, match="every unlabelled image would be dropped"):
        pseudo_label.make(np.arange(3), LOGITS, teacher="t", drop_below=0.95)
    with pytest.raises(UserError, match="logits for image 1 are not finite"):
        pseudo_label.make(np.arange(3), np.where(LOGITS == LOGITS[1], np.nan, LOGITS), teacher="t")
    for prior in ([1.0], [0.6, 0.6], [1.0, 0.0]):
        with pytest.raises(UserError, match="is no distribution with every one of 2 classes"):
            pseudo_label.align(LOGITS, prior)
