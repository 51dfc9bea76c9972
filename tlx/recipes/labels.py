"""What a run's teacher says of the unlabelled images: once a round, kept with the run, and diagnosed."""

import io
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from tlx import hosts, progress, pseudo_diagnostics, pseudo_label, rng
from tlx.data.augment import make_augment, to_float
from tlx.data.view import look, make_view, view_keys
from tlx.pseudo_label import PseudoLabels
from tlx.recipes.learner import Trained
from tlx.recipes.run import Run
from tlx.recipes.unlabeled import Pool
from tlx.workdir import write_bytes


def pseudo_labels(run: Run, teacher: Trained, number: int, images: Pool) -> PseudoLabels:
    """Those of round `number`, made or taken from disk."""
    path, options = labels_path(run, number), run.config.pseudo_label
    run.preemption.check()
    if path.exists():
        labels = pseudo_label.load(path)
        if labels.teacher == teacher.digest:
            return labels
    with run.clock.measure("pseudo_label"):
        labels = pseudo_label.make(
            images.unlabeled,
            _noised_logits(run, teacher, number, images) if options.noised else _logits(run, teacher, images),
            teacher=teacher.digest,
            threshold=options.threshold,
            flexible=options.flexible,
            prior=_class_frequencies(run) if options.align else None,
            drop_below=options.drop_below,
            per_class=options.per_class,
            most_copies=options.most_copies,
            seed=(run.config.seed, number, *b"balance"),
        )
        # The diagnosis first: where there are labels, there is one of them.
        said = pseudo_diagnostics.diagnose(labels, images.truth, run.dataset.class_names)
        pseudo_diagnostics.save(said, run.workdir, number)
        pseudo_label.save(labels, path)
        hosts.wait("pseudo-labels")
    for line in labels.warnings():
        progress.say(f"[yellow]round {number}: {line}[/yellow]")
    return labels


def labels_path(run: Run, number: int) -> pathlib.Path:
    """Where the pseudo-labels of a round lie."""
    return run.workdir / "pseudo_labels" / f"round_{number}.npz"


def write_gallery(run: Run, labels: PseudoLabels, images: Pool, count: int = 20) -> None:
    """The images that the teacher was most and least sure of, and what a student sees of some, for the report."""
    order = np.argsort(-labels.confidence, kind="stable")
    arrays = {}
    for name, picked in (("most_sure", order[:count]), ("least_sure", order[::-1][:count])):
        index = labels.index[picked]
        arrays |= {
            f"{name}_images": np.asarray(images.examples.images[index]),
            f"{name}_label": labels.predicted[picked],
            f"{name}_confidence": labels.confidence[picked],
            f"{name}_truth": images.truth[index],
        }
    save_gallery(run, arrays | student_views(run, run.config.student, images, count))


def student_views(run: Run, section: ConfigDict, images: Pool, count: int = 20) -> dict[str, np.ndarray]:
    """Some unlabelled images as a student of `section` sees them, noised and, if it has one, in its weak view."""
    shown = to_float(np.asarray(images.examples.images[images.unlabeled[:count]]))
    place = np.arange(len(shown), dtype=np.int32)
    views = {"student_view": section.augment} | ({"weak_view": section.weak} if section.weak else {})
    return {
        # One program, or each of its operations would be one.
        f"{name}_images": np.asarray(jax.jit(make_augment(**noise))(rng.stream(run.rng, name), shown, place))
        for name, noise in views.items()
    }


def save_gallery(run: Run, arrays: Mapping[str, np.ndarray]) -> None:
    """Images for the report."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_bytes(run.workdir / "gallery.npz", buffer.getvalue())


def _logits(run: Run, teacher: Trained, images: Pool) -> np.ndarray:
    """The teacher's logits [U, K] on the clean images."""
    return teacher.learner.predict(teacher.variables, run.store(images.examples), images.unlabeled)[1]


def _noised_logits(run: Run, teacher: Trained, number: int, images: Pool) -> np.ndarray:
    """The same with the student's noise on the images, and the network's own, such as dropout, on."""
    apply, view = teacher.learner.make_apply(), make_view(**run.config.student.augment)

    def say(variables: Any, batch: Mapping[str, jax.Array], root: jax.Array, step: jax.Array) -> jax.Array:
        noise = rng.at_step(rng.stream(root, "dropout"), step)
        return apply(variables, look(view, batch, view_keys(root, step)), train=True, key=noise)[0]

    program = run.parallelize(say, args=("whole", "batch", "whole", "whole"), out="batch")
    root = rng.stream(run.rng, f"round_{number}/noised_teacher")
    variables = run.place(teacher.variables)
    batches = run.eval_batches(run.store(images.examples), images.unlabeled)
    logits = [hosts.fetch(program(variables, batch, root, np.int32(i))) for i, batch in enumerate(batches)]
    return np.concatenate(logits)[: len(images.unlabeled)]


def _class_frequencies(run: Run) -> np.ndarray:
    """Of the labelled images, [K]."""
    counts = np.bincount(run.dataset.train.labels[run.splits.labeled], minlength=run.num_classes)
    return counts / counts.sum()
