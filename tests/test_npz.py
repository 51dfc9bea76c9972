"""npz archives: what claims more than it has is refused before memory is reserved for it."""

import io
import struct
import zipfile

import numpy as np
import pytest

from tlx import npz


def archive(path, header, elements=b"", version=b"\x01\x00", method=zipfile.ZIP_STORED):
    length = struct.pack("<H" if version == b"\x01\x00" else "<I", len(header))
    with zipfile.ZipFile(path, "w", method) as file:
        file.writestr("a.npy", b"\x93NUMPY" + version + length + header + elements)
    return path


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_numpy_writes_passes(tmp_path, save):
    arrays = {
        "a": np.zeros((300, 300)),
        "scalar": np.float32(3),
        "empty": np.zeros((0, 2**40)),
        "text": np.array("abc"),
    }
    arrays |= {"objects": np.array([None, {}], object), "columns": np.ones((3, 2), order="F"), "b": np.ones(3, "f4,i2")}
    save(tmp_path / "x.npz", **arrays)
    npz.check(tmp_path / "x.npz")
    save(tmp_path / "x.npz")
    npz.check(tmp_path / "x.npz")


@pytest.mark.parametrize("version", [b"\x01\x00", b"\x02\x00"])
@pytest.mark.parametrize("shape", ["(2147483648,)", "(7,)", "(9223372036854775808, 2)", "(-1, 4)"])
def test_more_elements_than_there_are(tmp_path, version, shape):
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    with pytest.raises(ValueError, match=r"'a.npy' claims float32 \[.*\], more than it holds"):
        npz.check(archive(tmp_path / "x", header, bytes(24), version))


def test_members_that_lie_about_their_size(tmp_path):
    np.savez(buffer := io.BytesIO(), a=np.zeros(6))
    content = buffer.getvalue()
    place = content.rindex(b"PK\x01\x02")  # the directory's entry: sizes packed and unpacked at 20 and 24
    for at in (20, 24):
        changed = content[: place + at] + struct.pack("<I", 2**31) + content[place + at + 4 :]
        (tmp_path / "x").write_bytes(changed)
        with pytest.raises(ValueError, match=r"'a.npy' claims more bytes than the file can hold"):
            npz.check(tmp_path / "x")


def test_an_unknown_version(tmp_path):
    with pytest.raises(ValueError, match=r"'a.npy' is an npy of the unknown version \(4, 0\)"):
        npz.check(archive(tmp_path / "x", b"{}", version=b"\x04\x00"))
