"""What a pre-trained network's images went through: the network is only as good as its input is the same."""

import dataclasses

import numpy as np
from PIL import Image

from tlx.errors import UserError
from tlx.models.options import check_choice, check_count

INTERPOLATIONS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Resize, crop the centre, normalise.

    Attributes:
      size: the side of the network's square input.
      resize: the length that the image's shorter side is resized to before the crop, at least `size`; None resizes to
        `size` x `size` whatever the image's proportions, and crops nothing.
      interpolation: one of INTERPOLATIONS, antialiased, as Pillow does it.
      mean, std: of each channel, in [0, 1].
    """

    size: int
    resize: int | None
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        check_count("size", self.size, minimum=1)
        if self.resize is not None:
            check_count("resize", self.resize, minimum=self.size)
        check_choice("interpolation", self.interpolation, INTERPOLATIONS)


def preprocess(image: np.ndarray, spec: Preprocessing) -> np.ndarray:
    """An image as the network expects it.

    Lengths and offsets are rounded as torchvision's `Resize` and `CenterCrop` round them, on Pillow images.

    Args:
      image: uint8 [H, W, 3], or [H, W, 1] or [H, W] of grey values, which are repeated to 3 channels.
      spec: what to do.

    Returns:
      float32 [size, size, 3].

    Raises:
      UserError: an image of another shape or type.
    """
    grey = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 1)
    if image.dtype != np.uint8 or not image.size or not (grey or (image.ndim == 3 and image.shape[2] == 3)):
        raise UserError(
            f"an image is {image.dtype} {list(image.shape)}: give uint8 [H, W, 3] (RGB), or [H, W, 1] or [H, W] (grey)"
        )
    picture = Image.fromarray(image.reshape(image.shape[:2])).convert("RGB") if grey else Image.fromarray(image)
    width, height = picture.size
    new_width = new_height = spec.size
    if spec.resize is not None:
        shorter = min(width, height)
        new_width, new_height = (int(spec.resize * side / shorter) for side in (width, height))
    if (new_width, new_height) != (width, height):
        picture = picture.resize((new_width, new_height), INTERPOLATIONS[spec.interpolation])
    left, top = (round((side - spec.size) / 2) for side in (new_width, new_height))
    pixels = np.asarray(picture.crop((left, top, left + spec.size, top + spec.size)), np.float32) / 255
    return (pixels - np.asarray(spec.mean, np.float32)) / np.asarray(spec.std, np.float32)  # [size, size, 3]
