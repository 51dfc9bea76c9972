"""The step on labels."""

from collections.abc import Callable
from typing import Any

import optax

from tlx import losses
from tlx.state import TrainState
from tlx.steps.forward import View, forward, hits
from tlx.update import Batch, Metrics, make_update

PyTree = Any


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

    def objective(variables: PyTree, state: TrainState, batch: Batch, keys: dict) -> tuple[dict, PyTree, Metrics]:
        logits, batch_stats = forward(apply, view, variables, batch, keys)
        values = {"cross_entropy": losses.cross_entropy(logits, batch["label"], label_smoothing)}  # [B]
        return values, batch_stats, {"accuracy": hits(logits, batch["label"], batch["weight"])}

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
