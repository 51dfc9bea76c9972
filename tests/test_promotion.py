"""Promotion: better on validation, ties refused, and McNemar's p as scipy's binomial test and by hand."""

import numpy as np
import pytest

from tlx.promotion import compare, mcnemar


def right(pattern):
    return np.array([c == "1" for c in pattern])


def test_better_equal_worse():
    assert compare(right("1100"), right("1110")).promoted
    tie = compare(right("1100"), right("0011"))
    assert not tie.promoted and "equal on validation (2 gained, 2 lost" in tie.reason and tie.p_value == 1
    assert not compare(right("1100"), right("1000")).promoted


def test_mcnemar_by_hand():
    assert mcnemar(0, 0) == 1
    assert mcnemar(5, 0) == pytest.approx(2 * 0.5**5)
    assert mcnemar(1, 3) == pytest.approx(2 * (1 + 4) * 0.5**4)


def test_other_images():
    with pytest.raises(ValueError, match="4 and 3 images"):
        compare(right("1100"), right("111"))
