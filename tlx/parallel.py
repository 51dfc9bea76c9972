"""One step, four harnesses: `jit` over a sharded batch, `pmap`, `shard_map` and `fsdp`, chosen by one word.

All compute the same update of the same global batch (a test holds them to it): the batch is split over the devices, the
state is whole on each and never stacked. Under "jit" the compiler inserts the sums over devices; under "pmap" and
"shard_map" the step does, with `axis_name=AXIS` (`axis_name(mode)` gives what the step's factory wants).

"fsdp" is "jit" for networks that outgrow a device: parameters, averages and the optimiser's moments are split as well,
and gathered by the compiler where they are used (fully sharded data parallelism: Rajbhandari et al. 2020, ZeRO-3).
"fsdp:8" splits them over groups of 8 devices, neighbours, and each group has all of them: the mesh's axis "model" goes
along a group, its axis "data" from group to group.
"""

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tlx.errors import UserError

AXIS = "data"
MODES = ("jit", "pmap", "shard_map", "fsdp")
ROWS = P((AXIS, "model"))  # the rows of a batch go to all devices, whatever the parameters do
SMALLEST_SPLIT = 2**10  # elements; a smaller array is whole everywhere: gathering it would cost more than it weighs
PyTree = Any


def make_mesh(mode: str = "jit", devices: list | None = None) -> Mesh:
    """All devices, host after host, as the axes "data" and "model"; the latter is 1 long but under "fsdp"."""
    devices = devices if devices is not None else sorted(jax.devices(), key=lambda d: (d.process_index, d.id))
    check_mode(mode)
    name, _, group = mode.partition(":")
    size = (int(group) if group else len(devices)) if name == "fsdp" else 1
    if len(devices) % size:
        raise UserError(f"parallel is {mode!r}, and {len(devices)} devices do not divide in groups of {size}")
    return Mesh(np.asarray(devices).reshape(-1, size), (AXIS, "model"))


def axis_name(mode: str) -> str | None:
    """The name that a step's collectives need under `mode`: None where the compiler makes them."""
    check_mode(mode)
    return AXIS if mode in ("pmap", "shard_map") else None


def check_mode(mode: str) -> None:
    """Raises UserError for a word that is none of MODES, nor "fsdp:" and a number."""
    name, colon, group = mode.partition(":")
    if name not in MODES or (colon and not (name == "fsdp" and group.isdecimal() and int(group) > 0)):
        raise UserError(f"parallel is {mode!r}: use one of {', '.join(MODES)}, or fsdp:8 for groups of 8 devices")


def check_batch(size: int, devices: int, *, what: str = "batch_size", accumulate: int = 1) -> None:
    """Raises UserError unless `size` examples split evenly over `devices` and `accumulate` micro-batches."""
    parts = devices * accumulate
    if size < 1 or size % parts:
        lower, upper = size // parts * parts, (size // parts + 1) * parts
        sizes = f"{lower} or {upper}" if lower else f"{upper}"
        raise UserError(
            f"{what} is {size}, which does not divide by {devices} devices"
            + (f" x accumulate {accumulate}" if accumulate > 1 else "")
            + f": use {sizes}"
        )


def parallelize(
    step: Callable,
    mode: str,
    mesh: Mesh,
    *,
    args: tuple[str, ...],
    out: str | tuple[str, ...] = "whole",
    layout: PyTree = None,
    donate: bool = False,
) -> Callable:
    """Compiles `step` for all devices of `mesh`.

    Args:
      step: a pure function of positional arguments, built with `axis_name=axis_name(mode)`.
      mode: "jit", "pmap" or "shard_map".
      mesh: from `make_mesh`.
      args: for each argument "whole" (on every device: state, teacher, rng; under "fsdp" as `place` laid it) or "batch"
        (arrays [B, ...] from `shard_batch` with the same mode).
      out: the same for the result; a tuple names each output apart. "whole" promises equal values on all devices;
        "sharded" is "batch" in the layout of an argument, for a further step; "state" is `layout` under "fsdp", else
        "whole".
      layout: of the output "state", from `make_layout`.
      donate: reuse argument 0's memory for the result. The caller must not touch the old state again.

    Returns:
      The compiled function.
    """
    check_mode(mode)
    donate_argnums = (0,) if donate else ()
    if mode == "pmap":
        axes = {"whole": None, "state": None, "batch": 0, "sharded": 0}
        mapped = jax.pmap(
            step,
            axis_name=AXIS,
            in_axes=tuple(axes[kind] for kind in args),
            out_axes=axes[out] if isinstance(out, str) else tuple(axes[kind] for kind in out),
            devices=list(mesh.devices.flat),
            donate_argnums=donate_argnums,
        )
        return lambda *arguments: _unstack(_globally(mapped(*arguments), out, mesh), out)

    specs = {"whole": P(), "state": P(), "batch": ROWS, "sharded": ROWS}
    if mode == "shard_map":
        in_specs = tuple(specs[kind] for kind in args)
        out_specs = specs[out] if isinstance(out, str) else tuple(specs[kind] for kind in out)
        # check_vma=False: with the check on, autodiff inserts its own psum for the replicated parameters, and the
        # step's psum of the gradients would then count every device twice (measured: wrong by the device count, which
        # Adam hides). The step does its own collectives, as under pmap.
        step = jax.shard_map(step, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)
    shardings = {kind: NamedSharding(mesh, spec) for kind, spec in specs.items()}
    given = shardings
    if mesh.shape["model"] > 1:
        given = shardings | {"whole": None}  # as it lies
        shardings |= {"state": layout}
    return jax.jit(
        step,
        in_shardings=tuple(given[kind] for kind in args),
        out_shardings=shardings[out] if isinstance(out, str) else tuple(shardings[kind] for kind in out),
        donate_argnums=donate_argnums,
    )


def repeat(step: Callable, count: int, mode: str, mesh: Mesh) -> Callable:
    """`step(state, batch, rng) -> (state, metrics)` over `count` batches, one after another in one program.

    Returns:
      A function of (state, batch, rng), whose batch is `join_batches`' of all, sharded. Its metrics are [count, ...].
    """
    parts = mesh.devices.size if axis_name(mode) is None else 1  # pmap and shard_map give the step one device's part

    def split(x: jax.Array) -> jax.Array:
        x = x.reshape(parts, count, -1, *x.shape[1:])  # [parts, count, B / parts, ...]
        return jnp.moveaxis(x, 1, 0).reshape(count, -1, *x.shape[3:])

    def several(state: PyTree, batch: PyTree, rng: jax.Array) -> tuple[PyTree, PyTree]:
        # Unrolled on CPU, where XLA runs convolutions inside a loop many times slower than outside (measured: 19x).
        unroll = mesh.devices.flat[0].platform == "cpu"
        return jax.lax.scan(lambda state, one: step(state, one, rng), state, jax.tree.map(split, batch), unroll=unroll)

    return several


def join_batches(batches: Sequence[PyTree], mesh: Mesh) -> PyTree:
    """This host's parts of several batches, arrays [B, ...], as one; each device keeps its part of each of them."""
    devices = mesh.local_mesh.devices.size
    join = lambda *rows: np.stack([x.reshape(devices, -1, *x.shape[1:]) for x in rows], 1)  # [devices, count, ...]
    return jax.tree.map(lambda *rows: join(*rows).reshape(-1, *rows[0].shape[1:]), *batches)


def shard_batch(batch: PyTree, mode: str, mesh: Mesh) -> PyTree:
    """Puts this host's part of a batch, arrays [B, ...], on the devices in the layout that `mode` wants."""
    if mode == "pmap":
        devices = mesh.local_mesh.devices.size
        batch = jax.tree.map(lambda x: x.reshape(devices, len(x) // devices, *x.shape[1:]), batch)
    sharding = NamedSharding(mesh, ROWS)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """The same arrays, whole on every device of the mesh. Every host gives the same ones."""
    return place(tree, jax.tree.map(lambda _: NamedSharding(mesh, P()), tree))


def make_layout(tree: PyTree, mesh: Mesh, *, whole: Collection[str] = ()) -> PyTree:
    """Where the arrays of a state, or a network's variables, lie: each split along "model", or whole on every device.

    What is split is so along its longest axis that divides by the devices of a group. What is whole: arrays with no
    such axis, small ones (SMALLEST_SPLIT), and all of them where the mesh has no groups.

    Args:
      tree: of arrays or their shapes.
      mesh: from `make_mesh`.
      whole: paths of parameters ("backbone/stem/kernel") that stay whole, and so do their averages and moments.

    Returns:
      The same tree, of NamedShardings.
    """
    size = mesh.shape["model"]

    def sharding(path: tuple, x: Any) -> NamedSharding:
        names = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
        axes = [axis for axis, length in enumerate(x.shape) if length % size == 0]
        kept = any("/".join(names[i:]) in whole for i in range(len(names)))
        if size == 1 or kept or not axes or math.prod(x.shape) < SMALLEST_SPLIT:
            return NamedSharding(mesh, P())
        longest = max(axes, key=lambda axis: x.shape[axis])
        return NamedSharding(mesh, P(*[None] * longest, "model"))

    return jax.tree_util.tree_map_with_path(sharding, tree)


def place(tree: PyTree, layout: PyTree) -> PyTree:
    """Puts arrays where `layout` says. Every host gives the same values, or what lies on all hosts' devices already."""
    if jax.process_count() == 1:
        return jax.device_put(tree, layout)

    def put(x: Any, sharding: NamedSharding) -> jax.Array:
        # What lies there stays; the rest each host puts on its own (and `device_put` would compare it first).
        if isinstance(x, jax.Array) and not x.is_fully_addressable:
            return x if x.sharding.is_equivalent_to(sharding, x.ndim) else jax.device_put(x, sharding)
        value = np.array(x)
        return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])

    return jax.tree.map(put, tree, layout)


def _globally(outputs: PyTree, out: str | tuple[str, ...], mesh: Mesh) -> PyTree:
    """pmap gives each of several hosts its own devices' part; makes one array of all hosts' of it, without a copy."""
    if jax.process_count() == 1:
        return outputs

    def put(x: jax.Array, kind: str) -> jax.Array:
        whole = kind in ("whole", "state")
        shape, spec = (x.shape, P()) if whole else ((mesh.devices.size, *x.shape[1:]), ROWS)
        parts = [shard.data for shard in x.addressable_shards]
        return jax.make_array_from_single_device_arrays(shape, NamedSharding(mesh, spec), parts)

    if isinstance(out, str):
        return jax.tree.map(lambda x: put(x, out), outputs)
    return tuple(jax.tree.map(lambda x, k=kind: put(x, k), o) for o, kind in zip(outputs, out, strict=True))


def _unstack(outputs: PyTree, out: str | tuple[str, ...]) -> PyTree:
    """pmap gives "batch" outputs as [devices, B / devices, ...]; joins them to [B, ...]."""
    join = lambda x: x.reshape(-1, *x.shape[2:])
    if isinstance(out, str):
        return jax.tree.map(join, outputs) if out == "batch" else outputs
    return tuple(jax.tree.map(join, o) if kind == "batch" else o for o, kind in zip(outputs, out, strict=True))
