"""Which images a student draws: FlexMatch's thresholds, the filter and the balance, by hand."""

import numpy as np
import pytest

from tlx import selection
from tlx.errors import UserError


@pytest.mark.parametrize(
    ("confidence", "predicted", "thresholds"),
    [
        # sigma = (4, 2, 0) of 6: beta = (1, 1/2, 0), and 1/2 / (2 - 1/2) = 1/3.
        ([0.9] * 6, [0, 0, 0, 0, 1, 1], [0.9, 0.3, 0.0]),
        # sigma = (2, 1, 0) and 5 of 8 below: beta = (2/5, 1/5, 0). The warm-up's 5 is more than the largest class's 2.
        ([0.95, 0.9, 0.9] + [0.5] * 5, [0, 0, 1, 1, 1, 2, 2, 2], [0.9 * 0.4 / 1.6, 0.9 * 0.2 / 1.8, 0.0]),
        # None reaches it.
        ([0.8, 0.8], [0, 1], [0.0, 0.0, 0.0]),
    ],
)
def test_flexible_thresholds_by_hand(confidence, predicted, thresholds):
    found = selection.flexible_thresholds(np.array(confidence), np.array(predicted), num_classes=3, threshold=0.9)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, thresholds, rtol=1e-6)


def test_drop():
    confidence = np.array([0.3, 0.9, 0.29, 0.5])
    np.testing.assert_array_equal(selection.drop(confidence, 0.3), [True, True, False, True])
    assert selection.drop(confidence, 0.0).all()
    with pytest.raises(UserError, match=r"drop_below is 0.95 .* confidence of 0.9000.*lower it"):
        selection.drop(confidence, 0.95)


# Of class 0 five images, one of them dropped; of class 2 two; class 1 has none.
PREDICTED = np.array([0, 2, 0, 0, 2, 0, 0])
CONFIDENCE = np.array([0.7, 0.6, 0.9, 0.7, 0.8, 0.95, 0.2])
KEPT = CONFIDENCE > 0.3


def balance(per_class, most_copies=10, seed=(0,), kept=KEPT):
    options = {"per_class": per_class, "most_copies": most_copies, "seed": seed}
    return selection.balance(CONFIDENCE, PREDICTED, kept, **options)


def test_of_a_large_class_the_surest_are_taken():
    # 0.95 and 0.9 of class 0, and of two with 0.7 the first.
    np.testing.assert_array_equal(balance(1), [0, 0, 0, 0, 1, 1, 0])
    np.testing.assert_array_equal(balance(2), [0, 1, 1, 0, 1, 1, 0])
    np.testing.assert_array_equal(balance(3)[PREDICTED == 0], [1, 1, 0, 1, 0])


def test_of_a_small_class_images_are_copied_evenly():
    draws = balance(7)
    assert sorted(draws[PREDICTED == 2]) == [3, 4] and sorted(draws[PREDICTED == 0]) == [0, 1, 2, 2, 2]
    assert draws[6] == 0  # dropped
    np.testing.assert_array_equal(balance(8), [2, 4, 2, 2, 4, 2, 0])


def test_which_image_gets_the_extra_copy_is_seeded():
    np.testing.assert_array_equal(balance(5, seed=(3, 1)), balance(5, seed=(3, 1)))
    extra = {tuple(balance(3, seed=(seed,))[PREDICTED == 2]) for seed in range(20)}
    assert extra == {(1, 2), (2, 1)}
    # A class's copies do not depend on what else there is.
    alone = balance(5, kept=KEPT & (PREDICTED == 2))
    np.testing.assert_array_equal(alone[PREDICTED == 2], balance(5)[PREDICTED == 2])


def test_too_many_copies():
    assert balance(6, most_copies=3).max() == 3
    message = (
        r"takes 2 of .* for class 2: for per_class = 7 one would be drawn 4 times, and most_copies is 3; .* most 6"
    )
    with pytest.raises(UserError, match=message):
        balance(7, most_copies=3)
