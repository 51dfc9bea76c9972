"""A finished run as a network: its best checkpoint, its architecture, and the input that it expects."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from tlx import models
from tlx.checkpoint import restore_variables
from tlx.errors import UserError
from tlx.workdir import read_json

PyTree = Any


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """A network to predict with, distil or adapt.

    Attributes:
      path: the run's folder.
      model: the linen module.
      variables: {"params", "batch_stats"}, the averaged weights where the run kept an average.
      class_names: of the outputs, in order.
      image_shape: (H, W, C) of the images that it was trained on.
      takes: what the model takes, from such images.
      result: the run's `result.json`.
    """

    path: pathlib.Path
    model: nn.Module
    variables: PyTree
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    takes: models.Input
    result: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.path)

    def make_apply(self) -> Callable:
        """`apply(variables, images, train=False) -> (logits, batch_stats)` of images [B, H, W, C] in [0, 1]."""
        return models.make_apply(self.model, takes=self.takes)

    def check_input(self, image_shape: tuple[int, ...]) -> None:
        """Raises UserError unless images of this shape are what the network was trained on."""
        if tuple(image_shape) != self.image_shape:
            raise UserError(f"{self.path} expects images {list(self.image_shape)}, the data's are {list(image_shape)}")


def load_run(path: str | os.PathLike) -> TrainedRun:
    """Loads the network that a finished run ended with: the checkpoint that was best on validation.

    Raises:
      UserError: not a run's folder, an unfinished run, a missing or damaged checkpoint.
    """
    path = pathlib.Path(path).expanduser()
    if not (path / "config.json").exists():
        raise UserError(f"{path} is not the folder of a tlx run (no config.json): train one with `python -m tlx.main`")
    if not (path / "result.json").exists():
        raise UserError(f"{path} is unfinished (no result.json): run its command again, it goes on where it stopped")
    result, task = read_json(path / "result.json"), read_json(path / "task.json")
    selected = result["selected"]
    model, takes = rebuild(selected, num_classes=len(task["class_names"]))
    variables = network_only(restore_variables(path / "checkpoints" / selected["phase"], selected["step"]))
    return TrainedRun(
        path=path,
        model=model,
        variables=add_bias(variables, selected["bias"]) if selected.get("bias") else variables,
        class_names=tuple(task["class_names"]),
        image_shape=tuple(task["image_shape"]),
        takes=takes,
        result=result,
    )


def rebuild(selected: Mapping[str, Any], *, num_classes: int) -> tuple[models.Classifier, models.Input]:
    """A network, without weights, and what it takes, from its record in JSON: {"model", "takes", "dtype", ...}."""
    options, dtype = _tuples(selected["model"]), jnp.dtype(selected["dtype"])
    return models.build(**options, num_classes=num_classes, dtype=dtype), models.Input(**_tuples(selected["takes"]))


def network_only(variables: Mapping[str, PyTree]) -> dict[str, PyTree]:
    """What a prediction needs of {"params", "batch_stats"}: backbone and head, and not what training alone used."""
    part = lambda tree: {name: tree[name] for name in ("backbone", "head") if name in tree}
    return {kind: part(variables.get(kind, {})) for kind in ("params", "batch_stats")}


def add_bias(variables: PyTree, bias: Sequence[float]) -> PyTree:
    """With `bias` [K] added to the head's: a correction that was fitted after training."""
    params = variables["params"]
    head = params["head"] | {"bias": params["head"]["bias"] + np.asarray(bias, np.float32)}
    return variables | {"params": params | {"head": head}}


def _tuples(options: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has lists only; model options are hashed, so they must be tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
