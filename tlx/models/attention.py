"""Softmax attention, in the formulation that the device is fast at.

Written out, the weights [B, heads, T, T] go through memory several times, which is a fourth of a ViT-B's training step
on an H200 (measured, experiments/speed). cuDNN's fused attention (Dao et al. 2022, "FlashAttention") never writes them.
"""

import contextlib
import contextvars
from collections.abc import Iterator

import jax
import jax.numpy as jnp

FUSED = (jnp.bfloat16, jnp.float16)  # what cuDNN's is made for
_plain = contextvars.ContextVar("plain", default=False)


@contextlib.contextmanager
def written_out() -> Iterator[None]:
    """Within, what is traced has the plain form on any device: to be counted, or compared."""
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


def attend(query: jax.Array, key: jax.Array, value: jax.Array, *, fused: str | None = None) -> jax.Array:
    """softmax(query key^T / sqrt(d)) value, over all T tokens, each head by itself; the softmax is in float32.

    Args:
      query, key, value: [B, T, heads, d].
      fused: `jax.nn.dot_product_attention`'s implementation of the padded form; None = cuDNN's where the device has
        it and the dtype is one of FUSED, else the plain form.

    Returns:
      [B, T, heads, d].
    """
    if fused is None:
        if _plain.get() or query.dtype not in FUSED or not _has_cudnn():
            return jax.nn.dot_product_attention(query, key, value)
        fused = "cudnn"
    # cuDNN's gradient takes even numbers of tokens only (jax 0.11): the one that is added is not read.
    batch, tokens = query.shape[:2]
    lengths = jnp.full(batch, tokens, jnp.int32)
    query, key, value = (jnp.pad(x, ((0, 0), (0, tokens % 2), (0, 0), (0, 0))) for x in (query, key, value))
    masks = {"query_seq_lengths": lengths, "key_value_seq_lengths": lengths} if tokens % 2 else {}
    return jax.nn.dot_product_attention(query, key, value, **masks, implementation=fused)[:, :tokens]


def _has_cudnn() -> bool:
    """Whether what is compiled now runs on NVIDIA's GPUs from Ampere on, which fused attention takes."""
    try:
        return jax.default_backend() == "gpu" and float(jax.devices()[0].compute_capability) >= 8.0
    except (AttributeError, ValueError):  # other GPUs name theirs otherwise
        return False
