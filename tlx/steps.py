"""The pure steps: supervised, distillation, self-training, evaluation.

Every factory returns a function of arrays that may be used alone, in any loop, under any of `tlx.parallel`'s
harnesses::

    step(state, batch, rng) -> (state, metrics)

What they share is one update, `tlx.update`, which says how terms become a loss; a step here is what is special to its
method: the objective and the weights of its examples.

A batch is a flat dict of arrays [B, ...], B examples:

    image   uint8 or float [B, H, W, C]
    slot    int32 [B], each example's place in the global batch (what its augmentation key is made of)
    label   int32 [B];  weight   float [B], 0 for examples whose label must not be used and for padding
    row     int32 [B], in place of the slot where an image has fixed views      (see `tlx.data.view.look`)
    partner_image, partner_label, partner_weight;  share float [B]              (mixup only)
    teacher_logits float [B, M, K], of M teachers, or their top: see `tlx.teachers`;  teacher_features [B, D]
                                                                                (distillation only)
    teacher_logits float [B, K];  teacher_weight float [B]                      (self-training only)
    labeled int8 [B], 1 for the labelled part                                   (self-training only)

`rng` is the run's root key, the same at every step; see `tlx.rng`. Metrics are pairs (sum, count), to be added up over
steps and divided at the end.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from tlx import losses
from tlx.data.view import look
from tlx.errors import UserError, did_you_mean
from tlx.update import Batch, Metrics, Schedulable, make_update, psum, value_at

PyTree = Any
# view(images, slots, key) -> float [B, H, W, C], what a network sees; key None means clean.
View = Callable[[jax.Array, jax.Array, jax.Array | None], jax.Array]
KINDS = ("kl", "dkd", "hard")


def make_supervised_step(
    *,
    apply: Callable,
    view: View,
    tx: optax.GradientTransformation,
    label_smoothing: float = 0.0,
    frozen: PyTree | None = None,
    ema_decay: float = 0.0,
    accumulate: int = 1,
    axis_name: str | None = None,
) -> Callable:
    """Cross-entropy on hard labels: training from scratch, fine-tuning and freezing (`frozen`, `tx`) alike.

    Args:
      apply: from `tlx.models.make_apply`.
      view: from images and keys to what training sees, from `tlx.data.view.make_view`.
      tx: the optimiser; `tlx.optim.make_optimizer(...).tx` or any other of optax.
      label_smoothing: see `losses.cross_entropy`.
      frozen: bool pytree like the parameters; True = not differentiated. None = all are trained.
      ema_decay: keep an average of the weights with this decay; 0 = off (then `state.ema_params` must be None).
      accumulate: split the batch in this many micro-batches, one after another, for the same update in less memory.
      axis_name: the axis of an enclosing `pmap` or `shard_map`; None under `jit`.

    Returns:
      `step(state, batch, rng) -> (state, metrics)`.
    """

    losses.check_smoothing(label_smoothing)

    def objective(variables: PyTree, step: jax.Array, batch: Batch, keys: dict) -> tuple[dict, PyTree, Metrics]:
        logits, batch_stats = _forward(apply, view, variables, batch, keys)
        values = {"cross_entropy": losses.cross_entropy(logits, batch["label"], label_smoothing)}  # [B]
        return values, batch_stats, {"accuracy": _hits(logits, batch["label"], batch["weight"])}

    return make_update(
        objective=objective,
        weights=lambda batch: {"cross_entropy": batch["weight"]},
        coefficients={"cross_entropy": 1.0},
        tx=tx,
        frozen=frozen,
        ema_decay=ema_decay,
        accumulate=accumulate,
        axis_name=axis_name,
    )


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
    fixed = {n: v for n, v in {"alpha": alpha, "beta": beta, "features": features}.items() if not callable(v)}
    losses.check_temperature(temperature)
    losses.check_weights(not_all_zero=tuple(fixed) if len(fixed) == 3 else (), **fixed)
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

    def objective(variables: PyTree, step: jax.Array, batch: Batch, keys: dict) -> tuple[dict, PyTree, Metrics]:
        out, batch_stats = _forward(apply, view, variables, batch, keys)
        logits, found = out if features else (out, None)  # [B, K], [B, D]
        values = {"cross_entropy": losses.cross_entropy(logits, batch["label"], label_smoothing)}
        metrics = {"accuracy": _hits(logits, batch["label"], batch["weight"])}
        if mixup:
            other = losses.cross_entropy(logits, batch["partner_label"], label_smoothing)
            values["cross_entropy"] = batch["share"] * values["cross_entropy"] + (1 - batch["share"]) * other
        if features:
            values["features"] = losses.feature_distance(found, batch["teacher_features"])
        if soft:
            t = value_at(temperature, step)
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


def make_self_train_step(
    *,
    apply: Callable,
    view: View,
    tx: optax.GradientTransformation,
    temperature: float,
    alpha: float,
    beta: float,
    consistency: float,
    labeled: float,
    hard: bool = False,
    frozen: PyTree | None = None,
    ema_decay: float = 0.0,
    accumulate: int = 1,
    axis_name: str | None = None,
) -> Callable:
    """One student step of Noisy Student (Xie et al. 2020b, algorithm 1), over labelled and unlabelled at once.

    The batch holds both parts, told apart by `labeled`; they go through the network in one forward pass (so BatchNorm
    sees one distribution). With S the student on the noised input, the loss is ::

          alpha * T^2 * KL(teacher_T || S_T)     over the unlabelled that passed the threshold (`teacher_weight`)
        + beta * CE(teacher || S)                the same; the teacher's distribution, or its argmax where `hard`
        + consistency * KL(S_clean || S)         over all unlabelled; S_clean is the student now, and gets no gradient
        + labeled * CE(label || S)               over the labelled

    The teacher's logits come with the batch: they were computed once for the round, on clean images.

    Args:
      temperature: T > 0.
      alpha, beta, consistency, labeled: weights of the terms, >= 0; alpha and beta not both 0.
      Others: as in `make_supervised_step`; `view` makes the noised input, with the key, and the clean one, without.

    Returns:
      `step(state, batch, rng) -> (state, metrics)`.

    Raises:
      UserError: for a temperature or weight out of range.
    """
    losses.check_temperature(temperature)
    losses.check_weights(
        not_all_zero=("alpha", "beta"), alpha=alpha, beta=beta, consistency=consistency, labeled=labeled
    )

    def objective(variables: PyTree, step: jax.Array, batch: Batch, keys: dict) -> tuple[dict, PyTree, Metrics]:
        logits, batch_stats = _forward(apply, view, variables, batch, keys)  # [B, K]
        targets = jax.nn.softmax(batch["teacher_logits"])
        if hard:
            targets = jax.nn.one_hot(jnp.argmax(batch["teacher_logits"], -1), logits.shape[-1])
        values = {
            "distill": losses.distillation_kl(logits, batch["teacher_logits"], temperature),
            "pseudo_label": losses.soft_cross_entropy(logits, targets),
            "labeled": losses.cross_entropy(logits, batch["label"]),
        }
        if consistency:
            # Without dropout and on stored statistics: the target is the network as it would predict.
            clean_logits, _ = apply(variables, view(batch["image"], batch["slot"], None), train=False)
            values["consistency"] = losses.consistency_kl(logits, clean_logits)
        same = jnp.argmax(logits, -1) == jnp.argmax(batch["teacher_logits"], -1)
        metrics = {
            "accuracy": _hits(logits, batch["label"], batch["weight"]),
            "teacher_agreement": losses.weighted_sum(same, batch["teacher_weight"]),
            # The share of the unlabelled that the threshold lets through.
            "mask_rate": losses.weighted_sum(batch["teacher_weight"] > 0, 1 - batch["labeled"]),
        }
        return values, batch_stats, metrics

    def weights(batch: Batch) -> dict[str, jax.Array]:
        terms = {
            "distill": batch["teacher_weight"],
            "pseudo_label": batch["teacher_weight"],
            "labeled": batch["weight"],
        }
        return terms | ({"consistency": 1 - batch["labeled"]} if consistency else {})

    return make_update(
        objective=objective,
        weights=weights,
        coefficients={"distill": alpha, "pseudo_label": beta, "consistency": consistency, "labeled": labeled},
        tx=tx,
        frozen=frozen,
        ema_decay=ema_decay,
        accumulate=accumulate,
        axis_name=axis_name,
    )


def make_eval_step(*, apply: Callable, view: View, axis_name: str | None = None) -> Callable:
    """Exact evaluation: `step(variables, batch) -> (metrics, logits)`.

    Padding has `weight` 0 and counts nowhere. `metrics` holds "loss" (cross-entropy, nats) and "accuracy" as
    (sum, count) over the global batch; `logits` [B, K] stay with their examples.
    """

    def step(variables: PyTree, batch: Batch) -> tuple[Metrics, jax.Array]:
        logits, _ = apply(variables, view(batch["image"], batch["slot"], None), train=False)
        metrics = {
            "loss": losses.weighted_sum(losses.cross_entropy(logits, batch["label"]), batch["weight"]),
            "accuracy": _hits(logits, batch["label"], batch["weight"]),
        }
        return psum(metrics, axis_name), logits

    return step


def _forward(apply: Callable, view: View, variables: PyTree, batch: Batch, keys: dict) -> tuple[jax.Array, PyTree]:
    """The network on the noised view of the batch: logits [B, K] (or what `apply` gives) and new batch statistics."""
    return apply(variables, look(view, batch, keys), train=True, key=keys["dropout"])


def _hits(logits: jax.Array, labels: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    return losses.weighted_sum(jnp.argmax(logits, -1) == labels, weights)
