"""One step, three harnesses: `jit` over a sharded batch, `pmap`, and `shard_map`, chosen by one word.

All three compute the same update of the same global batch (a test holds them to it): the batch is split over the
devices, the state is whole on each and never stacked. Under "jit" the compiler inserts the sums over devices; under the
other two the step does, with `axis_name=AXIS` (`axis_name(mode)` gives what the step's factory wants).
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tlx.errors import UserError

AXIS = "data"
MODES = ("jit", "pmap", "shard_map")
PyTree = Any


def make_mesh(devices: list | None = None) -> Mesh:
    """All devices in one row, host after host: the axis "data"."""
    devices = devices if devices is not None else sorted(jax.devices(), key=lambda d: (d.process_index, d.id))
    return Mesh(np.asarray(devices), (AXIS,))


def axis_name(mode: str) -> str | None:
    """The name that a step's collectives need under `mode`: None under "jit", where the compiler makes them."""
    check_mode(mode)
    return None if mode == "jit" else AXIS


def check_mode(mode: str) -> None:
    """Raises UserError for a word that is none of MODES."""
    if mode not in MODES:
        raise UserError(f"parallel is {mode!r}: use one of {', '.join(MODES)}")


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
    donate: bool = False,
) -> Callable:
    """Compiles `step` for all devices of `mesh`.

    Args:
      step: a pure function of positional arguments, built with `axis_name=axis_name(mode)`.
      mode: "jit", "pmap" or "shard_map".
      mesh: from `make_mesh`.
      args: for each argument "whole" (on every device: state, teacher, rng) or "batch" (arrays [B, ...] from
        `shard_batch` with the same mode).
      out: the same for the result; a tuple names each output apart. "whole" promises equal values on all devices, and
        "sharded" is "batch" in the layout of an argument, for a further step.
      donate: reuse argument 0's memory for the result. The caller must not touch the old state again.

    Returns:
      The compiled function.
    """
    check_mode(mode)
    donate_argnums = (0,) if donate else ()
    if mode == "pmap":
        axes = {"whole": None, "batch": 0, "sharded": 0}
        mapped = jax.pmap(
            step,
            axis_name=AXIS,
            in_axes=tuple(axes[kind] for kind in args),
            out_axes=axes[out] if isinstance(out, str) else tuple(axes[kind] for kind in out),
            devices=list(mesh.devices.flat),
            donate_argnums=donate_argnums,
        )
        return lambda *arguments: _unstack(_globally(mapped(*arguments), out, mesh), out)

    specs = {"whole": P(), "batch": P(AXIS), "sharded": P(AXIS)}
    in_specs = tuple(specs[kind] for kind in args)
    out_specs = specs[out] if isinstance(out, str) else tuple(specs[kind] for kind in out)
    if mode == "shard_map":
        # check_vma=False: with the check on, autodiff inserts its own psum for the replicated parameters, and the
        # step's psum of the gradients would then count every device twice (measured: wrong by the device count, which
        # Adam hides). The step does its own collectives, as under pmap.
        step = jax.shard_map(step, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)
    shard = lambda specs: jax.tree.map(lambda s: NamedSharding(mesh, s), specs, is_leaf=lambda s: isinstance(s, P))
    return jax.jit(step, in_shardings=shard(in_specs), out_shardings=shard(out_specs), donate_argnums=donate_argnums)


def shard_batch(batch: PyTree, mode: str, mesh: Mesh) -> PyTree:
    """Puts this host's part of a batch, arrays [B, ...], on the devices in the layout that `mode` wants."""
    if mode == "pmap":
        devices = mesh.local_mesh.devices.size
        batch = jax.tree.map(lambda x: x.reshape(devices, len(x) // devices, *x.shape[1:]), batch)
    sharding = NamedSharding(mesh, P(AXIS))
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """The same arrays, whole on every device of the mesh. Every host gives the same ones."""
    sharding = NamedSharding(mesh, P())
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)

    def put(x: Any) -> jax.Array:
        # What lies on all devices stays; the rest each host puts on its own (and `device_put` would compare it first).
        there = isinstance(x, jax.Array) and x.sharding.is_equivalent_to(sharding, x.ndim)
        return x if there else jax.make_array_from_process_local_data(sharding, np.array(x))

    return jax.tree.map(put, tree)


def _globally(outputs: PyTree, out: str | tuple[str, ...], mesh: Mesh) -> PyTree:
    """pmap gives each of several hosts its own devices' part; makes one array of all hosts' of it, without a copy."""
    if jax.process_count() == 1:
        return outputs

    def put(x: jax.Array, kind: str) -> jax.Array:
        shape, spec = (x.shape, P()) if kind == "whole" else ((mesh.devices.size, *x.shape[1:]), P(AXIS))
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
