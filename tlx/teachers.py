"""Teachers: the networks, or the file, whose logits a student learns from.

What a teacher says of a batch is a set of columns of it, "teacher_logits" and what goes with them. They are computed
just before the step (`make_teach`), or once, and kept (`record_dtype`, `pack`); the step reads them (`make_reader`).
"""

import dataclasses
import math
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import logsumexp

from tlx import ensemble, kept, models, npz, pretrained
from tlx.data.view import look, view_keys
from tlx.errors import UserError, did_you_mean

PyTree = Any
SEES = ("student", "clean")


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A network that teaches.

    Attributes:
      name: where it is from.
      model_name: of its architecture.
      model, takes, variables: the linen module, its input, and {"params", "batch_stats"}.
      class_names: of its outputs, in order; () = not known, as of published weights.
      digest: of its weights.
    """

    name: str
    model_name: str
    model: nn.Module
    takes: models.Input
    variables: PyTree
    class_names: tuple[str, ...]
    digest: str

    def make_apply(self, level: str = "") -> Callable:
        """As `tlx.models.make_apply`."""
        return models.make_apply(self.model, takes=self.takes, level=level)

    @property
    def identity(self) -> list[Any]:
        """All that its logits are a function of, beside the image; as JSON has it."""
        return [self.digest, self.model_name, dataclasses.asdict(self.takes), jnp.dtype(self.model.dtype).name]

    def check(self, *, image_shape: Sequence[int], class_names: Sequence[str], logits: bool) -> None:
        """Raises UserError unless it takes such images and, where its `logits` matter, tells these classes apart."""
        self.takes.check(tuple(image_shape), whose=f"the teacher {self.name}")
        if not logits:
            return
        if self.class_names and tuple(class_names) != self.class_names:
            raise UserError(
                f"{self.name} tells {', '.join(self.class_names)} apart, the data have {', '.join(class_names)}: a "
                "teacher must have its student's classes"
            )
        if self.model.num_classes != len(class_names):
            raise UserError(
                f"{self.name} tells {self.model.num_classes} classes apart, the data have {len(class_names)}: a "
                "teacher must have its student's classes (with loss.alpha 0 it may teach features alone)"
            )


def load(*, run: str, runs: Sequence[str], published: Mapping[str, Any]) -> tuple[Teacher, ...]:
    """The networks that a config names.

    Args:
      run: the folder of a finished run; "" = none.
      runs: of several.
      published: the arguments of `tlx.pretrained.load_published`: the model's "name", "weights" ("" = none), ...

    Raises:
      UserError: whatever is wrong with a run or a file of weights.
    """
    if published["weights"]:
        options = dict(published)
        name, weights = options.pop("name"), options.pop("weights")
        source = pretrained.load_published(name, weights, **options)
        model = models.build(name, num_classes=len(source.variables["params"]["head"]["bias"]))
        return (Teacher(source.name, name, model, source.takes, source.variables, (), source.digest),)
    return tuple(_from_run(path) for path in ((run,) if run else runs))


def _from_run(path: str) -> Teacher:
    run = pretrained.load_run(path)
    return Teacher(
        name=run.name,
        model_name=run.result["selected"]["model"]["name"],
        model=run.model,
        takes=run.takes,
        variables=run.variables,
        class_names=run.class_names,
        digest=run.result["selected"]["digest"],
    )


def make_teach(
    *, applies: Sequence[Callable], view: Callable, sees: str = "student", features: bool = False
) -> Callable:
    """Builds `teach(variables, batch, rng, step) -> columns`: what M teachers say of a batch.

    Args:
      applies: of each teacher, from `tlx.models.make_apply`; with `features`, of one that returns a level too.
      view: the student's.
      sees: "student", the view that the student sees at this step; "clean", the image as it is.
      features: whether to return "teacher_features".

    Returns:
      A function of the teachers' variables (a tuple), a batch, the phase's root key and the step's number. It returns
      {"teacher_logits": float32 [B, M, K]} and, with `features`, {"teacher_features": float32 [B, D]}.
    """

    def teach(variables: tuple, batch: Mapping[str, jax.Array], root: jax.Array, step: jax.Array) -> dict:
        if sees == "clean":
            images = view(batch["image"], batch["slot"], None)
        else:
            images = look(view, batch, view_keys(root, step))
        outs = [apply(v, images, train=False)[0] for apply, v in zip(applies, variables, strict=True)]
        if not features:
            return {"teacher_logits": jnp.stack(outs, axis=1)}
        ((logits, found),) = outs
        return {"teacher_logits": logits[:, None], "teacher_features": found}

    return teach


def make_reader(*, num_classes: int, weights: Sequence[float] = (), by: str = "probabilities") -> Callable:
    """Builds `teach(batch, temperature) -> float32 [B, K]`, the teachers' joint logits, from a batch's columns.

    Args:
      num_classes: K.
      weights, by: see `ensemble.combine_teachers`.
    """

    def teach(batch: Mapping[str, jax.Array], temperature: jax.Array | float) -> jax.Array:
        logits = batch["teacher_logits"].astype(jnp.float32)  # [B, M, K], or their k largest
        if "teacher_index" in batch:
            # What is known of the others is how much they have together: each gets the same share of it.
            share = batch["teacher_rest"].astype(jnp.float32) - math.log(num_classes - logits.shape[-1])  # [B, M]
            others = jnp.broadcast_to(share[..., None], (*share.shape, num_classes))
            put = jax.vmap(jax.vmap(lambda row, index, top: row.at[index].set(top)))
            logits = put(others, batch["teacher_index"], logits)
        return ensemble.combine_teachers(logits, temperature, weights=weights or None, by=by)

    return teach


def record_dtype(columns: Mapping[str, jax.ShapeDtypeStruct], *, dtype: str, top_k: int) -> np.dtype:
    """What is kept of each row.

    Args:
      columns: what `make_teach` returns, or its shapes.
      dtype: "float32" or "float16".
      top_k: keep the k largest logits of each teacher with their classes, and of the others the logarithm of the sum of
        their exponentials, which `make_reader` shares out evenly: their mass is right at T = 1, and nearly so at
        others; 0 = all of them.

    Raises:
      UserError: `top_k` or `dtype` is out of range.
    """
    _, teachers, classes = columns["teacher_logits"].shape
    check_record(dtype=dtype, top_k=top_k, num_classes=classes)
    if 0 < top_k < classes:
        fields = [
            ("teacher_index", np.int32, (teachers, top_k)),
            ("teacher_logits", dtype, (teachers, top_k)),
            ("teacher_rest", dtype, (teachers,)),
        ]
    else:
        fields = [("teacher_logits", dtype, (teachers, classes))]
    if "teacher_features" in columns:
        fields.append(("teacher_features", dtype, columns["teacher_features"].shape[1:]))
    return np.dtype(fields)


def check_record(*, dtype: str, top_k: int, num_classes: int) -> None:
    """Raises UserError for options of `record_dtype` that are out of range."""
    kept.check_dtype(dtype)
    if not 0 <= top_k <= num_classes:
        raise UserError(f"cache.top_k is {top_k}: with {num_classes} classes it must be 0 (all) to {num_classes}")


def pack(columns: Mapping[str, np.ndarray], dtype: np.dtype) -> np.ndarray:
    """The columns of some rows as `record_dtype` has them; raises UserError for what it cannot hold."""
    columns = dict(columns)
    if "teacher_index" in dtype.names:
        logits = columns["teacher_logits"]
        k = dtype["teacher_index"].shape[-1]
        order = np.argsort(-logits, axis=-1, kind="stable")
        columns["teacher_index"] = order[..., :k]
        columns["teacher_logits"] = np.take_along_axis(logits, order[..., :k], -1)
        columns["teacher_rest"] = logsumexp(np.take_along_axis(logits, order[..., k:], -1), axis=-1)
    packed = np.empty(len(columns["teacher_logits"]), dtype)
    for name in dtype.names:
        base = dtype[name].base
        values = columns[name]
        packed[name] = values if base.kind == "i" else kept.cast(values, base, what=name.replace("_", "'s ", 1))
    return packed


def read_logits(
    path: str | os.PathLike, *, labels: np.ndarray, labeled: np.ndarray, num_classes: int, fingerprint: str
) -> np.ndarray:
    """A file of logits for the images of a training set, in its order.

    Args:
      path: an .npy of [N, K], or of [N, M, K] for an ensemble of M; or an .npz with these as "logits" and, best,
        "fingerprint", the data's (`tlx.data.source.fingerprint`).
      labels: int [N], the training set's.
      labeled: indices of those that may be looked at.
      num_classes: K.
      fingerprint: of the data.

    Returns:
      [N, M, K], a memory map where it is an .npy.

    Raises:
      UserError: no such file; another shape; a value that is not finite; made for other data; or, for want of a
        fingerprint, no more right about the labels than in a random order.
    """
    path = pathlib.Path(path).expanduser()
    if path.suffix not in (".npy", ".npz") or not path.exists():
        raise UserError(f"teacher.logits is {path}: name an existing .npy, or an .npz that holds logits")
    made_for = ""
    try:
        if path.suffix == ".npz":
            npz.check(path)
            with np.load(path, allow_pickle=False) as arrays:
                made_for = str(arrays["fingerprint"]) if "fingerprint" in arrays else ""
                found = arrays["logits"]
        else:
            found = np.lib.format.open_memmap(path, mode="r")
    except Exception as e:  # zipfile, zlib, tokenize and numpy raise a dozen types between them
        raise UserError(f"teacher.logits: {path} is no file of logits ({e}): save it by np.save or np.savez") from None
    if found.shape[:1] + found.shape[-1:] != (len(labels), num_classes) or found.ndim > 3 or found.dtype.kind != "f":
        raise UserError(
            f"teacher.logits: {path} is {found.dtype} {list(found.shape)}; the {len(labels):,} training images and "
            f"{num_classes} classes need floats [{len(labels)}, {num_classes}], or for an ensemble of M "
            f"[{len(labels)}, M, {num_classes}]"
        )
    found = found.reshape(len(labels), -1, num_classes)
    if (bad := np.flatnonzero(~np.isfinite(found).all((1, 2)))).size:
        raise UserError(f"teacher.logits: {path} has a value that is not finite in row {bad[0]}")
    if made_for and made_for != fingerprint:
        raise UserError(f"teacher.logits: {path} was made for other data, or for another order of them")
    predicted, true = np.argmax(found[labeled].mean(1), -1), labels[labeled]
    right = float(np.mean(predicted == true))
    count = lambda classes: np.bincount(classes, minlength=num_classes) / len(labeled)
    chance = float(count(predicted) @ count(true))
    if not made_for and right <= chance + 3 * math.sqrt(chance * (1 - chance) / len(labeled)):
        raise UserError(
            f"teacher.logits: {path} is right about {100 * right:.1f} % of the labelled images, and would be about "
            f"{100 * chance:.1f} % in a random order: it must be in the order of the training set"
        )
    return found


def save_logits(path: str | os.PathLike, logits: np.ndarray, *, fingerprint: str) -> None:
    """Writes a file that `read_logits` takes, with the data that it is about.

    The logits of the training images `data.train.images` of `data = tlx.data.source.load(...)`, in their order, and
    `fingerprint=tlx.data.source.fingerprint(data)`. The logarithm of any classifier's probabilities is such logits.
    """
    np.savez(path, logits=logits, fingerprint=fingerprint)


def check_sees(sees: str) -> None:
    """Raises UserError for a word that is none of SEES."""
    if sees not in SEES:
        raise UserError(f"teacher.sees is {sees!r}{did_you_mean(sees, SEES)}: use {' or '.join(SEES)}")
