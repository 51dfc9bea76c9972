"""Vision transformers: Dosovitskiy et al. (2021), "An Image is Worth 16x16 Words", with the sizes Ti and S of Touvron
et al. (2021), "Training data-efficient image transformers", table 1.

Pre-norm blocks, a class token, learned positions made for the input's size, biases everywhere, exact GELU, and
LayerNorm with epsilon 1e-6, as in timm's `vit_*_patch16_224`, whose weights fit (`tlx.pretrained.vit`).
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from tlx.errors import UserError
from tlx.models.attention import attend
from tlx.models.layers import StochasticDepth, walk
from tlx.models.options import check_choice, check_count, check_factor, check_rate

HEAD_CHANNELS = 64  # of each attention head, in every size: a wider network has more of them
MLP_RATIO = 4  # the MLP's hidden width, in widths of the network
HEADS = {"vit_ti16": 3, "vit_s16": 6, "vit_b16": 12}

_INIT = nn.initializers.truncated_normal(0.02)  # as timm's and DeiT's


def _dense(features: int, *, dtype: Any, name: str) -> nn.Dense:
    return nn.Dense(features, dtype=dtype, kernel_init=_INIT, name=name)


def _norm(*, dtype: Any, name: str) -> nn.LayerNorm:
    # linen computes the statistics in float32 whatever `dtype`.
    return nn.LayerNorm(epsilon=1e-6, dtype=dtype, name=name)


class Embed(nn.Module):
    """[B, H, W, C] -> [B, 1 + H / patch * W / patch, features]: the class token, then the patches, row by row."""

    features: int
    patch: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, height, width, _ = x.shape
        if height % self.patch or width % self.patch:
            near = [max(1, round(side / self.patch)) * self.patch for side in (height, width)]
            divisor = max(side for side in range(1, self.patch + 1) if height % side == width % side == 0)
            raise UserError(
                f"images of {height}x{width} cannot be cut into patches of {self.patch}x{self.patch}: resize them to "
                f"{near[0]}x{near[1]}" + (f", or give the model patch={divisor}" if divisor > 1 else "")
            )
        x = nn.Conv(
            self.features,
            (self.patch, self.patch),
            (self.patch, self.patch),
            padding="VALID",
            dtype=self.dtype,
            kernel_init=nn.initializers.lecun_normal(),
            name="patch",
        )(x)
        x = x.reshape(batch, -1, self.features)  # [B, N, D]
        token = self.param("token", nn.initializers.zeros, (1, 1, self.features))
        positions = self.param("positions", _INIT, (1, 1 + x.shape[1], self.features))
        token, positions = token.astype(x.dtype), positions.astype(x.dtype)
        x = jnp.concatenate([jnp.broadcast_to(token, (batch, 1, self.features)), x], axis=1)
        return x + positions


class Attention(nn.Module):
    """Multi-head self-attention, [B, T, D] -> [B, T, D].

    Not linen's `MultiHeadDotProductAttention`: its kernels have three axes and its biases two, so every rule about a
    parameter's rank (weight decay, the readers of published weights) would need an exception.
    """

    heads: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        features = x.shape[-1]
        query, key, value = (
            _dense(features, dtype=self.dtype, name=name)(x).reshape(*x.shape[:2], self.heads, -1)  # [B, T, heads, d]
            for name in ("query", "key", "value")
        )
        x = attend(query, key, value).reshape(x.shape)
        return _dense(features, dtype=self.dtype, name="out")(x)


class MLP(nn.Module):
    """[B, T, D] -> [B, T, D] through MLP_RATIO times as many channels."""

    dropout: float
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        features = x.shape[-1]
        x = nn.gelu(_dense(MLP_RATIO * features, dtype=self.dtype, name="dense1")(x), approximate=False)
        x = nn.Dropout(self.dropout)(x, deterministic=not train)
        return _dense(features, dtype=self.dtype, name="dense2")(x)


class Block(nn.Module):
    """Attention, then the MLP, each normalised before and added to its input after."""

    heads: int
    dropout: float
    drop_rate: float
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        attention = Attention(self.heads, self.dtype, name="attention")
        mlp = MLP(self.dropout, self.dtype, name="mlp")
        for norm, branch in (("norm1", attention), ("norm2", lambda x: mlp(x, train=train))):
            residual = branch(_norm(dtype=self.dtype, name=norm)(x))
            residual = nn.Dropout(self.dropout)(residual, deterministic=not train)
            x = x + StochasticDepth(self.drop_rate)(residual, train=train)
        return x


class ViT(nn.Module):
    """Levels: embed, block1, block2, ..., norm [B, T, D], of which the class token is the first of T; pooled [B, D]."""

    blocks: int
    heads: int
    patch: int
    pool: str
    dropout: float
    stochastic_depth: float
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, start: str = "", end: str = "") -> dict[str, jax.Array]:
        levels = {"embed": (Embed(self.heads * HEAD_CHANNELS, self.patch, self.dtype, name="embed"),)}
        drop = nn.Dropout(self.dropout, deterministic=not train)
        for i in range(1, self.blocks + 1):
            block = Block(
                self.heads, self.dropout, self.stochastic_depth * i / self.blocks, self.dtype, name=f"block{i}"
            )
            block = functools.partial(block, train=train)
            levels[f"block{i}"] = (drop, block) if i == 1 else (block,)
        levels["norm"] = (_norm(dtype=self.dtype, name="norm"),)
        levels["pooled"] = (lambda x: x[:, 0] if self.pool == "token" else jnp.mean(x[:, 1:], axis=1),)
        return walk(levels, x, start=start, end=end)


def vit(
    name: str,
    *,
    dtype: Any,
    axis_name: str | None,
    blocks: int = 12,
    patch: int = 16,
    width: float = 1.0,
    pool: str = "token",
    dropout: float = 0.0,
    stochastic_depth: float = 0.0,
) -> ViT:
    """A vision transformer. Its positions are parameters, so it takes images of one size: that of its first call.

    Args:
      name: one of HEADS.
      dtype: compute dtype; the statistics of LayerNorm and the softmax are float32.
      axis_name: not used: nothing here depends on the rest of the batch.
      blocks: how many; 12 in each published size.
      patch: the side of the patches, which must divide the images'. 16 is for photographs; 28x28 digits want 4 or 7.
      width: multiplies the number of heads (rounded, one at least), and so the channels, 64 a head.
      pool: what the head reads: "token", the normalised class token, or "mean", the mean of the normalised patches.
        The parameters are the same in both. (timm's "avg" takes the mean first and normalises then.)
      dropout: rate after the positions are added and after every dense layer but those of queries, keys and values
        (Dosovitskiy et al., appendix B.1).
      stochastic_depth: rate of the last block; the l-th of L drops each of its two residuals, independently, with
        l / L times that, as in `tlx.models.resnet`. (timm starts from 0 at the first block.)

    Raises:
      UserError: a value out of range; and when called, images that the patch does not divide.
    """
    return ViT(
        blocks=check_count("blocks", blocks, minimum=1),
        heads=max(1, round(HEADS[name] * check_factor("width", width))),
        patch=check_count("patch", patch, minimum=1),
        pool=check_choice("pool", pool, ("token", "mean")),
        dropout=check_rate("dropout", dropout),
        stochastic_depth=check_rate("stochastic_depth", stochastic_depth),
        dtype=dtype,
    )
