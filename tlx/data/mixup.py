"""Mixup's partners and shares (Zhang et al. 2018, "mixup: beyond empirical risk minimization", section 2)."""

import zlib
from collections.abc import Callable, Sequence

import numpy as np

from tlx.errors import UserError

Mix = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]  # rows [B] -> their partners' rows [B], own shares [B]


def make_mix(a: float, *, seed: int, parts: Sequence[int] = ()) -> Mix:
    """Builds what `tlx.data.reader.Store` takes: partners are others of the batch, shares are drawn from Beta(a, a).

    Both are a function of the rows, as all of a batch is: a resumed run mixes the same.

    Args:
      a: > 0.
      seed: the run's.
      parts: sizes of the batch's parts, which are mixed each within itself (labelled images with labelled ones); () =
        the batch is one part.
    """
    check_mixup(a)

    def mix(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng((seed, zlib.crc32(rows.tobytes()), *b"mixup"))
        partners = [np.roll(part, 1) for part in np.split(rows, np.cumsum(parts[:-1]))]
        return np.concatenate(partners), rng.beta(a, a, len(rows))

    return mix


def check_mixup(a: float, name: str = "mixup") -> None:
    """Raises UserError unless it is 0 (off) or a parameter of Beta(a, a)."""
    if not 0 <= a < float("inf"):
        raise UserError(f"{name} is {a}: it must be >= 0 (0 = off)")
