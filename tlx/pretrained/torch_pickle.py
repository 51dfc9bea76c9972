"""The pickle within a file of `torch.save`, loaded without running anything that it asks for.

A pickle is a program, and the globals that it names are what it can call. This one may name what a state dict needs,
and the functions among that are replaced by ones which only note their arguments. Nothing that they note has been
checked: `torch_file` does so before it believes a size or an offset. A hostile file cannot run code or reserve memory
beyond its own length; it can still waste time, or end the process with tuples nested a million deep.
"""

import io
import os
import pathlib
import pickle
import pickletools
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from tlx.errors import UserError

_STORAGES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
_DTYPES = {np.dtype(dtype).name for dtype in _STORAGES.values()}


class Storage(NamedTuple):
    """A run of elements in the file, which one or more tensors show."""

    key: str
    kind: str  # a key of _STORAGES
    numel: int

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(_STORAGES[self.kind])

    @property
    def nbytes(self) -> int:
        return self.numel * self.dtype.itemsize


class Tensor(NamedTuple):
    """What the pickle says of a tensor; nothing in it but the storage is checked."""

    storage: Storage
    offset: Any
    size: Any
    stride: Any


def unpickle(file: BinaryIO, path: pathlib.Path) -> tuple[Any, dict[str, Storage]]:
    """Loads the pickle that begins here, and leaves the file at its end.

    Returns:
      The object, in which a `Tensor` stands for each tensor, and the storages by key.

    Raises:
      UserError: the pickle names a global that a state dict does not need.
      Exception: of any type, where the pickle is damaged.
    """
    start = file.tell()
    for opcode, argument, place in pickletools.genops(_Bounded(file)):
        # `pickle` makes its memo as long as the largest index: one of 2**31 would take 32 GiB.
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and argument > place:
            raise pickle.UnpicklingError("a memo index out of range")
    end = file.tell()
    file.seek(start)
    unpickler = _Unpickler(file.read(end - start), path)
    return unpickler.load(), unpickler.storages


class _Bounded:
    """A file whose `read` asks for no more than there is: what is asked for, Python reserves before it reads."""

    def __init__(self, file: BinaryIO):
        place = file.tell()
        self._file, self._end = file, file.seek(0, os.SEEK_END)
        file.seek(place)
        self.tell, self.readline = file.tell, file.readline

    def read(self, size: int) -> bytes:
        return self._file.read(min(size, self._end - self._file.tell()))


class _Dict(dict):
    """In place of OrderedDict, whose attributes (torch adds `_metadata`) a pickle may set, to hide its methods too."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        pass


class _Unpickler(pickle.Unpickler):
    """Knows the globals of a state dict and refuses all others.

    In their place it gives text, bound methods and `_Dict`: nothing whose behaviour the pickle's BUILD could change.
    """

    def __init__(self, content: bytes, path: pathlib.Path):
        super().__init__(io.BytesIO(content), encoding="utf-8")  # of text that Python 2 wrote
        self.storages: dict[str, Storage] = {}
        self._content, self._path = content, path

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and (name in _STORAGES or name in _DTYPES):
            return name
        known = {
            ("collections", "OrderedDict"): _Dict,
            ("torch", "Size"): tuple,
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("torch._utils", "_rebuild_parameter"): self._parameter,
        }
        if (module, name) in known:
            return known[module, name]
        what = "is a whole model and " if b"_parameters" in self._content and b"_modules" in self._content else ""
        asked = f"{module}.{name}"[:80]
        raise UserError(
            f"{self._path} {what}asks for {asked!r}, and tlx does not run code from weight files: where you trust it, "
            "save the weights alone, torch.save(model.state_dict(), NEW)"
        )

    def persistent_load(self, pid: Any) -> Storage:
        tag, kind, key, _, numel, *view = pid
        if tag != "storage" or kind not in _STORAGES or not isinstance(key, str) or type(numel) is not int or numel < 0:
            raise pickle.UnpicklingError("an unknown kind of storage")
        if view not in ([], [None]):
            raise pickle.UnpicklingError("a storage within a storage, as before torch 0.4")
        storage = Storage(key, kind, numel)
        if self.storages.setdefault(key, storage) != storage:
            raise pickle.UnpicklingError("one storage with two sizes or types")
        return storage

    def _tensor(self, storage, offset, size, stride, requires_grad, hooks, metadata=None) -> Tensor:
        if not isinstance(storage, Storage) or metadata:  # metadata: conjugate or negative when read
            raise pickle.UnpicklingError("an unknown kind of tensor")
        return Tensor(storage, offset, size, stride)

    def _parameter(self, tensor, requires_grad, hooks) -> Tensor:
        return tensor
