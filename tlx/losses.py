"""Losses: arrays in, one float32 value per example out. No means are taken here.

The mean belongs to the step (`weighted_mean`), which alone knows the weights and the devices, so every loss below
returns `[B]`. Logits are `[B, K]`, K classes; everything is computed in float32 whatever the compute dtype.

The project has one convention for distillation, used by every recipe and printed in every report::

    alpha * T^2 * KL(teacher_T || student_T)  +  beta * CE
"""

import jax
import jax.numpy as jnp
import optax

from tlx.errors import UserError


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Cross-entropy with hard labels.

    Args:
      logits: [B, K].
      labels: int [B], in 0..K-1.

    Returns:
      [B] float32, in nats: `-log softmax(logits)[label]`.
    """
    return optax.losses.softmax_cross_entropy_with_integer_labels(_f32(logits), labels)


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


def consistency_kl(noised_logits: jax.Array, clean_logits: jax.Array) -> jax.Array:
    """`KL(softmax(clean) || softmax(noised))`: the prediction on the noised input should match the one on the clean.

    The consistency term of UDA (Xie et al. 2020a, eq. 1). The clean side is the target: no gradient flows into it.

    Args:
      noised_logits: [B, K], the student on the noised input.
      clean_logits: [B, K], the same student on the clean input.

    Returns:
      [B] float32, in nats.
    """
    return distillation_kl(noised_logits, clean_logits, 1.0)


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


def check_temperature(temperature: float | jax.Array) -> None:
    """Raises UserError for a Python number that is not a temperature. A traced value cannot be checked here."""
    if isinstance(temperature, int | float) and not 0 < temperature < float("inf"):
        raise UserError(f"temperature is {temperature}: it divides the logits and must be > 0 (1 leaves them alone)")


def check_weights(*, not_all_zero: tuple[str, ...], **weights: float) -> None:
    """Raises UserError unless every loss weight is finite and >= 0 and one at least of `not_all_zero` is > 0."""
    for name, value in weights.items():
        if not 0 <= value < float("inf"):
            raise UserError(f"{name} is {value}: a loss weight must be finite and >= 0")
    if not any(weights[name] for name in not_all_zero):
        raise UserError(f"{' and '.join(not_all_zero)} are both 0: nothing would be distilled; set one of them above 0")


def _f32(x: jax.Array) -> jax.Array:
    return jnp.asarray(x, jnp.float32)
