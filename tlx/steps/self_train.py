"""The step of a student that sees unlabelled images too."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from tlx import losses, rng
from tlx.consistency import make_consistency
from tlx.data.view import look, make_view
from tlx.errors import UserError
from tlx.models.options import check_choice
from tlx.state import TrainState
from tlx.steps.forward import View, hits, scheduled
from tlx.update import Batch, Metrics, Schedulable, make_update, value_at

PyTree = Any
TARGETS = ("student", "ema")
SEES = ("weak", "noised")


def make_self_train_step(
    *,
    apply: Callable,
    view: View,
    tx: optax.GradientTransformation,
    temperature: Schedulable = 1.0,
    alpha: Schedulable = 0.0,
    beta: Schedulable = 0.0,
    consistency: Schedulable = 0.0,
    labeled: Schedulable = 1.0,
    hard: bool = False,
    compare: Callable | None = None,
    target: str = "student",
    target_sees: str = "weak",
    labeled_sees: str = "noised",
    weak: View | None = None,
    mixup: bool = False,
    frozen: PyTree | None = None,
    ema_decay: float = 0.0,
    accumulate: int = 1,
    axis_name: str | None = None,
) -> Callable:
    """One student step over labelled and unlabelled images at once, told apart by `labeled`.

    Both parts go through the network in one forward pass, so BatchNorm sees one distribution. With S the student on
    the noised input, the loss is ::

          alpha * T^2 * KL(teacher_T || S_T)     over the unlabelled that passed the threshold (`teacher_weight`)
        + beta * CE(teacher || S)                the same; the teacher's distribution, or its argmax where `hard`
        + consistency * compare(S, target)       over all unlabelled
        + labeled * CE(label || S)               over the labelled

    The first, second and fourth are Noisy Student's (Xie et al. 2020, "Self-training with Noisy Student improves
    ImageNet classification", algorithm 1); the teacher's logits come with the batch, computed once for the round. The
    third needs no teacher of an earlier round: its target is the network itself, at this step or averaged over the
    last ones, on another view of the same image, and no gradient flows into it. See `tlx.consistency` for the methods
    that differ in it.

    Args:
      temperature: T > 0. This and the next four: a number, or a function of the step.
      alpha, beta: weights of the teacher's terms, >= 0; with both 0 a batch needs no teacher.
      consistency, labeled: weights of the others, >= 0; not all four may be 0.
      compare: `tlx.consistency.make_consistency`'s, None = its default.
      target: who predicts the third term's target: "student", the network as it is; "ema", its averaged weights (on
        the student's statistics of BatchNorm), which `ema_decay` must keep: Mean Teacher.
      target_sees: "weak", the weak view, without dropout; "noised", another draw of all noise, dropout included.
      labeled_sees: what labelled images are seen in: "noised", as the others; "weak", as FixMatch has it.
      weak: the weak view, as `view`; None = the clean image.
      mixup: whether batches have partners: an image is mixed with another of its part, and so are their labels and
        what their teacher says, by the same shares.
      Others: as in `make_supervised_step`; `view` makes the noised input.

    Returns:
      `step(state, batch, rng) -> (state, metrics)`.

    Raises:
      UserError: for a temperature or weight out of range, an unknown word, a target that is not kept.
    """
    losses.check_temperature(temperature)
    terms = {"alpha": alpha, "beta": beta, "consistency": consistency, "labeled": labeled}
    losses.check_weights(not_all_zero=tuple(terms), **terms)
    check_choice("consistency.target", target, TARGETS)
    check_choice("consistency.sees", target_sees, SEES)
    check_choice("labeled_sees", labeled_sees, SEES)
    if target == "ema" and consistency and not ema_decay:
        raise UserError("consistency.target is 'ema', but no average is kept: set train.ema_decay, such as 0.99")
    taught, consistent = callable(alpha) or callable(beta) or alpha + beta > 0, callable(consistency) or consistency > 0
    compare, weak = compare or make_consistency(), weak or make_view()

    def see(batch: Batch, keys: dict) -> tuple[jax.Array, jax.Array]:
        """What the student sees, and what the target's network sees: [B, H, W, C] each."""
        noised, others = look(view, batch, keys), _others(keys)
        gentle = look(weak, batch, others)
        is_labeled = batch["labeled"][:, None, None, None] > 0
        seen = jnp.where(is_labeled, gentle, noised) if labeled_sees == "weak" else noised
        return seen, gentle if target_sees == "weak" else look(view, batch, others)

    def predict_target(variables: PyTree, state: TrainState, images: jax.Array, keys: dict) -> jax.Array:
        variables = variables | {"params": state.ema_params} if target == "ema" else variables
        # The weak target is the network as it would predict: without dropout, and on stored statistics.
        return apply(variables, images, train=target_sees == "noised", key=_others(keys)["dropout"])[0]

    def objective(variables: PyTree, state: TrainState, batch: Batch, keys: dict) -> tuple[dict, PyTree, Metrics]:
        images, target_images = see(batch, keys)
        logits, batch_stats = apply(variables, images, train=True, key=keys["dropout"])  # [B, K]
        values = {"labeled": losses.cross_entropy(logits, batch["label"])}
        metrics = {"accuracy": hits(logits, batch["label"], batch["weight"])}
        metrics |= scheduled(state.step, temperature=temperature, **terms)
        if mixup:
            other = losses.cross_entropy(logits, batch["partner_label"])
            values["labeled"] = batch["share"] * values["labeled"] + (1 - batch["share"]) * other
        if taught:
            t = value_at(temperature, state.step)
            said = _teacher_logits(batch, 1.0, mixup)
            values["distill"] = losses.distillation_kl(logits, _teacher_logits(batch, t, mixup), t)
            targets = _argmax_targets(batch, mixup) if hard else jax.nn.softmax(said)
            values["pseudo_label"] = losses.soft_cross_entropy(logits, targets)
            same = jnp.argmax(logits, -1) == jnp.argmax(said, -1)
            metrics["teacher_agreement"] = losses.weighted_sum(same, weights(batch)["distill"])
            # The share of the unlabelled that the threshold lets through.
            metrics["mask_rate"] = losses.weighted_sum(batch["teacher_weight"] > 0, 1 - batch["labeled"])
        if consistent:
            target_logits = predict_target(variables, state, target_images, keys)
            values["consistency"], passed = compare(logits, target_logits)
            metrics["consistency_mask_rate"] = losses.weighted_sum(passed, 1 - batch["labeled"])
        return values, batch_stats, metrics

    def weights(batch: Batch) -> dict[str, jax.Array]:
        both = lambda name: batch[name] * (batch[f"partner_{name}"] if mixup else 1)
        counted = {"labeled": both("weight")}
        if taught:
            counted |= dict.fromkeys(("distill", "pseudo_label"), both("teacher_weight"))
        return counted | ({"consistency": 1 - batch["labeled"]} if consistent else {})

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


def _others(keys: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Keys for a second draw of all noise."""
    return {name: rng.stream(key, "target") for name, key in keys.items()}


def _teacher_logits(batch: Batch, t: jax.Array | float, mixup: bool) -> jax.Array:
    """What the teacher says at T = t, as logits [B, K]; with mixup, the mixture of its distributions."""
    logits = batch["teacher_logits"]
    if not mixup:
        return logits
    own, other = (jax.nn.log_softmax(x / t) for x in (logits, batch["partner_teacher_logits"]))
    share = batch["share"][:, None]
    return t * jnp.logaddexp(jnp.log(share) + own, jnp.log1p(-share) + other)


def _argmax_targets(batch: Batch, mixup: bool) -> jax.Array:
    """The teacher's decision as a distribution, [B, K]; with mixup, the mixture of two."""
    onehot = lambda logits: jax.nn.one_hot(jnp.argmax(logits, -1), logits.shape[-1])
    if not mixup:
        return onehot(batch["teacher_logits"])
    share = batch["share"][:, None]
    return share * onehot(batch["teacher_logits"]) + (1 - share) * onehot(batch["partner_teacher_logits"])
