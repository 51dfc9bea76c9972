"""Hosts: the processes that run one program together, each with its own devices, on a folder that all of them see.

All hosts do the same things in the same order; what differs is which rows each reads (`tlx.data.reader`) and that the
first alone writes the record (checkpoints are written by all, as orbax does it). With one host, every function here is
the plain thing.
"""

import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from tlx.errors import UserError


def join(*, coordinator: str = "", num_processes: int = 0, process_id: int = -1) -> None:
    """Joins the other hosts, before any device is touched.

    Args:
      coordinator: HOST:PORT of the process 0, which all can reach; "" = as the cluster's own environment says (TPU
        pods, SLURM, Open MPI, GKE: what `jax.distributed.initialize` knows).
      num_processes: how many there are; with a coordinator.
      process_id: this one's number, from 0; with a coordinator.

    Raises:
      UserError: half an address, a number out of range, no cluster to be found, or the others do not answer.
    """
    explicit = {}
    if coordinator or num_processes or process_id >= 0:
        _, _, port = coordinator.rpartition(":")
        if not port.isdigit() or num_processes < 1 or not 0 <= process_id < num_processes:
            raise UserError(
                f"--coordinator={coordinator} --num_processes={num_processes} --process_id={process_id}: give all "
                "three, as --coordinator=10.0.0.1:1234 --num_processes=4 --process_id=0 (to 3)"
            )
        explicit = {
            "coordinator_address": coordinator,
            "num_processes": num_processes,
            "process_id": process_id,
            # What is said is meant: else jax, in a SLURM job, would give this process one of its GPUs.
            "cluster_detection_method": "deactivate",
        }
    try:
        jax.distributed.initialize(**explicit)
    except (ValueError, RuntimeError) as e:  # jax's own, of an environment that says nothing, or of a silent host
        raise UserError(
            f"--distributed: the hosts did not find each other ({_first_line(e)}); where the cluster's environment "
            "does not say who they are, give --coordinator=HOST:PORT --num_processes=N --process_id=I"
        ) from None


def count() -> int:
    """How many there are."""
    return jax.process_count()


def number() -> int:
    """Of this one, from 0."""
    return jax.process_index()


def is_first() -> bool:
    """Whether this is the host that writes the record, and speaks."""
    return jax.process_index() == 0


def wait(name: str) -> None:
    """Returns when all hosts have come here: what the first has written by then, all may read."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def from_first(make: Callable[[], Any]) -> Any:
    """What `make()` returns on the first host, a value as JSON has it, on all of them; the others do not call it.

    A UserError that it raises there is raised on all: none is left waiting for a host that has given up.
    """
    if jax.process_count() == 1:
        return make()
    said: dict[str, Any] = {}
    if is_first():
        try:
            said = {"value": make()}
        except UserError as e:
            said = {"error": str(e)}
    content = np.frombuffer(json.dumps(said).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
    content = np.resize(content, size)  # of the others: any bytes, of the right number
    said = json.loads(np.asarray(multihost_utils.broadcast_one_to_all(content), np.uint8).tobytes())
    if "error" in said:
        raise UserError(said["error"])
    return said["value"]


def all_or_none(do: Callable[[], Any]) -> Any:
    """What `do()` returns, which may be another thing on each host, if it comes to its end on all of them.

    If one fails, all raise: none is left waiting for a host that went another way. So `do` waits for no other host, or
    not after anything that may fail on one alone.

    Raises:
      UserError: one host's, on all.
      RuntimeError: another exception of one host, with its number and first line; with one host, that exception.
    """
    if jax.process_count() == 1:
        return do()
    result, failed, said = None, None, None
    try:
        result = do()
    except UserError as e:
        failed, said = e, {"error": str(e)}
    except Exception as e:
        failed, said = e, {"failed": f"{type(e).__name__}: {_first_line(e)}"}
    content = np.frombuffer(json.dumps(said).encode(), np.uint8)
    size = int(multihost_utils.process_allgather(np.int32(len(content))).max())
    padded = np.pad(content, (0, size - len(content)), constant_values=ord(" "))
    for host, line in enumerate(multihost_utils.process_allgather(padded)):
        if said := json.loads(line.tobytes()):
            error = UserError(said["error"]) if "error" in said else RuntimeError(f"host {host}: {said['failed']}")
            raise error from failed
    return result


def fetch(x: jax.Array) -> np.ndarray:
    """All of an array as numpy, also of one whose rows [B, ...] lie on several hosts' devices."""
    if isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated):
        return multihost_utils.process_allgather(x, tiled=True)
    return np.asarray(x)


def _first_line(e: Exception) -> str:
    return (str(e).strip() or type(e).__name__).splitlines()[0][:160]
