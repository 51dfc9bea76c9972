"""Several steps in one program: the same batches, the same network, the same curves as one by one."""

import json
import os
import pathlib
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tlx import config as config_lib
from tlx import loop, parallel
from tlx.checkpoint import ACCURACY, LOSS, Checkpoints
from tlx.data import mixup, reader
from tlx.data.source import Examples
from tlx.errors import UserError
from tlx.metrics import MetricWriter
from tlx.preemption import Preempted, Preemption
from tlx.pretrained import load_run
from tlx.recipes import distill, self_train, supervised
from tlx.state import TrainState

COUNT = 3


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("mode", parallel.MODES)
def test_a_program_meets_the_batches_that_single_steps_meet(mode, lazy):
    """Sums of products with the slot, which tell apart who came where, over three batches, two streams and mixup."""
    images = np.arange(40, dtype=np.float32).reshape(40, 1, 1, 1)
    mesh = parallel.make_mesh(mode)
    mix = mixup.make_mix(0.4, seed=1, parts=(4, 8))
    options = {"device_bytes": 0} if lazy else {}
    weight = np.linspace(0, 1, 40, dtype=np.float32)
    store = reader.Store(
        Examples(images, np.zeros(40, np.int32)), mesh=mesh, mode=mode, mix=mix, weight=weight, **options
    )
    streams = [reader.Stream(np.arange(10), 4, (0,)), reader.Stream(np.arange(10, 40), 8, (1,))]
    axis = parallel.axis_name(mode)

    def step(state, batch, rng):
        place = batch["slot"] + 1.0
        said = {
            name: jnp.sum(batch[name].reshape(-1) * place) for name in ("image", "partner_image", "share", "weight")
        }
        said = said if axis is None else jax.lax.psum(said, axis)
        return state + said["image"], said

    def walk(count):
        many = parallel.repeat(step, count, mode, mesh) if count > 1 else step
        program = parallel.parallelize(many, mode, mesh, args=("whole", "batch", "whole"), out=("whole", "whole"))
        state, found = parallel.replicate(jnp.float32(0), mesh), []
        for batch in reader.train_batches(store, streams, start=COUNT, steps=3 * COUNT, together=count):
            state, said = program(state, batch, parallel.replicate(jax.random.key(0), mesh))
            found.append({name: np.atleast_1d(values) for name, values in jax.device_get(said).items()})
        return float(state), {name: np.concatenate([one[name] for one in found]) for name in found[0]}

    (last, one), (last_together, together) = walk(1), walk(COUNT)
    assert len(one["image"]) == 2 * COUNT and len(set(one["image"])) == 2 * COUNT
    for name, values in one.items():
        np.testing.assert_allclose(together[name], values, rtol=1e-6)
    assert last_together == pytest.approx(last, rel=1e-6)


def small(**changes):
    """Self-training with all that draws: augmentation, dropout, mixup, consistency; and a schedule."""
    config = self_train.default_config()
    config.data.update(labels_per_class=5, validation=50)
    config.rounds = 1
    for section in (config.teacher, config.student):
        section.model = {"name": "mlp", "widths": (16,), "dropout": 0.2}
        section.optim = config_lib.optim(all={"optimizer": "sgd", "learning_rate": 0.1, "warmup": 0.5})
        section.train.update(steps=8, batch_size=8, eval_every=4, ema_decay=0.9)
        section.augment = {"shift": 1}
    config.student.unlabeled_ratio = 2.0
    config.loss.consistency = 0.5
    config.update_from_flattened_dict(changes)
    return config


def together(count, **changes):
    return small(**{f"{who}.train.steps_per_call": count for who in ("teacher", "student")}, **changes)


def curves(folder):
    return [json.loads(line) for line in pathlib.Path(folder, "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("mode", ["jit", pytest.param("shard_map", marks=pytest.mark.four_devices)])
def test_a_run_ends_the_same(mode, tmp_path):
    self_train.run(small(parallel=mode), tmp_path / "1")
    self_train.run(together(4, parallel=mode), tmp_path / "4")
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    jax.tree.map(close, *(load_run(tmp_path / count).variables for count in "14"))
    one, four = curves(tmp_path / "1"), curves(tmp_path / "4")
    assert [(line["phase"], line["step"]) for line in four] == [
        (phase, step) for phase in ("teacher", "round_1") for step in (4, 8)
    ]
    for a, b in zip(one, four):
        assert a.keys() == b.keys()
        assert all(b[key] == pytest.approx(a[key], rel=1e-4, abs=1e-6) for key in a.keys() - {"phase", "seal"})


def test_a_run_that_is_stopped_goes_on(tmp_path, monkeypatch):
    """Stopped between two calls, in the middle of an interval."""
    whole = self_train.run(together(2), tmp_path / "whole")
    asked, calls = Preemption.asked, []

    def asking(self):
        calls.append(True)
        if len(calls) == 3:  # after the one at the beginning, and the one before the first call
            os.kill(os.getpid(), signal.SIGTERM)
        return asked(self)

    with monkeypatch.context() as patch:
        patch.setattr(Preemption, "asked", asking)
        with pytest.raises(Preempted):
            self_train.run(together(2), tmp_path / "parts")
    assert [p.name for p in (tmp_path / "parts" / "checkpoints" / "teacher").glob("[0-9]*")] == ["2"]
    parts = self_train.run(together(2), tmp_path / "parts")
    assert parts["selected"]["digest"] == whole["selected"]["digest"]


def test_a_loss_that_is_not_finite_is_said_of_its_step(tmp_path):
    variables = {"params": {"backbone": {"w": jnp.zeros(2)}, "head": {"w": jnp.zeros(2)}}}
    one = jnp.ones(2)

    @jax.jit
    def learn(state, batch, rng):
        loss = jnp.where(batch + jnp.arange(2) == 5, jnp.nan, 1.0)  # of the step after five others
        return state.replace(step=state.step + 2), {"loss": (loss, one), "grad_norm": (one, one)}

    checkpoints = Checkpoints(tmp_path / "c")
    with pytest.raises(UserError, match="loss is nan at step 6"):
        loop.fit(
            phase="train",
            state=TrainState.create(variables=variables, tx=optax.identity()),
            step=lambda number: learn,
            batches=lambda start: iter(np.arange(start, 8, 2, dtype=np.int32)),
            rng=jax.random.key(0),
            steps=8,
            stride=2,
            eval_every=8,
            evaluate=lambda state: {ACCURACY: 0.5, LOSS: 1.0},
            checkpoints=checkpoints,
            writer=MetricWriter(tmp_path),
            preemption=Preemption(),
        )
    checkpoints.close()


def test_every_group_begins_with_a_call(tmp_path):
    """Also one that is not the last."""
    config = supervised.default_config()
    config.model = {"name": "mlp", "widths": (16, 16)}
    config.train.update(steps=12, eval_every=6, steps_per_call=6)
    config.optim = config_lib.optim(
        rules=(("head/.*", "head"), ("backbone/layer2/.*", "middle"), (".*", "body")),
        **{"head": {}, "middle": {"start": 0.25}, "body": {"start": 0.5}},
    )
    with pytest.raises(UserError, match="start lets it learn is 3, which does not divide"):
        supervised.run(config, tmp_path)


@pytest.mark.parametrize(
    ("count", "start", "message"),
    [
        (0, 0.0, "train.steps_per_call is 0: it must be >= 1"),
        (4, 0.0, "train.eval_every is 6, which does not divide by train.steps_per_call, 4: use 8"),
        (6, 0.25, "the step at which a later group's start lets it learn is 3, which does not divide"),
    ],
)
def test_what_does_not_divide_is_refused(count, start, message, tmp_path):
    config = supervised.default_config()
    config.model = {"name": "mlp", "widths": (16,)}
    config.train.update(steps=12, eval_every=6, steps_per_call=count)
    config.optim = config_lib.optim(rules=(("head/.*", "head"), (".*", "body")), head={}, body={"start": start})
    with pytest.raises(UserError, match=message):
        supervised.run(config, tmp_path)


def test_a_live_teacher_is_asked_at_each_step(tmp_path):
    config = distill.default_config()
    config.teacher.run = str(tmp_path / "teacher")
    config.train.steps_per_call = 2
    with pytest.raises(UserError, match="set it to 1, or keep what the teacher says"):
        distill.run(config, tmp_path / "student")
