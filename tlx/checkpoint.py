"""Checkpoints of a phase, by orbax: saved whole or not at all, restored into a known shape, the best one kept.

Saving is asynchronous: `save` returns when the state is copied, and training goes on while it is written. What was
saved is known by checksums, which lie in the checkpoint and are verified at every restore.

"Resume my run" is this module. "Start from pre-trained weights" is `tlx.pretrained`, another thing with other rules:
here a checkpoint that does not fit exactly is an error.
"""

import contextlib
import logging
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from tlx import checksum, event_loop, hosts, orbax_leaks
from tlx.errors import UserError, reading
from tlx.workdir import RESTORE, opened, sealed

orbax_leaks.mend()

# Each write's coroutines run by a loop of ours, see there.
with contextlib.suppress(ImportError):
    from orbax.checkpoint._src import asyncio_utils

    asyncio_utils._run_sync_via_new_loop = event_loop.run_to_the_end

PyTree = Any
ACCURACY, LOSS = "validation/accuracy", "validation/loss"

# orbax reports every save at INFO, its own housekeeping at WARNING, and at ERROR what it raises all the same; what a
# user must know is raised or printed here.
logging.getLogger("absl").setLevel(logging.CRITICAL)


def _score(metrics: dict[str, float]) -> tuple[float, float, int]:
    """Higher is better: validation accuracy; among equals the lower validation loss, then the earlier step."""
    return metrics[ACCURACY], -metrics[LOSS], -metrics["step"]


class _Manager(ocp.CheckpointManager):
    """orbax's, without its question whether all hosts are to stop: that is `tlx.preemption`'s, and asked by two, with
    numbers of their own, it would not be answered.
    """

    def reached_preemption(self, step: int) -> bool:
        return False


class Checkpoints:
    """The checkpoints of one phase, in `<folder>/<step>/`: the newest few, and the best on validation.

    Each holds the whole TrainState, and as JSON the `meta` that the loop needs to go on (phase, round, position in the
    data, sums of the interval under way), the validation figures, and checksums of it all.
    """

    def __init__(self, folder: pathlib.Path, *, keep: int = 2):
        policy = checkpoint_managers
        self.folder = folder.absolute()
        # What orbax notes beside the checkpoints it reads here, and the checkpoints not before they are asked for.
        with reading(self.folder, remedy=f"what orbax noted in it is damaged: {RESTORE}"):
            self._manager = _Manager(
                self.folder,
                item_handlers={"state": ocp.StandardCheckpointHandler(), "meta": ocp.JsonCheckpointHandler()},
                options=ocp.CheckpointManagerOptions(
                    best_fn=_score,
                    preservation_policy=policy.AnyPreservationPolicy(
                        [policy.LatestN(keep), policy.BestN(get_metric_fn=_score, n=1)]
                    ),
                    # Made at once: where they cannot be made, orbax's threads would wait five minutes for them.
                    async_options=ocp.AsyncOptions(create_directories_asynchronously=False, timeout_secs=_patience()),
                ),
            )
            self._check_scores()

    def save(self, step: int, state: PyTree, meta: dict[str, Any], metrics: dict[str, float] | None) -> None:
        """Saves, going on in the background; `wait` returns when all is written.

        Args:
          step: the number of updates made.
          state: may be donated to the next step: it is copied first.
          meta: what the loop needs to go on, as JSON has it.
          metrics: has ACCURACY and LOSS; None (the run was asked to stop between evaluations) is never the best.

        Raises:
          UserError: this, or the save before it, cannot be written.
        """
        if step in self._manager.all_steps():
            return  # a preemption right after an evaluation: the same state is there
        metrics = metrics or {ACCURACY: -1.0, LOSS: 0.0}
        score = {ACCURACY: metrics[ACCURACY], LOSS: metrics[LOSS], "step": step}
        record = {"meta": meta, "score": score, "shapes": _shapes(state), "checksums": checksum.of_arrays(state)}
        with self._writing():
            args = {"state": ocp.args.StandardSave(state), "meta": ocp.args.JsonSave(sealed(record))}
            self._manager.save(step, args=ocp.args.Composite(**args), metrics=score)

    def wait(self) -> None:
        """Returns when all that was saved is on disk, or raises UserError if it cannot be written."""
        with self._writing():
            self._manager.wait_until_finished()

    def restore_latest(self, like: PyTree) -> tuple[int, PyTree, dict[str, Any], list[str]]:
        """Restores the newest checkpoint that can be read.

        Args:
          like: a state of the same structure, shapes, dtypes and shardings; its values are not read.

        Returns:
          (step, state, meta, said): step 0 and `like` itself where there is none; `said` has a line for each newer
          checkpoint that was damaged and skipped.

        Raises:
          UserError: a checkpoint of another model (names the first difference), or all are damaged.
        """
        self.wait()
        steps, said = sorted(self._manager.all_steps(), reverse=True), []
        for step in steps:
            try:
                return step, *self._restore(step, like), said
            except UserError:
                raise
            except Exception as e:  # orbax, tensorstore and json each have errors of their own for a damaged file
                said.append(f"checkpoint {self.folder / str(step)} is damaged ({_first_line(e)}): skipped")
        if steps:
            raise UserError(f"{said[0]}; none of the {len(steps)} in {self.folder} can be read: start with --overwrite")
        return 0, like, {}, said

    def restore_best(self, like: PyTree) -> tuple[int, PyTree]:
        """The checkpoint with the highest validation accuracy; among equals the lowest loss, then the earliest.

        Raises:
          UserError: there is none, or it is damaged.
        """
        step = self.best_step
        try:
            return step, self._restore(step, like)[0]
        except UserError:
            raise
        except Exception as e:
            raise UserError(f"checkpoint {self.folder / str(step)} is damaged ({_first_line(e)})") from None

    @property
    def best_step(self) -> int:
        self.wait()
        return hosts.from_first(self._best_step)

    @property
    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def drop_after(self, step: int) -> None:
        """Deletes what is newer than `step`: damaged, and about to be made again."""
        for later in [s for s in self._manager.all_steps() if s > step]:
            self._manager.delete(later)

    def close(self) -> None:
        """Waits, and ends the threads that saving uses."""
        with self._writing():
            self._manager.close()

    def _best_step(self) -> int:
        steps = self._manager.all_steps()
        if not steps:
            raise UserError(f"no checkpoint in {self.folder}: did the run get as far as its first evaluation?")
        return max(steps, key=lambda step: _score(self._manager.metrics(step)))

    def _restore(self, step: int, like: PyTree) -> tuple[PyTree, dict[str, Any]]:
        where = self.folder / str(step)

        def read() -> tuple[PyTree, dict[str, Any], dict[str, int]]:
            record = read_record(where)
            # The shapes are ours: orbax would ask tensorstore, which loses 3 kB an array for good each time it is.
            check_same_shapes(record["shapes"], like, where=str(where))
            abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
            with _alone(ocp.StandardCheckpointHandler()) as reader:
                state = reader.restore(where / "state", args=ocp.args.StandardRestore(abstract))
            return state, record["meta"], record["checksums"]

        # Each host reads its devices' parts, and a damaged file may be one's alone: all go on with it, or none.
        state, meta, checksums = hosts.all_or_none(read)
        hosts.all_or_none(lambda: checksum.verify(state, checksums))
        return state, meta

    def _check_scores(self) -> None:
        """What orbax noted of each checkpoint, by which it keeps and forgets, is what was saved with it.

        One that was being forgotten when the process was killed is deleted.
        """
        for step in hosts.from_first(self._half_forgotten):
            self._manager.delete(step)
        hosts.from_first(self._compare_scores)

    def _half_forgotten(self) -> list[int]:
        steps = sorted(self._manager.all_steps())
        return [step for step in steps[:-1] if self._manager.metrics(step) is None]

    def _compare_scores(self) -> None:
        for step in sorted(self._manager.all_steps()):
            where, noted = self.folder / str(step), self._manager.metrics(step)
            try:
                score = read_record(where)["score"]
            except Exception:  # damaged: skipped when it is to be restored, and said
                score = noted
            if noted is None or noted != score:
                raise UserError(f"{where}: orbax's note of the validation figures is not what was saved: {RESTORE}")

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """A full disk has many names, in orbax's threads; all of them are one line here."""
        try:
            yield
        except Exception as e:
            raise UserError(
                f"a checkpoint in {self.folder} cannot be written ({_first_line(e)}): is the disk full, or the folder "
                "read-only? Mend it and give the same command again: it goes on from the last whole one"
            ) from e


def restore_variables(folder: pathlib.Path, step: int) -> PyTree:
    """The weights to predict with from a checkpoint, as they were saved: {"params", "batch_stats"} of numpy arrays.

    Raises:
      UserError: there is none, or it is damaged.
    """
    path = folder.absolute() / str(step) / "state"
    if not path.is_dir():
        raise UserError(f"no checkpoint at {path}: is {folder} complete?")
    try:
        with _alone(ocp.PyTreeCheckpointHandler()) as reader:
            saved = reader.metadata(path).item_metadata.tree
            # As numpy: the devices that wrote it need not be here.
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), saved)
            tree = reader.restore(path, restore_args=as_numpy)
        checksum.verify(tree, read_record(path.parent)["checksums"])
    except Exception as e:
        raise UserError(f"checkpoint {path.parent} is damaged ({_first_line(e)})") from None
    params = tree.get("ema_params") or tree["params"]
    return {"params": params, "batch_stats": tree.get("batch_stats") or {}}


def read_record(path: pathlib.Path) -> dict[str, Any]:
    """What lies beside the state in the checkpoint at `path`: {"meta", "score", "shapes", "checksums"}."""
    with _alone(ocp.JsonCheckpointHandler()) as reader:
        return opened(reader.restore(path / "meta"))


def _alone(handler: ocp.CheckpointHandler) -> ocp.Checkpointer:
    """Reads on this host without a word to the others: orbax would wait for them, ten minutes for one that failed."""
    here = jax.process_index()
    options = ocp.options.MultiprocessingOptions(primary_host=here, active_processes={here})
    return ocp.Checkpointer(handler, multiprocessing_options=options)


def check_same_shapes(found: Mapping[str, Sequence[int]], like: PyTree, *, where: str) -> None:
    """Raises UserError with the first name or shape in which what was saved differs from the expected tree."""
    wanted = _shapes(like)
    for name in sorted(found.keys() | wanted.keys()):
        if found.get(name) != wanted.get(name):
            says = lambda shape: "absent" if shape is None else f"of shape {shape}"
            raise UserError(
                f"checkpoint {where} is of another model or optimiser: {name} is {says(found.get(name))} there and "
                f"{says(wanted.get(name))} here"
            )


def _patience() -> int:
    """Seconds after which orbax gives up a write. It counts them by time.time, which jumps when a clock is set: so a
    century, but for several hosts, of which none is to wait so long for another.
    """
    return 100 * 365 * 24 * 3600 if jax.process_count() == 1 else ocp.AsyncOptions().timeout_secs


def _shapes(tree: PyTree) -> dict[str, list[int]]:
    return {name: list(leaf.shape) for name, leaf in checksum.named(tree).items()}


def _first_line(e: Exception) -> str:
    return (str(e).strip() or type(e).__name__).splitlines()[0][:160]
