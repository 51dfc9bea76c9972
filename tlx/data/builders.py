"""The datasets that tlx prepares by itself: scikit-learn's digits, and any folder of MNIST-style IDX files.

They, and `tlx.data.folder`'s photographs, are tfds builders, written as array_record and without TensorFlow: tfds
encodes PIL images without it, but needs it for arrays. Nothing is shuffled on the way, so that an index means the same
image here and in the source.
"""

import contextlib
import gzip
import hashlib
import io
import logging
import math
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import PIL.Image
import tensorflow_datasets as tfds

from tlx import progress
from tlx.errors import UserError, reading
from tlx.npz import DEFLATE_RATIO

Arrays = tuple[np.ndarray, np.ndarray]  # images uint8 [N, H, W], labels [N]

_IMAGES_MAGIC, _LABELS_MAGIC = 0x0803, 0x0801  # uint8 of rank 3, uint8 of rank 1
_IDX_STEMS = {"train": "train", "test": "t10k"}


class Digits(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """scikit-learn's digits: 1,797 images of 8 x 8, in ten classes; 50 of each class are the test set.

    Values 0-16 become 0-255. The source has no official split; this one depends on nothing but this class.
    """

    VERSION = tfds.core.Version("1.0.0")
    # Nothing is downloaded; and to look for checksums, tfds 4.9.10 imports a package that it does not require.
    url_infos = None
    num_images = 1797
    bar = progress.Bar()

    def __init__(self, *, data_dir: str | os.PathLike):
        with starting(Path(data_dir) / self.name):
            super().__init__(data_dir=os.fspath(data_dir), file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        return info(self, "scikit-learn's digits", (8, 8, 1), num_classes=10)

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        from sklearn.datasets import load_digits  # takes a second to import, and is needed once

        digits = load_digits()
        images = np.round(digits.images * 255 / 16).astype(np.uint8)
        # RandomState and not Generator: NumPy promises that the former's numbers never change.
        order = np.random.RandomState(0).permutation(len(images))
        test = np.zeros(len(images), bool)
        for label in range(10):
            test[order[digits.target[order] == label][:50]] = True
        return {
            "train": self._generate_examples(images[~test], digits.target[~test]),
            "test": self._generate_examples(images[test], digits.target[test]),
        }

    def _generate_examples(self, images: np.ndarray, labels: np.ndarray) -> Iterator:
        return _examples(images, labels, self.bar)


class Idx(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A folder of IDX files named as MNIST's; classes are 0 up to the largest label.

    The config's name ends in a hash of the arrays: other content under the same name is another dataset.
    """

    VERSION = tfds.core.Version("1.0.0")
    url_infos = None  # as above
    bar = progress.Bar()

    def __init__(self, *, idx_dir: str | os.PathLike, data_dir: str | os.PathLike):
        """Reads the files.

        Raises:
          UserError: a folder or a file is missing, broken, or at odds with its companion.
        """
        arrays = read_idx_dir(idx_dir)
        # Only what is known of them is kept: tfds keeps every builder alive, and a sweep makes one a run.
        self._idx_dir = idx_dir
        self._image_shape = arrays["train"][0].shape[1:]
        self._num_classes = 1 + max(int(labels.max()) for _, labels in arrays.values())
        self.num_images = sum(len(labels) for _, labels in arrays.values())
        config = tfds.core.BuilderConfig(name=config_name(idx_dir, _digest(arrays)))
        with starting(Path(data_dir) / self.name / config.name):
            super().__init__(data_dir=os.fspath(data_dir), config=config, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        return info(self, "IDX files", (*self._image_shape, 1), num_classes=self._num_classes)

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        arrays = read_idx_dir(self._idx_dir)
        return {split: self._generate_examples(*pair) for split, pair in arrays.items()}

    def _generate_examples(self, images: np.ndarray, labels: np.ndarray) -> Iterator:
        return _examples(images, labels, self.bar)


def prepare(builder: Any) -> Path:
    """Writes the dataset unless it is there already; returns its folder.

    `builder` is one of ours: it has `num_images`, and a `bar` that it advances by each of them.

    Any number of processes may prepare the same dataset at once: each writes to a folder of its own, the first to
    finish renames it to the final name, and the others find it taken and use it.

    Raises:
      UserError: the folder cannot be written, or holds what is not a prepared dataset.
    """
    folder, root = Path(builder.data_dir), Path(builder.data_dir).parents[1 if builder.builder_config is None else 2]
    if is_prepared(folder):
        return folder
    if folder.exists() and not is_prepared(folder):  # asked again: another process may just have finished
        raise UserError(f"{folder} exists but has no dataset_info.json: delete it, and it is prepared anew")
    shown = f"~/{root.relative_to(Path.home())}" if root.is_relative_to(Path.home()) else root
    try:
        root.mkdir(parents=True, exist_ok=True)
        if not os.access(root, os.W_OK):
            raise PermissionError("no permission to write")
        print(f"preparing {builder.info.full_name} ({builder.num_images:,} images) in {shown} ...", flush=True)
        with progress.bar("preparing", total=builder.num_images, start=0, note="") as builder.bar, quiet():
            builder.download_and_prepare()
    except (OSError, RuntimeError) as error:
        if is_prepared(folder):  # another process was faster
            return folder
        reason = error.strerror or error if isinstance(error, OSError) else str(error).partition(";")[0]
        if isinstance(error, RuntimeError) and "write() failed" not in reason:  # array_record's, where a disk is full
            raise
        raise UserError(
            f"cannot write to {shown} ({reason}): set data_dir or $TFDS_DATA_DIR to a folder that you can write to, "
            "and that has room"
        ) from error
    return folder


def is_prepared(folder: Path) -> bool:
    """Whether tfds has finished with the folder (it renames it into place as a whole)."""
    return (folder / "dataset_info.json").is_file()


@contextlib.contextmanager
def starting(folder: Path) -> Iterator[None]:
    """For the start of a builder of ours, at which tfds reads what it finds in `folder`, and warns about a config.

    Raises:
      UserError: what is there is damaged.
    """
    with quiet(), reading(folder, remedy="delete that folder, and it is prepared anew"):
        yield


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences tfds for a while: its bars, its announcements, and its advice to install OpenCV."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


def read_idx_dir(idx_dir: str | os.PathLike) -> dict[str, Arrays]:
    """Reads the four files of a folder: {"train": (images, labels), "test": ...}, plain or gzipped.

    Raises:
      UserError: a folder or a file is missing, broken, or at odds with its companion.
    """
    folder = Path(idx_dir).expanduser()
    if not folder.is_dir():
        raise UserError(f"idx_dir {str(idx_dir)!r} is not a folder: name one that holds MNIST's four IDX files")
    arrays = {}
    for split, stem in _IDX_STEMS.items():
        image_file = _find_idx(folder, stem, "images", 3)
        label_file = _find_idx(folder, stem, "labels", 1)
        images, labels = _read_idx(image_file, _IMAGES_MAGIC), _read_idx(label_file, _LABELS_MAGIC)
        if len(images) != len(labels):
            raise UserError(
                f"{image_file} has {len(images)} images but {label_file.name} has {len(labels)} labels: "
                "use files that belong together"
            )
        if not images.size:
            raise UserError(f"{image_file} holds no pixels (shape {images.shape}): use another file")
        arrays[split] = images, labels
    train, test = (arrays[split][0].shape[1:] for split in ("train", "test"))
    if train != test:
        raise UserError(f"{folder}: training images are {train}, test images {test}: use files of one size")
    return arrays


def _find_idx(folder: Path, stem: str, kind: str, rank: int) -> Path:
    names = [f"{stem}-{kind}{mark}idx{rank}-ubyte{end}" for mark in "-." for end in ("", ".gz")]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    found = sorted(path.name for path in folder.iterdir())
    listing = ", ".join(found[:8]) + (f" and {len(found) - 8} more" if len(found) > 8 else "")
    raise UserError(f"{folder} has no {names[0]} (plain or .gz); it holds {listing or 'nothing'}")


def _read_idx(path: Path, magic: int) -> np.ndarray:
    """The array in an IDX file: a big-endian magic number, the sizes, the bytes (http://yann.lecun.com/exdb/mnist)."""
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            return _read_open_idx(file, path, magic)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path} is not a whole gzip file ({error}): fetch it again") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check its permissions") from None


def _read_open_idx(file: BinaryIO, path: Path, magic: int) -> np.ndarray:
    rank = magic & 0xFF
    header = file.read(4 * (1 + rank))
    if len(header) < 4 * (1 + rank):
        raise UserError(
            f"{path} has {len(header)} bytes, fewer than the {4 * (1 + rank)} of its header: fetch it again"
        )
    found = int.from_bytes(header[:4], "big")
    if found != magic:
        fix = "it is gzip: add .gz to its name" if header[:2] == b"\x1f\x8b" else "it is not the IDX file it is named"
        raise UserError(f"{path} begins with {found:#010x} instead of {magic:#010x}: {fix}")
    shape = tuple(np.frombuffer(header, ">u4", rank, offset=4).tolist())
    # No more is asked for than the header says and, since that is reserved, than the file can hold.
    most = path.stat().st_size * (DEFLATE_RATIO if path.suffix == ".gz" else 1)
    content = file.read(min(math.prod(shape) + 1, most))
    if len(content) != math.prod(shape):
        expected, has = (len(header) + size for size in (math.prod(shape), len(content)))
        raise UserError(
            f"{path} should have {expected} bytes for shape {shape} but has {'more' if has > expected else has}: "
            "fetch it again"
        )
    return np.frombuffer(content, np.uint8).reshape(shape)


def _digest(arrays: dict[str, Arrays]) -> str:
    digest = hashlib.sha256()
    for split in sorted(arrays):
        for array in arrays[split]:
            digest.update(str(array.shape).encode())
            digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()


def info(
    builder: Any, description: str, shape: tuple[int, ...], *, encoding: str | None = "png", **classes: Any
) -> tfds.core.DatasetInfo:
    """Of images of one `shape`, in order; `classes` are num_classes=K or names=[...].

    `encoding` is what tfds stores them as; None = as they are given, in any format that it can decode.
    """
    features = {
        "image": tfds.features.Image(shape=shape, encoding_format=encoding),
        "label": tfds.features.ClassLabel(**classes),
    }
    return tfds.core.DatasetInfo(
        builder=builder,
        description=description,
        features=tfds.features.FeaturesDict(features),
        disable_shuffling=True,
    )


def config_name(folder: str | os.PathLike, digest: str) -> str:
    """Of the dataset in `folder`: the folder's name, and enough of its content's hash to tell it from any other."""
    name = re.sub(r"[^\w-]", "_", Path(folder).expanduser().resolve().name) or "data"
    return f"{name}-{digest[:12]}"


def _examples(images: np.ndarray, labels: np.ndarray, bar: progress.Bar) -> Iterator[tuple[int, dict[str, Any]]]:
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        yield index, {"image": PIL.Image.fromarray(image), "label": int(label)}
        bar.advance()
