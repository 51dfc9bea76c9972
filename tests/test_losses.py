"""Losses against hand-computed values and limits, under jit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tlx import losses
from tlx.errors import UserError

LOGITS = hnp.arrays(np.float32, (4, 3), elements=st.floats(-20, 20, width=32))
quick = settings(max_examples=50, deadline=None)


def softmax(x):
    e = np.exp(np.asarray(x, np.float64) - np.max(x, -1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_cross_entropy_by_hand():
    logits = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]))
    got = jax.jit(losses.cross_entropy)(logits, jnp.array([0, 2]))
    np.testing.assert_allclose(got, [np.log(2), np.log(10)], rtol=1e-6)


def test_soft_cross_entropy_by_hand():
    logits = jnp.log(jnp.array([[0.5, 0.25, 0.25]]))
    got = jax.jit(losses.soft_cross_entropy)(logits, jnp.array([[0.5, 0.5, 0.0]]))
    np.testing.assert_allclose(got, [0.5 * np.log(2) + 0.5 * np.log(4)], rtol=1e-6)


def test_distillation_kl_by_hand():
    # At T = 2, logits of 2 log p soften to p itself: teacher (1/2, 1/2), student (3/4, 1/4).
    teacher, student = 2 * jnp.log(jnp.array([[0.5, 0.5]])), 2 * jnp.log(jnp.array([[0.75, 0.25]]))
    kl = 0.5 * np.log(0.5 / 0.75) + 0.5 * np.log(0.5 / 0.25)
    got = jax.jit(losses.distillation_kl)(student, teacher, 2.0)
    np.testing.assert_allclose(got, [4 * kl], rtol=1e-6)


def test_distillation_gradient_by_hand_and_in_the_limit():
    """d/d student = T (softmax(student/T) - softmax(teacher/T)), and -> (student - teacher) / K for large T."""
    student, teacher = jnp.array([[1.0, -2.0, 1.0]]), jnp.array([[3.0, 0.0, -3.0]])  # each of zero mean
    gradient = jax.jit(jax.grad(lambda s, t: losses.distillation_kl(s, teacher, t).sum()))
    np.testing.assert_allclose(
        gradient(student, 3.0), 3 * (softmax(student / 3) - softmax(teacher / 3)), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(gradient(student, 1000.0), (student - teacher) / 3, rtol=5e-3, atol=2e-3)


@quick
@given(LOGITS, LOGITS, st.floats(0.5, 20))
def test_distillation_kl_is_a_divergence(student, teacher, temperature):
    value = np.asarray(losses.distillation_kl(student, teacher, temperature))
    assert np.all(value >= -1e-3 * temperature**2)
    np.testing.assert_allclose(losses.distillation_kl(student, student, temperature), 0, atol=1e-3)
    p, q = softmax(teacher / temperature), softmax(student / temperature)
    expected = temperature**2 * np.sum(p * (np.log(p) - np.log(q)), -1)
    np.testing.assert_allclose(value, expected, rtol=1e-3, atol=2e-3)


@quick
@given(LOGITS, LOGITS)
def test_targets_get_no_gradient(a, b):
    for loss in (lambda s, t: losses.distillation_kl(s, t, 2.0).sum(), lambda s, t: losses.consistency_kl(s, t).sum()):
        np.testing.assert_array_equal(jax.grad(loss, argnums=1)(a, b), 0)


def test_shift_of_logits_changes_nothing():
    a, b = jnp.array([[1.0, 2.0, 3.0]]), jnp.array([[0.0, 1.0, 0.0]])
    np.testing.assert_allclose(losses.distillation_kl(a + 7, b - 5, 4.0), losses.distillation_kl(a, b, 4.0), rtol=1e-4)


def test_bfloat16_logits_give_float32_losses():
    assert losses.cross_entropy(jnp.zeros((2, 3), jnp.bfloat16), jnp.array([0, 1])).dtype == jnp.float32
    assert losses.distillation_kl(*2 * [jnp.zeros((2, 3), jnp.bfloat16)], 1.0).dtype == jnp.float32


@quick
@given(hnp.arrays(np.float32, 8, elements=st.floats(-5, 5, width=32)), hnp.arrays(np.bool_, 8))
def test_weighted_mean_is_numpys(values, mask):
    expected = values[mask].mean() if mask.any() else 0.0
    np.testing.assert_allclose(losses.weighted_mean(values, mask), expected, rtol=1e-4, atol=1e-5)


def test_weighted_mean_of_masked_nan():
    got = jax.grad(lambda v: losses.weighted_mean(v, jnp.array([1.0, 0.0])))(jnp.array([2.0, jnp.nan]))
    np.testing.assert_array_equal(got, [1, 0])
    assert losses.weighted_mean(jnp.array([2.0, jnp.nan]), jnp.array([1.0, 0.0])) == 2


def test_weighted_mean_over_devices_is_not_a_mean_of_means():
    values, weights = jnp.arange(8.0).reshape(4, 2), jnp.array([[1, 1], [1, 0], [0, 0], [0, 0]], jnp.float32)
    got = jax.pmap(lambda v, w: losses.weighted_mean(v, w, "data"), axis_name="data")(values, weights)
    np.testing.assert_allclose(got, (0 + 1 + 2) / 3)


@pytest.mark.parametrize("temperature", [0, 0.0, -1.0, float("nan"), float("inf")])
def test_bad_temperature(temperature):
    with pytest.raises(UserError, match="temperature is .*must be > 0"):
        losses.distillation_kl(jnp.zeros((1, 2)), jnp.zeros((1, 2)), temperature)


def test_bad_weights():
    with pytest.raises(UserError, match="beta is -1"):
        losses.check_weights(not_all_zero=("alpha", "beta"), alpha=1, beta=-1)
    with pytest.raises(UserError, match="alpha and beta are both 0"):
        losses.check_weights(not_all_zero=("alpha", "beta"), alpha=0.0, beta=0, labeled=1)
