"""Two real processes of two devices each: the reader gives every host its own part, and the global batch is whole."""

import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parent.parent
STEPS, BATCH = 3, 16

# Trains three SGD steps in one harness, and writes down what this process read and what came of it.
CHILD = """
import sys
sys.path.insert(0, {root!r}); sys.path.insert(0, {root!r} + "/tests")
import jax
port, process, out = sys.argv[1:]
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize("localhost:" + port, num_processes=2, process_id=int(process))
from test_hosts import train
train(out + process)
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

    from tlx import models, parallel, steps
    from tlx.data import reader, source, view
    from tlx.state import TrainState

    rng = np.random.default_rng(0)
    images, labels = rng.random((50, 4, 4, 1), np.float32), rng.integers(0, 3, 50).astype(np.int32)
    mesh, record = parallel.make_mesh(), {}
    for mode in parallel.MODES:
        seen = Recorder(images)
        model = models.build("mlp", num_classes=3, widths=(8,), axis_name=parallel.axis_name(mode))
        tx = optax.sgd(0.1)
        step = steps.make_supervised_step(
            apply=models.make_apply(model, takes=models.Input((4, 4, 1), (0.5,), (0.3,))),
            view=view.make_view(noise=0.1),
            tx=tx,
            axis_name=parallel.axis_name(mode),
        )
        step = parallel.parallelize(step, mode, mesh, args=("whole", "batch", "whole"))
        variables = model.init(jax.random.key(0), images[:1], train=False)
        state = parallel.replicate(TrainState.create(variables=variables, tx=tx), mesh)
        store = reader.Store(source.Examples(seen, labels), mesh=mesh, mode=mode, weight=np.ones(50, np.float32))
        stream = reader.Stream(np.arange(50), BATCH, (0,))
        for batch in reader.train_batches(store, [stream], start=0, steps=STEPS):
            state, metrics = step(state, batch, jax.random.key(7))
            jax.block_until_ready(metrics)  # as the loop does on virtual devices
        flat = jax.tree_util.tree_leaves_with_path(state.params)
        record |= {f"{mode}{jax.tree_util.keystr(path)}": np.asarray(leaf) for path, leaf in flat}
        record[f"{mode} read"] = np.stack(seen.asked)
    np.savez(out, **record)


@pytest.fixture(scope="module")
def two_hosts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hosts")
    (folder / "child.py").write_text(CHILD.format(root=str(ROOT)))
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    env = os.environ | {"XLA_FLAGS": ""}
    command = [sys.executable, str(folder / "child.py"), str(port)]
    children = [
        subprocess.Popen([*command, str(i), str(folder / "host")], env=env, stderr=subprocess.PIPE, text=True)
        for i in range(2)
    ]
    try:
        for child in children:
            _, err = child.communicate(timeout=120)
            assert child.returncode == 0, err[-2000:]
    finally:
        for child in children:
            child.kill()
    return [dict(np.load(folder / f"host{i}.npz")) for i in range(2)]


@pytest.mark.parametrize("mode", ["jit", "pmap", "shard_map"])
def test_hosts_read_disjoint_parts_of_the_same_batches(two_hosts, mode):
    from tlx.data import reader

    stream = reader.Stream(np.arange(50), BATCH, (0,))
    whole = np.stack([stream.at(step) for step in range(STEPS)])
    first, second = (host[f"{mode} read"] for host in two_hosts)
    np.testing.assert_array_equal(first, whole[:, : BATCH // 2])
    np.testing.assert_array_equal(second, whole[:, BATCH // 2 :])


def test_two_hosts_learn_what_one_does(two_hosts, tmp_path):
    train(tmp_path / "alone.npz")  # four devices, one process
    alone = dict(np.load(tmp_path / "alone.npz"))
    for host in two_hosts:
        for name in set(alone) - {f"{mode} read" for mode in ("jit", "pmap", "shard_map")}:
            np.testing.assert_allclose(host[name], alone[name], rtol=1e-5, atol=1e-6, err_msg=name)
