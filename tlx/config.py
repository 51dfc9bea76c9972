"""Configs: what every recipe's has in common, the strict argument after the colon, and the check against a schema.

A config file is one run. Its `get_config(arg)` takes a recipe's `default_config()`, sets what this run sets, and
returns it; `arg` is what follows the colon in `--config=configs/x.py:seed=3,runlocal`.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from tlx.errors import UserError, did_you_mean

# Sections whose keys are checked by the room they belong to (models.build, optim.make_optimizer, make_augment), which
# knows them and says so.
OPEN = ("model", "groups", "augment", "weak", "schedules")


def base(recipe: str) -> ConfigDict:
    """The keys that every recipe has."""
    return ConfigDict(
        {
            "recipe": recipe,
            "name": recipe,  # groups runs that differ in the seed only
            "seed": 0,
            "parallel": "jit",  # "jit", "pmap" or "shard_map"
            "dtype": "float32",  # of the computation; "bfloat16" on accelerators. Parameters and losses stay float32
            "data": {
                "name": "digits",  # "digits", "idx" (with idx_dir), "folder" (with folder), or any prepared tfds name
                "idx_dir": "",  # a folder of IDX files, such as MNIST's
                "folder": "",  # a folder of photographs, FOLDER/class/*.jpg
                "image_size": 0,  # of those: the side in pixels that they are resized and cropped to
                "channels": 0,  # of those: 1 = grey, 3 = RGB, 0 = grey if all are
                "data_dir": "",  # where prepared data live; "" = $TFDS_DATA_DIR or ~/tensorflow_datasets
                "classes": (),  # keep these only, renumbered from 0; () = all
                "labels_per_class": 0,  # labelled images a class; 0 = every image that is not for validation
                "validation": 300.0,  # images held out for every choice that is made; below 1, the share of each class
            },
            "eval_batch_size": 500,
        }
    )


def learner() -> ConfigDict:
    """The sections of something that learns: a network, how it learns, for how long, and from what it sees."""
    return ConfigDict({"model": {"name": "cnn"}, "optim": optim(), "train": train(), "augment": {}})


def train(*, steps: int = 1000, batch_size: int = 64, eval_every: int = 100) -> ConfigDict:
    """The section `train` of a phase."""
    return ConfigDict(
        {
            "steps": steps,
            "batch_size": batch_size,
            "eval_every": eval_every,  # steps between evaluations, each followed by a checkpoint
            "keep": 2,  # the newest checkpoints that stay, beside the best on validation
            "ema_decay": 0.0,  # average the weights with this decay, and predict with the average; 0 = off
            "accumulate": 1,  # micro-batches a step
            "steps_per_call": 1,  # steps in one program: for networks so small that the device waits for its calls
        }
    )


def optim(rules: tuple = ((".*", "all"),), **groups: Mapping[str, Any]) -> ConfigDict:
    """The section `optim`: ordered (regex, group) rules and the groups' options, see `tlx.optim`."""
    return ConfigDict({"rules": rules, "groups": groups or {"all": {"learning_rate": 1e-3}}})


def parse_arg(arg: str | None, **defaults: Any) -> ConfigDict:
    """Parses "seed=3,runlocal" against `defaults`, whose types the values take. A bare name means True.

    Raises:
      UserError: an unknown name, or a value that is not of the default's type.
    """
    values = dict(defaults)
    for part in filter(None, (arg or "").split(",")):
        name, equals, text = part.partition("=")
        if name not in defaults:
            hint = did_you_mean(name, defaults)
            raise UserError(f"unknown config argument {name!r}: this config takes {', '.join(defaults)}{hint}")
        kind = type(defaults[name])
        booleans = {"true": True, "1": True, "false": False, "0": False, **({} if equals else {"": True})}
        try:
            values[name] = booleans[text.lower()] if kind is bool else kind(text)
        except (ValueError, KeyError):
            raise UserError(f"config argument {name} is {text!r}: it must be of type {kind.__name__}") from None
    return ConfigDict(values)


def resolve(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> ConfigDict:
    """The complete config of a run: `defaults` with what `config` sets.

    Args:
      config: a ConfigDict or nested dict; what it leaves out is taken from `defaults`.
      defaults: the recipe's schema; each value's type is the key's type.

    Raises:
      UserError: an unknown key (with the nearest known one), or a value of another type.
    """
    resolved = _merge(_to_dict(config), _to_dict(defaults), "config")
    return ConfigDict(resolved).lock()


def to_dict(config: ConfigDict) -> dict[str, Any]:
    """Plain nested dicts, for `config.json`."""
    return _to_dict(config)


def _merge(given: dict[str, Any], defaults: dict[str, Any], where: str) -> dict[str, Any]:
    for key in given:
        if key not in defaults:
            raise UserError(
                f"unknown config key {where}.{key}{did_you_mean(key, defaults)}; known: {', '.join(defaults)}"
            )
    merged = dict(defaults)
    for key, value in given.items():
        default, name = defaults[key], f"{where}.{key}"
        if key in OPEN:
            if not isinstance(value, dict):
                raise UserError(f"{name} is {value!r}: it must be a section of options")
            _check_keys(value, name)
            merged[key] = value
        elif isinstance(default, dict):
            if not isinstance(value, dict):
                raise UserError(f"{name} is {value!r}: it is a section with the keys {', '.join(default)}")
            merged[key] = _merge(value, default, name)
        else:
            merged[key] = _cast(value, default, name)
    return merged


def _check_keys(section: Mapping[Any, Any], where: str) -> None:
    """Of an open section, whose keys are not known here: they must be such that a path of them can be written."""
    for key, value in section.items():
        if not isinstance(key, str) or "." in key:
            raise UserError(f"{where} has the key {key!r}: a key must be a text without dots")
        if isinstance(value, Mapping):
            _check_keys(value, f"{where}.{key}")


def _cast(value: Any, default: Any, name: str) -> Any:
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(default, tuple) and isinstance(value, list | tuple):
        return tuple(tuple(v) if isinstance(v, list) else v for v in value)
    # By the exact type: True would else pass for an int.
    if type(value) is not type(default):
        raise UserError(f"{name} is {value!r} of type {type(value).__name__}: it must be {type(default).__name__}")
    return value


def _to_dict(config: Any) -> dict[str, Any]:
    config = config.to_dict() if isinstance(config, ConfigDict) else config
    return {key: _to_dict(v) if isinstance(v, Mapping | ConfigDict) else v for key, v in config.items()}


def run_local(config: ConfigDict, *, steps: int = 4) -> None:
    """Makes any config end in seconds, through all of its phases: small nets, a few small steps. For `:runlocal`."""
    for key, value in config.items():
        if not isinstance(value, ConfigDict):
            continue
        if key == "model" and "widths" in value:
            value.widths = tuple(max(width // 8, 1) for width in value.widths)
        elif key == "train":
            value.update(steps=steps, eval_every=max(steps // 2, 1), batch_size=16)
        else:
            run_local(value, steps=steps)
