"""The step of evaluation, which learns nothing."""

from collections.abc import Callable
from typing import Any

import jax

from tlx import losses
from tlx.steps.forward import View, hits
from tlx.update import Batch, Metrics, psum

PyTree = Any


def make_eval_step(*, apply: Callable, view: View, axis_name: str | None = None) -> Callable:
    """Exact evaluation: `step(variables, batch) -> (metrics, logits)`.

    Padding has `weight` 0 and counts nowhere. `metrics` holds "loss" (cross-entropy, nats) and "accuracy" as
    (sum, count) over the global batch; `logits` [B, K] stay with their examples.
    """

    def evaluate(variables: PyTree, batch: Batch) -> tuple[Metrics, jax.Array]:
        logits, _ = apply(variables, view(batch["image"], batch["slot"], None), train=False)
        metrics = {
            "loss": losses.weighted_sum(losses.cross_entropy(logits, batch["label"]), batch["weight"]),
            "accuracy": hits(logits, batch["label"], batch["weight"]),
        }
        return psum(metrics, axis_name), logits

    return evaluate
