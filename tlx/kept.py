"""Arrays that took long to compute, kept in a run's folder with what they are a function of.

Each has an array and a manifest, `NAME.npy` and `NAME.json`; the manifest says what the array is a function of
(weights, data, views, dtype, ...), and is written last, when the array is whole on the disk under its name. What has
none, or one that says something else, is computed again: half an array is never taken for a whole one.
"""

import contextlib
import errno
import json
import math
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from tlx import hosts, progress
from tlx.errors import UserError, did_you_mean
from tlx.workdir import first_difference, write_json, writing

DTYPES = ("float32", "float16")
MEMORY_BYTES = 2**31  # the most that is kept in memory instead, when the disk is full


def is_stale(path: pathlib.Path, key: Mapping[str, Any]) -> str:
    """What the array at `path` was computed from other than `key`: the first word of it that differs, or ""."""
    manifest = _manifest(path)
    difference = first_difference(manifest["key"], json.loads(json.dumps(key)), "") if manifest else None
    return difference[0].split(".")[1] if difference else ""


def check_dtype(dtype: str) -> None:
    """Raises UserError unless floats are kept so."""
    if dtype not in DTYPES:
        raise UserError(f"cache.dtype is {dtype!r}{did_you_mean(dtype, DTYPES)}: use {' or '.join(DTYPES)}")


def check_training(path: pathlib.Path, key: Mapping[str, Any], *, begun: bool) -> None:
    """Raises UserError if the array is stale and what is trained on it has begun: half would be of the other."""
    if begun and (word := is_stale(path, key)):
        raise UserError(f"{path} is of other {word}, and so is the training so far: start again with --overwrite")


def keep(
    path: pathlib.Path,
    rows: Callable[[], Iterator[np.ndarray]],
    *,
    key: Mapping[str, Any],
    shape: tuple[int, ...],
    dtype: Any,
    memory_bytes: int = MEMORY_BYTES,
) -> np.ndarray:
    """The array at `path` if it is whole and of this key, else one that is computed and kept there.

    Args:
      path: `NAME.npy`; the manifest lies beside it.
      rows: () -> the array's rows [b, ...], of its dtype, part after part; called again if the disk is full.
      key: what the array is a function of, as JSON has it.
      shape, dtype: of the array; numpy's structured dtypes are dtypes too.
      memory_bytes: a larger array is not kept in memory where the disk is full.

    Returns:
      A memory map of the file, read-only; or an array in memory, if it fits there and the disk was full.

    Raises:
      UserError: it fits on neither.
    """
    dtype = np.dtype(dtype)
    descr = np.lib.format.dtype_to_descr(dtype)
    written = dtype.name if dtype.names is None else descr
    manifest = json.loads(json.dumps({"key": key, "shape": list(shape), "dtype": written}))
    if _manifest(path) == manifest and (found := _load(path, shape, dtype)) is not None:
        return found
    if word := is_stale(path, key):
        progress.say(f"[yellow]{path} is of other {word}: computed again[/yellow]")
    if hosts.is_first():
        path.with_suffix(".json").unlink(missing_ok=True)
        for half in path.parent.glob(f".{path.name}.*"):  # of a process that was killed
            half.unlink()
    size = math.prod(shape) * dtype.itemsize
    try:
        # All hosts compute the rows together, and the first writes them.
        with writing(path) if hosts.is_first() else contextlib.nullcontext() as file:
            if file:
                # Reserved before anything is computed; and written, for under a map a full disk is a SIGBUS.
                os.posix_fallocate(file.fileno(), 0, size)
                np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
            for part in rows():
                if file:
                    file.write(np.ascontiguousarray(part, dtype).tobytes())
        write_json(path.with_suffix(".json"), manifest)
        hosts.wait("kept")
    except OSError as e:
        if e.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        path.unlink(missing_ok=True)
        room = f"{path} needs {size / 1e9:.3g} GB and the disk is full"
        if size > memory_bytes or jax.process_count() > 1:
            raise UserError(
                f"{room}; in memory at most {memory_bytes / 1e9:.3g} GB are kept, and on one host only: free some "
                "space, or set cache.dtype to float16, or keep less of it"
            ) from None
        progress.say(f"[yellow]{room}: kept in memory[/yellow]")
        return np.concatenate(list(rows()))
    return np.load(path, mmap_mode="r")


def cast(part: np.ndarray, dtype: Any, *, what: str) -> np.ndarray:
    """Floats as they are kept.

    Raises:
      UserError: a value that is not finite, or that `dtype` cannot hold; `what` says of what.
    """
    with np.errstate(over="ignore"):
        cast = np.ascontiguousarray(part, dtype)
    if not np.isfinite(cast).all():
        raise UserError(
            f"{what} reach {np.abs(part).max():g}, which cache.dtype={np.dtype(dtype).name} cannot hold: set it to "
            "float32, and check the weights if it is"
        )
    return cast


def _manifest(path: pathlib.Path) -> dict[str, Any] | None:
    """Of the array at `path`; None where there is none that can be read."""
    try:
        manifest = json.loads(path.with_suffix(".json").read_text())
        return manifest if isinstance(manifest["key"], dict) else None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _load(path: pathlib.Path, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray | None:
    try:
        found = np.lib.format.open_memmap(path, mode="r")
    except Exception:  # absent, or damaged, for which numpy has many types
        return None
    return found if (found.shape, found.dtype) == (tuple(shape), dtype) else None
