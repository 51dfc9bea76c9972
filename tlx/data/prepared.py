"""Reads what tfds has prepared as array_record, from its folder alone: neither the dataset's code nor TensorFlow.

Images are decoded once and kept beside the prepared files as .npy: decoding MNIST's 70,000 PNGs takes 5 s each time,
mapping an array into memory milliseconds (measured).
"""

import contextlib
import json
import math
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from tlx.data import builders, records
from tlx.errors import UserError, reading

_REMEDY = "delete that folder, and prepare the dataset again"


class LazyImages:
    """Images uint8 [N, H, W, C] that stay in their files until they are asked for; indexed along N as an array is.

    Several threads may index at a time. A record that is damaged is a UserError when it is asked for.
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(self, source: Any, rows: np.ndarray | None = None):
        """`source` is a tfds data source that leaves images undecoded; `rows` are the records that count, or all."""
        self._source = source
        self._rows = np.arange(len(source)) if rows is None else rows
        image = source.dataset_info.features["image"]
        self._decode = records.make_decode(image)
        self.shape = (len(self._rows), *image.shape)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> np.ndarray:
        rows = np.asarray(self._rows[index])
        images = np.empty((rows.size, *self.shape[1:]), np.uint8)
        for place, row in enumerate(rows.ravel().tolist()):
            # One by one: for several array_record starts threads each time, and several of ours read already.
            with _of_record(self._source, row):
                images[place] = self._decode(self._source[row]["image"])
        return images.reshape(rows.shape + self.shape[1:])

    def select(self, index: np.ndarray) -> "LazyImages":
        """`self[index]`, still unread."""
        return LazyImages(self._source, self._rows[index])


Images = np.ndarray | LazyImages


def find(name: str, root: Path) -> Path:
    """The folder root/name[/config]/version of a dataset given as "name", "name:version" or "name/config:version".

    Without a version it is the newest; without a config the only one, or the one that tfds noted as the default.

    Raises:
      UserError: it is not there, with the command that prepares it.
    """
    parts = re.fullmatch(r"(?P<base>\w+)(/(?P<config>[\w.+-]+))?(:(?P<version>\d+\.\d+\.\d+))?", name)
    if not parts:
        raise UserError(
            f"{name!r} is not the name of a dataset: use digits, idx, folder, or a tfds name such as cifar10:3.0.2"
        )
    folder = root / parts["base"] / (parts["config"] or "")
    if not parts["config"] and not _versions(folder):
        folder = _default_config(folder) or folder
    versions = _versions(folder)
    version = parts["version"] or (versions[-1] if versions else "")
    if not version or not builders.is_prepared(folder / version):
        there = f" (there: {', '.join(versions)})" if versions else ""
        raise UserError(
            f"dataset {name!r} is not prepared in {root}{there}; where TensorFlow is installed, run: "
            f"{_command(name, root)}"
        )
    return folder / version


def read(folder: Path, *, in_memory_bytes: int) -> tuple[dict[str, tuple[Images, np.ndarray]], tuple[str, ...]]:
    """Reads the training and the test split of the dataset in `folder`.

    A dataset without a test split gives its validation split in its place, and says so.

    Returns:
      {"train": (images, labels), "test": ...} with labels int32 [N], and the names of the classes. Images that take
      more than `in_memory_bytes` are `LazyImages`.

    Raises:
      UserError: not array_record, or not images of one size with a class label each; or the folder is damaged.
    """
    with reading(folder, remedy=_REMEDY):  # tfds, protobuf, array_record and Pillow have types of their own for it
        _check_features(folder)
        return _read(tfds.builder_from_directory(folder), in_memory_bytes)


def _read(builder: Any, in_memory_bytes: int) -> tuple[dict[str, tuple[Images, np.ndarray]], tuple[str, ...]]:
    name, folder = builder.info.full_name, builder.data_dir
    if "array_record" not in {form.value for form in builder.info.available_file_formats()}:
        raise UserError(
            f"{folder} is prepared as {builder.info.file_format.value}, which only TensorFlow reads; prepare it in "
            f"another data_dir: {_command(name, Path('/another/folder'))}"
        )
    features, splits = builder.info.features, builder.info.splits
    if not {"image", "label"} <= set(features):
        raise UserError(f"dataset {name} has the features {', '.join(features)}: use one with image and label")
    image, label = features["image"], features["label"]
    if not isinstance(label, tfds.features.ClassLabel):
        raise UserError(f"dataset {name} has labels of type {type(label).__name__}: use one with a ClassLabel")
    if len(image.shape) != 3 or None in image.shape:
        raise UserError(f"dataset {name} has images of shape {image.shape}: use one with images of one size")
    if image.np_dtype != np.uint8:
        raise UserError(f"dataset {name} has images of type {np.dtype(image.np_dtype)}: use one with uint8 images")
    test = "test" if "test" in splits else "validation"
    if not {"train", test} <= set(splits):
        raise UserError(
            f"dataset {name} has the splits {', '.join(splits)}: use one with train, and test or validation"
        )
    if test != "test":
        print(f"{name} has no test split: its validation split is used as the test set", flush=True)
    found = {key: _read_split(builder, split, in_memory_bytes) for key, split in (("train", "train"), ("test", test))}
    return found, tuple(label.names)


def _check_features(folder: Path) -> None:
    """Raises UserError if features.json names a class that is not tfds's own, whose module tfds would import."""
    path = folder / "features.json"
    with reading(path, remedy=_REMEDY):
        named = list(_classes(json.loads(path.read_text())))
    if foreign := [name for name in named if not name.startswith("tensorflow_datasets.")]:
        raise UserError(
            f"{path} asks for the class {foreign[0][:80]!r}, and tlx does not run a dataset's own code: use a dataset "
            "of tfds's own features"
        )


def _classes(features: Any) -> Iterator[str]:
    """What a features.json has under the keys by which tfds finds a class, also in the texts within it."""
    if isinstance(features, list):
        for each in features:
            yield from _classes(each)
    for key, value in features.items() if isinstance(features, dict) else ():
        if key in ("pythonClassName", "python_class_name", "type") and isinstance(value, str):
            yield value
        yield from _classes(json.loads(value) if key == "json" and isinstance(value, str) else value)


def _read_split(builder: Any, split: str, in_memory_bytes: int) -> tuple[Images, np.ndarray]:
    source = builder.as_data_source(split)
    has = sum(os.path.getsize(path) for path in builder.info.splits[split].filepaths)
    if len(source) > has:  # a claim, for which memory would be reserved
        raise UserError(
            f"{builder.data_dir} notes {len(source):,} records of {split} in files of {has:,} bytes: {_REMEDY}"
        )
    with builders.quiet():
        source[0]  # tfds advises to install OpenCV at the first image that a process decodes, and only then
    shape = (len(source), *builder.info.features["image"].shape)
    if math.prod(shape) <= in_memory_bytes:
        arrays = {"image": np.empty(shape, np.uint8), "label": np.empty(len(source), np.int32)}
        return tuple(_decode(source, Path(builder.data_dir), split, arrays).values())
    undecoded = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
    labels = _decode(undecoded, Path(builder.data_dir), split, {"label": np.empty(len(source), np.int32)})["label"]
    return LazyImages(undecoded), labels


def _decode(source: Any, folder: Path, split: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Fills `arrays` from the records' features, or maps the files that an earlier call wrote.

    The files lie in the dataset's own folder, so that whoever deletes or overwrites the dataset deletes them with it.
    """
    paths = {name: folder / f"tlx-{split}-{name}.npy" for name in arrays}
    kept = {name: _map(paths[name], array) for name, array in arrays.items()}
    if all(array is not None for array in kept.values()):
        return kept
    count = len(source)
    for start in range(0, count, 1000):
        rows = range(start, min(start + 1000, count))
        for row, record in zip(rows, _records(source, list(rows)), strict=True):
            for name, array in arrays.items():
                array[row] = record[name]
    for name, array in arrays.items():
        array.flags.writeable = False
        _keep(paths[name], array)
    return arrays


def _records(source: Any, rows: list[int]) -> list[dict[str, Any]]:
    """The records `rows`, decoded; a UserError names the first that is damaged."""
    try:
        return source.__getitems__(rows)
    except Exception:  # array_record, protobuf and Pillow have types of their own for it
        for row in rows:
            with _of_record(source, row):
                source[row]
        raise


def _of_record(source: Any, row: int) -> contextlib.AbstractContextManager:
    return reading(f"{source.dataset_info.data_dir}: record {row} of {source.split}", remedy=_REMEDY)


def _map(path: Path, like: np.ndarray) -> np.ndarray | None:
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except Exception:  # not there, or damaged, for which numpy has many types
        return None
    return array if (array.shape, array.dtype) == (like.shape, like.dtype) else None


def _keep(path: Path, array: np.ndarray) -> None:
    """Writes the array under a name of its own, then renames it; a folder that others own is left as it is."""
    temporary = path.with_name(f"incomplete-{uuid.uuid4().hex}.npy")
    try:
        np.save(temporary, array)
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _versions(folder: Path) -> list[str]:
    """The versions in a folder, the newest last."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted((n for n in names if re.fullmatch(r"\d+\.\d+\.\d+", n)), key=lambda n: [int(i) for i in n.split(".")])


def _default_config(folder: Path) -> Path | None:
    configs = sorted(path for path in folder.iterdir() if _versions(path)) if folder.is_dir() else []
    if len(configs) < 2:
        return configs[0] if configs else None
    note = folder / ".config" / "metadata.json"
    default = None
    if note.is_file():
        with reading(note, remedy=f"delete it, or name one of {', '.join(path.name for path in configs)}"):
            default = json.loads(note.read_text()).get("default_config_name")
    if folder / str(default) in configs:
        return folder / default
    names = ", ".join(f"{folder.name}/{path.name}" for path in configs)
    raise UserError(f"dataset {folder.name!r} is prepared in several configs: name one of {names}")


def _command(name: str, root: Path) -> str:
    return (
        f"python -c \"import tensorflow_datasets as tfds; tfds.builder('{name}', data_dir='{root}', "
        "file_format='array_record').download_and_prepare()\""
    )
