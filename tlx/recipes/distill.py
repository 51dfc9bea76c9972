"""Distil a finished run's network into another: `alpha * T^2 * KL(teacher_T || student_T) + beta * CE`."""

import functools
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from tlx import config as config_lib
from tlx import models, parallel, pretrained, progress, steps
from tlx.errors import UserError
from tlx.recipes.learner import Learner, make_learner
from tlx.recipes.run import Run, finish, finished, open_run


def default_config() -> ConfigDict:
    config = config_lib.base("distill")
    config.teacher = {"run": ""}  # the folder of a finished run
    config.transfer = "all"  # distil on "labeled" images only, or on "all": the unlabelled too, without their labels
    config.loss = {"temperature": 4.0, "alpha": 0.9, "beta": 0.1}
    config.update(config_lib.learner())  # the student
    return config


def run(config: Mapping[str, Any], workdir: str | os.PathLike, *, overwrite: bool = False) -> dict[str, Any]:
    """Runs the recipe, or goes on with it, and returns its result (what `result.json` holds)."""
    config = config_lib.resolve(config, default_config())
    teacher = _teacher(config)
    with open_run(config, workdir, overwrite=overwrite) as run:
        if run.result:
            return finished(run)
        learner, given = build(run, teacher)
        trained = learner.fit("train", **given)
        figures = {name: teacher.result["figures"][name] for name in ("validation_accuracy", "test_accuracy")}
        return finish(
            run,
            trained,
            teacher={
                "run": str(teacher.path),
                "parameters": models.parameter_count(teacher.variables["params"]),
                **figures,
            },
        )


def build(run: Run, teacher: pretrained.TrainedRun | None = None) -> tuple[Learner, dict[str, Any]]:
    """The learner of the phase "train", and what its `fit` is given; the teacher, if not given, is the config's."""
    config = run.config
    teacher = teacher or _teacher(config)
    teacher.takes.check(run.dataset.image_shape)
    teacher.check_classes(run.dataset.class_names)
    learner = make_learner(
        run,
        "student",
        config,
        make_step=functools.partial(steps.make_distill_step, teacher_apply=teacher.make_apply(), **config.loss),
        teacher=True,
    )
    transfer = [run.splits.labeled] + ([run.splits.unlabeled] if config.transfer == "all" else [])
    index = np.concatenate(transfer)
    progress.say(f"teacher: {teacher.path}, {len(index):,} images to distil on")
    return learner, {
        "variables": learner.init("train"),
        "store": run.labeled_store(),
        "streams": [run.stream(index, config.train.batch_size, "train/transfer")],
        "extra": (parallel.replicate(teacher.variables, run.mesh),),
    }


def _teacher(config: ConfigDict) -> pretrained.TrainedRun:
    if config.transfer not in ("all", "labeled"):
        raise UserError(f"transfer is {config.transfer!r}: use all or labeled")
    if not config.teacher.run:
        raise UserError("teacher.run is empty: name the folder of a finished run, --config.teacher.run=runs/...")
    return pretrained.load_run(config.teacher.run)
