"""One update, which every method shares: loss, gradient, optimiser, averages, exact over devices and micro-batches.

A method brings two things: an *objective*, which gives for each of its loss terms the value of every example,
`{name: [B]}`, and *weights*, which say from the batch alone how much each example counts in each term. The loss is ::

    sum over terms of  coefficient * (sum_i w_i v_i) / (sum_i w_i)

with both sums over the global batch: all devices, all micro-batches. So masks may be as uneven as they like.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from tlx import losses, rng
from tlx.data.view import view_keys
from tlx.errors import UserError
from tlx.optim import stop_frozen
from tlx.state import TrainState

PyTree = Any
Batch = dict[str, jax.Array]
Metrics = dict[str, tuple[jax.Array, jax.Array]]
Schedulable = float | Callable[[jax.Array], jax.Array]  # a number, or a function of the step


def make_update(
    *,
    objective: Callable,
    weights: Callable[[Batch], dict[str, jax.Array]],
    coefficients: dict[str, Schedulable],
    tx: optax.GradientTransformation,
    frozen: PyTree | None,
    ema_decay: float,
    accumulate: int,
    axis_name: str | None,
) -> Callable:
    """Builds `step(state, batch, rng) -> (state, metrics)`.

    Args:
      objective: `(variables, state, batch, keys) -> (values, batch_stats, metrics)`: values {term: [B]}, metrics pairs
        (sum, count). `variables` are what is differentiated; `state` is that before the update, for its step and its
        average of the weights; `keys` are those of `tlx.data.view.view_keys` and "dropout".
      weights: `batch -> {term: [B]}`, for the same terms.
      coefficients: {term: its weight in the loss, a number or a function of the step}.
      tx, frozen, ema_decay, accumulate, axis_name: as in `tlx.steps.make_supervised_step`.

    Raises:
      UserError: `accumulate` or `ema_decay` out of range.
    """
    if accumulate < 1:
        raise UserError(f"accumulate is {accumulate}: it counts micro-batches and must be >= 1")
    if not 0 <= ema_decay < 1:
        raise UserError(f"ema_decay is {ema_decay}: it must be in 0..1, 1 excluded (0 = no average)")

    def step(state: TrainState, batch: Batch, root: jax.Array) -> tuple[TrainState, Metrics]:
        views = view_keys(root, state.step)
        factors = {name: value_at(c, state.step) for name, c in coefficients.items()}
        dropout = rng.at_step(rng.stream(root, "dropout"), state.step, axis_name)
        # The denominators, over all devices and micro-batches, before any gradient: they depend on the batch alone.
        counts = psum({name: jnp.sum(w, dtype=jnp.float32) for name, w in weights(batch).items()}, axis_name)

        def loss_fn(params: PyTree, batch_stats: PyTree, micro: Batch, index: jax.Array) -> tuple[jax.Array, tuple]:
            variables = {"params": stop_frozen(params, frozen), "batch_stats": batch_stats}
            keys = views | {"dropout": jax.random.fold_in(dropout, index)}
            values, batch_stats, metrics = objective(variables, state, micro, keys)
            sums = {name: losses.weighted_sum(values[name], w) for name, w in weights(micro).items()}
            # This device's and micro-batch's share; the shares add up to the loss, and their gradients to its gradient.
            loss = sum(factors[name] * s / jnp.maximum(counts[name], 1e-9) for name, (s, _) in sums.items())
            return loss, (batch_stats, metrics | {f"loss/{name}": pair for name, pair in sums.items()})

        def gradient(batch_stats: PyTree, micro: Batch, index: jax.Array) -> tuple[PyTree, PyTree, Metrics]:
            grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
            (loss, (batch_stats, metrics)), grads = grad_fn(state.params, batch_stats, micro, index)
            return batch_stats, (grads, loss, metrics)

        if accumulate == 1:
            batch_stats, totals = gradient(state.batch_stats, batch, jnp.int32(0))
        else:
            batch_stats, totals = _accumulate(gradient, state.batch_stats, batch, accumulate)
        grads, loss, metrics = psum(totals, axis_name)
        if axis_name is not None:
            # Equal already where BatchNorm synchronises; the mean keeps a model without that whole on every device.
            batch_stats = jax.lax.pmean(batch_stats, axis_name)

        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema_params = state.ema_params
        if ema_decay:
            # The ramp of TensorFlow's ExponentialMovingAverage: early on, forget the random start faster.
            decay = jnp.minimum(ema_decay, (1.0 + state.step) / (10.0 + state.step))
            average = optax.incremental_update(params, ema_params, 1 - decay)
            # d p + (1 - d) p is p up to rounding only: what is frozen is left out, or it would drift.
            at_rest = frozen if frozen is not None else jax.tree.map(lambda _: False, params)
            ema_params = jax.tree.map(lambda rest, new, old: old if rest else new, at_rest, average, ema_params)
        metrics |= {"loss": (loss, jnp.float32(1)), "grad_norm": (optax.tree.norm(grads), jnp.float32(1))}
        return TrainState(state.step + 1, params, batch_stats, opt_state, ema_params), metrics

    return step


def _accumulate(gradient: Callable, batch_stats: PyTree, batch: Batch, count: int) -> tuple[PyTree, PyTree]:
    """Adds up `gradient` over `count` micro-batches, one after another."""
    # Micro-batch i takes rows i, i + count, ...: every device keeps a share of each.
    micros = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, count, *x.shape[1:]), 1, 0), batch)

    def body(carry: tuple, xs: tuple) -> tuple[tuple, None]:
        batch_stats, totals = carry
        batch_stats, new = gradient(batch_stats, *xs)
        return (batch_stats, jax.tree.map(jnp.add, totals, new)), None

    first, index = jax.tree.map(lambda x: x[0], micros), jnp.arange(count)
    zeros = jax.tree.map(
        lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(gradient, batch_stats, first, index[0])[1]
    )
    # Unrolled on CPU, where XLA runs convolutions inside a loop many times slower than outside (measured: 19x).
    unroll = jax.default_backend() == "cpu"
    return jax.lax.scan(body, (batch_stats, zeros), (micros, index), unroll=unroll)[0]


def value_at(value: Schedulable, step: jax.Array) -> float | jax.Array:
    """The number itself, or the schedule's value at `step`."""
    return value(step) if callable(value) else value


def psum(tree: PyTree, axis_name: str | None) -> PyTree:
    """The sum over devices; under `jit` (axis_name None) the compiler makes it."""
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)
