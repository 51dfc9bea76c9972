"""The one signature by which steps call a network, whatever the network."""

from collections.abc import Callable, Collection
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from tlx.models.layers import summarize

PyTree = Any


def make_apply(
    model: nn.Module,
    *,
    takes: Callable[[jax.Array], jax.Array] | None = None,
    frozen_norms: Collection[str] = (),
    start: str = "",
    level: str = "",
) -> Callable:
    """Wraps a linen classifier for the steps.

    Args:
      model: a module called as `model(images, train=...)` that returns logits.
      takes: an `Input`, from images in [0, 1] to what the model takes; None = it takes them as they are.
      frozen_norms: paths ("backbone/stage1/block1/norm1") of BatchNorm modules that run on their stored statistics
        even in training, and leave them as they are. Frozen weights with moving statistics are not frozen.
      start: the level from whose activations, instead of images, the network runs; they are taken as they are.
      level: return this level's activation too, `(logits, features)` in place of logits: float32 [B, D], as a head
        would read it (`tlx.models.layers.summarize`); "" = the logits alone.

    Returns:
      `apply(variables, images, *, train, key=None) -> (logits, batch_stats)`: images float [B, H, W, C] in [0, 1],
      logits float32 [B, K]; `key` seeds dropout and stochastic depth, needed only where `train`; `batch_stats` are the
      updated statistics where `train`, else the given ones.
    """
    options = {"start": start} if start else {}  # any module that takes images will do without
    options |= {"features": True} if level else {}

    def read(out: Any) -> Any:
        return (out[0], summarize(out[1][level]).astype(jnp.float32)) if level else out

    def rest_frozen_norms(call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        if isinstance(context.module, nn.BatchNorm) and "/".join(context.module.path) in frozen_norms:
            kwargs = kwargs | {"use_running_average": True}
        return call(*args, **kwargs)

    def apply(
        variables: PyTree, images: jax.Array, *, train: bool, key: jax.Array | None = None
    ) -> tuple[jax.Array, PyTree]:
        images = takes(images) if takes is not None and not start else images
        batch_stats = variables.get("batch_stats", {})
        if not train:
            return read(model.apply(variables, images, train=False, **options)), batch_stats
        with nn.intercept_methods(rest_frozen_norms):
            out, updated = model.apply(
                variables, images, train=True, rngs={"dropout": key}, mutable=["batch_stats"], **options
            )
        return read(out), updated.get("batch_stats", batch_stats)

    return apply
