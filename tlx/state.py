"""The state of training, all of it: what a step maps to its successor and what a checkpoint holds."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

PyTree = Any


class TrainState(struct.PyTreeNode):
    """Arrays only. Functions (the model's apply, the optimiser) belong to the step, so a state can be saved as it is.

    Attributes:
      step: int32 scalar, the number of updates made.
      params: {'backbone': ..., 'head': ...}, float32.
      batch_stats: the running statistics of BatchNorm, {} for a model without.
      opt_state: of `optax.multi_transform`; frozen groups hold none.
      ema_params: the exponential moving average of `params`, or None where it is not kept.
    """

    step: jax.Array
    params: PyTree
    batch_stats: PyTree
    opt_state: PyTree
    ema_params: PyTree

    @classmethod
    def create(cls, *, variables: PyTree, tx: optax.GradientTransformation, ema: bool = False) -> "TrainState":
        """The state before the first step, from a model's `init` (or pre-trained) variables."""
        params = variables["params"]
        return cls(
            step=jnp.zeros((), jnp.int32),
            params=params,
            batch_stats=variables.get("batch_stats", {}),
            opt_state=tx.init(params),
            # A copy: the step donates its state, and one buffer cannot be donated twice.
            ema_params=jax.tree.map(jnp.copy, params) if ema else None,
        )

    def variables(self, *, ema: bool = True) -> PyTree:
        """What to predict with: the averaged weights if there are any (and `ema`), else the current ones."""
        params = self.ema_params if ema and self.ema_params is not None else self.params
        return {"params": params, "batch_stats": self.batch_stats}
