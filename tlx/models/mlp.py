"""A multi-layer perceptron."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax

from tlx.models.layers import flatten, walk
from tlx.models.options import check_rate, check_widths


class MLP(nn.Module):
    """Levels: layer1, layer2, ... [B, width] (after the ReLU), pooled (the last, after its dropout)."""

    widths: tuple[int, ...]
    dropout: float
    input_dropout: float
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, start: str = "", end: str = "") -> dict[str, jax.Array]:
        levels = {}
        drop = nn.Dropout(self.input_dropout, deterministic=not train)
        for i, width in enumerate(self.widths, start=1):
            dense = nn.Dense(width, dtype=self.dtype, name=f"layer{i}")
            levels[f"layer{i}"] = (flatten, drop, dense, nn.relu)
            drop = nn.Dropout(self.dropout, deterministic=not train)
        activations = walk(levels | {"pooled": ()}, x, start=start, end=end)
        return activations | {"pooled": drop(activations["pooled"])}


def mlp(
    *,
    dtype: Any,
    axis_name: str | None,
    widths: Sequence[int] = (800, 800),
    dropout: float = 0.0,
    input_dropout: float = 0.0,
) -> MLP:
    """Dense layers with ReLU. The default is the net of Hinton, Vinyals & Dean (2015), section 3, without its noise.

    Args:
      dtype: compute dtype.
      axis_name: not used: nothing here looks across examples.
      widths: of the hidden layers.
      dropout: rate after each hidden activation.
      input_dropout: rate on the pixels.

    Raises:
      UserError: a value out of range.
    """
    del axis_name
    return MLP(
        widths=check_widths("widths", widths),
        dropout=check_rate("dropout", dropout),
        input_dropout=check_rate("input_dropout", input_dropout),
        dtype=dtype,
    )
