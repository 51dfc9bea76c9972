"""What all steps do to begin with."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from tlx import losses
from tlx.data.view import look
from tlx.update import Batch, Metrics, Schedulable

PyTree = Any
# view(images, slots, key) -> float [B, H, W, C], what a network sees; key None means clean.
View = Callable[[jax.Array, jax.Array, jax.Array | None], jax.Array]


def forward(apply: Callable, view: View, variables: PyTree, batch: Batch, keys: dict) -> tuple[jax.Array, PyTree]:
    """The network on the noised view of the batch: logits [B, K] (or what `apply` gives) and new batch statistics."""
    return apply(variables, look(view, batch, keys), train=True, key=keys["dropout"])


def hits(logits: jax.Array, labels: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The pair (weight of the right answers, weight of all)."""
    return losses.weighted_sum(jnp.argmax(logits, -1) == labels, weights)


def scheduled(step: jax.Array, **values: Schedulable) -> Metrics:
    """Those of a loss's numbers that change over the run, as metrics."""
    return {name: (jnp.float32(value(step)), jnp.float32(1)) for name, value in values.items() if callable(value)}
