"""Parameters split over devices: the same update, and on each device a part of the state."""

import chex
import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from tlx import config as config_lib
from tlx import optim, parallel, steps
from tlx.checkpoint import ACCURACY, LOSS, Checkpoints
from tlx.errors import UserError
from tlx.models.apply import make_apply
from tlx.recipes import run as run_lib
from tlx.recipes import supervised
from tlx.recipes.learner import make_learner
from tlx.state import TrainState

pytestmark = pytest.mark.four_devices
PLAIN = lambda images, slots, key: images


@pytest.fixture
def split_all(monkeypatch):
    """The small networks of tests are split too."""
    monkeypatch.setattr(parallel, "SMALLEST_SPLIT", 1)


def bytes_per_device(tree):
    sizes = dict.fromkeys(jax.devices(), 0)
    for leaf in jax.tree.leaves(tree):
        for shard in leaf.addressable_shards:
            sizes[shard.device] += shard.data.nbytes
    return set(sizes.values())


@pytest.mark.parametrize("mode", ["fsdp", "fsdp:2"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_three_steps_are_those_of_one_device(tiny, batch, split_all, mode, optimizer):
    """Plain SGD would show a factor in the gradient; Adam has moments, and the average of the weights is kept."""
    # Adam without BatchNorm: a bias before one has no gradient but rounding, which Adam would divide by itself.
    model, variables = tiny(norm=optimizer == "sgd")
    groups = {"all": {"optimizer": optimizer, "learning_rate": 0.1, "momentum": 0.0, "eps": 1e-3, "clip": 1.0}}
    made = optim.make_optimizer(variables["params"], rules=((".*", "all"),), groups=groups, total_steps=9)
    step = steps.make_supervised_step(apply=make_apply(model), view=PLAIN, tx=made.tx, ema_decay=0.9)
    fresh = lambda: TrainState.create(variables=variables, tx=made.tx, ema=True)

    def final(mode, devices):
        mesh = parallel.make_mesh(mode, devices)
        layout = parallel.make_layout(fresh(), mesh)
        options = {"args": ("whole", "batch", "whole"), "out": ("state", "whole"), "layout": layout}
        compiled = parallel.parallelize(step, mode, mesh, **options)
        state = parallel.place(fresh(), layout)
        for _ in range(3):
            state, metrics = compiled(state, parallel.shard_batch(batch, mode, mesh), jax.random.key(0))
            jax.block_until_ready(metrics)
        chex.assert_trees_all_equal(
            jax.tree.map(lambda x: x.sharding.spec, state), jax.tree.map(lambda s: s.spec, layout)
        )
        return jax.device_get((state, metrics))

    alone, alone_metrics = final("jit", jax.devices()[:1])
    split, split_metrics = final(mode, None)
    chex.assert_trees_all_close(split, alone, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(split_metrics, alone_metrics, rtol=1e-5, atol=1e-6)


def test_what_is_split_and_what_is_whole():
    mesh = parallel.make_mesh("fsdp:2")
    assert dict(mesh.shape) == {"data": 2, "model": 2}
    array = lambda *shape: np.zeros(shape, np.float32)
    params = {"conv": array(3, 3, 64, 128), "square": array(64, 64), "odd": array(63, 65), "bias": array(128)}
    tree = {"params": params, "mu": {"conv": params["conv"], "square": params["square"]}, "count": array()}
    specs = jax.tree.map(lambda sharding: sharding.spec, parallel.make_layout(tree, mesh, whole={"square"}))
    conv = P(None, None, None, "model")
    assert specs["params"] == {"conv": conv, "square": P(), "odd": P(), "bias": P()}
    assert specs["mu"] == {"conv": conv, "square": P()} and specs["count"] == P()
    every = parallel.make_layout(tree, parallel.make_mesh("jit"))
    assert {sharding.spec for sharding in jax.tree.leaves(every)} == {P()}


def small(mode, **head):
    config = supervised.default_config()
    config.parallel, config.model = mode, {"name": "mlp", "widths": (256, 256)}
    rate = {"learning_rate": 1e-3}
    config.optim = config_lib.optim(((r"head/.*", "head"), (".*", "rest")), head=rate | head, rest=rate)
    config.train.update(steps=4, eval_every=2, batch_size=16)
    return config


def learner_of(config):
    run = run_lib.prepare(config_lib.resolve(config, supervised.default_config()))
    return make_learner(run, "", run.config, make_step=steps.make_supervised_step)


def test_a_device_holds_its_part_of_the_state(tmp_path):
    """And a checkpoint written by one layout is read in another, or by none."""
    states, layouts = {}, {}
    for mode in ("jit", "fsdp"):
        learner = learner_of(small(mode, split=False))
        states[mode], layouts[mode] = learner.state(learner.init("train")), learner.layout
    (whole,), (quarter,) = (bytes_per_device(states[mode]) for mode in states)
    head = 3 * 4 * 256 * 10  # with two moments, float32: stays whole, as the group says
    biases = 3 * 4 * (256 + 256 + 10)
    assert head + biases < quarter < head + biases + 64 + (whole - head - biases) // 4
    chex.assert_trees_all_equal(*map(jax.device_get, states.values()))

    checkpoints = Checkpoints(tmp_path / "c")
    checkpoints.save(4, states["fsdp"], {}, {ACCURACY: 0.5, LOSS: 1.0})
    for mode in states:
        step, state, _, said = checkpoints.restore_latest(states[mode])
        assert (step, said) == (4, [])
        chex.assert_trees_all_equal(jax.tree.map(lambda x: x.sharding, state), layouts[mode])
        chex.assert_trees_all_equal(jax.device_get(state), jax.device_get(states["jit"]))
    checkpoints.close()


def test_groups_that_do_not_divide():
    for bad in ("fsdp:0", "fsdp:x", "jit:2", "fsdp:", "zero"):
        with pytest.raises(UserError, match=f"parallel is '{bad}': use one of jit, pmap, shard_map, fsdp, or fsdp:8"):
            parallel.make_mesh(bad)
    with pytest.raises(UserError, match="parallel is 'fsdp:3', and 4 devices do not divide in groups of 3"):
        parallel.make_mesh("fsdp:3")
    with pytest.raises(UserError, match="group 'head': split is 1: it must be True or False"):
        learner_of(small("jit", split=1))
