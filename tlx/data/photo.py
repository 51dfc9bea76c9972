"""One photograph: whatever a camera, a phone or a scanner wrote, as 8-bit grey or RGB values of one size."""

import os

import numpy as np
import PIL.Image
import PIL.ImageOps

# What Pillow reads without further packages and people call a photograph; it would take PDF and MPEG for images, too.
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif", ".jp2")
SUFFIXES += (".pgm", ".ppm", ".pnm")


def is_grey(image: PIL.Image.Image) -> bool:
    """Whether the file stores no colours. An RGB file is not grey, whatever its pixels; a palette may be."""
    if image.mode in ("P", "PA"):
        pixels = np.asarray(image.convert("RGBA"))[..., :3]
        return bool((pixels == pixels[..., :1]).all())
    return image.mode in ("1", "L", "LA", "F") or image.mode.startswith("I")


def read(path: str | os.PathLike, shape: tuple[int, int, int]) -> PIL.Image.Image:
    """An image file as (H, W, C) = `shape`, in mode "L" (C = 1) or "RGB" (3): its largest centred part of these
    proportions, resized.

    For a square this is the shorter side resized and the centre cropped, without resizing what is cropped off.
    Antialiased bicubic, as timm evaluates its ViTs and ResNets (`tlx.pretrained`). The EXIF orientation is
    honoured; what is transparent shows white; of several frames or pages it is the first. 16-bit values are taken to
    use their whole range, 0-65535, and floats 0-1. Colour profiles are not applied.

    Raises:
      Exception: a broken file; Pillow has many types for it.
    """
    height, width, channels = shape
    with PIL.Image.open(path) as image:
        image = PIL.ImageOps.exif_transpose(image)
    image = _to_8_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = PIL.Image.alpha_composite(PIL.Image.new("RGBA", image.size, "white"), image)
    image = image.convert("L" if channels == 1 else "RGB")
    scale = min(image.width / width, image.height / height)
    kept = [max(round(side * scale), 1) for side in (width, height)]
    left, top = ((full - part) // 2 for full, part in zip(image.size, kept, strict=True))
    return image.resize((width, height), PIL.Image.Resampling.BICUBIC, box=(left, top, left + kept[0], top + kept[1]))


def _to_8_bits(image: PIL.Image.Image) -> PIL.Image.Image:
    """Scales what has more bits: Pillow's own conversions clip at 255."""
    if image.mode != "F" and not image.mode.startswith("I"):
        return image
    values, most = np.asarray(image), 1 if image.mode == "F" else 65535
    if not (values.min() >= 0 and values.max() <= most):  # negated, so that NaN is wrong as well
        raise ValueError(f"its values are {values.min()}..{values.max()} and not within 0..{most}")
    return PIL.Image.fromarray(np.round(values * (255 / most)).astype(np.uint8))
