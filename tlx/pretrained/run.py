"""A finished run as a network: its best checkpoint, its architecture, and the input that it expects."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tlx import models
from tlx.checkpoint import restore_variables
from tlx.errors import UserError, reading
from tlx.workdir import RESTORE, read_json

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
      UserError: not a run's folder, an unfinished run, a missing or damaged record or checkpoint, or ones that do not
        fit together.
    """
    path = pathlib.Path(path).expanduser()
    if not (path / "config.json").exists():
        raise UserError(f"{path} is not the folder of a tlx run (no config.json): train one with `python -m tlx.main`")
    if not (path / "result.json").exists():
        raise UserError(f"{path} is unfinished (no result.json): run its command again, it goes on where it stopped")
    result, task = (read_json(path / name) for name in ("result.json", "task.json"))
    with reading(path, remedy=f"a record in it is damaged: {RESTORE}"):
        selected, (class_names, image_shape) = result["selected"], read_task(task)
        model, takes = rebuild(selected, num_classes=len(class_names))
        variables = network_only(restore_variables(path / "checkpoints" / selected["phase"], selected["step"]))
        variables = add_bias(variables, selected["bias"]) if selected.get("bias") else variables
        check_fits(models.make_apply(model, takes=takes), variables, image_shape)
        return TrainedRun(path, model, variables, class_names, image_shape, takes, result)


def read_task(record: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[int, int, int]]:
    """The names of the classes and (H, W, C) of the images, as `task.json` and an exported file have them.

    Raises:
      ValueError: they are something else.
    """
    names, shape = record["class_names"], record["image_shape"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"class_names is {names!r}, no list of names"[:200])
    if not isinstance(shape, list) or len(shape) != 3 or not all(type(n) is int and 0 < n < 2**31 for n in shape):
        raise ValueError(f"image_shape is {shape!r}, not [H, W, C]"[:200])
    return tuple(names), tuple(shape)


def check_fits(apply: Callable, variables: PyTree, image_shape: tuple[int, int, int]) -> None:
    """Traces a prediction, which computes nothing: raises what flax or jax do where weights, network and images differ.

    Args:
      apply: `apply(variables, images, train=False)`.
      variables, image_shape: what it is about to be given.
    """
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    jax.eval_shape(lambda variables, images: apply(variables, images, train=False), variables, images)


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
