"""Data: IDX files, a folder of photographs, images to predict, a file of a teacher's logits."""

import contextlib
import gzip
import io
import pathlib
import shutil
import struct
import zlib
from unittest import mock

import numpy as np
import PIL.Image
from hypothesis import strategies as st

from experiments.fuzz.mutation import NUMBERS, damaged
from experiments.fuzz.target import Target, one_of_files, put
from experiments.fuzz.weight_targets import npy, npy_headers, npz_examples, npz_samples
from tlx import predict, teachers
from tlx.data import source
from tlx.data.builders import read_idx_dir

_PIXELS = np.random.default_rng(0).integers(0, 256, (10, 12, 3), np.uint8)


def idx(folder: pathlib.Path) -> Target:
    contents = idx_files(folder)
    inside = damaged(*contents.values())
    compressed = lambda path, plain: plain.map(gzip.compress) if path.suffix == ".gz" else plain
    files = {path: st.one_of(damaged(path.read_bytes()), compressed(path, inside)) for path in contents}
    return one_of_files(files, lambda: read_idx_dir(folder), names=("ubyte", str(folder)))


def idx_files(folder: pathlib.Path) -> dict[pathlib.Path, bytes]:
    """Writes MNIST's four files, of six images and three, the latter gzipped; returns what is in them."""
    contents = {}
    for stem, count, end in (("train", 6, ""), ("t10k", 3, ".gz")):
        images = struct.pack(">4I", 0x0803, count, 4, 4) + _PIXELS.tobytes()[: 16 * count]
        labels = struct.pack(">2I", 0x0801, count) + bytes(i % 2 for i in range(count))
        for kind, rank, content in (("images", 3, images), ("labels", 1, labels)):
            path = folder / f"{stem}-{kind}-idx{rank}-ubyte{end}"
            path.write_bytes(gzip.compress(content, mtime=0) if end else content)
            contents[path] = content
    return contents


def photographs(folder: pathlib.Path) -> Target:
    """One image of a folder of six is damaged, or has another name, or lies elsewhere."""
    photos, prepared = folder / "photos", folder / "prepared"
    whole = image_samples()
    part = st.one_of(
        st.sampled_from(("cat", "train", "test", " x", "a\nb", ".x", "\udcff", "é" * 60)), st.text(max_size=4)
    )
    name = st.one_of(st.just("cat"), st.just("dog"), part).filter(_is_name)
    file = st.sampled_from([f"z{suffix}" for suffix in whole])
    content = st.sampled_from(list(whole)).flatmap(lambda suffix: image_examples(suffix, whole[suffix]))

    def read(example: tuple[str, str, bytes]) -> None:
        for made in (photos, prepared):
            shutil.rmtree(made, ignore_errors=True)
        for i, kind in enumerate(("cat", "dog") * 3):
            (photos / kind).mkdir(parents=True, exist_ok=True)
            PIL.Image.fromarray(_PIXELS + np.uint8(i)).save(photos / kind / f"{i}.png")
        kind, name, content = example
        (photos / kind).mkdir(exist_ok=True)
        (photos / kind / name).write_bytes(content)
        # tfds makes a folder among the temporary ones, and takes it away.
        with mock.patch("tempfile.tempdir", str(folder)), contextlib.redirect_stdout(io.StringIO()):
            source.load("folder", folder=str(photos), image_size=8, data_dir=str(prepared))

    return Target(("cat", "z.png", whole[".png"]), st.tuples(name, file, content), read, (photos.name,))


def images(folder: pathlib.Path) -> Target:
    """A picture to predict, of any format, and an array."""
    whole = image_samples() | {".npy": npy(_PIXELS[:8, :8])}
    shape = st.sampled_from(((8, 8, 3), (8, 8, 1), (1, 9, 3)))
    content = lambda suffix: st.tuples(st.just(suffix), image_examples(suffix, whole[suffix]), shape)

    def read(example: tuple[str, bytes, tuple[int, int, int]]) -> None:
        suffix, content, shape = example
        predict.read_images(put(folder / f"image{suffix}", content), shape)

    return Target((".png", whole[".png"], (8, 8, 3)), st.sampled_from(list(whole)).flatmap(content), read, ("image.",))


def logits(folder: pathlib.Path) -> Target:
    labels = np.arange(12) % 3
    values = np.eye(3, dtype=np.float32)[labels]
    plain, archives = npy(values), npz_samples({"logits": values, "fingerprint": np.array("f" * 16)})
    examples = st.one_of(
        st.tuples(st.just(".npy"), damaged(plain, npy(values.astype(object)), npy(np.ones(12, "f4,f4")))),
        st.tuples(st.just(".npy"), npy_headers(values.tobytes())),
        st.tuples(st.just(".npz"), npz_examples(archives)),
        st.tuples(st.sampled_from((".npy", ".npz")), damaged(plain, *archives)),
    )

    def read(example: tuple[str, bytes]) -> None:
        suffix, content = example
        path = put(folder / f"logits{suffix}", content)
        teachers.read_logits(path, labels=labels, labeled=np.arange(12), num_classes=3, fingerprint="f" * 16)

    return Target((".npy", plain), examples, read, ("logits.np",))


def image_samples() -> dict[str, bytes]:
    """A small picture by suffix."""
    found = {}
    for suffix, form, options in (
        *((".png", "PNG", {}), (".jpg", "JPEG", {"exif": b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x00"})),
        *((".gif", "GIF", {}), (".bmp", "BMP", {}), (".webp", "WEBP", {}), (".ppm", "PPM", {})),
        *((".tif", "TIFF", {"compression": "tiff_lzw"}), (".jp2", "JPEG2000", {})),
    ):
        PIL.Image.fromarray(_PIXELS).save(buffer := io.BytesIO(), form, **options)
        found[suffix] = buffer.getvalue()
    return found


def image_examples(suffix: str, whole: bytes) -> st.SearchStrategy[bytes]:
    """Damage; of a PNG also other sizes and types in its header, under a right checksum; of an npy other headers."""
    if suffix == ".npy":
        return st.one_of(damaged(whole), npy_headers(_PIXELS.tobytes()))
    if suffix != ".png":
        return damaged(whole)
    header = st.tuples(
        *[st.sampled_from([n for n in NUMBERS if 0 <= n < 2**32])] * 2, st.binary(min_size=5, max_size=5)
    )
    return st.one_of(damaged(whole), header.map(lambda fields: _with_header(whole, *fields)))


def _with_header(png: bytes, width: int, height: int, rest: bytes) -> bytes:
    chunk = b"IHDR" + struct.pack(">2I", width, height) + (rest if rest[0] % 2 else b"\x08\x02\x00\x00\x00")
    return png[:12] + chunk + struct.pack(">I", zlib.crc32(chunk)) + png[33:]


def _is_name(name: str) -> bool:
    try:
        return (
            0 < len(name.encode("utf-8", "surrogateescape")) < 200 and not {"/", "\x00"} & set(name) and name[0] != "."
        )
    except UnicodeEncodeError:
        return False
