"""Checksums of what is saved: CRC-32, which finds any change within 32 bits in a row, and others but once in 2^32."""

import zlib
from typing import Any

import jax
import numpy as np

from tlx import hosts

PyTree = Any


def of_arrays(tree: PyTree) -> dict[str, int]:
    """The checksum of each array, by its path, whichever devices it is spread over. Every host must ask."""
    # One array after another: one that is spread over several hosts is whole here only for as long as it takes.
    crc = lambda x: zlib.crc32(np.ascontiguousarray(hosts.fetch(x)).reshape(-1).view(np.uint8))
    return {name: crc(leaf) for name, leaf in named(tree).items()}


def verify(tree: PyTree, saved: dict[str, int]) -> None:
    """Raises ValueError with the first array whose checksum is not the one that was saved."""
    for name, checksum in of_arrays(tree).items():
        if saved.get(name) != checksum:
            raise ValueError(f"{name} is not what was saved: its checksum differs")


def named(tree: PyTree) -> dict[str, Any]:
    """Path ("params/backbone/stem/kernel") -> array; what is no array (orbax's place for nothing) is left out."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if hasattr(leaf, "shape")
    }
