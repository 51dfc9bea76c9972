"""Gradient transformations that optax lacks: a bound on each unit's weights, and a pull to where training began."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

PyTree = Any


def max_norm(limit: float) -> optax.GradientTransformation:
    """Scales down the weights into each unit whose norm the update would bring above `limit`; the others' update stays.

    The max-norm constraint of Srivastava et al. (2014), "Dropout: A Simple Way to Prevent Neural Networks from
    Overfitting", section 5.1 (not checked against the paper): the weights are projected onto the ball of that radius.
    Optax has projections of whole trees only. A unit is the last axis of a kernel, [in, out] or [h, w, in, out], and
    the norm (L2, to float32's rounding) is over all other axes; arrays of rank below 2 (biases, norms) are left alone.
    Must stand last in a chain.
    """

    def update(updates: PyTree, state: optax.EmptyState, params: PyTree) -> tuple[PyTree, optax.EmptyState]:
        def project(u: jax.Array, p: jax.Array) -> jax.Array:
            if p.ndim < 2:
                return u
            new = p + u
            norm = jnp.sqrt(jnp.sum(new**2, axis=tuple(range(p.ndim - 1)), keepdims=True))
            # The update itself within the ball, not (p + u) - p, which rounds.
            return jnp.where(norm > limit, new * (limit / jnp.maximum(norm, limit)) - p, u)

        return jax.tree.map(project, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def pull_to_start(strength: float) -> optax.GradientTransformation:
    """Adds `strength * (p - p0)`, p0 the parameters at `init`: L2-SP's pull to the pre-trained weights.

    Li, Grandvalet & Davoine (2018), "Explicit Inductive Bias for Transfer Learning with Convolutional Networks",
    section 3.2. Theirs is a penalty in the loss; here it stands behind the optimiser's scaling, as `weight_decay` does:
    under plain SGD the same. The state keeps p0, so a resumed run is pulled to where it began.
    """

    def update(updates: PyTree, start: PyTree, params: PyTree) -> tuple[PyTree, PyTree]:
        return jax.tree.map(lambda u, p, p0: u + strength * (p - p0), updates, params, start), start

    # A copy: the step donates its state, and one buffer cannot be donated twice.
    return optax.GradientTransformation(lambda params: jax.tree.map(jnp.copy, params), update)
