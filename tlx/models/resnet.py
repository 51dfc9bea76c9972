"""Residual networks: He et al. (2016), "Deep Residual Learning for Image Recognition".

Two families. For small images (section 4.2): a 3x3 stem and stages of 16, 32 and 64 channels. For ImageNet (section
4.1): 7x7 stem, max-pool and stages of 64 to 512 channels, laid out as torchvision's "v1.5", whose weights fit: the
stride is in the bottleneck's 3x3, and padding is symmetric, where "SAME" would pad a strided layer on one side only.
Shortcuts are projections wherever the shape changes (option B) in both.
"""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax

from tlx.models.convolution import conv_general_dilated
from tlx.models.layers import Stage, StochasticDepth, global_mean, walk
from tlx.models.options import check_choice, check_factor, check_rate


@dataclasses.dataclass(frozen=True)
class Architecture:
    """`stages` are the numbers of blocks; channels start at `features` and double with every stage."""

    stages: tuple[int, ...]
    features: int
    bottleneck: bool
    small_images: bool


ARCHITECTURES = {
    "resnet8": Architecture((1, 1, 1), 16, bottleneck=False, small_images=True),
    "resnet20": Architecture((3, 3, 3), 16, bottleneck=False, small_images=True),
    "resnet56": Architecture((9, 9, 9), 16, bottleneck=False, small_images=True),
    "resnet18": Architecture((2, 2, 2, 2), 64, bottleneck=False, small_images=False),
    "resnet34": Architecture((3, 4, 6, 3), 64, bottleneck=False, small_images=False),
    "resnet50": Architecture((3, 4, 6, 3), 64, bottleneck=True, small_images=False),
}


def _conv(features: int, kernel: int, stride: int, *, dtype: Any, name: str) -> nn.Conv:
    return nn.Conv(
        features,
        (kernel, kernel),
        (stride, stride),
        padding=kernel // 2,
        use_bias=False,
        dtype=dtype,
        kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),  # He et al. 2015, as torchvision
        conv_general_dilated=conv_general_dilated,
        name=name,
    )


def _norm(*, dtype: Any, axis_name: str | None, name: str, zero: bool = False) -> nn.BatchNorm:
    # linen computes the statistics in float32 whatever `dtype`.
    scale_init = nn.initializers.zeros if zero else nn.initializers.ones
    return nn.BatchNorm(momentum=0.9, epsilon=1e-5, dtype=dtype, axis_name=axis_name, scale_init=scale_init, name=name)


class Stem(nn.Module):
    """[B, H, W, C] -> [B, H, W, features], or [B, H / 4, W / 4, features] for large images."""

    features: int
    small_images: bool
    dtype: Any
    axis_name: str | None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        kernel, stride = (3, 1) if self.small_images else (7, 2)
        x = _conv(self.features, kernel, stride, dtype=self.dtype, name="conv")(x)
        norm = _norm(dtype=self.dtype, axis_name=self.axis_name, name="norm")
        x = nn.relu(norm(x, use_running_average=not train))
        return x if self.small_images else nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))


class Block(nn.Module):
    """Two 3x3 convolutions, or a bottleneck of 1x1, 3x3 and 1x1 whose output has four times the channels."""

    features: int
    stride: int
    bottleneck: bool
    drop_rate: float
    zero_init_residual: bool
    dtype: Any
    axis_name: str | None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        if self.bottleneck:
            layout = ((self.features, 1, 1), (self.features, 3, self.stride), (4 * self.features, 1, 1))
        else:
            layout = ((self.features, 3, self.stride), (self.features, 3, 1))
        residual = x
        for i, (features, kernel, stride) in enumerate(layout, start=1):
            last = i == len(layout)
            residual = _conv(features, kernel, stride, dtype=self.dtype, name=f"conv{i}")(residual)
            norm = _norm(
                dtype=self.dtype, axis_name=self.axis_name, name=f"norm{i}", zero=last and self.zero_init_residual
            )
            residual = norm(residual, use_running_average=not train)
            residual = residual if last else nn.relu(residual)

        shortcut = x
        if x.shape[-1] != residual.shape[-1] or self.stride != 1:
            shortcut = _conv(residual.shape[-1], 1, self.stride, dtype=self.dtype, name="shortcut_conv")(x)
            norm = _norm(dtype=self.dtype, axis_name=self.axis_name, name="shortcut_norm")
            shortcut = norm(shortcut, use_running_average=not train)
        return nn.relu(shortcut + StochasticDepth(self.drop_rate)(residual, train=train))


class ResNet(nn.Module):
    """Levels: stem, stage1, stage2, ... [B, h, w, c], pooled [B, c]."""

    architecture: Architecture
    width: float
    dropout: float
    stochastic_depth: float
    zero_init_residual: bool
    dtype: Any
    axis_name: str | None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, start: str = "", end: str = "") -> dict[str, jax.Array]:
        a = self.architecture
        channels = [max(1, round(a.features * 2**i * self.width)) for i in range(len(a.stages))]
        stem = Stem(channels[0], a.small_images, self.dtype, self.axis_name, name="stem")
        levels = {"stem": (functools.partial(stem, train=train),)}
        done, total = 0, sum(a.stages)
        for i, (features, blocks) in enumerate(zip(channels, a.stages), start=1):
            block = functools.partial(
                Block,
                features=features,
                bottleneck=a.bottleneck,
                zero_init_residual=self.zero_init_residual,
                dtype=self.dtype,
                axis_name=self.axis_name,
            )
            drop_rates = tuple(self.stochastic_depth * (done + b) / total for b in range(1, blocks + 1))
            stage = Stage(block, 1 if i == 1 else 2, drop_rates, name=f"stage{i}")
            levels[f"stage{i}"] = (functools.partial(stage, train=train),)
            done += blocks
        activations = walk(levels | {"pooled": (global_mean,)}, x, start=start, end=end)
        drop = nn.Dropout(self.dropout, deterministic=not train)
        return activations | {"pooled": drop(activations["pooled"])}


def resnet(
    name: str,
    *,
    dtype: Any,
    axis_name: str | None,
    width: float = 1.0,
    dropout: float = 0.0,
    stochastic_depth: float = 0.0,
    zero_init_residual: bool = True,
) -> ResNet:
    """A residual network.

    Args:
      name: one of ARCHITECTURES.
      dtype: compute dtype; BatchNorm's statistics are float32.
      axis_name: the mesh axis over which BatchNorm's statistics are averaged under `pmap` or `shard_map`.
      width: multiplies the channels of every layer.
      dropout: rate before the head.
      stochastic_depth: rate of the last block; the l-th of L drops its residual with l / L times that (the linear rule
        of Huang et al. 2016, eq. 4), per example and scaled in training: see `StochasticDepth`.
      zero_init_residual: whether the last BatchNorm of each block starts at scale 0, so that the block starts as the
        identity (Goyal et al. 2017, section 5.1). The default, because large rates then need less warm-up, and loaded
        weights overwrite it anyway; torchvision's default, and He et al., is False.

    Raises:
      UserError: a value out of range.
    """
    return ResNet(
        architecture=ARCHITECTURES[name],
        width=check_factor("width", width),
        dropout=check_rate("dropout", dropout),
        stochastic_depth=check_rate("stochastic_depth", stochastic_depth),
        zero_init_residual=check_choice("zero_init_residual", zero_init_residual, (True, False)),
        dtype=dtype,
        axis_name=axis_name,
    )
