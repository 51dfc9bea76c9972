"""Layers that linen lacks, or that XLA is slow at."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from tlx.errors import UserError, did_you_mean


def walk(
    levels: Mapping[str, Sequence[Callable[[jax.Array], jax.Array]]], x: jax.Array, *, start: str = "", end: str = ""
) -> dict[str, jax.Array]:
    """Runs a backbone, from images or from the activation of one of its levels, to the top or to a lower level.

    What lies between two levels (a dropout, a reshape) belongs to the upper one. All modules must have been made before
    the walk, also those that it leaves out: linen numbers the ones without a name, and their number is in their random
    key, which so does not depend on the start.

    Args:
      levels: name -> layers, applied in turn; from input to output, the last being "pooled".
      x: images, or the activation of `start`.
      start: the level to begin after; "" = before the first.
      end: the level that is summarised as "pooled" (see `summarize`), with what lies between left out; "" = the usual.

    Returns:
      name -> activation, of `start` (as given) and the levels above it.

    Raises:
      UserError: an unknown level; a start above the end.
    """
    names = list(levels)
    for level in filter(None, (start, end)):
        if level not in levels:
            raise UserError(f"the model has no level {level!r}{did_you_mean(level, names)}: it has {', '.join(names)}")
    if end and end != "pooled":
        levels = {name: levels[name] for name in names[: names.index(end) + 1]} | {"pooled": (summarize,)}
    if start not in ("", *levels):
        raise UserError(f"the head is on the level {end!r}, so the network cannot go on from {start!r} above it")
    names = list(levels)
    activations = {start: x} if start else {}
    for name in names[names.index(start) + 1 if start else 0 :]:
        for layer in levels[name]:
            x = layer(x)
        activations[name] = x
    return activations


def summarize(x: jax.Array) -> jax.Array:
    """What a head reads of any level, [B, ...] -> [B, N]: all of it up to 4,096 numbers, above that channel means.

    Where a digit's stroke is matters, and its small maps can be read as they are; a 14 x 14 x 112 map cannot.
    """
    return flatten(x) if math.prod(x.shape[1:]) <= 4096 else jnp.mean(x, axis=tuple(range(1, x.ndim - 1)))


def flatten(x: jax.Array) -> jax.Array:
    """[B, ...] -> [B, N]."""
    return x.reshape(x.shape[0], -1)


def global_mean(x: jax.Array) -> jax.Array:
    """[B, H, W, C] -> [B, C]."""
    return jnp.mean(x, axis=(1, 2))


class Stage(nn.Module):
    """Residual blocks of one width, named block1, block2, ...; the first has the stride.

    Attributes:
      block: makes one of them, `block(stride=..., drop_rate=..., name=...)`, called as `(x, train=...)`.
      stride: of the first.
      drop_rates: one for each block, see `StochasticDepth`.
    """

    block: Callable[..., nn.Module]
    stride: int
    drop_rates: tuple[float, ...]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        for i, drop_rate in enumerate(self.drop_rates, start=1):
            x = self.block(stride=self.stride if i == 1 else 1, drop_rate=drop_rate, name=f"block{i}")(x, train=train)
        return x


class StochasticDepth(nn.Module):
    """Drops a whole residual branch, independently for each example (Huang et al. 2016, "Deep Networks with Stochastic
    Depth", eq. 2).

    What survives is divided by the probability of survival while training, so that evaluation uses the branch as it
    is. The paper multiplies by that probability in evaluation instead (its eq. 5): the expectation is as faithful
    there, but then a network's function depends on the rate, and pre-trained weights (and a teacher turned student)
    would need rescaling. torchvision's "row" mode does as we do.

    Attributes:
      rate: probability of dropping, in [0, 1).
    """

    rate: float

    @nn.compact
    def __call__(self, residual: jax.Array, *, train: bool) -> jax.Array:
        if not train or self.rate == 0:
            return residual
        keep = 1 - self.rate
        per_example = (residual.shape[0],) + (1,) * (residual.ndim - 1)
        kept = jax.random.bernoulli(self.make_rng("dropout"), keep, per_example)
        return jnp.where(kept, residual / keep, jnp.zeros_like(residual))


def pointwise(x: jax.Array, kernel: jax.Array, *_: Any, **__: Any) -> jax.Array:
    """A 1x1 convolution of stride 1 as the matrix product that it is, in the place of `nn.Conv.conv_general_dilated`.

    An EfficientNet-Lite0's step at [16, 224, 224, 3] then takes 0.6 s of one CPU core; with `lax`'s convolution 0.9,
    and with a product that leaves x in four dimensions 0.8 (jax 0.10.2, fresh memory's cost left out).

    Args:
      x: [B, H, W, C].
      kernel: [1, 1, C, D].

    Returns:
      [B, H, W, D].
    """
    return (x.reshape(-1, x.shape[-1]) @ kernel[0, 0]).reshape(*x.shape[:-1], kernel.shape[-1])


@jax.custom_vjp
def relu6(x: jax.Array) -> jax.Array:
    """min(max(x, 0), 6), with gradient 0 at 0 and 6 as PyTorch's (JAX shares a tie out).

    `nn.relu6` keeps its input, or masks of it, for the backward pass: this keeps its output, which the next layer keeps
    anyway. Bounds are scalars because XLA's CPU backend writes a constant that forward and backward share into an
    array as large as x: such arrays took 9 % of an EfficientNet's step.
    """
    return lax.clamp(jnp.zeros((), x.dtype), x, jnp.full((), 6, x.dtype))


def _relu6_forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    y = relu6(x)
    return y, y


def _relu6_backward(y: jax.Array, g: jax.Array) -> tuple[jax.Array]:
    info = jnp.finfo(y.dtype)
    inside = y == lax.clamp(info.tiny, y, (6 - 4 * info.eps).astype(y.dtype))  # neighbours of 0 and 6: 0 < y < 6
    return (jnp.where(inside, g, 0),)


relu6.defvjp(_relu6_forward, _relu6_backward)


def strided(x: jax.Array, axis: int, start: int, stride: int, length: int) -> jax.Array:
    """`length` slices along `axis`, `stride` apart, from `start` on."""
    return lax.slice_in_dim(x, start, start + (length - 1) * stride + 1, stride, axis)


@jax.custom_vjp
def max_pool_2x2(x: jax.Array) -> jax.Array:
    """The maximum over windows of 2x2, stride 2; an odd last row or column is left out, as with padding "VALID".

    `nn.max_pool` is `reduce_window`, whose gradient (`select_and_scatter`) runs serially on CPU: with it the default
    CNN takes 10.3 ms a step at [256, 8, 8, 1], with a plain maximum 6.0 (28x28: 223 and 125; 2 cores). The gradient of
    a tie is shared, not given to the first. It is that of the maximum, bit for bit, without its reductions: with a
    3x3 convolution of 16 channels at [192, 28, 28, 1], 26 ms of one core in place of 49.

    Args:
      x: [B, H, W, C], H and W >= 2.

    Returns:
      [B, H // 2, W // 2, C].
    """
    a, b, c, d = _corners(x)
    return jnp.maximum(jnp.maximum(a, b), jnp.maximum(c, d))


def _corners(x: jax.Array) -> list[jax.Array]:
    """The four values of each window, [B, H // 2, W // 2, C] each."""
    windows = _windows(x)
    return [windows[:, :, i, :, j] for i in (0, 1) for j in (0, 1)]


def _windows(x: jax.Array) -> jax.Array:
    """[B, H // 2, 2, W // 2, 2, C]."""
    batch, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels)


def _max_pool_forward(x: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    y = max_pool_2x2(x)
    return y, (x, y)


def _max_pool_backward(saved: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array]:
    x, y = saved
    share = g / sum((corner == y).astype(g.dtype) for corner in _corners(x))
    spread = lambda each: each[:, :, None, :, None]
    dx = jnp.where(_windows(x) == spread(y), spread(share), 0)
    dx = dx.reshape(x.shape[0], x.shape[1] // 2 * 2, x.shape[2] // 2 * 2, -1)
    return (jnp.pad(dx, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0))),)


max_pool_2x2.defvjp(_max_pool_forward, _max_pool_backward)
