"""Programs are compiled once: counted, and an error where a loop goes on compiling."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tlx import compiles, loop
from tlx.checkpoint import ACCURACY, LOSS, Checkpoints
from tlx.metrics import MetricWriter
from tlx.preemption import Preemption
from tlx.recipes import self_train
from tlx.state import TrainState


def fit(folder, step, evaluate=lambda state: {ACCURACY: 0.5, LOSS: 1.0}, steps=6):
    """Some steps of the loop, whose batch of step n is n."""
    variables = {"params": {"backbone": {"w": jnp.zeros(2)}, "head": {"w": jnp.zeros(2)}}}
    checkpoints = Checkpoints(folder / "c")
    try:
        return loop.fit(
            phase="train",
            state=TrainState.create(variables=variables, tx=optax.identity()),
            step=step,
            batches=lambda start: iter([np.int32(n) for n in range(start, steps)]),
            rng=jax.random.key(0),
            steps=steps,
            eval_every=2,
            evaluate=evaluate,
            checkpoints=checkpoints,
            writer=MetricWriter(folder),
            preemption=Preemption(),
        )
    finally:
        checkpoints.close()


def program(size):
    """A step that is compiled anew for each `size(batch)`."""

    @jax.jit
    def learn(state, rows):
        one = jnp.float32(1)
        return state.replace(step=state.step + 1), {"loss": (rows.sum() + 1, one), "grad_norm": (one, one)}

    return lambda state, batch, rng: learn(state, np.ones(size(int(batch)), np.float32))


def test_a_loop_that_compiles_at_every_step_is_caught(tmp_path):
    growing = program(lambda n: n + 1)
    with compiles.strict(), pytest.raises(compiles.Recompiled, match=r"train, step 2: jit\(learn\) compiled"):
        fit(tmp_path, lambda number: growing)
    fit(tmp_path / "lax", lambda number: growing)  # as long as nobody asks, it is slow and no more


def test_an_evaluation_that_compiles_again_is_caught(tmp_path):
    sizes = iter(range(1, 9))
    count = jax.jit(lambda rows: rows.sum())
    evaluate = lambda state: {ACCURACY: 0.5, LOSS: float(count(np.ones(next(sizes), np.float32)))}
    steady = program(lambda n: 3)
    with compiles.strict(), pytest.raises(compiles.Recompiled, match="train, evaluation at step 4"):
        fit(tmp_path, lambda number: steady, evaluate)


def test_a_stage_may_compile_once(tmp_path):
    first, second = program(lambda n: 3), program(lambda n: 5)
    with compiles.strict():
        fit(tmp_path, lambda number: first if number < 3 else second)


def test_a_second_student_compiles_nothing(tmp_path, monkeypatch):
    from test_recipes import small_self_train

    made, fit_student = [], self_train._fit_student

    def counting(*args):
        with compiles.counted() as names:
            student = fit_student(*args)
        made.append(names)
        return student

    monkeypatch.setattr(self_train, "_fit_student", counting)
    monkeypatch.setattr("tlx.report.write", lambda folder: folder)
    with compiles.strict():
        self_train.run(small_self_train(), tmp_path)
    assert made[0] and made[1] == []


STARTS = """
import jax
from tlx import compiles
events = []
jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
compiles.keep_on_disk()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.jit(lambda x: x @ x.T + 1)(jax.numpy.ones((3, 4)))
print("hits", sum(event.endswith("cache_hits") for event in events))
"""


def start(**env):
    """What a process prints that compiles a program, and what jax found on disk for it."""
    env = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"} | env
    done = subprocess.run([sys.executable, "-c", STARTS], env=env, capture_output=True, text=True, check=True)
    return done.stdout


def test_the_next_start_finds_what_was_compiled(tmp_path):
    first = start(XDG_CACHE_HOME=str(tmp_path))
    (folder,) = (tmp_path / "tlx" / "compiled").iterdir()
    assert "compiled programs are kept in" in first and first.endswith("hits 0\n")
    assert int(start(XDG_CACHE_HOME=str(tmp_path)).removeprefix("hits ")) > 0  # and says nothing again
    for path in folder.glob("*-cache"):
        path.write_bytes(path.read_bytes()[:-100])
    assert start(XDG_CACHE_HOME=str(tmp_path)) == "hits 0\n"  # what is damaged is compiled anew


@pytest.mark.parametrize("name", ["JAX_ENABLE_COMPILATION_CACHE", "JAX_COMPILATION_CACHE_DIR"])
def test_nothing_is_kept_against_the_users_will(tmp_path, name):
    value = {"JAX_ENABLE_COMPILATION_CACHE": "0", "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "elsewhere")}[name]
    start(XDG_CACHE_HOME=str(tmp_path / "home"), **{name: value})
    assert not (tmp_path / "home").exists()


def test_a_home_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "file").write_text("")
    assert start(XDG_CACHE_HOME=str(tmp_path / "file")) == "hits 0\n"
