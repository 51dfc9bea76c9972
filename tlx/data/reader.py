"""From arrays to batches: seeded, resumable at any step, each host reading its own part, evaluation exact.

A batch is a pure function of (seed, step): there is no iterator whose state could be lost, and "the position in the
data" that a checkpoint holds is the step. So a run goes on at any step, on any number of hosts and of threads.

What is on the devices already is gathered there. What is read on the host goes through grain, which reads as many
batches at a time as there are threads, and gives them in order. It walks over steps and not over examples: its own
shuffle and batch are one Python call an example, 1.3 to 3.8 ms for 128 indices (experiments/speed/input.py), ours 0.02.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from tlx.data.mixup import Mix
from tlx.data.source import Examples
from tlx.errors import UserError
from tlx.models.options import check_count
from tlx.parallel import ROWS, join_batches, replicate, shard_batch

Batch = dict[str, jax.Array]
Rows = dict[str, np.ndarray]  # one host's part of a batch, not yet on its devices
Wanted = tuple[np.ndarray, np.ndarray | None]  # the rows [B] of a batch, and their weights [B] if not the column's

MOST_THREADS = 8  # each has a batch of its own in memory, and with these the part that is done in turns is full


@dataclasses.dataclass(frozen=True)
class Stream:
    """An endless, seeded walk over some examples: pass after pass, each in a new order, without a gap between them.

    Attributes:
      index: [N], the examples, indices into the arrays; or [K, N], where K views of each have rows of their own, and
        pass p walks over those of view p mod K.
      size: how many of them each batch takes.
      seed: any integers; the order is a function of them and of the number of the pass.
    """

    index: np.ndarray
    size: int
    seed: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.index.size == 0:
            raise UserError(f"a stream of {self.size} examples a batch has no examples to draw from")

    def at(self, step: int) -> np.ndarray:
        """The indices of batch `step`, [size]."""
        views = np.atleast_2d(self.index)
        count = views.shape[1]
        start, end = step * self.size, (step + 1) * self.size
        parts = []
        for number in range(start // count, (end - 1) // count + 1):
            order = _order(self.seed, number, count)
            first = number * count
            parts.append(views[number % len(views)][order[max(start - first, 0) : min(end - first, count)]])
        return np.concatenate(parts)


@functools.lru_cache(maxsize=8)
def _order(seed: tuple[int, ...], number: int, count: int) -> np.ndarray:
    """Pass `number` over `count` examples; kept, since drawing one of 1.28 million takes 40 ms (measured)."""
    order = np.random.default_rng((*seed, number)).permutation(count)
    order.flags.writeable = False
    return order


PARTNER = ("image", "label", "weight")  # the columns that an example's partner in mixup is needed of


class Store:
    """Arrays [N, ...] that share their first axis, and the gathering of their rows into batches on the devices.

    A small set lives on the devices, whole on each, and a batch costs the transfer of its indices. A larger one stays
    where it is (memory, or array_record files), and rows are read on the host, by several threads. They decode at the
    same time and take turns with the rest: at 224 px they are 3.4 times as fast as one at best, as measured in
    experiments/speed/decoding.py. Worker processes might do better on many cores, but take seconds to start.
    """

    def __init__(
        self,
        examples: Examples,
        *,
        mesh: Mesh,
        mode: str,
        device_bytes: int = 2**28,
        mix: Mix | None = None,
        partner: Sequence[str] = PARTNER,
        threads: int = 0,
        **columns: np.ndarray,
    ):
        """Puts the arrays where they will be read.

        Args:
          examples: N of them.
          mesh, mode: see `tlx.parallel`.
          device_bytes: what all arrays together may take on a device.
          mix: for mixup: from the rows [B] of a batch to those of their partners, and their own shares, "share" [B].
            Drawn here and not in the step, since jax draws from a beta distribution in a loop that all devices must
            leave together.
          partner: the columns that a batch then has of the partners too, as "partner_image", ...
          threads: that read on the host, each a batch of its own; 0 = as many as this process has cores, 8 at most.
            No batch depends on it, and so no config has it.
          **columns: further arrays, [N, ...] or, of V views of each example, [V * N, ...]: weights, teacher logits; a
            batch has all of them beside the image. Row r of those that are shorter is row r mod N.

        Raises:
          UserError: `threads` is below 0.
        """
        check_count("threads", threads, minimum=0)
        self._threads = threads or min(_cores(), MOST_THREADS)
        self._mesh, self._mode, self._mix, self._partner = mesh, mode, mix, tuple(partner)
        self._columns: dict[str, Any] = {"image": examples.images, "label": examples.labels, **columns}
        arrays = [column for column in self._columns.values() if isinstance(column, np.ndarray)]
        self._on_device = len(arrays) == len(self._columns) and sum(a.nbytes for a in arrays) <= device_bytes
        if self._on_device:
            self._columns = replicate(self._columns, mesh)
            self._gather = _make_gather(mesh, self._partner)

    def batch(self, index: np.ndarray, weight: np.ndarray | None = None) -> Batch:
        """Rows `index` [B] of the global batch as a sharded batch; `weight` [B] overrides the column of that name.

        Every host calls this with the same arguments and reads only its own rows.
        """
        return self._put(self.read(index, weight))

    def batches(self, wanted: Callable[[int], Wanted], *, start: int, stop: int, together: int = 1) -> Iterator[Batch]:
        """`batch(*wanted(number))` of `start`..`stop`-1, each on the devices before the one before it is done with.

        With `together`, that many at a time, as `parallel.join_batches` joins them; it divides `stop - start`.

        Raises:
          UserError: a record cannot be read.
        """
        with (
            contextlib.closing(self._read_ahead(wanted, start, stop, together)) as rows,
            concurrent.futures.ThreadPoolExecutor(1) as mover,
        ):
            move = lambda: self._put(next(rows))
            pending = mover.submit(move) if start < stop else None
            for number in range(start, stop, together):
                batch = pending.result()
                pending = mover.submit(move) if number + together < stop else None
                yield batch

    def read(self, index: np.ndarray, weight: np.ndarray | None = None) -> Rows:
        """This host's rows of `batch(index, weight)`, [B / hosts, ...]; of columns on the devices, their indices."""
        slot = np.arange(len(index), dtype=np.int32)
        part = np.array_split(slot, jax.process_count())[jax.process_index()]
        extra = {"slot": slot[part]} | ({} if weight is None else {"weight": weight[part].astype(np.float32)})
        local = index[part].astype(np.int32)
        if self._mix:
            partner, share = self._mix(index)
            extra |= {"partner": partner[part].astype(np.int32), "share": share[part].astype(np.float32)}
        if self._on_device:
            return {"index": local, **extra}
        mates = self._partner, extra.pop("partner", None)
        return _take(self._columns, local, *mates, lambda column, rows: column[rows]) | extra

    def _read_ahead(self, wanted: Callable[[int], Wanted], start: int, stop: int, together: int) -> Iterator[Rows]:
        def read(number: int) -> Rows:
            rows = [self.read(*wanted(number)) for number in range(number, number + together)]
            return join_batches(rows, self._mesh) if together > 1 else rows[0]

        if self._on_device or start >= stop:
            yield from map(read, range(start, stop, together))
            return
        import grain  # here: it takes a second, and most runs need none of it

        options = grain.ReadOptions(num_threads=self._threads, prefetch_buffer_size=self._threads)
        walk = iter(grain.MapDataset.range(start, stop, together).map(read).to_iter_dataset(options))
        with contextlib.closing(walk):
            yield from walk

    def _put(self, rows: Rows) -> Batch:
        sharded = shard_batch(rows, self._mode, self._mesh)
        if not self._on_device:
            return sharded
        given = {name: sharded.pop(name) for name in ("index", "partner") if name in sharded}
        return self._gather(self._columns, **given) | sharded


def train_batches(
    store: Store, streams: Sequence[Stream], *, start: int, steps: int, together: int = 1
) -> Iterator[Batch]:
    """Batches `start`..`steps`-1, each drawn from all streams, read ahead of the step that uses it; see `batches`."""
    wanted = lambda step: (np.concatenate([stream.at(step) for stream in streams]), None)
    return store.batches(wanted, start=start, stop=steps, together=together)


def eval_batches(store: Store, index: np.ndarray, size: int) -> Iterator[Batch]:
    """Each example of `index` once and in order, in batches of one shape, read ahead; padding has weight 0."""

    def wanted(number: int) -> Wanted:
        rows = index[number * size : (number + 1) * size]
        padding = size - len(rows)
        weight = np.concatenate([np.ones(len(rows)), np.zeros(padding)])
        return np.concatenate([rows, np.repeat(rows[:1], padding)]), weight

    return store.batches(wanted, start=0, stop=-(-len(index) // size))


def _cores() -> int:
    """That this process may use, where the system says so (Linux); else all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _take(columns: Mapping[str, Any], index: Any, names: Sequence[str], partner: Any, take: Callable) -> dict[str, Any]:
    rows = {name: take(column, index % len(column)) for name, column in columns.items()}
    if partner is not None:
        rows |= {f"partner_{name}": take(columns[name], partner % len(columns[name])) for name in names}
    return rows


@functools.cache  # a store for each phase and split, and one program for those of equal shapes
def _make_gather(mesh: Mesh, names: tuple[str, ...]) -> Any:
    """One compiled lookup. Under "pmap" the indices come as [devices, B / devices], and so do the rows."""

    def gather(columns: Mapping[str, jax.Array], index: jax.Array, partner: jax.Array | None = None) -> Batch:
        return _take(columns, index, names, partner, lambda column, rows: jnp.take(column, rows, axis=0))

    return jax.jit(gather, out_shardings=NamedSharding(mesh, ROWS))
