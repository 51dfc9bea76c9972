"""Depthwise convolution: one k x k filter a channel, in the formulation that the backend is fast at.

GPU and TPU have kernels for a grouped convolution. XLA's CPU backend has none and walks through it one value after
another, so there a convolution is k * k shifted multiply-adds, an image at a time: what an image needs stays in the
cache, and no padded or shifted copy of the whole batch is ever made (fresh memory costs more than the arithmetic).
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from tlx.models.layers import strided


class Depthwise(nn.Module):
    """Filters every channel by itself, "SAME" padding as TensorFlow's, no bias.

    Attributes:
      kernel: k, the filter's height and width.
      stride: in both directions.
      dtype: what is computed in; the parameter `kernel` [k, k, 1, C] is float32.
    """

    kernel: int
    stride: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        # An output reads k * k values, of its own channel: "fan_out" would count all channels.
        init = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
        kernel = self.param("kernel", init, (self.kernel, self.kernel, 1, x.shape[-1]))
        return depthwise(x.astype(self.dtype), kernel.astype(self.dtype), self.stride)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def depthwise(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Depthwise convolution by the backend's best formulation; differentiable once, in reverse.

    Args:
      x: [B, H, W, C].
      kernel: [k, k, 1, C], of x's dtype.
      stride: in both directions.

    Returns:
      [B, ceil(H / stride), ceil(W / stride), C].
    """
    return lax.platform_dependent(
        x, kernel, cpu=functools.partial(shifted, stride=stride), default=functools.partial(grouped, stride=stride)
    )


def _forward(x: jax.Array, kernel: jax.Array, stride: int) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return depthwise(x, kernel, stride), (x, kernel)


def _backward(stride: int, saved: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array, jax.Array]:
    def of_grouped(x: jax.Array, kernel: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.vjp(functools.partial(grouped, stride=stride), x, kernel)[1](g)

    def of_shifted(x: jax.Array, kernel: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
        dx = shifted_input_gradient(g, kernel, stride, x.shape[1:3])
        return dx, shifted_kernel_gradient(x, g, stride, kernel.shape[0]).astype(kernel.dtype)

    return lax.platform_dependent(*saved, g, cpu=of_shifted, default=of_grouped)


depthwise.defvjp(_forward, _backward)


def grouped(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """`depthwise` as XLA's convolution with as many groups as channels."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def shifted(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """`depthwise` as a sum over the taps of shifted images."""
    k = kernel.shape[0]
    padding = [_same(size, k, stride) for size in x.shape[1:3]]
    out = [-(-size // stride) for size in x.shape[1:3]]

    def of_image(image: jax.Array) -> jax.Array:  # [H, W, C]
        return _correlate(jnp.pad(image, (*padding, (0, 0))), kernel[:, :, 0], stride, *out)

    return lax.map(of_image, x)


def shifted_input_gradient(g: jax.Array, kernel: jax.Array, stride: int, size: tuple[int, int]) -> jax.Array:
    """The gradient of `depthwise` by its input.

    An input row r = stride * u + p meets the filter's rows p, p + stride, ... only: each of the stride * stride phases
    of the input is a small convolution of `g`, and no zeros are put between g's values.

    Args:
      g: gradient by the output, [B, h, w, C].
      kernel: [k, k, 1, C].
      stride: in both directions.
      size: (H, W) of the input.

    Returns:
      [B, H, W, C].
    """
    k = kernel.shape[0]
    top, left = (_same(n, k, stride)[0] for n in size)
    reach = -(-k // stride) - 1  # how many of g's rows before its own an input row reads, at most
    rows, columns = (-(-(before + n) // stride) for n, before in zip(size, (top, left)))
    filters = kernel[:, :, 0]

    def of_image(g: jax.Array) -> jax.Array:  # [h, w, C]
        after = (max(0, rows - g.shape[0]), max(0, columns - g.shape[1]))
        padded = jnp.pad(g, ((reach, after[0]), (reach, after[1]), (0, 0)))
        phases = []
        for p in range(stride):
            for q in range(stride):
                taps = filters[p::stride, q::stride][::-1, ::-1]
                start = (reach + 1 - taps.shape[0], reach + 1 - taps.shape[1])
                phases.append(_correlate(padded[start[0] :, start[1] :], taps, 1, rows, columns))
        if stride > 1:
            dx = jnp.stack(phases).reshape(stride, stride, rows, columns, -1).transpose(2, 0, 3, 1, 4)
            dx = dx.reshape(rows * stride, columns * stride, -1)
        else:
            (dx,) = phases
        return dx[top : top + size[0], left : left + size[1]]

    return lax.map(of_image, g)


def shifted_kernel_gradient(x: jax.Array, g: jax.Array, stride: int, k: int) -> jax.Array:
    """The gradient of `depthwise` by its kernel, in float32: [k, k, 1, C].

    Output rows are taken one by one, and every tap keeps a row of running sums: the sums stay in the cache, and the
    innermost loop runs over a row's columns and channels. Summing over the row is left to the end.

    Args:
      x: [B, H, W, C].
      g: gradient by the output, [B, h, w, C].
      stride: in both directions.
      k: the kernel's size.
    """
    _, height, width, channels = g.shape
    padding = [_same(size, k, stride) for size in x.shape[1:3]]

    def add_image(sums: list[jax.Array], images: tuple[jax.Array, jax.Array]) -> tuple[list[jax.Array], None]:
        image, g = flat(jnp.pad(images[0], (*padding, (0, 0)))), flat(images[1])

        def add_row(row: jax.Array, sums: list[jax.Array]) -> list[jax.Array]:
            window = lax.dynamic_slice_in_dim(image, row * stride, k)  # [k, W + padding, C]
            g_row = g[row].astype(jnp.float32)  # [w, C], or flat
            return [s + columns(window, j) * g_row for j, s in enumerate(sums)]

        return lax.fori_loop(0, height, add_row, sums), None

    if stride == 1:  # columns and channels are then one axis, and a shift by a column one by C: longer inner loops
        columns = lambda window, j: lax.slice_in_dim(window, j * channels, (j + width) * channels, axis=1)
        flat = lambda image: image.reshape(image.shape[0], -1)
    else:
        columns = lambda window, j: strided(window, 1, j, stride, width)
        flat = lambda image: image
    zeros = [jnp.zeros((k, *flat(g[0]).shape[1:]), jnp.float32) for _ in range(k)]
    sums, _ = lax.scan(add_image, zeros, (x, g))
    return jnp.stack([s.reshape(k, width, channels).sum(1) for s in sums], axis=1)[:, :, None]  # [k, k, 1, C]


def _correlate(image: jax.Array, taps: jax.Array, stride: int, height: int, width: int) -> jax.Array:
    """[H, W, C], already padded, with `taps` [k, k', C]: [height, width, C]."""
    total = None
    for i in range(taps.shape[0]):
        for j in range(taps.shape[1]):
            term = strided(strided(image, 0, i, stride, height), 1, j, stride, width) * taps[i, j]
            total = term if total is None else total + term
    return total


def _same(size: int, k: int, stride: int) -> tuple[int, int]:
    """TensorFlow's "SAME": how much to pad before and after."""
    total = max((-(-size // stride) - 1) * stride + k - size, 0)
    return total // 2, total - total // 2
