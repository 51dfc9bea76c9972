import contextlib
import gzip
import hashlib
import io
import json
import shutil
import struct
import sys

import numpy as np
import PIL.Image
import pytest
import tensorflow_datasets as tfds

from tlx.data import builders, source
from tlx.errors import UserError

IMAGES = np.arange(6 * 3 * 2, dtype=np.uint8).reshape(6, 3, 2)
LABELS = np.array([0, 1, 2, 2, 1, 0], np.uint8)


def idx_bytes(array):
    return struct.pack(f">{1 + array.ndim}I", 0x0800 | array.ndim, *array.shape) + array.tobytes()


def write_idx(folder, images=IMAGES, labels=LABELS, *, mark="-", compress=False):
    folder.mkdir(exist_ok=True)
    for stem, rows in (("train", slice(None)), ("t10k", slice(3))):
        for kind, array in (("images", images[rows]), ("labels", labels[rows])):
            name, content = f"{stem}-{kind}{mark}idx{array.ndim}-ubyte", idx_bytes(array)
            (folder / (name + ".gz" * compress)).write_bytes(gzip.compress(content) if compress else content)
    return folder


class TinyPhotos(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Somebody else's dataset: five RGB images in whatever splits, shape and features the test asks for."""

    VERSION = tfds.core.Version("1.2.0")
    url_infos = None

    def __init__(self, *, splits=("train", "test"), shape=(4, 4, 3), label=None, **kwargs):
        self._splits, self._shape = splits, shape
        self._label = label or {"label": tfds.features.ClassLabel(names=["cat", "dog"])}
        super().__init__(file_format="array_record", **kwargs)

    def _info(self):
        features = {"image": tfds.features.Image(shape=self._shape), "id": tfds.features.Text(), **self._label}
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples() for split in self._splits}

    def _generate_examples(self):
        for i in range(5):
            image = PIL.Image.fromarray(np.full((4, 4, 3), 10 * i, np.uint8))
            yield i, {"image": image, "id": f"no. {i}", next(iter(self._label)): i % 2}


def prepare_photos(data_dir, **options):
    builder = TinyPhotos(data_dir=data_dir, **options)
    with builders.quiet():
        builder.download_and_prepare()
    return builder


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The first load of digits, and all that it printed."""
    folder, out = tmp_path_factory.mktemp("digits"), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        dataset = source.load("digits", data_dir=str(folder))
    return dataset, folder, out.getvalue()


def test_digits_are_all_there_in_a_fixed_balanced_split(digits):
    from sklearn.datasets import load_digits

    dataset = digits[0]
    assert dataset.image_shape == (8, 8, 1) and dataset.num_classes == 10 and dataset.name == "digits"
    assert dataset.train.images.dtype == np.uint8 and dataset.train.labels.dtype == np.int32
    assert (len(dataset.train), len(dataset.test)) == (1297, 500)
    np.testing.assert_array_equal(np.bincount(dataset.test.labels), [50] * 10)
    # The membership is part of every published figure: this hash must never change.
    assert hashlib.sha256(np.ascontiguousarray(dataset.test.images)).hexdigest()[:16] == "d465f18215ac5f58"
    everything = np.concatenate([dataset.train.images, dataset.test.images])[..., 0]
    expected = np.round(load_digits().images * 255 / 16).astype(np.uint8)
    assert sorted(image.tobytes() for image in everything) == sorted(image.tobytes() for image in expected)


def test_digits_are_prepared_once_with_one_line(digits, capfd):
    dataset, folder, printed = digits
    assert printed == f"preparing digits/1.0.0 (1,797 images) in {folder} ...\n"
    again = source.load("digits", data_dir=str(folder))
    assert capfd.readouterr() == ("", "")
    np.testing.assert_array_equal(again.train.images, dataset.train.images)
    assert source.fingerprint(again) == source.fingerprint(dataset)
    assert "tensorflow" not in sys.modules


def test_arrays_of_a_dataset_cannot_be_changed(digits):
    with pytest.raises(ValueError, match="read-only"):
        digits[0].train.images[0] = 0


def test_a_broken_kept_array_is_decoded_again(digits):
    dataset, folder, _ = digits
    kept = folder / "digits" / "1.0.0" / "tlx-test-image.npy"
    whole = kept.read_bytes()
    np.save(other := io.BytesIO(), np.zeros((499, 8, 8, 1), np.uint8))
    for broken in (whole[:-100], b"", other.getvalue()):
        kept.write_bytes(broken)
        again = source.load("digits", data_dir=str(folder))
        np.testing.assert_array_equal(again.test.images, dataset.test.images)
        assert kept.read_bytes() == whole


def test_lazy_images_index_as_the_array_does(digits):
    dataset, folder, _ = digits
    lazy = source.load("digits", data_dir=str(folder), in_memory_bytes=0)
    assert isinstance(lazy.train.images, source.LazyImages) and lazy.train.images.shape == dataset.train.images.shape
    np.testing.assert_array_equal(lazy.train.labels, dataset.train.labels)
    arrays = (np.array([5, 2, 2]), np.array([[0, 1], [2, 3]]), dataset.train.labels == 8, np.zeros(0, int))
    for index in (7, -1, slice(3, 9, 2), *arrays):
        np.testing.assert_array_equal(lazy.train.images[index], dataset.train.images[index])
    with pytest.raises(IndexError):
        lazy.train.images[1297]


def test_classes_are_kept_and_renumbered(digits):
    dataset, folder, _ = digits
    kept = dataset.train.labels >= 5
    for memory in (0, 2**30):
        some = source.load("digits", data_dir=str(folder), classes=(5, 6, 7, 8, 9), in_memory_bytes=memory)
        assert some.name == "digits[5,6,7,8,9]" and some.class_names == ("5", "6", "7", "8", "9")
        np.testing.assert_array_equal(some.train.labels, dataset.train.labels[kept] - 5)
        np.testing.assert_array_equal(some.train.images[np.arange(20)], dataset.train.images[kept][:20])
    nines = dataset.test.labels == 9
    reverse = source.load("digits", data_dir=str(folder), classes=(9, 0))
    np.testing.assert_array_equal(reverse.test.images[reverse.test.labels == 0], dataset.test.images[nines])
    assert source.fingerprint(reverse) != source.fingerprint(dataset)


@pytest.mark.parametrize(
    ("classes", "message"), [((3, 10), "classes has 10.*0 to 9"), ((1, 1), "name each class once")]
)
def test_classes_that_are_not(digits, classes, message):
    with pytest.raises(UserError, match=message):
        source.load("digits", data_dir=str(digits[1]), classes=classes)


@pytest.mark.parametrize("mark", ["-", "."])
@pytest.mark.parametrize("compress", [False, True])
def test_idx_folder(tmp_path, mark, compress):
    folder = write_idx(tmp_path / "my set", mark=mark, compress=compress)
    dataset = source.load("idx", idx_dir=str(folder), data_dir=str(tmp_path / "data"))
    assert dataset.name == "my set" and dataset.class_names == ("0", "1", "2")
    np.testing.assert_array_equal(dataset.train.images, IMAGES[..., None])
    np.testing.assert_array_equal(dataset.train.labels, LABELS)
    np.testing.assert_array_equal(dataset.test.images, IMAGES[:3, ..., None])


def test_classes_that_the_labels_never_show(tmp_path, capsys):
    """MNIST's letters begin at 1: said and let be. What is tested must be learnt."""
    load = lambda labels: source.load(
        "idx", idx_dir=str(write_idx(tmp_path / "set", labels=labels)), data_dir=str(tmp_path / "data")
    )
    assert load(np.where(LABELS == 0, 1, LABELS)).num_classes == 3
    assert "no image shows 0, so they are never predicted" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(UserError, match="set has one class, '0': a task has two or more"):
        load(np.zeros_like(LABELS))
    images = np.concatenate([IMAGES[3:], IMAGES[3:]])
    with pytest.raises(UserError, match="test images of classes that no training image shows"):
        source._check_classes(
            source.Dataset(
                "set",
                source.Examples(images, np.ones(len(images), np.int32)),
                source.Examples(images, np.zeros(len(images), np.int32)),
                ("a", "b"),
            )
        )


def test_idx_files_with_new_content_are_prepared_anew(tmp_path):
    load = lambda: source.load("idx", idx_dir=str(folder), data_dir=str(tmp_path / "data"))
    folder = write_idx(tmp_path / "set")
    before = load()
    write_idx(folder, 255 - IMAGES)
    np.testing.assert_array_equal(load().train.images, 255 - before.train.images)
    assert len(list((tmp_path / "data" / "idx").iterdir())) == 2


def test_idx_folders_of_one_name_are_kept_apart(tmp_path):
    for parent, images in (("a", IMAGES), ("b", 255 - IMAGES), ("a", IMAGES)):
        (tmp_path / parent).mkdir(exist_ok=True)
        folder = write_idx(tmp_path / parent / "set", images)
        dataset = source.load("idx", idx_dir=str(folder), data_dir=str(tmp_path / "data"))
        np.testing.assert_array_equal(dataset.train.images, images[..., None])
    assert len(list((tmp_path / "data" / "idx").iterdir())) == 2


def test_prepared_data_live_in_tfds_data_dir_by_default(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    source.load("idx", idx_dir=str(write_idx(tmp_path / "set")))
    assert len(list((tmp_path / "data" / "idx").iterdir())) == 1


def test_two_processes_prepare_at_once(tmp_path, capsys):
    """The second comes in while the first writes, and finishes first: the rename of the first then fails."""
    folder = write_idx(tmp_path / "set")
    first, second = (builders.Idx(idx_dir=folder, data_dir=tmp_path / "data") for _ in range(2))
    generators = first._split_generators

    def overtaken(dl_manager):
        builders.prepare(second)
        return generators(dl_manager)

    first._split_generators = overtaken
    prepared = builders.prepare(first)
    assert builders.is_prepared(prepared)
    assert [path.name for path in prepared.parent.iterdir()] == ["1.0.0"]
    assert tfds.builder_from_directory(prepared).info.splits["train"].num_examples == 6
    assert capsys.readouterr().out.count("preparing") == 1


def break_idx(folder, case):
    images, labels = folder / "train-images-idx3-ubyte", folder / "train-labels-idx1-ubyte"
    content = images.read_bytes()
    if case == "missing":
        images.unlink()
    elif case == "missing test":
        (folder / "t10k-labels-idx1-ubyte").unlink()
    elif case == "magic":
        images.write_bytes(labels.read_bytes() + bytes(16))
    elif case == "truncated":
        images.write_bytes(content[:-5])
    elif case == "header":
        images.write_bytes(content[:6])
    elif case == "counts":
        labels.write_bytes(idx_bytes(LABELS[:4]))
    elif case == "empty":
        images.write_bytes(idx_bytes(IMAGES[:0]))
        labels.write_bytes(idx_bytes(LABELS[:0]))
    elif case == "sizes":
        images.write_bytes(idx_bytes(IMAGES.transpose(0, 2, 1)))
    elif case == "unnamed gzip":
        images.write_bytes(gzip.compress(content))
    elif case in ("not gzip", "cut gzip", "bad checksum", "bad stream"):
        images.unlink()
        broken = bytearray(content if case == "not gzip" else gzip.compress(content))
        if case == "cut gzip":
            del broken[-9:]
        elif case == "bad checksum":
            broken[-8] ^= 0xFF
        elif case == "bad stream":
            broken[10] |= 0b110  # the first block is of a type that deflate does not have
        images.with_suffix(".gz").write_bytes(broken)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("missing", r"set has no train-images-idx3-ubyte \(plain or .gz\); it holds t10k-images-idx3-ubyte, "),
        ("missing test", r"set has no t10k-labels-idx1-ubyte \(plain or .gz\); it holds t10k-images-idx3-ubyte, "),
        ("magic", "train-images-idx3-ubyte begins with 0x00000801 instead of 0x00000803"),
        ("truncated", r"train-images-idx3-ubyte should have 52 bytes for shape \(6, 3, 2\) but has 47"),
        ("header", "train-images-idx3-ubyte has 6 bytes, fewer than the 16 of its header"),
        ("counts", "train-images-idx3-ubyte has 6 images but train-labels-idx1-ubyte has 4 labels"),
        ("empty", "train-images-idx3-ubyte holds no pixels"),
        ("sizes", r"set: training images are \(2, 3\), test images \(3, 2\)"),
        ("unnamed gzip", "train-images-idx3-ubyte begins with .* it is gzip: add .gz to its name"),
        ("not gzip", "train-images-idx3-ubyte.gz is not a whole gzip file"),
        ("cut gzip", "train-images-idx3-ubyte.gz is not a whole gzip file"),
        ("bad checksum", "train-images-idx3-ubyte.gz is not a whole gzip file"),
        ("bad stream", "train-images-idx3-ubyte.gz is not a whole gzip file"),
    ],
)
def test_broken_idx(tmp_path, case, message):
    folder = write_idx(tmp_path / "set")
    break_idx(folder, case)
    with pytest.raises(UserError, match=message):
        source.load("idx", idx_dir=str(folder), data_dir=str(tmp_path / "data"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "idx"}, "needs idx_dir"),
        ({"name": "idx", "idx_dir": "/no/such"}, "'/no/such' is not a folder"),
        ({"name": "mnist", "idx_dir": "/tmp"}, "idx_dir is '/tmp', but the dataset is 'mnist'"),
        ({"name": "mn ist"}, "not the name of a dataset"),
    ],
)
def test_wrong_names(options, message):
    with pytest.raises(UserError, match=message):
        source.load(**options)


def test_data_dir_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write to .*file/data .*set data_dir or \$TFDS_DATA_DIR"):
        source.load("digits", data_dir=str(tmp_path / "file" / "data"))


def test_a_dataset_that_tfds_prepared(tmp_path):
    prepare_photos(tmp_path)
    for name in ("tiny_photos", "tiny_photos:1.2.0"):
        dataset = source.load(name, data_dir=str(tmp_path))
        assert dataset.name == "tiny_photos" and dataset.class_names == ("cat", "dog")
        assert dataset.train.images[:, 0, 0].tolist() == [[10 * i] * 3 for i in range(5)]
        assert dataset.train.labels.tolist() == [0, 1, 0, 1, 0]
    with pytest.raises(UserError, match=r"'tiny_photos:2.0.0' is not prepared in .*\(there: 1.2.0\)"):
        source.load("tiny_photos:2.0.0", data_dir=str(tmp_path))


def test_a_large_dataset_is_read_as_needed(tmp_path):
    builder = prepare_photos(tmp_path)
    dataset = source.load("tiny_photos", data_dir=str(tmp_path), in_memory_bytes=5 * 4 * 4 * 3 - 1)
    assert isinstance(dataset.train.images, source.LazyImages) and dataset.train.labels.tolist() == [0, 1, 0, 1, 0]
    assert dataset.train.images[np.array([4, 1])][:, 0, 0, 0].tolist() == [40, 10]
    assert not list((tmp_path / builder.data_dir).glob("*image.npy"))
    in_memory = source.load("tiny_photos", data_dir=str(tmp_path), in_memory_bytes=5 * 4 * 4 * 3)
    assert isinstance(in_memory.train.images, np.ndarray)
    assert source.fingerprint(in_memory) == source.fingerprint(dataset)


def test_a_dataset_that_is_not_prepared(tmp_path):
    command = f"tfds.builder('mnist', data_dir='{tmp_path}', file_format='array_record').download_and_prepare()"
    with pytest.raises(UserError) as error:
        source.load("mnist", data_dir=str(tmp_path))
    assert command in str(error.value) and "\n" not in str(error.value)


def test_a_dataset_in_tfrecords(tmp_path):
    info = tmp_path / prepare_photos(tmp_path).data_dir / "dataset_info.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"fileFormat": "tfrecord"}))
    with pytest.raises(UserError, match="is prepared as tfrecord, .*file_format='array_record'"):
        source.load("tiny_photos", data_dir=str(tmp_path))


def test_configs(tmp_path):
    for name in ("large", "small"):
        prepare_photos(tmp_path, config=tfds.core.BuilderConfig(name=name))
        if name == "large":  # the only one so far
            assert len(source.load("tiny_photos", data_dir=str(tmp_path)).train) == 5
    assert source.load("tiny_photos/small", data_dir=str(tmp_path)).name == "tiny_photos/small"
    with pytest.raises(UserError, match="several configs: name one of tiny_photos/large, tiny_photos/small"):
        source.load("tiny_photos", data_dir=str(tmp_path))


def test_validation_stands_in_for_a_missing_test_split(tmp_path, capsys):
    prepare_photos(tmp_path, splits=("train", "validation"))
    assert len(source.load("tiny_photos", data_dir=str(tmp_path)).test) == 5
    assert capsys.readouterr().out.count("no test split: its validation split is used as the test set") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"splits": ("train",)}, "has the splits train: use one with train, and test or validation"),
        ({"shape": (None, None, 3)}, r"images of shape \(None, None, 3\): use one with images of one size"),
        ({"label": {"age": tfds.features.Scalar(np.int64)}}, "has the features .*: use one with image and label"),
        ({"label": {"label": tfds.features.Scalar(np.int64)}}, "labels of type Scalar: use one with a ClassLabel"),
    ],
)
def test_datasets_of_another_kind(tmp_path, options, message):
    prepare_photos(tmp_path, **options)
    with pytest.raises(UserError, match=message):
        source.load("tiny_photos", data_dir=str(tmp_path))


def edit_json(path, change):
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def foreign(record):
    record["pythonClassName"] = "not_of_tfds.Features"


def foreign_within(record):
    inner = {"type": "not_of_tfds.Features", "content": {}}
    whole = {"type": "tensorflow_datasets.core.features.features_dict.FeaturesDict", "content": {"image": inner}}
    record.update(pythonClassName=whole["type"], jsonFeature={"json": json.dumps(whole["content"])})
    del record["featuresDict"]


DAMAGE = {  # of a dataset that tfds prepared: file, what befalls it, what is said
    "no features": ("features.json", lambda path: path.unlink(), "features.json cannot be read .No such file"),
    "cut features": ("features.json", lambda path: path.write_text("{"), "features.json cannot be read .*delete"),
    "other features": (
        "features.json",
        lambda path: path.write_text("[]"),
        "1.2.0 cannot be read .*delete that folder",
    ),
    "cut notes": ("dataset_info.json", lambda path: path.write_text("{"), "1.2.0 cannot be read .*delete that folder"),
    "too many records": (
        "dataset_info.json",
        lambda path: edit_json(path, lambda record: record["splits"][0].update(shardLengths=["3000000000"])),
        "1.2.0 notes 3,000,000,000 records of train in files of .*delete that folder",
    ),
    "cut records": (
        "tiny_photos-train.array_record-00000-of-00001",
        lambda path: path.write_bytes(path.read_bytes()[:-1000]),
        "1.2.0 cannot be read .*delete that folder",
    ),
    "odd label": ("tlx-train-label.npy", lambda path: np.save(path, np.full(5, 7, np.int32)), "1.2.0: label 0 is 7"),
    "foreign": (
        "features.json",
        lambda path: edit_json(path, foreign),
        "'not_of_tfds.Features', and tlx does not run a dataset's own code",
    ),
    "foreign within": (
        "features.json",
        lambda path: edit_json(path, foreign_within),
        "'not_of_tfds.Features', and tlx does not run a dataset's own code",
    ),
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    prepare_photos(folder)
    source.load("tiny_photos", data_dir=str(folder))
    return folder


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_dataset(tmp_path, monkeypatch, photos, case):
    shutil.copytree(photos, tmp_path / "data")
    (tmp_path / "not_of_tfds.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    file, befalls, message = DAMAGE[case]
    befalls(tmp_path / "data" / "tiny_photos" / "1.2.0" / file)
    with pytest.raises(UserError, match=message):
        source.load("tiny_photos", data_dir=str(tmp_path / "data"))
    assert not (tmp_path / "ran").exists()


def test_a_dataset_of_ours_with_damaged_notes(tmp_path, digits):
    shutil.copytree(digits[1] / "digits", tmp_path / "digits")
    (tmp_path / "digits" / "1.0.0" / "dataset_info.json").write_text("{")
    with pytest.raises(UserError, match="digits cannot be read .*delete that folder, and it is prepared anew"):
        source.load("digits", data_dir=str(tmp_path))


def test_a_damaged_note_of_the_default_config(tmp_path):
    for name in ("large", "small"):
        (tmp_path / "x" / name / "1.0.0").mkdir(parents=True)
    (tmp_path / "x" / ".config").mkdir()
    (tmp_path / "x" / ".config" / "metadata.json").write_text("[]")
    with pytest.raises(UserError, match="metadata.json cannot be read .*delete it, or name one of large, small"):
        source.load("x", data_dir=str(tmp_path))


GOOD = np.zeros((4, 2, 2, 1), np.float32)
BAD_VALUE, NAN = GOOD.copy(), GOOD.copy()
BAD_VALUE[2, 1, 0, 0], NAN[3, 0, 1, 0] = 255, np.nan


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (GOOD[..., 0], [0] * 4, r"shape \(4, 2, 2\): they must be \[N, H, W, C\]; add a last axis"),
        (GOOD, [[0]] * 4, r"labels have shape \(4, 1\)"),
        (GOOD, [0] * 3, "4 images but 3 labels"),
        (GOOD[:0], np.zeros(0, int), "nothing to learn from"),
        (GOOD, [0.0] * 4, "labels are float64: use integers from 0 to 2"),
        (GOOD, [0, 2, 3, -1], "label 2 is 3: with 3 classes it is 0 to 2"),
        (GOOD, [0, -1, 3, 0], "label 1 is -1"),
        (GOOD.astype(np.int64), [0] * 4, "images are int64: use uint8"),
        (BAD_VALUE, [0] * 4, r"image 2 is 255.0 at \[1, 0, 0\]"),
        (NAN, [0] * 4, r"image 3 is nan at \[0, 1, 0\]"),
    ],
)
def test_check_examples(images, labels, message):
    source.check_examples(GOOD, [0, 1, 2, 0], 3)
    source.check_examples(GOOD.astype(np.uint8) + 255, [0, 1, 2, 0], 3)
    with pytest.raises(UserError, match=message):
        source.check_examples(images, labels, 3)
