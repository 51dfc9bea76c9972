"""Learn from labelled and unlabelled images at once, without a teacher: the network's own predictions are its targets.

Pseudo-label (Lee 2013), the Pi-model, Mean Teacher, UDA and FixMatch are settings of `consistency`, `loss` and the
views; configs/digits_fixmatch.py is one, and experiments/ssl_bench has all of them.
"""

import os
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from tlx.recipes import unlabeled
from tlx.recipes.labels import save_gallery, student_views
from tlx.recipes.learner import Learner
from tlx.recipes.run import Run, run_phase


def default_config() -> ConfigDict:
    config = unlabeled.base("semi_supervised")
    config.update(unlabeled.learner())
    config.loss = {
        "consistency": 1.0,  # weight of the unlabelled images
        "labeled": 1.0,  # weight of the labels' cross-entropy
        "schedules": {},  # changes of these over the run: name -> options of `tlx.loss_schedule`
    }
    return config


def run(config: Mapping[str, Any], workdir: str | os.PathLike, *, overwrite: bool = False) -> dict[str, Any]:
    """Runs the recipe, or goes on with it, and returns its result (what `result.json` holds)."""
    return run_phase(config, workdir, defaults=default_config(), build=build, overwrite=overwrite, show=_show)


def _show(run: Run) -> None:
    save_gallery(run, student_views(run, run.config, unlabeled.pool(run)))


def build(run: Run) -> tuple[Learner, dict[str, Any]]:
    """The learner of the phase "train", and what its `fit` is given."""
    config = run.config
    unlabeled.check(config, config)
    images = unlabeled.pool(run)
    learner = unlabeled.make_student(run, "network", config, config)
    given = unlabeled.lessons(run, config, "train", images, drawn=images.unlabeled)
    return learner, {"variables": learner.init("train"), **given}
