"""Two real processes of two devices each: they read disjoint parts, learn what one does, and stop together."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from tlx import parallel

ROOT = pathlib.Path(__file__).parent.parent
STEPS, BATCH = 3, 16

# Trains three SGD steps in each harness, and writes down what this process read and what came of it; then runs every
# recipe in small.
CHILD = """
import sys
sys.path.insert(0, {root!r}); sys.path.insert(0, {root!r} + "/tests")
import jax
port, process, out = sys.argv[1:]
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_compilation_cache_dir", {cache!r})
from tlx import hosts
hosts.join(coordinator="localhost:" + port, num_processes=2, process_id=int(process))
from test_hosts import run_recipes, train
train(out + process)
run_recipes(out + "s")
"""


class Recorder:
    """An array that notes which of its rows are asked for."""

    def __init__(self, array):
        self.array, self.asked = array, []
        self.shape, self.dtype = array.shape, array.dtype

    def __len__(self):
        return len(self.array)

    def __getitem__(self, index):
        self.asked.append(np.asarray(index))
        return self.array[index]


def train(out):
    """Runs in each child, and in the test itself for what one process makes of it."""
    import optax

    from tlx import hosts, models, steps
    from tlx.data import reader, source, view
    from tlx.state import TrainState

    rng = np.random.default_rng(0)
    images, labels = rng.random((50, 4, 4, 1), np.float32), rng.integers(0, 3, 50).astype(np.int32)
    record = {}
    for mode in parallel.MODES:
        mesh = parallel.make_mesh(mode)
        seen = Recorder(images)
        model = models.build("mlp", num_classes=3, widths=(64,), axis_name=parallel.axis_name(mode))
        tx = optax.sgd(0.1)
        step = steps.make_supervised_step(
            apply=models.make_apply(model, takes=models.Input((4, 4, 1), (0.5,), (0.3,))),
            view=view.make_view(noise=0.1),
            tx=tx,
            axis_name=parallel.axis_name(mode),
        )
        state = TrainState.create(variables=model.init(jax.random.key(0), images[:1], train=False), tx=tx)
        layout = parallel.make_layout(state, mesh)
        # As the recipes have it.
        options = {"args": ("whole", "batch", "whole"), "out": ("state", "whole"), "layout": layout, "donate": True}
        step = parallel.parallelize(step, mode, mesh, **options)
        state = parallel.place(state, layout)
        columns = {"weight": np.ones(50, np.float32)}
        # One thread, so that rows are asked for in the order of the steps.
        store = reader.Store(source.Examples(seen, labels), mesh=mesh, mode=mode, threads=1, **columns)
        stream = reader.Stream(np.arange(50), BATCH, (0,))
        for batch in reader.train_batches(store, [stream], start=0, steps=STEPS):
            state, metrics = step(state, batch, jax.random.key(7))
            jax.block_until_ready(metrics)  # as the loop does on virtual devices
        flat = jax.tree_util.tree_leaves_with_path(state.params)
        record |= {f"{mode}{jax.tree_util.keystr(path)}": hosts.fetch(leaf) for path, leaf in flat}
        record[f"{mode} read"] = np.stack(seen.asked)
    np.savez(out, **record)


def run_recipes(folder):
    """Runs each recipe in small, with SGD: another order of additions stays another order, and Adam divides by it."""
    from ml_collections import ConfigDict

    from tlx.recipes import distill, self_train, semi_supervised, supervised

    learner = ConfigDict(supervised.default_config())
    learner.model = {"name": "mlp", "widths": (16,)}
    learner.optim.groups.all = {"optimizer": "sgd", "learning_rate": 0.05}
    learner.train.update(steps=6, batch_size=8, eval_every=3)
    learner.augment = {"shift": 1}
    small = {name: learner[name].to_dict() for name in ("model", "optim", "train", "augment")}

    def config(recipe, **changes):
        made = recipe.default_config()
        made.data.update(labels_per_class=5, validation=50)
        if "teacher" in made and "train" in made.teacher:
            made.teacher.update(small)
            made.student.update(small)
        else:
            made.update(small)
        made.update_from_flattened_dict(changes)
        return made

    for mode in HARNESSES:
        at = pathlib.Path(folder) / mode
        if "supervised" in RUNS:
            supervised.run(config(supervised, parallel=mode), at / "supervised")
            taught = {"teacher.run": str(at / "supervised"), "cache.teacher": True, "cache.views": 2}
            distill.run(config(distill, parallel=mode, **taught), at / "distill")
            semi_supervised.run(config(semi_supervised, parallel=mode), at / "semi_supervised")
        consistent = {"rounds": 2, "loss.consistency": 0.5}
        self_train.run(config(self_train, parallel=mode, **consistent), at / "self_train")


# All of it takes minutes: TLX_TEST_HARNESSES=jit,pmap,shard_map,fsdp python -m pytest -n 0 tests/test_hosts.py
HARNESSES = os.environ.get("TLX_TEST_HARNESSES", "jit").split(",")
# Self-training has most that can go wrong: three phases, pseudo-labels, a ledger.
RUNS = ("self_train", *(("supervised", "distill", "semi_supervised") if len(HARNESSES) > 1 else ()))


def start(*arguments):
    """Two processes of the same command, each with its number in the place of `{}`."""
    env = os.environ | {"XLA_FLAGS": ""}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = lambda i: [sys.executable, *(str(a).replace("{}", str(i)) for a in arguments)]
    return [subprocess.Popen(command(i), env=env, text=True, cwd=ROOT, **pipes) for i in range(2)]


def ends(children):
    """(exit code, standard output, standard error) of each, when they have ended."""
    try:
        said = [child.communicate(timeout=500) for child in children]
    finally:
        for child in children:
            child.kill()
    return [(child.returncode, *texts) for child, texts in zip(children, said)]


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return str(probe.getsockname()[1])


@pytest.fixture(scope="module")
def two_hosts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hosts")
    cache = jax.config.jax_compilation_cache_dir
    (folder / "child.py").write_text(CHILD.format(root=str(ROOT), cache=cache))
    for code, _, err in ends(start(folder / "child.py", free_port(), "{}", folder / "host")):
        assert code == 0, err[-2000:]
    return folder


@pytest.fixture(scope="module")
def read(two_hosts):
    return [dict(np.load(two_hosts / f"host{i}.npz")) for i in range(2)]


@pytest.mark.parametrize("mode", parallel.MODES)
def test_hosts_read_disjoint_parts_of_the_same_batches(read, mode):
    from tlx.data import reader

    stream = reader.Stream(np.arange(50), BATCH, (0,))
    whole = np.stack([stream.at(step) for step in range(STEPS)])
    first, second = (host[f"{mode} read"] for host in read)
    np.testing.assert_array_equal(first, whole[:, : BATCH // 2])
    np.testing.assert_array_equal(second, whole[:, BATCH // 2 :])


def test_two_hosts_learn_what_one_does(read, tmp_path):
    train(tmp_path / "alone.npz")  # four devices, one process
    alone = dict(np.load(tmp_path / "alone.npz"))
    for host in read:
        for name in set(alone) - {f"{mode} read" for mode in parallel.MODES}:
            np.testing.assert_allclose(host[name], alone[name], rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    run_recipes(folder)  # four devices, one process
    return folder


@pytest.mark.parametrize("mode", HARNESSES)
@pytest.mark.parametrize("name", RUNS)
def test_every_recipe_on_two_hosts_ends_where_one_does(two_hosts, alone, name, mode):
    from tlx.pretrained import load_run

    folders = [folder / mode / name for folder in (alone, two_hosts / "hosts")]
    ours, theirs = map(load_run, folders)
    assert theirs.result["devices"] == "4 x cpu on 2 hosts"
    for path, leaf in jax.tree_util.tree_leaves_with_path(ours.variables):
        other = theirs.variables
        for key in path:
            other = other[key.key]
        np.testing.assert_allclose(other, leaf, rtol=1e-5, atol=1e-6, err_msg=f"{name} {path}")
    lines = [(folder / "metrics.jsonl").read_text().splitlines() for folder in folders]
    assert len(lines[0]) == len(lines[1])  # one host writes, or there were twice as many


CONFIG = """
from tlx.recipes import supervised

def get_config(arg=None):
    c = supervised.default_config()
    c.model = {"name": "mlp", "widths": (16,)}
    c.optim.groups.all = {"optimizer": "sgd", "learning_rate": 0.05}
    c.train.update(steps=300, batch_size=8, eval_every=10)
    return c
"""


def test_a_stop_of_one_host_stops_both_and_one_process_goes_on(tmp_path):
    from tlx import sweep
    from tlx.recipes import supervised

    (tmp_path / "config.py").write_text(CONFIG)
    address = [f"--coordinator=localhost:{free_port()}", "--num_processes=2", "--process_id={}"]
    children = start("-m", "tlx.main", f"--config={tmp_path}/config.py", f"--workdir={tmp_path}/run", *address)
    saved = tmp_path / "run" / "checkpoints" / "train"
    deadline = time.time() + 120
    while not list(saved.glob("[0-9]*")) and time.time() < deadline:
        time.sleep(0.02)
    children[1].send_signal(signal.SIGTERM)
    said = ends(children)
    assert [code for code, *_ in said] == [143, 143], said
    assert "stopped by SIGTERM; all is saved" in said[0][1]
    assert 10 <= max(int(path.name) for path in saved.glob("[0-9]*")) < 300
    # Then one process with four devices goes on, and ends where one that did all of it does.
    config = sweep.load_config(tmp_path / "config.py", "")
    ours, theirs = (supervised.run(config, tmp_path / name)["figures"] for name in ("alone", "run"))
    for name in ("test_loss", "validation_loss", "test_loss_last"):
        np.testing.assert_allclose(theirs[name], ours[name], rtol=1e-4)


def test_half_an_address_is_refused():
    from tlx import hosts
    from tlx.errors import UserError

    for options in ({"coordinator": "here:1"}, {"num_processes": 2, "process_id": 0}):
        with pytest.raises(UserError, match="give all three"):
            hosts.join(**options)
    with pytest.raises(UserError, match="--process_id=2"):
        hosts.join(coordinator="localhost:1234", num_processes=2, process_id=2)
