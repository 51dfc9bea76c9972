"""A backbone and a head: the one shape that every network of tlx has."""

from collections import OrderedDict
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from tlx.errors import UserError


class Classifier(nn.Module):
    """`params` are `{"backbone": ..., "head": {"kernel", "bias"}}` whatever the backbone, and `batch_stats`, where
    there are any, `{"backbone": ...}`: so a head is replaced, and a backbone frozen or loaded, in one way for all.

    Attributes:
      backbone: a module called as `backbone(x, train=..., start=..., end=...)` that returns its levels: a dict name ->
        activation from input to output, the last of which is "pooled", [B, D]. A level's parameters lie under its name.
      num_classes: K.
      head_level: the level that the head is on: what lies above it is left out. "" = the usual, the top.
      dtype: what the backbone computes in. Parameters are float32, and so is the head: it costs next to nothing, and
        eight bits of a logit are too few for a temperature or a confidence threshold.
    """

    backbone: nn.Module
    num_classes: int
    head_level: str = ""
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool, features: bool = False, start: str = ""
    ) -> jax.Array | tuple[jax.Array, dict[str, jax.Array]]:
        """Classifies images, or goes on from what a level made of them.

        Args:
          x: float [B, H, W, C], normalized as the network's `Input` does; or the activation of `start`.
          train: whether BatchNorm uses and updates batch statistics, and whether anything is dropped (which needs an
            rng named "dropout").
          features: whether to return the levels too, from `start` on.
          start: the level whose activation `x` is, and above which the network runs; "" = all of it. "pooled" is taken
            before the dropout that the head's input goes through in training: as evaluation gives it.

        Returns:
          float32 logits [B, K]; with `features`, `(logits, levels)`. An activation is taken before the dropout that
          follows it, except "pooled", which is just what the head reads.

        Raises:
          UserError: images of another rank or of integers; an unknown level.
        """
        if not start and (x.ndim != 4 or not jnp.issubdtype(x.dtype, jnp.floating)):
            raise UserError(f"images are {x.dtype} {list(x.shape)}: give normalized floats of shape [B, H, W, C]")
        levels = self.backbone(x.astype(self.dtype), train=train, start=start, end=self.head_level)
        logits = nn.Dense(self.num_classes, dtype=jnp.float32, name="head")(levels["pooled"])  # [B, K]
        # A plain dict would come out of `jit` and `eval_shape` sorted by name.
        return (logits, OrderedDict(levels)) if features else logits
