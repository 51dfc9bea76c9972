"""EfficientNet-Lite: Tan & Le (2019), "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", in
the form made for quantised inference: no squeeze-and-excitation, ReLU6 for swish, a stem and a head that do not grow.

The paper's table 1 gives the stages, its section 3.3 the compound scaling: width and depth grow together with the
image's size. "Lite" is no paper's: it is defined by its code (github.com/tensorflow/tpu, models/official/efficientnet/
lite), whose weights fit. Padding is TensorFlow's "SAME", which at stride 2 puts the odd row below and on the right.
"""

import dataclasses
import functools
import math
from typing import Any

import flax.linen as nn
import jax

from tlx.models.depthwise import Depthwise
from tlx.models.layers import Stage, StochasticDepth, global_mean, pointwise, relu6, walk
from tlx.models.norm import BatchNorm
from tlx.models.options import check_factor, check_rate


@dataclasses.dataclass(frozen=True)
class _Stage:
    features: int
    blocks: int
    kernel: int
    stride: int
    expansion: int


_STEM, _HEAD = 32, 1280
_STAGES = (
    _Stage(features=16, blocks=1, kernel=3, stride=1, expansion=1),
    _Stage(features=24, blocks=2, kernel=3, stride=2, expansion=6),
    _Stage(features=40, blocks=2, kernel=5, stride=2, expansion=6),
    _Stage(features=80, blocks=3, kernel=3, stride=2, expansion=6),
    _Stage(features=112, blocks=3, kernel=5, stride=1, expansion=6),
    _Stage(features=192, blocks=4, kernel=5, stride=2, expansion=6),
    _Stage(features=320, blocks=1, kernel=3, stride=1, expansion=6),
)


@dataclasses.dataclass(frozen=True)
class Architecture:
    """How much wider and deeper than Lite0; the stem, the head and the depth of the first and last stage don't grow."""

    width: float
    depth: float

    @property
    def blocks(self) -> tuple[int, ...]:
        """The number of blocks of each stage."""
        inner = (math.ceil(self.depth * stage.blocks) for stage in _STAGES[1:-1])
        return (_STAGES[0].blocks, *inner, _STAGES[-1].blocks)


ARCHITECTURES = {
    "efficientnet_lite0": Architecture(width=1.0, depth=1.0),
    "efficientnet_lite1": Architecture(width=1.0, depth=1.1),
    "efficientnet_lite2": Architecture(width=1.1, depth=1.2),
}


def round_width(width: float) -> int:
    """The multiple of 8 nearest to `width`, but at least 8, and the next one up if that is less than 0.9 of it."""
    rounded = max(8, int(width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * width else rounded


class ConvNorm(nn.Module):
    """Convolution, BatchNorm, and ReLU6 if `activate`: [B, H, W, C] -> [B, H / stride, W / stride, features]."""

    features: int
    kernel: int
    stride: int
    activate: bool
    dtype: Any
    axis_name: str | None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = nn.Conv(
            self.features,
            (self.kernel, self.kernel),
            (self.stride, self.stride),
            padding="SAME",
            use_bias=False,
            dtype=self.dtype,
            kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
            conv_general_dilated=pointwise if self.kernel == self.stride == 1 else None,
            name="conv",
        )(x)
        x = _norm(self.dtype, self.axis_name, name="norm")(x, use_running_average=not train)
        return relu6(x) if self.activate else x


def _norm(dtype: Any, axis_name: str | None, *, name: str) -> BatchNorm:
    return BatchNorm(momentum=0.99, epsilon=1e-3, dtype=dtype, axis_name=axis_name, name=name)


class DepthwiseNorm(nn.Module):
    """Depthwise convolution, BatchNorm and ReLU6: [B, H, W, C] -> [B, H / stride, W / stride, C]."""

    kernel: int
    stride: int
    dtype: Any
    axis_name: str | None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = Depthwise(self.kernel, self.stride, dtype=self.dtype, name="conv")(x)
        return relu6(_norm(self.dtype, self.axis_name, name="norm")(x, use_running_average=not train))


class Block(nn.Module):
    """An inverted residual (Sandler et al. 2018, "MobileNetV2", section 3.3): widen, filter each channel, project."""

    features: int
    kernel: int
    stride: int
    expansion: int
    drop_rate: float
    dtype: Any
    axis_name: str | None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        common = {"dtype": self.dtype, "axis_name": self.axis_name}
        residual = x
        if self.expansion != 1:
            wide = self.expansion * x.shape[-1]
            residual = ConvNorm(wide, 1, 1, activate=True, **common, name="expand")(residual, train=train)
        residual = DepthwiseNorm(self.kernel, self.stride, **common, name="depthwise")(residual, train=train)
        residual = ConvNorm(self.features, 1, 1, activate=False, **common, name="project")(residual, train=train)
        if self.stride != 1 or x.shape[-1] != self.features:
            return residual
        return x + StochasticDepth(self.drop_rate)(residual, train=train)


class EfficientNetLite(nn.Module):
    """Levels: stem, stage1, ..., stage7, conv_head [B, h, w, c], pooled [B, c]."""

    architecture: Architecture
    width: float
    dropout: float
    stochastic_depth: float
    dtype: Any
    axis_name: str | None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, start: str = "", end: str = "") -> dict[str, jax.Array]:
        common = {"dtype": self.dtype, "axis_name": self.axis_name}
        a = self.architecture
        stem = ConvNorm(round_width(_STEM * self.width), 3, 2, activate=True, **common, name="stem")
        levels = {"stem": (functools.partial(stem, train=train),)}
        done, total = 0, sum(a.blocks)
        for i, (stage, blocks) in enumerate(zip(_STAGES, a.blocks), start=1):
            block = functools.partial(
                Block,
                features=round_width(stage.features * a.width * self.width),
                kernel=stage.kernel,
                expansion=stage.expansion,
                **common,
            )
            drop_rates = tuple(self.stochastic_depth * (done + b) / total for b in range(blocks))
            made = Stage(block, stage.stride, drop_rates, name=f"stage{i}")
            levels[f"stage{i}"] = (functools.partial(made, train=train),)
            done += blocks
        head = ConvNorm(round_width(_HEAD * self.width), 1, 1, activate=True, **common, name="conv_head")
        levels["conv_head"] = (functools.partial(head, train=train),)
        activations = walk(levels | {"pooled": (global_mean,)}, x, start=start, end=end)
        drop = nn.Dropout(self.dropout, deterministic=not train)
        return activations | {"pooled": drop(activations["pooled"])}


def efficientnet_lite(
    name: str,
    *,
    dtype: Any,
    axis_name: str | None,
    width: float = 1.0,
    dropout: float = 0.0,
    stochastic_depth: float = 0.0,
) -> EfficientNetLite:
    """An EfficientNet-Lite. Published training: dropout 0.2 (Lite2: 0.3), stochastic_depth 0.2.

    Args:
      name: one of ARCHITECTURES.
      dtype: compute dtype; BatchNorm's statistics are float32.
      axis_name: the mesh axis over which BatchNorm's statistics are averaged under `pmap` or `shard_map`.
      width: multiplies the channels of every layer, stem and head too, which then are rounded to multiples of 8.
      dropout: rate before the head.
      stochastic_depth: the l-th of L blocks, from 0, drops its residual with l / L times that, as in the published
        code (one less than in Huang et al. 2016, eq. 4: the last block stays below the rate).

    Raises:
      UserError: a value out of range.
    """
    return EfficientNetLite(
        architecture=ARCHITECTURES[name],
        width=check_factor("width", width),
        dropout=check_rate("dropout", dropout),
        stochastic_depth=check_rate("stochastic_depth", stochastic_depth),
        dtype=dtype,
        axis_name=axis_name,
    )
