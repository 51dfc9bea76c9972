"""Where the images of a folder of photographs lie, and which classes they belong to; no image is opened."""

import dataclasses
import os
from collections import Counter
from pathlib import Path

from tlx.data.photo import SUFFIXES
from tlx.errors import UserError

EXPECTED = "the layout is FOLDER/class/*.jpg, or FOLDER/train/class/*.jpg and FOLDER/test/class/*.jpg"

_TRAIN, _TEST = ("train", "training"), ("test", "testing", "val", "valid", "validation")
_STRAY = "images outside the class folders"

Classes = dict[str, list[Path]]  # the images of each class, both sorted by name


@dataclasses.dataclass(frozen=True)
class Layout:
    """The images of a folder.

    Attributes:
      root: the folder.
      train, test: the images of each class. Without a test set of its own, a folder has an empty `test`.
      remarks: what the user should know: files that are ignored, folders that stand in for others. One line each.
    """

    root: Path
    train: Classes
    test: Classes
    remarks: tuple[str, ...]

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(self.train)


def read_layout(folder: str | os.PathLike) -> Layout:
    """Lists `folder`, which holds a folder for each class, or such folders within train/ and test/ (or val/).

    A folder called train that holds images and no folders is a class of that name. Hidden files, empty folders, and
    files that are no images are ignored; a remark counts them.

    Raises:
      UserError: another layout, fewer than two classes, a class that only the test set has, or a name that cannot be
        kept as a class's.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise UserError(f"folder {str(folder)!r} is not a folder: name one whose sub-folders are the classes")
    ignored, remarks = Counter(), []
    try:
        parts = _find_splits(root)
        train = _list_classes(parts["train"] if parts else root, ignored)
        test = _list_classes(parts["test"], ignored) if parts else {}
    except OSError as error:
        raise UserError(f"{error.filename} cannot be listed ({error.strerror}): check its permissions") from None
    _check_classes(parts["train"] if parts else root, train, +ignored)
    if parts:
        remarks += _check_test(parts["test"], train, test)
        folders, stray = _list(root, ignored)
        ignored[_STRAY] += len(stray)
        if unused := [path.name for path in folders if path not in parts.values()]:
            remarks.append(
                f"{root.name}: not used beside {' and '.join(p.name for p in parts.values())}: {_some(unused)}"
            )
    ignored = +ignored  # without what was counted 0 times
    if ignored:
        counts = ", ".join(f"{count:,} {kind}" for kind, count in sorted(ignored.items()))
        remarks.append(f"{root.name}: ignored {ignored.total():,}: {counts}")
    return Layout(root, train, test, tuple(remarks))


def _find_splits(root: Path) -> dict[str, Path] | None:
    """The folders of the training and the test set; None if the sub-folders are the classes."""
    folders = {path.name.lower(): path for path in _list(root)[0]}
    train = next((folders[name] for name in _TRAIN if name in folders), None)
    if train is None:
        return None
    within, images = _list(train)
    if images or not within:
        return None
    test = next((folders[name] for name in _TEST if name in folders), None)
    if test is None:
        raise UserError(
            f"{root} has {train.name} but no test: add it, or name {train}, and a fifth of it is the test set"
        )
    return {"train": train, "test": test}


def _list_classes(folder: Path, ignored: Counter) -> Classes:
    folders, stray = _list(folder, ignored)
    classes = {}
    for path in folders:
        within, images = _list(path, ignored)
        for deeper in filter(_holds_images, within):
            raise UserError(f"{deeper} has images but lies within the class folder {path.name}: {EXPECTED}")
        if images:
            classes[path.name] = images
        else:
            ignored["empty folders"] += 1
    if stray and not classes:
        raise UserError(f"{folder} has images but no class folders: {EXPECTED}")
    ignored[_STRAY] += len(stray)
    return classes


def _check_classes(folder: Path, classes: Classes, ignored: Counter) -> None:
    if not classes:
        found = ", ".join(f"{count:,} {kind}" for kind, count in sorted(ignored.items())) or "nothing"
        raise UserError(f"{folder} has no images (it has: {found}): {EXPECTED}, or .png and what else Pillow reads")
    if len(classes) == 1:
        raise UserError(f"{folder} has one class, {next(iter(classes))!r}: it takes two or more; {EXPECTED}")
    for name in classes:
        # tfds keeps the names as lines of a file, stripped.
        if name != name.strip() or not name.isprintable():
            raise UserError(f"{folder} has a class {name!r}: rename it without outer spaces or control characters")


def _check_test(folder: Path, train: Classes, test: Classes) -> list[str]:
    if unknown := [name for name in test if name not in train]:
        raise UserError(f"{folder} has classes that no training image shows: {_some(unknown)}; remove or rename them")
    if not test:
        raise UserError(f"{folder} has no images in class folders: {EXPECTED}")
    remarks = []
    if not folder.name.lower().startswith("test"):
        remarks.append(f"{folder.parent.name} has no test folder: {folder.name} is used as the test set")
    if unseen := [name for name in train if name not in test]:
        remarks.append(f"{folder} has no images of {_some(unseen)}: the test accuracy says nothing about them")
    return remarks


def _list(folder: Path, ignored: Counter | None = None) -> tuple[list[Path], list[Path]]:
    """The folders and the images in a folder, sorted by name; the rest is counted by its kind."""
    ignored = Counter() if ignored is None else ignored
    folders, images = [], []
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            ignored["hidden"] += 1
        elif path.is_dir():
            folders.append(path)
        elif path.suffix.lower() in SUFFIXES:
            images.append(path)
        else:
            ignored[path.suffix.lower() or "without a suffix"] += 1
    return folders, images


def _holds_images(folder: Path) -> bool:
    folders, images = _list(folder)
    return bool(images) or any(map(_holds_images, folders))


def _some(names: list[str]) -> str:
    return ", ".join(map(repr, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
