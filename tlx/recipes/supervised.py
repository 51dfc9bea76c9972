"""Train on labels: from scratch, or from another run's weights, fine-tuned or frozen, as the optimiser's rules say."""

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flax import traverse_util
from ml_collections import ConfigDict

from tlx import config as config_lib
from tlx import freeze_rule, models, optim, pretrained, progress, steps
from tlx.errors import UserError
from tlx.recipes import strategy
from tlx.recipes.features import on_features
from tlx.recipes.learner import Learner, make_learner
from tlx.recipes.run import Run, prepare, run_phase

Source = pretrained.TrainedRun | pretrained.Published


def default_config() -> ConfigDict:
    config = config_lib.base("supervised")
    config.update(config_lib.learner())
    config.init = {
        "run": "",  # start from the weights of this finished run,
        "weights": "",  # or from published ones: a file, "package:NAME" or "hf:OWNER/REPO"
        "key": "",  # where the weights lie in a file that holds several
        "preprocessing": "",  # the published weights' origin, which decides what the network takes; "" = the usual one
        "image_size": 0,  # the side of what the network takes; 0 = the published size
        "reset": ("head/.*",),  # what begins anew all the same
    }
    # Who learns: "" = as optim.rules say; a regime of `tlx.regimes`, for the groups "backbone" and "head"; or "auto":
    # `tlx.freeze_rule` chooses one, from the number of labels and how well the pre-trained features suit the task.
    config.strategy = ""
    config.cut = ""  # the level that "partial" freezes up to, or that "early" puts the head on; "" = the usual one
    config.loss = {"label_smoothing": 0.0}
    config.cache = {
        # Compute what lies below a frozen level once, keep it, and train on it; with a strategy, where it freezes one.
        "features": False,
        "level": "",  # which; "" = the highest up to which everything is frozen
        "views": 1,  # augmented views of each training image that are kept, and taken in turn, one a pass
        "dtype": "float32",  # of what is kept; or "float16"
    }
    return config


def run(config: Mapping[str, Any], workdir: str | os.PathLike, *, overwrite: bool = False) -> dict[str, Any]:
    """Runs the recipe, or goes on with it, and returns its result (what `result.json` holds)."""
    return run_phase(config, workdir, defaults=default_config(), build=build, overwrite=overwrite)


def build(run: Run) -> tuple[Learner, dict[str, Any]]:
    """The learner of the phase "train", and what its `fit` is given: variables, store, streams."""
    config, source = run.config, _source(run.config)
    takes = source.takes if source else None
    if config.strategy:
        config = _written_out(run, source)
    cache = config.cache if run.workdir else None  # a range test has no folder to keep anything in
    learner = make_learner(run, "network", config, takes=takes, make_step=_make_step(config), cache=cache)
    if source:
        grafted = _graft(source, learner, reset=config.init.reset)
        _say_start(source, learner, grafted)
    variables = grafted.variables if source else learner.init("train")
    store, index = run.labeled_store(), run.splits.labeled
    if learner.start:
        learner, store, index = on_features(
            learner, variables, augment=config.augment, views=config.cache.views, dtype=config.cache.dtype
        )
    return learner, {
        "variables": variables,
        "store": store,
        "streams": [run.stream(index, config.train.batch_size, "train/labeled")],
    }


def facts(config: Mapping[str, Any]) -> freeze_rule.Facts:
    """What `strategy = "auto"` would decide on, without a run; see `tlx.freeze_rule`."""
    run = prepare(config_lib.resolve(config, default_config()))
    return strategy.gather(*_linear(run, _source(run.config)))


def _make_step(config: ConfigDict) -> Callable:
    return functools.partial(steps.make_supervised_step, label_smoothing=config.loss.label_smoothing)


def _written_out(run: Run, source: Source | None) -> ConfigDict:
    """The run's config without a strategy, which is replaced by what it stands for."""
    name = run.config.strategy
    return _as_regime(run, source, strategy.choose(*_linear(run, source)).regime if name == strategy.AUTO else name)


def _as_regime(run: Run, source: Source | None, name: str) -> ConfigDict:
    shape = (source.takes if source else run.takes).shape
    return strategy.write_out(run.config, name, image_shape=shape, pretrained=source is not None)


def _linear(run: Run, source: Source | None) -> tuple[Learner, Any]:
    """The network that evidence is gathered with, a new head on a frozen backbone, and what it starts from."""
    config = _as_regime(run, source, "linear")
    learner = make_learner(run, "", config, takes=source.takes, make_step=steps.make_supervised_step)
    return learner, _graft(source, learner, reset=config.init.reset).variables


def _graft(source: Source, learner: Learner, *, reset: Sequence[str]) -> pretrained.Grafted:
    """The source's weights, up to the level that the head is on, in the learner's fresh network."""
    return pretrained.graft(
        learner.init("train"), _below_the_head(source.variables, learner), reset=reset, all_used=True
    )


def _say_start(source: Source, learner: Learner, grafted: pretrained.Grafted) -> None:
    """What is to be said of it before step 1."""
    named = f" ({', '.join(grafted.reset)})" if 0 < len(grafted.reset) <= 4 else ""
    progress.say(
        f"from {source.name}: {len(grafted.loaded)} tensors loaded, {len(grafted.reset)} reset{named}, "
        f"{len(grafted.unused)} unused"
    )
    adapted = source.takes.differs(learner.run.dataset.image_shape)
    if adapted:
        progress.say(f"images: {adapted}, as the pre-trained network takes them")
    labels = traverse_util.flatten_dict(learner.optimizer.labels, sep="/")
    never = [path for path in grafted.reset if labels.get(path) == optim.FROZEN]
    if never:
        more = f" and {len(never) - 3} more" if len(never) > 3 else ""
        said = f"{', '.join(never[:3])}{more}: reset and frozen, so never learnt; is a rule too wide?"
        progress.say(f"[yellow]{said}[/yellow]")


def _below_the_head(variables: Any, learner: Learner) -> Any:
    """Without the levels above the one that the learner's head is on."""
    level = learner.options.get("head_level")
    if not level:
        return variables
    kept = models.levels(learner.model, learner.takes.shape)
    everything = traverse_util.flatten_dict(variables, sep="/")  # "params/backbone/stage1/..."
    kept = {path: v for path, v in everything.items() if path.split("/")[1] == "head" or path.split("/")[2] in kept}
    return traverse_util.unflatten_dict(kept, sep="/")


def _source(config: ConfigDict) -> Source | None:
    """What the network starts from; None = random weights."""
    init = config.init
    if init.run and init.weights:
        raise UserError(f"init.run is {init.run!r} and init.weights {init.weights!r}: start from one of them")
    if init.run:
        return pretrained.load_run(init.run)
    if init.weights:
        return pretrained.load_published(
            config.model.name,
            init.weights,
            key=init.key,
            preprocessing=init.preprocessing,
            image_size=init.image_size,
        )
    return None
