"""Random weights and images that numpy alone makes again, bit for bit: so golden logits need no weights beside them.

Uniform, not normal, numbers: they come straight from the generator's bits, without a logarithm of the platform's.
"""

import math
import zlib
from collections.abc import Mapping, Sequence

import numpy as np


def fill(name: str, shape: Sequence[int]) -> np.ndarray:
    """The tensor of a state_dict under PyTorch's names: seeded by the name, and scaled by what the name says it is.

    Kernels have variance 1 / fan_in, norms scales around 1 and variances in 0.5..1.5, so activations stay near 1.
    """
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    uniform = 2 * rng.random(tuple(shape), np.float32) - 1  # [-1, 1)
    kind = name.rpartition(".")[2]
    if kind == "num_batches_tracked":
        return np.zeros(tuple(shape), np.int64)
    if kind == "running_var":
        return 1 + np.float32(0.5) * uniform
    if kind == "weight" and len(shape) == 1:
        return 1 + np.float32(0.2) * uniform
    if kind in ("bias", "running_mean"):
        return np.float32(0.2) * uniform
    if kind == "weight":
        return np.float32(math.sqrt(3 / math.prod(shape[1:]))) * uniform
    return uniform  # the class token and the positions


def fill_all(tensors: Mapping[str, Sequence[int]]) -> dict[str, np.ndarray]:
    """Every tensor of a list of names and shapes."""
    return {name: fill(name, shape) for name, shape in tensors.items()}


def images(shape: Sequence[int]) -> np.ndarray:
    """Two normalised images, float32 [2, H, W, C], for a `shape` of (H, W, C)."""
    return 4 * np.random.default_rng(0).random((2, *shape), np.float32) - 2


def photograph() -> np.ndarray:
    """A uint8 [150, 201, 3] picture of waves and noise, to preprocess."""
    y, x = np.mgrid[:150, :201]
    waves = np.stack([(y * (3 + c) + x * x // (20 + c)) % 256 for c in range(3)], axis=-1)
    return ((waves + np.random.default_rng(1).integers(0, 64, waves.shape)) % 256).astype(np.uint8)
