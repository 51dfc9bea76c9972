"""What a network sees of an image: scaled, augmented where asked, normalised."""

from collections.abc import Callable, Sequence
from typing import Any

import jax

from tlx.data.augment import make_augment, normalize, to_float


def make_view(*, mean: Sequence[float], std: Sequence[float], **augment: Any) -> Callable:
    """Builds `view(images, slots, key) -> float32 [B, H, W, C]`.

    Args:
      mean, std: per channel, of the training images in [0, 1].
      **augment: options of `make_augment`; none = the noised view is the clean one.

    Returns:
      A function of images [B, H, W, C] (uint8, or float in [0, 1]), slots int32 [B] and a key; with key None the view
      is clean. The same (key, slot) gives the same noise whatever devices the batch lies on.
    """
    noise = make_augment(**augment)

    def view(images: jax.Array, slots: jax.Array, key: jax.Array | None) -> jax.Array:
        images = to_float(images)
        if key is not None:
            images = noise(key, images, slots)
        return normalize(images, mean, std)

    return view
