"""Two real processes of two devices each: they read disjoint parts, learn what one does, and stop and go on together.

Against one process of four devices and of one; what is damaged in one host's part of a checkpoint is so to both.
"""

import contextlib
import functools
import json
import os
import pathlib
import signal
import time

import jax
import numpy as np
import pytest

import tlx.report
from experiments.pods import hosts as machines
from tlx import parallel
from tlx.recipes import self_train

STEPS, BATCH = 3, 16
# All of it takes minutes: TLX_TEST_HARNESSES=jit,pmap,shard_map,fsdp python -m pytest -n 0 tests/test_hosts.py
HARNESSES = os.environ.get("TLX_TEST_HARNESSES", "jit").split(",")
# Self-training has most that can go wrong: three phases, pseudo-labels, a ledger.
RUNS = ("self_train", *(("supervised", "distill", "semi_supervised") if len(HARNESSES) > 1 else ()))
RUNS = tuple(name for name in machines.RECIPES if name in RUNS)
# (harness, what is done to a file of the newest checkpoint, of the part of which host)
DAMAGES = [("fsdp", "cut", 1), ("jit", "flip", 0)]


def as_child(folder, process):
    """All that the two processes do."""
    folder = pathlib.Path(folder)
    train(folder / f"host{process}")
    machines.run_recipes(folder / "hosts", HARNESSES, RUNS)
    tlx.report.write = machines.not_drawn
    self_train.run(machines.small(self_train, parallel="jit"), folder / "up")
    said = {" ".join(map(str, damage)): restore_damaged(folder, process, *damage) for damage in DAMAGES}
    said["own"] = open_own(folder / f"own{process}")
    (folder / f"said{process}.json").write_text(json.dumps(said))


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


def train(out, devices=None):
    """Three SGD steps in each harness, and what was read, in each child and, with its `devices`, in the test itself."""
    import optax

    from tlx import hosts, models, steps
    from tlx.data import reader, source, view
    from tlx.state import TrainState

    rng = np.random.default_rng(0)
    images, labels = rng.random((50, 4, 4, 1), np.float32), rng.integers(0, 3, 50).astype(np.int32)
    record = {}
    for mode in parallel.MODES:
        mesh = parallel.make_mesh(mode, devices)
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


def restore_damaged(folder, process, mode, how, victim):
    """[step, what was said, whether it is what was saved] of two checkpoints, the newer damaged."""
    import optax

    from tlx import hosts
    from tlx.checkpoint import ACCURACY, LOSS, Checkpoints
    from tlx.state import TrainState

    folder, rng = folder / f"{mode} {how}", np.random.default_rng(0)
    variables = {"params": {"kernel": rng.normal(size=(64, 64)).astype(np.float32)}}
    state = TrainState.create(variables=variables, tx=optax.sgd(0.1))
    layout = parallel.make_layout(state, parallel.make_mesh(mode))
    state = parallel.place(state, layout)
    with contextlib.closing(Checkpoints(folder)) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state, {}, {ACCURACY: 0.5, LOSS: 1.0})
            checkpoints.wait()
    hosts.wait("saved")
    if process == 0:
        files = (folder / "2" / "state" / f"ocdbt.process_{victim}" / "d").iterdir()
        path = max(files, key=lambda path: path.stat().st_size)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content[: len(content) // 2] if how == "cut" else content)
    hosts.wait("damaged")
    with contextlib.closing(Checkpoints(folder)) as checkpoints:
        step, restored, _, lines = checkpoints.restore_latest(state)
    same = np.array_equal(hosts.fetch(restored.params["kernel"]), variables["params"]["kernel"])
    return [step, lines, same]


def open_own(folder):
    """What is said of a workdir that only this host has."""
    from tlx import workdir
    from tlx.errors import UserError

    workdir.SEEN_WITHIN = 0.5
    try:
        with workdir.open_workdir(folder, {}):
            return "opened"
    except UserError as e:
        return str(e)


def on(monkeypatch, devices):
    """Recipes run on so many of this process's four devices."""
    monkeypatch.setattr(parallel, "make_mesh", functools.partial(parallel.make_mesh, devices=jax.devices()[:devices]))
    monkeypatch.setattr(tlx.report, "write", machines.not_drawn)


def assert_same_parameters(run, other):
    ours, theirs = machines.parameters(run), machines.parameters(other)
    assert ours.keys() == theirs.keys()
    for path, leaf in ours.items():
        np.testing.assert_allclose(theirs[path], leaf, rtol=1e-5, atol=1e-6, err_msg=path)


@pytest.fixture(scope="module")
def two_hosts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hosts")
    machines.stop(folder / "up", "jit")  # one process of four devices; the two go on with it
    lines = f"sys.path.insert(0, {str(pathlib.Path(__file__).parent)!r})\nimport test_hosts\n"
    lines += f"test_hosts.as_child({str(folder)!r}, {{process}})"
    for i, (code, said, err) in enumerate(machines.ends(machines.start_children(lines, processes=2, devices=2))):
        assert code == 0, err[-2000:]
        (folder / f"said{i}.txt").write_text(said)
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


@pytest.mark.parametrize("devices", [4, 1])
def test_two_hosts_learn_what_one_does(read, tmp_path, devices):
    train(tmp_path / "alone.npz", jax.devices()[:devices])
    alone = dict(np.load(tmp_path / "alone.npz"))
    for host in read:
        for name in set(alone) - {f"{mode} read" for mode in parallel.MODES}:
            np.testing.assert_allclose(host[name], alone[name], rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The folder of what one process made on one device."""
    folder = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as monkeypatch:
        on(monkeypatch, 1)
        machines.run_recipes(folder, HARNESSES, RUNS)
    return folder


@pytest.mark.parametrize("mode", HARNESSES)
@pytest.mark.parametrize("name", RUNS)
def test_every_recipe_on_two_hosts_ends_where_one_device_does(two_hosts, alone, name, mode):
    folders = [folder / mode / name for folder in (alone, two_hosts / "hosts")]
    results = [json.loads((folder / "result.json").read_text()) for folder in folders]
    assert [result["devices"] for result in results] == ["1 x cpu", "4 x cpu on 2 hosts"]
    assert_same_parameters(*folders)
    lines = [(folder / "metrics.jsonl").read_text().splitlines() for folder in folders]
    assert len(lines[0]) == len(lines[1])  # one host writes, or there were twice as many


def test_two_hosts_go_on_where_one_was_stopped_in_mid_round(two_hosts, alone):
    assert "round_1: resumed at step" in (two_hosts / "said0.txt").read_text()
    assert json.loads((two_hosts / "up" / "result.json").read_text())["devices"] == "4 x cpu on 2 hosts"
    assert_same_parameters(alone / HARNESSES[0] / "self_train", two_hosts / "up")


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: " ".join(map(str, damage)))
def test_a_file_damaged_in_one_hosts_part_is_skipped_by_all(two_hosts, damage):
    """A file cut off hung both: the one that reads it fails, and the other waited for it."""
    first, second = (json.loads((two_hosts / f"said{i}.json").read_text())[" ".join(map(str, damage))] for i in (0, 1))
    step, lines, same = first
    assert first == second and step == 1 and same
    assert len(lines) == 1 and "2 is damaged (host " in lines[0]


def test_a_workdir_of_each_hosts_own_is_refused_by_all(two_hosts):
    for i in range(2):
        said = json.loads((two_hosts / f"said{i}.json").read_text())["own"]
        assert f"workdir {two_hosts}/own1 is another folder on host 1 than on host 0" in said


CONFIG = """
from tlx.recipes import supervised

def get_config(arg=None):
    c = supervised.default_config()
    c.model = {"name": "mlp", "widths": (16,)}
    c.optim.groups.all = {"optimizer": "sgd", "learning_rate": 0.05}
    c.train.update(steps=300, batch_size=8, eval_every=10)
    return c
"""


def test_a_stop_of_one_host_stops_both_and_one_process_goes_on(tmp_path, monkeypatch):
    from tlx import sweep
    from tlx.recipes import supervised

    (tmp_path / "config.py").write_text(CONFIG)
    address = [f"--coordinator=localhost:{machines.free_port()}", "--num_processes=2", "--process_id={}"]
    children = machines.start("-m", "tlx.main", f"--config={tmp_path}/config.py", f"--workdir={tmp_path}/run", *address)
    saved = tmp_path / "run" / "checkpoints" / "train"
    deadline = time.time() + 400  # on idle cores it takes seconds
    while not list(saved.glob("[0-9]*")) and time.time() < deadline:
        time.sleep(0.02)
    children[1].send_signal(signal.SIGTERM)
    said = machines.ends(children)
    assert [code for code, *_ in said] == [143, 143], said
    assert "stopped by SIGTERM; all is saved" in said[0][1]
    assert 10 <= max(int(path.name) for path in saved.glob("[0-9]*")) < 300
    # Then one process with four devices goes on, and ends where one that did all of it does.
    config = sweep.load_config(tmp_path / "config.py", "")
    monkeypatch.setattr(tlx.report, "write", machines.not_drawn)
    for name in ("alone", "run"):
        supervised.run(config, tmp_path / name)
    assert_same_parameters(tmp_path / "alone", tmp_path / "run")


def test_half_an_address_is_refused():
    from tlx import hosts
    from tlx.errors import UserError

    for options in ({"coordinator": "here:1"}, {"num_processes": 2, "process_id": 0}):
        with pytest.raises(UserError, match="give all three"):
            hosts.join(**options)
    with pytest.raises(UserError, match="--process_id=2"):
        hosts.join(coordinator="localhost:1234", num_processes=2, process_id=2)
