"""BatchNorm as one multiply-add, so that its backward pass needs no copy of the centred input."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax


class BatchNorm(nn.BatchNorm):
    """linen's BatchNorm (parameters, statistics, attributes, `use_running_average` at call time) over the last axis.

    linen computes (x - mean) * factor + bias, and keeps x - mean, as large as x, for the backward pass. Here it is
    x * factor + (bias - mean * factor), which needs x only, and the convolution's output is kept anyway: an
    EfficientNet's step then touches much less memory, of which fresh pages are what a CPU pays most for.
    Statistics and normalisation are in float32; the result is of `dtype`.
    """

    @nn.compact
    def __call__(self, x: jax.Array, use_running_average: bool | None = None) -> jax.Array:
        features = x.shape[-1:]
        mean_average = self.variable("batch_stats", "mean", jnp.zeros, features, jnp.float32)
        var_average = self.variable("batch_stats", "var", jnp.ones, features, jnp.float32)
        scale = self.param("scale", self.scale_init, features, self.param_dtype)
        bias = self.param("bias", self.bias_init, features, self.param_dtype)
        exact = x.astype(jnp.float32)
        if nn.merge_param("use_running_average", self.use_running_average, use_running_average):
            mean, var = mean_average.value, var_average.value
        else:
            axes = tuple(range(x.ndim - 1))
            mean, mean_square = jnp.mean(exact, axes), jnp.mean(jnp.square(exact), axes)  # [C]
            if self.axis_name is not None and not self.is_initializing():
                mean, mean_square = lax.pmean((mean, mean_square), self.axis_name)
            var = jnp.maximum(mean_square - jnp.square(mean), 0)
            if not self.is_initializing():
                mean_average.value = self.momentum * mean_average.value + (1 - self.momentum) * mean
                var_average.value = self.momentum * var_average.value + (1 - self.momentum) * var
        factor = scale * lax.rsqrt(var + self.epsilon)
        return (exact * factor + (bias - mean * factor)).astype(self.dtype or x.dtype)
