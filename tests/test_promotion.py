"""Promotion: better on validation, ties refused, and the p-values as scipy's tests and by hand."""

import numpy as np
import pytest
import scipy.stats

from tlx.errors import UserError
from tlx.promotion import RESAMPLES, bootstrap, check_options, compare, mcnemar


def right(pattern):
    return np.array([c == "1" for c in pattern])


def judge(teacher, student, teacher_loss=0.5, student_loss=0.5, **options):
    return compare(right(teacher), right(student), teacher_loss=teacher_loss, student_loss=student_loss, **options)


def judge_counts(gained, lost, ties=100, **options):
    """A verdict on so many images that only the student, only the teacher, and both get right."""
    return judge("0" * gained + "1" * (lost + ties), "1" * gained + "0" * lost + "1" * ties, **options)


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


@pytest.mark.parametrize(
    ("gained", "lost", "promoted"),
    # By hand, two-sided: 2 / 2^5 = 0.0625, 2 / 2^6 = 0.03125.
    [(5, 0, False), (6, 0, True), (0, 6, False), (0, 0, False), (3, 3, False)],
)
def test_promotion_by_mcnemar(gained, lost, promoted):
    verdict = judge_counts(gained, lost, student_loss=0.1, test="mcnemar")
    assert verdict.promoted is promoted
    assert verdict.p_value == mcnemar(gained, lost)
    assert verdict.reason.endswith(f"p = {verdict.p_value:.3g} (mcnemar, two-sided, level 0.05)")


def test_the_level_decides():
    assert judge_counts(5, 0, test="mcnemar", level=0.07).promoted
    assert not judge_counts(6, 0, test="mcnemar", level=0.03).promoted


@pytest.mark.parametrize(("gained", "lost", "images"), [(3, 1, 8), (12, 5, 300), (30, 10, 1000), (5, 9, 50)])
def test_bootstrap_is_the_share_of_resamples(gained, lost, images):
    """Against the exact probability: the images that differ are binomial, and so are those of them that are gained."""
    differ = np.arange(images + 1)
    at_most_half = scipy.stats.binom.cdf(differ // 2, differ, gained / (gained + lost))
    exact = float(scipy.stats.binom.pmf(differ, images, (gained + lost) / images) @ at_most_half)
    found = bootstrap(gained, lost, images)
    assert found == bootstrap(gained, lost, images)
    assert abs(found - exact) < 4 * np.sqrt(exact * (1 - exact) / RESAMPLES) + 1 / RESAMPLES


def test_bootstrap_at_its_ends():
    assert bootstrap(0, 0, 50) == 1
    assert bootstrap(0, 7, 50) == 1
    assert bootstrap(50, 0, 50) == 1 / (RESAMPLES + 1)  # never 0


def test_promotion_by_bootstrap():
    # Of 105 images all gained ones drawn 0 times: (1 - g / 105)^105, about exp(-g): 0.13 of two, 0.017 of four.
    assert not judge_counts(2, 0, ties=103, test="bootstrap").promoted
    verdict = judge_counts(4, 0, ties=101, test="bootstrap")
    assert verdict.promoted and verdict.p_value == pytest.approx((1 - 4 / 105) ** 105, abs=0.006)
    assert "(bootstrap, one-sided, level 0.05)" in verdict.reason
    assert not judge_counts(4, 4, test="bootstrap", level=0.999, student_loss=0.1).promoted  # no more right


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test": "mcnemer"}, r"promotion.test is 'mcnemer' \(did you mean 'mcnemar'\?\): use one of better, mcnemar"),
        ({"level": 0.0}, "promotion.level is 0.0"),
        ({"level": 5.0}, "promotion.level is 5.0"),
        ({"level": float("nan")}, "promotion.level is nan"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(UserError, match=message):
        check_options(**{"test": "better", "level": 0.05} | options)
    with pytest.raises(UserError, match=message):
        judge("1", "1", **options)


def test_other_images():
    with pytest.raises(ValueError, match="4 and 3 images"):
        judge("1100", "111")
