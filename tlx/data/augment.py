"""Augmentation on the device: weak and strong, each knob on its own, one key an example.

Images are float [B, H, W, C] in [0, 1], before normalisation. An example's randomness comes from its *slot*, its place
in the global batch, and not from where it lies: one device and eight draw the same noise.
"""

import inspect
import math
import numbers
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from tlx import rng
from tlx.errors import UserError, did_you_mean

# What `rand_augment` draws from. The geometric operations share one warp; of the colour operations one is applied.
GEOMETRIC_OPS = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
COLOR_OPS = ("identity", "autocontrast", "brightness", "contrast", "color", "sharpness", "solarize", "posterize")
RAND_OPS = GEOMETRIC_OPS + COLOR_OPS

# The numbers drawn for each image, all at once: with a random call for each knob, all of them on took 5 s to compile
# instead of 3 (CPU, measured). A draw is a function of its place here, whichever knobs are on: append only.
_DRAWS = ("flip", "crop_row", "crop_column", "rotate", "scale", "shear_row", "shear_column", "shift_row")
_DRAWS += ("shift_column", "contrast", "brightness", "cutout_row", "cutout_column")
_DRAWS += ("translate_row", "translate_column", "dihedral")

# The largest value of each knob; whole numbers are bounded by the images' size.
_WHOLE = ("shift", "crop", "cutout", "rand_augment")
_LIMITS = {"rotate": 180, "scale": 0.9, "shear": 1, "translate": math.inf, "noise": 10, "brightness": 1, "contrast": 1}
_LIMITS |= {"magnitude": 1}


def to_float(images: jax.Array) -> jax.Array:
    """uint8 to float32 in [0, 1]; floats are taken to be there already."""
    return images.astype(jnp.float32) / 255 if images.dtype == jnp.uint8 else images.astype(jnp.float32)


def make_augment(
    *,
    shift: int = 0,
    crop: int = 0,
    flip: bool = False,
    dihedral: bool = False,
    rotate: float = 0.0,
    scale: float = 0.0,
    shear: float = 0.0,
    translate: float = 0.0,
    cutout: int = 0,
    noise: float = 0.0,
    brightness: float = 0.0,
    contrast: float = 0.0,
    rand_augment: int = 0,
    magnitude: float = 0.5,
    **unknown: Any,
) -> Callable[[jax.Array, jax.Array, jax.Array], jax.Array]:
    """Builds `augment(key, images, slots) -> images`. Everything is off by default, and what is off adds no operation.

    What is on is applied in this order: flip, dihedral, crop, the colour operations of rand_augment, contrast,
    brightness, the warp (rand_augment, rotate, scale, shear, translate, shift), noise, cutout; then the result is
    clipped to [0, 1].

    Args:
      shift: translation by a whole number of pixels up to this many each way, filled with 0.
      crop: pads this many pixels by reflection and crops at random (after He et al. 2016, section 4.2, who pad with 0).
      flip: mirrors left and right with probability 1/2.
      dihedral: one of the eight symmetries of the square, each as likely: mirrors and quarter turns, for square images
        that have no up and down, such as tissue, satellite images or solar cells.
      rotate: up to this many degrees either way.
      scale: zooms by a factor in 1 - scale .. 1 + scale.
      shear: moves columns, and rows, by up to this many pixels for each pixel from the centre.
      translate: moves by up to this many pixels each way, fractions of a pixel included: on images of 8x8, where
        `shift`'s whole pixel is much.
      cutout: puts a square of this many pixels, centred anywhere, to 0 (DeVries & Taylor 2017, whose 0 is that of
        normalised images).
      noise: standard deviation of Gaussian noise on every value.
      brightness: adds a value in -brightness .. brightness.
      contrast: multiplies the distance from the image's mean by a factor in 1 - contrast .. 1 + contrast.
      rand_augment: draws this many of RAND_OPS, uniformly and with replacement, all at `magnitude` (Cubuk et al. 2020,
        "RandAugment", section 3). At magnitude m: rotate by 30 m degrees; shear_x, shear_y by 0.3 m; translate_x,
        translate_y by 0.3 m of the side; brightness (towards black), contrast (towards mean grey), color (towards grey;
        nothing if C = 1) and sharpness (towards a blur) blend with a factor 1 - 0.9 m or 1 + 0.9 m; solarize inverts
        from 1 - m up; posterize keeps 8 - 4 m bits; autocontrast stretches each channel, whatever m. All but the last
        three have a random sign. Unlike the paper: no equalize (a histogram an image); the geometric operations drawn
        act together, after the colour ones, as one warp that fills with 0 instead of grey.
      magnitude: of `rand_augment`, 0..1.

    Returns:
      A function of key, images [B, H, W, C] and slots int32 [B]. Everything that moves pixels by fractions is composed
      into one bilinear warp; a shift alone is a slice.

    Raises:
      UserError: an unknown option, or a value out of range; when called, images that are too small for it.
    """
    options = {"shift": shift, "crop": crop, "cutout": cutout, "rand_augment": rand_augment, "rotate": rotate}
    options |= {
        "scale": scale,
        "shear": shear,
        "translate": translate,
        "noise": noise,
        "brightness": brightness,
        "contrast": contrast,
    }
    _check_options(options | {"magnitude": magnitude}, unknown)
    for name, value in {"flip": flip, "dihedral": dihedral}.items():
        if value not in (False, True):
            raise UserError(f"augment.{name} is {value!r}: it must be True or False")
    if not (flip or dihedral or any(options.values())):
        return lambda key, images, slots: images

    def one(key: jax.Array, image: jax.Array) -> jax.Array:
        height, width, _ = image.shape
        draws = dict(zip(_DRAWS, jax.random.uniform(rng.stream(key, "draws"), (len(_DRAWS),)), strict=True))
        signed = lambda name: 2 * draws[name] - 1
        pair = lambda name: jnp.stack([draws[name + "_row"], draws[name + "_column"]])
        window = lambda name, size: jnp.floor(pair(name) * (2 * size + 1)).astype(int)  # 0 .. 2 size
        if flip:
            image = jnp.where(draws["flip"] < 0.5, image[:, ::-1], image)
        if dihedral:
            which = jnp.floor(8 * draws["dihedral"]).astype(int)
            image = jnp.where(which & 1, image[::-1], image)
            image = jnp.where(which & 2, image[:, ::-1], image)
            image = jnp.where(which & 4, image.swapaxes(0, 1), image)
        if crop:
            padded = jnp.pad(image, ((crop, crop), (crop, crop), (0, 0)), mode="reflect")
            image = jax.lax.dynamic_slice(padded, (*window("crop", crop), 0), image.shape)
        transform = None
        if rand_augment:
            image, transform = _rand_augment(rng.stream(key, "rand_augment"), image, rand_augment, magnitude)
        if contrast:
            image = image.mean() + (image - image.mean()) * (1 + signed("contrast") * contrast)
        if brightness:
            image = image + signed("brightness") * brightness
        if rotate or scale or shear or translate:
            angle, zoom = signed("rotate") * math.radians(rotate), 1 + signed("scale") * scale
            shears = (2 * pair("shear") - 1) * shear
            moves = (2 * pair("translate") - 1) * translate
            transform = _compose(transform, _affine(angle=angle, zoom=zoom, shears=shears, translate=moves))
        if shift:
            if transform is None:
                padded = jnp.pad(image, ((shift, shift), (shift, shift), (0, 0)))
                image = jax.lax.dynamic_slice(padded, (*window("shift", shift), 0), image.shape)
            else:
                transform = _compose(transform, _affine(translate=window("shift", shift) - shift))
        if transform is not None:
            image = _warp(image, transform)
        if noise:
            image = image + noise * jax.random.normal(rng.stream(key, "noise"), image.shape)
        if cutout:
            center = pair("cutout") * jnp.array([height, width])
            inside = lambda size, at: jnp.abs(jnp.arange(size) + 0.5 - at) < cutout / 2
            image = jnp.where((inside(height, center[0])[:, None] & inside(width, center[1]))[..., None], 0.0, image)
        return jnp.clip(image, 0.0, 1.0)

    def augment(key: jax.Array, images: jax.Array, slots: jax.Array) -> jax.Array:
        if images.ndim != 4 or not jnp.issubdtype(images.dtype, jnp.floating) or slots.shape != images.shape[:1]:
            raise UserError(
                f"augment takes floating images [B, H, W, C] and slots [B], not {images.dtype} {images.shape} and "
                f"{slots.shape}: see to_float"
            )
        if dihedral and images.shape[1] != images.shape[2]:
            raise UserError(f"augment.dihedral turns images by 90 degrees: {list(images.shape)} are not square")
        for name in ("shift", "crop", "cutout"):
            if options[name] >= min(images.shape[1:3]):
                size = "x".join(map(str, images.shape[1:3]))
                raise UserError(f"augment.{name} is {options[name]}: images of {size} need less")
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, slots)
        return jax.vmap(one)(keys, images)

    return augment


def _check_options(options: dict[str, Any], unknown: dict[str, Any]) -> None:
    for name in unknown:
        known = [name for name in inspect.signature(make_augment).parameters if name != "unknown"]
        hint = did_you_mean(name, known)
        raise UserError(f"augment has no option {name!r}{hint}; the options are {', '.join(known)}")
    for name, value in options.items():
        kind, most = (numbers.Integral, math.inf) if name in _WHOLE else (numbers.Real, _LIMITS[name])
        if isinstance(value, bool) or not isinstance(value, kind) or not 0 <= value <= most:
            wanted = "a whole number >= 0" if name in _WHOLE else f"in 0..{most}"
            raise UserError(f"augment.{name} is {value!r}: it must be {wanted}")


def _affine(*, angle: Any = 0.0, zoom: Any = 1.0, shears: Any = (0.0, 0.0), translate: Any = (0.0, 0.0)) -> jax.Array:
    """[3, 3], from (row, column, 1) in the result, counted from the centre, to the place in the image that it shows."""
    cos, sin = jnp.cos(angle) / zoom, jnp.sin(angle) / zoom
    rotation = jnp.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
    shear = jnp.array([[1.0, shears[0], translate[0]], [shears[1], 1.0, translate[1]], [0.0, 0.0, 1.0]])
    return _compose(rotation, shear)


def _compose(first: jax.Array | None, then: jax.Array) -> jax.Array:
    """The transform of what `first` and then `then` do to an image.

    In full precision: accelerators' default for products (TF32, bfloat16) moves large images by fractions of a pixel.
    """
    return then if first is None else jnp.matmul(first, then, precision="highest")


def _warp(image: jax.Array, transform: jax.Array) -> jax.Array:
    """Bilinear, 0 outside."""
    height, width, _ = image.shape
    middle = (height - 1) / 2, (width - 1) / 2
    row, column = jnp.arange(height)[:, None] - middle[0], jnp.arange(width) - middle[1]
    places = [transform[i, 0] * row + transform[i, 1] * column + transform[i, 2] + middle[i] for i in range(2)]
    sample = lambda plane: jax.scipy.ndimage.map_coordinates(plane, places, order=1, mode="constant")
    return jax.vmap(sample, -1, -1)(image)


def _rand_augment(key: jax.Array, image: jax.Array, count: int, magnitude: float) -> tuple[jax.Array, jax.Array]:
    """The image after the colour operations drawn, and the transform that is left to do."""
    transform = None
    for which, sign in jax.random.uniform(key, (count, 2)):
        op = jnp.floor(which * len(RAND_OPS)).astype(int)
        signed = jnp.where(sign < 0.5, magnitude, -magnitude)
        # Numbers that are 0 for what was not drawn: one transform for all instead of a branch each.
        by = {name: jnp.where(op == RAND_OPS.index(name), signed, 0.0) for name in GEOMETRIC_OPS}
        drawn = _affine(
            angle=by["rotate"] * math.radians(30),
            shears=(by["shear_y"] * 0.3, by["shear_x"] * 0.3),
            translate=(by["translate_y"] * 0.3 * image.shape[0], by["translate_x"] * 0.3 * image.shape[1]),
        )
        transform = _compose(transform, drawn)
        image = _color_op(jnp.maximum(op - len(GEOMETRIC_OPS), 0), image, 1 + 0.9 * signed, magnitude)
    return image, transform


def _color_op(index: jax.Array, image: jax.Array, factor: jax.Array, magnitude: float) -> jax.Array:
    """COLOR_OPS[index]. Under `vmap` all of them are computed; each is a few operations a pixel."""
    blend = lambda base: jnp.clip(base + (image - base) * factor, 0.0, 1.0)
    weights = (0.299, 0.587, 0.114) if image.shape[-1] == 3 else (1 / image.shape[-1],) * image.shape[-1]
    grey = (image * jnp.array(weights)).sum(-1)  # [H, W], as in Pillow
    low, high = image.min((0, 1)), image.max((0, 1))
    levels = 2 ** round(4 * magnitude)
    results = {
        "identity": image,
        "autocontrast": jnp.where(high > low, (image - low) / jnp.where(high > low, high - low, 1.0), image),
        "brightness": blend(0.0),
        "contrast": blend(grey.mean()),
        "color": blend(grey[..., None]),
        "sharpness": blend(_blur(image)),
        # From 256 and not 255 down, so that magnitude 0 inverts nothing.
        "solarize": jnp.where(image >= (1 - magnitude) * 256 / 255, 1 - image, image),
        "posterize": jnp.floor(jnp.round(image * 255) / levels) * levels / 255,
    }
    return jnp.select([index == i for i in range(len(COLOR_OPS))], [results[name] for name in COLOR_OPS])


def _blur(image: jax.Array) -> jax.Array:
    """Pillow's SMOOTH, on which its sharpness rests: weight 5 for the pixel, 1 for each of its 8 neighbours.

    The edge stays. Sums of slices, since a convolution of one channel each is slow on CPU.
    """
    height, width, _ = image.shape
    around = sum(image[i : height - 2 + i, j : width - 2 + j] for i in range(3) for j in range(3))
    return image.at[1:-1, 1:-1].set((around + 4 * image[1:-1, 1:-1]) / 13)
