"""Configs: strict keys, types and arguments."""

import pytest
from ml_collections import ConfigDict

from tlx import config as config_lib
from tlx.errors import UserError
from tlx.recipes import self_train, supervised


def test_argument():
    arg = config_lib.parse_arg("seed=3,runlocal,rate=0.5", seed=0, runlocal=False, rate=1.0, name="x")
    assert arg.to_dict() == {"seed": 3, "runlocal": True, "rate": 0.5, "name": "x"}
    assert config_lib.parse_arg(None, seed=0).seed == 0
    assert config_lib.parse_arg("runlocal=false", runlocal=True).runlocal is False


@pytest.mark.parametrize(
    ("arg", "message"),
    [
        ("sed=3", "unknown config argument 'sed'.*did you mean 'seed'"),
        ("seed=x", "seed is 'x': it must be of type int"),
        ("seed", "seed is ''"),
        ("runlocal=maybe", "runlocal is 'maybe': it must be of type bool"),
    ],
)
def test_bad_argument(arg, message):
    with pytest.raises(UserError, match=message):
        config_lib.parse_arg(arg, seed=0, runlocal=False)


def test_resolve_completes_and_locks():
    config = config_lib.resolve(
        {"seed": 3, "train": {"steps": 7}, "model": {"name": "mlp"}}, supervised.default_config()
    )
    assert (config.seed, config.train.steps, config.train.batch_size) == (3, 7, 64)
    assert config.model.to_dict() == {"name": "mlp"}  # an open section is taken as given
    with pytest.raises(AttributeError):
        config.sed = 1


def test_resolve_takes_back_what_it_wrote():
    """`config.json` has lists for tuples; the same config must come out of it."""
    import json

    config = config_lib.resolve(self_train.default_config(), self_train.default_config())
    again = json.loads(json.dumps(config_lib.to_dict(config)))
    assert config_lib.to_dict(config_lib.resolve(again, self_train.default_config())) == config_lib.to_dict(config)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sed": 1}, "unknown config key config.sed.*did you mean 'seed'"),
        ({"train": {"stps": 1}}, "unknown config key config.train.stps.*did you mean 'steps'"),
        ({"seed": "3"}, "config.seed is '3' of type str: it must be int"),
        ({"seed": True}, "config.seed is True of type bool"),
        ({"train": 3}, "config.train is 3: it is a section with the keys accumulate, "),
        ({"model": "cnn"}, "config.model is 'cnn': it must be a section"),
        ({"model": {"name": "cnn", "a.b": 1}}, "config.model has the key 'a.b': a key must be a text without dots"),
        ({"augment": {"shift": {3: 1}}}, "config.augment.shift has the key 3: a key must be a text without dots"),
        ({"two\nlines": 1}, "unknown config key config.two lines; known"),
        ({"data": ConfigDict({"labels_per_class": 1.5})}, "config.data.labels_per_class is 1.5 of type float"),
    ],
)
def test_resolve_refuses(given, message):
    with pytest.raises(UserError, match=message):
        config_lib.resolve(given, supervised.default_config())
