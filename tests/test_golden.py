"""Golden numbers: the first losses of each method on digits, to notice when anything on the way to them changes.

A change that is meant to move them (an initialiser, an order, a loss) puts the new numbers here and says why in its
commit. They are the same on jax 0.10 and 0.11, and do not depend on the devices.
"""

import functools
import json

import jax
import numpy as np
import optax
import pytest
from processes import say

from tlx import models, steps, teachers
from tlx.data import reader, source, view
from tlx.parallel import make_mesh
from tlx.state import TrainState

GOLDEN = {
    "supervised": [2.823820, 2.354705, 2.376386, 2.442443],
    "distill": [0.868610, 0.416276, 0.346439, 0.342356],
    "self_train": [4.200346, 3.373298, 3.404530, 3.325290],
}


@pytest.fixture(scope="module")
def found():
    """As users' programs say: a rounded coordinate of an augmented image may hang on it."""
    code = "import json, test_golden as t; print(json.dumps({name: t.first_losses(name) for name in t.GOLDEN}))"
    return json.loads(say(code))


@pytest.mark.parametrize("method", sorted(GOLDEN))
def test_first_losses(found, method):
    np.testing.assert_allclose(found[method], GOLDEN[method], rtol=1e-4)


def first_losses(method):
    data, mesh = source.load("digits"), make_mesh()
    model = models.build("cnn", num_classes=10, widths=(8, 16), dense=16, dropout=0.3, norm="batch")
    apply = models.make_apply(model, takes=models.Input((8, 8, 1), (0.3,), (0.4,)))
    see, tx = view.make_view(shift=1, rotate=10.0, cutout=2), optax.adam(1e-2)
    variables = model.init(jax.random.key(1), data.train.images[:1] / 255.0, train=False)
    teacher = model.init(jax.random.key(2), data.train.images[:1] / 255.0, train=False)
    make = {
        "supervised": steps.make_supervised_step,
        "distill": functools.partial(
            steps.make_distill_step,
            teach=teachers.make_reader(num_classes=10),
            temperature=4.0,
            alpha=0.9,
            beta=0.1,
        ),
        "self_train": functools.partial(
            steps.make_self_train_step, temperature=2.0, alpha=0.7, beta=0.3, consistency=0.5, labeled=1.0
        ),
    }[method]
    count = len(data.train)
    labeled = np.arange(count) % 4 == 0
    logits = np.random.default_rng(0).normal(size=(count, 10)).astype(np.float32)
    columns = {"weight": labeled.astype(np.float32)}
    if method == "self_train":
        columns |= {"labeled": labeled.astype(np.int8), "teacher_logits": logits}
        columns |= {"teacher_weight": 1 - columns["weight"]}
    store = reader.Store(data.train, mesh=mesh, mode="jit", **columns)
    step = jax.jit(make(apply=apply, view=see, tx=tx))
    state, losses = TrainState.create(variables=variables, tx=tx), []
    teach = jax.jit(teachers.make_teach(applies=[apply], view=see))
    stream = reader.Stream(np.arange(count), 64, (0,))
    for number, batch in enumerate(reader.train_batches(store, [stream], start=0, steps=4)):
        if method == "distill":
            batch |= teach((teacher,), batch, jax.random.key(0), number)
        state, metrics = step(state, batch, jax.random.key(0))
        losses.append(float(metrics["loss"][0]))
    return losses
