"""Promotion: better on validation, ties refused, and McNemar's p as scipy's binomial test and by hand."""

import numpy as np
import pytest

from tlx.promotion import compare, mcnemar


def right(pattern):
    return np.array([c == "1" for c in pattern])


def judge(teacher, student, teacher_loss=0.5, student_loss=0.5):
    return compare(right(teacher), right(student), teacher_loss=teacher_loss, student_loss=student_loss)


def test_better_equal_worse():
    assert judge("1100", "1110", student_loss=9.0).promoted
    assert not judge("1100", "1000", student_loss=0.1).promoted


def test_a_tie_goes_to_the_lower_loss():
    tie = judge("1100", "0011")
    assert not tie.promoted and "no lower loss 0.500 (was 0.500): 2 gained, 2 lost" in tie.reason and tie.p_value == 1
    assert judge("1100", "0011", student_loss=0.4).promoted
    assert not judge("1100", "1100", student_loss=float("nan")).promoted


def test_mcnemar_by_hand():
    assert mcnemar(0, 0) == 1
    assert mcnemar(5, 0) == pytest.approx(2 * 0.5**5)
    assert mcnemar(1, 3) == pytest.approx(2 * (1 + 4) * 0.5**4)


def test_other_images():
    with pytest.raises(ValueError, match="4 and 3 images"):
        judge("1100", "111")
