"""Classes and probabilities of images, from a finished run: `python -m tlx.predict RUN IMAGE...` (png, jpg, npy)."""

import argparse
import os
import pathlib
import sys

import jax
import numpy as np
import PIL.Image
import rich.table

from tlx import progress
from tlx.data import photo
from tlx.data.source import check_examples
from tlx.data.view import make_view
from tlx.errors import UserError
from tlx.pretrained import TrainedRun, load_run


def predict(run: TrainedRun, images: np.ndarray) -> np.ndarray:
    """Class probabilities.

    Args:
      run: from `tlx.pretrained.load_run`.
      images: [B, H, W, C] of the run's shape, uint8 or float in [0, 1].

    Returns:
      float32 [B, K], rows that add up to 1; the columns are `run.class_names`.
    """
    check_examples(images, np.zeros(len(images), np.int32), len(run.class_names))
    run.check_input(images.shape[1:])
    apply, view = run.make_apply(), make_view()
    logits, _ = jax.jit(lambda variables, x: apply(variables, view(x, None, None), train=False))(run.variables, images)
    return np.asarray(jax.nn.softmax(logits))


def read_images(path: str | os.PathLike, shape: tuple[int, int, int]) -> tuple[np.ndarray, str]:
    """Reads an image file, or an npy of one image or many, as uint8 or float [B, H, W, C] of the given shape.

    Pictures are read as those of a folder are (`tlx.data.photo`): the centre of one of another size is resized, and one
    of another mode converted to grey or RGB; the second value says so.

    Raises:
      UserError: a missing or unreadable file, an array that is no image, values out of range.
    """
    path, (height, width, channels) = pathlib.Path(path), shape
    if not path.exists():
        raise UserError(f"no image at {path}")
    try:
        if path.suffix == ".npy":
            # Mapped: to read it, numpy would first reserve what its header asks for.
            return _from_array(np.lib.format.open_memmap(path, mode="r"), path, shape), ""
        if channels not in (1, 3):
            raise UserError(f"the run expects {channels} channels: give its images as npy [H, W, {channels}]")
        with PIL.Image.open(path) as image:
            stored, size = image.mode, (image.width, image.height)
        image = photo.read(path, shape)
    except UserError:
        raise
    except Exception as e:  # PIL and numpy have many errors for a file that is not what its name says
        raise UserError(
            f"{path} is not a readable image ({str(e) or type(e).__name__}): give png, jpg or npy"
        ) from None
    said = [] if image.mode == stored else [f"{stored} to {image.mode}"]
    if image.size != size:
        said.append(f"{size[1]}x{size[0]} to {height}x{width}")
    return np.asarray(image, np.uint8).reshape(1, height, width, channels), ", ".join(said)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tlx.predict", description=__doc__)
    parser.add_argument("run", help="the folder of a finished run")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="png, jpg or npy")
    parser.add_argument("--top", type=int, default=3, help="how many classes to print (3)")
    options = parser.parse_args(argv)
    try:
        if options.top < 1:
            raise UserError(f"--top is {options.top}: it must be >= 1")
        run = load_run(options.run)
        table = rich.table.Table("image", "class", "probability", "next")
        for path in options.images:
            images, said = read_images(path, run.image_shape)
            for number, row in enumerate(predict(run, images)):
                first, *rest = np.argsort(-row)[: options.top]
                name = f"{pathlib.Path(path).name}[{number}]" if len(images) > 1 else pathlib.Path(path).name
                name += f" ({said})" if said else ""
                others = ", ".join(f"{run.class_names[k]} {row[k]:.3f}" for k in rest)
                table.add_row(name, run.class_names[first], f"{row[first]:.3f}", others)
        progress.say(table)
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    return 0


def _from_array(array: np.ndarray, path: pathlib.Path, shape: tuple[int, int, int]) -> np.ndarray:
    """[H, W], [H, W, C], [B, H, W] or [B, H, W, C] as [B, H, W, C]."""
    if array.shape in (shape, shape[:2]):
        array = array[None]
    if array.ndim == 3:
        array = array[..., None]
    if array.shape[1:] != shape:
        raise UserError(f"{path} is of shape {list(array.shape)}: the run expects [B, {', '.join(map(str, shape))}]")
    if array.dtype.kind == "f" and not (np.isfinite(array).all() and 0 <= array.min() and array.max() <= 1):
        raise UserError(f"{path} has values {array.min()}..{array.max()}: floats must be finite and in 0..1")
    return np.array(array, np.uint8 if array.dtype == np.uint8 else np.float32)


if __name__ == "__main__":
    sys.exit(main())
