"""Likelihood, reliability and calibration error, by hand."""

import json

import numpy as np
import pytest

from tlx.calibration import expected_calibration_error, negative_log_likelihood, reliability

# Confidences .6 .7 .9 .9 (right, wrong, right, right) and .5, on the border of the first two of four bins.
PROBABILITIES = np.array([[0.6, 0.4], [0.3, 0.7], [0.9, 0.1], [0.1, 0.9], [0.5, 0.5]])
LABELS = np.array([0, 0, 0, 1, 0])


def test_likelihood_by_hand():
    expected = -np.mean(np.log([0.6, 0.3, 0.9, 0.9, 0.5]))
    assert negative_log_likelihood(np.log(PROBABILITIES) + 7, LABELS) == pytest.approx(expected, rel=1e-12)


def test_likelihood_of_logits_that_overflow():
    logits = np.array([[1000.0, 0.0], [0.0, 1000.0]], np.float32)
    assert negative_log_likelihood(logits, np.array([0, 0])) == pytest.approx(500)


def test_reliability_by_hand():
    curve = reliability(np.log(PROBABILITIES), LABELS, bins=4)
    assert curve["count"] == [0, 1, 2, 2]  # .5 belongs to (.25, .5]
    assert curve["confidence"] == [None, *map(pytest.approx, (0.5, 0.65, 0.9))]
    assert curve["accuracy"] == [None, 1, 0.5, 1]
    assert json.loads(json.dumps(curve)) == curve


def test_calibration_error_by_hand():
    error = expected_calibration_error(np.log(PROBABILITIES), LABELS, bins=4)
    assert error == pytest.approx((1 * 0.5 + 2 * 0.15 + 2 * 0.1) / 5)


def test_one_bin_is_mean_confidence_against_accuracy():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(50, 3)), rng.integers(0, 3, 50)
    confidence = (np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)).max(-1)
    expected = abs(confidence.mean() - (logits.argmax(-1) == labels).mean())
    assert expected_calibration_error(logits, labels, bins=1) == pytest.approx(expected)


def test_certainty_falls_into_the_last_bin():
    assert reliability(np.array([[800.0, 0.0]]), np.array([0]))["count"] == [0] * 14 + [1]
