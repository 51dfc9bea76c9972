"""Losses against hand-computed values and limits, under jit."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tlx import ensemble, losses
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


def test_smoothed_cross_entropy_by_hand_and_as_optax_has_it():
    logits, labels = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]])), jnp.array([0, 2])
    got = jax.jit(losses.cross_entropy, static_argnums=2)(logits, labels, 0.3)
    # The target of the first row is (0.8, 0.1, 0.1), of the second (0.1, 0.1, 0.8).
    by_hand = [0.8 * np.log(2) + 0.2 * np.log(4), 0.1 * np.log(10) + 0.1 * np.log(1.25) + 0.8 * np.log(10)]
    np.testing.assert_allclose(got, by_hand, rtol=1e-6)
    targets = optax.smooth_labels(jax.nn.one_hot(labels, 3), 0.3)
    np.testing.assert_allclose(got, optax.softmax_cross_entropy(logits, targets), rtol=1e-6)
    gradient = jax.jit(jax.grad(lambda z: losses.cross_entropy(z, labels, 0.3).sum()))(logits)
    np.testing.assert_allclose(gradient, softmax(logits) - targets, atol=1e-6)


@quick
@given(LOGITS, hnp.arrays(np.int32, 4, elements=st.integers(0, 2)))
def test_without_smoothing_cross_entropy_is_optaxs_bit_for_bit(logits, labels):
    expected = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    np.testing.assert_array_equal(losses.cross_entropy(logits, labels, 0.0), expected)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, float("nan")])
def test_bad_smoothing(smoothing):
    with pytest.raises(UserError, match="smoothing is .*must be in 0..1"):
        losses.cross_entropy(jnp.zeros((1, 2)), jnp.array([0]), smoothing)


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
    loss = lambda s, t: losses.distillation_kl(s, t, 2.0).sum()
    np.testing.assert_array_equal(jax.grad(loss, argnums=1)(a, b), 0)


def test_hard_distillation_by_hand():
    """The teacher's class, of equal ones the first; a gradient for the student only."""
    student = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [0.1, 0.8, 0.1]]))
    teacher = jnp.array([[0.0, 1.0, 0.5], [3.0, 4.0, -1.0], [2.0, 1.0, 2.0]])  # classes 1, 1, 0
    loss = jax.jit(losses.hard_distillation)
    np.testing.assert_allclose(loss(student, teacher), [np.log(4), np.log(1.25), np.log(10)], rtol=1e-6)
    of_student, of_teacher = jax.jit(jax.grad(lambda s, t: loss(s, t).sum(), argnums=(0, 1)))(student, teacher)
    np.testing.assert_allclose(of_student, softmax(student) - np.eye(3)[[1, 1, 0]], atol=1e-6)
    np.testing.assert_array_equal(of_teacher, 0)


@jax.jit
def ours_and_optaxs(student, teacher, temperature):
    """Pairs of a loss and what optax makes of the same logits."""
    p, log_q = jax.nn.softmax(teacher / temperature), jax.nn.log_softmax(student / temperature)
    decided = optax.losses.softmax_cross_entropy_with_integer_labels(student, jnp.argmax(teacher, -1))
    return {
        "kl": (losses.distillation_kl(student, teacher, temperature), temperature**2 * optax.kl_divergence(log_q, p)),
        "hard": (losses.hard_distillation(student, teacher), decided),
        "features": (losses.feature_distance(student, teacher), optax.squared_error(student, teacher).mean(-1)),
        "half": (losses.feature_distance(student, teacher) / 2, optax.l2_loss(student, teacher).mean(-1)),
    }


@quick
@given(LOGITS, LOGITS, st.floats(1, 20))
def test_losses_are_as_optax_has_them(student, teacher, temperature):
    for got, expected in ours_and_optaxs(student, teacher, temperature).values():
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5 * temperature**2)


def decoupled_kd(student, teacher, labels, temperature, target, non_target):
    """From the definition, in float64."""
    kl = lambda a, b: np.sum(a * (np.log(a) - np.log(b)))
    total = []
    for z_student, z_teacher, y in zip(student, teacher, labels, strict=True):
        p, q = (softmax(np.float64(z) / temperature) for z in (z_teacher, z_student))
        p_rest, q_rest = np.delete(p, y), np.delete(q, y)
        tckd = kl(np.array([p[y], p_rest.sum()]), np.array([q[y], q_rest.sum()]))
        nckd = kl(p_rest / p_rest.sum(), q_rest / q_rest.sum())
        total.append(temperature**2 * (target * tckd + non_target * nckd))
    return total


def test_decoupled_kd_by_hand():
    # At T = 2: teacher (1/2, 1/4, 1/4), student (1/4, 1/4, 1/2), label 0.
    teacher, student = 2 * jnp.log(jnp.array([[0.5, 0.25, 0.25]])), 2 * jnp.log(jnp.array([[0.25, 0.25, 0.5]]))
    loss = jax.jit(losses.decoupled_kd)
    tckd = 0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75)
    nckd = 0.5 * np.log(0.5 / (1 / 3)) + 0.5 * np.log(0.5 / (2 / 3))
    for target, non_target in ((1.0, 0.0), (0.0, 1.0), (1.0, 8.0)):
        got = loss(student, teacher, jnp.array([0]), 2.0, target=target, non_target=non_target)
        np.testing.assert_allclose(got, [4 * (target * tckd + non_target * nckd)], rtol=1e-6)


@jax.jit
def terms_and_gradients(student, teacher, labels, temperature):
    """Distillation, and TCKD + (1 - p_y) NCKD; both gradients; and the two terms weighted 1.5 and 8."""
    rest = 1 - jnp.take_along_axis(jax.nn.softmax(teacher / temperature), labels[:, None], -1)[:, 0]
    whole = lambda s: losses.distillation_kl(s, teacher, temperature)
    parts = lambda s: losses.decoupled_kd(s, teacher, labels, temperature, target=1.0, non_target=rest)
    gradients = [jax.grad(lambda s, f=f: f(s).sum())(student) for f in (whole, parts)]
    weighted = losses.decoupled_kd(student, teacher, labels, temperature, target=1.5, non_target=8.0)
    return whole(student), parts(student), *gradients, weighted


@quick
@given(LOGITS, LOGITS, hnp.arrays(np.int32, 4, elements=st.integers(0, 2)), st.floats(2, 20))
def test_distillation_is_tckd_and_a_suppressed_nckd(student, teacher, labels, temperature):
    kd, parts, kd_gradient, parts_gradient, weighted = terms_and_gradients(student, teacher, labels, temperature)
    np.testing.assert_allclose(parts, kd, rtol=1e-4, atol=2e-3)
    np.testing.assert_allclose(parts_gradient, kd_gradient, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(weighted, decoupled_kd(student, teacher, labels, temperature, 1.5, 8.0), 1e-3, 2e-2)


def test_decoupled_kd_of_a_teacher_that_is_sure():
    """Right, wrong and by more than float32's exponents reach: finite in value and gradient, and the limit's value."""
    teacher = jnp.array([[1e4, 0.0, 0.0], [0.0, 1e4, 0.0], [-1e4, 0.0, 0.0], [200.0, 100.0, 0.0]])
    student = jnp.array([[1.0, 2.0, 4.0], [1.0, 2.0, 4.0], [1e4, -1e4, 0.0], [0.0, 0.0, 0.0]])
    labels = jnp.zeros(4, jnp.int32)
    loss = lambda s, t: losses.decoupled_kd(s, t, labels, 1.0, target=1.0, non_target=1.0)
    value = jax.jit(loss)(student, teacher)
    of_student, of_teacher = jax.jit(jax.grad(lambda s, t: loss(s, t).sum(), argnums=(0, 1)))(student, teacher)
    assert np.isfinite(value).all() and np.isfinite(of_student).all()
    np.testing.assert_array_equal(of_teacher, 0)
    q = softmax(student[0])
    rest = q[1:] / q[1:].sum()
    np.testing.assert_allclose(value[0], -np.log(q[0]) + np.sum(0.5 * (np.log(0.5) - np.log(rest))), rtol=1e-5)
    np.testing.assert_allclose(value[3], np.log(3) + np.log(2), rtol=1e-5)


def test_decoupled_kd_of_two_classes_has_no_other_classes():
    a, b = jnp.array([[1.0, -2.0]]), jnp.array([[0.5, 3.0]])
    got = jax.jit(losses.decoupled_kd)(a, b, jnp.array([1]), 3.0, target=1.0, non_target=100.0)
    np.testing.assert_allclose(got, losses.distillation_kl(a, b, 3.0), rtol=1e-5)


def test_standardize_by_hand():
    got = jax.jit(losses.standardize)(jnp.array([[1.0, 5.0, 3.0], [-2.0, 2.0, 0.0]]))
    # The last is 0 up to the mean's rounding, which is that of the order in which three numbers are added.
    np.testing.assert_allclose(got, np.sqrt(1.5) * np.array([[-1, 1, 0], [-1, 1, 0]]), rtol=1e-6, atol=1e-7)


def test_standardize_on_the_papers_toy_case():
    """Sun et al. (2024), figure 2, their scores over K - 1: a student that ranks as the teacher has a loss of 0."""
    teacher = jnp.array([[-3.0, 3.0, 1.0, -1.0]])
    first, second = jnp.array([[-6.0, 3.0, 4.0, -1.0]]), 0.1 * teacher + 0.2
    z = jax.jit(losses.standardize)
    published = [-1.162, 1.162, 0.387, -0.387], [-1.320, 0.660, 0.880, -0.22]
    for logits, expected in zip((teacher, first), published, strict=True):
        np.testing.assert_allclose(z(logits)[0] * np.sqrt(3 / 4), expected, atol=6e-4)
    temperature = np.sqrt(4 / 3)
    loss = jax.jit(lambda s: losses.distillation_kl(z(s), z(teacher), temperature) / temperature**2)
    np.testing.assert_allclose(loss(first), 0.0995, atol=1e-4)
    np.testing.assert_allclose(loss(second), 0, atol=1e-6)


@pytest.mark.parametrize("row", [[0.0, 0.0, 0.0], [0.1, 0.1, 0.1], [1e5 + 0.1] * 3])
def test_standardize_of_equal_logits_is_zero_in_value_and_gradient(row):
    logits, teacher = jnp.array([row]), jnp.array([[1.0, 2.0, 4.0]])
    np.testing.assert_array_equal(losses.standardize(logits), 0)
    loss = lambda z: losses.distillation_kl(losses.standardize(z), losses.standardize(teacher), 2.0).sum()
    np.testing.assert_array_equal(jax.jit(jax.grad(loss))(logits), 0)


def test_standardize_gradient_by_hand():
    """With z the scores and g the gradient by them: (g - mean(g) - z mean(g z)) / deviation."""
    logits, g = jnp.array([[1.0, 5.0, 3.0, -2.0]]), np.array([[0.3, -1.0, 2.0, 0.1]])
    got = jax.jit(jax.grad(lambda x: jnp.sum(g * losses.standardize(x))))(logits)
    z = (logits - np.mean(logits)) / np.std(logits)
    np.testing.assert_allclose(got, (g - g.mean() - z * np.mean(g * z)) / np.std(logits), rtol=1e-4, atol=1e-6)


combine = jax.jit(ensemble.combine_teachers, static_argnames=("weights", "by"))


def test_ensemble_by_probabilities_has_the_mean_of_the_softened_distributions():
    # At T = 2: (1/2, 1/4, 1/4) and (1/10, 8/10, 1/10).
    members = 2 * jnp.log(jnp.array([[[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]])) + jnp.array([[[3.0], [-5.0]]])
    np.testing.assert_allclose(softmax(combine(members, 2.0) / 2), [[0.3, 0.525, 0.175]], rtol=1e-5)
    weighted = combine(members, 2.0, weights=(3, 1))
    np.testing.assert_allclose(softmax(weighted / 2), [[0.4, 0.3875, 0.2125]], rtol=1e-5)


def test_ensemble_by_logits_by_hand():
    members = jnp.array([[[1.0, 2.0, 3.0], [5.0, 0.0, -1.0]], [[0.0, 0.0, 0.0], [1.0, 2.0, 4.0]]])
    np.testing.assert_allclose(combine(members, 4.0, by="logits"), [[3, 1, 1], [0.5, 1, 2]], rtol=1e-6)
    np.testing.assert_allclose(combine(members, 9.0, weights=(1.5, 0.5), by="logits")[0], [2, 1.5, 2], rtol=1e-6)


@pytest.mark.parametrize("by", ensemble.COMBINE_BY)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16])
def test_an_ensemble_of_one_is_that_one_bit_for_bit(by, dtype):
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(5, 2, 7)) * 100, dtype)
    for got in (
        combine(logits[:, :1], 3.7, by=by),
        combine(logits[:, :1], 3.7, weights=(0.3,), by=by),
        combine(logits.at[:, 1].set(jnp.nan), 3.7, weights=(2, 0), by=by),
    ):
        assert got.dtype == jnp.float32
        np.testing.assert_array_equal(got, logits[:, 0].astype(jnp.float32))


@pytest.mark.parametrize("by", ensemble.COMBINE_BY)
def test_an_ensemble_of_equals_and_of_opposites(by):
    same = np.tile(np.float32([[[2.0, -1.0, 0.5]]]), (1, 3, 1))
    np.testing.assert_allclose(softmax(combine(same, 2.0, by=by)), softmax(same[:, 0]), rtol=1e-5)
    # Each sure of another class, beyond float32's exponents: half and half, not NaN.
    sure = jnp.array([[[1e4, 0.0, 0.0], [0.0, 1e4, 0.0]]])
    np.testing.assert_allclose(softmax(combine(sure, 1.0, by=by)), [[0.5, 0.5, 0]], rtol=1e-3)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"weights": (1, -1)}, "weight is -1: it must be finite and >= 0"),
        ({"weights": (1, float("nan"))}, "weight is nan"),
        ({"weights": (1, float("inf"))}, "weight is inf"),
        ({"weights": (1, "2")}, "weight is '2'"),
        ({"weights": (0, 0.0)}, "one at least must be above 0"),
        ({"weights": (1, 1, 1)}, r"are \(1, 1, 1\), but there are 2 teachers"),
        ({"by": "probability"}, "did you mean 'probabilities'"),
        ({"temperature": 0.0}, "temperature is 0.0"),
    ],
)
def test_bad_ensembles(kwargs, message):
    with pytest.raises(UserError, match=message):
        ensemble.combine_teachers(jnp.zeros((1, 2, 3)), **{"temperature": 1.0} | kwargs)


def test_feature_distance_by_hand():
    student, teacher = jnp.array([[1.0, 2.0, 3.0, 4.0], [0.0] * 4]), jnp.array([[1.0, 0.0, 6.0, 4.0], [0.0] * 4])
    loss = jax.jit(losses.feature_distance)
    np.testing.assert_allclose(loss(student, teacher), [(4 + 9) / 4, 0], rtol=1e-6)
    of_student, of_teacher = jax.jit(jax.grad(lambda s, t: loss(s, t).sum(), argnums=(0, 1)))(student, teacher)
    np.testing.assert_allclose(of_student, (student - teacher) * 2 / 4, rtol=1e-6)
    np.testing.assert_array_equal(of_teacher, 0)
    with pytest.raises(UserError, match=r"\(2, 4\) and the teacher's \(2, 3\): project"):
        losses.feature_distance(student, teacher[:, :3])


def test_shift_of_logits_changes_nothing():
    a, b = jnp.array([[1.0, 2.0, 3.0]]), jnp.array([[0.0, 1.0, 0.0]])
    np.testing.assert_allclose(losses.distillation_kl(a + 7, b - 5, 4.0), losses.distillation_kl(a, b, 4.0), rtol=1e-4)


def test_bfloat16_logits_give_float32_losses():
    logits, labels = jnp.zeros((2, 3), jnp.bfloat16), jnp.array([0, 1])
    for loss in (
        lambda z: losses.cross_entropy(z, labels),
        lambda z: losses.cross_entropy(z, labels, 0.1),
        lambda z: losses.distillation_kl(z, z, 1.0),
        lambda z: losses.hard_distillation(z, z),
        lambda z: losses.decoupled_kd(z, z, labels, 1.0, target=1.0, non_target=1.0),
        lambda z: losses.feature_distance(z, z),
    ):
        assert jax.eval_shape(loss, logits) == jax.ShapeDtypeStruct((2,), jnp.float32)


@quick
@given(hnp.arrays(np.float32, 8, elements=st.floats(-5, 5, width=32)), hnp.arrays(np.bool_, 8))
def test_weighted_mean_is_numpys(values, mask):
    expected = values[mask].mean() if mask.any() else 0.0
    np.testing.assert_allclose(losses.weighted_mean(values, mask), expected, rtol=1e-4, atol=1e-5)


def test_weighted_mean_of_masked_nan():
    got = jax.grad(lambda v: losses.weighted_mean(v, jnp.array([1.0, 0.0])))(jnp.array([2.0, jnp.nan]))
    np.testing.assert_array_equal(got, [1, 0])
    assert losses.weighted_mean(jnp.array([2.0, jnp.nan]), jnp.array([1.0, 0.0])) == 2


@pytest.mark.four_devices
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
    with pytest.raises(UserError, match="alpha and beta are all 0"):
        losses.check_weights(not_all_zero=("alpha", "beta"), alpha=0.0, beta=0, labeled=1)


def test_loss_weights():
    losses.check_weights(not_all_zero=("alpha", "beta"), alpha=0, beta=0.5)
    losses.check_weights(not_all_zero=(), alpha=0)  # the other weights are another's affair
    with pytest.raises(UserError, match="beta is -1"):
        losses.check_weights(not_all_zero=(), beta=-1)
    with pytest.raises(UserError, match="alpha and beta are all 0"):
        losses.check_weights(not_all_zero=("alpha", "beta"), alpha=0, beta=0.0)
