"""What is kept is found again, whole, and nothing else is taken for it."""

import errno
import os

import numpy as np
import pytest

from tlx import kept
from tlx.errors import UserError

ARRAY = np.arange(12, dtype=np.float32).reshape(6, 2)


def keep(folder, key="a", array=ARRAY, dtype="float32", **options):
    """The kept array, and how often its rows were computed."""
    computed = []

    def rows():
        computed.append(True)
        yield from (kept.cast(part, dtype, what="numbers") for part in (array[:4], array[4:]))

    path = folder / "features" / "x.npy"
    return kept.keep(path, rows, key={"weights": key}, shape=array.shape, dtype=dtype, **options), computed


@pytest.mark.parametrize("manifest", ["", "[]", "null", "{}", '{"key": 3}', "[" * 100_000])
@pytest.mark.parametrize("content", [None, b"", b"\x93NUMPY\x01\x00\x08\x00{'descr'"])
def test_what_is_damaged_is_computed_again(tmp_path, manifest, content):
    keep(tmp_path)
    path = tmp_path / "features" / "x.npy"
    if content is None:
        path.with_suffix(".json").write_text(manifest)
    else:
        path.write_bytes(content)
    kept.check_training(path, {"weights": "a"}, begun=True)
    again, computed = keep(tmp_path)
    np.testing.assert_array_equal(again, ARRAY)
    assert computed


def test_what_was_kept_is_found_and_nothing_else(tmp_path, capsys):
    first, computed = keep(tmp_path)
    assert isinstance(first, np.memmap) and len(computed) == 1
    np.testing.assert_array_equal(first, ARRAY)
    again, computed = keep(tmp_path)
    np.testing.assert_array_equal(again, ARRAY)
    assert not computed and "computed again" not in capsys.readouterr().out
    other, computed = keep(tmp_path, key="b", array=-ARRAY)
    np.testing.assert_array_equal(other, -ARRAY)
    assert computed and "x.npy is of other weights: computed again" in capsys.readouterr().out.replace("\n", "")
    half, computed = keep(tmp_path, key="b", dtype="float16")
    assert computed and half.dtype == np.float16


@pytest.mark.parametrize("left", ["no manifest", "no array", "cut off", "half a manifest"])
def test_half_a_cache_is_computed_again(left, tmp_path):
    keep(tmp_path)
    array, manifest = (tmp_path / "features" / name for name in ("x.npy", "x.json"))
    (tmp_path / "features" / ".x.npy.k1ll3d").write_bytes(b"half")
    if left == "cut off":
        array.write_bytes(array.read_bytes()[:-8])
    elif left == "half a manifest":
        manifest.write_text(manifest.read_text()[:20])
    else:
        (manifest if left == "no manifest" else array).unlink()
    found, computed = keep(tmp_path)
    assert computed
    np.testing.assert_array_equal(found, ARRAY)
    assert sorted(path.name for path in array.parent.iterdir()) == ["x.json", "x.npy"]


@pytest.mark.parametrize("when", ["at once", "later"])
def test_a_full_disk(when, tmp_path, monkeypatch, capsys):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(*((os, "posix_fallocate") if when == "at once" else (kept, "write_json")), full)
    found, computed = keep(tmp_path)
    np.testing.assert_array_equal(found, ARRAY)
    assert not isinstance(found, np.memmap) and len(computed) == (1 if when == "at once" else 2)
    assert "the disk is full: kept in memory" in capsys.readouterr().out.replace("\n", "")
    assert list((tmp_path / "features").iterdir()) == []
    with pytest.raises(UserError, match=r"x.npy needs 4.8e-08 GB and the disk is full; in memory at most 4.7e-08 GB"):
        keep(tmp_path, memory_bytes=47)


def test_values_that_half_precision_cannot_hold(tmp_path):
    with pytest.raises(UserError, match=r"numbers reach 699996, which cache.dtype=float16 cannot hold: .* float32"):
        keep(tmp_path, array=ARRAY + 699_989, dtype="float16")
    assert list((tmp_path / "features").iterdir()) == []


def test_a_structured_array(tmp_path):
    dtype = np.dtype([("index", np.int32, (2,)), ("rest", np.float16)])
    array = np.array([((1, 2), 0.5), ((3, 4), -1.5)], dtype)
    compute = lambda: iter([array[:1], array[1:]])
    path = tmp_path / "x.npy"
    kept.keep(path, compute, key={"weights": "a"}, shape=(2,), dtype=dtype)
    found = kept.keep(path, lambda: pytest.fail("computed again"), key={"weights": "a"}, shape=(2,), dtype=dtype)
    np.testing.assert_array_equal(found, array)
