"""Convolution with a gradient by the kernel that XLA's CPU backend is fast at.

Left to itself, XLA makes that gradient a convolution over the batch, for which it transposes the input so that the
batch comes last; and it fuses into this copy all that the input was computed from, back to the last convolutions, read
with large strides: two thirds of a ResNet-20's training step at [128, 32, 32, 3] (measured, experiments/speed).
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from tlx.models.layers import strided

Padding = tuple[tuple[int, int], tuple[int, int]]
CHUNK, CHUNK_BYTES = 8, 3_000_000  # images whose patches are made at a time, at most: what the cache holds
MOST_CHANNELS = 64  # with more, patches of a 3x3 are so wide that XLA's way is as fast (ResNet-18 at [8, 224, 224, 3])


def conv_general_dilated(
    x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Sequence[tuple[int, int]], **_: Any
) -> jax.Array:
    """`convolve`, in the place of `nn.Conv.conv_general_dilated`, for one group and no dilation."""
    return convolve(x, kernel, tuple(strides), tuple(tuple(pair) for pair in padding))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve(x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Padding) -> jax.Array:
    """Convolution, differentiable once, in reverse.

    Args:
      x: [B, H, W, C].
      kernel: [k, l, C, D], of x's dtype.
      strides, padding: (before, after), of rows and columns.

    Returns:
      [B, h, w, D].
    """
    return plain(x, kernel, strides, padding)


def plain(x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Padding) -> jax.Array:
    """`convolve`, with XLA's own gradients."""
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _forward(x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Padding) -> tuple:
    return convolve(x, kernel, strides, padding), (x, kernel)


def _backward(strides: tuple[int, int], padding: Padding, saved: tuple, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    def xlas(x: jax.Array, kernel: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.vjp(lambda x, kernel: plain(x, kernel, strides, padding), x, kernel)[1](g)

    def by_patches(x: jax.Array, kernel: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
        (dx,) = jax.vjp(lambda x: plain(x, kernel, strides, padding), x)[1](g)
        return dx, kernel_gradient(x, g, kernel.shape[:2], strides, padding).astype(kernel.dtype)

    taps = math.prod(saved[1].shape[:2])
    narrow = taps == 1 or saved[0].shape[-1] <= MOST_CHANNELS
    return lax.platform_dependent(*saved, g, cpu=by_patches if narrow else xlas, default=xlas)


convolve.defvjp(_forward, _backward)


def kernel_gradient(
    x: jax.Array, g: jax.Array, size: tuple[int, int], strides: tuple[int, int], padding: Padding
) -> jax.Array:
    """The gradient by the kernel, in float32, as a sum of products of the gradient and the patches of a few images.

    A loop, since its operands are arrays in memory: nothing of what they were computed from is fused into it.

    Args:
      x: [B, H, W, C].
      g: gradient by the output, [B, h, w, D].
      size: (k, l) of the kernel.
      strides, padding: as in `convolve`.

    Returns:
      [k, l, C, D].
    """
    (batch, height, width, features), channels = g.shape, x.shape[-1]
    most = CHUNK_BYTES // (4 * height * width * math.prod(size) * channels)
    chunk = max(n for n in range(1, min(CHUNK, max(1, most)) + 1) if batch % n == 0)

    def add(total: jax.Array, rows: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        images, gradients = rows
        padded = jnp.pad(images, ((0, 0), *padding, (0, 0)))
        rows_from = [strided(padded, 1, i, strides[0], height) for i in range(size[0])]
        taps = [strided(some, 2, j, strides[1], width) for some in rows_from for j in range(size[1])]
        patches = jnp.concatenate(taps, -1).reshape(chunk * height * width, -1)
        product = lax.dot_general(
            gradients.reshape(-1, features), patches, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32
        )
        return total + product, None  # [D, k * l * C]

    in_chunks = lambda array: array.reshape(batch // chunk, chunk, *array.shape[1:])
    zeros = jnp.zeros((features, size[0] * size[1] * channels), jnp.float32)
    total, _ = lax.scan(add, zeros, (in_chunks(x), in_chunks(g)))
    return total.T.reshape(*size, channels, features)
