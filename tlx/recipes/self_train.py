"""Iterated noisy-student self-training (Xie et al. 2020, "Self-training with Noisy Student improves ImageNet").

teacher <- train on the labels
repeat `rounds` times:
    the teacher labels the unlabelled images, clean
    student <- fresh; train it, noised, on the teacher's labels, on its own consistency and on the true labels
    teacher <- student, if it is better on validation
"""

import dataclasses
import functools
import io
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from tlx import config as config_lib
from tlx import progress, pseudo_label, steps
from tlx.data.augment import make_augment, to_float
from tlx.errors import UserError
from tlx.promotion import compare
from tlx.recipes.learner import Learner, Trained, make_learner
from tlx.recipes.run import Run, finish, finished, open_run
from tlx.workdir import write_bytes


def default_config() -> ConfigDict:
    config = config_lib.base("self_train")
    config.rounds = 3
    config.patience = 0  # stop after this many refusals in a row; 0 = run every round
    config.teacher = config_lib.learner()
    config.student = config_lib.learner()  # its train.batch_size counts labelled images
    config.student.scale = (1.0,)  # every width of the student times this, a number a round; the last one repeats
    config.student.unlabeled_ratio = 5.0  # unlabelled images for each labelled one in a batch
    config.pseudo_label = {
        "kind": "soft",  # or "hard"
        "threshold": 0.0,  # the least confidence that counts
        "align": False,  # make the classes as frequent among the pseudo-labels as among the labels
    }
    config.loss = {"temperature": 1.0, "alpha": 1.0, "beta": 0.0, "consistency": 0.0, "labeled": 1.0}
    return config


def run(config: Mapping[str, Any], workdir: str | os.PathLike, *, overwrite: bool = False) -> dict[str, Any]:
    """Runs the recipe, or goes on with it, and returns its result (what `result.json` holds)."""
    config = config_lib.resolve(config, default_config())
    _check(config)
    with open_run(config, workdir, overwrite=overwrite) as run:
        if run.result:
            return finished(run)
        teacher_learner = make_learner(run, "teacher", config.teacher, make_step=steps.make_supervised_step)
        students = _students(run)

        best = teacher_learner.fit(
            "teacher",
            variables=teacher_learner.init("teacher"),
            store=run.labeled_store(),
            streams=[run.stream(run.splits.labeled, config.teacher.train.batch_size, "teacher/labeled")],
            meta={"round": 0},
        )
        rounds = [_row(0, "teacher", best, promoted=True, reason="the first, trained on the labels", p_value=None)]
        progress.say(_line(rounds[0]))
        refused = 0
        for number, learner in enumerate(students, 1):
            labels = _pseudo_labels(run, best, number)
            student = _fit_student(run, learner, number, labels)
            verdict = compare(
                best.correct,
                student.correct,
                teacher_loss=best.figures["validation_loss"],
                student_loss=student.figures["validation_loss"],
            )
            row = _row(number, f"student {number}", student, **dataclasses.asdict(verdict))
            rounds.append(row | {"taught_by": best.phase, **labels.summary(run.dataset.train.labels)})
            progress.say(_line(rounds[-1]))
            refused = 0 if verdict.promoted else refused + 1
            best = student if verdict.promoted else best
            if config.patience and refused == config.patience:
                progress.say(f"stopped: {refused} students in a row were no better (patience)")
                break
        _write_gallery(run, labels)
        return finish(run, best, rounds=rounds)


def _students(run: Run) -> list[Learner]:
    """A learner a round. Rounds of the same size share one, and with it its compiled step."""
    config, section = run.config, run.config.student
    made: dict[float, Learner] = {}
    scales = [section.scale[min(number, len(section.scale) - 1)] for number in range(config.rounds)]
    for scale in scales:
        if scale not in made:
            made[scale] = make_learner(
                run,
                "student" if scale == 1 else f"student, {scale:g} times as wide",
                section,
                scale=scale,
                make_step=functools.partial(
                    steps.make_self_train_step, hard=config.pseudo_label.kind == "hard", **config.loss
                ),
                streams={
                    "student.train.batch_size": section.train.batch_size,
                    "student.train.batch_size * unlabeled_ratio": _unlabeled_size(section),
                },
            )
    return [made[scale] for scale in scales]


def _pseudo_labels(run: Run, teacher: Trained, number: int) -> pseudo_label.PseudoLabels:
    """The teacher's logits on the unlabelled images, computed once for the round and kept with the run."""
    path = run.workdir / "pseudo_labels" / f"round_{number}.npz"
    run.preemption.check()
    index = run.splits.unlabeled
    if path.exists():
        labels = pseudo_label.load(path)
        if labels.teacher == teacher.digest:
            return labels
    with run.clock.measure("pseudo_label"):
        _, logits = teacher.learner.predict(teacher.variables, run.labeled_store(), index)
        labels = pseudo_label.make(
            index,
            logits,
            teacher=teacher.digest,
            threshold=run.config.pseudo_label.threshold,
            prior=_class_frequencies(run) if run.config.pseudo_label.align else None,
        )
        pseudo_label.save(labels, path)
    for line in labels.warnings():
        progress.say(f"[yellow]round {number}: {line}[/yellow]")
    return labels


def _class_frequencies(run: Run) -> np.ndarray:
    """Of the labelled images, [K]."""
    counts = np.bincount(run.dataset.train.labels[run.splits.labeled], minlength=run.num_classes)
    return counts / counts.sum()


def _fit_student(run: Run, learner: Learner, number: int, labels: pseudo_label.PseudoLabels) -> Trained:
    section, phase = run.config.student, f"round_{number}"
    count = len(run.dataset.train)
    store = run.labeled_store(
        labeled=_scatter(run.splits.labeled, np.ones(len(run.splits.labeled), np.int8), count),
        teacher_logits=_scatter(labels.index, labels.logits, count),
        teacher_weight=_scatter(labels.index, labels.weight, count),
    )
    return learner.fit(
        phase,
        variables=learner.init(phase),
        store=store,
        streams=[
            run.stream(run.splits.labeled, section.train.batch_size, f"{phase}/labeled"),
            run.stream(run.splits.unlabeled, _unlabeled_size(section), f"{phase}/unlabeled"),
        ],
        meta={"round": number, "teacher": labels.teacher},
    )


def _write_gallery(run: Run, labels: pseudo_label.PseudoLabels, count: int = 16) -> None:
    """The pseudo-labels of the last round that the teacher was most and least sure of, for the report."""
    order = np.argsort(-labels.confidence, kind="stable")
    arrays = {}
    for name, picked in (("most_sure", order[:count]), ("least_sure", order[::-1][:count])):
        index = labels.index[picked]
        arrays |= {
            f"{name}_images": np.asarray(run.dataset.train.images[index]),
            f"{name}_label": np.argmax(labels.logits[picked], -1),
            f"{name}_confidence": labels.confidence[picked],
            f"{name}_truth": run.dataset.train.labels[index],
        }
    images = to_float(np.asarray(run.dataset.train.images[run.splits.unlabeled[:count]]))
    noise = make_augment(**run.config.student.augment)
    arrays["student_view_images"] = noise(run.rng, images, np.arange(len(images), dtype=np.int32))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{name: np.asarray(array) for name, array in arrays.items()})
    write_bytes(run.workdir / "gallery.npz", buffer.getvalue())


def _check(config: ConfigDict) -> None:
    """What no other room would notice, or only after the teacher was trained."""
    if config.rounds < 1:
        raise UserError(f"rounds is {config.rounds}: it must be >= 1 (use the recipe supervised for a teacher alone)")
    if config.patience < 0:
        raise UserError(f"patience is {config.patience}: it must be >= 0 (0 = run every round)")
    if not config.data.labels_per_class:
        raise UserError("data.labels_per_class is 0, so nothing is unlabelled: set how many labels a class has")
    if not config.student.scale or min(config.student.scale) <= 0:
        raise UserError(
            f"student.scale is {config.student.scale}: it needs a number > 0 for each round, or one for all"
        )
    if config.student.unlabeled_ratio <= 0:
        raise UserError(f"student.unlabeled_ratio is {config.student.unlabeled_ratio}: it must be > 0")
    kinds = ("soft", "hard")
    if config.pseudo_label.kind not in kinds:
        raise UserError(f"pseudo_label.kind is {config.pseudo_label.kind!r}: use {' or '.join(kinds)}")
    pseudo_label.check_threshold(config.pseudo_label.threshold)


def _unlabeled_size(section: ConfigDict) -> int:
    return round(section.train.batch_size * section.unlabeled_ratio)


def _scatter(index: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    """`values` at rows `index` of `count` rows of zeros."""
    rows = np.zeros((count, *values.shape[1:]), values.dtype)
    rows[index] = values
    return rows


def _row(number: int, role: str, trained: Trained, *, promoted: bool, reason: str, p_value: float | None) -> dict:
    """One row of the table of rounds."""
    return {
        "round": number,
        "role": role,
        "model": trained.learner.options["name"],
        "parameters": trained.learner.parameters,
        "step": trained.step,
        **trained.figures,
        "promoted": promoted,
        "reason": reason,
        "p_value": p_value,
        "phase": trained.phase,
        "digest": trained.digest,
    }


def _line(row: dict[str, Any]) -> str:
    verdict = "[green]promoted[/green]" if row["promoted"] else "[yellow]refused[/yellow]"
    return (
        f"round {row['round']}: {row['role']}  validation {row['validation_accuracy']:.4f}  "
        f"test {row['test_accuracy']:.4f}  {verdict}: {row['reason']}"
    )
