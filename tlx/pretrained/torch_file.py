"""Files of PyTorch's `torch.save`, read without torch and without running anything that they ask for.

Such a file is a pickle, in which each tensor stands as (storage, offset, size, stride), and the storages' elements:

    zip      since torch 1.6: members NAME/data.pkl, NAME/byteorder and, for each storage, NAME/data/KEY
    legacy   before, and with `_use_new_zipfile_serialization=False`: five pickles in a row (magic number, protocol
             version, system, the object, the storages' keys), then for each key the number of elements (int64) and the
             elements, all little-endian

Source of both: torch/serialization.py of torch 2.14 (`_save`, `_load`, `_legacy_save`, `_legacy_load`).
"""

import io
import math
import os
import pathlib
import struct
import zipfile
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np

from tlx.errors import UserError, did_you_mean, reading
from tlx.pretrained.torch_pickle import Storage, Tensor, unpickle

# Keys under which training scripts keep the state dict, beside the epoch, the optimiser and whatever else.
WRAPPINGS = ("state_dict", "model_state_dict", "model", "model_ema", "state_dict_ema")

ZIP = b"PK\x03\x04"  # how a zip archive with something in it begins
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_MAX_RANK = 64  # numpy's


def read_torch(path: str | os.PathLike, *, key: str | None = None) -> dict[str, np.ndarray]:
    """Reads the state dict in a file of `torch.save`, of either format.

    Args:
      path: the file.
      key: where the state dict lies in the saved dict, such as "model_ema"; None takes the only one of WRAPPINGS that
        holds tensors, or else the saved dict itself. Values that are not tensors (epoch, options) are left out.

    Returns:
      name -> array of the saved shape and dtype: a read-only view of its storage, which tensors may share. Storages of
      other things, such as the optimiser, are not read. If all names begin with "module." (DataParallel), that is
      taken off.

    Raises:
      UserError: the file is missing, damaged or not of `torch.save`; asks for code; or holds no state dict, or several.
    """
    path = pathlib.Path(path)
    with reading(path), open(path, "rb") as file:
        is_zip = file.read(4) == ZIP
        file.seek(0)
        saved, load = (_open_zip if is_zip else _open_legacy)(file, path)
        tensors = _state_dict(saved, key, path)
        storages = {tensor.storage: load(tensor.storage) for tensor in tensors.values()}
        return {name: _view(name, tensor, storages[tensor.storage]) for name, tensor in tensors.items()}


def _open_zip(file: BinaryIO, path: pathlib.Path) -> tuple[Any, Callable[[Storage], np.ndarray]]:
    """Returns the saved object and `load(storage)` -> its elements [numel]."""
    archive = zipfile.ZipFile(file)
    members = archive.infolist()
    if sum(member.file_size for member in members) > os.fstat(file.fileno()).st_size:
        raise ValueError("members larger than the file")  # torch compresses nothing: this is a bomb
    names = set(archive.namelist())
    folders = [name.removesuffix("data.pkl") for name in names if name.endswith("/data.pkl")]
    if len(folders) != 1:
        raise UserError(f"{path} is a zip archive but not of torch.save: unpack it, and name the weight file in it")
    folder = folders[0]
    if folder + "constants.pkl" in names:
        raise UserError(
            f"{path} is a TorchScript program, and tlx does not run code from weight files: save the weights alone, "
            "torch.save(torch.jit.load(FILE).state_dict(), NEW)"
        )
    order = archive.read(folder + "byteorder") if folder + "byteorder" in names else b"little"
    saved, _ = unpickle(io.BytesIO(archive.read(folder + "data.pkl")), path)

    def load(storage: Storage) -> np.ndarray:
        return _elements(archive.read(f"{folder}data/{storage.key}"), storage, {b"little": "<", b"big": ">"}[order])

    return saved, load


def _open_legacy(file: BinaryIO, path: pathlib.Path) -> tuple[Any, Callable[[Storage], np.ndarray]]:
    """Returns the saved object and `load(storage)` -> its elements [numel]."""
    if unpickle(file, path)[0] != _MAGIC:
        raise UserError(f"{path} is a Python pickle but not of torch.save: save the weights as safetensors or npz")
    if unpickle(file, path)[0] != _PROTOCOL:
        raise ValueError("unknown protocol version")
    unpickle(file, path)  # the system's byte order and sizes: torch writes the same bytes on all, and ignores them too
    saved, storages = unpickle(file, path)
    keys, _ = unpickle(file, path)
    size, starts = os.fstat(file.fileno()).st_size, {}
    for key in keys:
        if struct.unpack("<q", file.read(8)) != (storages[key].numel,):
            raise ValueError("a storage of another size than its tensors say")
        starts[key] = file.tell()
        if file.seek(storages[key].nbytes, os.SEEK_CUR) > size:
            raise EOFError("a storage ends after the file")

    def load(storage: Storage) -> np.ndarray:
        file.seek(starts[storage.key])
        return _elements(file.read(storage.nbytes), storage, "<")

    return saved, load


def _elements(content: bytes, storage: Storage, order: str) -> np.ndarray:
    if len(content) != storage.nbytes:
        raise ValueError("a storage of another size than its tensors say")
    width = storage.dtype.itemsize
    # As unsigned integers first, since bfloat16 has no byte order in numpy.
    return np.frombuffer(content, f"{order}u{width}").astype(f"u{width}", copy=False).view(storage.dtype)


def _view(name: str, tensor: Tensor, elements: np.ndarray) -> np.ndarray:
    """The tensor as a view of its storage's elements [numel], once it is known to lie within them."""
    size, stride = tuple(tensor.size), tuple(tensor.stride)
    numbers = (tensor.offset, *size, *stride)
    if len(size) != len(stride) or len(size) > _MAX_RANK:
        raise ValueError(f"tensor {name[:80]!r} has {len(size)} sizes and {len(stride)} strides")
    if not all(type(number) is int and 0 <= number < 2**63 for number in numbers):
        raise ValueError(f"tensor {name[:80]!r} has sizes, strides or an offset out of range")
    last = tensor.offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    # More elements than stored are no leak (stride 0 repeats), but whoever copies such a view pays for all of them.
    if (numel := math.prod(size)) and (last >= len(elements) or numel > len(elements)):
        raise ValueError(f"tensor {name[:80]!r} reaches out of its storage")
    width = elements.itemsize
    return np.lib.stride_tricks.as_strided(
        elements[tensor.offset :], size, [step * width for step in stride], writeable=False
    )


def _state_dict(saved: Any, key: str | None, path: pathlib.Path) -> dict[str, Tensor]:
    if isinstance(saved, Tensor):
        raise UserError(f"{path} holds a single tensor without a name: save a dict of names and tensors")
    if not isinstance(saved, dict):
        raise UserError(f"{path} holds a {type(saved).__name__}, not a state dict: save model.state_dict()")
    keys = [k for k in saved if isinstance(k, str)]
    listed = ", ".join(repr(k[:40]) for k in keys[:12]) + ", ..." * (len(keys) > 12)
    if key is None:
        fitting = [k for k in WRAPPINGS if _tensors(saved.get(k))]
        if len(fitting) > 1:
            raise UserError(f"{path} holds several state dicts: choose key={' or key='.join(map(repr, fitting))}")
        tensors = _tensors(saved[fitting[0]] if fitting else saved)
    elif key not in saved:
        raise UserError(f"{path} has no {key!r}{did_you_mean(key, keys)}; its keys are {listed}")
    else:
        tensors = _tensors(saved[key])
    if not tensors:
        where = (
            f"no tensors by name under {key!r}" if key else f"no state dict where one is usual ({WRAPPINGS[0]!r}, ...)"
        )
        raise UserError(f"{path} holds {where}: choose a key of {listed or 'none (it is empty)'}")
    prefix = "module." if all(name.startswith("module.") for name in tensors) else ""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


def _tensors(value: Any) -> dict[str, Tensor]:
    items = value.items() if isinstance(value, dict) else ()
    return {name: tensor for name, tensor in items if isinstance(name, str) and isinstance(tensor, Tensor)}
