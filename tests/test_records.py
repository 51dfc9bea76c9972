"""Records of images: what was written is read back, by us and by tfds, and so is what others wrote."""

import io
import os

import numpy as np
import PIL.Image
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_data_source import ArrayRecordDataSource

from tlx.data import records


def picture(channels, seed=0, size=(6, 9)):
    values = np.random.default_rng(seed).integers(0, 256, (*size, channels), dtype=np.uint8)
    return values, PIL.Image.fromarray(values if channels == 3 else values[..., 0])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("form", ["ours", "png", "bmp", "ppm with a comment"])
def test_any_form_is_decoded(channels, form):
    values, image = picture(channels)
    content = records.encode(image)
    if form == "ppm with a comment":
        content = content.replace(b"\n", b"\n# by somebody else\n", 1)
    elif form != "ours":
        image.save(saved := io.BytesIO(), form)
        content = saved.getvalue()
    decode = records.make_decode(tfds.features.Image(shape=values.shape))
    np.testing.assert_array_equal(decode(content), values)


@pytest.mark.parametrize("damage", [lambda c: c[:-1], lambda c: b"P6\n" + c[8:], lambda c: b""])
def test_damaged_content_is_no_image(damage):
    values, image = picture(3)
    decode = records.make_decode(tfds.features.Image(shape=values.shape))
    with pytest.raises(Exception, match=r"truncat|identify|header"):
        decode(damage(records.encode(image)))


def test_splits_and_shards(tmp_path):
    """Seven and two examples, four a file; and nothing in them is compressed."""
    shape = (40, 50, 3)
    features = tfds.features.FeaturesDict(
        {"image": tfds.features.Image(shape=shape), "label": tfds.features.ClassLabel(num_classes=9)}
    )
    identity = tfds.core.dataset_info.DatasetIdentity("set", tfds.core.Version("1.0.0"), str(tmp_path), "here")
    info = tfds.core.DatasetInfo(builder=identity, features=features)
    writer = records.Writer(info, ["train", "test"], shard=4)
    given = {}
    for number in range(9):
        split = "train" if number < 7 else "test"
        values, _ = picture(3, number, shape[:2])
        values[:20] = 7  # what could be compressed
        given.setdefault(split, []).append(values)
        writer.add(split, {"image": records.encode(PIL.Image.fromarray(values)), "label": number})
    splits = writer.close()
    assert {name: split.shard_lengths for name, split in splits.items()} == {"train": [4, 3], "test": [2]}
    decode = records.make_decode(features["image"])
    for name, split in splits.items():
        assert sum(os.path.getsize(path) for path in split.filepaths) > len(given[name]) * np.prod(shape)
        source = ArrayRecordDataSource([str(path) for path in split.filepaths])
        read = [features.deserialize_example_np(source[row]) for row in range(len(source))]
        assert [example["label"] for example in read] == (list(range(7)) if name == "train" else [7, 8])
        for example, values in zip(read, given[name], strict=True):
            np.testing.assert_array_equal(example["image"], values)
        raw = {"image": tfds.decode.SkipDecoding()}
        for row, values in enumerate(given[name]):
            content = features.deserialize_example_np(source[row], decoders=raw)["image"]
            np.testing.assert_array_equal(decode(content), values)
