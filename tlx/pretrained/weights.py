"""Weight files: where a name leads, and the arrays in it, whatever kind of file it is. No code from a file is run."""

import hashlib
import importlib.metadata
import os
import pathlib
import zipfile
from collections.abc import Mapping

import ml_dtypes
import numpy as np
import safetensors.numpy

from tlx import npz
from tlx.errors import UserError, did_you_mean, reading
from tlx.pretrained.torch_file import ZIP, read_torch

SUFFIXES = (".pth", ".pt", ".bin", ".safetensors", ".npz")

# How files that hold no weights begin, and what to do about them. Most are what a failed download leaves.
_STRANGERS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself: run `git lfs pull`"),
    (b"<", "a web page: the download failed, get the file again"),
    (b"{", "JSON text: name the weight file itself"),
    (b"\x93NUMPY", "one array without a name: save it with np.savez(FILE, NAME=array)"),
    (b"\x89HDF", "an HDF5 file: save the weights as safetensors or npz"),
    (b"\x1f\x8b", "compressed by gzip: unpack it"),
)


def read(source: str | os.PathLike, *, key: str | None = None) -> dict[str, np.ndarray]:
    """Reads a weight file: of `torch.save` (zip or legacy), safetensors or npz, told apart by content, not by name.

    Args:
      source: as `find` takes it.
      key: where the state dict lies in a file of `torch.save` that holds several (see `read_torch`).

    Returns:
      name -> array, as in the file; some may be read-only. bfloat16 is `ml_dtypes.bfloat16`, in npz too, where it is
      saved as two raw bytes.

    Raises:
      UserError: no such file, a file of another kind (which is named), a damaged one, or one that asks for code.
    """
    path = find(source)
    with reading(path), open(path, "rb") as file:
        head = file.read(512)
        is_zip = head.startswith(ZIP)
        is_npz = is_zip and all(name.endswith(".npy") for name in zipfile.ZipFile(file).namelist())
    is_safetensors = head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**27  # its header is at most 100 MB
    if is_npz or is_safetensors:
        if key is not None:
            raise UserError(f"{path} holds one set of weights: leave out key={key!r}, which is for files of torch.save")
        return _read_npz(path) if is_npz else _read_safetensors(path)
    if is_zip or head.startswith(b"\x80"):  # the first byte of every binary pickle
        return read_torch(path, key=key)
    stranger = next((what for start, what in _STRANGERS if head.lstrip().startswith(start)), None)
    if not head:
        stranger = "empty: get the file again"
    elif head[257:262] == b"ustar":
        stranger = "a tar archive: unpack it, and name the weight file in it"
    known = "a file of torch.save, safetensors or npz"
    raise UserError(f"{path} is {stranger}" if stranger else f"{path} is not {known}: it begins with {head[:8]!r}")


def find(source: str | os.PathLike) -> pathlib.Path:
    """Returns the path of the weight file that `source` names.

    Args:
      source: a file's path; "package:NAME[/FILE]", an installed Python package that holds weight files, and the end of
        the path of one of them, where there are several; or "hf:OWNER/REPO[/FILE]", which downloads FILE
        (model.safetensors if left out) from the Hugging Face hub, or takes it from the hub's own cache.

    Raises:
      UserError: nothing there, several files to choose from, a package that is not installed, a failed download.
    """
    text = os.fspath(source)
    if text.startswith("package:"):
        return _find_in_package(*text.removeprefix("package:").partition("/")[::2])
    if text.startswith("hf:"):
        return _find_on_hub(text)
    path = pathlib.Path(text).expanduser()
    if path.is_dir():
        files = sorted(file.name for file in path.iterdir() if file.suffix in SUFFIXES)
        raise UserError(f"{path} is a folder: name the weight file in it" + f" ({', '.join(files[:8])})" * bool(files))
    if not path.is_file():
        beside = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UserError(f"there is no weight file {path}{did_you_mean(path.name, beside)}")
    return path


def digest(tensors: Mapping[str, np.ndarray]) -> str:
    """The sha256, in hexadecimal, of names, dtypes, shapes and elements, whatever the order and memory layout."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        array = np.asarray(tensors[name])
        sha.update(repr((name, array.dtype.name, array.shape)).encode())
        sha.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))  # bfloat16 is no buffer for hashlib
    return sha.hexdigest()


def _read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
    with reading(path):
        npz.check(path)
    with reading(path), np.load(path, allow_pickle=False) as archive:
        arrays = {}
        for name in archive.files:
            try:
                array = archive[name]
            except ValueError as e:
                if "allow_pickle" not in str(e):
                    raise
                raise UserError(
                    f"{path} holds pickled objects under {name!r}, and tlx does not run code from weight files: "
                    "save arrays of numbers only"
                ) from None
            arrays[name] = array.view(ml_dtypes.bfloat16) if array.dtype.str == "|V2" else array
        return arrays


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    with reading(path):
        return safetensors.numpy.load_file(path)


def _find_in_package(package: str, file: str) -> pathlib.Path:
    try:
        distribution = importlib.metadata.distribution(package)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        raise UserError(f"the package {package!r} is not installed: pip install {package}") from None
    found = [str(path) for path in distribution.files or () if path.suffix in SUFFIXES]
    chosen = [path for path in found if f"/{path}".endswith(f"/{file}")] if file else found
    if len(chosen) == 1:
        return pathlib.Path(distribution.locate_file(chosen[0]))
    if not found:
        raise UserError(f"the package {package!r} holds no weight file (*{', *'.join(SUFFIXES)})")
    what = f"no weight file {file!r}" if file and not chosen else f"{len(chosen)} weight files"
    listed = ", ".join(found[:8]) + ", ..." * (len(found) > 8)
    raise UserError(f"the package {package!r} holds {what}: name one as package:{package}/FILE, of {listed}")


def _find_on_hub(source: str) -> pathlib.Path:
    owner, _, rest = source.removeprefix("hf:").partition("/")
    repo, _, file = rest.partition("/")
    if not owner or not repo:
        raise UserError(f"{source!r} names no repository: write hf:OWNER/REPO or hf:OWNER/REPO/FILE")
    try:
        import huggingface_hub
    except ImportError:
        raise UserError(f"{source!r} is read through huggingface_hub: pip install huggingface_hub") from None
    try:
        return pathlib.Path(huggingface_hub.hf_hub_download(f"{owner}/{repo}", file or "model.safetensors"))
    except Exception as e:  # of the hub's, of whichever HTTP library it uses, or OSError
        reason = " ".join(f"{type(e).__name__}: {e}".split())[:200]
        raise UserError(
            f"{source!r} cannot be had from the hub ({reason}): is the name right, and the net up?"
        ) from None
