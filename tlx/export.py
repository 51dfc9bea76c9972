"""A finished run as one file that predicts: `python -m tlx.export RUN --format=stablehlo|safetensors [--out=FILE]`.

stablehlo    a program, weights inside, for CPU, CUDA and TPU: float32 images [B, H, W, C] in [0, 1], of any number, to
             float32 logits [B, K], resizing and normalisation included. Runs with jax alone, without tlx
             (`jax.export.deserialize`). A JSON of the same name beside it says what goes in and comes out.
safetensors  the weights by their paths, "params/backbone/...", for other programs; the header says of what network.

`load` takes either back and predicts what the run does: on CPU bit for bit, which is tested. What training alone uses,
anything in `params` beside backbone and head, is left out.
"""

import argparse
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from flax import traverse_util

from tlx import models, progress
from tlx.data.augment import to_float
from tlx.data.source import check_examples
from tlx.errors import UserError, did_you_mean, reading
from tlx.pretrained import TrainedRun, load_run, rebuild, weights
from tlx.pretrained.run import network_only, read_task
from tlx.workdir import read_json, write_bytes, write_json

PyTree = Any

PLATFORMS = ("cpu", "cuda", "tpu")
_KEY = "tlx"  # of the safetensors header


@dataclasses.dataclass(frozen=True)
class Exported:
    """A network read back from one file.

    Attributes:
      class_names: of the outputs, in order.
      image_shape: (H, W, C) of the images that it takes.
      digest: of the weights, as `result.json` of the run has it.
      call: compiled for each number of images: float32 [B, H, W, C] in [0, 1] -> float32 logits [B, K].
    """

    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    digest: str
    call: Callable[[jax.Array], jax.Array]

    def predict(self, images: np.ndarray) -> np.ndarray:
        """float32 logits [B, K] of images [B, H, W, C], uint8 or float in [0, 1].

        Raises:
          UserError: images of another shape or type, or out of range.
        """
        check_examples(images, np.zeros(len(images), np.int32), len(self.class_names))
        if images.shape[1:] != self.image_shape:
            raise UserError(
                f"the exported network takes images {list(self.image_shape)}, these are {list(images.shape[1:])}"
            )
        return np.asarray(self.call(to_float(jnp.asarray(images))))


def save(run: TrainedRun, path: str | os.PathLike, *, format: str) -> pathlib.Path:
    """Exports a run's network, and returns the path.

    Args:
      run: from `tlx.pretrained.load_run`.
      path: of the file, which must not exist yet.
      format: one of FORMATS.

    Raises:
      UserError: an unknown format, a file that exists, a folder that cannot be written.
    """
    if format not in FORMATS:
        raise UserError(f"format {format!r} is unknown{did_you_mean(format, FORMATS)}: use {' or '.join(FORMATS)}")
    path = pathlib.Path(path).expanduser()
    for file in (path, _beside(path)) if format == "stablehlo" else (path,):
        if file.exists():
            raise UserError(f"{file} exists: delete it, or name another file with --out")
    try:
        FORMATS[format](run, path)
    except OSError as e:
        raise UserError(f"{path} cannot be written ({e.strerror}): name another file with --out") from None
    return path


def load(path: str | os.PathLike) -> Exported:
    """Reads an exported network of either format, told apart by content.

    Raises:
      UserError: no such file, a damaged one, one that `save` did not write, or for another platform than this one's.
    """
    path = pathlib.Path(path).expanduser()
    if path.is_dir():
        raise UserError(f"{path} is a folder: name the exported file, such as {path / 'export' / 'model.stablehlo'}")
    with reading(path):
        content = path.read_bytes()
    about, call = (_load_safetensors if content[8:9] == b"{" else _load_stablehlo)(path, content)
    with reading(path, remedy="it, or the JSON beside it, is damaged: export the run again"):
        class_names, image_shape = read_task(about)
        logits = jax.eval_shape(call, jax.ShapeDtypeStruct((1, *image_shape), jnp.float32))
        if logits.shape != (1, len(class_names)):
            raise ValueError(f"{len(class_names)} names of classes for logits {list(logits.shape)}")
        return Exported(class_names, image_shape, about["digest"], call)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tlx.export", description=__doc__.splitlines()[0])
    parser.add_argument("run", help="the folder of a finished run")
    parser.add_argument("--format", default="stablehlo", help=f"{' or '.join(FORMATS)} (stablehlo)")
    parser.add_argument("--out", help="the file to write (RUN/export/model.FORMAT)")
    options = parser.parse_args(argv)
    try:
        run = load_run(options.run)
        path = save(run, options.out or run.path / "export" / f"model.{options.format}", format=options.format)
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    progress.say(f"{path}: {path.stat().st_size / 1e6:.3g} MB, images {list(run.image_shape)}")
    return 0


def _save_stablehlo(run: TrainedRun, path: pathlib.Path) -> None:
    apply, variables = run.make_apply(), network_only(run.variables)
    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *run.image_shape), jnp.float32)
    # Behind the barrier the weights are no constants, from which XLA would compute BatchNorm's factors when it
    # compiles, and round otherwise than in the run's program: on EfficientNet-Lite0 by 1e-5 in logits up to 7, and in
    # bfloat16 by 0.04. It costs about 5 % of the latency of one image on a CPU core.
    predict = jax.jit(lambda images: apply(jax.lax.optimization_barrier(variables), images, train=False)[0])
    content = bytes(jax.export.export(predict, platforms=PLATFORMS)(images).serialize())
    # The program first: without its JSON it is not taken for whole.
    write_bytes(path, content)
    write_json(_beside(path), _about(run) | {"platforms": PLATFORMS, "sha256": hashlib.sha256(content).hexdigest()})


def _load_stablehlo(path: pathlib.Path, content: bytes) -> tuple[dict[str, Any], Callable]:
    if not _beside(path).exists():
        raise UserError(f"{path} is no exported network, or {_beside(path).name}, which was beside it, is missing")
    about = read_json(_beside(path))
    platform = jax.default_backend().replace("gpu", "cuda")
    with reading(path):
        if about.get("sha256") != hashlib.sha256(content).hexdigest():
            raise UserError(f"{path} is damaged, or not what {_beside(path).name} is about: export the run again")
        if platform not in about["platforms"]:
            raise UserError(f"{path} is for {', '.join(about['platforms'])}, not for {platform}: load it there")
        return about, jax.jit(jax.export.deserialize(bytearray(content)).call)


def _save_safetensors(run: TrainedRun, path: pathlib.Path) -> None:
    flat = traverse_util.flatten_dict(network_only(run.variables), sep="/")
    tensors = {name: np.ascontiguousarray(value) for name, value in flat.items()}
    write_bytes(path, safetensors.numpy.save(tensors, metadata={_KEY: json.dumps(_about(run))}))


def _load_safetensors(path: pathlib.Path, content: bytes) -> tuple[dict[str, Any], Callable]:
    tensors = weights.read(path)
    with reading(path):
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
        if _KEY not in metadata:
            raise UserError(f"{path} was not written by tlx.export: weights to start from go into config.init.weights")
        about = json.loads(metadata[_KEY])
        model, takes = rebuild(about, num_classes=len(about["class_names"]))
    apply = models.make_apply(model, takes=takes)
    predict = jax.jit(lambda variables, images: apply(variables, images, train=False)[0])
    return about, functools.partial(predict, traverse_util.unflatten_dict(tensors, sep="/"))


def _about(run: TrainedRun) -> dict[str, Any]:
    """What a file says of the network in it."""
    selected = run.result["selected"]
    return {
        "class_names": run.class_names,
        "image_shape": run.image_shape,
        "images": "float32 [batch, height, width, channel] in [0, 1]",
        "outputs": "float32 logits [batch, class]",
        **{name: selected[name] for name in ("model", "takes", "dtype", "digest")},
    }


def _beside(path: pathlib.Path) -> pathlib.Path:
    return path.with_suffix(".json")


FORMATS = {"stablehlo": _save_stablehlo, "safetensors": _save_safetensors}


if __name__ == "__main__":
    sys.exit(main())
