"""What training sees of an image: in [0, 1], augmented where asked. Normalising is the network's own: `Input`."""

from collections.abc import Callable
from typing import Any

import jax

from tlx.data.augment import make_augment, to_float


def make_view(**augment: Any) -> Callable:
    """Builds `view(images, slots, key) -> float32 [B, H, W, C]` in [0, 1].

    Args:
      **augment: options of `make_augment`; none = the noised view is the clean one.

    Returns:
      A function of images [B, H, W, C] (uint8, or float in [0, 1]), slots int32 [B] and a key; with key None the view
      is clean. The same (key, slot) gives the same noise whatever devices the batch lies on.
    """
    noise = make_augment(**augment)

    def view(images: jax.Array, slots: jax.Array, key: jax.Array | None) -> jax.Array:
        images = to_float(images)
        return images if key is None else noise(key, images, slots)

    return view
