"""Distil one network, or many, into another: `alpha * T^2 * KL(teacher_T || student_T) + beta * CE`.

teacher(s) <- finished runs, published weights, or a file of logits
each of (assistants, then `generations` of the student):
    a fresh network learns from the teacher on the transfer set
    it is the next one's teacher
"""

import functools
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from tlx import config as config_lib
from tlx import ensemble, losses, progress, steps, teachers
from tlx.data.mixup import check_mixup
from tlx.errors import UserError
from tlx.loss_schedule import check_schedules, make_schedules
from tlx.recipes.judgement import compare_networks, judge
from tlx.recipes.learner import Learner, Trained, make_learner
from tlx.recipes.lessons import check_views, feature_width, is_noised, lessons, make_program
from tlx.recipes.run import Run, finish, finished, open_run
from tlx.recipes.transfer import correct_bias, transfer_set
from tlx.teachers import Teacher

Sources = tuple[Teacher, ...] | np.ndarray  # networks, or the logits [N, M, K] of the training set
SCHEDULED = ("temperature", "alpha", "beta")


def default_config() -> ConfigDict:
    config = config_lib.base("distill")
    config.teacher = {  # one of the first four
        "run": "",  # the folder of a finished run
        "runs": (),  # of several: an ensemble
        "published": {
            "name": "",
            "weights": "",
            "key": "",
            "preprocessing": "",
            "image_size": 0,
        },  # a model, as config.init
        "logits": "",  # a file of logits for the training images, see `tlx.teachers.read_logits`
        "combine": "probabilities",  # an ensemble's mean, at T: of "probabilities" or of "logits"
        "weights": (),  # how much each of the ensemble counts; () = as much
        "sees": "student",  # the "student"'s view of an image, or the "clean" image
    }
    config.transfer = {
        "images": "all",  # distil on "labeled" images, on "unlabeled", or on "all", with the labels that there are
        "classes": (),  # on images of these classes only; () = all
        "correct_bias": True,  # then give the other classes the bias that makes fewest errors on validation images
        # Or on the training images of other data altogether, of the same shape; labels are not looked at.
        "data": {"name": "", "idx_dir": "", "folder": "", "data_dir": ""},
        "mixup": 0.0,  # mix images, with shares from Beta(a, a); 0 = off
    }
    config.loss = {
        "kind": "kl",  # of the soft term: "kl", "dkd" (decoupled) or "hard" (the teacher's argmax)
        "temperature": 4.0,
        "alpha": 0.9,  # weight of the soft term
        "beta": 0.1,  # weight of the labels' cross-entropy
        "label_smoothing": 0.0,  # of the latter
        "dkd": (1.0, 8.0),  # weights of the target and of the other classes in "dkd"
        "standardize": False,  # every row of logits to mean 0 and deviation 1 before the soft term
        "features": 0.0,  # weight of the difference between a level of the two networks, through a learned projection
        "schedules": {},  # changes of temperature, alpha, beta over the run: name -> options of `tlx.loss_schedule`
    }
    config.features = {"level": "pooled", "teacher_level": "pooled"}  # the levels that loss.features compares
    config.cache = {
        "teacher": False,  # compute what the teacher says once, and keep it
        "views": 0,  # fixed noised views of each image, taken in turn, one a pass; 0 = new noise at every step
        "dtype": "float32",  # or "float16"
        "top_k": 0,  # keep the k largest logits and the mass of the rest; 0 = all classes
    }
    config.assistants = ()  # networks between the teacher and the student, as options of `models.build`
    config.generations = 1  # of the student, each taught by the one before (born-again networks)
    config.baseline = False  # train the student on the labels alone too, to compare
    config.update(config_lib.learner())  # the student
    return config


def run(config: Mapping[str, Any], workdir: str | os.PathLike, *, overwrite: bool = False) -> dict[str, Any]:
    """Runs the recipe, or goes on with it, and returns its result (what `result.json` holds)."""
    config = config_lib.resolve(config, default_config())
    _check(config)
    named = _networks(config)
    with open_run(config, workdir, overwrite=overwrite) as run:
        if run.result:
            return finished(run)
        first = taught_by = _sources(run, named)
        course, transfer = _course(run, first), transfer_set(run)
        baseline = _baseline(run) if config.baseline else None
        program = functools.cache(functools.partial(make_program, run))  # generations share it
        plain = _fit_baseline(run, baseline) if baseline else None
        students: list[Trained] = []
        for phase, learner in course:
            given = lessons(learner, phase, taught_by=taught_by, program=program, transfer=transfer)
            students.append(learner.fit(phase, variables=learner.init(phase), **given))
            taught_by = (_as_teacher(students[-1]),)
            progress.say(_line(students[-1]))
        more: dict[str, Any] = {"students": [_row(student) for student in students]}
        if config.generations > 1:
            more["ensemble"] = judge(run, students[-config.generations :])
            progress.say(f"all generations together: {_accuracies(more['ensemble'])}; the last one is the run's result")
        student = students[-1]
        if transfer.omitted and config.transfer.correct_bias:
            student, more["bias_correction"] = correct_bias(student, transfer.omitted)
        more["teachers"] = (
            [] if isinstance(first, np.ndarray) else [{"name": t.name, "digest": t.digest} for t in first]
        )
        return finish(run, student, **more, **compare_networks(run, first, [*students[:-1], student], plain))


def build(run: Run) -> tuple[Learner, dict[str, Any]]:
    """The learner of the last phase, and what its `fit` is given if the config's teacher teaches it."""
    _check(run.config)
    taught_by = _sources(run, _networks(run.config))
    phase, learner = _course(run, taught_by)[-1]
    program = functools.partial(make_program, run)
    given = lessons(learner, phase, taught_by=taught_by, program=program, transfer=transfer_set(run))
    return learner, {"variables": learner.init(phase), **given}


def _check(config: ConfigDict) -> None:
    """What no other room would notice, or only when networks are loaded or compiled."""
    teacher, loss = config.teacher, config.loss
    ways = {
        "teacher.run": teacher.run,
        "teacher.runs": teacher.runs,
        "teacher.published.weights": teacher.published.weights,
        "teacher.logits": teacher.logits,
    }
    given = [name for name, value in ways.items() if value]
    if not given:
        raise UserError(f"no teacher is named: set one of {', '.join(ways)}, such as --config.teacher.run=runs/...")
    if len(given) > 1:
        fix = f"keep one, and clear the other, as --config.{given[0]}= does"
        raise UserError(f"{' and '.join(given)} are set: {fix}")
    if teacher.published.weights and not teacher.published.name:
        raise UserError("teacher.published.name is '': name the model that the weights are of, such as resnet50")
    for options in config.assistants:
        if not isinstance(options, Mapping) or "name" not in options:
            raise UserError(
                f"assistants has {options!r}: each is the options of a model, as ({{'name': 'mlp', 'widths': (64,)}},)"
            )
    teachers.check_sees(teacher.sees)
    if config.generations < 1:
        raise UserError(f"generations is {config.generations}: it counts the student's and must be >= 1")
    check_mixup(config.transfer.mixup, "transfer.mixup")
    losses.check_weights(not_all_zero=(), **{"loss.features": loss.features})
    for name, value in (("transfer.mixup", config.transfer.mixup), ("loss.features", loss.features)):
        if value and teacher.logits:
            raise UserError(f"{name} is {value}, but teacher.logits is a file: only a network can tell; set it to 0")
    if teacher.logits and teacher.sees == "student" and is_noised(config):
        raise UserError(
            "teacher.logits is a file, with one row an image, and images are augmented: set teacher.sees to clean if "
            "it is of the clean images, or turn augment off"
        )
    if loss.kind == "hard" and loss.standardize:
        raise UserError("loss.standardize is on, but of a teacher loss.kind=hard takes the argmax alone: turn it off")
    if config.cache.top_k and not config.cache.teacher:
        raise UserError(
            f"cache.top_k is {config.cache.top_k}, but cache.teacher is off, so nothing is kept: set it to 0"
        )
    if teacher.logits and config.cache.teacher:
        raise UserError("cache.teacher is on, but teacher.logits is a file, which is kept already: turn it off")
    # A file teaches the first network alone; the next ones are taught by the one before.
    asked = not config.cache.teacher and (not teacher.logits or config.assistants or config.generations > 1)
    if config.train.steps_per_call > 1 and asked:
        raise UserError(
            f"train.steps_per_call is {config.train.steps_per_call}, and a network teaches, asked at each step: "
            "set it to 1, or keep what the teacher says (cache.teacher)"
        )
    check_schedules(loss, loss.schedules.to_dict(), losses.checks(*SCHEDULED))
    check_views(config)


def _networks(config: ConfigDict) -> tuple[Teacher, ...]:
    """The networks that the config names as teachers; none where it names a file of logits."""
    section = config.teacher
    if section.logits:
        return ()
    found = teachers.load(run=section.run, runs=section.runs, published=section.published.to_dict())
    ensemble.check_ensemble(len(found), weights=section.weights or None, by=section.combine)
    if config.loss.features and len(found) > 1:
        raise UserError(f"loss.features is {config.loss.features}, but there are {len(found)} teachers: name one")
    return found


def _sources(run: Run, networks: tuple[Teacher, ...]) -> Sources:
    """The teachers of the first student, which fit the data."""
    config, dataset = run.config, run.dataset
    if not networks:
        found = teachers.read_logits(
            config.teacher.logits,
            labels=dataset.train.labels,
            labeled=run.splits.labeled,
            num_classes=run.num_classes,
            fingerprint=run.fingerprint,
        )
        count = found.shape[1]
        ensemble.check_ensemble(count, weights=config.teacher.weights or None, by=config.teacher.combine)
        progress.say(f"teacher: {'' if count == 1 else f'{count} times '}the logits in {config.teacher.logits}")
        return found
    soft = config.loss.alpha > 0 or "alpha" in config.loss.schedules
    for network in networks:
        network.check(image_shape=dataset.image_shape, class_names=dataset.class_names, logits=soft)
        if config.cache.teacher:
            teachers.check_record(
                dtype=config.cache.dtype, top_k=config.cache.top_k, num_classes=network.model.num_classes
            )
    for network in networks:
        adapted = network.takes.differs(dataset.image_shape)
        progress.say(f"teacher: {network.name}" + (f"; for it, images are {adapted}" if adapted else ""))
    return networks


def _course(run: Run, first: Sources) -> list[tuple[str, Learner]]:
    """(phase, learner) of each student in turn; those that are alike share a learner, and with it its programs."""
    config, made = run.config, {}
    phases = [(f"assistant_{i}", dict(model)) for i, model in enumerate(config.assistants, 1)]
    phases += [(f"generation_{i}", dict(config.model)) for i in range(1, config.generations)]
    phases += [("train", dict(config.model))]
    course, teacher = [], None if isinstance(first, np.ndarray) else first[0]
    for number, (phase, model) in enumerate(phases):
        weights = tuple(config.teacher.weights) if number == 0 else ()
        width = 0
        if config.loss.features:
            width = feature_width(teacher, config.features.teacher_level)
        key = json.dumps([model, weights, width], default=list)
        if key not in made:
            section = ConfigDict(config.to_dict())
            section.model = model
            made[key] = make_learner(
                run,
                phase.replace("_", " ") if phase != "train" else "student",
                section,
                make_step=functools.partial(steps.make_distill_step, **_loss(run, weights)),
                projector=width,
                projector_level=config.features.level,
            )
        course.append((phase, made[key]))
        teacher = made[key]
    return course


def _loss(run: Run, weights: tuple[float, ...]) -> dict[str, Any]:
    """The step's options."""
    config = run.config
    options = {name: value for name, value in config.loss.items() if name != "schedules"}
    moving = {name: options[name] for name in SCHEDULED}
    options |= make_schedules(moving, config.loss.schedules.to_dict(), total_steps=config.train.steps)
    teach = teachers.make_reader(num_classes=run.num_classes, weights=weights, by=config.teacher.combine)
    return options | {"teach": teach, "mixup": config.transfer.mixup > 0}


def _as_teacher(student: Trained) -> Teacher:
    learner = student.learner
    return Teacher(
        name=student.phase,
        model_name=learner.options["name"],
        model=learner.network,
        takes=learner.takes,
        variables=student.variables,
        class_names=learner.run.dataset.class_names,
        digest=student.digest,
    )


def _baseline(run: Run) -> Learner:
    make_step = functools.partial(steps.make_supervised_step, label_smoothing=run.config.loss.label_smoothing)
    return make_learner(run, "", run.config, make_step=make_step)


def _fit_baseline(run: Run, learner: Learner) -> Trained:
    """The student without a teacher: from the same start, for as many steps, on the labels alone."""
    stream = run.stream(run.splits.labeled, run.config.train.batch_size, "baseline/labeled")
    return learner.fit("baseline", variables=learner.init("train"), store=run.labeled_store(), streams=[stream])


def _row(student: Trained) -> dict[str, Any]:
    learner = student.learner
    row = {"phase": student.phase, "model": learner.options["name"], "parameters": learner.parameters}
    return row | {"step": student.step, "digest": student.digest} | student.figures


def _line(student: Trained) -> str:
    role = "student" if student.phase == "train" else student.phase.replace("_", " ")
    return f"{role}: {student.learner.options['name']}  {_accuracies(student.figures)}"


def _accuracies(figures: Mapping[str, Any]) -> str:
    return f"validation {figures['validation_accuracy']:.4f}  test {figures['test_accuracy']:.4f}"
