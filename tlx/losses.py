"""Losses: arrays in, one float32 value per example out. No means are taken here.

The mean belongs to the step (`weighted_mean`), which alone knows the weights and the devices, so every loss below
returns `[B]`. Logits are `[B, K]`, K classes; everything is computed in float32 whatever the compute dtype.

The project has one convention for distillation, used by every recipe and printed in every report::

    alpha * T^2 * KL(teacher_T || student_T)  +  beta * CE

The other losses of distillation stand in the first term's place: `decoupled_kd` and `hard_distillation`, or the same
term of standardised logits (`standardize`) or of an ensemble's (`tlx.ensemble`). `feature_distance` is added.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from tlx.errors import UserError


def cross_entropy(logits: jax.Array, labels: jax.Array, smoothing: float = 0.0) -> jax.Array:
    """Cross-entropy with hard labels, or with `(1 - s) onehot(label) + s / K`: label smoothing.

    Szegedy et al. (2016), "Rethinking the Inception Architecture for Computer Vision", section 7 (not checked against
    the paper).

    Args:
      logits: [B, K].
      labels: int [B], in 0..K-1.
      smoothing: s in 0..1, 1 excluded.

    Returns:
      [B] float32, in nats: `-log softmax(logits)[label]` where s is 0.

    Raises:
      UserError: `smoothing` out of range.
    """
    check_smoothing(smoothing)
    if not smoothing:
        return optax.losses.softmax_cross_entropy_with_integer_labels(_f32(logits), labels)
    onehot = jax.nn.one_hot(labels, logits.shape[-1])  # [B, K]
    return soft_cross_entropy(logits, optax.losses.smooth_labels(onehot, smoothing))


def soft_cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Cross-entropy with a distribution over classes: `-sum_k targets_k log softmax(logits)_k`.

    Args:
      logits: [B, K].
      targets: [B, K], each row a distribution. No gradient flows into it.

    Returns:
      [B] float32, in nats.
    """
    return optax.losses.softmax_cross_entropy(_f32(logits), jax.lax.stop_gradient(_f32(targets)))


def distillation_kl(student_logits: jax.Array, teacher_logits: jax.Array, temperature: float | jax.Array) -> jax.Array:
    """`T^2 * KL(softmax(teacher / T) || softmax(student / T))`.

    The soft-target term of Hinton, Vinyals & Dean (2015), section 2. The gradients of softened targets scale as 1/T^2,
    so the factor T^2 keeps their size when T changes; as T grows, with logits of zero mean, the gradient approaches
    `(student - teacher) / K` (their eq. 4, times T^2). The paper uses the cross-entropy; the KL differs from it by the
    teacher's entropy, which no gradient sees, and is 0 when the student has matched the teacher.

    Args:
      student_logits: [B, K].
      teacher_logits: [B, K]. No gradient flows into them.
      temperature: T > 0, a number or a scalar array (a schedule's value).

    Returns:
      [B] float32, in nats times T^2.

    Raises:
      UserError: if `temperature` is a Python number and not > 0.
    """
    check_temperature(temperature)
    student = jax.nn.log_softmax(_f32(student_logits) / temperature)
    teacher = jax.nn.log_softmax(jax.lax.stop_gradient(_f32(teacher_logits)) / temperature)
    return temperature**2 * optax.losses.kl_divergence_with_log_targets(student, teacher)


def hard_distillation(student_logits: jax.Array, teacher_logits: jax.Array) -> jax.Array:
    """Cross-entropy with the teacher's decision as the label; no temperature. From logits [B, K], [B] float32 in nats.

    DeiT's hard-label distillation (Touvron et al. 2021, section 4, eq. 3) is the mean of this and the cross-entropy of
    the true label: alpha = beta = 1/2. Of equal logits of the teacher the first class counts.
    """
    return cross_entropy(student_logits, jnp.argmax(teacher_logits, -1))


def decoupled_kd(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    labels: jax.Array,
    temperature: float | jax.Array,
    *,
    target: float | jax.Array,
    non_target: float | jax.Array,
) -> jax.Array:
    """`T^2 * (target * TCKD + non_target * NCKD)`: decoupled knowledge distillation.

    Zhao et al. (2022), "Decoupled Knowledge Distillation", eq. 7 (not checked against the paper, but against their
    code, which has the T^2). With p the distributions at temperature T and y the label, TCKD is the KL between the
    two-class distributions (p_y, 1 - p_y), and NCKD that between the distributions over the other K - 1 classes, scaled
    to add up to 1. By the chain rule of the KL (their eq. 6) ::

        KL(teacher || student) = TCKD + (1 - p_y of the teacher) * NCKD

    so plain distillation all but ignores the other classes where the teacher is sure of y.

    Args:
      student_logits: [B, K], K >= 2.
      teacher_logits: [B, K]. No gradient flows into them.
      labels: int [B], in 0..K-1.
      temperature: T > 0, a number or a scalar array.
      target, non_target: weights of the two terms, numbers or scalar arrays; not checked here (`check_weights`).

    Returns:
      [B] float32, in nats times T^2.

    Raises:
      UserError: if `temperature` is a Python number and not > 0.
    """
    check_temperature(temperature)
    labels = labels[:, None]  # [B, 1]

    def split(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = _f32(logits)
        own = jnp.take_along_axis(logits, labels, -1)  # [B, 1]
        # The last class takes the label's place: without masks there is no log of 0, however sure the teacher is.
        others = jnp.where(jnp.arange(logits.shape[-1] - 1) == labels, logits[:, -1:], logits[:, :-1])  # [B, K-1]
        # The logit at T of "any other class": softmax(pair / T) is (p_y, 1 - p_y).
        rest = temperature * jax.nn.logsumexp(others / temperature, -1, keepdims=True)
        return jnp.concatenate([own, rest], -1), others

    (student_pair, student_others), (teacher_pair, teacher_others) = split(student_logits), split(teacher_logits)
    tckd = distillation_kl(student_pair, teacher_pair, temperature)
    nckd = distillation_kl(student_others, teacher_others, temperature)
    return target * tckd + non_target * nckd


def standardize(logits: jax.Array) -> jax.Array:
    """Each row's logits less their mean, over their standard deviation: logit standardisation.

    Sun et al. (2024), "Logit Standardization in Knowledge Distillation", algorithm 1: for student and teacher both,
    before the temperature (not for the labels' cross-entropy), so that the student need not match the teacher's scale.
    The variance is a mean over K, as printed there. Their code and figure 2 divide by K - 1: the same as here at
    sqrt(K / (K - 1)) times the temperature.

    From logits [B, K], [B, K] float32, each row of mean 0 and variance 1. A row of equal logits gives 0, with a
    gradient of 0: a head that starts at zero learns nothing from a distillation term alone.
    """
    logits = _f32(logits)
    # Any shift cancels. This one makes equal logits exactly 0, where the mean's rounding would be left, and scaled up.
    shifted = logits - jax.lax.stop_gradient(logits[..., :1])
    centered = shifted - jnp.mean(shifted, -1, keepdims=True)
    variance = jnp.mean(centered**2, -1, keepdims=True)
    return centered * jnp.where(variance > 0, jax.lax.rsqrt(jnp.where(variance > 0, variance, 1.0)), 0.0)


def feature_distance(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """The mean over the features of the squared difference.

    FitNets' hint loss (Romero et al. 2015, eq. 3; not checked against the paper) is half the squared L2 norm of the
    difference, D / 2 times this one: here the weight of the term need not change with the layer's width.

    From features [B, D] each, [B] float32. No gradient flows into the teacher's. Raises UserError where shapes differ.
    """
    if student.shape != teacher.shape:
        raise UserError(
            f"the student's features are {student.shape} and the teacher's {teacher.shape}: project the student's first"
        )
    return jnp.mean(optax.losses.squared_error(_f32(student), jax.lax.stop_gradient(_f32(teacher))), -1)


def weighted_mean(values: jax.Array, weights: jax.Array, axis_name: str | None = None) -> jax.Array:
    """`sum_i w_i v_i / sum_i w_i` over the global batch, exact however the weights fall on the devices.

    Numerator and denominator are summed over `axis_name` apart: a mean of per-device ratios would weigh a device with
    one unmasked example as much as one with a hundred. A batch without any weight gives 0, not NaN.

    Args:
      values: [B]; a value whose weight is 0 may be anything, NaN included.
      weights: [B], >= 0.
      axis_name: the axis of an enclosing `pmap` or `shard_map`, or None.

    Returns:
      Scalar float32.
    """
    total, count = weighted_sum(values, weights)
    if axis_name is not None:
        total, count = jax.lax.psum((total, count), axis_name)
    return jnp.where(count > 0, total / jnp.where(count > 0, count, 1), 0.0)


def weighted_sum(values: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The pair `(sum_i w_i v_i, sum_i w_i)`, local to the device: what metrics are made of."""
    weights = _f32(weights)
    # `where` and not only the product: 0 * NaN is NaN, and padding may hold anything.
    return jnp.sum(jnp.where(weights > 0, _f32(values) * weights, 0.0)), jnp.sum(weights)


def check_temperature(temperature: float | jax.Array, name: str = "temperature") -> None:
    """Raises UserError for a Python number that is not a temperature. A traced value cannot be checked here."""
    if isinstance(temperature, int | float) and not 0 < temperature < float("inf"):
        raise UserError(f"{name} is {temperature}: it divides the logits and must be > 0 (1 leaves them alone)")


def check_smoothing(smoothing: float) -> None:
    """Raises UserError for what is not an amount of label smoothing."""
    if not 0 <= smoothing < 1:
        raise UserError(f"smoothing is {smoothing}: it must be in 0..1, 1 excluded (0 = off)")


def check_weights(*, not_all_zero: tuple[str, ...], **weights: float | Callable) -> None:
    """Raises UserError unless every loss weight is finite and >= 0 and one at least of `not_all_zero`, if any, > 0.

    A function of the step cannot be checked here (`tlx.loss_schedule.check_range` can) and counts as above 0.
    """
    for name, value in weights.items():
        if not callable(value) and not 0 <= value < float("inf"):
            raise UserError(f"{name} is {value}: a loss weight must be finite and >= 0")
    if not_all_zero and not any(weights[name] for name in not_all_zero):
        raise UserError(f"{' and '.join(not_all_zero)} are all 0: nothing would be learnt; set one of them above 0")


def checks(*names: str) -> dict[str, Callable[[float], None]]:
    """name -> the check of its value: "temperature" as a temperature, any other as a loss weight."""
    weight = lambda name: lambda value: check_weights(not_all_zero=(), **{name: value})
    return {name: check_temperature if name == "temperature" else weight(name) for name in names}


def _f32(x: jax.Array) -> jax.Array:
    return jnp.asarray(x, jnp.float32)
