"""Iterated noisy-student self-training (Xie et al. 2020, "Self-training with Noisy Student improves ImageNet").

teacher <- train on the labels
repeat `rounds` times:
    the teacher labels the unlabelled images, clean
    student <- fresh; train it, noised, on the teacher's labels, on its own consistency and on the true labels
    teacher <- student, if it is better on validation
"""

import os
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from tlx import config as config_lib
from tlx import ledger, progress, promotion, pseudo_label, steps
from tlx.errors import UserError
from tlx.models.options import check_choice
from tlx.promotion import Verdict
from tlx.pseudo_label import PseudoLabels
from tlx.recipes import unlabeled
from tlx.recipes.generations import record
from tlx.recipes.labels import pseudo_labels, write_gallery
from tlx.recipes.learner import Learner, Trained, make_learner
from tlx.recipes.run import Run, finish, finished, open_run
from tlx.recipes.unlabeled import Pool
from tlx.workdir import canonical

FIRST = Verdict(promoted=True, reason="the first, trained on the labels", p_value=None)


def default_config() -> ConfigDict:
    config = unlabeled.base("self_train")
    config.rounds = 3
    config.patience = 0  # stop after this many refusals in a row; 0 = run every round
    config.promotion = {
        "test": "better",  # than its teacher on validation; or better by the test "mcnemar" or "bootstrap"
        "level": 0.05,  # of those: the p-value to be below
    }
    config.teacher = config_lib.learner()
    config.student = unlabeled.learner()
    config.student.scale = (1.0,)  # every width of the student times this, a number a round; the last one repeats
    config.student.start = "fresh"  # or "teacher": from its weights
    config.pseudo_label = {
        "kind": "soft",  # or "hard"
        "temperature": 1.0,  # of the teacher's distribution; below 1 it is sharpened
        "threshold": 0.0,  # the least confidence that counts
        "flexible": False,  # lower the threshold for classes that few images reach it in
        "align": False,  # make the classes as frequent among the pseudo-labels as among the labels
        "drop_below": 0.0,  # images with a lower confidence are left out altogether, as of no class that is known
        "per_class": 0,  # draw from so many images of each class, the surest or copies; 0 = from all as they are
        "most_copies": 10,  # of an image, in such a class
        "noised": False,  # the teacher labels noised images, and is noised itself: to show that it hurts
    }
    config.loss = {
        "temperature": 1.0,
        "alpha": 1.0,
        "beta": 0.0,
        "consistency": 0.0,
        "labeled": 1.0,
        "schedules": {},  # changes of these over a round: name -> options of `tlx.loss_schedule`
    }
    return config


def run(
    config: Mapping[str, Any], workdir: str | os.PathLike, *, overwrite: bool = False, from_round: int = 0
) -> dict[str, Any]:
    """Runs the recipe, or goes on with it, and returns its result (what `result.json` holds).

    `from_round` N enters a finished or unfinished run again at round N: see `tlx.reentry`.
    """
    config = config_lib.resolve(config, default_config())
    _check(config)
    with open_run(config, workdir, overwrite=overwrite, from_round=from_round) as run:
        if run.result:
            ledger.read(run.workdir / "ledger.json")  # whether it is as it was written
            return finished(run)
        images = unlabeled.pool(run)
        teacher_learner = make_learner(run, "teacher", config.teacher, make_step=steps.make_supervised_step)
        students = _students(run)

        best = teacher_learner.fit(
            "teacher",
            variables=teacher_learner.init("teacher"),
            store=run.labeled_store(),
            streams=[run.stream(run.splits.labeled, config.teacher.train.batch_size, "teacher/labeled")],
            meta={"round": 0},
        )
        rounds = [record(run, 0, best, FIRST, images=images)]
        refused = 0
        for number, learner in enumerate(students, 1):
            labels = pseudo_labels(run, best, number, images)
            student = _fit_student(run, learner, number, labels, images, best)
            verdict = promotion.compare(
                best.correct,
                student.correct,
                teacher_loss=best.figures["validation_loss"],
                student_loss=student.figures["validation_loss"],
                **run.config_of(number).promotion,
            )
            rounds.append(record(run, number, student, verdict, images=images, labels=labels, teacher=best))
            refused = 0 if verdict.promoted else refused + 1
            best = student if verdict.promoted else best
            if config.patience and refused == config.patience:
                progress.say(f"stopped: {refused} students in a row were no better (patience)")
                break
        write_gallery(run, labels, images)
        return finish(run, best, rounds=rounds)


def _students(run: Run) -> list[Learner]:
    """A learner a round. Rounds of the same network and options share one, and with it its compiled step."""
    made: dict[str, Learner] = {}
    learners = []
    for number in range(1, run.config.rounds + 1):
        config = run.config_of(number)
        scale = config.student.scale[min(number, len(config.student.scale)) - 1]
        hard = config.pseudo_label.kind == "hard"
        key = canonical([scale, hard, *(config[name].to_dict() for name in ("student", "loss", "consistency"))])
        if key not in made:
            role = "student" if scale == 1 else f"student, {scale:g} times as wide"
            made[key] = unlabeled.make_student(
                run, role, config, config.student, hard=hard, scale=scale, name="student."
            )
        learners.append(made[key])
    return learners


def _fit_student(
    run: Run, learner: Learner, number: int, labels: PseudoLabels, images: Pool, teacher: Trained
) -> Trained:
    config, phase = run.config_of(number), f"round_{number}"
    sharpened = pseudo_label.sharpen(labels.logits, config.pseudo_label.temperature)
    given = unlabeled.lessons(
        run,
        config.student,
        phase,
        images,
        drawn=labels.index[labels.drawn],
        teacher_logits=images.scatter(labels.index, sharpened),
        teacher_weight=images.scatter(labels.index, labels.weight),
    )
    return learner.fit(
        phase,
        variables=teacher.variables if config.student.start == "teacher" else learner.init(phase),
        meta={"round": number, "teacher": labels.teacher},
        **given,
    )


def _check(config: ConfigDict) -> None:
    """What no other room would notice, or only after the teacher was trained."""
    section, labels = config.student, config.pseudo_label.to_dict()
    if config.rounds < 1:
        raise UserError(f"rounds is {config.rounds}: it must be >= 1 (use the recipe supervised for a teacher alone)")
    if config.patience < 0:
        raise UserError(f"patience is {config.patience}: it must be >= 0 (0 = run every round)")
    promotion.check_options(**config.promotion)
    if not section.scale or min(section.scale) <= 0:
        raise UserError(f"student.scale is {section.scale}: it needs a number > 0 for each round, or one for all")
    check_choice("student.start", section.start, ("fresh", "teacher"))
    if section.start == "teacher" and (set(section.scale) != {1.0} or section.model != config.teacher.model):
        raise UserError(
            "student.start is 'teacher', and the student is another network: set student.model to the teacher's and "
            "student.scale to (1.0,), or start it fresh"
        )
    unlabeled.check(config, section, name="student.")
    kind = check_choice("pseudo_label.kind", labels["kind"], ("soft", "hard"))
    pseudo_label.check_options(**{key: v for key, v in labels.items() if key not in ("kind", "align", "noised")})
    loss = config.loss
    taught = {name: loss[name] or name in loss.schedules for name in ("alpha", "beta")}
    if not any(taught.values()):
        raise UserError("loss.alpha and loss.beta are both 0, so no teacher is listened to: set one of them above 0")
    if kind == "hard" and taught["alpha"]:
        raise UserError(
            f"pseudo_label.kind is 'hard', but loss.alpha is {loss.alpha}, the weight of the soft distribution: set "
            "loss.alpha to 0 and loss.beta to 1"
        )
