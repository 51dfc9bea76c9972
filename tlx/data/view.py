"""What training sees of an image: in [0, 1], augmented where asked. Normalising is the network's own: `Input`."""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from tlx import rng
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


def view_keys(root: jax.Array, step: jax.Array | int) -> dict[str, jax.Array]:
    """The keys that `look` needs at a step: "augment", of new views at every step, and "views", of fixed ones."""
    return {"augment": rng.at_step(rng.stream(root, "augment"), step), "views": rng.stream(root, "views")}


def look(view: Callable, batch: Mapping[str, jax.Array], keys: Mapping[str, jax.Array]) -> jax.Array:
    """What a network sees of a batch in training; whoever is given the same batch and keys sees the same.

    The noise is new at every step. Only where the batch has rows of a transfer set with fixed views ("row", int32 [B]),
    it is a function of the row alone, so that what a teacher says of it can be kept. Where the batch has partners, an
    image is mixed with its partner, `share * image + (1 - share) * partner` (Zhang et al. 2018, "mixup", section 2).

    Args:
      view: from `make_view`.
      batch: see `tlx.steps`.
      keys: from `view_keys`.

    Returns:
      float32 [B, H, W, C].
    """
    key, slots = (keys["views"], batch["row"]) if "row" in batch else (keys["augment"], batch["slot"])
    images = view(batch["image"], slots, key)
    if "partner_image" not in batch:
        return images
    partners = view(batch["partner_image"], slots, rng.stream(key, "partner"))
    share = batch["share"][:, None, None, None]
    return share * images + (1 - share) * partners
