"""The step on what a teacher says."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from tlx import losses
from tlx.errors import UserError, did_you_mean
from tlx.state import TrainState
from tlx.steps.forward import View, forward, hits, scheduled
from tlx.update import Batch, Metrics, Schedulable, make_update, value_at

PyTree = Any
KINDS = ("kl", "dkd", "hard")


def make_distill_step(
    *,
    apply: Callable,
    view: View,
    tx: optax.GradientTransformation,
    teach: Callable[[Batch, jax.Array | float], jax.Array],
    temperature: Schedulable,
    alpha: Schedulable,
    beta: Schedulable,
    kind: str = "kl",
    dkd: tuple[float, float] = (1.0, 8.0),
    standardize: bool = False,
    label_smoothing: float = 0.0,
    features: float = 0.0,
    mixup: bool = False,
    frozen: PyTree | None = None,
    ema_decay: float = 0.0,
    accumulate: int = 1,
    axis_name: str | None = None,
) -> Callable:
    """Distillation: `alpha * T^2 * KL(teacher_T || student_T) + beta * CE(labels) + features * |difference|^2`.

    Hinton, Vinyals & Dean (2015), section 2, and what has been put in place of its first term since. What the teacher
    says of the student's own view of an image (Beyer et al. 2022, "Knowledge distillation: a good teacher is patient
    and consistent") comes with the batch: computed just before (`tlx.teachers.make_teach`, with the teacher's variables
    an argument of it, so that a new teacher is no new program) or long ago, and the student cannot tell which.

    Args:
      teach: (batch, T) -> the teachers' logits at T, [B, K]; see `tlx.teachers.make_reader`.
      temperature: T > 0. This and the next two: a number, or a function of the step.
      alpha, beta: weights of the two terms, >= 0 and not both 0. Examples with `weight` 0 count in the first only.
      kind: of the first term: "kl"; "dkd", `losses.decoupled_kd`, whose target class is the label, or the teacher's
        argmax where there is none; "hard", `losses.hard_distillation`.
      dkd: weights of the target and of the other classes in "dkd".
      standardize: `losses.standardize` on both sides of the first term.
      label_smoothing: of the second term.
      features: weight of the third term, `losses.feature_distance`; `apply` then gives (logits, features), and the
        batch has "teacher_features".
      mixup: whether the batches have partners; the second term then takes both labels by their shares, where both are
        known.
      Others: as in `make_supervised_step`.

    Returns:
      `step(state, batch, rng) -> (state, metrics)`.

    Raises:
      UserError: an unknown kind; a number out of range.
    """
    if kind not in KINDS:
        raise UserError(f"loss.kind is {kind!r}{did_you_mean(kind, KINDS)}: use {', '.join(KINDS)}")
    losses.check_temperature(temperature)
    losses.check_weights(not_all_zero=("alpha", "beta", "features"), alpha=alpha, beta=beta, features=features)
    losses.check_weights(not_all_zero=("target", "non_target"), target=dkd[0], non_target=dkd[1])
    losses.check_smoothing(label_smoothing)
    soft = callable(alpha) or alpha > 0  # a teacher of features alone may have other classes

    def soft_loss(logits: jax.Array, taught: jax.Array, batch: Batch, t: jax.Array | float) -> jax.Array:
        if kind == "hard":
            return losses.hard_distillation(logits, taught)
        if standardize:
            logits, taught = losses.standardize(logits), losses.standardize(taught)
        if kind == "kl":
            return losses.distillation_kl(logits, taught, t)
        target = jnp.where(batch["weight"] > 0, batch["label"], jnp.argmax(taught, -1))
        return losses.decoupled_kd(logits, taught, target, t, target=dkd[0], non_target=dkd[1])

    def objective(variables: PyTree, state: TrainState, batch: Batch, keys: dict) -> tuple[dict, PyTree, Metrics]:
        out, batch_stats = forward(apply, view, variables, batch, keys)
        logits, found = out if features else (out, None)  # [B, K], [B, D]
        values = {"cross_entropy": losses.cross_entropy(logits, batch["label"], label_smoothing)}
        metrics = {"accuracy": hits(logits, batch["label"], batch["weight"])}
        metrics |= scheduled(state.step, temperature=temperature, alpha=alpha, beta=beta)
        if mixup:
            other = losses.cross_entropy(logits, batch["partner_label"], label_smoothing)
            values["cross_entropy"] = batch["share"] * values["cross_entropy"] + (1 - batch["share"]) * other
        if features:
            values["features"] = losses.feature_distance(found, batch["teacher_features"])
        if soft:
            t = value_at(temperature, state.step)
            taught = teach(batch, t)  # [B, K]
            values["distill"] = soft_loss(logits, taught, batch, t)
            same = jnp.argmax(logits, -1) == jnp.argmax(taught, -1)
            metrics["teacher_agreement"] = losses.weighted_sum(same, jnp.ones_like(same))
        return values, batch_stats, metrics

    def weights(batch: Batch) -> dict[str, jax.Array]:
        every = jnp.ones_like(batch["weight"])
        labeled = batch["weight"] * (batch["partner_weight"] if mixup else 1)
        terms = {"cross_entropy": labeled} | ({"distill": every} if soft else {})
        return terms | ({"features": every} if features else {})

    return make_update(
        objective=objective,
        weights=weights,
        coefficients={"distill": alpha, "cross_entropy": beta, "features": features},
        tx=tx,
        frozen=frozen,
        ema_decay=ema_decay,
        accumulate=accumulate,
        axis_name=axis_name,
    )
