"""Train on labels: from scratch, or from another run's weights, fine-tuned or frozen, as the optimiser's rules say."""

import os
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from tlx import config as config_lib
from tlx import pretrained, progress, steps
from tlx.recipes.learner import make_learner
from tlx.recipes.run import finish, finished, open_run


def default_config() -> ConfigDict:
    config = config_lib.base("supervised")
    config.update(config_lib.learner())
    config.init = {"run": "", "reset": ("head/.*",)}  # start from this finished run's weights; what begins anew
    return config


def run(config: Mapping[str, Any], workdir: str | os.PathLike, *, overwrite: bool = False) -> dict[str, Any]:
    """Runs the recipe, or goes on with it, and returns its result (what `result.json` holds)."""
    config = config_lib.resolve(config, default_config())
    with open_run(config, workdir, overwrite=overwrite) as run:
        if run.result:
            return finished(run)
        learner = make_learner(run, "network", config, make_step=steps.make_supervised_step)
        variables = learner.init("train")
        if config.init.run:
            source = pretrained.load_run(config.init.run)
            source.check_input(run.dataset.image_shape)
            grafted = pretrained.graft(variables, source.variables, reset=config.init.reset)
            variables = grafted.variables
            progress.say(
                f"from {source.path}: {len(grafted.loaded)} tensors loaded, "
                f"{len(grafted.reset)} reset ({', '.join(grafted.reset)}), {len(grafted.unused)} unused"
            )
        trained = learner.fit(
            "train",
            variables=variables,
            store=run.labeled_store(),
            streams=[run.stream(run.splits.labeled, config.train.batch_size, "train/labeled")],
        )
        return finish(run, trained)
