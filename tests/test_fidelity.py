"""Agreement and divergence, by hand and as scipy has it."""

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import entropy

from tlx.fidelity import agreement, kl_to_teacher

TEACHER = np.array([[6.0, 5, 4, 3, 2, 1, 0], [0, 1, 2, 3, 4, 5, 6]])


def test_agreement_by_hand():
    student = np.array([[5.0, 6, 4, 3, 2, 1, 0], [0, 6, 1, 3, 2, 4, 7]])
    # The first names another class and the same five; the second the same class, and 6 5 3 1 4 of 6 5 4 3 2: four.
    assert agreement(student, TEACHER) == {"agreement_1": 0.5, "agreement_5": pytest.approx((5 + 4) / 10)}


def test_top_five_of_five_classes_is_left_out():
    assert agreement(TEACHER[:, :5], TEACHER[:, :5]) == {"agreement_1": 1.0}
    assert set(agreement(TEACHER[:, :6], TEACHER[:, :6])) == {"agreement_1", "agreement_5"}


def test_ties_are_broken_as_argmax_breaks_them():
    flat = np.zeros((1, 7))
    assert agreement(flat, np.array([[1.0, 0, 0, 0, 0, 0, 0]]))["agreement_1"] == 1


def test_kl_as_scipys():
    student, teacher = np.random.default_rng(0).normal(size=(2, 9, 4))
    expected = np.mean([entropy(softmax(t), softmax(s)) for s, t in zip(student, teacher)])
    assert kl_to_teacher(student, teacher) == pytest.approx(expected, rel=1e-12)
    assert kl_to_teacher(teacher + 3, teacher) == pytest.approx(0, abs=1e-12)


def test_kl_of_certain_networks_is_finite():
    assert kl_to_teacher(np.array([[-2000.0, 0]]), np.array([[0, -2000.0]])) == pytest.approx(2000)
