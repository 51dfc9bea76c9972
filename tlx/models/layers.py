"""Layers that linen lacks, or that XLA is slow at."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax


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


def max_pool_2x2(x: jax.Array) -> jax.Array:
    """The maximum over windows of 2x2, stride 2; an odd last row or column is left out, as with padding "VALID".

    `nn.max_pool` is `reduce_window`, whose gradient (`select_and_scatter`) runs serially on CPU: with it the default
    CNN takes 10.3 ms a step at [256, 8, 8, 1], with this 6.0 (28x28: 223 and 125; 2 cores). The gradient of a tie is
    shared, not given to the first.

    Args:
      x: [B, H, W, C], H and W >= 2.

    Returns:
      [B, H // 2, W // 2, C].
    """
    batch, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).max(axis=(2, 4))
