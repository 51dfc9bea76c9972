"""Datasets by name, as arrays: digits, a folder of IDX files or photographs, or any dataset that tfds has prepared."""

import dataclasses
import hashlib
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tlx import progress
from tlx.data import builders, prepared
from tlx.data.folder import Folder
from tlx.data.prepared import Images, LazyImages
from tlx.errors import UserError, reading
from tlx.models.options import check_choice, check_count


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """Images and their labels.

    Attributes:
      images: [N, H, W, C]; from `load` uint8, and either a read-only array or `LazyImages`, indexed in the same way.
      labels: int32 [N].
    """

    images: Images
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, index: np.ndarray) -> "Examples":
        """Those of `index`, in its order; images that lie in files stay there."""
        images = self.images
        return Examples(images.select(index) if isinstance(images, LazyImages) else images[index], self.labels[index])


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A training and a test set; `name` has no version, and names the classes if only some are kept."""

    name: str
    train: Examples
    test: Examples
    class_names: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return tuple(self.train.images.shape[1:])


def load(
    name: str = "digits",
    *,
    idx_dir: str = "",
    folder: str = "",
    image_size: int = 0,
    channels: int = 0,
    data_dir: str = "",
    classes: Sequence[int] = (),
    in_memory_bytes: int = 2**30,
) -> Dataset:
    """Loads a dataset, and first prepares it if it is "digits", "idx" or "folder" and was never used before.

    Args:
      name: "digits", "idx", "folder", or what tfds has prepared: "mnist", "cifar10:3.0.2", "cifar10_corrupted/fog_1".
      idx_dir: for "idx", the folder of the IDX files; its name becomes the dataset's.
      folder: for "folder", the folder of photographs, FOLDER/class/*.jpg; see `tlx.data.folder`. Its name, as above.
      image_size: for "folder", the side of the square that each image is resized and cropped to, in pixels.
      channels: for "folder", 3 = RGB, 1 = grey, 0 = grey if all of its images are stored so, else RGB.
      data_dir: where prepared datasets live; "" = $TFDS_DATA_DIR or ~/tensorflow_datasets.
      classes: keep these classes only, renumbered from 0 in the order given; () = all.
      in_memory_bytes: a split whose images take more is read from its files as needed.

    Raises:
      UserError: the dataset is not there, or is not one of images of one size with a class each.
    """
    root = Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser().absolute()
    if name == "idx" and not idx_dir:
        raise UserError("dataset 'idx' needs idx_dir: name the folder that holds the IDX files")
    if name != "idx" and idx_dir:
        raise UserError(f"idx_dir is {idx_dir!r}, but the dataset is {name!r}: set the name to 'idx', or idx_dir to ''")
    if name == "folder":
        _check_folder_options(folder, image_size, channels)
    else:
        for option, value in (("folder", folder), ("image_size", image_size), ("channels", channels)):
            if value:
                fix = f"set the name to 'folder', or {option} to {type(value)()!r}"
                raise UserError(f"{option} is {value!r}, but the dataset is {name!r}: {fix}")
    if name == "digits":
        path = builders.prepare(builders.Digits(data_dir=root))
    elif name == "idx":
        path = builders.prepare(builders.Idx(idx_dir=idx_dir, data_dir=root))
        name = Path(idx_dir).expanduser().resolve().name
    elif name == "folder":
        path = builders.prepare(Folder(folder=folder, image_size=image_size, channels=channels, data_dir=root))
        name = Path(folder).expanduser().resolve().name
    else:
        path = prepared.find(name, root)
        name = name.partition(":")[0]
    splits, class_names = prepared.read(path, in_memory_bytes=in_memory_bytes)
    dataset = Dataset(name, Examples(*splits["train"]), Examples(*splits["test"]), class_names)
    dataset = _select(dataset, classes) if len(classes) else dataset
    with reading(path):
        for split in (dataset.train, dataset.test):
            check_examples(split.images, split.labels, dataset.num_classes)
    _check_classes(dataset)
    return dataset


def check_examples(images: Any, labels: Any, num_classes: int) -> None:
    """Checks what is to be trained or tested on; of `LazyImages`, the shape and the labels only.

    Args:
      images: [N, H, W, C], uint8, or floating in [0, 1].
      labels: [N], integers from 0 to `num_classes` - 1.

    Raises:
      UserError: a wrong rank, length, dtype or value; it names the first index at fault.
    """
    images = images if isinstance(images, LazyImages) else np.asarray(images)
    labels = np.asarray(labels)
    if images.ndim != 4:
        hint = "; add a last axis of size 1" if images.ndim == 3 else ""
        raise UserError(f"images have shape {images.shape}: they must be [N, H, W, C]{hint}")
    if labels.ndim != 1:
        raise UserError(f"labels have shape {labels.shape}: they must be [N], one integer an image")
    if len(images) != len(labels):
        raise UserError(f"there are {len(images)} images but {len(labels)} labels: give one label an image")
    if not math.prod(images.shape):
        raise UserError(f"images have shape {images.shape}: there is nothing to learn from")
    if not np.issubdtype(labels.dtype, np.integer):
        raise UserError(f"labels are {labels.dtype}: use integers from 0 to {num_classes - 1}")
    if (bad := np.flatnonzero((labels < 0) | (labels >= num_classes))).size:
        raise UserError(f"label {bad[0]} is {labels[bad[0]]}: with {num_classes} classes it is 0 to {num_classes - 1}")
    if np.issubdtype(images.dtype, np.floating):
        # Negated, so that NaN is bad as well.
        if (bad := np.argwhere(~((images >= 0) & (images <= 1)))).size:
            first, *where = bad[0].tolist()
            value = images[tuple(bad[0])]
            raise UserError(f"image {first} is {value} at {where}: use finite values in [0, 1], or uint8 in 0-255")
    elif images.dtype != np.uint8:
        raise UserError(f"images are {images.dtype}: use uint8 in 0-255, or floating in [0, 1]")


def _check_classes(dataset: Dataset) -> None:
    """Refuses a task of one class, and a test set with classes that cannot be learnt; says what labels never show."""
    if dataset.num_classes < 2:
        raise UserError(f"{dataset.name} has one class, {dataset.class_names[0]!r}: a task has two or more")
    counts = [np.bincount(split.labels, minlength=dataset.num_classes) for split in (dataset.train, dataset.test)]
    never = [name for name, train in zip(dataset.class_names, counts[0], strict=True) if not train]
    tested = int(sum(test for train, test in zip(*counts, strict=True) if not train))
    if tested:
        raise UserError(
            f"{dataset.name} has {tested} test images of classes that no training image shows, {', '.join(never)}: "
            "leave them out with data.classes"
        )
    if never:
        progress.say(
            f"[yellow]{dataset.name}: no image shows {', '.join(never)}, so they are never predicted; data.classes can "
            "leave them out[/yellow]"
        )


def fingerprint(dataset: Dataset) -> str:
    """16 hexadecimal digits of the sha256 of shapes, images (of `LazyImages` 1,000 evenly spaced ones) and labels."""
    digest = hashlib.sha256()
    for split in (dataset.train, dataset.test):
        images = split.images
        digest.update(f"{images.shape} {images.dtype}".encode())
        if isinstance(images, LazyImages):
            images = images[np.linspace(0, len(images) - 1, min(len(images), 1000)).astype(int)]
        digest.update(np.ascontiguousarray(images))
        digest.update(np.ascontiguousarray(split.labels, np.int32))
    return digest.hexdigest()[:16]


def _check_folder_options(folder: str, image_size: int, channels: int) -> None:
    if not folder:
        raise UserError("dataset 'folder' needs folder: name the one whose sub-folders are the classes")
    if not image_size:
        raise UserError("dataset 'folder' needs image_size: the side of its square images in pixels, such as 224")
    check_count("image_size", image_size, minimum=1)
    check_choice("channels", channels, (0, 1, 3))


def _select(dataset: Dataset, classes: Sequence[int]) -> Dataset:
    """Keeps `classes`, renumbered from 0 in the order given."""
    classes = list(classes)
    for label in classes:
        if type(label) is not int or label not in range(dataset.num_classes):
            raise UserError(f"classes has {label!r}, but those of {dataset.name} are 0 to {dataset.num_classes - 1}")
    if len(set(classes)) < len(classes):
        raise UserError(f"classes is {tuple(classes)}: name each class once")
    renumbered = np.full(dataset.num_classes, -1, np.int32)
    renumbered[classes] = np.arange(len(classes))

    def keep(examples: Examples) -> Examples:
        kept = examples.select(np.flatnonzero(renumbered[examples.labels] >= 0))
        return Examples(kept.images, renumbered[kept.labels])

    return Dataset(
        name=f"{dataset.name}[{','.join(map(str, classes))}]",
        train=keep(dataset.train),
        test=keep(dataset.test),
        class_names=tuple(dataset.class_names[label] for label in classes),
    )
