"""Layers that linen lacks, or that XLA is slow at."""

import flax.linen as nn
import jax
import jax.numpy as jnp


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
