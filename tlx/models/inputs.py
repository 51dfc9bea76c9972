"""What a network takes, from images as everybody has them. It belongs to the network as much as its weights do."""

import dataclasses
import numbers

import jax
import jax.numpy as jnp

from tlx.errors import UserError


@dataclasses.dataclass(frozen=True)
class Input:
    """The input of one network; called, it turns images into it.

    A teacher that was trained on 224 x 224 in colour may so teach a student that sees 28 x 28 in grey: both get the
    same images, and each makes of them what it was trained on.

    Attributes:
      shape: (H, W, C).
      mean, std: of each channel, of images in [0, 1].
    """

    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or not all(isinstance(side, numbers.Integral) and side > 0 for side in self.shape):
            raise UserError(f"the network's images are {list(self.shape)}: give [H, W, C], whole numbers > 0")
        if not len(self.mean) == len(self.std) == self.shape[2] or not min(self.std) > 0:
            raise UserError(
                f"mean {self.mean} and std {self.std} do not fit images {list(self.shape)}: give one of each for every "
                "channel, std > 0"
            )

    def check(self, image_shape: tuple[int, int, int], *, whose: str = "the network") -> None:
        """Raises UserError, about `whose` input, unless images of this shape, (h, w, c), can be turned into it."""
        if image_shape[2] not in (1, self.shape[2]):
            raise UserError(
                f"{whose} takes {self.shape[2]} channels and the images have {image_shape[2]}: convert them"
            )

    def differs(self, image_shape: tuple[int, int, int]) -> str:
        """What happens to images of this shape, for people; "" if nothing but normalisation."""
        (height, width, channels), (new_height, new_width, new_channels) = image_shape, self.shape
        said = [f"{height}x{width} resized to {new_height}x{new_width}"] * ((height, width) != self.shape[:2])
        return ", ".join(said + [f"grey repeated to {new_channels} channels"] * (channels != new_channels))

    def __call__(self, images: jax.Array) -> jax.Array:
        """float [B, h, w, c] in [0, 1] -> float32 [B, H, W, C]: resized (bilinear, antialiased), repeated, normalised.

        Raises:
          UserError: as `check`.
        """
        self.check(images.shape[1:])
        if images.shape[1:3] != self.shape[:2]:
            images = jax.image.resize(images, (images.shape[0], *self.shape[:2], images.shape[3]), "bilinear")
        # Broadcasts a single channel to all.
        return (images - jnp.asarray(self.mean, jnp.float32)) / jnp.asarray(self.std, jnp.float32)
