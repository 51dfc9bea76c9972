"""A strategy of adapting as a config without one: the rules, groups and the rest that the regime stands for."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from tlx import config as config_lib
from tlx import freeze_rule, hosts, models, progress, transferability
from tlx.data import reader
from tlx.data.augment import to_float
from tlx.errors import UserError, did_you_mean
from tlx.models.layers import summarize
from tlx.optim import FROZEN
from tlx.recipes.learner import Learner
from tlx.recipes.run import Run
from tlx.regimes import REGIMES, cut_level, regime
from tlx.transferability.evidence import balanced_rows
from tlx.workdir import read_json, write_json

PyTree = Any
AUTO = "auto"
GROUPS = ("backbone", "head")
LIMIT = 1000  # images that the evidence rests on: each figure then takes seconds, and a probe's error is a point or two


def write_out(config: ConfigDict, name: str, *, image_shape: Sequence[int], pretrained: bool) -> ConfigDict:
    """The config with a regime written out: who learns, the head's level, what begins anew, whether to cache.

    Args:
      config: of the recipe `supervised`.
      name: of the regime.
      image_shape: (H, W, C) of what the network takes.
      pretrained: whether it starts from weights.

    Raises:
      UserError: rules beside the strategy, other groups than GROUPS, nothing to start from; see also `tlx.regimes`.
    """
    groups = dict(config.optim.groups)
    if config.optim.rules != config_lib.optim().rules:
        raise UserError(f"strategy is {config.strategy!r}, and optim.rules say who learns too: leave one of them out")
    if set(groups) != set(GROUPS):
        raise UserError(
            f"strategy is {config.strategy!r}, so optim.groups must be {' and '.join(GROUPS)}, and not "
            f"{', '.join(groups)}: give each its learning rate"
        )
    if not pretrained and name != "scratch":
        raise UserError(
            f"strategy is {config.strategy!r}, and there is nothing to start from: set init.run or init.weights"
        )
    if name not in REGIMES:
        known = (*REGIMES, AUTO)
        raise UserError(f"strategy is {name!r}{did_you_mean(name, known)}: use one of {', '.join(known)}")
    levels = models.levels(models.build(**config.model, num_classes=2), image_shape)
    rules, groups = regime(name, levels=levels, cut=config.cut, **groups)
    written = ConfigDict(config.to_dict())
    written.strategy, written.cut = "", ""
    written.optim = {"rules": rules, "groups": groups}
    if name == "early":
        written.model.head_level = cut_level(name, levels, config.cut)
    if name == "scratch":
        written.init.reset = (".*",)
    written.cache.features &= any(group == FROZEN for _, group in rules)
    return written.lock()


def choose(learner: Learner, variables: PyTree) -> freeze_rule.Choice:
    """The freeze rule's choice, with its evidence in the run's `strategy.json`: made once, and read when a run goes on.

    Args and raises: as `gather`.
    """
    run = learner.run
    if run.workdir is None:
        raise UserError("strategy is 'auto', which is decided in a run: name a regime, such as --config.strategy=full")
    run.start()
    path = run.workdir / "strategy.json"
    if not path.exists():
        facts = gather(learner, variables)
        choice = freeze_rule.choose(facts)
        write_json(path, {"choice": dataclasses.asdict(choice), "facts": dataclasses.asdict(facts)}, seal=True)
    hosts.wait("strategy")
    record = read_json(path, seal=True)
    choice = freeze_rule.Choice(**record["choice"])
    progress.say(progress.table("the freeze rule's evidence", freeze_rule.rows(record["facts"])))
    progress.say(f"[bold]{choice.regime}[/bold] ({choice.quadrant}): {choice.why} Next best: {choice.runner_up}.")
    return choice


def gather(learner: Learner, variables: PyTree) -> freeze_rule.Facts:
    """The evidence for the freeze rule, from at most LIMIT labelled images, as many of each class as of any other.

    Args:
      learner: of the pre-trained network with the head at its top.
      variables: what it would start from.

    Raises:
      UserError: a class with fewer than two labelled images.
    """
    run = learner.run
    images = run.examples("labeled")
    counts = np.bincount(images.labels, minlength=run.num_classes)
    if counts.min() < 2:
        few = int(np.argmin(counts))
        name, count = run.dataset.class_names[few], counts[few]
        raise UserError(
            f"strategy is 'auto', and class {name!r} has too few labelled images ({count}): the evidence needs two of "
            "each; name a regime, such as --config.strategy=linear"
        )
    rows = balanced_rows(images.labels, LIMIT, np.random.default_rng(run.config.seed))
    images = images.select(rows)
    levels = models.levels(learner.model, learner.takes.shape)
    early = cut_level("early", levels)

    def extract(variables: PyTree, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        seen = learner.takes(to_float(batch["image"]))
        _, found = learner.model.apply(variables, seen, train=False, features=True)
        return {name: summarize(found[name]).astype(np.float32) for name in (early, "pooled")}

    extract = run.parallelize(extract, args=("whole", "batch"), out="batch")
    with run.clock.measure("evidence"):
        store = run.store(images)
        pretrained = _features(run, extract, variables, store, len(images))
        # The mean of three, as one random network may be ten points better than another.
        random = [_features(run, extract, learner.init(f"random {i}"), store, len(images))["pooled"] for i in range(3)]
        progress.say(f"evidence: {len(rows):,} labelled images at {early!r} and 'pooled'")
        probe = lambda features: transferability.probe_accuracy(features, images.labels, seed=run.config.seed)
        return freeze_rule.Facts(
            labels_per_class=len(run.splits.labeled) / run.num_classes,
            parameters=models.parameter_count(variables["params"]["backbone"]),
            top=transferability.score(pretrained["pooled"], images.labels, run.config.seed),
            early=probe(pretrained[early]),
            random=float(np.mean([probe(features) for features in random])),
        )


def _features(run: Run, extract: Callable, variables: PyTree, store: reader.Store, count: int) -> dict[str, np.ndarray]:
    """name -> [N, D]."""
    variables, parts = run.place(variables), []
    with progress.bar("evidence", total=count, start=0) as bar:
        for batch in run.eval_batches(store, np.arange(count)):
            parts.append({name: hosts.fetch(values) for name, values in extract(variables, batch).items()})
            bar.update(len(parts) * len(batch["label"]), {})
    return {name: np.concatenate([part[name] for part in parts])[:count] for name in parts[0]}
