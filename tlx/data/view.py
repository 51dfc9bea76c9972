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


def look(
    view: Callable, batch: Mapping[str, jax.Array], keys: Mapping[str, jax.Array], *, mixup: float = 0.0
) -> tuple[jax.Array, jax.Array | None]:
    """What a network sees of a batch in training; whoever is given the same batch and keys sees the same.

    The noise is new at every step. Only where the batch has rows of a transfer set with fixed views ("row", int32 [B]),
    it is a function of the row alone, so that what a teacher says of it can be kept.

    Args:
      view: from `make_view`.
      batch: with "partner_image" [B, H, W, C] where `mixup` > 0.
      keys: from `view_keys`.
      mixup: a > 0 mixes each image with its partner's, `share * image + (1 - share) * partner`, with a share drawn from
        Beta(a, a) (Zhang et al. 2018, "mixup", section 2); 0 = off.

    Returns:
      Images float32 [B, H, W, C], and the shares [B], or None without mixup.
    """
    key, slots = (keys["views"], batch["row"]) if "row" in batch else (keys["augment"], batch["slot"])
    images = view(batch["image"], slots, key)
    if not mixup:
        return images, None
    draw = lambda key, slot: jax.random.beta(jax.random.fold_in(key, slot), mixup, mixup)
    share = jax.vmap(draw, (None, 0))(rng.stream(key, "mixup"), slots)  # [B]
    partners = view(batch["partner_image"], slots, rng.stream(key, "partner"))
    weight = share[:, None, None, None]
    return weight * images + (1 - weight) * partners, share
