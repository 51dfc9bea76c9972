"""Folders of photographs: what is read, how it is split, what is refused, and a run on one from end to end."""

import hashlib
import os
import warnings

import numpy as np
import PIL.Image
import pytest
import rich.console
from array_record.python.array_record_module import ArrayRecordWriter

from tlx import predict, progress
from tlx.data import folder, layout, photo, records, source
from tlx.errors import UserError
from tlx.recipes import supervised

COLORS = {"cat": (200, 30, 30), "dog": (30, 200, 30), "eel": (30, 30, 200)}


def picture(color=(200, 30, 30), size=(12, 9), seed=0):
    """An RGB image of one colour and some noise, so that each seed's has a content of its own."""
    noise = np.random.default_rng(seed).integers(-20, 20, (size[1], size[0], 3))
    return PIL.Image.fromarray((np.array(color) + noise).astype(np.uint8))


def write(path, image=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    (picture() if image is None else image).save(path, **options)
    return path


def write_classes(root, count=6, classes=("cat", "dog"), first=0):
    for number, name in enumerate(classes):
        for i in range(first, first + count):
            write(root / name / f"{i:02}.png", picture(COLORS[name], seed=1000 * number + i))
    return root


def load(root, **options):
    return source.load(
        "folder", **{"folder": str(root), "image_size": 8, "data_dir": str(root.parent / "data")} | options
    )


def rows(examples):
    return {image.tobytes() for image in examples.images}


def test_a_folder_of_classes(tmp_path, capsys):
    dataset = load(write_classes(tmp_path / "pets", classes=("eel", "cat", "dog")))
    assert dataset.name == "pets" and dataset.class_names == ("cat", "dog", "eel")
    assert dataset.image_shape == (8, 8, 3) and len(dataset.train) + len(dataset.test) == 18
    for split in (dataset.train, dataset.test):
        assert split.images.dtype == np.uint8 and set(split.labels) == {0, 1, 2}
        brightest = np.asarray(split.images).mean((1, 2)).argmax(-1)
        np.testing.assert_array_equal(brightest, split.labels)
    assert capsys.readouterr().out == f"preparing {prepared_name(tmp_path)} (18 images) in {tmp_path / 'data'} ...\n"


def prepared_name(tmp_path):
    (config,) = (path for path in (tmp_path / "data" / "folder").iterdir() if path.name[0] != ".")
    return f"folder/{config.name}/1.0.0"


def test_the_same_arrays_again_in_memory_and_from_disk(tmp_path, capsys):
    root = write_classes(tmp_path / "pets")
    first = load(root)
    capsys.readouterr()
    again, lazy = load(root), load(root, in_memory_bytes=0)
    assert capsys.readouterr().out == ""  # prepared once
    assert isinstance(lazy.train.images, source.LazyImages)
    for other in (again, lazy):
        np.testing.assert_array_equal(other.train.images[:], first.train.images)
        np.testing.assert_array_equal(other.test.images[:], first.test.images)
        np.testing.assert_array_equal(other.train.labels, first.train.labels)
    # What was trained on is what a prediction sees of the same file: nothing is lost in between.
    files = [predict.read_images(path, (8, 8, 3))[0] for path in sorted(root.rglob("*.png"))]
    assert rows(first.train) | rows(first.test) == {image.tobytes() for image in files}


def test_images_are_told_apart_by_size_and_channels(tmp_path):
    root = write_classes(tmp_path / "pets")
    assert load(root, image_size=5).image_shape == (5, 5, 3)
    assert load(root, channels=1).image_shape == (8, 8, 1)
    assert load(root).image_shape == (8, 8, 3)


def test_a_changed_file_is_noticed(tmp_path):
    """Also where neither its size nor its time of modification changes, and where its hash was noted before."""
    root = write_classes(tmp_path / "pets")
    path = root / "cat" / "00.bmp"
    write(path, picture(seed=77))
    before, stat = load(root), path.stat()
    write(path, picture(seed=78))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_size == stat.st_size
    after = load(root)
    images = rows(before.train) | rows(before.test), rows(after.train) | rows(after.test)
    assert len(images[0] - images[1]) == len(images[1] - images[0]) == 1


def test_hashes_are_noted_of_files_that_have_been_at_rest(tmp_path, monkeypatch):
    root = write_classes(tmp_path / "pets")
    looked = []
    look_at = folder._look_at
    monkeypatch.setattr(folder, "_look_at", lambda path: looked.append(path) or look_at(path))
    load(root)
    load(root)
    assert len(looked) == 24  # too young
    now = folder.time.time_ns
    monkeypatch.setattr(folder.time, "time_ns", lambda: now() + 3 * 10**9)
    first = load(root)
    again = load(root)
    assert len(looked) == 36
    np.testing.assert_array_equal(first.train.images, again.train.images)
    (note,) = (tmp_path / "data" / "folder" / ".notes").iterdir()
    for number, text in enumerate(("{", "[]", '{"cat/00.png": 3, "cat/01.png": []}'), 1):
        note.write_text(text)
        load(root)
        assert len(looked) == 36 + 12 * number


def test_the_split_stays_where_it_is_when_files_come_or_are_renamed(tmp_path):
    root = write_classes(tmp_path / "pets", count=20)
    before = load(root)
    write_classes(root, count=10, first=20)
    (root / "cat" / "00.png").rename(root / "cat" / "zz.png")
    after = load(root)
    assert rows(before.train) < rows(after.train) and rows(before.test) <= rows(after.test)


def test_choose_test():
    digest = lambda share: f"{int(share * 16**8):08x}"
    shares = [0.0, 0.1, 0.199, 0.201, 0.5, 0.9]
    assert folder.choose_test(map(digest, shares)) == {digest(0.0), digest(0.1), digest(0.199)}
    assert folder.choose_test(map(digest, (0.3, 0.5, 0.9))) == {digest(0.3)}  # none below a fifth: the lowest
    assert folder.choose_test(map(digest, (0.01, 0.05, 0.1))) == {digest(0.01), digest(0.05)}  # one to learn from
    many = {hashlib.sha256(str(i).encode()).hexdigest() for i in range(5000)}
    chosen = folder.choose_test(many)
    assert 0.19 < len(chosen) / 5000 < 0.21
    few = set(sorted(many)[::7])
    assert folder.choose_test(few) == chosen & few


def test_copies_of_an_image_are_on_one_side(tmp_path):
    root = write_classes(tmp_path / "pets", count=8)
    for name in COLORS.keys() - {"eel"}:
        for path in sorted((root / name).iterdir()):
            (root / name / f"copy of {path.name}").write_bytes(path.read_bytes())
    dataset = load(root)
    assert len(dataset.train) + len(dataset.test) == 32 and not rows(dataset.train) & rows(dataset.test)


def test_train_and_test_folders(tmp_path, capsys):
    root = tmp_path / "pets"
    write_classes(root / "train", count=3)
    write_classes(root / "test", count=2, first=3)
    write_classes(root / "val", count=1, first=5)
    dataset = load(root)
    assert np.bincount(dataset.train.labels).tolist() == [3, 3] and np.bincount(dataset.test.labels).tolist() == [2, 2]
    assert "pets: not used beside train and test: 'val'\n" in capsys.readouterr().out


@pytest.mark.parametrize("test", ["val", "Validation"])
def test_validation_stands_in_for_a_missing_test_folder(tmp_path, capsys, test):
    write_classes(tmp_path / "pets" / "Train", count=3)
    write_classes(tmp_path / "pets" / test, count=1, first=3)
    assert len(load(tmp_path / "pets").test) == 2
    assert f"pets has no test folder: {test} is used as the test set\n" in capsys.readouterr().out


def test_a_class_called_train(tmp_path):
    for i in range(3):
        write(tmp_path / "traffic" / "train" / f"{i}.png", picture(seed=i))
        write(tmp_path / "traffic" / "car" / f"{i}.png", picture(seed=10 + i))
    assert load(tmp_path / "traffic").class_names == ("car", "train")


def test_what_is_ignored_is_counted(tmp_path, capsys):
    root = write_classes(tmp_path / "pets")
    for name in ("cat/.hidden.jpg", "cat/Thumbs.db", "dog/a.HEIC", "dog/b.heic", "README", ".DS_Store"):
        (root / name).write_bytes(b"?")
    (root / "empty").mkdir()
    (root / "cat" / "empty too").mkdir()
    write(root / "stray.png")
    assert len(load(root).class_names) == 2
    line = "pets: ignored 8: 1 .db, 2 .heic, 1 empty folders, 2 hidden, 1 images outside the class folders, "
    assert capsys.readouterr().out.startswith(line + "1 without a suffix\n")


def test_copies_of_training_images_in_the_test_set(tmp_path, capsys):
    root = tmp_path / "pets"
    write_classes(root / "train", count=3)
    write_classes(root / "test", count=2, first=2)
    load(root)
    assert "pets: 2 of 4 test images are exact copies of training images" in capsys.readouterr().out


def test_a_class_without_test_images(tmp_path, capsys):
    write_classes(tmp_path / "pets" / "train", classes=tuple(COLORS))
    write_classes(tmp_path / "pets" / "test", first=6)
    assert load(tmp_path / "pets").num_classes == 3
    assert "test has no images of 'eel': the test accuracy says nothing about them" in capsys.readouterr().out


def make_wrong(root, case):
    if case == "one class":
        write_classes(root, classes=("cat",))
    elif case == "one image":
        write(write_classes(root) / "eel" / "1.png")
    elif case == "one image twice":
        for name in ("1.png", "2.png"):
            write(write_classes(root) / "eel" / name)
    elif case == "no class folders":
        write(root / "1.jpg")
    elif case == "nothing":
        (root / "cat").mkdir(parents=True)
        (root / "cat" / "1.heic").write_bytes(b"?")
    elif case == "too deep":
        write_classes(root / "photos" / "of" / "pets")
    elif case == "no test":
        write_classes(root / "train")
    elif case == "empty test":
        write_classes(root / "train")
        (root / "test").mkdir()
    elif case == "new in test":
        write_classes(root / "train")
        write_classes(root / "test", classes=tuple(COLORS), first=6)
    elif case == "outer space":
        write_classes(root)
        (root / "dog").rename(root / "dog ")
    elif case == "no image":
        write_classes(root)
        (root / "cat" / "x.jpg").write_bytes(b"<html>")
    elif case == "cut off":
        write_classes(root)
        for i in range(5):
            path = write(root / "dog" / f"x{i}.jpg", picture(size=(64, 64), seed=50 + i))
            path.write_bytes(path.read_bytes()[:-200])


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("missing", "pets' is not a folder: name one whose sub-folders are the classes"),
        ("one class", "pets has one class, 'cat': it takes two or more; the layout is FOLDER/class/"),
        ("one image", "pets has one image of class 'eel': it takes two"),
        ("one image twice", "pets has one image of class 'eel': it takes two that differ"),
        (
            "no class folders",
            r"pets has images but no class folders: the layout is FOLDER/class/\*.jpg, or FOLDER/train/",
        ),
        ("nothing", r"pets has no images \(it has: 1 .heic, 1 empty folders\): the layout is"),
        ("too deep", "pets/photos/of has images but lies within the class folder photos: the layout is"),
        ("no test", "pets has train but no test: add it, or name .*pets/train, and a fifth of it is the test set"),
        ("empty test", "pets/test has no images in class folders: the layout is"),
        ("new in test", "pets/test has classes that no training image shows: 'eel'; remove or rename them"),
        ("outer space", "pets has a class 'dog ': rename it"),
        ("no image", r"pets has an image that cannot be read, cat/x.jpg \(no image, .*\): remove or replace"),
        (
            "cut off",
            r"5 images that cannot be read, dog/x0.jpg \(image file is truncated.*x2.jpg .* and 2 more: remove",
        ),
    ],
)
def test_wrong_folders(tmp_path, case, message):
    make_wrong(tmp_path / "pets", case)
    with pytest.raises(UserError, match=message) as error:
        load(tmp_path / "pets")
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "data").glob("folder/*/*"))  # nothing half prepared


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "folder"}, "dataset 'folder' needs folder"),
        ({"name": "folder", "folder": "x"}, "needs image_size: .* such as 224"),
        ({"name": "folder", "folder": "x", "image_size": -1}, "image_size=-1: give a whole number"),
        ({"name": "folder", "folder": "x", "image_size": 8, "channels": 2}, "channels=2: use one of 0, 1, 3"),
        ({"folder": "x"}, "folder is 'x', but the dataset is 'digits': set the name to 'folder', or folder to ''"),
        ({"image_size": 8}, "image_size is 8, but the dataset is 'digits': .* or image_size to 0"),
        ({"name": "mnist", "channels": 3}, "channels is 3, but the dataset is 'mnist'"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(UserError, match=message):
        source.load(**options)


def test_a_disk_that_gets_full_while_a_set_is_prepared_is_one_line(tmp_path, monkeypatch):
    class Full(ArrayRecordWriter):
        def write(self, record):
            raise RuntimeError("write() failed: No space left on device; writing /x; at byte 7; Failed to close")

    monkeypatch.setattr(records, "ArrayRecordWriter", Full)
    root = write_classes(tmp_path / "pets")
    with pytest.raises(
        UserError, match=r"^cannot write to \S+ \(write\(\) failed: No space left on device\): set data_dir"
    ):
        load(root)
    monkeypatch.undo()
    assert len(load(root).train) > 0  # nothing is in the way of another try


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "JPG", "png", "webp", "bmp", "tif", "gif"])
def test_formats(tmp_path, suffix):
    path = write(tmp_path / f"a.{suffix}", PIL.Image.new("RGB", (10, 10), (200, 30, 90)))
    image = photo.read(path, (4, 4, 3))
    assert image.mode == "RGB" and image.size == (4, 4)
    assert np.abs(np.asarray(image).astype(int) - (200, 30, 90)).max() <= 3
    assert f".{suffix.lower()}" in photo.SUFFIXES


def read(tmp_path, image, size=4, channels=3, name="a.png", **options):
    return np.asarray(photo.read(write(tmp_path / name, image, **options), (size, size, channels)))


def test_the_shorter_side_decides_and_the_centre_is_cropped(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (4, 9, 3)).astype(np.uint8)
    image = PIL.Image.fromarray(values)
    np.testing.assert_array_equal(read(tmp_path, image), values[:, 2:6])  # no size changes: no value does
    np.testing.assert_array_equal(read(tmp_path, image.transpose(PIL.Image.Transpose.ROTATE_90)), np.rot90(values)[2:6])
    # As the shorter side resized and the centre cropped, but for what the filter sees beyond the square.
    smooth = picture(size=(48, 16)).resize((96, 32), PIL.Image.Resampling.BICUBIC)
    resized = np.asarray(smooth.resize((24, 8), PIL.Image.Resampling.BICUBIC))[:, 8:16]
    np.testing.assert_array_equal(read(tmp_path, smooth, size=8)[:, 2:6], resized[:, 2:6])
    assert read(tmp_path, PIL.Image.new("L", (3, 20000)), size=32).shape == (32, 32, 3)
    # Other proportions than a square's, for predictions of runs on such images.
    path = write(tmp_path / "a.png", image)
    np.testing.assert_array_equal(np.asarray(photo.read(path, (4, 6, 3))), values[:, 1:7])
    np.testing.assert_array_equal(np.asarray(photo.read(path, (2, 9, 3))), values[1:3])
    assert photo.read(write(tmp_path / "a.png", PIL.Image.new("L", (1, 100))), (8, 32, 1)).size == (32, 8)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_exif_orientation(tmp_path, orientation):
    values = np.zeros((4, 4, 3), np.uint8)
    values[0, :, 0] = 255  # a red top
    turns = {1: 0, 3: 2, 6: 1, 8: 3}[orientation]  # quarters anticlockwise that the stored image was turned by
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    stored = PIL.Image.fromarray(np.ascontiguousarray(np.rot90(values, turns)))
    np.testing.assert_array_equal(read(tmp_path, stored, exif=exif), values)


def test_transparent_is_white(tmp_path):
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[:2] = (255, 0, 0, 255)
    rgba[2] = (0, 0, 0, 51)  # a fifth of black over white
    image = PIL.Image.fromarray(rgba)
    expected = [[255, 0, 0], [255, 0, 0], [204, 204, 204], [255, 255, 255]]
    np.testing.assert_array_equal(read(tmp_path, image)[:, 0], expected)
    assert read(tmp_path, image.convert("LA"), channels=1)[:, 0].tolist() == [76, 76, 204, 255]
    palette = PIL.Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8), "P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = read(tmp_path, palette, size=2, transparency=1)
    np.testing.assert_array_equal(found, [[[10, 20, 30], [255] * 3], [[255] * 3, [10, 20, 30]]])
    np.testing.assert_array_equal(read(tmp_path, palette, size=2)[0, 1], [40, 50, 60])


def test_more_than_8_bits_are_scaled_and_not_clipped(tmp_path):
    values = np.array([[0, 257], [32768, 65535]], np.uint16)
    for name in ("a.png", "a.tif"):
        found = read(tmp_path, PIL.Image.fromarray(values), size=2, channels=1, name=name)
        np.testing.assert_array_equal(found, [[0, 1], [128, 255]])
    floats = np.array([[0, 0.5], [0.1, 1]], np.float32)
    found = read(tmp_path, PIL.Image.fromarray(floats), size=2, channels=1, name="b.tif")
    np.testing.assert_array_equal(found, [[0, 128], [26, 255]])
    for wrong in (floats - 0.1, floats * 2, floats * np.nan):
        with pytest.raises(ValueError, match=r"its values are .* and not within 0..1"):
            read(tmp_path, PIL.Image.fromarray(wrong), name="b.tif")
    bits = PIL.Image.fromarray(np.array([[0, 255]] * 2, np.uint8)).convert("1")
    np.testing.assert_array_equal(read(tmp_path, bits, size=2, channels=1), [[0, 255]] * 2)


def test_the_first_frame(tmp_path):
    red, blue = (PIL.Image.new("RGB", (4, 4), color) for color in ("red", "blue"))
    found = read(tmp_path, red, name="a.gif", save_all=True, append_images=[blue])
    assert (found == (255, 0, 0)).all()


def test_cmyk(tmp_path):
    found = read(tmp_path, PIL.Image.new("CMYK", (4, 4), (0, 0, 0, 255)), name="a.jpg")
    assert found.max() <= 3


def test_grey_only_if_all_are(tmp_path):
    root = tmp_path / "cells"
    for name in ("good", "bad"):
        for i, mode in enumerate(("L", "1", "LA")):
            write(root / name / f"{i}.png", picture(seed=len(name) + i).convert(mode))
        write(root / name / "x.png", PIL.Image.fromarray(np.full((9, 9), 9000 + len(name), np.uint16)))
        palette = picture(seed=9 + len(name)).convert("L").quantize(8)
        write(root / name / "p.png", palette)
    assert load(root).image_shape == (8, 8, 1)
    assert load(root, channels=3).image_shape == (8, 8, 3)
    write(root / "bad" / "color.png")
    assert load(root).image_shape == (8, 8, 3)


def test_large_sets_are_written_piece_by_piece_in_order(tmp_path, monkeypatch):
    root = write_classes(tmp_path / "pets", count=30)
    expected = load(root, data_dir=str(tmp_path / "first"))
    monkeypatch.setattr(folder, "_CHUNK", 7)
    monkeypatch.setattr(folder, "_SHARD", 10)
    found = load(root, data_dir=str(tmp_path / "second"))
    np.testing.assert_array_equal(found.train.images, expected.train.images)
    np.testing.assert_array_equal(found.train.labels, expected.train.labels)
    shards = (tmp_path / "second").glob("folder/pets-*/1.0.0/folder-train.array_record-*")
    assert len(list(shards)) == -(-len(found.train) // 10)


def test_the_layout_opens_no_file(tmp_path):
    (tmp_path / "pets" / "a").mkdir(parents=True)
    (tmp_path / "pets" / "b").mkdir()
    for name in ("a/2.jpg", "a/10.jpg", "b/1.png"):
        (tmp_path / "pets" / name).write_bytes(b"")
    found = layout.read_layout(tmp_path / "pets")
    assert [path.name for path in found.train["a"]] == ["10.jpg", "2.jpg"] and not found.test and not found.remarks


def test_a_bar_is_shown_while_tfds_is_silenced(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "console", rich.console.Console(force_terminal=True, width=100))
    load(write_classes(tmp_path / "pets"))
    looking, preparing = capsys.readouterr().out.split("preparing folder/")
    assert "looking" in looking and "12/12" in looking and "12/12" in preparing
    progress.say("stdout is again what it is at the time")
    assert capsys.readouterr().out.endswith("at the time\n")


def test_a_run_on_a_folder(tmp_path):
    config = supervised.default_config()
    config.data.update(name="folder", folder=str(write_classes(tmp_path / "pets", count=16)), image_size=16)
    config.data.validation = 4
    config.model = {"name": "mlp", "widths": (16,)}
    config.train.update(steps=20, batch_size=8, eval_every=10)
    result = supervised.run(config, tmp_path / "run")
    assert result["class_names"] == ["cat", "dog"] and result["figures"]["test_accuracy"] == 1.0
