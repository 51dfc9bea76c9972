"""npz archives of somebody else's."""

import math
import os
import zipfile

import numpy as np

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
DEFLATE_RATIO = 1032  # what deflate packs at most into a byte (zlib's technical notes)


def check(path: str | os.PathLike) -> None:
    """Raises unless every array in an npz has the elements that its header claims.

    `np.load` reserves the memory that a header asks for before it looks for the elements: a file of 200 bytes can ask
    for terabytes. Here only headers are read. An honest file of zeros may still be a thousand times larger in memory.

    Raises:
      ValueError: an array or a member that claims to be larger than it can be.
      Exception: of many types, where the archive is damaged.
    """
    size = os.path.getsize(path)
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.compress_size > size or member.file_size > DEFLATE_RATIO * member.compress_size:
                raise ValueError(f"{member.filename[:80]!r} claims more bytes than the file can hold")
            if not member.filename.endswith(".npy"):
                continue
            with archive.open(member) as file:
                version = np.lib.format.read_magic(file)
                if version not in _HEADERS:
                    raise ValueError(f"{member.filename[:80]!r} is an npy of the unknown version {version}")
                shape, _, dtype = _HEADERS[version](file)
                has = member.file_size - file.tell()
            # A negative side makes any other fit. Objects are pickled, in any number of bytes, and refused unread.
            if not dtype.hasobject and (min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize > has):
                raise ValueError(f"{member.filename[:80]!r} claims {dtype} {list(shape)}, more than it holds")
