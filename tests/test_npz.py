"""What an npz claims, against what it has: nothing is reserved for elements that are not there."""

import io
import zipfile

import numpy as np
import pytest

from tlx import npz


def header(shape, dtype="<f4"):
    """An npy of which only the header is there, and the elements given."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"shape": shape, "fortran_order": False, "descr": dtype})
    return file.getvalue()


def archive(path, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return path


def test_what_is_all_there_passes(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.ones((3, 4), np.float32), empty=np.zeros((0, 5)), scalar=np.float64(1))
    np.savez_compressed(tmp_path / "b.npz", zeros=np.zeros(200_000))
    npz.check(tmp_path / "a.npz")
    npz.check(tmp_path / "b.npz")


@pytest.mark.parametrize("shape", [(2**40,), (3, 5), (-1, 3), (2**62, 2**62), (12, -(2**62))])
def test_what_claims_more_than_it_holds(tmp_path, shape):
    path = archive(tmp_path / "a.npz", x=header(shape) + 12 * b"\0\0\0\0")
    with pytest.raises(ValueError, match="'x.npy' claims float32 .* more than it holds"):
        npz.check(path)


def test_a_member_that_claims_more_than_the_file(tmp_path):
    path = archive(tmp_path / "a.npz", x=header((3,)) + 12 * b"\0")
    content = bytearray(path.read_bytes())
    at = content.rindex(b"PK\1\2")
    content[at + 24 : at + 28] = (2**31).to_bytes(4, "little")  # the member's size, unpacked
    path.write_bytes(content)
    with pytest.raises(ValueError, match="'x.npy' claims more bytes than the file can hold"):
        npz.check(path)


def test_an_unknown_version(tmp_path):
    path = archive(tmp_path / "a.npz", x=b"\x93NUMPY\x09\x00" + header((3,))[8:])
    with pytest.raises(ValueError, match="'x.npy' is an npy of the unknown version"):
        npz.check(path)
