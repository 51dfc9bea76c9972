"""Re-entry: what is kept and what is forgotten, kills between the steps of it, and whole runs begun anew in small."""

import json
import pathlib
import shutil
import subprocess
import sys

import pytest
from test_recipes import curves, figures, interrupt_at, small_self_train

from tlx import config as config_lib
from tlx import ledger, reentry
from tlx import workdir as workdir_lib
from tlx.errors import UserError
from tlx.metrics import MetricWriter
from tlx.preemption import Preempted
from tlx.recipes import self_train
from tlx.recipes.run import open_run

CONFIG = {
    "recipe": "self_train",
    "seed": 0,
    "rounds": 3,
    "data": {"classes": (0, 1)},
    "teacher": {"model": {"name": "mlp"}},
    "student": {"model": {"name": "mlp", "widths": (8,)}, "scale": (1.0,)},
}
OTHER = CONFIG | {"student": {"model": {"name": "cnn"}, "scale": (1.0, 2.0)}}


@pytest.fixture
def folder(tmp_path):
    """What a finished run of three rounds leaves, in small."""
    workdir_lib.write_json(tmp_path / "config.json", CONFIG)
    for generation, phase in enumerate(("teacher", "round_1", "round_2", "round_3")):
        made = [f"phases/{phase}.json", f"checkpoints/{phase}/6/state", f"tensorboard/{phase}/events.1"]
        made += [f"pseudo_labels/{phase}.npz", f"pseudo_labels/{phase}.json"] if generation else []
        for name in made:
            workdir_lib.write_bytes(tmp_path / name, phase.encode())
        ledger.add(tmp_path / "ledger.json", {"generation": generation, "phase": phase})
        with (tmp_path / "metrics.jsonl").open("a") as f:
            f.writelines(json.dumps({"phase": phase, "step": step}) + "\n" for step in (2, 4, 6))
    for name in ("result.json", "report.html", "gallery.npz", "plots/rounds.png", "export/x", "task.json", "notes.txt"):
        workdir_lib.write_bytes(tmp_path / name, b"{}")
    return tmp_path


@pytest.mark.parametrize("mark", [None, [], {}, {"kept": 3}, {"kept": [{"before": "2", "config": {}}]}])
def test_a_mark_that_is_none(folder, mark):
    workdir_lib.write_json(folder / "reentry.json", mark)
    with pytest.raises(
        UserError, match="reentry.json does not say which rounds were kept, .*: restore it, or run again"
    ):
        reentry.check(folder, OTHER, 2)


def test_lines_that_are_none_are_left_out(folder):
    """When the curves are rewound, as when the report reads them."""
    path = folder / "metrics.jsonl"
    before = path.read_text()
    path.write_text(before + '[]\n{"phase": "round_3"}\n{"phase": "x", "step": []}\n' + "[" * 100_000 + '\n{"phase')
    MetricWriter(folder).rewind("x", 0)
    assert path.read_text() == before


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def mark(folder):
    return workdir_lib.read_json(folder / "reentry.json")


def with_rounds(config, rounds):
    return config | {"rounds": rounds}


def test_what_is_kept_and_what_is_forgotten(folder):
    before = contents(folder)
    reentry.enter(folder, OTHER, 2)
    after = contents(folder)
    gone = {name for name in before if name not in after}
    assert gone == {
        *("result.json", "report.html", "gallery.npz", "plots/rounds.png", "export/x"),
        *(
            name.format(round_n)
            for round_n in ("round_2", "round_3")
            for name in (
                *("phases/{}.json", "pseudo_labels/{}.npz", "pseudo_labels/{}.json"),
                *("checkpoints/{}/6/state", "tensorboard/{}/events.1"),
            )
        ),
    }
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {"config.json", "ledger.json", "metrics.jsonl", "reentry.json"}
    assert [entry["phase"] for entry in ledger.read(folder / "ledger.json")] == ["teacher", "round_1"]
    assert [line["phase"] for line in curves(folder)] == ["teacher"] * 3 + ["round_1"] * 3
    assert workdir_lib.read_json(folder / "config.json") == workdir_lib.as_read(OTHER)


def test_the_mark_says_what_changed(folder):
    reentry.enter(folder, OTHER, 2)
    assert mark(folder)["from_round"] == 2 and len(mark(folder)["config"]) == 64
    assert mark(folder)["changes"] == {
        "student.model.name": ["mlp", "cnn"],
        "student.model.widths": [[8], "(absent)"],
        "student.scale": [[1.0], [1.0, 2.0]],
    }


def test_the_same_command_forgets_once(folder):
    reentry.enter(folder, OTHER, 2)
    workdir_lib.write_bytes(folder / "phases" / "round_2.json", b"made since")
    before = contents(folder)
    reentry.enter(folder, OTHER, 2)
    assert contents(folder) == before
    reentry.enter(folder, with_rounds(OTHER, 2), 2)  # another config: anew
    assert not (folder / "phases" / "round_2.json").exists()


def kill_at(monkeypatch, number):
    """Raises in place of the `number`-th write or removal; returns the list of those that were let pass."""
    passed = []

    def counting(function):
        def call(*args, **kwargs):
            if len(passed) == number:
                raise KeyboardInterrupt
            passed.append(args)
            return function(*args, **kwargs)

        return call

    for module, name in (
        (reentry, "remove"),
        (reentry, "write_json"),
        (ledger, "write_json"),
        (MetricWriter, "rewind"),
    ):
        monkeypatch.setattr(module, name, counting(getattr(module, name)))
    return passed


@pytest.mark.parametrize("config", [CONFIG, OTHER], ids=["same config", "another config"])
def test_a_kill_at_any_point(folder, tmp_path_factory, monkeypatch, config):
    """The same command ends what was begun; and in between the folder is never a mixture of two runs."""
    whole = shutil.copytree(folder, tmp_path_factory.mktemp("whole") / "run")
    with monkeypatch.context() as patch:
        steps = kill_at(patch, -1)
        reentry.enter(whole, config, 2)
    assert len(steps) > 15
    for number in range(len(steps)):
        killed = shutil.copytree(folder, tmp_path_factory.mktemp("killed") / "run")
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            kill_at(patch, number)
            reentry.enter(killed, config, 2)
        assert workdir_lib.read_json(killed / "config.json") == workdir_lib.as_read(CONFIG)
        phases = [p.stem for p in (killed / "phases").iterdir()]
        assert all((killed / "checkpoints" / phase / "6" / "state").exists() for phase in phases)
        if (killed / "result.json").exists():
            assert contents(killed) == contents(folder)
        reentry.enter(killed, config, 2)
        assert contents(killed) == contents(whole)


def test_a_kill_within_the_removal_of_a_folder(tmp_path, monkeypatch):
    (tmp_path / "round_2" / "6").mkdir(parents=True)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "rmtree", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
        workdir_lib.remove(tmp_path / "round_2")
    assert not (tmp_path / "round_2").exists()
    (tmp_path / "round_2").mkdir()
    workdir_lib.remove(tmp_path / "round_2")
    assert list(tmp_path.iterdir()) == []


def test_rounds_keep_the_config_that_made_them(folder):
    """Three re-entries: each round is of the config of the last one at or before it."""
    names = lambda: [reentry.config_of(mark(folder)["kept"], n) for n in (1, 2, 3)]
    rounds = lambda: [config and config["rounds"] for config in names()]

    def finish(*numbers):
        for number in numbers:
            workdir_lib.write_bytes(folder / "phases" / f"round_{number}.json", b"{}")

    reentry.enter(folder, with_rounds(CONFIG, 4), 2)
    assert rounds() == [3, None, None]
    finish(2, 3)
    assert reentry.kept(folder, with_rounds(CONFIG, 5), 3)[1]["config"]["rounds"] == 4  # before it is done, as after
    reentry.enter(folder, with_rounds(CONFIG, 5), 3)
    assert rounds() == [3, 4, None] and mark(folder)["changes"] == {"rounds": [4, 5]}
    finish(3)
    reentry.enter(folder, with_rounds(CONFIG, 6), 2)
    assert rounds() == [3, None, None] and mark(folder)["changes"] == {"rounds": [3, 6]}  # round 1 is of 3 rounds


def damage_ledger(folder):
    entries = json.loads((folder / "ledger.json").read_text())
    entries[1]["phase"] = "round_one"
    (folder / "ledger.json").write_text(json.dumps(entries))


@pytest.mark.parametrize(
    ("from_round", "changes", "prepare", "message"),
    [
        (-1, {}, None, r"--from_round=-1: rounds count from 1"),
        (5, {"rounds": 9}, None, "has finished rounds 1 to 3, so 4 is the last that it can be begun anew from"),
        (4, {}, None, "this config has rounds = 3; raise it"),
        (3, {}, "phases/round_2.json", "has finished round 1 alone, so 2 is the last"),
        (2, {}, "phases/round_1.json", "has finished no round, so 1 is the last"),
        (1, {}, "phases/teacher.json", "the first teacher of the run in .* is not finished"),
        (2, {}, "config.json", r"holds no run; copy one there first \(cp -r\)"),
        (2, {"seed": 1}, None, "made with seed = 0, this config has 1: set it back"),
        (2, {"recipe": "distill"}, None, "made with recipe = 'self_train'"),
        (2, {"data": {"classes": (0, 2)}}, None, r"made with data.classes = \[0, 1\], this config has \[0, 2\]"),
        (2, {"teacher": {"model": {"name": "cnn"}}}, None, "made with teacher.model.name = 'mlp'"),
        (2, {}, damage_ledger, r"entry 1 .*--from_round=1"),
    ],
)
def test_mistakes_touch_nothing(folder, from_round, changes, prepare, message):
    if isinstance(prepare, str):
        (folder / prepare).unlink()
    elif prepare:
        prepare(folder)
    before = contents(folder)
    for call in (reentry.check, reentry.enter):
        with pytest.raises(UserError, match=message):
            call(folder, CONFIG | changes, from_round)
    assert contents(folder) == before


def test_a_damaged_entry_is_forgotten_with_its_round(folder):
    damage_ledger(folder)
    reentry.enter(folder, CONFIG, 1)
    assert [entry["phase"] for entry in ledger.read(folder / "ledger.json")] == ["teacher"]


def test_flags_that_do_not_go_together(tmp_path):
    with pytest.raises(UserError, match="--overwrite deletes the run whose rounds --from_round keeps"):
        with open_run(small_self_train(), tmp_path / "run", overwrite=True, from_round=2):
            pass
    with pytest.raises(UserError, match="holds no run"):
        with open_run(small_self_train(), tmp_path / "run", from_round=2):
            pass
    assert not (tmp_path / "run").exists()
    command = [sys.executable, "-m", "tlx.main", "--config=configs/digits_scratch.py", "--workdir=x", "--from_round=2"]
    done = subprocess.run(
        command, cwd=pathlib.Path(__file__).parent.parent, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (
        2,
        "error: --from_round=2: the recipe supervised has no rounds; leave it out\n",
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of two rounds, its config and its result."""
    folder, config = tmp_path_factory.mktemp("finished") / "run", small_self_train()
    return folder, config, self_train.run(config, folder)


def test_a_run_begun_anew_with_its_own_config_ends_the_same(finished, tmp_path):
    folder, config, result = finished
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert figures(self_train.run(config, copy, from_round=2)) == figures(result)
    assert curves(copy) == curves(folder)
    assert mark(copy)["changes"] == {}
    assert (copy / "ledger.json").read_bytes() == (folder / "ledger.json").read_bytes()
    # Without orbax's and TensorBoard's files, whose names are drawn.
    made = lambda path: {str(p.relative_to(path)) for p in path.rglob("*") if p.suffix in (".json", ".npz", ".png")}
    assert made(copy) == made(folder) | {"reentry.json"}


def test_a_run_with_a_round_more(finished, tmp_path):
    """One round, and then a second one, are two."""
    folder, config, result = finished
    self_train.run(small_self_train(rounds=1), tmp_path)
    assert figures(self_train.run(config, tmp_path, from_round=2)) == figures(result)
    assert curves(tmp_path) == curves(folder)
    assert mark(tmp_path)["changes"] == {"rounds": [1, 2]}


def test_a_run_begun_anew_with_another_config(finished, tmp_path, monkeypatch, capsys):
    folder, _, result = finished
    config = small_self_train(**{"loss.consistency": 0.0, "student.train.steps": 8})
    whole, parts = (shutil.copytree(folder, tmp_path / name) for name in ("whole", "parts"))
    with pytest.raises(UserError, match="config.loss.consistency = 0.5, this config has 0.0"):
        self_train.run(config, whole)
    changed = self_train.run(config, whole, from_round=2)
    assert [row["digest"] for row in changed["rounds"][:2]] == [row["digest"] for row in result["rounds"][:2]]
    assert changed["rounds"][2]["digest"] != result["rounds"][2]["digest"]
    assert mark(whole)["changes"] == {"loss.consistency": [0.5, 0.0], "student.train.steps": [6, 8]}

    interrupt_at(monkeypatch, "round_2", 4)
    with pytest.raises(Preempted):
        self_train.run(config, parts, from_round=2)
    capsys.readouterr()
    assert figures(self_train.run(config, parts, from_round=2)) == figures(changed)  # the same command goes on,
    assert "round_2: resumed at step 4 of 8" in capsys.readouterr().out
    assert curves(parts) == curves(whole)
    assert self_train.run(config, parts) == workdir_lib.read_json(parts / "result.json")  # as does one without the flag
    assert self_train.run(config, parts, from_round=2) == workdir_lib.read_json(parts / "result.json")


def test_a_round_has_the_config_that_made_it(finished, tmp_path):
    folder, config, _ = finished
    copy = shutil.copytree(folder, tmp_path / "copy")
    config.student.model = {"name": "mlp", "widths": (32,)}
    widths = lambda run: [tuple(run.config_of(number).student.model.widths) for number in (1, 2)]
    with open_run(config_lib.resolve(config, self_train.default_config()), copy, from_round=2) as run:
        assert widths(run) == [(16,), (32,)]
        run.start()
    with open_run(config_lib.resolve(config, self_train.default_config()), copy) as run:
        assert widths(run) == [(16,), (32,)]
    with open_run(config_lib.resolve(config, self_train.default_config()), copy, overwrite=True) as run:
        assert widths(run) == [(32,), (32,)]
