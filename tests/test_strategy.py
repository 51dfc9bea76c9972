"""Strategies: a regime's name in place of its rules, on a run that starts from another run's weights."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from test_recipes import interrupt_at

from tlx import config as config_lib
from tlx import lr_find, report
from tlx.checkpoint import restore_variables
from tlx.errors import UserError
from tlx.preemption import Preempted
from tlx.pretrained import load_run
from tlx.recipes import strategy, supervised
from tlx.workdir import read_json

MODEL = {"name": "cnn", "widths": (4, 6), "dense": 8, "dropout": 0.3}
RATES = {"backbone": {"learning_rate": 1e-3}, "head": {"learning_rate": 1e-2}}


@pytest.fixture(autouse=True, scope="module")
def no_report():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "write", lambda workdir: workdir)
        yield


def small(**changes):
    config = supervised.default_config()
    config.data.update(classes=(0, 1, 2, 3, 4), labels_per_class=6, validation=50)
    config.model = MODEL
    config.train.update(steps=6, batch_size=8, eval_every=3)
    config.update_from_flattened_dict(changes)
    return config


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source") / "run"
    supervised.run(small(), folder)
    return folder


def adapt(source, strategy="full", **changes):
    return small(
        **{"strategy": strategy, "init.run": str(source), "optim": config_lib.optim(**RATES)}
        | {"data.classes": (5, 6, 7, 8, 9)}
        | changes
    )


def variables(workdir, result):
    return restore_variables(workdir / "checkpoints" / "train", result["selected"]["step"])


def backbone(tree):
    return jax.tree.leaves(tree["params"]["backbone"])


@pytest.mark.parametrize("name", ["full", "linear", "early", "partial", "scratch"])  # the others: test_regimes.py
def test_a_strategy_runs_and_is_its_regime(source, name, tmp_path):
    config = adapt(source, name, **{"cache.features": True})
    result = supervised.run(config, tmp_path / "run")
    before, after = load_run(source).variables, variables(tmp_path / "run", result)
    kept = sum(
        np.array_equal(old, new)
        for level, old_level in before["params"]["backbone"].items()
        if level in after["params"]["backbone"]
        for old, new in zip(
            jax.tree.leaves(old_level), jax.tree.leaves(after["params"]["backbone"][level]), strict=True
        )
    )
    # Three levels of two tensors: stage1, stage2, dense. The middle one is where "early" and "partial" are cut.
    assert kept == {"linear": 6, "early": 4, "partial": 4}.get(name, 0)
    assert (tmp_path / "run" / "features").exists() == (name in ("linear", "early", "partial"))
    assert len(backbone(after)) == (4 if name == "early" else 6)
    loaded = load_run(tmp_path / "run")  # a run with a head on an earlier level is a network like any other
    logits, _ = loaded.make_apply()(loaded.variables, np.zeros((2, 8, 8, 1), np.float32), train=False)
    assert logits.shape == (2, 5)


def test_a_strategy_is_nothing_but_its_rules(source, tmp_path):
    named = supervised.run(adapt(source, "partial", cut="stage1"), tmp_path / "named")
    rules = ((r"backbone/stage1/.*", "frozen"), (r"backbone/.*", "backbone"), (r"head/.*", "head"))
    config = adapt(source, "", optim=config_lib.optim(rules, **RATES))
    assert supervised.run(config, tmp_path / "rules")["selected"]["digest"] == named["selected"]["digest"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strategy": "ful"}, r"strategy is 'ful' \(did you mean 'full'\?\): use one of .*, auto"),
        ({"optim.rules": ((".*", "head"),)}, "and optim.rules say who learns too"),
        ({"optim": config_lib.optim()}, "optim.groups must be backbone and head, and not all"),
        ({"init.run": ""}, "nothing to start from: set init.run or init.weights"),
        ({"cut": "stage1"}, "only partial and early have a cut"),
        ({"strategy": "early", "cut": "dense"}, "it must be a level with others above it"),
    ],
)
def test_bad_strategies_begin_nothing(source, changes, message, tmp_path):
    with pytest.raises(UserError, match=message):
        supervised.run(adapt(source, **{"strategy": "full"} | changes), tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


def test_auto_is_the_regime_that_it_chooses_and_keeps_to_it(source, tmp_path, monkeypatch):
    """Stopped in the middle and gone on with, it decides nothing anew, and ends as the regime does by its own name."""
    monkeypatch.setattr(strategy, "LIMIT", 20)
    with monkeypatch.context() as patch:
        interrupt_at(patch, "train", 3)
        with pytest.raises(Preempted):
            supervised.run(adapt(source, "auto"), tmp_path / "auto")
    with monkeypatch.context() as patch:
        patch.setattr(strategy, "gather", None)
        auto = supervised.run(adapt(source, "auto"), tmp_path / "auto")
    record = read_json(tmp_path / "auto" / "strategy.json")
    named = supervised.run(adapt(source, record["choice"]["regime"]), tmp_path / "named")
    assert auto["selected"]["digest"] == named["selected"]["digest"]
    facts = supervised.facts(adapt(source, "auto"))  # without a run: the same
    assert json.loads(json.dumps(dataclasses.asdict(facts))) == record["facts"]
    assert (facts.labels_per_class, facts.top.examples, facts.parameters) == (6, 20, 462)


def test_auto_needs_two_images_a_class(source, tmp_path):
    with pytest.raises(UserError, match=r"class '5' has too few labelled images \(1\): the evidence needs two"):
        supervised.facts(adapt(source, "auto", **{"data.labels_per_class": 1}))
    with pytest.raises(UserError, match="name a regime, such as --config.strategy=full"):
        lr_find.find(adapt(source, "auto"))
