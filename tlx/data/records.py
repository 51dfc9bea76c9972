"""How an image lies in a record, so that reading costs little: as its plain values, in files that are not compressed.

An image of 224 x 224 of a set that is streamed takes 0.1 ms of CPU so. tfds's own writer compresses what hardly gets
smaller (photographs by a tenth, 0.2 ms to undo), and Pillow needs as long for a BMP (measured, experiments/speed).
tfds reads these records as any others.
"""

import io
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import PIL.Image
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.core import example_serializer, naming

_OPTIONS = "group_size:1,uncompressed"  # one record a group: tfds asks for it, to read at random


def encode(image: PIL.Image.Image) -> bytes:
    """PPM, or of a grey image PGM: a header of a few bytes, and the values from the top left."""
    image.save(content := io.BytesIO(), "ppm")
    return content.getvalue()


def make_decode(image: tfds.features.Image) -> Callable[[bytes], np.ndarray]:
    """Builds `decode(content) -> uint8 [H, W, C]` for a feature's images: what `encode` wrote, or in tfds's way.

    The former is not copied, and the array read-only.
    """
    height, width, channels = image.shape
    header = b"P%d\n%d %d\n255\n" % (6 if channels == 3 else 5, width, height)
    size = len(header) + math.prod(image.shape)

    def decode(content: bytes) -> np.ndarray:
        if len(content) == size and content.startswith(header):
            return np.frombuffer(content, np.uint8, offset=len(header)).reshape(image.shape)
        return image.decode_example_np(content)

    return decode


class Writer:
    """Writes the splits of a dataset that is being prepared, record by record, into files of so many each."""

    def __init__(self, info: tfds.core.DatasetInfo, splits: Sequence[str], *, shard: int):
        """`info` is the dataset's: its folder, its name and its features."""
        self._info, self._shard = info, shard
        self._serializer = example_serializer.ExampleSerializer(info.features.get_serialized_info())
        self._lengths: dict[str, list[int]] = {split: [] for split in splits}
        self._bytes = dict.fromkeys(splits, 0)
        self._writers: dict[str, ArrayRecordWriter] = {}

    def add(self, split: str, example: dict[str, Any]) -> None:
        """Writes one example, as tfds's features take it."""
        lengths = self._lengths[split]
        if not lengths or lengths[-1] == self._shard:
            self._end(split)
            path = self._template(split).sharded_filepath(shard_index=len(lengths), num_shards=None)
            self._writers[split] = ArrayRecordWriter(str(path), _OPTIONS)
            lengths.append(0)
        record = self._serializer.serialize_example(self._info.features.encode_example(example))
        self._writers[split].write(record)
        lengths[-1] += 1
        self._bytes[split] += len(record)

    def close(self) -> tfds.core.splits.SplitDict:
        """Ends the files; returns what the dataset's info must know of them."""
        for split in self._lengths:
            self._end(split)
        return tfds.core.splits.SplitDict(
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=lengths,
                num_bytes=self._bytes[split],
                filename_template=self._template(split),
            )
            for split, lengths in self._lengths.items()
        )

    def _end(self, split: str) -> None:
        if writer := self._writers.pop(split, None):
            writer.close()

    def _template(self, split: str) -> naming.ShardedFileTemplate:
        return naming.ShardedFileTemplate(
            dataset_name=self._info.name,
            data_dir=self._info.data_dir,
            split=split,
            filetype_suffix="array_record",
            template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_INDEX}",
        )
