"""The step of a noisy student."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from tlx import losses
from tlx.steps.forward import View, forward, hits
from tlx.update import Batch, Metrics, make_update

PyTree = Any


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
        logits, batch_stats = forward(apply, view, variables, batch, keys)  # [B, K]
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
            "accuracy": hits(logits, batch["label"], batch["weight"]),
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
