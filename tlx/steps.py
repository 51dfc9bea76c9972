"""The pure steps: supervised, distillation, self-training, evaluation.

Every factory returns a function of arrays that may be used alone, in any loop, under any of `tlx.parallel`'s
harnesses::

    step(state, [teacher,] batch, rng) -> (state, metrics)

What they share is one update, `tlx.update`, which says how terms become a loss; a step here is what is special to its
method: the objective and the weights of its examples.

A batch is a flat dict of arrays [B, ...], B examples:

    image   uint8 or float [B, H, W, C]
    slot    int32 [B], each example's place in the global batch (what its augmentation key is made of)
    label   int32 [B];  weight   float [B], 0 for examples whose label must not be used and for padding
    teacher_logits float [B, K];  teacher_weight float [B]      (self-training only)
    labeled int8 [B], 1 for the labelled part                    (self-training only)

`rng` is the run's root key, the same at every step; see `tlx.rng`. Metrics are pairs (sum, count), to be added up over
steps and divided at the end.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from tlx import losses
from tlx.update import Batch, Metrics, make_update, psum

PyTree = Any
# view(images, slots, key) -> float [B, H, W, C], what a network sees; key None means clean.
View = Callable[[jax.Array, jax.Array, jax.Array | None], jax.Array]


def make_supervised_step(
    *,
    apply: Callable,
    view: View,
    tx: optax.GradientTransformation,
    frozen: PyTree | None = None,
    ema_decay: float = 0.0,
    accumulate: int = 1,
    axis_name: str | None = None,
) -> Callable:
    """Cross-entropy on hard labels: training from scratch, fine-tuning and freezing (`frozen`, `tx`) alike.

    Args:
      apply: from `tlx.models.make_apply`.
      view: augmentation and normalisation, from `tlx.data.make_view`.
      tx: the optimiser; `tlx.optim.make_optimizer(...).tx` or any other of optax.
      frozen: bool pytree like the parameters; True = not differentiated. None = all are trained.
      ema_decay: keep an average of the weights with this decay; 0 = off (then `state.ema_params` must be None).
      accumulate: split the batch in this many micro-batches, one after another, for the same update in less memory.
      axis_name: the axis of an enclosing `pmap` or `shard_map`; None under `jit`.

    Returns:
      `step(state, batch, rng) -> (state, metrics)`.
    """

    def objective(variables: PyTree, extra: None, batch: Batch, keys: dict) -> tuple[dict, PyTree, Metrics]:
        logits, batch_stats = _forward(apply, view, variables, batch, keys)
        values = {"cross_entropy": losses.cross_entropy(logits, batch["label"])}  # [B]
        return values, batch_stats, {"accuracy": _hits(logits, batch["label"], batch["weight"])}

    update = make_update(
        objective=objective,
        weights=lambda batch: {"cross_entropy": batch["weight"]},
        coefficients={"cross_entropy": 1.0},
        tx=tx,
        frozen=frozen,
        ema_decay=ema_decay,
        accumulate=accumulate,
        axis_name=axis_name,
    )
    return lambda state, batch, rng: update(state, None, batch, rng)


def make_distill_step(
    *,
    apply: Callable,
    teacher_apply: Callable,
    view: View,
    tx: optax.GradientTransformation,
    temperature: float,
    alpha: float,
    beta: float,
    frozen: PyTree | None = None,
    ema_decay: float = 0.0,
    accumulate: int = 1,
    axis_name: str | None = None,
) -> Callable:
    """Distillation from a live teacher: `alpha * T^2 * KL(teacher_T || student_T) + beta * CE(labels)`.

    Hinton, Vinyals & Dean (2015), section 2. The teacher sees the student's own view of each image (Beyer et al. 2022,
    "Knowledge distillation: a good teacher is patient and consistent"), without dropout. Its variables are an argument
    of the step and not closed over: a new teacher is other data, not another program.

    Args:
      temperature: T > 0.
      alpha, beta: weights of the two terms, >= 0 and not both 0. Examples with `weight` 0 count in the first only.
      teacher_apply: of the teacher, which may be another network with the same classes.
      Others: as in `make_supervised_step`.

    Returns:
      `step(state, teacher, batch, rng) -> (state, metrics)`, `teacher` = {"params": ..., "batch_stats": ...}.

    Raises:
      UserError: for a temperature or weight out of range.
    """
    losses.check_temperature(temperature)
    losses.check_weights(not_all_zero=("alpha", "beta"), alpha=alpha, beta=beta)

    def objective(variables: PyTree, teacher: PyTree, batch: Batch, keys: dict) -> tuple[dict, PyTree, Metrics]:
        images = view(batch["image"], batch["slot"], keys["augment"])  # [B, H, W, C]
        logits, batch_stats = apply(variables, images, train=True, key=keys["dropout"])  # [B, K]
        teacher_logits, _ = teacher_apply(teacher, images, train=False)
        values = {
            "distill": losses.distillation_kl(logits, teacher_logits, temperature),
            "cross_entropy": losses.cross_entropy(logits, batch["label"]),
        }
        same = jnp.argmax(logits, -1) == jnp.argmax(teacher_logits, -1)
        metrics = {
            "accuracy": _hits(logits, batch["label"], batch["weight"]),
            "teacher_agreement": losses.weighted_sum(same, jnp.ones_like(same)),
        }
        return values, batch_stats, metrics

    return make_update(
        objective=objective,
        weights=lambda batch: {"distill": jnp.ones_like(batch["weight"]), "cross_entropy": batch["weight"]},
        coefficients={"distill": alpha, "cross_entropy": beta},
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

    def objective(variables: PyTree, extra: None, batch: Batch, keys: dict) -> tuple[dict, PyTree, Metrics]:
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

    update = make_update(
        objective=objective,
        weights=weights,
        coefficients={"distill": alpha, "pseudo_label": beta, "consistency": consistency, "labeled": labeled},
        tx=tx,
        frozen=frozen,
        ema_decay=ema_decay,
        accumulate=accumulate,
        axis_name=axis_name,
    )
    return lambda state, batch, rng: update(state, None, batch, rng)


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
    """The network on the noised view of the batch: logits [B, K] and the new batch statistics."""
    return apply(variables, view(batch["image"], batch["slot"], keys["augment"]), train=True, key=keys["dropout"])


def _hits(logits: jax.Array, labels: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    return losses.weighted_sum(jnp.argmax(logits, -1) == labels, weights)
