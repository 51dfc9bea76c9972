"""Keras's side of the comparison, on its jax backend: `fit`, and `keras.distillation.Distiller`; the MLP alone."""

import os
from collections.abc import Callable
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"

import keras
import numpy as np
from keras import layers

from experiments.speed.cases import RIVALS, Case, T, arrays


def tasks(case: Case) -> tuple[dict[str, Callable[[int], None]], dict[str, Any]]:
    """As `tlx_side.tasks`, for the ways in RIVALS.

    `fit` is given as many images as the steps need, and shuffles them: the whole loop is Keras's own.
    """
    if case.net != "mlp":
        raise ValueError(f"no such network on Keras's side: {case.net}")
    given = arrays(case)
    images, labels = given["train_images"], given["train_labels"]
    loss = lambda: keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def mlp(widths: tuple[int, ...]) -> keras.Model:
        look = layers.Rescaling(1 / 255 / 0.31, offset=-0.13 / 0.31)
        hidden = [layers.Dense(width, activation="relu") for width in widths]
        return keras.Sequential(
            [layers.Input(case.shape), look, layers.Flatten(), *hidden, layers.Dense(case.num_classes)]
        )

    def compiled(model: keras.Model) -> keras.Model:
        model.compile(optimizer=keras.optimizers.Adam(case.rate), loss=loss(), metrics=["accuracy"])
        return model

    def make(way: str) -> keras.Model:
        student = mlp((800, 800))
        if way == "supervised":
            return compiled(student)
        return compiled(
            keras.distillation.Distiller(
                teacher=teacher,
                student=student,
                distillation_losses=keras.distillation.LogitsDistillation(temperature=T),
                student_loss_weight=0.5,  # and so 0.5 of the other: half of the other sides' loss, which Adam ignores
            )
        )

    def fit(model: keras.Model, count: int) -> None:
        rows = np.arange(count * case.batch) % len(images)
        model.fit(images[rows], labels[rows], batch_size=case.batch, epochs=1, verbose=0)

    def task(way: str) -> Callable[[int], None]:
        held = [make(way)]
        take = lambda count: fit(held[0], count)

        def learn(seed: int) -> float:
            keras.utils.set_random_seed(seed)
            held[0] = make(way)
            take(case.learn)
            student = held[0] if way == "supervised" else held[0].student
            logits = student.predict(given["test_images"], batch_size=1000, verbose=0)
            return float(np.mean(np.argmax(logits, -1) == given["test_labels"]))

        if case.learn:
            take.learn = learn
        return take

    keras.utils.set_random_seed(0)
    teacher = compiled(mlp(case.teacher))
    if case.learn:
        fit(teacher, case.learn)
    of_case = {way: task(way) for way in case.ways if way in RIVALS["keras"]}
    return of_case, {"parameters": mlp((800, 800)).count_params()}


def about() -> dict[str, str]:
    return {"keras": keras.__version__}
