"""Published ViT-Ti, S and B, under timm's names (DeiT's too) or Hugging Face's: the rules know both.

Hugging Face's files keep the names `encoder.layer.0.attention.attention.query` and such, whatever the version of
transformers; from version 5 on a model in memory has others (`layers.0.attention.q_proj`), which are known too. Its
LayerNorm has epsilon 1e-12 for timm's 1e-6 and ours: on random weights (tests/test_parity.py) the logits of 12 blocks
differ by 1.5e-6 of their scale, where timm's differ by 0.7e-6.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from tlx.errors import UserError
from tlx.pretrained.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from tlx.pretrained.renaming import kernel_and_bias, norm, rename

_TIMM = r"blocks\.(\d+)\."
_HF = r"(?:vit\.)?(?:encoder\.layer|layers)\.(\d+)\."
_BLOCK = r"backbone/block\1+1/"

RULES = (
    # timm
    (r"cls_token", "params/backbone/embed/token"),
    (r"pos_embed", "params/backbone/embed/positions"),
    *kernel_and_bias(r"patch_embed\.proj", "backbone/embed/patch"),
    *norm(_TIMM + r"norm(\d)", _BLOCK + r"norm\2"),
    *kernel_and_bias(_TIMM + r"attn\.(query|key|value)", _BLOCK + r"attention/\2"),  # see split_qkv
    *kernel_and_bias(_TIMM + r"attn\.proj", _BLOCK + "attention/out"),
    *kernel_and_bias(_TIMM + r"mlp\.fc(\d)", _BLOCK + r"mlp/dense\2"),
    *norm("norm", "backbone/norm"),
    *kernel_and_bias("head", "head"),
    # Hugging Face
    (r"(?:vit\.)?embeddings\.cls_token", "params/backbone/embed/token"),
    (r"(?:vit\.)?embeddings\.position_embeddings", "params/backbone/embed/positions"),
    *kernel_and_bias(r"(?:vit\.)?embeddings\.patch_embeddings\.projection", "backbone/embed/patch"),
    *norm(_HF + "layernorm_before", _BLOCK + "norm1"),
    *norm(_HF + "layernorm_after", _BLOCK + "norm2"),
    *kernel_and_bias(_HF + r"attention\.attention\.(query|key|value)", _BLOCK + r"attention/\2"),
    *kernel_and_bias(_HF + r"attention\.output\.dense", _BLOCK + "attention/out"),
    *kernel_and_bias(_HF + r"intermediate\.dense", _BLOCK + "mlp/dense1"),
    *kernel_and_bias(_HF + r"output\.dense", _BLOCK + "mlp/dense2"),
    *norm(r"(?:vit\.)?layernorm", "backbone/norm"),
    *kernel_and_bias("classifier", "head"),
    # Hugging Face, a model in memory
    *kernel_and_bias(_HF + r"attention\.q_proj", _BLOCK + "attention/query"),
    *kernel_and_bias(_HF + r"attention\.k_proj", _BLOCK + "attention/key"),
    *kernel_and_bias(_HF + r"attention\.v_proj", _BLOCK + "attention/value"),
    *kernel_and_bias(_HF + r"attention\.o_proj", _BLOCK + "attention/out"),
    *kernel_and_bias(_HF + r"mlp\.fc(\d)", _BLOCK + r"mlp/dense\2"),
)
IGNORE = (r"(?:vit\.)?pooler\..*", r"(?:vit\.)?embeddings\.mask_token")  # neither reaches the classifier

_HALF = (0.5, 0.5, 0.5)
# By the weights' origin. timm 1.0.31 resizes the shorter side to floor(224 / crop_pct); crop_pct is 0.9 in both.
PREPROCESSING = {
    # timm's default_cfg of "vit_{tiny,small,base}_patch16_224.augreg*"
    "timm": Preprocessing(224, 248, "bicubic", _HALF, _HALF),
    # timm's default_cfg of "deit_{tiny,small,base}_patch16_224.fb_in1k"
    "deit": Preprocessing(224, 248, "bicubic", IMAGENET_MEAN, IMAGENET_STD),
    # the defaults of transformers 5.24.0's ViTImageProcessor
    "huggingface": Preprocessing(224, None, "bilinear", _HALF, _HALF),
}


def from_tensors(
    tensors: Mapping[str, np.ndarray], *, image_shape: tuple[int, int, int] | None = None
) -> dict[str, Any]:
    """{"params", "batch_stats"} for `graft`, from a file's tensors by name.

    Args:
      tensors: name -> array, as in the file.
      image_shape: (H, W, C) that the network is to be used on; the positions are resized if the file's are for
        images of another size.

    Raises:
      UserError: a tensor that has no place in a ViT; positions of another size that are not of a square.
    """
    variables = rename(split_qkv(tensors), RULES, ignore=IGNORE)
    embed = variables["params"].get("backbone", {}).get("embed", {})
    if image_shape is not None and {"patch", "positions"} <= set(embed):
        patch_height, patch_width = embed["patch"]["kernel"].shape[:2]
        grid = (image_shape[0] // patch_height, image_shape[1] // patch_width)
        count = embed["positions"].shape[1] - 1
        side = math.isqrt(count)
        if side**2 == count:
            embed["positions"] = resize_positions(embed["positions"], (side, side), grid)
        elif count != math.prod(grid):
            raise UserError(
                f"the weights' positions are of shape {list(embed['positions'].shape)}: not of a class token and a "
                f"square of patches, so they cannot be resized to {grid[0]}x{grid[1]} patches; call resize_positions"
            )
    return variables


def split_qkv(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Splits timm's `attn.qkv`, of 3 D rows, into `attn.query`, `attn.key` and `attn.value`; the rest stays."""
    split = {}
    for name, tensor in tensors.items():
        before, qkv, after = name.partition(".attn.qkv.")
        if qkv:
            if tensor.shape[0] % 3:
                raise UserError(f"the weights' tensor {name!r} is of shape {list(tensor.shape)}: not three of a kind")
            thirds = np.split(tensor, 3)
            split |= {f"{before}.attn.{part}.{after}": third for part, third in zip(("query", "key", "value"), thirds)}
        else:
            split[name] = tensor
    return split


def resize_positions(positions: np.ndarray, old_grid: tuple[int, int], new_grid: tuple[int, int]) -> np.ndarray:
    """Learned positions for a grid of patches of another size, by antialiased bicubic interpolation.

    The convention is that of timm's `resample_abs_pos_embed` (and Pillow): Keys' cubic with a = -0.5, widened where the
    grid shrinks. Hugging Face's `interpolate_pos_encoding` has a = -0.75 and does not widen.

    Args:
      positions: [1, 1 + h * w, D], the class token's first.
      old_grid: (h, w), of the patches.
      new_grid: (h', w').

    Returns:
      float32 [1, 1 + h' * w', D]; the class token's is as it was.

    Raises:
      UserError: positions that are not of `old_grid`.
    """
    if positions.ndim != 3 or positions.shape[1] != 1 + math.prod(old_grid):
        raise UserError(
            f"positions of shape {list(positions.shape)} are not of a class token and {old_grid[0]}x{old_grid[1]} "
            "patches: give the grid that they were learned for"
        )
    positions = np.asarray(positions, np.float32)
    if old_grid == new_grid:
        return positions
    features = positions.shape[-1]
    token, grid = positions[:, :1], positions[:, 1:].reshape(*old_grid, features)
    resized = jax.image.resize(grid, (*new_grid, features), "bicubic", antialias=True)
    return np.concatenate([token, np.asarray(resized).reshape(1, -1, features)], axis=1)
