"""Checkpoints: best and newest kept, damage skipped and said, foreign trees refused by name."""

import gc
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tlx.checkpoint import ACCURACY, LOSS, Checkpoints, restore_variables
from tlx.errors import UserError
from tlx.state import TrainState


@pytest.fixture(autouse=True)
def left_overs():
    """What orbax drops when it meets a damaged file complains when it is collected: here, where that is expected."""
    yield
    gc.collect()


def state_at(step, *, width=3, ema=True):
    params = {"backbone": {"kernel": jnp.full((2, width), float(step))}, "head": {"kernel": jnp.ones((width, 2))}}
    tx = optax.multi_transform(
        {"a": optax.adam(0.1), "frozen": optax.set_to_zero()}, {"backbone": "a", "head": "frozen"}
    )
    state = TrainState.create(variables={"params": params}, tx=tx, ema=ema)
    return state.replace(step=jnp.int32(step))


def save(checkpoints, step, accuracy, loss=1.0):
    checkpoints.save(step, state_at(step), {"phase": "x", "step": step}, {ACCURACY: accuracy, LOSS: loss})
    checkpoints.wait()


def truncate(folder):
    for path in folder.rglob("*"):
        if path.is_file() and path.parent.name == "d":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_best_and_newest_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c")
    for step, (accuracy, loss) in enumerate([(0.1, 1), (0.9, 0.5), (0.9, 0.4), (0.9, 0.4), (0.2, 1), (0.3, 1)]):
        save(checkpoints, step, accuracy, loss)
    assert checkpoints.best_step == 2  # the loss breaks the tie of accuracy; among equals, the earliest
    checkpoints = Checkpoints(tmp_path / "c")  # and it is known after a restart
    assert checkpoints.best_step == 2
    step, state, meta, said = checkpoints.restore_latest(state_at(0))
    assert (step, meta, said) == (5, {"phase": "x", "step": 5}, [])
    chex.assert_trees_all_equal(state, state_at(5))
    step, best = checkpoints.restore_best(state_at(0))
    assert step == 2
    chex.assert_trees_all_equal(best, state_at(2))
    for step in range(6, 9):
        save(checkpoints, step, 0.1)
    assert checkpoints.best_step == 2


def test_a_stop_between_evaluations_is_never_the_best(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c")
    save(checkpoints, 1, 0.0)
    checkpoints.save(2, state_at(2), {}, None)
    assert checkpoints.best_step == 1 and checkpoints.latest_step == 2


def test_damaged_newest_falls_back_and_says_so(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c")
    save(checkpoints, 1, 0.5)
    save(checkpoints, 2, 0.5)
    truncate(tmp_path / "c" / "2")
    step, state, _, said = Checkpoints(tmp_path / "c").restore_latest(state_at(0))
    assert step == 1 and len(said) == 1 and "c/2 is damaged" in said[0]
    chex.assert_trees_all_equal(state, state_at(1))


def test_an_unfinished_save_is_not_there(tmp_path):
    """orbax writes under a temporary name and renames; what SIGKILL leaves behind is no checkpoint."""
    checkpoints = Checkpoints(tmp_path / "c")
    save(checkpoints, 1, 0.5)
    (tmp_path / "c" / "2.orbax-checkpoint-tmp-0" / "state").mkdir(parents=True)
    assert Checkpoints(tmp_path / "c").restore_latest(state_at(0))[0] == 1


def test_saving_goes_on_while_training_does(tmp_path):
    """What is saved is the state as it was, though the next steps take its memory before it is written."""
    state = jax.device_put(state_at(0, width=200_000))
    step = jax.jit(lambda s: jax.tree.map(lambda x: x + jnp.ones((), x.dtype), s), donate_argnums=0)
    checkpoints = Checkpoints(tmp_path / "c", keep=3)
    wanted = {}
    for number in range(3):
        wanted[number] = jax.device_get(state)
        checkpoints.save(number, state, {}, None)
        state = step(state)
        assert jax.device_get(state.step) == number + 1
    checkpoints.wait()
    for number in range(3):
        got = restore_variables(tmp_path / "c", number)["params"]["backbone"]["kernel"]
        np.testing.assert_array_equal(got, wanted[number].ema_params["backbone"]["kernel"])


@pytest.mark.parametrize("seed", range(3))
def test_a_flipped_bit_is_found(tmp_path, seed):
    """In any file of a checkpoint: it is skipped, and said, or refused; or the bit meant nothing to anybody."""
    save(Checkpoints(tmp_path / "c"), 1, 0.5)
    save(Checkpoints(tmp_path / "c"), 2, 0.5)
    rng, found = np.random.default_rng(seed), 0
    files = sorted(path for path in (tmp_path / "c" / "2").rglob("*") if path.is_file())
    for path in files:
        before = path.read_bytes()
        damaged = bytearray(before)
        damaged[rng.integers(len(before))] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            step, state, _, said = Checkpoints(tmp_path / "c").restore_latest(state_at(0))
        except UserError:
            found += 1
        else:
            chex.assert_trees_all_equal(state, state_at(step))
            assert bool(said) == (step == 1)
            found += step == 1
        path.write_bytes(before)
    assert found >= 3  # of the arrays' files at least, of which there are several


def test_other_figures_than_were_saved(tmp_path):
    """orbax keeps the best by its own note of the figures: it is held to what lies in the checkpoint."""
    save(Checkpoints(tmp_path / "c"), 1, 0.5)
    (note,) = (tmp_path / "c" / "1").glob("metrics/metrics")
    note.write_text(note.read_text().replace("0.5", "0.9"))
    with pytest.raises(UserError, match="note of the validation figures is not what was saved: restore it"):
        Checkpoints(tmp_path / "c")


def test_killed_while_an_older_one_was_forgotten(tmp_path):
    """Found by the fault campaign: a folder is deleted file by file, and the note of the figures may go first."""
    for step, accuracy in enumerate([0.5, 0.9, 0.6]):
        save(Checkpoints(tmp_path / "c", keep=3), step, accuracy)
    shutil.rmtree(tmp_path / "c" / "0" / "metrics")
    checkpoints = Checkpoints(tmp_path / "c")
    assert checkpoints.restore_best(state_at(0))[0] == 1 and checkpoints.restore_latest(state_at(0))[0] == 2
    assert not (tmp_path / "c" / "0").exists()
    shutil.rmtree(tmp_path / "c" / "2" / "metrics")  # the newest is never forgotten: somebody else did that
    with pytest.raises(UserError, match="c/2: orbax's note of the validation figures is not what was saved"):
        Checkpoints(tmp_path / "c")


def test_what_cannot_be_written(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path / "c")
    save(checkpoints, 1, 0.5)
    # The folder is a file now: neither this save nor a later one can be made, whoever runs the test.
    (tmp_path / "c").rename(tmp_path / "d")
    (tmp_path / "c").write_text("")
    with pytest.raises(UserError, match="cannot be written .*give the same command again"):
        save(checkpoints, 2, 0.5)


def test_all_damaged(tmp_path):
    save(Checkpoints(tmp_path / "c"), 1, 0.5)
    truncate(tmp_path / "c" / "1")
    with pytest.raises(UserError, match="none of the 1 in .* can be read: start with --overwrite"):
        Checkpoints(tmp_path / "c").restore_latest(state_at(0))


def test_what_orbax_noted_is_damaged(tmp_path):
    save(Checkpoints(tmp_path / "c"), 1, 0.5)
    (noted,) = (tmp_path / "c" / "1").glob("metrics/metrics")
    noted.write_bytes(b"\xff{")
    with pytest.raises(
        UserError, match=r"c cannot be read \(UnicodeDecodeError.*restore it, or run again with --overwrite"
    ):
        Checkpoints(tmp_path / "c")


def test_foreign_checkpoint_names_the_first_difference(tmp_path):
    save(Checkpoints(tmp_path / "c"), 1, 0.5)
    with pytest.raises(UserError, match=r"backbone/kernel is of shape \[2, 3\] there and of shape \[2, 4\] here"):
        Checkpoints(tmp_path / "c").restore_latest(state_at(0, width=4))
    with pytest.raises(UserError, match="ema_params/backbone/kernel is of shape .* there and absent here"):
        Checkpoints(tmp_path / "c").restore_latest(state_at(0, ema=False))


def test_nothing_there(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c")
    start = state_at(0)
    step, state, meta, _ = checkpoints.restore_latest(start)
    assert step == 0 and state is start and meta == {}
    with pytest.raises(UserError, match="no checkpoint in"):
        _ = checkpoints.best_step


@pytest.mark.parametrize("ema", [True, False])
def test_variables_for_prediction(tmp_path, ema):
    checkpoints = Checkpoints(tmp_path / "c")
    state = state_at(4, ema=ema)
    if ema:
        state = state.replace(ema_params=jax.tree.map(lambda x: x + 1, state.params))
    checkpoints.save(4, state, {}, None)
    checkpoints.wait()
    got = restore_variables(tmp_path / "c", 4)
    np.testing.assert_array_equal(got["params"]["backbone"]["kernel"], 5.0 if ema else 4.0)
    assert got["batch_stats"] == {}
    with pytest.raises(UserError, match="no checkpoint at"):
        restore_variables(tmp_path / "c", 5)
    truncate(tmp_path / "c" / "4")
    with pytest.raises(UserError, match="is damaged"):
        restore_variables(tmp_path / "c", 4)
