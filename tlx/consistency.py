"""Consistency: what a network predicts of one view of an image is the target for another view of it.

Pi-model, Mean Teacher, UDA and FixMatch differ in the distance, in who predicts the target, in what it sees, and in
which targets count. The first and the last are here; the others belong to the step (`tlx.steps`).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from tlx import losses
from tlx.errors import UserError, did_you_mean

KINDS = ("kl", "mse", "ce")


def make_consistency(
    *, kind: str = "kl", temperature: float = 1.0, threshold: float = 0.0, hard: bool = False
) -> Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    """Builds `compare(logits, target_logits) -> (values, passed)`, all [B] for logits [B, K].

    With p the student's prediction on the noised view and q the target, from another view and without a gradient:

    - "kl": `sum_k q_k log(q_k / p_k)`, in nats: UDA (Xie et al. 2020, "Unsupervised data augmentation for consistency
      training", eq. 1, its first sum).
    - "mse": `mean_k (p_k - q_k)^2`: the Pi-model (Laine & Aila 2017, "Temporal ensembling for semi-supervised
      learning", algorithm 1) and Mean Teacher (Tarvainen & Valpola 2017).
    - "ce": `-sum_k q_k log p_k`, in nats: FixMatch (Sohn et al. 2020, eq. 4), with `hard`.

    None of the equations' numbers was checked against the papers.

    Args:
      kind: of KINDS.
      temperature: sharpens the target where it is below 1, `q = softmax(target_logits / temperature)` (UDA's 0.4).
      threshold: the least confidence, the largest probability of the target before it is sharpened, that counts.
      hard: whether q is 1 for the target's most probable class and 0 for the others.

    Returns:
      `compare`: `values` are 0 where the target is not sure enough (`passed` 0), and the mean is to be taken over all
      examples, passed or not, as UDA and FixMatch do: an unsure target makes the term smaller and not noisier.

    Raises:
      UserError: an unknown kind, a number out of range, or `hard` with a temperature that would do nothing.
    """
    check_options(kind=kind, temperature=temperature, threshold=threshold, hard=hard)

    def compare(logits: jax.Array, target_logits: jax.Array) -> tuple[jax.Array, jax.Array]:
        target_logits = jax.lax.stop_gradient(target_logits.astype(jnp.float32))
        passed = jax.nn.softmax(target_logits).max(-1) >= threshold  # [B]
        if hard:
            q = jax.nn.one_hot(jnp.argmax(target_logits, -1), logits.shape[-1])
        else:
            q = jax.nn.softmax(target_logits / temperature)
        if kind == "mse":
            p = jax.nn.softmax(logits.astype(jnp.float32))
            values = jnp.mean(optax.losses.squared_error(p, q), -1)
        elif kind == "kl" and not hard:
            values = losses.distillation_kl(logits, target_logits / temperature, 1.0)
        else:  # the entropy of a hard target is 0, so KL and cross-entropy are the same
            values = losses.soft_cross_entropy(logits, q)
        return jnp.where(passed, values, 0.0), passed

    return compare


def check_options(*, kind: str, temperature: float, threshold: float, hard: bool) -> None:
    """Raises UserError for what is no way to compare two predictions."""
    if kind not in KINDS:
        raise UserError(f"consistency.kind is {kind!r}{did_you_mean(kind, KINDS)}: use {', '.join(KINDS)}")
    losses.check_temperature(temperature, "consistency.temperature")
    if not 0 <= threshold <= 1:
        raise UserError(f"consistency.threshold is {threshold}: a confidence is in 0..1 (0 = every target counts)")
    if hard and temperature != 1:
        raise UserError(
            f"consistency.temperature is {temperature}, but consistency.hard makes the target one class, which no "
            "temperature changes: set one of them back"
        )
