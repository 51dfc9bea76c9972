"""Gradient transformations that optax lacks: a bound on each unit's weights, and a pull to where training began."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

PyTree = Any


def max_norm(limit: float) -> optax.GradientTransformation:
    """After the update, scales down each unit's incoming weights to norm `limit` at most.

    The constraint of Hinton et al. (2012), "Improving neural networks by preventing co-adaptation", section 2. A unit
    is the last axis of a kernel; arrays of rank below 2 (biases, norms) are left alone. Must stand last in a chain.
    """

    def update(updates: PyTree, state: optax.EmptyState, params: PyTree) -> tuple[PyTree, optax.EmptyState]:
        def project(u: jax.Array, p: jax.Array) -> jax.Array:
            if p.ndim < 2:
                return u
            new = p + u
            norm = jnp.sqrt(jnp.sum(new**2, axis=tuple(range(p.ndim - 1)), keepdims=True))
            return new * jnp.minimum(1.0, limit / jnp.maximum(norm, 1e-12)) - p

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
