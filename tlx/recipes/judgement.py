"""What students came to, together and against their teachers, on images that taught nobody."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from tlx import compression, ensemble, hosts
from tlx.compression import Entry
from tlx.data.view import make_view
from tlx.recipes.learner import Trained
from tlx.recipes.run import Run
from tlx.teachers import Teacher, make_teach


def judge(run: Run, members: Sequence[Trained]) -> dict[str, Any]:
    """The ensemble of `members`, by the mean of their probabilities: how many, accuracy on validation and test."""
    figures: dict[str, Any] = {"members": len(members)}
    for split in ("validation", "test"):
        logits = np.stack([member.learner.judge(member.variables, split)[1] for member in members], axis=1)  # [N, M, K]
        predicted = np.argmax(ensemble.combine_teachers(logits, 1.0), -1)
        figures[f"{split}_accuracy"] = float(np.mean(predicted == run.examples(split).labels))
    return figures


def compare_networks(
    run: Run, teachers: Sequence[Teacher] | np.ndarray, students: Sequence[Trained], baseline: Trained | None
) -> dict[str, Any]:
    """What `tlx.compression.compare` says of all networks of a run of `distill`, the last student being the result.

    A teacher that is a file of logits, or has other classes, is left out: it says nothing of the test images.
    """
    entries = []
    if not isinstance(teachers, np.ndarray) and all(t.model.num_classes == run.num_classes for t in teachers):
        names = [t.model_name for t in teachers]
        name = (
            names[0] if len(names) == 1 else f"{len(names)} x {names[0]}" if len(set(names)) == 1 else ", ".join(names)
        )
        networks = [(t.make_apply(), t.variables) for t in teachers]
        entries.append(Entry("teacher", name, _taught(run, teachers), networks))
    roles = {student.phase.replace("_", " "): student for student in students[:-1]} | {"student": students[-1]}
    for role, student in (roles | ({"student without a teacher": baseline} if baseline else {})).items():
        learner = student.learner
        network = (learner.make_apply(), student.variables)
        entries.append(Entry(role, learner.options["name"], learner.judge(student.variables, "test")[1], [network]))
    return compression.compare(entries, labels=run.dataset.test.labels, image_shape=run.dataset.image_shape)


def _taught(run: Run, teachers: Sequence[Teacher]) -> np.ndarray:
    """What the teachers say together, at T = 1, of the test images: [N, K]."""
    section, count = run.config.teacher, len(run.dataset.test)
    teach = make_teach(applies=[t.make_apply() for t in teachers], view=make_view(), sees="clean")
    program = run.parallelize(teach, args=("whole", "batch", "whole", "whole"), out="batch")
    variables = run.place(tuple(t.variables for t in teachers))
    call = functools.partial(program, variables)
    batches = run.eval_batches(run.store(run.dataset.test, weight=np.ones(count, np.float32)), np.arange(count))
    logits = [hosts.fetch(call(batch, run.rng, np.int32(0))["teacher_logits"]) for batch in batches]  # [b, M, K] each
    joint = ensemble.combine_teachers(
        np.concatenate(logits)[:count], 1.0, weights=section.weights or None, by=section.combine
    )
    return np.asarray(joint)
