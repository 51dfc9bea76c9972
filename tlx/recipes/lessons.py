"""Lessons: a transfer set in the views that a student sees of it, with what its teachers say, live or kept."""

import functools
import hashlib
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from tlx import feature_cache, hosts, kept, models, progress, teachers
from tlx.data import reader
from tlx.data.mixup import Mix, make_mix
from tlx.data.view import make_view
from tlx.errors import UserError, did_you_mean
from tlx.models.layers import summarize
from tlx.recipes.learner import Learner
from tlx.recipes.run import Run
from tlx.recipes.transfer import TransferSet
from tlx.teachers import Teacher
from tlx.workdir import write_json


def lessons(
    learner: Learner,
    phase: str,
    *,
    taught_by: Sequence[Teacher] | np.ndarray,
    program: Callable,
    transfer: TransferSet,
) -> dict[str, Any]:
    """What `learner.fit` is given, beside what the student starts from.

    With `config.cache.teacher`, what the teachers say is computed once and kept in the run's folder; else at each step,
    by the same program. With `config.cache.views` K > 0, each image has K noised views, functions of the view's number
    and of the image's place, that are taken in turn, one a pass; kept or live is then the same, bit for bit.

    Args:
      learner: the student's.
      phase: what it trains in.
      taught_by: networks; or the logits [N, M, K] of the training set.
      program: (model, input) of each network -> their program, `make_program` with the run given.
      transfer: the images.

    Raises:
      UserError: the teacher or the data have changed since training began; see also `tlx.kept.keep`.
    """
    run, config = learner.run, learner.run.config
    noised, count = is_noised(config), len(transfer.examples)
    views = config.cache.views if noised else 0
    rows = np.arange(max(views, 1) * count, dtype=np.int32).reshape(-1, count)
    columns: dict[str, Any] = {"weight": transfer.weight}
    if views:
        columns["row"] = rows.ravel()
    mix = _mixer(config.transfer.mixup, config.seed, views, count) if config.transfer.mixup else None
    make_store = functools.partial(run.store, transfer.examples, mix=mix)
    teach = None
    if isinstance(taught_by, np.ndarray):
        columns["teacher_logits"] = np.ascontiguousarray(taught_by[transfer.places], np.float32)  # [N, M, K]
        if run.workdir:
            told = hashlib.sha256(columns["teacher_logits"].tobytes()).hexdigest()
            _begin_phase(run, phase, {"teacher": told, "data": transfer.identity})
    else:
        teach_batch = program(tuple((t.model, t.takes) for t in taught_by))
        program = functools.partial(teach_batch, run.place(tuple(t.variables for t in taught_by)))
        if config.cache.teacher and run.workdir:  # a range test has no folder to keep anything in
            said = _keep(learner, phase, taught_by, program, transfer, make_store(**columns), views)
            columns |= {name: said[name] for name in said.dtype.names}
        else:
            teach = functools.partial(_live, program, learner.key(phase))
            if run.workdir:
                _begin_phase(run, phase, {"teacher": [t.identity for t in taught_by], "data": transfer.identity})
    return {
        "store": make_store(**columns),
        "streams": [run.stream(rows, learner.train.batch_size, f"{phase}/transfer")],
        "teach": teach,
    }


def make_program(run: Run, networks: tuple) -> Callable:
    """`teachers.make_teach` of networks (model, input), compiled for the run's devices."""
    config = run.config
    features = config.loss.features > 0
    level = config.features.teacher_level if features else ""
    teach = teachers.make_teach(
        applies=[models.make_apply(model, takes=takes, level=level) for model, takes in networks],
        view=make_view(**config.augment),
        sees=config.teacher.sees,
        features=features,
    )
    return run.parallelize(teach, args=("whole", "batch", "whole", "whole"), out="sharded")


def is_noised(config: ConfigDict) -> bool:
    """Whether a student sees anything but the images as they are."""
    return feature_cache.augmented(config.augment) or config.transfer.mixup > 0


def check_views(config: ConfigDict) -> None:
    """Raises UserError for options of `config.cache` and views that make no sense together."""
    cache, noised = config.cache, is_noised(config)
    if cache.views < 0:
        raise UserError(
            f"cache.views is {cache.views}: it counts the fixed views of each image; 0 = new ones each step"
        )
    if cache.views and not noised:
        raise UserError(f"cache.views is {cache.views}, but nothing is augmented, so all would be equal: set it to 0")
    if config.teacher.sees == "clean" and config.transfer.mixup:
        raise UserError("teacher.sees is clean, but with transfer.mixup it must see the mixture: set it to student")
    if cache.teacher and noised and not cache.views and config.teacher.sees == "student":
        raise UserError(
            "cache.teacher is on and images are augmented, and what a teacher says of a view can be kept only if the "
            "view comes again: set cache.views to how many of each image there are to be, or teacher.sees to clean"
        )


def _mixer(a: float, seed: int, views: int, count: int) -> Mix:
    """Partners are others of the batch. Only with fixed views they are the row's own, as what is kept of it must be."""
    if not views:
        return make_mix(a, seed=seed)
    rng = np.random.default_rng((seed, *b"mixup"))
    partners = np.concatenate([rng.permutation(count) for _ in range(views)])
    shares = rng.beta(a, a, views * count)
    return lambda rows: (partners[rows], shares[rows])


def _live(program: Callable, key: jax.Array, batches: Iterator[reader.Batch], start: int) -> Iterator[reader.Batch]:
    for number, batch in enumerate(batches, start):
        yield batch | program(batch, key, np.int32(number))


def _may_begin(run: Run, phase: str, key: dict[str, Any]) -> pathlib.Path:
    """Where what is kept of a phase's teacher lies; raises UserError if the phase has begun with another `key`."""
    run.start()  # now that nothing in the config is left to refuse
    path = run.workdir / "teacher" / f"{phase}.npy"
    kept.check_training(path, key, begun=any((run.workdir / "checkpoints" / phase).glob("[0-9]*")))
    return path


def _begin_phase(run: Run, phase: str, key: dict[str, Any]) -> None:
    """Notes who teaches a phase, where nothing of what they say is kept: who goes on with it must be the same."""
    write_json(_may_begin(run, phase, key).with_suffix(".json"), {"key": key})


def _keep(
    learner: Learner,
    phase: str,
    taught_by: Sequence[Teacher],
    program: Callable,
    transfer: TransferSet,
    store: reader.Store,
    views: int,
) -> np.ndarray:
    """What the teachers say, a record [V * N] of each row; [N] where they see the clean images."""
    run, config = learner.run, learner.run.config
    clean = config.teacher.sees == "clean"
    seen = [] if clean or not views else [views, dict(config.augment), config.transfer.mixup, config.seed, phase]
    count = len(transfer.examples) * (1 if clean else max(views, 1))
    classes = taught_by[0].model.num_classes  # not the student's, where features alone are taught
    shapes = {"teacher_logits": jax.ShapeDtypeStruct((1, len(taught_by), classes), np.float32)}
    level = ""
    if config.loss.features:
        level = config.features.teacher_level
        width = feature_width(taught_by[0], level)
        shapes["teacher_features"] = jax.ShapeDtypeStruct((1, width), np.float32)
    dtype = teachers.record_dtype(shapes, dtype=config.cache.dtype, top_k=config.cache.top_k)
    key = {"teacher": [t.identity for t in taught_by] + [level], "data": transfer.identity, "views": seen}
    path = _may_begin(run, phase, key)

    def compute() -> Iterator[np.ndarray]:
        # In batches of the training's size: the program, and so each bit of the result, is that of a live teacher.
        size, root = learner.train.batch_size, learner.key(phase)
        with progress.bar("teacher", total=count, start=0) as bar:
            for start, batch in zip(
                range(0, count, size), reader.eval_batches(store, np.arange(count), size), strict=True
            ):
                run.preemption.check()
                columns = program(batch, root, np.int32(0))
                flat = {name: hosts.fetch(x).reshape(-1, *shapes[name].shape[1:]) for name, x in columns.items()}
                yield teachers.pack(flat, dtype)[: count - start]
                if bar.due():
                    bar.update(min(start + size, count), {})

    with run.clock.measure("teacher"):
        said = kept.keep(path, compute, key=key, shape=(count,), dtype=dtype)
    which = "as they are" if not seen else f"in {views} views"
    progress.say(
        f"teacher: {len(transfer.examples):,} images {which}, {said.nbytes / 1e6:.3g} MB kept in {path.parent}"
    )
    return said


def feature_width(network: Teacher | Learner, level: str) -> int:
    """The number of features that a level of a network has, as a head would read it; raises UserError for no level."""
    shapes = models.level_shapes(network.model, network.takes.shape)
    if level not in shapes:
        raise UserError(
            f"features.teacher_level is {level!r}{did_you_mean(level, shapes)}: the levels are {', '.join(shapes)}"
        )
    return jax.eval_shape(summarize, jax.ShapeDtypeStruct((1, *shapes[level]), np.float32)).shape[1]
