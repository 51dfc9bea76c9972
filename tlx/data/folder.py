"""A folder of photographs as a dataset: FOLDER/class/*.jpg, or FOLDER/train/class/*.jpg and FOLDER/test/class/*.jpg.

Its tfds builder writes the images as they are, uncompressed: what a network is trained on is then, to the bit, what
`tlx.data.photo.read` gives of the file at any later time. PNG would take 0.56 of the space (224 x 224, measured), and
many times as long to read; JPEG would change the pixels.
"""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import io
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import PIL.Image
import tensorflow_datasets as tfds

from tlx import progress
from tlx.data import builders, photo, records
from tlx.data.layout import read_layout
from tlx.errors import UserError
from tlx.workdir import write_json

TEST_FRACTION = 0.2  # of a folder that has no test set

_CHUNK, _SHARD = 256, 10_000  # images in memory at once, and in a file


@dataclasses.dataclass(frozen=True)
class File:
    """An image file: its path, its class, the sha256 of its content, and whether it is stored without colours."""

    path: Path
    label: int
    digest: str
    grey: bool


class Folder(tfds.core.dataset_builder.FileReaderBuilder, skip_registration=True):
    """A folder of photographs, each as a square of one size; see `tlx.data.photo.read` for what is done to them.

    The config's name ends in a hash of the files' names and contents, the size and the channels. Files are hashed
    again only if their size or times have changed.
    """

    VERSION = tfds.core.Version("1.0.0")
    url_infos = None  # as of builders.Digits
    bar = progress.Bar()

    def __init__(self, *, folder: str | os.PathLike, image_size: int, channels: int = 0, data_dir: str | os.PathLike):
        """Looks at every file; says on a line of its own what is ignored or doubtful.

        Args:
          folder: see `tlx.data.layout.read_layout`. Without a test set it is split by `choose_test`.
          image_size: side of the squares, in pixels.
          channels: 1 (grey), 3 (RGB), or 0: grey if every image is stored without colours.
          data_dir: where prepared datasets live.

        Raises:
          UserError: as `read_layout`; a file that is no image; a class without an image to test and one to learn from.
        """
        layout = read_layout(folder)
        for remark in layout.remarks:
            print(remark, flush=True)
        self._names = layout.class_names
        where = hashlib.sha256(os.fsencode(layout.root.resolve())).hexdigest()[:12]
        notes = Path(data_dir) / "folder" / ".notes" / f"{where}.json"
        paths = [path for split in (layout.train, layout.test) for images in split.values() for path in images]
        seen = _look(paths, layout.root, notes)
        self._files = {
            split: [
                File(path, label, *seen[path])
                for label, name in enumerate(self._names)
                for path in classes.get(name, ())
            ]
            for split, classes in (("train", layout.train), ("test", layout.test))
        }
        if layout.test:
            _warn_of_copies(self._files, layout.root.name)
        else:
            self._files = _split(self._files["train"], self._names, layout.root)
        everything = [file for split in self._files.values() for file in split]
        self._root = layout.root
        self._shape = (image_size, image_size, channels or (1 if all(file.grey for file in everything) else 3))
        key = [(file.path.relative_to(layout.root).as_posix(), file.digest) for file in everything]
        digest = hashlib.sha256(json.dumps([self._shape, key]).encode()).hexdigest()
        config = tfds.core.BuilderConfig(name=builders.config_name(folder, digest))
        with builders.starting(Path(data_dir) / self.name / config.name):
            super().__init__(data_dir=os.fspath(data_dir), config=config, file_format="array_record")

    @property
    def num_images(self) -> int:
        return sum(map(len, self._files.values()))

    def _info(self) -> tfds.core.DatasetInfo:
        return builders.info(self, "a folder of photographs", self._shape, encoding=None, names=list(self._names))

    def _download_and_prepare(self, dl_manager: Any, download_config: Any) -> None:
        # Not a GeneratorBasedBuilder: that gathers a whole split in memory, and beyond 1 GB needs TensorFlow.
        info = self._info()  # another than self.info, which is about the final folder: this one is temporary so far
        writer = records.Writer(info, list(self._files), shard=_SHARD)
        broken = {}
        for split, files in self._files.items():
            for start in range(0, len(files), _CHUNK):
                chunk = files[start : start + _CHUNK]
                images = list(_in_threads(self._encode, [file.path for file in chunk], self.bar))
                rows = list(zip(chunk, images, strict=True))
                broken |= {file.path: image for file, image in rows if isinstance(image, Exception)}
                for file, image in rows if not broken else ():
                    writer.add(split, {"image": image, "label": file.label})
        _refuse(broken, self._root)
        self.info.set_splits(writer.close())

    def _encode(self, path: Path) -> bytes:
        return records.encode(photo.read(path, self._shape))


def choose_test(digests: Iterable[str]) -> set[str]:
    """Which images of one class are for testing: about a fifth, each by its own content's hash alone.

    So a file that is added or renamed moves no other, and copies of an image are on one side. The price is that a
    small class has a fifth of its images on average only. One that would have none has the lowest hash (and that one
    can move when files are added); one image at least is left to learn from.

    Args:
      digests: hexadecimal hashes, of two different images at least.
    """
    digests = set(digests)
    test = {digest for digest in digests if int(digest[:8], 16) < TEST_FRACTION * 16**8} or {min(digests)}
    return test if test < digests else test - {max(test)}


def _split(files: list[File], names: tuple[str, ...], root: Path) -> dict[str, list[File]]:
    classes = [{file.digest for file in files if file.label == label} for label in range(len(names))]
    for name, digests in zip(names, classes, strict=True):
        if len(digests) < 2:
            raise UserError(
                f"{root} has one image of class {name!r}: it takes two that differ, to learn from and to test on"
            )
    chosen = [choose_test(digests) for digests in classes]
    is_test = [file.digest in chosen[file.label] for file in files]
    return {
        "train": [file for file, test in zip(files, is_test, strict=True) if not test],
        "test": [file for file, test in zip(files, is_test, strict=True) if test],
    }


def _warn_of_copies(files: dict[str, list[File]], name: str) -> None:
    known = {file.digest for file in files["train"]}
    if copies := sum(file.digest in known for file in files["test"]):
        print(
            f"{name}: {copies:,} of {len(files['test']):,} test images are exact copies of training images: "
            "the test accuracy will be too high",
            flush=True,
        )


def _look(paths: list[Path], root: Path, notes: Path) -> dict[Path, tuple[str, bool]]:
    """The hash of each file's content, and whether it is grey; from `notes` where a file's size and times are as then.

    Raises:
      UserError: files that Pillow does not take for images.
    """
    try:
        known = dict(json.loads(notes.read_text()))
    except (OSError, ValueError, TypeError, RecursionError):
        known = {}
    known = {key: note for key, note in known.items() if isinstance(note, list) and len(note) == 3}
    seen, broken, noted, new = {}, {}, {}, []
    for path in paths:
        key, stamp = path.relative_to(root).as_posix(), _stamp(path)
        if stamp and key in known and known[key][0] == stamp:
            noted[key] = known[key]
            seen[path] = tuple(known[key][1:])
        else:
            new.append((path, key, stamp))
    started = time.time_ns()
    with progress.bar("looking", total=len(new), start=0, note="") as bar:
        results = _in_threads(_look_at, [path for path, _, _ in new], bar)
        for (path, key, stamp), found in zip(new, results, strict=True):
            if isinstance(found, Exception):
                broken[path] = found
                continue
            seen[path] = found
            # Who writes twice within the clock's grain (2 s on some file systems) leaves no trace in the times.
            if stamp and started - max(stamp[1:]) > 2 * 10**9:
                noted[key] = [stamp, *found]
    if noted != known:
        with contextlib.suppress(OSError):  # a folder that cannot be written is refused when there is more to write
            write_json(notes, noted, indent=None)
    _refuse(broken, root)
    return seen


def _stamp(path: Path) -> list[int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _look_at(path: Path) -> tuple[str, bool]:
    content = path.read_bytes()
    with PIL.Image.open(io.BytesIO(content)) as image:
        return hashlib.sha256(content).hexdigest(), photo.is_grey(image)


def _in_threads(function: Callable[[Path], Any], paths: list[Path], bar: progress.Bar) -> Iterator[Any]:
    """`function` of each path, in order, or the exception that it raised."""

    def attempt(path: Path) -> Any:
        try:
            return function(path)
        except Exception as error:  # Pillow raises a dozen types, and promises none
            return error

    PIL.Image.init()  # plugins are otherwise loaded by the first thread that needs one
    # Threads, since Pillow and hashlib let go of the interpreter; 8, since each may hold an image of full size.
    with concurrent.futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for result in pool.map(attempt, paths):
            bar.advance()
            yield result


def _refuse(broken: dict[Path, Exception], root: Path) -> None:
    if broken:
        shown = [f"{path.relative_to(root)} ({_reason(error)})" for path, error in list(broken.items())[:3]]
        more = f" and {len(broken) - 3:,} more" if len(broken) > 3 else ""
        count = "an image" if len(broken) == 1 else f"{len(broken):,} images"
        raise UserError(f"{root} has {count} that cannot be read, {', '.join(shown)}{more}: remove or replace them")


def _reason(error: Exception) -> str:
    if isinstance(error, PIL.UnidentifiedImageError):
        return "no image, whatever its name says"
    return getattr(error, "strerror", None) or " ".join(str(error).split())[:80] or type(error).__name__
