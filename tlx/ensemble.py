"""Several teachers as one: from their logits to logits, before any loss."""

import numbers
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from tlx.errors import UserError, did_you_mean
from tlx.losses import check_temperature

COMBINE_BY = ("probabilities", "logits")


def combine_teachers(
    teacher_logits: jax.Array,
    temperature: float | jax.Array,
    *,
    weights: Sequence[float] | None = None,
    by: str = "probabilities",
) -> jax.Array:
    """The logits of an ensemble: what to give as `teacher_logits` to the losses at the same temperature.

    With z_m the members' logits and w_m their weights, scaled to add up to 1, the result is, by ::

        "probabilities"   T * log sum_m w_m softmax(z_m / T)   whose softmax at T is the mean of the members' at T
        "logits"          sum_m w_m z_m                        their geometric mean, whatever the temperature

    Both means are of Hinton, Vinyals & Dean (2015), section 1 (not checked against the paper). A member of weight 0 is
    left out; where one member remains, its logits are returned bit for bit.

    Args:
      teacher_logits: [B, M, K], M members.
      temperature: T > 0, a number or a scalar array.
      weights: M numbers >= 0, not all 0; None = equal.
      by: one of COMBINE_BY.

    Returns:
      [B, K] float32.

    Raises:
      UserError: as `check_ensemble`; a `temperature` that is a Python number and not > 0.
    """
    members = teacher_logits.shape[1]
    check_temperature(temperature)
    check_ensemble(members, weights=weights, by=by)
    shares = np.ones(members) if weights is None else np.asarray(weights, np.float64)
    kept = np.flatnonzero(shares)
    logits = jnp.asarray(teacher_logits, jnp.float32)[:, kept]  # [B, m, K]
    shares = jnp.asarray(shares[kept] / shares.sum(), jnp.float32)[:, None]  # [m, 1]
    if len(kept) == 1:
        return logits[:, 0]
    if by == "logits":
        return jnp.sum(shares * logits, 1)
    return temperature * jax.nn.logsumexp(jax.nn.log_softmax(logits / temperature) + jnp.log(shares), 1)


def check_ensemble(members: int, *, weights: Sequence[float] | None, by: str) -> None:
    """Raises UserError unless `weights` are `members` finite numbers >= 0, not all 0, and `by` is in COMBINE_BY."""
    if by not in COMBINE_BY:
        raise UserError(f"combine is by {by!r}{did_you_mean(by, COMBINE_BY)}: use one of {', '.join(COMBINE_BY)}")
    if weights is None:
        return
    if len(weights) != members:
        raise UserError(f"teacher weights are {tuple(weights)}, but there are {members} teachers: give one weight each")
    for weight in weights:
        if not (isinstance(weight, numbers.Real) and 0 <= weight < float("inf")):
            raise UserError(f"a teacher's weight is {weight!r}: it must be finite and >= 0 (0 leaves the teacher out)")
    if not any(weights):
        raise UserError(f"teacher weights are {tuple(weights)}: one at least must be above 0")
