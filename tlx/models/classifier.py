"""A backbone and a head: the one shape that every network of tlx has."""

from collections import OrderedDict
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from tlx.errors import UserError, did_you_mean
from tlx.models.layers import summarize


class Classifier(nn.Module):
    """`params` are `{"backbone": ..., "head": {"kernel", "bias"}}` whatever the backbone, and `batch_stats`, where
    there are any, `{"backbone": ...}`: so a head is replaced, and a backbone frozen or loaded, in one way for all.

    Attributes:
      backbone: a module called as `backbone(x, train=..., start=..., end=...)` that returns its levels: a dict name ->
        activation from input to output, the last of which is "pooled", [B, D]. A level's parameters lie under its name.
      num_classes: K.
      head_level: the level that the head is on: what lies above it is left out. "" = the usual, the top.
      projector: D > 0 adds a learned projection of `projector_level` to D numbers, the level "projected", for what
        matches features of another network in training. Its parameters lie beside the two parts, under "projector",
        and no prediction reads them.
      projector_level: the level that it projects.
      dtype: what the backbone computes in. Parameters are float32, and so is the head: it costs next to nothing, and
        eight bits of a logit are too few for a temperature or a confidence threshold.
    """

    backbone: nn.Module
    num_classes: int
    head_level: str = ""
    projector: int = 0
    projector_level: str = "pooled"
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
        if self.projector and (features or self.is_initializing()):
            if self.projector_level not in levels:
                raise UserError(
                    f"the model has no level {self.projector_level!r}{did_you_mean(self.projector_level, levels)} to "
                    f"project: it has {', '.join(levels)}"
                )
            x = summarize(levels[self.projector_level])
            levels = levels | {"projected": nn.Dense(self.projector, dtype=jnp.float32, name="projector")(x)}
        # A plain dict would come out of `jit` and `eval_shape` sorted by name.
        return (logits, OrderedDict(levels)) if features else logits
